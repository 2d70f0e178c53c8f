"""Are numbers uniform? The greatest departure of their distribution function, with simultaneous bands.

E examples, Z places between 0 and 1 at which distribution functions are compared (Säilynoja et al. 2022, section 2).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

PLACES = 50  # Z
SIMULATIONS = 2000  # of uniform numbers, from which the bands are found
FEWEST_EXAMPLES = 100  # for bands that say anything


@dataclass(frozen=True)
class Uniformity:
    """How uniform E numbers are.

    Attributes
    ----------
    places, fraction
        Where the distribution function is looked at, (Z,), and what it is there.
    low, high
        The band in which all of it lies in 95 of 100 cases if the numbers are uniform.
    p_value
        How often uniform numbers depart as much.
    """

    places: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_value: float

    @property
    def is_inside(self) -> bool:
        """Whether it lies within the band."""
        return bool(((self.low <= self.fraction) & (self.fraction <= self.high)).all())


def uniformity(numbers: np.ndarray) -> Uniformity:
    """Compare the distribution function of numbers (E,) between 0 and 1 with that of uniform ones."""
    examples = len(numbers)
    null = _null(examples)
    counts = _counts(numbers[None], null.places)[0]
    departure = null.tails[np.arange(PLACES), counts].min()
    p_value = (1 + (null.departures <= departure).sum()) / (1 + SIMULATIONS)
    is_within = null.tails > np.quantile(null.departures, 0.05)
    low = is_within.argmax(axis=1)
    high = examples - is_within[:, ::-1].argmax(axis=1)
    return Uniformity(null.places, counts / examples, low / examples, high / examples, float(p_value))


@dataclass(frozen=True)
class _Null:
    """What uniform numbers do: both tails of each count at each place (Z, E + 1), and the least one of simulations."""

    places: np.ndarray
    tails: np.ndarray
    departures: np.ndarray


@functools.lru_cache(maxsize=4)
def _null(examples: int) -> _Null:
    places = np.arange(1, PLACES + 1) / (PLACES + 1)
    tails = binomial_tails(examples, places)
    rng = np.random.default_rng(0)
    departures = np.empty(SIMULATIONS)
    for i in range(SIMULATIONS):
        counts = _counts(rng.random((1, examples)), places)[0]
        departures[i] = tails[np.arange(PLACES), counts].min()
    return _Null(places, tails, departures)


def _counts(numbers: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How many numbers (S, E) lie at most at each place, (S, Z)."""
    return np.stack([np.searchsorted(np.sort(row), places, side="right") for row in numbers])


def binomial_tails(examples: int, places: np.ndarray) -> np.ndarray:
    """Twice the smaller tail probability of each binomial count, (Z, E + 1)."""
    counts = np.arange(examples + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, examples + 1)))])
    log_choices = log_factorials[-1] - log_factorials - log_factorials[::-1]
    logs = log_choices + counts * np.log(places)[:, None] + (examples - counts) * np.log1p(-places)[:, None]
    probabilities = np.exp(logs)
    below = np.cumsum(probabilities, axis=1)
    above = np.cumsum(probabilities[:, ::-1], axis=1)[:, ::-1]
    return 2 * np.minimum(below, above)
