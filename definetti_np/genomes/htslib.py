"""BCF, and indexed regions of VCF and BCF, read with cyvcf2, the extra `vcf`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GenomeFileError
from ..progress import ShareProgress
from .haplotypes import MISSING
from .index import check_blocks
from .intervals import list_names
from .records import ABSENT, Block, RecordSieve, Region, check_contig

SITES_AT_ONCE = 1024


def open_with_cyvcf2(path: Path) -> Any:
    """Open a VCF or BCF with cyvcf2.

    Raises
    ------
    ImportError
        If cyvcf2 is not installed; the message says how to.
    GenomeFileError
        If the file is none.
    """
    try:
        import cyvcf2
    except ImportError:
        raise ImportError(f'{path} is read with cyvcf2; install it: pip install "definetti_np[vcf]"') from None
    try:
        vcf = cyvcf2.VCF(str(path))
        _ = vcf.samples, vcf.seqnames  # which are decoded now
        return vcf
    except Exception as error:
        raise GenomeFileError(f"{path}: cyvcf2 cannot read it: {error}") from None


def contigs_of(reader: Any) -> dict[str, float | None]:
    """The contigs of the header, with their lengths or None."""
    names, lengths = list(reader.seqnames), [None] * len(reader.seqnames)
    with contextlib.suppress(AttributeError):  # the header has no lengths
        lengths = list(reader.seqlens)
    return {name: float(length) if length and length > 0 else None for name, length in zip(names, lengths, strict=True)}


def blocks(
    reader: Any, path: Path, region: Region | None, sieve: RecordSieve, progress: ShareProgress
) -> Iterator[tuple[str, Block]]:
    """Yield (contig, block of the sites to keep), as `VcfStream.blocks` does; a region is looked up in the index."""
    lengths = contigs_of(reader)
    contigs = list(lengths)
    if region is not None and contigs:
        check_contig(region, contigs, path)
    if region is not None:
        check_blocks(path, region, contigs)
    contig = None if region is None else region.contig
    start, stop = (0, None) if region is None else (region.start, region.stop)
    records = iter(reader if region is None else reader(str(region)))
    kept: list[tuple[int, int, np.ndarray]] = []
    has_records = False
    last = ""
    while True:
        try:
            record = next(records)
        except StopIteration:
            break
        except Exception as error:
            raise GenomeFileError(f"{path}{last}: damaged or cut short: {error}") from None
        if not record.CHROM:
            raise GenomeFileError(f"{path}{last}: an empty line; remove it")
        if record.end <= record.start:  # without alleles, which cyvcf2 must not be asked for
            raise GenomeFileError(f"{path}{last}: a line that is no record: {record.CHROM[:80]!r}")
        has_records, last = True, f", after {record.CHROM}:{record.POS}"
        position = record.POS - 1
        if contig is None:
            contig = record.CHROM
        elif record.CHROM != contig:
            raise GenomeFileError(
                f"{path}, {record.CHROM}:{record.POS}: contig {record.CHROM!r} after {contig!r}; a scan is of one "
                f"contig, so say which with region=, of {list_names(contigs)}"
            )
        where = _Place(path, record.CHROM, record.POS)
        sieve.order(position, where)
        if region is not None and position < start:
            continue  # a deletion that begins before the region
        filters = b"PASS" if record.FILTER is None else record.FILTER.encode()
        ancestral = None if sieve.info_field is None else record.INFO.get(sieve.info_field)
        exchange = sieve.keeps(
            position,
            record.REF.encode(),
            ",".join(record.ALT).encode(),
            filters,
            None if ancestral is None else str(ancestral).encode(),
            where,
        )
        if exchange < 0:
            continue
        if "GT" not in record.FORMAT:
            raise GenomeFileError(f"{where()}: it has no genotypes, because FORMAT is {':'.join(record.FORMAT)!r}")
        kept.append((position, exchange, record.genotype.array()))
        if len(kept) == SITES_AT_ONCE:
            end = stop or lengths.get(contig)
            share = 0.0 if end is None else (position - start) / max(1, end - start)
            progress.reach(share, f"position {position + 1:,}")
            yield contig, _block(kept, path, contig)
            kept = []
    if kept and contig is not None:
        yield contig, _block(kept, path, contig)
    if not has_records and region is None:
        raise GenomeFileError(f"{path}: it has a header and no record")


class _Place:
    """Says where a record is, if it is asked."""

    def __init__(self, path: Path, contig: str, pos: int):
        self._text = f"{path}, {contig}:{pos}"

    def __call__(self) -> str:
        return self._text


def _block(kept: list[tuple[int, int, np.ndarray]], path: Path, contig: str) -> Block:
    positions, exchange, genotypes = zip(*kept, strict=True)
    alleles = np.full((len(kept), len(genotypes[0]), 2), ABSENT, np.int8)
    is_phased = np.empty(alleles.shape[:2], bool)
    for i, array in enumerate(genotypes):  # (N, 3) with the phase last, or (N, 2) where all are haploid
        where = f"{path}, {contig}:{positions[i] + 1}"
        if array.shape[1] > 3:
            raise GenomeFileError(f"{where}: a genotype of {array.shape[1] - 1} alleles; samples must have 1 or 2")
        alleles[i, :, : array.shape[1] - 1] = array[:, :-1]
        is_phased[i] = array[:, -1] == 1
    if alleles.max() > 1:
        position = positions[int((alleles > 1).any(axis=(1, 2)).argmax())]
        raise GenomeFileError(f"{path}, {contig}:{position + 1}: an allele above 1 at a record of two alleles")
    alleles[alleles[..., 0] == ABSENT] = MISSING, ABSENT
    return Block(
        np.array(positions, np.int64),
        np.array(exchange, bool),
        alleles,
        is_phased,
        lambda site: f"{path}, {contig}:{positions[site] + 1}",
    )
