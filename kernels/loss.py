"""Log-softmax and the losses of each dataset.

B    datasets
N    outputs of the network
"""

import numpy as np

from ._jit import Kernel, blocks_of

DATASETS_PER_BLOCK = 16  # datasets in a block


def log_softmax_forward(logits: np.ndarray, out: np.ndarray) -> None:
    """Write the logarithms of the softmax of each row. logits, out (B, N)."""
    _log_softmax_forward(blocks_of(len(out), DATASETS_PER_BLOCK), logits, out)


@Kernel
def _log_softmax_forward(block, arguments):
    logits, out = arguments[0]
    for b in range(block * DATASETS_PER_BLOCK, min((block + 1) * DATASETS_PER_BLOCK, out.shape[0])):
        largest = logits[b, 0]
        for n in range(1, logits.shape[1]):
            largest = max(largest, logits[b, n])
        total = logits.dtype.type(0)
        for n in range(logits.shape[1]):
            total += np.exp(logits[b, n] - largest)
        log_total = np.log(total)
        for n in range(logits.shape[1]):
            out[b, n] = logits[b, n] - largest - log_total


def log_softmax_backward(gradient: np.ndarray, log_probabilities: np.ndarray, out: np.ndarray) -> None:
    """Write ``gradient - exp(log_probabilities) * sum(gradient)``. gradient, log_probabilities, out (B, N)."""
    _log_softmax_backward(blocks_of(len(out), DATASETS_PER_BLOCK), gradient, log_probabilities, out)


@Kernel
def _log_softmax_backward(block, arguments):
    gradient, log_probabilities, out = arguments[0]
    for b in range(block * DATASETS_PER_BLOCK, min((block + 1) * DATASETS_PER_BLOCK, out.shape[0])):
        total = gradient[b, 0]
        for n in range(1, out.shape[1]):
            total += gradient[b, n]
        for n in range(out.shape[1]):
            out[b, n] = gradient[b, n] - np.exp(log_probabilities[b, n]) * total


def cross_entropy_forward(log_probabilities: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """Write ``-sum_n labels[b, n] * log_probabilities[b, n]`` to ``out[b]``. out (B,), the others (B, N)."""
    _cross_entropy_forward(blocks_of(len(out), DATASETS_PER_BLOCK), log_probabilities, labels, out)


@Kernel
def _cross_entropy_forward(block, arguments):
    log_probabilities, labels, out = arguments[0]
    for b in range(block * DATASETS_PER_BLOCK, min((block + 1) * DATASETS_PER_BLOCK, out.shape[0])):
        out[b] = 0
        for n in range(labels.shape[1]):
            if labels[b, n] != 0:  # 0 * log 0 = 0
                out[b] -= labels[b, n] * log_probabilities[b, n]


def cross_entropy_backward(gradient: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """Write ``-gradient[b] * labels[b, n]``. gradient (B,), labels, out (B, N)."""
    _cross_entropy_backward(blocks_of(len(out), DATASETS_PER_BLOCK), gradient, labels, out)


@Kernel
def _cross_entropy_backward(block, arguments):
    gradient, labels, out = arguments[0]
    for b in range(block * DATASETS_PER_BLOCK, min((block + 1) * DATASETS_PER_BLOCK, out.shape[0])):
        for n in range(labels.shape[1]):
            out[b, n] = -gradient[b] * labels[b, n]


def squared_error_forward(estimates: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """Write ``sum_n (estimates[b, n] - labels[b, n]) ** 2`` to ``out[b]``. out (B,), the others (B, N)."""
    _squared_error_forward(blocks_of(len(out), DATASETS_PER_BLOCK), estimates, labels, out)


@Kernel
def _squared_error_forward(block, arguments):
    estimates, labels, out = arguments[0]
    for b in range(block * DATASETS_PER_BLOCK, min((block + 1) * DATASETS_PER_BLOCK, out.shape[0])):
        out[b] = 0
        for n in range(labels.shape[1]):
            out[b] += (estimates[b, n] - labels[b, n]) ** 2


def squared_error_backward(gradient: np.ndarray, estimates: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """Write ``2 * gradient[b] * (estimates - labels)``. gradient (B,), the others (B, N)."""
    _squared_error_backward(blocks_of(len(out), DATASETS_PER_BLOCK), gradient, estimates, labels, out)


@Kernel
def _squared_error_backward(block, arguments):
    gradient, estimates, labels, out = arguments[0]
    for b in range(block * DATASETS_PER_BLOCK, min((block + 1) * DATASETS_PER_BLOCK, out.shape[0])):
        for n in range(labels.shape[1]):
            out[b, n] = 2 * gradient[b] * (estimates[b, n] - labels[b, n])
