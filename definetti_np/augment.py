"""Changes of simulated data that leave its label as it is: symmetries, fewer rows, and the errors of real data.

An augmentation is a function ``(rows (U, W, C), counts (U,), rng) -> (rows, counts)`` on the distinct rows of one
dataset and how often each occurs. It takes its randomness from `rng` alone, a `numpy.random.Generator`, and leaves W
and C as they are. The rows that it returns need not be distinct, nor in any order.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .checks import as_integer, name_of
from .multiset import merge_rows

__all__ = ["compose", "genotype_errors", "mirror", "subsample", "switch_errors"]

Rows = tuple[np.ndarray, np.ndarray]


def genotype_errors(rate: float | tuple[float, float], channel: int = 0) -> Callable:
    """Flip each allele of each row, 0 to 1 and 1 to 0, with some probability.

    Parameters
    ----------
    rate
        The probability; or ``(low, high)``, between which it is drawn for each dataset.
    channel
        Where the alleles are. What is neither 0 nor 1, such as a missing allele, stays as it is.
    """
    return _GenotypeErrors(_check_rates(rate, "genotype_errors: rate"), as_integer(channel, "channel", minimum=0))


def switch_errors(rate: float | tuple[float, float]) -> Callable:
    """Swap what comes after a position between the two rows of an individual, as wrong phasing does.

    Parameters
    ----------
    rate
        The probability of a switch between two neighbouring positions of an individual; or ``(low, high)``, between
        which it is drawn for each dataset. Individuals are pairs of rows, put together at random each time.
    """
    return _SwitchErrors(_check_rates(rate, "switch_errors: rate"))


def mirror(distances: int | tuple[int, ...] | None = 1, probability: float = 0.5) -> Callable:
    """Reverse the order of the positions.

    Parameters
    ----------
    distances
        The channel, or the channels, that hold distances to the next position, 0 at the last: they are shifted by one
        position, so that they still do. None for none.
    probability
        How often it happens; never for the others, which stay as they are.
    """
    channels = () if distances is None else distances if isinstance(distances, tuple) else (distances,)
    channels = tuple(as_integer(channel, "mirror: distances", minimum=0) for channel in channels)
    return _Mirror(channels, _check_rates(probability, "mirror: probability")[0])


def subsample(n: int) -> Callable:
    """Draw `n` rows without replacement.

    Parameters
    ----------
    n
        The number of rows; a dataset must have as many at least.
    """
    return _Subsample(as_integer(n, "subsample: n", minimum=1))


def compose(*augmentations: Callable) -> Callable:
    """Apply augmentations one after another, the first one first."""
    for i, augmentation in enumerate(augmentations):
        if not callable(augmentation):
            raise TypeError(f"compose: argument {i} must be a function (rows, counts, rng), got {augmentation!r}")
    return _Composition(augmentations)


def describe_augmentation(augmentation: Callable) -> str:
    """How an augmentation was made, in words that are the same in every process; of other functions the name."""
    return repr(augmentation) if isinstance(augmentation, _Augmentation) else str(name_of(augmentation))


def augment_rows(augmentation: Callable, rows: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Rows:
    """Apply an augmentation to one dataset, and return its distinct rows in canonical order with their counts.

    `rows` and `counts` are such, and are returned where the augmentation returns them as they are.

    Raises
    ------
    ValueError, TypeError
        If it does not return rows of the same W and C, finite, with a positive count each.
    """
    given = _read_only(rows), _read_only(counts)
    result = augmentation(*given, rng)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"augment must return a tuple (rows, counts), got {result!r}")
    if all(new is old for new, old in zip(result, given, strict=True)):
        return rows, counts
    new_rows, new_counts = map(np.asarray, result)
    if new_rows.ndim != 3 or new_rows.shape[1:] != rows.shape[1:] or new_rows.dtype.kind not in "biuf":
        raise ValueError(
            f"augment must return rows (U, W, C) of numbers with W and C as they were, {rows.shape[1:]}; got shape "
            f"{new_rows.shape} of {new_rows.dtype}"
        )
    if new_counts.shape != new_rows.shape[:1] or new_counts.dtype.kind not in "iu" or not len(new_counts):
        raise ValueError(
            f"augment must return an integer count for each of its {len(new_rows)} rows, and one row at least; got "
            f"shape {new_counts.shape} of {new_counts.dtype}"
        )
    if new_counts.min() < 1:
        raise ValueError(f"augment must return positive counts, got {new_counts.min()}; leave out rows that are gone")
    new_rows = new_rows.astype(rows.dtype)
    if not np.isfinite(new_rows).all():
        raise ValueError(f"augment must return finite rows, got {new_rows[~np.isfinite(new_rows)][0]}")
    return merge_rows(new_rows, new_counts)


@dataclass(frozen=True, repr=False)
class _Augmentation:
    """A function that says how it was made: two with the same text do the same."""

    made_by: ClassVar[str]

    def __repr__(self) -> str:
        values = [f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self)]
        return f"{self.made_by}({', '.join(values)})"


@dataclass(frozen=True, repr=False)
class _GenotypeErrors(_Augmentation):
    rate: tuple[float, float]
    channel: int
    made_by = "genotype_errors"

    def __call__(self, rows: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Rows:
        _check_channel(self.channel, rows, self.made_by)
        number, positions = int(counts.sum()), rows.shape[1]
        cells = _draw_cells(number * positions, rng.uniform(*self.rate), rng)
        changed, which = np.unique(cells // positions, return_inverse=True)
        owners = _rows_of(changed, counts)
        new = rows[owners]
        alleles = new[which, cells % positions, self.channel]
        is_allele = (alleles == 0) | (alleles == 1)
        new[which, cells % positions, self.channel] = np.where(is_allele, 1 - alleles, alleles)
        return _replace(rows, counts, owners, new)


@dataclass(frozen=True, repr=False)
class _SwitchErrors(_Augmentation):
    rate: tuple[float, float]
    made_by = "switch_errors"

    def __call__(self, rows: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Rows:
        number, gaps = int(counts.sum()), rows.shape[1] - 1
        cells = _draw_cells(number // 2 * gaps, rng.uniform(*self.rate), rng)
        individuals, which = np.unique(cells // max(gaps, 1), return_inverse=True)
        switches = np.zeros((len(individuals), rows.shape[1]), bool)
        switches[which, cells % max(gaps, 1) + 1] = True
        is_swapped = (np.cumsum(switches, axis=1) % 2 == 1)[:, :, np.newaxis]
        # Which two rows an individual has is as random as which individuals have switches.
        owners = _rows_of(rng.choice(number, 2 * len(individuals), replace=False), counts)
        first, second = rows[owners[::2]], rows[owners[1::2]]
        new = np.concatenate([np.where(is_swapped, second, first), np.where(is_swapped, first, second)])
        return _replace(rows, counts, owners, new)


@dataclass(frozen=True, repr=False)
class _Mirror(_Augmentation):
    distances: tuple[int, ...]
    probability: float
    made_by = "mirror"

    def __call__(self, rows: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Rows:
        for channel in self.distances:
            _check_channel(channel, rows, "mirror: distances")
        if rng.random() >= self.probability:
            return rows, counts
        new = rows[:, ::-1].copy()
        for channel in self.distances:
            new[:, :-1, channel] = new[:, 1:, channel]
            new[:, -1, channel] = 0
        return new, counts


@dataclass(frozen=True, repr=False)
class _Subsample(_Augmentation):
    n: int
    made_by = "subsample"

    def __call__(self, rows: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Rows:
        if (number := int(counts.sum())) < self.n:
            raise ValueError(f"subsample: n={self.n} rows of a dataset of {number}; n must be at most as many")
        drawn = rng.multivariate_hypergeometric(counts, self.n, method="marginals")
        return rows[drawn > 0], drawn[drawn > 0]


@dataclass(frozen=True, repr=False)
class _Composition(_Augmentation):
    augmentations: tuple[Callable, ...]

    def __call__(self, rows: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Rows:
        for augmentation in self.augmentations:
            rows, counts = augmentation(rows, counts, rng)
        return rows, counts

    def __repr__(self) -> str:
        return f"compose({', '.join(map(describe_augmentation, self.augmentations))})"


def _draw_cells(number: int, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Each of so many cells with this probability, independently."""
    return rng.choice(number, rng.binomial(number, rate), replace=False)


def _rows_of(members: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The distinct row of each member of a dataset: the first ``counts[0]`` of them are row 0, and so on."""
    return np.searchsorted(np.cumsum(counts), members, side="right")


def _replace(rows: np.ndarray, counts: np.ndarray, owners: np.ndarray, new: np.ndarray) -> Rows:
    """Take one row away for each of `owners`, and add rows that occur once."""
    left = counts - np.bincount(owners, minlength=len(counts))
    kept = left > 0
    return np.concatenate([rows[kept], new]), np.concatenate([left[kept], np.ones(len(new), np.int64)])


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_channel(channel: int, rows: np.ndarray, name: str) -> None:
    if channel >= rows.shape[2]:
        raise ValueError(f"{name}: there are {rows.shape[2]} channels, from 0 on, got channel {channel}")


def _check_rates(rate: Any, name: str) -> tuple[float, float]:
    """Return a probability as (low, high), or raise an error that names it."""
    low, high = rate if isinstance(rate, (tuple, list)) and len(rate) == 2 else (rate, rate)
    for value in (low, high):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
            raise TypeError(f"{name} must be a probability, or (low, high), got {rate!r}")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, low before high, got {rate!r}")
    return float(low), float(high)
