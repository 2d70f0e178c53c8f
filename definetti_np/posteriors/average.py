"""The average of posteriors, that of an ensemble: each of K members is right with probability 1 / K."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..heads import LabelBox
from .posterior import Posterior


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
        squares = [posterior.std() ** 2 + posterior.mean() ** 2 for posterior in self.members]
        return np.sqrt(np.maximum(np.mean(squares, axis=0) - self.mean() ** 2, 0))

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        which = rng.integers(len(self.members), size=n)
        draws = np.stack([posterior._draw(b, n, rng) for posterior in self.members])
        return draws[which, np.arange(n)]

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        logs = np.stack([posterior._log_prob(b, theta) for posterior in self.members])
        return np.logaddexp.reduce(logs, axis=0) - np.log(len(self.members))

    def _points(self, b: int) -> np.ndarray:
        return np.concatenate([posterior._points(b) for posterior in self.members])
