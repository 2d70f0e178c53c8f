"""The average of posteriors, that of an ensemble: each of K members is right with probability 1 / K."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..heads import LabelBox
from .mixture import MixturePosterior, quantiles_of_mixtures
from .posterior import MarginalOfPoints, Posterior


class AveragePosterior(Posterior):
    """A mixture of the posteriors of several models, with equal weights."""

    def __init__(self, members: Sequence[Posterior], box: LabelBox):
        numbers = [
            posterior._numbers.reshape(len(posterior), math.prod(posterior._numbers.shape[1:])) for posterior in members
        ]
        super().__init__(np.concatenate(numbers, axis=1), box)
        self.members = tuple(members)

    def mean(self) -> np.ndarray:
        """The means, (B, N)."""
        return np.mean([posterior.mean() for posterior in self.members], axis=0)

    def std(self) -> np.ndarray:
        """The standard deviations, (B, N)."""
        mean = self.mean()
        squares = [posterior.std() ** 2 + (posterior.mean() - mean) ** 2 for posterior in self.members]
        return np.sqrt(np.mean(squares, axis=0))

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        which = rng.integers(len(self.members), size=n)
        draws = np.stack([posterior._draw(b, n, rng) for posterior in self.members])
        return draws[which, np.arange(n)]

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        logs = np.stack([posterior._log_prob(b, theta) for posterior in self.members])
        return np.logaddexp.reduce(logs, axis=0) - np.log(len(self.members))

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        """Those of Gaussians have a formula, others are found from the points of all members."""
        mixtures = [posterior for posterior in self.members if isinstance(posterior, MixturePosterior)]
        if len(mixtures) < len(self.members):
            return super()._quantiles(levels)
        weights = np.concatenate([mixture.weights for mixture in mixtures], axis=1) / len(mixtures)
        means = np.concatenate([mixture.means for mixture in mixtures], axis=1)
        scales = np.concatenate([mixture.scales() for mixture in mixtures], axis=1)
        return quantiles_of_mixtures(weights, means, scales, levels)

    def _marginal(self, i: int) -> Posterior:
        return self if len(self.names) == 1 else MarginalOfAverage(self, i)

    def _points(self, b: int, n: int) -> np.ndarray:
        return np.concatenate([posterior._points(b, n) for posterior in self.members])


class MarginalOfAverage(MarginalOfPoints):
    """One label of an average: all that the members tell of theirs."""

    def __init__(self, joint: AveragePosterior, i: int):
        super().__init__(joint, i)
        self._members = joint.members

    def mean(self) -> np.ndarray:
        """The means, (B, 1)."""
        return self._joint.mean()[:, self._label, None]

    def std(self) -> np.ndarray:
        """The standard deviations, (B, 1)."""
        return self._joint.std()[:, self._label, None]

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        return self._joint._quantiles(levels)[..., self._label, None]

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        members = [posterior.marginal(self._label) for posterior in self._members]
        logs = np.stack([posterior._log_prob(b, theta) for posterior in members])
        return np.logaddexp.reduce(logs, axis=0) - np.log(len(members))
