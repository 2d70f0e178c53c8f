"""Quantiles of each label: loss and posterior."""

from collections.abc import Mapping

import numpy as np

from .. import ops
from ..engine.tensor import Tensor
from ..heads import QuantilesSpec
from .head import Head
from .posterior import Posterior, one_label


class QuantilesHead(Head[QuantilesSpec]):
    """Quantiles that ascend by construction: the lowest one, and positive steps."""

    def losses(self, x: Tensor, labels: np.ndarray, parameters: Mapping[str, Tensor]) -> Tensor:
        """The pinball losses, in the units of the head."""
        levels = self.spec.arguments
        return ops.pinball(ops.reshape(self._values(x), x.shape), self.scale(labels), levels)

    takes_temperature = False

    def posterior(
        self, numbers: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float | None = None
    ) -> "QuantilesPosterior":
        """The quantiles."""
        values = self._values(Tensor(numbers.astype(np.float64))).array  # (B, N, Q)
        quantiles = self.unscale(values.swapaxes(1, 2))
        return QuantilesPosterior(np.maximum.accumulate(quantiles, axis=1), self)

    def log_densities(
        self, numbers: np.ndarray, labels: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float
    ) -> np.ndarray:
        """Not known."""
        raise TypeError("quantiles have no density, and no temperature")

    def _values(self, x: Tensor) -> Tensor:
        """The quantiles (B, N, Q) in the units of the head."""
        number = len(self.spec.arguments)
        x = ops.reshape(x, (x.shape[0], self.spec.labels, number))
        # The steps are so long at first that the quantiles fill the range.
        steps = ops.softplus(x[:, :, 1:]) * (2 / np.log(2) / number)
        lowest = x[:, :, :1] - (number - 1) / number
        sums = ops.concatenate([lowest, steps], axis=2)
        return ops.matmul(sums, np.triu(np.ones((number, number))))


class QuantilesPosterior(Posterior):
    """Quantiles of the posterior of each label, with straight lines between them; outside nothing is known."""

    def __init__(self, quantiles: np.ndarray, head: QuantilesHead):
        super().__init__(quantiles, head.box)
        self._head = head
        self.levels = head.spec.arguments

    def mean(self) -> np.ndarray:
        """The means, (B, N), of straight lines between the quantiles; what is outside lies on the outermost ones."""
        levels = np.array([0.0, *self.levels, 1.0])
        ends = np.concatenate([self._numbers[:, :1], self._numbers, self._numbers[:, -1:]], axis=1)
        return (np.diff(levels)[:, None] * (ends[:, 1:] + ends[:, :-1]) / 2).sum(axis=1)

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        known = np.array(self.levels)
        outside = levels[(levels < known[0] - 1e-12) | (levels > known[-1] + 1e-12)]
        if len(outside):
            raise ValueError(
                f"q must be from {known[0]:g} to {known[-1]:g}, the outermost quantiles of the head, got "
                f"{outside[0]:g}; train with more quantiles, or with another head"
            )
        right = np.clip(np.searchsorted(known, levels), 1, max(len(known) - 1, 1))
        if len(known) == 1:
            return np.repeat(self._numbers, len(levels), axis=1)
        share = (levels - known[right - 1]) / (known[right] - known[right - 1])
        low, high = self._numbers[:, right - 1], self._numbers[:, right]
        return low + share[:, None] * (high - low)

    def std(self) -> np.ndarray:
        """Not known."""
        raise self._refusal("a standard deviation")

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        raise self._refusal("samples")

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        raise self._refusal("a density")

    def _marginal(self, i: int) -> Posterior:
        spec = QuantilesSpec(self.levels, 1)
        return QuantilesPosterior(self._numbers[..., i, None], QuantilesHead(spec, one_label(self._box, i)))

    def _refusal(self, what: str) -> TypeError:
        return TypeError(
            f"quantiles do not tell {what}; use quantile or interval, or the head ('spline', bins) or ('mixture', K)"
        )
