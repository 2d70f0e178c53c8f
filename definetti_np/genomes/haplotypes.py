"""Haplotypes: the alleles of a sample at the SNPs of a stretch of a contig."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import as_integer
from .intervals import as_intervals, clip, complement, contains, intersection, list_names

if TYPE_CHECKING:
    import tskit

SITES_AT_ONCE = 4096  # whose alleles are counted together
MISSING = -1


@dataclass(frozen=True, eq=False, repr=False)
class Haplotypes:
    """The alleles of n haplotypes at S biallelic sites of a stretch of a contig.

    Positions are 0-based, and intervals half open as in BED: the record at POS 1 of a VCF has position 0.

    Attributes
    ----------
    alleles
        (S, n) int8: 0 for the reference or ancestral allele, 1 for the other, -1 for a missing one.
    positions
        (S,) float64, ascending, in bp.
    contig
        Its name.
    start, stop
        The stretch whose sites these are, in bp. None for the contig from 0 to its length, or to the last site.
    length
        The contig's length in bp, None if it is not known.
    samples
        The names of the samples. None numbers them.
    ploidy
        (len(samples),) int64, how many haplotypes each sample has; they stand side by side. None for the same number
        each.
    is_polarised
        Whether allele 1 is the derived one everywhere.
    is_phased
        Whether each column is a haplotype. Otherwise which of a sample's columns holds an allele means nothing.
    accessible
        (K, 2) float64, the intervals in which sites are known, or None for all of the stretch.
    report
        What was read and what was left out, in one line.

    Raises
    ------
    ValueError, TypeError
        If these do not go together.
    """

    alleles: np.ndarray
    positions: np.ndarray
    _: KW_ONLY
    contig: str = "1"
    start: float = None  # type: ignore[assignment]  # None is for whoever builds it: afterwards it is a number
    stop: float = None  # type: ignore[assignment]
    length: float | None = None
    samples: Sequence[str] = None  # type: ignore[assignment]
    ploidy: np.ndarray = None  # type: ignore[assignment]
    is_polarised: bool = False
    is_phased: bool = True
    accessible: np.ndarray | None = None
    report: str = ""

    def __post_init__(self) -> None:
        alleles, positions = _check_alleles(self.alleles), _check_positions(self.positions)
        if alleles.shape[0] != len(positions):
            raise ValueError(f"Haplotypes: alleles of {len(alleles)} sites and {len(positions)} positions")
        start = 0.0 if self.start is None else float(self.start)
        stop = self.length if self.stop is None else self.stop
        if stop is None:
            stop = positions[-1] + 1 if len(positions) else start + 1
        stop = float(stop)
        if not 0 <= start < stop < np.inf or self.length is not None and stop > self.length:
            of = "" if self.length is None else f" in a contig of length {self.length:,.0f}"
            raise ValueError(f"Haplotypes: 0 <= start < stop{of} is needed, got start={start:g}, stop={stop:g}")
        if len(positions) and not start <= positions[0] <= positions[-1] < stop:
            outside = positions[0] if positions[0] < start else positions[-1]
            raise ValueError(f"Haplotypes: a site at {outside:,.0f} is not between start {start:,.0f} and {stop:,.0f}")
        samples, ploidy = _check_samples(self.samples, self.ploidy, alleles.shape[1])
        values: dict[str, Any] = {"alleles": alleles, "positions": positions, "start": start, "stop": stop}
        values |= {"samples": samples, "ploidy": ploidy}
        if self.accessible is not None:
            values["accessible"] = clip(as_intervals(self.accessible, "accessible", self.contig), start, stop)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_tree_sequence(
        cls,
        tree_sequence: tskit.TreeSequence,
        *,
        contig: str = "1",
        start: float | None = None,
        stop: float | None = None,
    ) -> Haplotypes:
        """Take the samples of a tree sequence at its sites; those of more than two alleles are left out and counted.

        Parameters
        ----------
        tree_sequence
            A `tskit.TreeSequence`, such as msprime makes.
        contig
            A name for its genome, because a tree sequence has none.
        start, stop
            The stretch to take, None for all of it.

        Returns
        -------
        Haplotypes
            Polarised: allele 1 is the derived one. Samples are named as in the VCF that tskit writes: tsk_0, tsk_1, ...
        """
        length = float(tree_sequence.sequence_length)
        start, stop = 0.0 if start is None else start, length if stop is None else stop
        if not 0 <= start < stop <= length:
            raise ValueError(f"0 <= start < stop <= {length:g} is needed, got start={start!r}, stop={stop!r}")
        positions = tree_sequence.tables.sites.position
        first, last = np.searchsorted(positions, [start, stop])
        nodes, names, ploidy = _samples_of(tree_sequence)
        alleles = np.empty((last - first, len(nodes)), np.int8)
        is_kept = np.ones(last - first, bool)
        for i, variant in enumerate(tree_sequence.variants(samples=nodes, left=start, right=stop, copy=False)):
            genotypes = variant.genotypes
            is_kept[i] = genotypes.max() < 2
            alleles[i] = genotypes
        if not is_kept.all():
            alleles = alleles[is_kept]
        left_out = {"with more than two alleles": int(np.count_nonzero(~is_kept))}
        haplotypes = cls(
            alleles=alleles,
            positions=positions[first:last][is_kept],
            contig=contig,
            start=start,
            stop=stop,
            length=length,
            samples=names,
            ploidy=ploidy,
            is_polarised=True,
        )
        return haplotypes.with_report("a tree sequence", left_out)

    @property
    def num_sites(self) -> int:
        """S, the number of sites."""
        return len(self.positions)

    @property
    def num_haplotypes(self) -> int:
        """n, the number of haplotypes."""
        return self.alleles.shape[1]

    def __repr__(self) -> str:
        density = 1000 * self.num_sites / (self.stop - self.start)
        kind = "polarised" if self.is_polarised else "not polarised"
        missing = 1 - self.allele_counts()[1].sum() / self.alleles.size if self.num_sites else 0.0
        lines = [
            f"Haplotypes of {self.contig}:{self.start:,.0f}-{self.stop:,.0f}",
            f"{self.num_sites:,} sites, {density:.3g} a kb, {kind}, {100 * missing:.2g} % missing alleles",
            f"{self.num_haplotypes:,} haplotypes of {describe_ploidy(self.ploidy)}"
            + ("" if self.is_phased else ", unphased"),
        ]
        if self.accessible is not None:
            share = np.diff(self.accessible).sum() / (self.stop - self.start)
            lines.append(f"{100 * share:.3g} % accessible")
        return "\n    ".join([*lines, *filter(None, [self.report])])

    def _parts(self) -> list[np.ndarray]:
        return [self.alleles[i : i + SITES_AT_ONCE] for i in range(0, self.num_sites, SITES_AT_ONCE)]

    def allele_counts(self, columns: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """How many haplotypes, of all or of some columns, have allele 1 at each site, and how many a known allele.

        Two arrays (S,) int64.
        """
        ones, known = np.empty(self.num_sites, np.int64), np.empty(self.num_sites, np.int64)
        for i, part in enumerate(self._parts()):
            sites = slice(i * SITES_AT_ONCE, i * SITES_AT_ONCE + len(part))
            part = part if columns is None else part[:, columns]
            ones[sites] = np.count_nonzero(part == 1, axis=1)
            known[sites] = np.count_nonzero(part >= 0, axis=1)
        return ones, known

    def slice(self, start: float, stop: float) -> Haplotypes:
        """The stretch between start and stop, 0-based and half open; it must lie in this one."""
        if not self.start <= start < stop <= self.stop:
            raise ValueError(
                f"slice: {self.start:g} <= start < stop <= {self.stop:g} is needed, got start={start!r}, stop={stop!r}"
            )
        first, last = np.searchsorted(self.positions, [start, stop])
        return dataclasses.replace(
            self, alleles=self.alleles[first:last], positions=self.positions[first:last], start=start, stop=stop
        )

    def take_samples(self, samples: Sequence[str]) -> Haplotypes:
        """The haplotypes of these samples, in this order.

        Raises
        ------
        ValueError
            If a sample is not there, or named twice.
        """
        chosen = sample_numbers(samples, self.samples, "samples")
        columns = columns_of(self.ploidy)
        return dataclasses.replace(
            self,
            alleles=self.alleles[:, np.concatenate([columns[i] for i in chosen])],
            samples=tuple(self.samples[i] for i in chosen),
            ploidy=self.ploidy[chosen],
        )

    def take_haplotypes(self, numbers: Sequence[int] | np.ndarray) -> Haplotypes:
        """The haplotypes with these numbers, each as a sample of its own."""
        numbers = np.asarray(numbers)
        if not numbers.size or numbers.dtype.kind not in "iu":
            raise ValueError(f"take_haplotypes: numbers must be integers, one at least, got {numbers!r}")
        if numbers.ndim != 1 or numbers.min() < 0 or numbers.max() >= self.num_haplotypes:
            raise ValueError(
                f"take_haplotypes: numbers must be between 0 and {self.num_haplotypes - 1}, in one row, got {numbers!r}"
            )
        if len(np.unique(numbers)) < len(numbers):
            raise ValueError("take_haplotypes: a haplotype is numbered twice")
        owners = np.repeat(np.arange(len(self.samples)), self.ploidy)
        names = tuple(f"{self.samples[owners[i]]}#{i}" for i in numbers)
        return dataclasses.replace(
            self, alleles=self.alleles[:, numbers], samples=names, ploidy=np.ones(len(numbers), np.int64)
        )

    def filter(
        self,
        *,
        min_minor_count: int = 0,
        max_missing: float = 1.0,
        accessible: Any = None,
        inaccessible: Any = None,
    ) -> Haplotypes:
        """Leave out sites, and say how many in the report.

        Parameters
        ----------
        min_minor_count
            The fewest haplotypes that must have the rarer allele.
        max_missing
            The largest fraction of haplotypes that may miss an allele.
        accessible
            A BED file or pairs (start, end): sites outside are left out, and the places outside count as inaccessible.
        inaccessible
            The same for what lies inside. Only one of the two may be given.
        """
        min_minor_count = as_integer(min_minor_count, "min_minor_count", minimum=0)
        if not 0 <= max_missing <= 1:
            raise ValueError(f"max_missing must be between 0 and 1, got {max_missing!r}")
        intervals = as_accessible(accessible, inaccessible, self.contig, self.start, self.stop)
        if intervals is not None and self.accessible is not None:
            intervals = intersection(intervals, self.accessible)
        ones, known = self.allele_counts()
        is_common = np.minimum(ones, known - ones) >= min_minor_count
        is_known = self.num_haplotypes - known <= max_missing * self.num_haplotypes
        is_inside = np.ones(self.num_sites, bool) if intervals is None else contains(intervals, self.positions)
        kept = is_common & is_known & is_inside
        filtered = dataclasses.replace(
            self,
            alleles=self.alleles[kept],
            positions=self.positions[kept],
            accessible=self.accessible if intervals is None else intervals,
        )
        left_out = {
            "inaccessible": int(np.count_nonzero(~is_inside)),
            f"with more than {max_missing:.3g} missing": int(np.count_nonzero(is_inside & ~is_known)),
            f"with a minor count below {min_minor_count}": int(np.count_nonzero(is_inside & is_known & ~is_common)),
        }
        return filtered.with_report("", left_out)

    def with_report(self, source: str, left_out: dict[str, int], notes: dict[str, int] | None = None) -> Haplotypes:
        """The same with what was read, left out and done added to its report."""
        what = (
            f"read {self.num_sites:,} sites of {self.num_haplotypes:,} haplotypes on {self.contig} from {source}"
            if source
            else ""
        )
        without = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items() if number)
        parts = [self.report, what, f"left out {without}" if without else ""]
        parts += [f"{number:,} {note}" for note, number in (notes or {}).items() if number]
        report = "; ".join(filter(None, parts))
        return dataclasses.replace(self, report=report)


def describe_ploidy(ploidy: np.ndarray) -> str:
    """How many samples are haploid, diploid, or of a higher ploidy."""
    names = {1: "haploid", 2: "diploid"}
    kinds, numbers = np.unique(ploidy, return_counts=True)
    parts = [f"{number:,} {names.get(int(k), f'{k}-ploid')}" for k, number in zip(kinds, numbers, strict=True)]
    return f"{' and '.join(parts)} sample{'s' * (len(ploidy) != 1)}"


def as_accessible(accessible: Any, inaccessible: Any, contig: str, start: float, stop: float) -> np.ndarray | None:
    """The accessible intervals between start and stop, of one of the two arguments, or None without any."""
    if accessible is not None and inaccessible is not None:
        raise ValueError("accessible and inaccessible: give only one of them")
    if accessible is not None:
        return clip(as_intervals(accessible, "accessible", contig), start, stop)
    if inaccessible is not None:
        return complement(as_intervals(inaccessible, "inaccessible", contig), start, stop)
    return None


def sample_numbers(samples: Sequence[str], names: Sequence[str], where: str) -> np.ndarray:
    """The numbers of samples by name; `where` begins the message of an error."""
    if isinstance(samples, str) or not len(samples):
        raise ValueError(f"{where}: names of samples are needed, one at least, got {samples!r}")
    numbers = {name: i for i, name in enumerate(names)}
    missing = [str(name) for name in samples if name not in numbers]
    if missing:
        raise ValueError(
            f"{where}: there is no sample {list_names(missing)}; the {len(names)} samples are {list_names(names)}"
        )
    if len(set(samples)) != len(samples):
        raise ValueError(f"{where}: a sample is named twice")
    return np.array([numbers[name] for name in samples])


def columns_of(ploidy: np.ndarray) -> list[np.ndarray]:
    """The columns of alleles of each sample."""
    return np.split(np.arange(ploidy.sum()), np.cumsum(ploidy)[:-1])


def _check_alleles(alleles: Any) -> np.ndarray:
    alleles = np.asarray(alleles)
    if alleles.ndim != 2 or alleles.dtype.kind not in "iu":
        raise ValueError(
            f"Haplotypes: alleles must be integers (sites, haplotypes), got {alleles.dtype} of shape {alleles.shape}"
        )
    if alleles.shape[1] == 0:
        raise ValueError("Haplotypes: alleles of 0 haplotypes; one is needed at least")
    if alleles.size and not (alleles.min() >= MISSING and alleles.max() <= 1):
        raise ValueError(
            f"Haplotypes: alleles must be 0, 1, or -1 where missing, got {alleles.min()} to {alleles.max()}"
        )
    return alleles.astype(np.int8, copy=False)


def _check_positions(positions: Any) -> np.ndarray:
    given = np.asarray(positions)
    positions = given.astype(np.float64)
    if given.dtype in (np.float16, np.float32) and given.size and positions.max() > 2 / np.finfo(given.dtype).eps:
        raise ValueError(
            f"Haplotypes: positions up to {positions.max():,.0f} are not exact in {given.dtype}; give float64 or "
            "integers"
        )
    if positions.ndim != 1 or not np.isfinite(positions).all():
        raise ValueError(f"Haplotypes: positions must be finite numbers (sites,), got shape {positions.shape}")
    if (np.diff(positions) <= 0).any():
        i = int(np.argmax(np.diff(positions) <= 0))
        pair = f"{positions[i]:.12g} and then {positions[i + 1]:.12g}"
        raise ValueError(f"Haplotypes: positions must ascend, got {pair} (site {i + 1})")
    return positions


def _check_samples(samples: Any, ploidy: Any, columns: int) -> tuple[tuple[str, ...], np.ndarray]:
    if samples is not None:
        samples = tuple(map(str, samples))
        if len(set(samples)) < len(samples):
            twice = sorted(name for name, number in Counter(samples).items() if number > 1)
            raise ValueError(f"Haplotypes: samples of one name: {list_names(twice)}")
    if ploidy is not None:
        ploidy = np.asarray(ploidy)
        if ploidy.dtype.kind not in "iu":
            raise TypeError(f"Haplotypes: ploidy must be integers, got {ploidy.dtype}")
        ploidy = ploidy.astype(np.int64)
    elif samples is None:
        ploidy = np.ones(columns, np.int64)
    else:
        ploidy = np.full(len(samples), columns // max(1, len(samples)), np.int64)
    samples = tuple(map(str, range(len(ploidy)))) if samples is None else samples
    if ploidy.shape != (len(samples),) or ploidy.sum() != columns or (ploidy < 1).any():
        raise ValueError(
            f"Haplotypes: {columns} columns of alleles do not go with {len(samples)} samples of ploidy {ploidy}"
        )
    return samples, ploidy


def _samples_of(tree_sequence: tskit.TreeSequence) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The sample nodes of each individual side by side; the names and the ploidy of the individuals."""
    nodes = tree_sequence.samples()
    if len(nodes) == 0:
        raise ValueError("the tree sequence has 0 samples; one is needed at least")
    individuals = tree_sequence.tables.nodes.individual[nodes]
    owners = np.where(individuals < 0, -2 - np.arange(len(nodes)), individuals)  # a node alone owns itself
    _, first, owner = np.unique(owners, return_index=True, return_inverse=True)
    order = np.argsort(first[owner], kind="stable")
    ploidy = np.unique(first[owner], return_counts=True)[1]
    return nodes[order], [f"tsk_{i}" for i in range(len(ploidy))], ploidy
