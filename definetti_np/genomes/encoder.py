"""From haplotypes around a centre to a dataset: what simulated and real data go through alike."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import as_integer, as_positive_number
from .haplotypes import Haplotypes

if TYPE_CHECKING:
    import tskit

    from .likeness import LikeData

VERSION = 1  # of the description that `as_dict` writes
ALLELES = ("minor", "derived", "genotypes")
MISSING_AS = ("major", "channel")
ALLELE, DISTANCES = 0, 1  # channels
SITES_AT_ONCE = 1024  # that encoded windows are cut from
WINDOWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class HaplotypeEncoder:
    """Turns the haplotypes around a centre into a dataset (n, snps, channels).

    It takes the SNPs nearest to the centre, half of them on each side. Channel 0 holds the alleles. The others, in this
    order and where they are wanted, are the distances, what is missing, and which SNPs there are.

    An encoder is plain data: it is stored in the model file, so that real data are encoded as the simulations were.

    Parameters
    ----------
    snps
        How many SNPs a dataset has; of an odd number the larger half lies to the right of the centre.
    haplotypes
        How many rows a dataset has: haplotypes, or individuals where `alleles` is "genotypes". Of more, as many are
        chosen; fewer are an error. None takes all that there are, for a network with ``input_shape[0]=None``.
    alleles
        "minor": 1 for the rarer allele, or for the ancestral or reference one where both are as frequent. "derived": 1
        for the derived allele; the haplotypes must be polarised. "genotypes": how many rarer alleles an individual has,
        0, 1 or 2, for haplotypes that are not phased.
    distances
        Whether there is a channel of the distance to the next SNP, 0 at the last one, the same in all rows.
    distance_scale
        What distances in bp are multiplied by, such as ``4 * Ne * mu``, to be numbers around 1.
    min_minor_count
        SNPs with fewer copies of the rarer allele among the chosen haplotypes are left out; at least 1.
    missing
        What stands for a missing allele: "major" for the commoner allele alone, or "channel" for the commoner allele
        and a channel that is 1 there.
    pad
        Whether a centre with fewer SNPs gets a dataset too: then a last channel is 1 where there is a SNP, and 0 in all
        rows and channels where there is none.
    choice_seed
        Which rows are chosen where there are more.
    choices
        Over how many choices of rows `Model.scan` averages, where there are more.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong.
    """

    snps: int = 24
    haplotypes: int | None = 198
    alleles: str = "minor"
    distances: bool = True
    distance_scale: float | None = None
    min_minor_count: int = 1
    missing: str = "major"
    pad: bool = False
    choice_seed: int = 0
    choices: int = 1

    def __post_init__(self) -> None:
        for name, minimum in (("snps", 1), ("min_minor_count", 1), ("choice_seed", 0), ("choices", 1)):
            object.__setattr__(
                self, name, as_integer(getattr(self, name), f"HaplotypeEncoder: {name}", minimum=minimum)
            )
        if self.haplotypes is not None:
            rows = as_integer(self.haplotypes, "HaplotypeEncoder: haplotypes", minimum=1)
            object.__setattr__(self, "haplotypes", rows)
        for name, choices in (("alleles", ALLELES), ("missing", MISSING_AS)):
            if getattr(self, name) not in choices:
                shown = ", ".join(map(repr, choices))
                raise ValueError(f"HaplotypeEncoder: {name} must be one of {shown}, got {getattr(self, name)!r}")
        for name in ("distances", "pad"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"HaplotypeEncoder: {name} must be True or False, got {getattr(self, name)!r}")
        if self.distances:
            if self.distance_scale is None:
                raise ValueError(
                    "HaplotypeEncoder: distances need a distance_scale, what bp are multiplied by to be numbers around "
                    "1, such as 4 * Ne * mu"
                )
            scale = as_positive_number(self.distance_scale, "HaplotypeEncoder: distance_scale")
            object.__setattr__(self, "distance_scale", scale)
        elif self.distance_scale is not None:
            raise ValueError("HaplotypeEncoder: distance_scale is for distances=True")

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels."""
        wanted = {
            "alleles": True,
            "distances": self.distances,
            "missing": self.missing == "channel",
            "present": self.pad,
        }
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def shape(self) -> tuple[int | None, int, int]:
        """The shape of a dataset, which is the `input_shape` of the network: (n or None, snps, channels)."""
        return self.haplotypes, self.snps, len(self.channels)

    def as_dict(self) -> dict[str, Any]:
        """Everything that describes it, as numbers and names, with a version."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> HaplotypeEncoder:
        """Make an encoder of what `as_dict` has written.

        Raises
        ------
        ValueError, TypeError
            If it describes none, or one of a newer version.
        """
        values = dict(description)
        version = values.pop("version", None)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"encoder: version must be a positive integer, got {version!r}")
        if version > VERSION:
            raise ValueError(
                f"encoder: version {version}, this definetti_np reads versions up to {VERSION}; it needs a newer "
                "definetti_np"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(f"encoder: {sorted(values)} where {sorted(names)} are needed")
        return cls(**values)

    def digest(self) -> str:
        """What tells data apart that simulations are to look like: there are none."""
        return ""

    def plain(self) -> HaplotypeEncoder:
        """The encoder itself."""
        return self

    def like(self, haplotypes: Haplotypes) -> LikeData:
        """An encoder that makes simulations look like these data first: masked, with missing alleles, rounded.

        See `LikeData`.
        """
        from .likeness import LikeData

        return LikeData(self, haplotypes)

    def encode(
        self,
        haplotypes: Haplotypes | tskit.TreeSequence,
        center: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray | None:
        """Encode the SNPs around a centre.

        Parameters
        ----------
        haplotypes
            Haplotypes, or a tree sequence.
        center
            In bp; None for the middle.
        rng
            Not used; an encoder that `like` makes draws from it.

        Returns
        -------
        (n, snps, channels) float32, or None
            None where a side of the centre has too few SNPs; a simulator draws again then.

        Raises
        ------
        ValueError
            If the centre lies outside, or the haplotypes are not what the encoder takes.
        """
        if not isinstance(haplotypes, Haplotypes):
            haplotypes, center = self._around(haplotypes, center)
        if center is None:
            center = (haplotypes.start + haplotypes.stop) / 2
        windows, has_window = self.encode_many(haplotypes, [center])
        return windows[0] if has_window[0] else None

    def encode_many(
        self, haplotypes: Haplotypes, centers: Sequence[float] | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode the SNPs around many centres.

        Returns
        -------
        windows : (K, n, snps, channels) float32
            The datasets of the centres that have one.
        has_window : (len(centers),) bool
            Which centres those are: the others have too few SNPs on a side.

        Raises
        ------
        ValueError
            If a centre lies outside, or the haplotypes are not what the encoder takes.
        """
        sites = Sites.of(self, haplotypes)
        first, has_window = sites.windows(centers)
        return sites.encode(first[has_window]), has_window

    def _around(self, tree_sequence: tskit.TreeSequence, center: float | None) -> tuple[Haplotypes, float]:
        """The haplotypes around a centre with SNPs enough, because decoding all of a tree sequence would take long."""
        if center is None:
            center = tree_sequence.sequence_length / 2
        if not 0 <= center <= tree_sequence.sequence_length:
            raise ValueError(f"center: {center:,.12g} lies outside of 0-{tree_sequence.sequence_length:,.12g}")
        positions = tree_sequence.sites_position
        middle = int(np.searchsorted(positions, center))
        number = self.snps
        while True:
            first, last = middle - number, middle + number
            is_all = first <= 0 and last >= len(positions)
            start = 0 if first <= 0 else positions[first]
            stop = tree_sequence.sequence_length if last >= len(positions) else positions[last]
            haplotypes = Haplotypes.from_tree_sequence(tree_sequence, start=start, stop=stop)
            if is_all or Sites.of(self, haplotypes).windows([center], needs_all=True)[1][0]:
                return haplotypes, center
            number *= 2


