"""Training steps on batches that the caller supplies."""

import math

import numpy as np

from . import operations
from .checks import as_integer, as_positive_number
from .cores import available_cores
from .kernels._jit import threads as kernel_threads
from .losses import check_accuracy, check_labels, check_loss, classification_accuracy
from .multiset import as_floats
from .network import Network
from .optimizers import Adam
from .tensor import backpropagate
from .workspace import Workspace

LOSS_OPERATIONS = {"cross-ent": operations.cross_entropy, "l2": operations.squared_error}
_WHAT_TO_TRY = (
    "the network is as it was before this step. Try a smaller learning rate, or data and labels of a size near 1"
)


class Trainer:
    """Trains a network with Adam.

    Parameters
    ----------
    network
        The network; its parameters are changed in place.
    loss
        "cross-ent" for networks that end in softmax, "l2" for those that end in matmul.
    accuracy
        "classification", or None for the loss.
    learning_rate
        Adam's step size.
    threads
        Threads of the kernels; None for every core of this process. The results do not depend on it.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss="cross-ent",
        accuracy="classification",
        learning_rate=0.001,
        threads=None,
    ):
        self.network = network
        self.loss = check_loss(loss, network.spec)
        self.accuracy = check_accuracy(accuracy)
        self.threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
        self._workspace = Workspace()
        flat = network.flat
        rate = as_positive_number(learning_rate, "learning_rate")
        self.optimizer = Adam(flat.weights, flat.gradients, learning_rate=rate)

    def step(self, data, labels) -> tuple[float, float]:
        """Take one step and return the loss and the accuracy of the batch before it.

        Parameters
        ----------
        data
            Array (B, n, W[, C]), sequence of arrays (n, W[, C]), or MultisetBatch.
        labels
            Array (B, N).

        Raises
        ------
        FloatingPointError
            If the loss or the gradient is NaN or infinite; the network is as it was before.
        """
        with kernel_threads(self.threads), self._workspace.used():
            batch = self.network.as_batch(data)
            labels = self._check_labels(labels, len(batch))
            prediction = self.network.forward(batch)
            loss = LOSS_OPERATIONS[self.loss](prediction, labels)
            if not math.isfinite(loss.array):
                raise FloatingPointError(f"the loss is {loss.array}; {_WHAT_TO_TRY}")
            backpropagate(loss, np.ones_like(loss.array))
            self._check_gradients()
            self.optimizer.step()
        loss_value = float(loss.array)
        if self.accuracy is None:
            return loss_value, loss_value
        return loss_value, classification_accuracy(prediction.array, labels)

    def _check_gradients(self) -> None:
        gradients = self.network.flat.gradients
        # One pass without BLAS, which would wake threads of its own. Adam sums squares: those must be finite too.
        if not math.isfinite(np.einsum("i,i", gradients, gradients)):
            for name, gradient in self.network.gradients.items():
                if not np.isfinite(gradient).all():
                    raise FloatingPointError(f"the gradient of {name} is NaN or infinite; {_WHAT_TO_TRY}")
            raise FloatingPointError(f"the gradient is too large for its square; {_WHAT_TO_TRY}")

    def _check_labels(self, labels, datasets: int) -> np.ndarray:
        labels = as_floats(labels, "labels", self.network.dtype)
        wanted = (datasets, *self.network.spec.output_shape)
        if labels.shape != wanted:
            raise ValueError(f"labels has shape {labels.shape}, expected {wanted}")
        check_labels(labels, self.loss, "labels")
        return labels
