"""Log-softmax, and the losses that have a name."""

import numpy as np

from ..engine.features import RowFeatures, contiguous
from ..engine.tensor import Tensor
from ..kernels import loss as kernels
from .elementwise import subtract
from .operands import Operand, Result, describe, operation, resolve, tensor_of, tensors_of
from .reductions import logsumexp


@operation
def log_softmax(x: Operand, axis: int = -1) -> Result:
    """The logarithms of probabilities that are proportional to exp(x) along an axis."""
    x = resolve(x)
    if not isinstance(x, RowFeatures):
        (x,) = tensors_of("log_softmax", [x])
        if x.ndim == 2 and axis in (1, -1):
            return _log_softmax_of_datasets(contiguous(x))
    return subtract(x, logsumexp(x, axis, keepdims=True))


def _log_softmax_of_datasets(logits: Tensor) -> Tensor:
    """The same of each dataset, (B, N)."""
    out = np.empty_like(logits.array)
    kernels.log_softmax_forward(logits.array, out)

    def backward(gradient):
        logits_gradient = np.empty_like(out)
        kernels.log_softmax_backward(np.ascontiguousarray(gradient), out, logits_gradient)
        return (logits_gradient,)

    return Tensor(out, (logits,), backward)


@operation
def cross_entropy(log_probabilities: Operand, labels: np.ndarray) -> Tensor:
    """The mean over B datasets of ``-sum(labels * log_probabilities)``; both (B, N), the labels an array."""
    log_probabilities, labels = _prediction_and_labels("cross_entropy", log_probabilities, labels)
    losses = np.empty(len(labels), labels.dtype)
    kernels.cross_entropy_forward(log_probabilities.array, labels, losses)

    def backward(gradient):
        out = np.empty_like(labels)
        kernels.cross_entropy_backward(np.full_like(losses, gradient / len(losses)), labels, out)
        return (out,)

    return Tensor(np.asarray(losses.mean()), (log_probabilities,), backward)


@operation
def squared_error(estimates: Operand, labels: np.ndarray) -> Tensor:
    """The mean over B datasets of the summed squared error; both (B, N), the labels an array."""
    estimates, labels = _prediction_and_labels("squared_error", estimates, labels)
    losses = np.empty(len(labels), labels.dtype)
    kernels.squared_error_forward(estimates.array, labels, losses)

    def backward(gradient):
        out = np.empty_like(labels)
        means = np.full_like(losses, gradient / len(losses))
        kernels.squared_error_backward(means, estimates.array, labels, out)
        return (out,)

    return Tensor(np.asarray(losses.mean()), (estimates,), backward)


def _prediction_and_labels(name: str, prediction, labels) -> tuple[Tensor, np.ndarray]:
    """A prediction in the order of memory that kernels take, and labels of the same dtype."""
    prediction = contiguous(tensor_of(name, prediction))
    if isinstance(labels, (Tensor, RowFeatures)):
        raise TypeError(f"{name}: labels must be an array, to which no gradient goes, got {describe(labels)}")
    labels = np.ascontiguousarray(labels, prediction.array.dtype)
    if prediction.ndim != 2 or labels.shape != prediction.shape:
        raise ValueError(
            f"{name}: takes a prediction (B, N) and labels of its shape, got {prediction.shape} and {labels.shape}"
        )
    return prediction, labels
