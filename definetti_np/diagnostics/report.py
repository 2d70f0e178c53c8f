"""`Report`: what a check has found; the base of reports of numbers and of classes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ..files.paths import as_path

MOST_COLUMNS = 6  # of panels in a figure


class Report(ABC):
    """What a check has found: ``print(report)`` shows it, `to_dict` gives its numbers, `plot` draws it.

    Attributes
    ----------
    examples
        How many simulations it is of.
    seed
        Their seed, or None where labels and posteriors were given.
    """

    def __init__(self, examples: int, seed: int | None):
        self.examples = examples
        self.seed = seed

    @property
    @abstractmethod
    def passed(self) -> bool:
        """Whether nothing departs from what right posteriors do by more than chance."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All numbers, as a dict that JSON can hold."""

    @abstractmethod
    def __str__(self) -> str:
        """A screen of text."""

    def __repr__(self) -> str:
        return f"Report of {self.examples} examples: {'passed' if self.passed else 'failed'}"

    def plot(self, folder: str | os.PathLike) -> list[Path]:
        """Draw figures into a folder, which is made if it does not exist, and return their paths.

        It needs the package matplotlib.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("plot needs the package matplotlib: pip install definetti_np[plot]") from None
        target = as_path(folder, "folder")
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, draw in self._figures().items():
            panels = self._panels()
            columns = min(panels, MOST_COLUMNS)
            rows = -(-panels // columns)
            figure = Figure(figsize=(3.4 * columns, 3.4 * rows), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.subplots(rows, columns, squeeze=False).ravel()
            draw(axes[:panels])
            for axis in axes[panels:]:
                axis.set_axis_off()
            paths.append(target / f"{name}.png")
            figure.savefig(paths[-1], dpi=120)
        return paths

    @abstractmethod
    def _figures(self) -> dict[str, Any]:
        """Functions that draw on axes, by the name of the figure."""

    @abstractmethod
    def _panels(self) -> int:
        """How many panels a figure has."""


def verdict(passed: bool, what: str) -> str:
    """The last line of a report."""
    return f"passed: {what}" if passed else f"FAILED: {what}"
