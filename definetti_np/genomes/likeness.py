"""Simulations that look like the data: masked and with missing alleles as at a random place of a genome."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .encoder import HaplotypeEncoder
from .haplotypes import MISSING, Haplotypes
from .intervals import clip, contains, intersection

if TYPE_CHECKING:
    import tskit


class LikeData:
    """An encoder that first makes a simulation look like a random stretch of real data; `HaplotypeEncoder.like`.

    Positions are cut to whole bp as in VCF, and of SNPs at one position the first stays. SNPs where the stretch is not
    accessible are left out. Each other SNP misses alleles where the nearest SNP of the data does, haplotype by
    haplotype. The centre is at an accessible place, because a scan has no window elsewhere.

    Parameters
    ----------
    encoder
        What encodes the result; it is what a model file holds.
    haplotypes
        The real data, which a simulator process holds as its intervals and the bits of its missing alleles.
    """

    def __init__(self, encoder: HaplotypeEncoder, haplotypes: Haplotypes):
        self.encoder = encoder
        self._start, self._stop = haplotypes.start, haplotypes.stop
        everywhere = np.array([[self._start, self._stop]])
        self._accessible = everywhere if haplotypes.accessible is None else haplotypes.accessible
        if not len(self._accessible):
            raise ValueError(f"like: no place of {haplotypes.contig} is accessible")
        known = haplotypes.allele_counts()[1]
        with_missing = np.flatnonzero(known < haplotypes.num_haplotypes)
        self._num_haplotypes = haplotypes.num_haplotypes
        self._positions = haplotypes.positions
        self._row = np.full(haplotypes.num_sites, -1)  # of bits, for the sites that miss an allele
        self._row[with_missing] = np.arange(len(with_missing))
        bits = [np.packbits(haplotypes.alleles[i] == MISSING) for i in with_missing]
        self._bits = np.array(bits, np.uint8)

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """The shape of a dataset."""
        return self.encoder.shape

    def plain(self) -> HaplotypeEncoder:
        """The encoder alone."""
        return self.encoder

    def as_dict(self) -> dict[str, Any]:
        """What describes the encoder, as `HaplotypeEncoder.as_dict`; the data are not part of it."""
        return self.encoder.as_dict()

    def digest(self) -> str:
        """A number that tells data apart, for a run that is resumed."""
        digest = hashlib.sha256()
        for array in (self._accessible, self._positions, self._row, self._bits):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def mask(self, haplotypes: Haplotypes, center: float, rng: np.random.Generator) -> Haplotypes:
        """Make simulated haplotypes look like the data at a random place that is accessible.

        Raises
        ------
        ValueError
            If the data are shorter than the simulation.
        """
        left, right = center - haplotypes.start, haplotypes.stop - center
        places = clip(self._accessible, self._start + left, self._stop - right + 1)
        lengths = np.diff(places, axis=1)[:, 0]
        if not lengths.sum() > 0:
            raise ValueError(
                f"like: no accessible place of the data has {left:,.0f} bp before and {right:,.0f} bp behind it, as "
                "the simulation has"
            )
        at = rng.uniform(0, lengths.sum())
        number = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        place = np.floor(places[number, 0] + at - lengths[:number].sum())
        offset = place - np.floor(center)

        positions = np.floor(haplotypes.positions)
        kept = np.append(True, np.diff(positions) > 0) if len(positions) else np.zeros(0, bool)
        kept &= contains(self._accessible, positions + offset)
        positions, alleles = positions[kept], haplotypes.alleles[kept]
        stretch = np.array([[haplotypes.start, haplotypes.stop]])
        return dataclasses.replace(
            haplotypes,
            positions=positions,
            alleles=self._with_missing(alleles, positions + offset, rng),
            accessible=intersection(clip(self._accessible - offset, 0, np.inf), stretch),
        )

    def _with_missing(self, alleles: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        columns = np.arange(alleles.shape[1])
        if len(columns) != self._num_haplotypes:
            more = len(columns) > self._num_haplotypes
            columns = rng.choice(self._num_haplotypes, len(columns), replace=more)
        if not len(self._bits) or not len(places):
            return alleles
        after = np.clip(np.searchsorted(self._positions, places), 1, max(1, len(self._positions) - 1))
        before = after - 1
        after = np.minimum(after, len(self._positions) - 1)
        is_before = places - self._positions[before] <= self._positions[after] - places
        rows = self._row[np.where(is_before, before, after)]
        alleles = alleles.copy()
        for site in np.flatnonzero(rows >= 0):
            is_missing = np.unpackbits(self._bits[rows[site]], count=self._num_haplotypes)[columns]
            alleles[site, is_missing.astype(bool)] = MISSING
        return alleles

    def encode(
        self,
        haplotypes: Haplotypes | tskit.TreeSequence,
        center: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray | None:
        """Mask a simulation, and encode the SNPs around its centre; see `HaplotypeEncoder.encode`.

        Raises
        ------
        ValueError
            If there is no `rng`, or the data are shorter than the simulation.
        """
        if rng is None:
            raise ValueError("an encoder of masked simulations needs rng, a numpy.random.Generator, to choose a place")
        if not isinstance(haplotypes, Haplotypes):
            haplotypes = Haplotypes.from_tree_sequence(haplotypes)
        if center is None:
            center = (haplotypes.start + haplotypes.stop) / 2
        return self.encoder.encode(self.mask(haplotypes, center, rng), np.floor(center))
