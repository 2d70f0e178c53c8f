"""`Posterior`: what every posterior of continuous labels can be asked."""

from __future__ import annotations

import hashlib
import numbers
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..checks import as_integer
from ..heads import LabelBox

POINTS = 512  # of a fixed sequence, of which means are computed that have no formula
POINTS_OF_QUANTILES = 4096  # because quantiles need more of them


class Posterior(ABC):
    """Posteriors of N continuous labels given each of B datasets.

    Attributes
    ----------
    names
        The names of the labels.
    label_range
        The lowest and the highest number of each label, or None.
    """

    def __init__(self, numbers: np.ndarray, box: LabelBox):
        self._numbers = numbers
        self._box = box
        self.names = box.names
        self.label_range = box.ranges

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {', '.join(self.names)} for {len(self)} datasets"

    def sample(self, n: int, *, seed: int) -> np.ndarray:
        """Draw n samples of each posterior, (B, n, N) float64.

        The draws of a dataset depend on the seed and on what the network computes of it, and so neither on the datasets
        beside it nor on threads; equal datasets get equal draws.
        """
        n = as_integer(n, "n", minimum=1)
        seed = as_integer(seed, "seed", minimum=0)
        draws = [self._draw(b, n, _generator(seed, self._numbers[b])) for b in range(len(self))]
        return np.stack(draws) if draws else np.empty((0, n, len(self.names)))

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        """The logarithm of the density at theta, in the units of the labels.

        theta (B, N) gives (B,), one label for each dataset; theta (B, n, N) gives (B, n). Outside of `label_range` a
        density that knows of it is 0, and its logarithm minus infinity.
        """
        theta = np.asarray(theta, np.float64)
        if theta.ndim not in (2, 3) or theta.shape[0] != len(self) or theta.shape[-1] != len(self.names):
            wanted = f"({len(self)}, {len(self.names)}) or ({len(self)}, n, {len(self.names)})"
            raise ValueError(f"theta must have shape {wanted}, got {theta.shape}")
        if np.isnan(theta).any():
            raise ValueError("theta must be numbers, got NaN")
        several = theta if theta.ndim == 3 else theta[:, None]
        logs = [self._log_prob(b, several[b]) for b in range(len(self))]
        out = np.stack(logs) if logs else np.empty(several.shape[:2])
        return out if theta.ndim == 3 else out[:, 0]

    def check_labels(self, labels: np.ndarray, name: str) -> None:
        """Raise a ValueError that names the argument if one of labels (B, N) is outside of `label_range`."""
        self._box.check(labels, name)

    def mean(self) -> np.ndarray:
        """The means, (B, N)."""
        return self._of_points(lambda points: points.mean(axis=0))

    def std(self) -> np.ndarray:
        """The standard deviations, (B, N)."""
        return self._of_points(lambda points: points.std(axis=0))

    def quantile(self, q: float | np.ndarray) -> np.ndarray:
        """The quantiles of each label, (B, N) of one number q, (B, Q, N) of Q numbers between 0 and 1."""
        levels = _check_levels(q)
        out = self._quantiles(np.atleast_1d(levels))
        return out if levels.ndim else out[:, 0]

    def interval(self, mass: float) -> tuple[np.ndarray, np.ndarray]:
        """The lower and upper ends, each (B, N), of intervals of this mass with equal tails."""
        if isinstance(mass, bool) or not isinstance(mass, numbers.Real) or not 0 < mass < 1:
            raise ValueError(f"mass must be a number between 0 and 1, such as 0.9, got {mass!r}")
        low, high = np.moveaxis(self.quantile(np.array([0.5 - mass / 2, 0.5 + mass / 2])), 1, 0)
        return low, high

    def marginal(self, label: int | str) -> Posterior:
        """The posterior of one label alone, by its number or name."""
        return self._marginal(index_of(label, self.names))

    def to_arviz(self, *, samples: int = 1000, seed: int = 0, dataset: int = 0) -> Any:
        """Samples of one dataset's posterior for ArviZ: a DataTree with the group "posterior", one chain of each label.

        It needs the package arviz-base, which is part of ArviZ 1.
        """
        which = as_integer(dataset, "dataset", minimum=0)
        if which >= len(self):
            raise ValueError(f"dataset must be below {len(self)}, the number of datasets, got {which}")
        rng = _generator(as_integer(seed, "seed", minimum=0), self._numbers[which])
        draws = self._draw(which, as_integer(samples, "samples", minimum=1), rng)
        return arviz_tree("posterior", {name: draws[None, :, i] for i, name in enumerate(self.names)})

    @abstractmethod
    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        """Samples (n, N) of the posterior of dataset b."""

    @abstractmethod
    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        """The log density (n,) of theta (n, N) under the posterior of dataset b."""

    def _marginal(self, i: int) -> Posterior:
        return MarginalOfPoints(self, i)

    def _points(self, b: int, n: int) -> np.ndarray:
        """Points (n, N) that lie as the posterior of dataset b does; always the same ones."""
        return self._draw(b, n, np.random.default_rng(0))

    def _of_points(self, function: Any) -> np.ndarray:
        found = [function(self._points(b, POINTS)) for b in range(len(self))]
        return np.stack(found) if found else np.empty((0, len(self.names)))

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        found = [np.quantile(self._points(b, POINTS_OF_QUANTILES), levels, axis=0) for b in range(len(self))]
        return np.stack(found) if found else np.empty((0, len(levels), len(self.names)))


class MarginalOfPoints(Posterior):
    """The posterior of one label out of several, by samples and points of all; it has no formula of a density."""

    def __init__(self, joint: Posterior, i: int):
        super().__init__(joint._numbers, one_label(joint._box, i))
        self._joint, self._label = joint, i

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._joint._draw(b, n, rng)[:, self._label, None]

    def _points(self, b: int, n: int) -> np.ndarray:
        return self._joint._points(b, n)[:, self._label, None]

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        raise TypeError("the density of one label of a spline has no formula; use quantile, or a histogram of sample")

    def _marginal(self, i: int) -> Posterior:
        return self


def arviz_tree(group: str, variables: dict[str, np.ndarray]) -> Any:
    """A DataTree of ArviZ with one group of variables (chains, draws)."""
    try:
        from arviz_base import from_dict
    except ImportError:
        raise ImportError("to_arviz needs the package arviz-base: pip install arviz-base") from None
    return from_dict({group: variables})


def one_label(box: LabelBox, i: int) -> LabelBox:
    """What is known of label i alone."""
    return LabelBox((box.names[i],), None if box.ranges is None else (box.ranges[i],))


def index_of(label: int | str, names: tuple[str, ...]) -> int:
    """The number of a label that is given by number or name."""
    if isinstance(label, str):
        if label not in names:
            raise ValueError(f"label must be one of {names}, got {label!r}")
        return names.index(label)
    i = as_integer(label, "label", minimum=0)
    if i >= len(names):
        raise ValueError(f"label must be below {len(names)}, the number of labels, got {i}")
    return i


def _generator(seed: int, numbers_of_dataset: np.ndarray) -> np.random.Generator:
    digest = hashlib.sha256(np.ascontiguousarray(numbers_of_dataset).tobytes()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def _check_levels(q: Any) -> np.ndarray:
    levels = np.asarray(q, np.float64)
    if levels.ndim > 1 or not ((levels > 0) & (levels < 1)).all() or levels.size == 0:
        raise ValueError(f"q must be numbers between 0 and 1, got {q!r}")
    return levels
