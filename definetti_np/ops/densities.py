"""What posteriors of continuous labels are made of: mixtures of Gaussians, monotone splines, the loss of quantiles."""

import math
from collections.abc import Sequence

import numpy as np

from ..engine.features import contiguous
from ..engine.tensor import Tensor
from ..kernels import spline as kernels
from .losses import prediction_and_labels
from .operands import Operand, operation, tensor_of, tensors_of

LARGEST_LOG_SCALE = 12.0  # of the precision's factor, either sign: so that no covariance is singular in floats


def mixture_size(components: int, labels: int) -> int:
    """How many numbers describe a mixture of Gaussians of so many labels, each with a full covariance."""
    weights = components if components > 1 else 0
    return weights + components * (labels + labels * (labels + 1) // 2)


class Mixtures:
    """Mixtures of K Gaussians of N labels, of B datasets, as the numbers (B, M) describe them.

    These are K logits of weights, if K > 1; K N means; and for each component the factor L of its precision L L^T, row
    by row of its lower triangle, the diagonal as logarithms.
    """

    def __init__(self, numbers: np.ndarray, components: int, labels: int):
        datasets, dtype = len(numbers), numbers.dtype
        self.first_mean = components if components > 1 else 0
        self.first_factor = self.first_mean + components * labels
        self.logits = numbers[:, :components] if components > 1 else np.zeros((datasets, 1), dtype)
        self.means = numbers[:, self.first_mean : self.first_factor].reshape(datasets, components, labels)
        self.triangle = np.tril_indices(labels)
        self.diagonal = np.arange(labels)
        self.factors = np.zeros((datasets, components, labels, labels), dtype)
        each = len(self.triangle[0])
        self.factors[:, :, *self.triangle] = numbers[:, self.first_factor :].reshape(datasets, components, each)
        raw = self.factors[..., self.diagonal, self.diagonal]
        self.logs = np.clip(raw, -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)
        self.is_free = raw == self.logs  # where no limit holds, so that a gradient goes back
        self.factors[..., self.diagonal, self.diagonal] = np.exp(self.logs)

    def log_weights(self) -> np.ndarray:
        """(B, K)."""
        return self.logits - _logsumexp(self.logits)[:, None]

    def log_densities(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The logarithm of weight times density of each component (B, K), d = label - mean and L^T d, (B, K, N)."""
        d = labels[:, None] - self.means
        y = np.einsum("bkij,bki->bkj", self.factors, d)
        constant = 0.5 * math.log(2 * math.pi) * labels.shape[1]
        return self.log_weights() + self.logs.sum(-1) - 0.5 * (y * y).sum(-1) - y.dtype.type(constant), d, y


@operation
def mixture_log_density(x: Operand, labels: np.ndarray, components: int) -> Tensor:
    """The logarithm of a mixture's density at the labels, (B,): `components` Gaussians with full covariances.

    x (B, M) are what describes it: the logits of the weights where there are several components, means, and the factors
    L of the precisions L L^T, row by row of the lower triangle with the logarithms of the diagonal; labels (B, N).
    """
    x = contiguous(tensor_of("mixture_log_density", x))
    labels = np.ascontiguousarray(labels, x.array.dtype)
    size = mixture_size(components, labels.shape[-1]) if labels.ndim == 2 else 0
    if x.ndim != 2 or labels.ndim != 2 or x.shape != (len(labels), size):
        raise ValueError(
            f"mixture_log_density: {components} Gaussians of labels {labels.shape} take a Tensor "
            f"({len(labels)}, {size}), got {x.shape}"
        )
    mixtures = Mixtures(x.array, components, labels.shape[1])
    logs, d, y = mixtures.log_densities(labels)
    out = _logsumexp(logs)

    def backward(gradient):
        shares = np.exp(logs - out[:, None]) * gradient[:, None]  # (B, K)
        to_y = -shares[..., None] * y
        to_factors = np.einsum("bki,bkj->bkij", d, to_y)
        diagonal = mixtures.diagonal
        to_logs = shares[..., None] + to_factors[..., diagonal, diagonal] * np.exp(mixtures.logs)
        to_factors[..., diagonal, diagonal] = to_logs * mixtures.is_free
        to_x = np.empty_like(x.array)
        if components > 1:
            to_x[:, :components] = shares - np.exp(mixtures.log_weights()) * gradient[:, None]
        to_means = -np.einsum("bkij,bkj->bki", mixtures.factors, to_y)
        to_x[:, mixtures.first_mean : mixtures.first_factor] = to_means.reshape(len(labels), -1)
        to_x[:, mixtures.first_factor :] = to_factors[:, :, *mixtures.triangle].reshape(len(labels), -1)
        return (to_x,)

    return Tensor(out, (x,), backward)


def _logsumexp(x: np.ndarray) -> np.ndarray:
    """Along the last axis; of infinitely small numbers alone it is minus infinity, not NaN."""
    largest = x.max(-1, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0).astype(x.dtype)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - largest).sum(-1)) + largest[..., 0]


@operation
def pinball(x: Operand, labels: np.ndarray, quantiles: Sequence[float]) -> Tensor:
    """The summed loss of each dataset, (B,), that quantiles minimise (Koenker and Bassett 1978).

    x (B, N * Q) are the Q quantiles of each label, labels (B, N), `quantiles` Q numbers between 0 and 1. Each is worth
    ``q * (label - x)`` where the label is larger, else ``(1 - q) * (x - label)``.
    """
    levels = np.asarray(quantiles)
    given = np.asarray(labels)
    x, labels = prediction_and_labels("pinball", x, np.repeat(given, len(levels), axis=-1))
    every = np.tile(levels, given.shape[-1]).astype(labels.dtype)
    error = labels - x.array
    weights = np.where(error > 0, every, every - 1)
    out = (weights * error).sum(axis=-1)

    def backward(gradient):
        return (-weights * gradient[:, None],)

    return Tensor(out, (x,), backward)


@operation
def rational_quadratic(x: Operand, parameters: Operand) -> Tensor:
    """Monotone splines of the unit interval onto itself: the value and the logarithm of the slope, (R, 2).

    x (R,) between 0 and 1; parameters (R, 3 K + 1) of K bins: raw widths, raw heights, raw slopes at the K + 1 ends of
    bins; all of them 0 is the identity (Durkan et al. 2019).
    """
    x, parameters = map(contiguous, tensors_of("rational_quadratic", [x, parameters]))
    if x.ndim != 1 or parameters.ndim != 2 or len(parameters.array) != len(x.array) or parameters.shape[1] % 3 != 1:
        raise ValueError(
            f"rational_quadratic: takes numbers (R,) and parameters (R, 3 K + 1), got {x.shape} and {parameters.shape}"
        )
    if x.array.size and not 0 <= x.array.min() <= x.array.max() <= 1:
        raise ValueError(f"rational_quadratic: x must be between 0 and 1, got {x.array.min()} to {x.array.max()}")
    out = np.empty((len(x.array), 2), x.array.dtype)
    kernels.spline_forward(x.array, parameters.array, out)

    def backward(gradient):
        to_x, to_parameters = np.empty_like(x.array), np.empty_like(parameters.array)
        gradient = np.ascontiguousarray(gradient)
        kernels.spline_backward(gradient, x.array, parameters.array, to_x, to_parameters)
        return to_x, to_parameters

    return Tensor(out, (x, parameters), backward)
