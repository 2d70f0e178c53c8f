"""How large steps are: the learning rate, and schedules, by which it changes in the course of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .checks import as_nonnegative_number, as_positive_number, name_of

WARM_UP = 0.05  # of the run


def cosine(fraction: float) -> float:
    """Rise linearly from 0 to 1 in the first 5 % of the run, then fall as half a cosine to 0 at its end."""
    if fraction < WARM_UP:
        return fraction / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (fraction - WARM_UP) / (1 - WARM_UP))


SCHEDULES: dict[str, Callable[[float], float] | None] = {"constant": None, "cosine": cosine}


@dataclass(frozen=True)
class StepSettings:
    """The arguments of `train` that say how steps are taken; `checked` makes them of what a user gives."""

    learning_rate: float = 0.001
    schedule: str | Callable = "constant"
    averaging: float | None = None
    weight_decay: float = 0.0
    max_gradient_norm: float | None = None

    @classmethod
    def checked(
        cls,
        *,
        learning_rate: Any,
        schedule: Any = "constant",
        averaging: Any,
        weight_decay: Any,
        max_gradient_norm: Any,
    ) -> StepSettings:
        """Check the arguments.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong.
        """
        learning_rate = as_positive_number(learning_rate, "learning_rate")
        if averaging is not None and not (averaging := as_positive_number(averaging, "averaging")) < 1:
            raise ValueError(
                f"averaging must be None, or a decay between 0 and 1 such as 0.999, which averages the last 1,000 "
                f"steps; got {averaging}"
            )
        weight_decay = as_nonnegative_number(weight_decay, "weight_decay")
        if learning_rate * weight_decay >= 1:
            raise ValueError(
                f"weight_decay must be below 1 / learning_rate = {1 / learning_rate:g}, because so much of the weights "
                f"is taken away at each step; got {weight_decay}"
            )
        if max_gradient_norm is not None:
            max_gradient_norm = as_positive_number(max_gradient_norm, "max_gradient_norm")
        return cls(learning_rate, check_schedule(schedule), averaging, weight_decay, max_gradient_norm)

    def for_trainer(self) -> dict[str, Any]:
        """The arguments of a `Trainer`, which knows of no schedule."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "schedule"}

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step of a run of so many; the fraction done is that in the middle of the step."""
        function = SCHEDULES[self.schedule] if isinstance(self.schedule, str) else self.schedule
        if function is None:
            return self.learning_rate
        return self.learning_rate * _factor(function, (step + 0.5) / steps)

    def describe(self, num_batches: int) -> dict[str, Any]:
        """The learning rate and what else differs from the defaults, for the description of a run."""
        described: dict[str, Any] = {"learning_rate": self.learning_rate}
        if self.schedule != "constant":  # then the rate of each step depends on how many there will be
            described |= {"schedule": name_of(self.schedule), "num_batches": num_batches}
        others = {
            "averaging": self.averaging,
            "weight_decay": self.weight_decay,
            "max_gradient_norm": self.max_gradient_norm,
        }
        return described | {name: value for name, value in others.items() if value}


def check_schedule(schedule: Any) -> str | Callable:
    """Return the schedule if it is known, or a function of a fraction that returns factors."""
    if callable(schedule):
        for tenths in range(11):
            _factor(schedule, tenths / 10)
        return schedule
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        choices = ", ".join(map(repr, SCHEDULES))
        raise ValueError(
            f"schedule: unknown schedule {schedule!r}; choose from {choices}, or give a function of the fraction of "
            "the run that is done"
        )
    return schedule


def _factor(schedule: Callable, fraction: float) -> float:
    factor = schedule(fraction)
    try:
        number = float(factor)
    except (TypeError, ValueError):
        raise TypeError(f"schedule({fraction}) must return a number, got {factor!r}") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"schedule({fraction}) must be finite and not negative, got {factor!r}")
    return number