@dataclass(frozen=True, eq=False)
class Sites:
    """The S' sites of haplotypes that an encoder uses, and how: a few numbers a site, and no copy of the alleles.

    Attributes
    ----------
    numbers
        (S',) int64, which sites of the haplotypes they are.
    positions
        (S',) float64.
    is_flipped
        (S',) bool, whether allele 1 is encoded as 0.
    major
        (S',) int8, the encoded commoner allele.
    columns
        (n,) int64, the columns of alleles that are encoded; of genotypes (n, 2).
    """

    encoder: HaplotypeEncoder
    haplotypes: Haplotypes
    numbers: np.ndarray
    positions: np.ndarray
    is_flipped: np.ndarray
    major: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, encoder: HaplotypeEncoder, haplotypes: Haplotypes, *, choice: int = 0) -> Sites:
        """Find them; `choice` is the number of the choice of rows where there are more than are taken."""
        columns = choose_columns(encoder, haplotypes, choice)
        ones, known = haplotypes.allele_counts(None if columns.size == haplotypes.num_haplotypes else columns.ravel())
        numbers = np.flatnonzero(np.minimum(ones, known - ones) >= encoder.min_minor_count)
        ones, known = ones[numbers], known[numbers]
        is_flipped = 2 * ones >= known if encoder.alleles != "derived" else np.zeros(len(numbers), bool)
        major = (2 * ones > known).astype(np.int8) if encoder.alleles == "derived" else np.zeros(len(numbers), np.int8)
        return cls(encoder, haplotypes, numbers, haplotypes.positions[numbers], is_flipped, major, columns)

    def windows(
        self, centers: Sequence[float] | np.ndarray, *, needs_all: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first site of the window of each centre, (B,) int64, and whether it has one, (B,) bool.

        With padding every centre has a window, and the first site may be negative; `needs_all` asks for all SNPs.

        Raises
        ------
        ValueError
            If a centre lies outside of the haplotypes' stretch.
        """
        centers = np.asarray(centers, np.float64)
        if centers.ndim != 1:
            raise ValueError(f"centers must be numbers (B,), got shape {centers.shape}")
        start, stop = self.haplotypes.start, self.haplotypes.stop
        outside = ~((start <= centers) & (centers <= stop))
        if outside.any():
            place = f"{self.haplotypes.contig}:{start:,.0f}-{stop:,.0f}"
            raise ValueError(f"centers: {centers[outside][0]:,.12g} lies outside of {place}")
        first = np.searchsorted(self.positions, centers) - self.encoder.snps // 2
        has_window = (first >= 0) & (first + self.encoder.snps <= len(self.positions))
        return first, has_window if needs_all or not self.encoder.pad else np.ones(len(centers), bool)

    def encode(self, first: np.ndarray) -> np.ndarray:
        """The windows (K, n, snps, channels) float32 that begin at these sites."""
        encoder = self.encoder
        out = np.empty((len(first), len(self.columns), encoder.snps, len(encoder.channels)), np.float32)
        order = np.argsort(first, kind="stable")
        for group in self.groups(first[order]):
            numbers = order[group]
            low, high = first[numbers[0]], first[numbers[-1]] + encoder.snps
            table = self.table(low, high)
            for number in numbers:
                start = first[number] - low
                out[number] = table[:, start : start + encoder.snps]
        if encoder.distances:
            out[:, :, -1, DISTANCES] = 0  # the last SNP of a window has no next one
        return out

    def groups(self, first: np.ndarray) -> Iterator[slice]:
        """Cut ascending windows into groups that lie within `SITES_AT_ONCE` sites."""
        start = 0
        while start < len(first):
            stop = int(np.searchsorted(first, first[start] + SITES_AT_ONCE))
            stop = min(stop, start + WINDOWS_AT_ONCE)
            yield slice(start, stop)
            start = stop

    def table(self, low: int, high: int) -> np.ndarray:
        """The encoded sites `low` to ``high - 1``, which may lie beyond both ends, (n, L, channels) float32."""
        encoder = self.encoder
        out = np.zeros((len(self.columns), high - low, len(encoder.channels)), np.float32)
        first, last = max(0, low), max(0, min(high, len(self.numbers)))
        if first >= last:
            return out
        inside = out[:, first - low : last - low]
        numbers = self.numbers[first:last]
        is_run = numbers[-1] - numbers[0] + 1 == len(numbers)
        alleles = self.haplotypes.alleles[slice(numbers[0], numbers[-1] + 1) if is_run else numbers].T
        if self.columns.size != len(alleles):
            alleles = alleles[self.columns.ravel()]
        is_missing = alleles < 0
        has_missing = is_missing.any()
        values = alleles ^ self.is_flipped[first:last].astype(np.int8)
        if has_missing:
            values = np.where(is_missing, self.major[first:last], values)
        inside[:, :, ALLELE] = self._by_row(values)
        if encoder.distances:
            scaled = np.diff(self.positions[first : last + 1]) * encoder.distance_scale
            inside[:, : len(scaled), DISTANCES] = scaled
        if encoder.missing == "channel" and has_missing:
            inside[:, :, encoder.channels.index("missing")] = self._by_row(is_missing.astype(np.int8))
        if encoder.pad:
            inside[:, :, -1] = 1
        return out

    def _by_row(self, values: np.ndarray) -> np.ndarray:
        """Of haplotypes (n, L) themselves; of genotypes the sums of the two of an individual."""
        return values if self.columns.ndim == 1 else values.reshape(-1, 2, values.shape[1]).sum(axis=1)


def choose_columns(encoder: HaplotypeEncoder, haplotypes: Haplotypes, choice: int = 0) -> np.ndarray:
    """The columns of alleles that are encoded, (n,), of genotypes (n, 2).

    Raises
    ------
    ValueError
        If the haplotypes are not what the encoder takes.
    """
    number = haplotypes.num_haplotypes
    columns: np.ndarray
    if encoder.alleles == "genotypes":
        if number % 2 or not (haplotypes.ploidy == haplotypes.ploidy[0]).all() or haplotypes.ploidy[0] > 2:
            raise ValueError(
                f'the encoder has alleles="genotypes", which are of diploid samples; there are {number} haplotypes of '
                "samples of other or mixed ploidy"
            )
        columns = np.arange(number).reshape(-1, 2)  # the haplotypes of an individual stand side by side
    else:
        if not haplotypes.is_phased:
            raise ValueError(
                f"the encoder has alleles={encoder.alleles!r}, and the haplotypes are not phased; phase them, or train "
                'with alleles="genotypes"'
            )
        if encoder.alleles == "derived" and not haplotypes.is_polarised:
            raise ValueError(
                'the encoder has alleles="derived", and the haplotypes are not polarised; read them with ancestral=, '
                'or train with alleles="minor"'
            )
        columns = np.arange(number)
    rows = encoder.haplotypes
    if rows is None or rows == len(columns):
        return columns
    if rows > len(columns):
        what = "individuals" if columns.ndim == 2 else "haplotypes"
        raise ValueError(
            f"the encoder takes {rows} {what}, and there are {len(columns)}; train for that many, or for any number "
            "with haplotypes=None and input_shape[0]=None"
        )
    rng = np.random.default_rng([encoder.choice_seed, choice])
    return columns[np.sort(rng.choice(len(columns), rows, replace=False))]


def check_encoder(encoder: Any, input_shape: Sequence[int | None]) -> None:
    """Raise an error if something is no encoder, or one of datasets that a network does not take; None is good."""
    if encoder is None:
        return
    if not (hasattr(encoder, "plain") and isinstance(encoder.plain(), HaplotypeEncoder)):
        raise TypeError(f"encoder must be a HaplotypeEncoder, or what its like() makes, got {encoder!r}")
    if tuple(encoder.shape) != tuple(input_shape):
        raise ValueError(f"encoder makes datasets of shape {encoder.shape}, input_shape is {tuple(input_shape)}")


def check_classes(classes: Any, output_shape: Sequence[int]) -> tuple[str, ...] | None:
    """Return the names of what a network predicts as a tuple, or raise an error; None is good."""
    if classes is None:
        return None
    is_text = isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)
    if (
        not is_text
        or not all(re.fullmatch(r"\w[\w.+-]*", name) for name in classes)
        or len(set(classes)) < len(classes)
    ):
        raise ValueError(
            f'classes must be different names of letters, digits and ._+-, such as ("flat", "hotspot"), got {classes!r}'
        )
    if (len(classes),) != tuple(output_shape):
        raise ValueError(f"classes has {len(classes)} names, output_shape is {tuple(output_shape)}")
    return tuple(classes)


def name_with_encoder(simulator: str, encoder: HaplotypeEncoder | LikeData | None) -> str:
    """The name of a simulator for a store of simulations: with another encoder it gives other data."""
    if encoder is None:
        return simulator
    description = json.dumps(encoder.as_dict() | {"data": encoder.digest()}, sort_keys=True)
    return f"{simulator} with encoder {hashlib.sha256(description.encode()).hexdigest()[:16]}"
