"""Training steps on batches that the caller supplies."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np

from . import ops
from .checks import as_integer
from .cores import available_cores
from .engine.adam import Adam
from .engine.tensor import Tensor, backpropagate
from .engine.workspace import Workspace
from .invariance import check_context_functions, check_invariance
from .kernels._jit import threads as kernel_threads
from .losses import check_accuracy, check_labels, check_loss, classification_accuracy
from .multiset import MultisetBatch, as_floats
from .network import Network
from .schedules import StepSettings
from .summary import describe_choice

PROBABILITY_TOLERANCE = 1e-3  # how far from 1 the sum of probabilities may be
LOSS_OPERATIONS = {"cross-ent": ops.cross_entropy, "l2": ops.squared_error}
_SMALLER_NUMBERS = "try a smaller learning rate, or data and labels of a size near 1"
_WHAT_TO_TRY = f"the network is as it was before this step. {_SMALLER_NUMBERS.capitalize()}"


class Trainer:
    """Trains a network with Adam.

    Parameters
    ----------
    network
        The network; its parameters are changed in place.
    loss
        "cross-ent" for networks that end in softmax, "l2" for those that end in matmul; or a function
        ``loss(prediction, label)`` of a Tensor (B, M) and an array (B, N) that returns a Tensor with one number. The
        prediction is what the network computes: log-probabilities after softmax.
    accuracy
        "classification", None for the loss, or a function ``accuracy(prediction, label)`` of arrays that returns a
        number. "auto" is None under the loss "l2", and "classification" else.
    learning_rate
        Adam's step size.
    threads
        Threads of the kernels; None for every core of this process. The results do not depend on it.
    averaging
        A decay between 0 and 1, or None. With it the mean of the weights after all steps is kept, in which those of k
        steps ago count ``averaging**k``; see `with_average`.
    weight_decay
        The part of each weight, times the learning rate, that is taken away at each step.
    max_gradient_norm
        A gradient that is longer than this, all parameters taken together, is scaled to this length. None for no limit.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss: str | Callable = "cross-ent",
        accuracy: str | Callable | None = "auto",
        learning_rate: float = 0.001,
        threads: int | None = None,
        averaging: float | None = None,
        weight_decay: float = 0.0,
        max_gradient_norm: float | None = None,
    ):
        self.network = network
        self.loss = check_loss(loss, network.spec)
        self.accuracy = check_accuracy(accuracy, self.loss)
        shape, wanted = network.prediction_shape, network.spec.output_shape
        for argument, choice in (("loss", self.loss), ("accuracy", self.accuracy)):
            if isinstance(choice, str) and shape != wanted:
                raise ValueError(
                    f"{argument} {choice!r} needs predictions of the labels' shape (B, {wanted[0]}), network_function "
                    f"returns (B, {shape[0]}); give a function as {argument}"
                )
        self._checked = network.spec.is_invariant and not network.context.functions
        self.threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
        self._workspace = Workspace()
        flat = network.flat
        settings = StepSettings.checked(
            learning_rate=learning_rate,
            averaging=averaging,
            weight_decay=weight_decay,
            max_gradient_norm=max_gradient_norm,
        )
        self.max_gradient_norm = settings.max_gradient_norm
        self.optimizer = Adam(
            flat.weights,
            flat.gradients,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            averaging=settings.averaging,
        )

    def __repr__(self) -> str:
        choices = f"loss={describe_choice(self.loss)}, accuracy={describe_choice(self.accuracy)}"
        rate, steps = self.optimizer.learning_rate, self.optimizer.steps
        return (
            f"Trainer({choices}, learning_rate={rate}, threads={self.threads}) after {steps:,} steps of\n{self.network}"
        )

    def step(self, data: Iterable[np.ndarray] | MultisetBatch, labels: np.ndarray) -> tuple[float, float]:
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
        ValueError, TypeError
            If data or labels do not fit, or a function of the user's returns something of another kind; the first step
            checks that a network function is permutation invariant.
        """
        if not self._checked:
            self._check_functions(data)
        with kernel_threads(self.threads), self._workspace.use():
            prediction, labels, loss = self._forward(data, labels)
            if not math.isfinite(loss.array):
                raise FloatingPointError(f"the loss is {loss.array}; {_WHAT_TO_TRY}")
            loss_value = float(loss.array)
            # The accuracy may be a function of the user's that fails, so it comes before anything changes.
            accuracy = self._accuracy_of(prediction, labels, loss_value)
            self.network.flat.gradients[:] = 0  # because the pass writes only those that the loss depends on
            backpropagate(loss, np.ones_like(loss.array))
            self._check_gradients()
            self.optimizer.step(self._gradient_scale())
        return loss_value, accuracy

    @contextlib.contextmanager
    def with_average(self) -> Iterator[None]:
        """Let the network have the average of its weights inside a block, where there is `averaging`."""
        weights, average = self.optimizer.weights, self.optimizer.average
        if not (average.size and self.optimizer.steps):
            yield
            return
        own = weights.copy()
        weights[:] = average
        try:
            yield
        finally:
            weights[:] = own

    def use_average(self) -> None:
        """Give the network the average of its weights for good, where there is `averaging`."""
        if self.optimizer.average.size and self.optimizer.steps:
            self.optimizer.weights[:] = self.optimizer.average

    def evaluate(self, data: Iterable[np.ndarray] | MultisetBatch, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The loss and the accuracy of each dataset, (B,) each, with the weights as they are; see `step`."""
        with kernel_threads(self.threads), self._workspace.use():
            batch = self.network.as_batch(data)
            labels = self._check_labels(labels, len(batch))
            output = self.network.compute(batch).array.copy()
        losses = self._losses_of(output, labels)
        if self.accuracy is None:
            return losses, losses
        if callable(self.accuracy):
            accuracy = self.accuracy
            parts = zip(output[:, np.newaxis], labels[:, np.newaxis], strict=True)
            return losses, np.array([_as_number(accuracy(prediction.copy(), label)) for prediction, label in parts])
        return losses, (output.argmax(axis=1) == labels.argmax(axis=1)).astype(np.float64)

    def _losses_of(self, output: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The loss of each dataset, (B,) float64."""
        if self.loss == "cross-ent":  # a class of weight 0 counts nothing, also where its probability is 0
            terms = np.where(labels == 0, 0.0, labels * output.astype(np.float64))
            return -terms.sum(axis=1)
        if self.loss == "l2":
            return np.square(output.astype(np.float64) - labels).sum(axis=1)
        loss = cast(Callable, self.loss)
        with kernel_threads(self.threads):
            parts = zip(output[:, np.newaxis], labels[:, np.newaxis], strict=True)
            return np.array([float(loss(Tensor(prediction), label).array) for prediction, label in parts])

    def check_last_step(self, data: Iterable[np.ndarray] | MultisetBatch, labels: np.ndarray) -> None:
        """Raise a FloatingPointError if the step on this batch has made its loss or a weight NaN or infinite.

        A step checks the loss before the step, so no other step checks what the last one of a run has done.
        """
        with kernel_threads(self.threads), self._workspace.use():
            _, _, loss = self._forward(data, labels)
        if not math.isfinite(loss.array) or not np.isfinite(self.network.flat.weights).all():
            raise FloatingPointError(f"the loss is {loss.array} after the last step; {_SMALLER_NUMBERS}")

    def _forward(self, data, labels) -> tuple[Tensor, np.ndarray, Tensor]:
        """The prediction, the labels in the network's dtype, and the loss of a batch."""
        batch = self.network.as_batch(data)
        labels = self._check_labels(labels, len(batch))
        prediction = self.network.forward(batch)
        return prediction, labels, self._loss_of(prediction, labels)

    def _accuracy_of(self, prediction: Tensor, labels: np.ndarray, loss: float) -> float:
        if self.accuracy is None:
            return loss
        if callable(self.accuracy):
            return _as_number(self.accuracy(prediction.array.copy(), labels))
        return classification_accuracy(prediction.array, labels)

    def _loss_of(self, prediction: Tensor, labels: np.ndarray) -> Tensor:
        if isinstance(self.loss, str):
            return LOSS_OPERATIONS[self.loss](prediction, labels)
        loss = self.loss(prediction, labels)
        if not isinstance(loss, Tensor) or not loss.needs_gradient:
            raise ValueError(
                f"loss must return a Tensor that depends on a parameter, got {loss!r}: there is no gradient path; "
                "compute it of the prediction with definetti_np.ops"
            )
        if loss.shape != ():
            raise ValueError(
                f"loss must return one number, got a Tensor of shape {loss.shape}; end it in ops.mean(...)"
            )
        return loss

    def _check_functions(self, data) -> None:
        with kernel_threads(self.threads):
            batch = self.network.as_batch(data)
            check_context_functions(self.network, batch)
            if not self.network.spec.is_invariant:
                check_invariance(self.network, batch)
            prediction = self.network.compute(batch).array
        if self.loss == "cross-ent" and np.abs(np.exp(prediction).sum(axis=1) - 1).max() > PROBABILITY_TOLERANCE:
            raise ValueError(
                "loss 'cross-ent' needs log-probabilities: let network_function end in ops.log_softmax, or give a loss "
                "of your own"
            )
        self._checked = True

    def _check_gradients(self) -> None:
        gradients = self.network.flat.gradients
        # Adam takes squares, which must be finite too. NaN is neither below nor above a limit.
        limit = math.sqrt(np.finfo(gradients.dtype).max)
        if gradients.size and not -limit < gradients.min() <= gradients.max() < limit:
            for name, gradient in self.network.gradients.items():
                if not np.isfinite(gradient).all():
                    raise FloatingPointError(f"the gradient of {name} is NaN or infinite; {_WHAT_TO_TRY}")
            raise FloatingPointError(f"the gradient is too large for its square; {_WHAT_TO_TRY}")

    def _gradient_scale(self) -> float:
        """What the gradient is to be multiplied by, so that it is no longer than it may be."""
        if self.max_gradient_norm is None:
            return 1.0
        norm = math.sqrt(np.square(self.network.flat.gradients, dtype=np.float64).sum())
        return 1.0 if norm <= self.max_gradient_norm else self.max_gradient_norm / norm

    def _check_labels(self, labels, datasets: int) -> np.ndarray:
        labels = as_floats(labels, "labels", self.network.dtype)
        wanted = (datasets, *self.network.spec.output_shape)
        if labels.shape != wanted:
            raise ValueError(f"labels has shape {labels.shape}, expected {wanted}")
        check_labels(labels, self.loss, "labels")
        return labels


def _as_number(accuracy) -> float:
    try:
        return float(accuracy)
    except (TypeError, ValueError):
        raise TypeError(f"accuracy must return a number, got {accuracy!r}") from None
