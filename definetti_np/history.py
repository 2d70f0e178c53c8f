"""What a run reports of itself: the columns of its summary, and running means of its losses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

HORIZON = 100  # batches that a running mean goes back
OVERFIT = 0.5  # so much of the loss of reused batches may lie between it and that of fresh ones
ERRORS = 4  # standard errors of the fresh loss
MOST_LINES = 10_000  # of a history, in a model file


def columns_of(run: Mapping) -> list[str]:
    """The names of the columns of a run's summary, of its description."""
    columns = ["batch", "loss", "accuracy"]
    if run.get("reuse"):
        columns += ["fresh_loss", "reused_loss"]
    if run.get("validation"):
        of_validation = ["validation_loss", "validation_loss_error", "validation_accuracy", "validation_accuracy_error"]
        columns += of_validation
    return columns


def read_lines(columns: Sequence[str], lines: Sequence[str]) -> dict[str, np.ndarray]:
    """Make arrays by name of the lines of a summary; `batch` holds integers.

    Raises
    ------
    ValueError
        If a line has more or fewer numbers than there are columns.
    """
    table = [line.split() for line in lines]
    for line in table:
        if len(line) != len(columns):
            raise ValueError(f"history: a line of {len(line)} numbers for the columns {', '.join(columns)}")
    return {
        name: np.array([line[i] for line in table], np.int64 if name == "batch" else np.float64)
        if table
        else np.zeros(0, np.int64 if name == "batch" else np.float64)
        for i, name in enumerate(columns)
    }


def write_lines(history: Mapping[str, np.ndarray]) -> list[str]:
    """The lines of arrays by name, at most `MOST_LINES` of them: of a longer history every second one, and so on."""
    lines = [" ".join(map(repr, numbers)) for numbers in zip(*(a.tolist() for a in history.values()), strict=True)]
    return lines[:: -(-len(lines) // MOST_LINES) or 1]


@dataclass
class RunningMeans:
    """Means of the losses of fresh batches, before a step on them, and of reused ones, over the last batches.

    The loss of a fresh batch is that of data which the network has never seen.

    Attributes
    ----------
    batches
        How many batches went in.
    fresh, reused
        The means.
    variance
        Of the loss of a fresh batch.
    has_warned
        Whether it was said that the run overfits.
    """

    batches: int = 0
    fresh: float = 0.0
    reused: float = 0.0
    variance: float = 0.0
    has_warned: bool = False

    def add(self, fresh: float, reused: float) -> None:
        """Add the loss of a fresh batch, and the mean loss of the reused batches after it."""
        self.batches += 1
        share = 1 / min(self.batches, HORIZON)
        deviation = fresh - self.fresh
        self.fresh += share * deviation
        self.reused += share * (reused - self.reused)
        self.variance = (1 - share) * (self.variance + share * deviation**2)

    @property
    def overfits(self) -> bool:
        """Whether the network knows the examples that it has seen much better than new ones."""
        gap, error = self.fresh - self.reused, math.sqrt(self.variance / HORIZON)
        return self.batches >= HORIZON and gap > max(OVERFIT * abs(self.reused), ERRORS * error)

    def as_dict(self) -> dict[str, float | int | bool]:
        """What a checkpoint holds of it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"loss of new examples {self.fresh:.4g}, of reused ones {self.reused:.4g}"
