"""Losses and accuracies: by name, or functions of the user's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .checks import name_of
from .heads import HEADS, LabelBox
from .specs import Spec

FINAL_LAYER_OF_LOSS = {"cross-ent": "softmax", "l2": "matmul"}  # of the layer lists, by loss
LOSSES = tuple(FINAL_LAYER_OF_LOSS)
DEFAULT_LOSS = "cross-ent"  # of `train`, in whose place a head puts its own
LOSSES_OF_HEADS = tuple(sorted({head.loss for head in HEADS.values()}))
ACCURACIES = ("auto", "classification", None)
LABEL_SUM_TOLERANCE = 1e-4


def check_loss(loss: str | Callable, spec: Spec) -> str | Callable:
    """Return the loss if it is a function, or is known and fits the last layer of the network; a head has its own."""
    if spec.head is not None:
        if loss not in (DEFAULT_LOSS, spec.head.loss):
            raise ValueError(
                f"loss: a network that ends in {spec.head.kind!r} has its own loss, {spec.head.loss!r}; leave loss "
                f"out, got {name_of(loss)!r}"
            )
        return spec.head.loss
    if callable(loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES_OF_HEADS:
        kinds = ", ".join(repr(kind) for kind, head in HEADS.items() if head.loss == loss)
        raise ValueError(f"loss {loss!r} needs an h_net that ends in one of {kinds}, got {spec.final_layer!r}")
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss: unknown loss {loss!r}; choose from {LOSSES}, or give a function")
    if spec.final_layer not in (None, FINAL_LAYER_OF_LOSS[loss]):
        raise ValueError(
            f"loss {loss!r} needs an h_net that ends in ({FINAL_LAYER_OF_LOSS[loss]!r},), got ({spec.final_layer!r},)"
        )
    return loss


def check_accuracy(accuracy: str | Callable | None, loss: str | Callable) -> str | Callable | None:
    """Return the accuracy if it is a function or known; for "auto" the one that goes with the loss."""
    if isinstance(accuracy, str) and accuracy == "auto":
        return None if isinstance(loss, str) and loss in ("l2", *LOSSES_OF_HEADS) else "classification"
    is_known = accuracy is None or (isinstance(accuracy, str) and accuracy in ACCURACIES)
    if not callable(accuracy) and not is_known:
        raise ValueError(f"accuracy: unknown accuracy {accuracy!r}; choose from {ACCURACIES}, or give a function")
    if isinstance(accuracy, str) and isinstance(loss, str) and loss in LOSSES_OF_HEADS:
        raise ValueError(f"accuracy 'classification' is for classes, and the loss is {loss!r}; leave accuracy out")
    return accuracy


def check_labels(labels: np.ndarray, loss: str | Callable | None, name: str, box: LabelBox | None = None) -> None:
    """Raise a ValueError if labels (..., N) are no distributions under "cross-ent", or outside of a box."""
    if box is not None:
        box.check(labels, name)
    if loss != "cross-ent":
        return
    if (labels < 0).any() or (abs(labels.sum(axis=-1, dtype=np.float64) - 1) > LABEL_SUM_TOLERANCE).any():
        text = np.array2string(labels, threshold=10)
        raise ValueError(
            f"{name} must be a probability distribution under loss 'cross-ent' (non-negative, sum 1; "
            f"one-hot for a known class), got {text}"
        )


def classification_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of datasets whose largest prediction is at the largest label; both (B, N)."""
    return float(np.mean(predictions.argmax(axis=1) == labels.argmax(axis=1)))
