"""What a run reports as it goes: its summary, the log or the bar, running means of losses, and validation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .files.checkpoint import Checkpoint
from .history import RunningMeans, columns_of, read_lines
from .progress import Summary, progress
from .settings import TrainSettings
from .validation import Validation

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("definetti_np")


class Reports:
    """Reports of a run; those of a checkpoint come first.

    Parameters
    ----------
    settings
        How to train.
    validation
        What to evaluate on, or None.
    start
        The checkpoint that the run goes on from, or None.
    simulators
        Says how many examples are simulated at a time; see `progress`.
    """

    def __init__(
        self,
        settings: TrainSettings,
        validation: Validation | None,
        start: Checkpoint | None,
        simulators: Callable[[], int | None],
    ):
        self._settings = settings
        self._validation = validation
        self._columns = columns_of(settings.describe_run())
        lines, state, batches = ([], {}, 0) if start is None else (start.summary, start.state, start.batches)
        self._means = RunningMeans(**state["means"]) if "means" in state else RunningMeans()
        self._last = [float(text) for text in state.get("last", "").split()]  # of the last batch: loss, accuracy, ...
        if validation is not None:
            validation.recall(read_lines(self._columns, lines)["validation_loss"].tolist())
        self._summary = Summary(settings.training_summary, settings.verbosity, lines)
        self._evaluated = ""  # what the log and the bar say of the last evaluation
        self._progress = progress(
            settings.num_batches,
            settings.batch_size,
            settings.verbosity,
            to_terminal=settings.logfile == ".",
            first=batches,
            simulators=simulators,
        )

    @property
    def lines(self) -> list[str]:
        """The lines of the summary."""
        return self._summary.lines

    def state(self) -> dict[str, Any]:
        """What else a checkpoint must hold."""
        state: dict[str, Any] = {}
        if self._settings.reuse.reuse:
            state["means"] = self._means.as_dict()
        if self._validation is not None:
            state["last"] = " ".join(map(repr, self._last))  # as text, because JSON has no NaN
        return state

    def history(self) -> dict[str, np.ndarray]:
        """The columns of the summary by name."""
        return read_lines(self._columns, self.lines)

    def add(
        self, batch: int, loss: float, accuracy: float, reused: Sequence[float], waited: float, trainer: Trainer
    ) -> bool:
        """Report a batch, and return whether the weights are the best so far on the validation examples.

        `loss` and `accuracy` are those of new examples before the step on them, `reused` the losses of the steps after
        that, `waited` the seconds that it took to get the examples.
        """
        self._last = [loss, accuracy]
        if reused:
            self._means.add(loss, float(np.mean(reused)))
            self._last += [self._means.fresh, self._means.reused]
            self._warn()
        is_due = batch % self._settings.verbosity == 0
        numbers = self._last + (self._evaluate(trainer) if is_due else [])
        self._summary.update(batch, *numbers)
        means = f"; {self._means}" if reused else ""
        named = dict(zip(self._columns, [batch, *numbers], strict=False))  # without validation where it is not due
        self._progress.update(named, waited, means + self._evaluated)
        return is_due and self._validation is not None and self._validation.is_best

    def finish(self, batches: int, trainer: Trainer) -> bool:
        """Evaluate after the last batch, if that has not been done; return whether these weights are the best."""
        if self._validation is None or (self.lines and int(self.lines[-1].split()[0]) == batches - 1):
            return False
        self._summary.add(batches - 1, *self._last, *self._evaluate(trainer))
        logger.info("after batch %d%s", batches - 1, self._evaluated)
        return self._validation.is_best

    def _evaluate(self, trainer: Trainer) -> list[float]:
        if self._validation is None:
            return []
        loss, loss_error, accuracy, accuracy_error = numbers = self._validation.evaluate(trainer)
        self._evaluated = f"; validation loss {loss:.4g} +- {loss_error:.1g}"
        if accuracy != loss:
            self._evaluated += f", accuracy {accuracy:.4g} +- {accuracy_error:.1g}"
        return list(numbers)

    def _warn(self) -> None:
        means = self._means
        if means.overfits and not means.has_warned:
            means.has_warned = True
            logger.warning(
                "the run overfits: the mean loss is %.4g of new examples, before a step on them, and %.4g of examples "
                "that were seen before; try a smaller reuse, more simulations, or augment",
                means.fresh, means.reused,
            )  # fmt: skip

    def close(self) -> None:
        """Close the summary and the bar."""
        with contextlib.closing(self._summary), contextlib.closing(self._progress):
            pass
