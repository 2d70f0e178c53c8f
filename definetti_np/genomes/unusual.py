"""How unusual a window is among the simulations that a network was trained on.

A window is described by a few numbers: how many distinct rows it has, how many singletons and monomorphic SNPs, and
for each channel the mean and quantiles over the SNPs, such as those of the distances. A model keeps the numbers of
some of its simulations. How far a number lies from their median is measured in the width of their central 99 % on that
side, on a logarithmic scale, and the squares are added up.

A network of layer lists adds one number: how far the features of its last hidden layer lie from those of the
simulations, along their principal components. These features know how SNPs go together, as the other numbers do not. A
window is as unusual as its numbers are, or its features, whichever is more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..multiset import MultisetBatch
from .descriptions import describe_datasets, describe_windows, names_of, rounded
from .encoder import HaplotypeEncoder, Sites

if TYPE_CHECKING:
    from .likeness import LikeData

SIMULATIONS = 1000  # that are kept, the first of a run
FEWEST = 200  # that quantiles are taken of
INSIDE = 0.99  # of the simulations are called usual
MOST_OUTSIDE = 0.05  # of the windows of data that are like the simulations
FRESH_OUTSIDE = 0.025  # of simulations that are not of the sample: a network knows those that it was trained on
WINDOWS_KEPT = 2**16  # of the data, whose numbers are kept for a warning
VERSION = 2  # of the description of a sample; version 1 has no features
COMPONENTS = 10  # of the features of the last hidden layer
LEAST_SHARE = 1e-4  # of the variance of all features, for a component to be kept
MOST_FEATURES = 1024  # of which a model file keeps the components
MOST_BYTES = 2**27  # of simulations that are held until the network is trained
FEATURES = "features of the last hidden layer"  # the name of their distance among the numbers


@dataclass(frozen=True, eq=False)
class Features:
    """Where the features of the last hidden layer of the simulations lie: their middle and principal components.

    Attributes
    ----------
    middle
        (H,) float64, their means.
    axes
        (K, H) float64, the components, each divided by the standard deviation along it.
    rest
        The mean square of what is left of features without their components.
    """

    middle: np.ndarray
    axes: np.ndarray
    rest: float

    @classmethod
    def of(cls, hidden: np.ndarray) -> Features | None:
        """Find them for S simulations, (S, H), or None where the features are all the same, or too many."""
        if hidden.shape[1] > MOST_FEATURES or not np.isfinite(hidden).all():
            return None
        hidden = hidden.astype(np.float64)
        middle = rounded(hidden.mean(axis=0))
        _, lengths, axes = np.linalg.svd(hidden - middle, full_matrices=False)
        variances = np.square(lengths) / len(hidden)
        if not variances.sum() > 0:
            return None
        kept = np.count_nonzero(variances[:COMPONENTS] > LEAST_SHARE * variances.sum())
        rest = max(variances[kept:].sum(), LEAST_SHARE * variances.sum())
        return cls(middle, rounded(axes[:kept] / np.sqrt(variances[:kept, np.newaxis])), float(rounded(np.array(rest))))

    def distances(self, hidden: np.ndarray) -> np.ndarray:
        """How far features (B, H) lie from the middle, (B,): squares in units of what is usual, added up."""
        away = hidden - self.middle
        along = np.square(np.einsum("bh,kh->bk", away, self.axes))  # no BLAS: a row must not depend on others
        left = np.square(away).sum(axis=1) - (along / np.square(self.axes).sum(axis=1)).sum(axis=1)
        return rounded(along.sum(axis=1) + np.maximum(left, 0) / self.rest)


@dataclass(frozen=True, eq=False)
class Sample:
    """What the simulations of a training looked like.

    Attributes
    ----------
    names
        What the J numbers are.
    numbers
        (S, J) float64, those of S simulations.
    features
        Where the features of the last hidden layer lie, whose distance is the last number then; or None.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    features: Features | None = None

    def as_dict(self) -> dict[str, Any]:
        """What a file holds."""
        description: dict[str, Any] = {"names": list(self.names), "numbers": self.numbers.tolist()}
        if self.features is not None:
            features = {
                "middle": self.features.middle.tolist(),
                "axes": self.features.axes.tolist(),
                "rest": self.features.rest,
            }
            description |= {"version": VERSION, "features": features}
        return description

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Sample:
        """Make a sample of what `as_dict` has written, or raise a ValueError."""
        version = description.get("version", 1)
        if version not in range(1, VERSION + 1):
            raise ValueError(
                f"sample: version {version!r}, this definetti_np reads versions up to {VERSION}; it needs a newer "
                "definetti_np"
            )
        names = tuple(map(str, description["names"]))
        numbers = np.array(description["numbers"], np.float64)
        if numbers.ndim != 2 or numbers.shape[1] != len(names) or not len(numbers) or not np.isfinite(numbers).all():
            raise ValueError(f"sample: numbers of shape {numbers.shape} and {len(names)} names, finite, are needed")
        if version == 1:
            return cls(names, numbers)
        if names[-1] != FEATURES:
            raise ValueError("sample: features without their distances among the numbers")
        return cls(names, numbers, _features_of(description["features"]))

    def fits(self, encoder: HaplotypeEncoder, hidden_features: int | None) -> bool:
        """Whether it is of what an encoder makes, and of a network with so many features in its last hidden layer."""
        is_of_network = self.features is None or len(self.features.middle) == hidden_features
        return self.encoder_names == names_of(encoder) and is_of_network

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """What the numbers are that follow from a window alone."""
        return self.names if self.features is None else self.names[:-1]

    def unusual(self, numbers: np.ndarray) -> np.ndarray:
        """Which share of the simulations is less unusual than each window, (K,) between 0 and 1."""
        return np.searchsorted(self._ordered, self._scores(numbers)) / len(self._ordered)

    @cached_property
    def limits(self) -> np.ndarray:
        """The median of each number, and between which its central 99 % lie: (3, J), low, middle, high."""
        return _quantiles(self.numbers)

    @cached_property
    def _scaled_limits(self) -> np.ndarray:
        return _quantiles(self._scaled(self.numbers))

    @cached_property
    def _ordered(self) -> np.ndarray:
        return np.sort(self._scores(self.numbers))

    def _scores(self, numbers: np.ndarray) -> np.ndarray:
        """How far from the simulations windows lie, (K,)."""
        scores = self._scores_of_windows(numbers)
        if self.features is None:
            return scores
        # Ranks, because one of the two may be infinite, where a number is the same in nearly all simulations.
        return np.maximum(*map(np.searchsorted, self._ordered_apart, (scores, numbers[:, -1])))

    @cached_property
    def _ordered_apart(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores and the distances of features of the simulations, ascending."""
        return np.sort(self._scores_of_windows(self.numbers)), np.sort(self.numbers[:, -1])

    def _scores_of_windows(self, numbers: np.ndarray) -> np.ndarray:
        """How far from the middle of the simulations the numbers lie that follow from windows alone, (K,)."""
        number = len(self.encoder_names)
        low, middle, high = self._scaled_limits[:, :number]
        numbers = self._scaled(numbers)[:, :number]
        with np.errstate(divide="ignore", invalid="ignore"):
            away = (numbers - middle) / np.where(numbers > middle, high - middle, middle - low)
        return np.square(np.where(numbers == middle, 0, away)).sum(axis=1)

    def _scaled(self, numbers: np.ndarray) -> np.ndarray:
        """Logarithms, because what is a tenth of the median is then as far away as what is ten times as large."""
        middle = self.limits[1]
        return np.log(np.maximum(numbers, 0) + np.where(middle > 0, middle / 10, 1))


class Comparison:
    """Compares data with a sample, part by part, and says once if they are not like it.

    Parameters
    ----------
    sample
        What the simulations looked like.
    encoder
        What they were encoded with.
    """

    def __init__(self, sample: Sample, encoder: HaplotypeEncoder):
        self._sample, self._encoder = sample, encoder
        self._windows = self._unusual = 0
        self._outside = np.zeros(len(sample.names), np.int64)  # windows that lie outside in this number
        self._first: list[np.ndarray] = []  # numbers of the first windows, for their median

    @property
    def features(self) -> Features | None:
        """What tells the distances of features of the last hidden layer."""
        return self._sample.features

    def of_datasets(self, data: MultisetBatch, hidden: np.ndarray | None) -> np.ndarray:
        """How unusual datasets are, (B,) float32, whose features of the last hidden layer are (B, H)."""
        distances = None if self.features is None or hidden is None else self.features.distances(hidden)
        return self._add(describe_datasets(self._encoder, data), distances)

    def of_windows(self, sites: Sites, first: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """How unusual the windows are that begin at these sites, (K,) float32, with such distances (K,)."""
        return self._add(describe_windows(sites, first), distances)

    def _add(self, numbers: np.ndarray, distances: np.ndarray | None) -> np.ndarray:
        if self.features is not None and distances is not None:
            numbers = np.column_stack([numbers, distances])
        unusual = self._sample.unusual(numbers)
        low, _, high = self._sample.limits
        if self._windows < WINDOWS_KEPT:
            self._first.append(numbers[: WINDOWS_KEPT - self._windows])
        self._windows += len(numbers)
        self._unusual += int(np.count_nonzero(unusual > INSIDE))
        self._outside += np.count_nonzero((numbers < low) | (numbers > high), axis=0)
        return unusual.astype(np.float32)

    def warning(self) -> str | None:
        """What to say if the data are not like the simulations: which number is not, and by how much; else None."""
        if self._unusual <= most_outside(self._windows):
            return None
        j = int(np.argmax(self._outside))
        here = np.median(np.concatenate(self._first)[:, j])
        low, middle, high = self._sample.limits[:, j]
        return (
            f"{100 * self._unusual / self._windows:.0f} % of the windows lie outside {100 * INSIDE:.0f} % of the "
            f"training's simulations, most in {self._sample.names[j]}: {here:.3g} in the middle, in the simulations "
            f"{middle:.3g} ({low:.3g} to {high:.3g}); predictions for such data may be wrong"
        )


def most_outside(windows: int) -> float:
    """How many of the windows of data may lie outside without a warning.

    Of few windows more than `MOST_OUTSIDE` do so by chance: the data are like the simulations, but more than this many
    lie outside once in 300 times at most.
    """
    by_chance = FRESH_OUTSIDE * windows
    return max(MOST_OUTSIDE * windows, by_chance + 3.2 * math.sqrt(by_chance) + 0.8)


def _features_of(description: Mapping[str, Any]) -> Features:
    """The features that a file describes, or a ValueError."""
    middle, axes, rest = (np.array(description[name], np.float64) for name in ("middle", "axes", "rest"))
    is_finite = all(np.isfinite(array).all() for array in (middle, axes, rest))
    if (middle.ndim, axes.shape[1:], rest.shape) != (1, middle.shape, ()) or not is_finite or not rest > 0:
        raise ValueError(f"sample: features with a middle of shape {middle.shape}, axes of {axes.shape}, rest {rest}")
    if not len(axes) or not np.abs(axes).max(axis=1).min() > 0:
        raise ValueError("sample: features without components")
    return Features(middle, axes, float(rest))


def _quantiles(numbers: np.ndarray) -> np.ndarray:
    """The median of each number, and what lies between which its central 99 % are: (3, J), low, middle, high."""
    return np.quantile(numbers, [(1 - INSIDE) / 2, 0.5, (1 + INSIDE) / 2], axis=0)


class Collector:
    """Holds the first simulations of a run, until its network is trained.

    Parameters
    ----------
    encoder
        The encoder of the run, or None for a run that has none, and collects nothing.
    """

    def __init__(self, encoder: HaplotypeEncoder | LikeData | None):
        self._encoder = None if encoder is None else encoder.plain()
        self._numbers: list[np.ndarray] = []
        self._held: list[MultisetBatch] = []
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._numbers))

    def add(self, data: MultisetBatch) -> None:
        """Look at the simulations of a batch, if there are not enough yet."""
        missing = min(SIMULATIONS - len(self), len(data))
        if self._encoder is None or missing <= 0:
            return
        data = data.slice(0, missing)
        self._numbers.append(describe_datasets(self._encoder, data))
        self._bytes += data.rows.nbytes
        if self._bytes <= MOST_BYTES:
            self._held.append(data)

    def sample(self, hidden_of: Callable[[MultisetBatch], np.ndarray | None] | None = None) -> Sample | None:
        """What was collected, or None if it is too little.

        Parameters
        ----------
        hidden_of
            Computes the features (B, H) of the last hidden layer of a batch, or None for a network without one.
        """
        if self._encoder is None or len(self) < FEWEST:
            return None
        numbers, names = np.concatenate(self._numbers), names_of(self._encoder)
        held = sum(map(len, self._held))
        parts = [] if hidden_of is None or held < FEWEST else [hidden_of(data) for data in self._held]
        hidden = [part for part in parts if part is not None]
        features = Features.of(np.concatenate(hidden)) if hidden else None
        if features is None:
            return Sample(names, numbers)
        distances = features.distances(np.concatenate(hidden))
        return Sample((*names, FEATURES), np.column_stack([numbers[:held], distances]), features)
