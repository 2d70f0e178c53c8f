"""Read haplotypes from files: tree sequences, VCF and BCF."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import as_integer
from ..errors import GenomeFileError
from ..progress import progress_of_share
from .bgzip import check_end_of_bgzip, check_file
from .haplotypes import Haplotypes, as_accessible
from .htslib import blocks, contigs_of, open_with_cyvcf2
from .index import index_of
from .intervals import FARTHEST
from .records import ON_UNPHASED, Block, GenotypeCollector, RecordSieve, Region
from .vcf import VcfStream

logger = logging.getLogger("definetti_np")

READERS = ("stream", "cyvcf2")


def read_haplotypes(
    path: str | os.PathLike,
    *,
    region: str | tuple[str, int, int | None] | None = None,
    samples: Sequence[str] | None = None,
    accessible: Any = None,
    inaccessible: Any = None,
    ancestral: str | None = None,
    on_unphased: str = "error",
    phase_seed: int | None = None,
    only_pass: bool = True,
    reader: str | None = None,
    progress: bool = True,
) -> Haplotypes:
    """Read the haplotypes of one contig, or of a stretch of it, from a file.

    A VCF, plain, gzip or bgzip, is read as a stream, without an index or another package. SNPs with two alleles are
    kept; multi-allelic records, indels and others are left out and counted. A missing allele is -1. What was read and
    what was left out is the attribute `report` of the result, and a line of the log "definetti_np".

    Parameters
    ----------
    path
        A VCF or BCF, or a tree sequence (``.trees``, or ``.tsz`` if tszip is installed).
    region
        "chr20"; "chr20:1001-2000", with positions from 1, both ends inside, as samtools and bcftools write it; or
        ("chr20", 1000, 2000), 0-based and half open. None for the only contig of the file. Without an index all of the
        file is read, because its end tells that no site comes later. A tree sequence gets its contig's name from here.
    samples
        Names of the samples to keep, in the order wanted; None for all.
    accessible
        The places where sites are known: a BED file, or pairs (start, end), 0-based and half open. Sites elsewhere are
        left out.
    inaccessible
        The same, of the places where sites are not known. Only one of the two may be given.
    ancestral
        None: allele 1 is the alternative one, and the haplotypes are not polarised. "REF": the reference allele is the
        ancestral one. Else the name of an INFO field that holds the ancestral allele, such as "AA"; sites where it is
        neither of the two alleles are left out.
    on_unphased
        What to do where a heterozygous genotype is not phased (``0/1``): "error"; "genotypes" to keep it so, for an
        encoder with ``alleles="genotypes"``; "random" for a random phase.
    phase_seed
        The seed of the random phase.
    only_pass
        Whether records whose FILTER is neither PASS nor a dot are left out.
    reader
        "stream" or "cyvcf2" (the extra `vcf`). None: cyvcf2 for BCF, and for a region of a file with an index that is
        not older than it.
    progress
        Whether to show how far it is: a bar on a terminal or in a notebook, else a line of the log every ten seconds.

    Returns
    -------
    Haplotypes
        With positions from 0: the record at POS 1 has position 0.

    Raises
    ------
    GenomeFileError
        If the file is not what it should be, or does not hold what is asked for; the message names file and line.
    ValueError, TypeError
        If an argument is wrong.
    ImportError
        If the package that a file needs is not installed; the message says how to install it.
    """
    path = Path(path).expanduser()
    checked = None if region is None else Region.checked(region)
    if on_unphased not in ON_UNPHASED:
        choices = ", ".join(map(repr, ON_UNPHASED))
        raise ValueError(f"on_unphased: unknown choice {on_unphased!r}; choose from {choices}")
    if reader is not None and reader not in READERS:
        raise ValueError(f"reader: unknown choice {reader!r}; choose from {', '.join(map(repr, READERS))}, or None")
    if on_unphased == "random":
        if phase_seed is None:
            raise ValueError('on_unphased="random" needs a phase_seed, so that the phase can be drawn again')
        phase_seed = as_integer(phase_seed, "phase_seed", minimum=0)
    if accessible is not None and inaccessible is not None:
        raise ValueError("accessible and inaccessible: give only one of them")
    kind = _kind(path)
    if kind in ("trees", "tsz"):
        return _log(_from_trees(path, kind, checked, samples, accessible, inaccessible))
    check_end_of_bgzip(path)
    job = _Job(path, checked, samples, accessible, inaccessible, on_unphased, phase_seed, ancestral)
    sieve = RecordSieve(ancestral=ancestral, only_pass=only_pass)
    takes_cyvcf2 = _takes_cyvcf2(path, kind, checked, reader)
    with contextlib.closing(progress_of_share(f"reading {path.name}", is_wanted=progress)) as shown:
        if takes_cyvcf2:
            with contextlib.closing(open_with_cyvcf2(path)) as vcf:
                found = blocks(vcf, path, checked, sieve, shown)
                haplotypes = job.collect(list(vcf.samples), contigs_of(vcf), found, sieve)
        else:
            with VcfStream(path) as stream:
                found = stream.blocks(checked, sieve, shown)
                haplotypes = job.collect(stream.samples, stream.contigs, found, sieve)
    return _log(haplotypes)


def _log(haplotypes: Haplotypes) -> Haplotypes:
    logger.info("%s", haplotypes.report)
    return haplotypes


@dataclass(frozen=True)
class _Job:
    """What is wanted of a VCF or BCF: the arguments of `read_haplotypes`, checked."""

    path: Path
    region: Region | None
    samples: Sequence[str] | None
    accessible: Any
    inaccessible: Any
    on_unphased: str
    phase_seed: int | None
    ancestral: str | None

    def collect(
        self,
        names: Sequence[str],
        contigs: Mapping[str, float | None],
        found: Iterator[tuple[str, Block]],
        sieve: RecordSieve,
    ) -> Haplotypes:
        """Put the blocks of a reader together."""
        collector, place = None, self.region
        for contig, block in found:
            if collector is None:
                place = place or Region(contig)
                collector = self._collector(names, contig, contigs.get(contig))
            collector.add(block)
        if collector is None or place is None:
            place = place or Region("any contig")
            collector = self._collector(names, None, None)
        return collector.finish(place, sieve, self.ancestral is not None)

    def _collector(self, names: Sequence[str], contig: str | None, length: float | None) -> GenotypeCollector:
        intervals = None
        if contig is not None:
            intervals = as_accessible(self.accessible, self.inaccessible, contig, 0, FARTHEST)
            self._warn_of_mask_behind_end(intervals, contig, length)
        return GenotypeCollector(names, self.samples, intervals, self.on_unphased, self.phase_seed, self.path, length)

    def _warn_of_mask_behind_end(self, accessible: np.ndarray | None, contig: str, length: float | None) -> None:
        """Warn if a BED file goes on behind the end of the contig, as one of another reference may."""
        mask = self.inaccessible if self.accessible is None else self.accessible
        if accessible is None or length is None or not len(accessible) or not isinstance(mask, (str, os.PathLike)):
            return
        last = accessible[-1, 1]
        if self.accessible is None and last == FARTHEST:  # what is behind the last inaccessible place
            last = accessible[-1, 0]
        if last > length:
            logger.warning(
                "%s: an interval of %s ends at %s, but the contig at %s in the header of %s; one of the two may be of "
                "another reference",
                mask, contig, f"{last:,.0f}", f"{length:,.0f}", self.path,
            )  # fmt: skip


def _kind(path: Path) -> str:
    """What a file is by its first bytes: "trees", "tsz", "bcf" or "vcf"."""
    check_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as unzipped:
                head = unzipped.read(8)
    except EOFError:
        raise GenomeFileError(f"{path}, line 1: damaged or cut short") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise GenomeFileError(f"{path}: damaged: {error}") from None
    except OSError as error:
        raise GenomeFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not head:
        raise GenomeFileError(f"{path}: it is empty")
    kinds = {b"\x89KAS\r\n\x1a\n": "trees", b"PK\x03\x04": "tsz", b"BCF": "bcf"}
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), "vcf")


def _takes_cyvcf2(path: Path, kind: str, region: Region | None, reader: str | None) -> bool:
    index = index_of(path)
    has_index = index is not None
    is_old = index is not None and index.stat().st_mtime < path.stat().st_mtime
    if kind == "bcf" and reader == "stream":
        raise ValueError(f'reader="stream" reads VCF, and {path} is BCF; leave reader out')
    if kind == "bcf" or reader == "cyvcf2":
        if region is not None and not has_index:
            raise GenomeFileError(
                f"{path}: a region needs an index; make it with bcftools index, or with tabix -p vcf for a VCF"
            )
        if region is not None and is_old:
            logger.warning("%s is older than %s; if that has changed, make the index again", index, path)
        return True
    if region is None or reader == "stream":
        return False
    has_cyvcf2 = importlib.util.find_spec("cyvcf2") is not None
    if has_index and has_cyvcf2 and not is_old:
        return True
    what = 'with cyvcf2 (pip install "definetti_np[vcf]")' if has_index else "with an index (tabix -p vcf)"
    if is_old:
        what = f"with an index that is not older than the file, as {index} is,"
    logger.info("reading all of %s as a stream for %s; %s it would be faster", path, region, what)
    return False


def _from_trees(
    path: Path, kind: str, region: Region | None, samples: Sequence[str] | None, accessible: Any, inaccessible: Any
) -> Haplotypes:
    if kind == "tsz":
        try:
            import tszip  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise ImportError(f"{path} is read with tszip; install it: pip install tszip") from None
        decompress = tszip.decompress
    else:
        import tskit

        decompress = tskit.load
    try:
        tree_sequence = decompress(str(path))
    except Exception as error:
        raise GenomeFileError(f"{path}: not a readable tree sequence: {error}") from None
    place = Region("1") if region is None else region
    stop = tree_sequence.sequence_length if place.stop is None else min(place.stop, tree_sequence.sequence_length)
    haplotypes = Haplotypes.from_tree_sequence(tree_sequence, contig=place.contig, start=place.start, stop=stop)
    if samples is not None:
        haplotypes = haplotypes.take_samples(samples)
    if accessible is not None or inaccessible is not None:
        haplotypes = haplotypes.filter(accessible=accessible, inaccessible=inaccessible)
    return haplotypes
