"""Validation: examples that training never sees, on which a run is evaluated as it goes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import as_integer
from .multiset import MultisetBatch
from .specs import Spec

if TYPE_CHECKING:
    from .trainer import Trainer

KEEP = ("last", "best")


@dataclass(frozen=True)
class ValidationSettings:
    """The arguments of `train` that say how it is evaluated; `checked` makes them of what a user gives.

    Attributes
    ----------
    examples
        How many examples are held for it; the argument `validation`.
    """

    examples: int = 0
    keep: str = "last"
    patience: int | None = None

    @classmethod
    def checked(cls, *, validation: Any, keep: Any, patience: Any, spec: Spec) -> ValidationSettings:
        """Check the arguments.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or does not go with another one.
        """
        validation = as_integer(validation, "validation", minimum=0)
        if validation == 1:
            raise ValueError("validation must be 0 or at least 2, because one example has no standard error; got 1")
        _check_room(validation, spec)
        if not isinstance(keep, str) or keep not in KEEP:
            raise ValueError(f"keep: unknown choice {keep!r}; choose from {', '.join(map(repr, KEEP))}")
        if keep == "best" and not validation:
            raise ValueError("keep='best' needs validation, whose loss says which weights are best; got validation=0")
        if patience is not None:
            patience = as_integer(patience, "patience", minimum=1)
            if not validation:
                raise ValueError(f"patience needs validation, whose loss it waits for; got patience={patience}")
        return cls(validation, keep, patience)

    def describe(self, verbosity: int) -> dict[str, Any]:
        """What differs from the defaults, for the description of a run."""
        described: dict[str, Any] = {"validation": self.examples, "patience": self.patience}
        if self.keep == "best":
            described["keep"] = self.keep
        if self.keep == "best" or self.patience is not None:  # then the model depends on when it is evaluated
            described["verbosity"] = verbosity
        return {name: value for name, value in described.items() if value}


def _check_room(validation: int, spec: Spec) -> None:
    """Raise a ValueError if the examples cannot be held, even if all rows of each are equal."""
    needed = validation * 4 * (math.prod(spec.row_shape) + math.prod(spec.output_shape) + 2)
    try:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return
    if needed > room:
        raise ValueError(
            f"validation: {validation} examples are held in memory and take {needed / 2**30:.3g} GiB at least, more "
            f"than the {room / 2**30:.3g} GiB of this machine; give fewer, a few thousand are enough"
        )


class Validation:
    """The examples of a run that training never sees, and the losses of its weights on them so far.

    Parameters
    ----------
    settings
        How to evaluate.
    batches
        The examples.
    """

    def __init__(self, settings: ValidationSettings, batches: Iterable[tuple[MultisetBatch, np.ndarray]]):
        self._settings = settings
        self._batches = list(batches)
        self._losses: list[float] = []

    def recall(self, losses: Sequence[float]) -> None:
        """Take the losses of a run that is resumed."""
        self._losses = list(losses)

    def evaluate(self, trainer: Trainer) -> tuple[float, float, float, float]:
        """Return loss and accuracy, with their standard errors, of the weights that a model would have now."""
        with trainer.with_average():
            parts = [trainer.evaluate(data, labels) for data, labels in self._batches]
        losses, accuracies = (np.concatenate(values) for values in zip(*parts, strict=True))
        loss, loss_error = mean_and_error(losses)
        accuracy, accuracy_error = mean_and_error(accuracies)
        self._losses.append(loss)
        return loss, loss_error, accuracy, accuracy_error

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation had a lower loss than all before it; the first one has."""
        *before, last = self._losses
        return not before or last < min(filter(math.isfinite, before), default=math.inf)

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` evaluations have not been better than the best before them."""
        patience = self._settings.patience
        if patience is None or len(self._losses) <= patience:
            return False
        return int(np.nanargmin([*self._losses, math.inf])) < len(self._losses) - patience


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    with np.errstate(all="ignore"):
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
