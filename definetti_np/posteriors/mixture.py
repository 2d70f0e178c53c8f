"""Mixtures of Gaussians with full covariances, and one Gaussian: loss and posterior."""

import math
from collections.abc import Mapping

import numpy as np

from .. import ops
from ..engine.tensor import Tensor
from ..heads import MixtureSpec
from ..ops.densities import Mixtures
from .head import Head
from .posterior import Posterior, one_label

HALVINGS = 60  # of an interval that holds a quantile


class MixtureHead(Head[MixtureSpec]):
    """A mixture of K Gaussians; ``("gaussian",)`` is one of K = 1."""

    def losses(self, x: Tensor, labels: np.ndarray, parameters: Mapping[str, Tensor]) -> Tensor:
        """The negative logarithms of the density."""
        return self.log_volume - ops.mixture_log_density(x, self.scale(labels), self.spec.components)

    def posterior(
        self, numbers: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float | None = None
    ) -> "MixturePosterior":
        """The mixtures; a temperature multiplies the standard deviations of the components."""
        if temperature is not None:
            numbers = self._wider(numbers, temperature)
        mixtures = Mixtures(numbers.astype(np.float64), self.spec.components, self.spec.labels)
        half = self.box.width / 2
        means = self.unscale(mixtures.means)
        with np.errstate(all="ignore"):
            factors = np.linalg.inv(mixtures.factors).swapaxes(-1, -2) * half[:, None]  # A A^T is the covariance
        return MixturePosterior(numbers, self, np.exp(mixtures.log_weights()), means, factors)

    def log_densities(
        self, numbers: np.ndarray, labels: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float
    ) -> np.ndarray:
        """The log densities (B,)."""
        return -self.losses(Tensor(self._wider(numbers, temperature)), labels, {}).array

    def _wider(self, numbers: np.ndarray, temperature: float) -> np.ndarray:
        """The numbers of mixtures whose factors of the precision are divided by the temperature."""
        mixtures = Mixtures(numbers, self.spec.components, self.spec.labels)
        factors = mixtures.factors / temperature
        diagonal = mixtures.diagonal
        factors[..., diagonal, diagonal] = mixtures.logs - np.log(temperature)
        wider = numbers.copy()
        wider[:, mixtures.first_factor :] = factors[:, :, *mixtures.triangle].reshape(len(numbers), -1)
        return wider


class MixturePosterior(Posterior):
    """Posteriors that are mixtures of Gaussians; densities, means and quantiles have formulas.

    Attributes
    ----------
    weights
        (B, K).
    means
        (B, K, N).
    """

    def __init__(
        self, numbers: np.ndarray, head: MixtureHead, weights: np.ndarray, means: np.ndarray, factors: np.ndarray
    ):
        super().__init__(numbers, head.box)
        self._head = head
        self.weights = weights
        self.means = means
        self._factors = factors  # (B, K, N, N)

    def covariances(self) -> np.ndarray:
        """The covariances of the components, (B, K, N, N)."""
        return np.einsum("bkij,bklj->bkil", self._factors, self._factors)

    def mean(self) -> np.ndarray:
        """The means, (B, N)."""
        return np.einsum("bk,bkn->bn", self.weights, self.means)

    def std(self) -> np.ndarray:
        """The standard deviations, (B, N)."""
        between = (self.means - self.mean()[:, None]) ** 2
        return np.sqrt(np.einsum("bk,bkn->bn", self.weights, self._variances() + between))

    def scales(self) -> np.ndarray:
        """The standard deviations of the components, (B, K, N)."""
        return np.sqrt(self._variances())

    def _variances(self) -> np.ndarray:
        return np.einsum("bkij,bkij->bki", self._factors, self._factors)

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        ends = np.cumsum(self.weights[b])
        which = np.searchsorted(ends / ends[-1], rng.random(n), side="right")
        deviates = rng.standard_normal((n, len(self.names)))
        for k in range(len(ends)):
            deviates[which == k] = np.einsum("ij,nj->ni", self._factors[b, k], deviates[which == k])
        return self.means[b, which] + deviates

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        numbers = self._numbers[b : b + 1].astype(np.float64)
        components = self._head.spec.components
        numbers = np.broadcast_to(numbers, (len(theta), numbers.shape[1]))
        with np.errstate(all="ignore"):
            logs = ops.mixture_log_density(numbers, self._head.scale(theta), components).array
        return logs - self._head.log_volume

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        return quantiles_of_mixtures(self.weights, self.means, self.scales(), levels)

    def _marginal(self, i: int) -> Posterior:
        return MixtureOfOne(self.weights, self.means[..., i], self.scales()[..., i], self, i)


class MixtureOfOne(Posterior):
    """Mixtures of Gaussians of one label, of weights, means and standard deviations (B, K)."""

    def __init__(self, weights: np.ndarray, means: np.ndarray, scales: np.ndarray, joint: MixturePosterior, i: int):
        super().__init__(joint._numbers, one_label(joint._box, i))
        self._weights, self._means, self._scales = weights, means, scales
        self._joint, self._label = joint, i

    def mean(self) -> np.ndarray:
        """The means, (B, 1)."""
        return self._joint.mean()[:, self._label, None]

    def std(self) -> np.ndarray:
        """The standard deviations, (B, 1)."""
        return self._joint.std()[:, self._label, None]

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        return self._joint._quantiles(levels)[..., self._label, None]

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._joint._draw(b, n, rng)[:, self._label, None]

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            z = (theta - self._means[b]) / self._scales[b]
            logs = np.log(self._weights[b]) - 0.5 * z * z - np.log(self._scales[b] * math.sqrt(2 * math.pi))
        return np.logaddexp.reduce(logs, axis=1)

    def _marginal(self, i: int) -> Posterior:
        return self


def quantiles_of_mixtures(weights: np.ndarray, means: np.ndarray, scales: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Where the distribution function of each label has a level, by halving, (B, Q, N).

    weights (B, K), means and scales (B, K, N), levels (Q,).
    """
    means, scales = means[:, None], scales[:, None]  # (B, 1, K, N)
    low = (means - 40 * scales).min(axis=2) + np.zeros((1, len(levels), 1))
    high = (means + 40 * scales).max(axis=2) + np.zeros((1, len(levels), 1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = normal_cdf((middle[:, :, None] - means) / scales)
        is_low = np.einsum("bk,bqkn->bqn", weights, below) < levels[:, None]
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return (low + high) / 2


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def normal_cdf(x: np.ndarray) -> np.ndarray:
    """The distribution function of the standard normal distribution."""
    return 0.5 * _erfc(-x / math.sqrt(2))
