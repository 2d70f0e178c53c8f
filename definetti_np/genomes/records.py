"""What is kept of the records of a VCF or BCF, whichever reader they come from, and what of their genotypes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GenomeFileError
from .haplotypes import MISSING, Haplotypes, columns_of, sample_numbers
from .intervals import contains, list_names

ABSENT = -2  # the second allele of a haploid genotype
ON_UNPHASED = ("error", "random", "genotypes")
BASES = b"ACGTacgt"
WITHOUT_BASES = (b"0", b"1")  # the alleles of simulations of two alleles, as tskit writes them
ANY_ALLELE = (b"<NON_REF>", b"<*>")  # what a gVCF adds to each record, and gives its blocks without a variant
# Reasons to leave a record out
FILTERED = "that did not pass a filter"
WITHOUT_ALTERNATIVE = "without an alternative allele"
MULTI_ALLELIC = "multi-allelic"
NO_SNP = "indels or other records that are no SNP"
UNKNOWN_BASE = "of other bases than A, C, G and T"
OF_GVCF = "of a gVCF (make a VCF of it first, as with GATK GenotypeGVCFs or bcftools convert --gvcf2vcf)"
WITHOUT_ANCESTRAL = "without a known ancestral allele"
INACCESSIBLE = "inaccessible"


@dataclass(frozen=True)
class Region:
    """A contig, and of it the 0-based half-open interval from start to stop; stop is None for its end."""

    contig: str
    start: int = 0
    stop: int | None = None

    @classmethod
    def checked(cls, region: Any) -> Region:
        """Make a region of "chr20", of "chr20:1001-2000" as samtools writes it (1-based, both ends inside), or of a
        tuple (contig, start, stop), 0-based and half open."""
        if isinstance(region, str) and region:
            match = re.fullmatch(r"(.+):([\d,]+)(?:-([\d,]*))?", region)
            if match is None:
                return cls(region)
            first, last = int(match[2].replace(",", "")), match[3]
            stop = first if last is None else int(last.replace(",", "")) if last else None
            if first < 1 or stop is not None and stop < first:
                raise ValueError(f"region: positions of a text count from 1 and must ascend, got {region!r}")
            return cls(match[1], first - 1, stop)
        if isinstance(region, (tuple, list)) and len(region) == 3 and isinstance(region[0], str):
            contig, start, stop = region
            start = 0 if start is None else start
            if all(isinstance(n, (int, np.integer)) for n in (start, 0 if stop is None else stop)):
                if start >= 0 and (stop is None or stop > start):
                    return cls(contig, int(start), None if stop is None else int(stop))
        raise ValueError(
            f'region must be a contig, "contig:first-last" counted from 1, or a tuple (contig, start, stop) with '
            f"0 <= start < stop, got {region!r}"
        )

    def __str__(self) -> str:
        stop = "" if self.stop is None else f"{self.stop}"
        return f"{self.contig}:{self.start + 1}-{stop}"


class RecordSieve:
    """Decides which records are kept, and counts the others by reason.

    Parameters
    ----------
    ancestral
        None where allele 1 is the alternative one, "REF" where the reference is the ancestral allele, else the name of
        an INFO field that holds the ancestral allele.
    only_pass
        Whether to leave out what did not pass a filter.
    """

    def __init__(self, *, ancestral: str | None, only_pass: bool):
        self.left_out: Counter[str] = Counter()
        self._only_pass = only_pass
        self._field = None if ancestral in (None, "REF") else ancestral
        self._last = self._last_kept = -1

    @property
    def info_field(self) -> str | None:
        """The INFO field that a reader must look up."""
        return self._field

    def order(self, position: int, where: Callable[[], str]) -> None:
        """Raise GenomeFileError if a record stands before the one that came last."""
        if position < self._last:
            raise GenomeFileError(
                f"{where()}: position {position + 1} comes after {self._last + 1}; sort the file, as with bcftools sort"
            )
        self._last = position

    def keeps(
        self,
        position: int,
        reference: bytes,
        alternative: bytes,
        filters: bytes,
        ancestral: bytes | None,
        where: Callable[[], str],
    ) -> int:
        """Return -1 to leave a record out, 0 to keep it, 1 to keep it with its alleles exchanged."""
        if self._only_pass and filters not in (b"PASS", b"."):
            return self._leave_out(FILTERED)
        if alternative in (b".", b""):
            return self._leave_out(WITHOUT_ALTERNATIVE)
        if len(alternative) > 1 and alternative.endswith(ANY_ALLELE):
            return self._leave_out(OF_GVCF)
        if b"," in alternative:
            return self._leave_out(MULTI_ALLELIC)
        if len(reference) != 1 or len(alternative) != 1 or position < 0:
            return self._leave_out(NO_SNP)
        if (reference, alternative) != WITHOUT_BASES and not (reference in BASES and alternative in BASES):
            return self._leave_out(UNKNOWN_BASE if reference.isalpha() and alternative.isalpha() else NO_SNP)
        if reference.upper() == alternative.upper():
            return self._leave_out(WITHOUT_ALTERNATIVE)
        exchange = 0
        if self._field is not None:
            allele = (ancestral or b"").split(b"|")[0].upper()
            if allele not in (reference.upper(), alternative.upper()):
                return self._leave_out(WITHOUT_ANCESTRAL)
            exchange = int(allele == alternative.upper())
        if position == self._last_kept:
            raise GenomeFileError(
                f"{where()}: a second SNP at position {position + 1}; join its alleles to one record, as with "
                "bcftools norm --multiallelics +any, or remove one"
            )
        self._last_kept = position
        return exchange

    def _leave_out(self, reason: str) -> int:
        self.left_out[reason] += 1
        return -1


@dataclass(frozen=True, eq=False)
class Block:
    """The genotypes of k sites in N samples, as a reader delivers them.

    Attributes
    ----------
    positions
        (k,) int64, 0-based.
    exchange
        (k,) bool, whether allele 1 is the ancestral one.
    alleles
        (k, N, 2) int8: 0, 1, -1 where missing, -2 for the second allele of a haploid genotype.
    is_phased
        (k, N) bool.
    where
        What names a site, by its number in the block, in messages: file and line.
    """

    positions: np.ndarray
    exchange: np.ndarray
    alleles: np.ndarray
    is_phased: np.ndarray
    where: Callable[[int], str]


class GenotypeCollector:
    """Puts the blocks of a reader together, and checks ploidy and phase.

    Parameters
    ----------
    names
        The samples of the file.
    samples
        Names of those to keep, or None for all.
    accessible
        Intervals (K, 2) of the sites to keep, or None for all.
    on_unphased
        "error", "random" or "genotypes".
    seed
        Of the random phase.
    path
        The file, for messages.
    length
        Of the contig in bp, or None.
    """

    def __init__(
        self,
        names: Sequence[str],
        samples: Sequence[str] | None,
        accessible: np.ndarray | None,
        on_unphased: str,
        seed: int | None,
        path: Any,
        length: float | None,
    ):
        self._path, self._length = path, length
        if not names:
            raise GenomeFileError(f"{path}: it has no samples, so 0 haplotypes; a VCF with genotypes is needed")
        if len(set(names)) != len(names):
            twice = [name for name, number in Counter(names).items() if number > 1]
            raise GenomeFileError(f"{path}: samples of one name: {list_names(twice)}")
        self._chosen = np.arange(len(names)) if samples is None else sample_numbers(samples, names, f"samples: {path}")
        self._takes_all = samples is None
        self.samples = [names[i] for i in self._chosen.tolist()]
        self._accessible = accessible
        self._on_unphased = on_unphased
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._ploidy = np.zeros(len(self.samples), np.int64)  # 0 while it is unknown
        self._blocks: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []
        self.inaccessible = self.unphased = 0

    @property
    def num_sites(self) -> int:
        """The sites so far."""
        return sum(map(len, self._positions))

    def add(self, block: Block) -> None:
        """Take the sites of a block that are accessible.

        Raises
        ------
        GenomeFileError
            If a site lies behind the contig's end, a sample's ploidy changes, or a genotype has no phase, where that is
            an error.
        """
        sites = np.arange(len(block.positions))
        if self._length is not None and len(sites) and block.positions[-1] >= self._length:
            site = int(np.searchsorted(block.positions, self._length))
            raise GenomeFileError(
                f"{block.where(site)}: position {block.positions[site] + 1} lies behind the end of the contig, whose "
                f"length is {self._length:.0f} in the header; one of the two is of another reference"
            )
        if self._accessible is not None:
            sites = sites[contains(self._accessible, block.positions)]
            self.inaccessible += len(block.positions) - len(sites)
        alleles, phased = block.alleles, block.is_phased
        if len(sites) < len(block.positions):
            alleles, phased = alleles[sites], phased[sites]
        if not self._takes_all:
            alleles, phased = alleles[:, self._chosen], phased[:, self._chosen]
        if not len(sites):
            return
        self._check_ploidy(alleles, sites, block)
        first, second = alleles[..., 0], alleles[..., 1]
        unphased = ~phased
        if unphased.any():
            unphased &= (first != second) & (second != ABSENT)
            self.unphased += int(np.count_nonzero(unphased))
            if unphased.any():
                alleles = self._phase(alleles, unphased, sites, block)
        if block.exchange.any():
            exchange = block.exchange[sites][:, np.newaxis, np.newaxis] & (alleles >= 0)
            alleles = np.where(exchange, 1 - alleles, alleles)
        self._blocks.append(np.ascontiguousarray(alleles, np.int8))
        self._positions.append(block.positions[sites])

    def _check_ploidy(self, alleles: np.ndarray, sites: np.ndarray, block: Block) -> None:
        is_haploid, is_diploid = alleles[..., 1] == ABSENT, alleles[..., 1] != ABSENT
        if not is_haploid.any() and (self._ploidy == 2).all():
            return
        is_haploid &= alleles[..., 0] >= 0  # a dot alone may stand for a diploid genotype too
        has_haploid, has_diploid = is_haploid.any(axis=0), is_diploid.any(axis=0)
        has_haploid, has_diploid = has_haploid | (self._ploidy == 1), has_diploid | (self._ploidy == 2)
        if (has_haploid & has_diploid).any():
            sample = int(np.argmax(has_haploid & has_diploid))
            before = self._ploidy[sample] or (
                1 if is_haploid[:, sample].argmax() < is_diploid[:, sample].argmax() else 2
            )
            other = is_diploid if before == 1 else is_haploid
            site = int(other[:, sample].argmax())
            kinds = ("diploid", "haploid") if before == 2 else ("haploid", "diploid")
            raise GenomeFileError(
                f"{block.where(int(sites[site]))}: sample {self.samples[sample]!r} is {kinds[0]} before and "
                f"{kinds[1]} here; read the stretches of one ploidy by themselves with region=, such as those of X "
                "within and outside of the pseudoautosomal regions"
            )
        self._ploidy = np.where(has_diploid, 2, np.where(has_haploid, 1, 0))

    def _phase(self, alleles: np.ndarray, unphased: np.ndarray, sites: np.ndarray, block: Block) -> np.ndarray:
        if self._on_unphased == "genotypes":
            return alleles
        if self._on_unphased == "error" or self._rng is None:
            site, sample = np.argwhere(unphased)[0]
            raise GenomeFileError(
                f"{block.where(int(sites[site]))}: the genotype of sample {self.samples[sample]!r} is not phased; "
                'phase the file, or read it with on_unphased="genotypes" for an encoder with alleles="genotypes", or '
                'with on_unphased="random" and a phase_seed for a random phase, which the simulations must have too'
            )
        swap = np.zeros(unphased.shape, bool)
        swap[unphased] = self._rng.random(np.count_nonzero(unphased)) < 0.5
        return np.where(swap[..., np.newaxis], alleles[..., ::-1], alleles)

    def finish(self, region: Region, sieve: RecordSieve, is_polarised: bool) -> Haplotypes:
        """Put everything together; what was collected is given away.

        Raises
        ------
        GenomeFileError
            If nothing is left.
        """
        left_out = dict(sieve.left_out) | {INACCESSIBLE: self.inaccessible}
        number = self.num_sites
        if not number:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in left_out.items() if n) or "there is no record"
            place = region if region.start or region.stop else region.contig
            raise GenomeFileError(f"{self._path}: no SNP of {place} is left; left out: {reasons}")
        ploidy = np.where(self._ploidy == 0, 1, self._ploidy)
        columns = np.concatenate([2 * i + np.arange(p) for i, p in enumerate(ploidy)])
        alleles = np.empty((number, len(columns)), np.int8)
        has_allele = np.zeros(len(columns), bool)
        start = 0
        self._blocks.reverse()
        while self._blocks:  # one by one, so that the memory of those that are done is free
            block = self._blocks.pop()
            part = alleles[start : start + len(block)]
            start += len(block)
            np.take(block.reshape(len(block), -1), columns, axis=1, out=part)
            part[part == ABSENT] = MISSING  # a dot alone for a diploid genotype
            has_allele |= (part >= 0).any(axis=0)
        if not has_allele.any():
            raise GenomeFileError(f"{self._path}: every allele is missing")
        samples, reasons_for_haplotypes = self.samples, {}
        if not has_allele.all():
            # Hemizygous samples may be written as diploid ones whose second allele is missing everywhere.
            alleles = alleles[:, has_allele]
            ploidy = np.array([np.count_nonzero(has_allele[c]) for c in columns_of(ploidy)])
            samples = [name for name, p in zip(samples, ploidy, strict=True) if p]
            ploidy = ploidy[ploidy > 0]
            reasons_for_haplotypes = {
                "haplotypes without any allele (hemizygous samples?)": int(np.count_nonzero(~has_allele))
            }
        positions = np.concatenate(self._positions).astype(np.float64)
        stop = _least(region.stop, self._length)
        haplotypes = Haplotypes(
            alleles=alleles,
            positions=positions,
            contig=region.contig,
            start=region.start,
            stop=positions[-1] + 1 if stop is None else stop,
            length=self._length,
            samples=samples,
            ploidy=ploidy,
            is_polarised=is_polarised,
            is_phased=not (self.unphased and self._on_unphased == "genotypes"),
            accessible=self._accessible,
        )
        notes = {"unphased genotypes at random phase": self.unphased} if self._on_unphased == "random" else {}
        return haplotypes.with_report(str(self._path), left_out | reasons_for_haplotypes, notes)


def _least(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def check_contig(region: Region, contigs: Iterable[str], path: Any) -> None:
    """Raise GenomeFileError if the contig of a region is not among those of a file, and list these."""
    contigs = list(contigs)
    if region.contig not in contigs:
        raise GenomeFileError(f"{path}: there is no contig {region.contig!r}; the file has {list_names(contigs)}")
