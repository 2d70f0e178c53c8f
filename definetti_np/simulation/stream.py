"""Streams: batches of consecutive examples, in order, simulated here, in processes of our own, or by an executor."""

from __future__ import annotations

import dataclasses
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import as_integer, as_positive_number
from ..cores import available_cores
from ..errors import SimulatorError
from ..interruption import Waiting
from ..multiset import MultisetBatch
from .randomness import MOST_TWICE, judge
from .source import NO_REDRAWS, Example, ExampleSource, Redraws

PATIENT = Waiting()


@dataclass(frozen=True)
class StreamSettings:
    """The arguments of `train` that say how to simulate; `checked` makes them of what a user gives."""

    sim_threads: int
    queue_capacity: int = 250
    simulator_timeout: float | None = None
    max_redraw_fraction: float = 0.1
    worker_max_examples: int | None = None
    start_method: str | None = None
    executor: Any = None
    check_randomness: bool = True

    @classmethod
    def checked(
        cls,
        *,
        sim_threads: Any,
        queue_capacity: Any,
        simulator_timeout: Any,
        max_redraw_fraction: Any,
        worker_max_examples: Any,
        start_method: Any,
        executor: Any,
        check_randomness: Any,
    ) -> StreamSettings:
        """Check the arguments, and work out the number of simulator processes.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or does not go with another one.
        """
        if executor is not None:
            if callable(getattr(executor, "get_executor", None)):
                raise TypeError(f"executor: {executor!r} is a client; give its executor, client.get_executor()")
            if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
                raise TypeError(
                    f"executor must be an object with a method submit, as those of concurrent.futures, got {executor!r}"
                )
            for name, value in (
                ("sim_threads", sim_threads),
                ("simulator_timeout", simulator_timeout),
                ("worker_max_examples", worker_max_examples),
                ("start_method", start_method),
            ):
                if value is not None:
                    raise ValueError(f"{name} must be None with an executor, which has its own way, got {value!r}")
        sim_threads = available_cores() if sim_threads is None else as_integer(sim_threads, "sim_threads", minimum=0)
        if simulator_timeout is not None:
            simulator_timeout = as_positive_number(simulator_timeout, "simulator_timeout")
            if sim_threads == 0:
                raise ValueError(
                    "simulator_timeout needs simulator processes to kill: sim_threads must be 1 at least, got 0"
                )
        max_redraw_fraction = as_positive_number(max_redraw_fraction, "max_redraw_fraction")
        if max_redraw_fraction > 1:
            raise ValueError(f"max_redraw_fraction must be at most 1, got {max_redraw_fraction!r}")
        if worker_max_examples is not None:
            worker_max_examples = as_integer(worker_max_examples, "worker_max_examples", minimum=1)
        if start_method not in (None, *multiprocessing.get_all_start_methods()):
            choices = ", ".join(map(repr, multiprocessing.get_all_start_methods()))
            raise ValueError(f"start_method: unknown method {start_method!r}; choose from {choices}")
        if not isinstance(check_randomness, bool):
            raise TypeError(f"check_randomness must be True or False, got {check_randomness!r}")
        return cls(
            sim_threads=sim_threads,
            queue_capacity=as_integer(queue_capacity, "queue_capacity", minimum=1),
            simulator_timeout=simulator_timeout,
            max_redraw_fraction=max_redraw_fraction,
            worker_max_examples=worker_max_examples,
            start_method=start_method,
            executor=executor,
            check_randomness=check_randomness,
        )

    def __str__(self) -> str:
        return "an executor" if self.executor is not None else f"{self.sim_threads} simulator processes"


class Stream(ABC):
    """Batches of consecutive examples, in order; a context at whose end the stream is closed.

    Parameters
    ----------
    source
        What simulates an example.
    settings
        How to simulate.
    examples
        The indices of the examples, in steps of 1.
    redraws
        How many draws failed in the part of the run before, by reason.
    """

    def __init__(
        self,
        source: ExampleSource,
        settings: StreamSettings,
        examples: range,
        redraws: Mapping[str, int] = NO_REDRAWS,
    ):
        self._source = source
        self._settings = settings
        self._next, self._stop = examples.start, examples.stop  # what is left to be taken
        self._redraws = Redraws(settings.max_redraw_fraction, redraws)
        self._closing = False
        self._twice = examples[:MOST_TWICE] if settings.check_randomness else range(0)  # which are simulated twice

    @property
    def redraws(self) -> Mapping[str, int]:
        """How many draws failed up to the end of the last batch, by reason."""
        return self._redraws.counts

    def next_batch(self, size: int, while_waiting: Waiting = PATIENT) -> tuple[MultisetBatch, np.ndarray]:
        """Return the next `size` examples: their rows, and their labels (size, N).

        `while_waiting` says what to do until they are there; it may raise an exception.

        Raises
        ------
        SimulatorError
            If one of these examples fails, whoever simulates fails again and again, or too many draws fail.
        ValueError
            If the examples are more than the queue holds, more than are left, or the stream is closed.
        """
        start, end, capacity = self._next, self._next + size, self._settings.queue_capacity
        if size > capacity or end > self._stop or self._closing:
            raise ValueError(
                f"no examples {start} to {end - 1}: the queue holds {capacity}, the last example is "
                f"{self._stop - 1}, and the stream is {'closed' if self._closing else 'open'}"
            )
        examples = self._take(range(start, end), while_waiting)
        if twice := self._twice[:size]:
            judge(self._source, range(start, end), examples, self._take_again(twice, while_waiting))
            self._twice = range(0)
        self._redraws.count(examples, end)
        return assemble(examples)

    @abstractmethod
    def _take(self, indices: range, while_waiting: Waiting) -> list[Example]:
        """Return these examples, from `_next` on, and set `_next` to their end."""

    @abstractmethod
    def _take_again(self, indices: range, while_waiting: Waiting) -> list[Example | None]:
        """Return the first examples of the first batch, simulated once more; None for one that fails now."""

    def close(self) -> None:
        """Stop what has been started; closing again does nothing."""
        self._closing = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class SerialStream(Stream):
    """Examples are simulated in this process when they are asked for."""

    def _take(self, indices: range, while_waiting: Waiting) -> list[Example]:
        with while_waiting:
            examples = [self._source.example(index) for index in indices]
        self._next = indices.stop
        return examples

    def _take_again(self, indices: range, while_waiting: Waiting) -> list[Example | None]:
        with while_waiting:
            return [without_error(self._source.example, index) for index in indices]


def without_error(function: Callable[..., Example], *arguments: Any) -> Example | None:
    """Call a function that returns an example, or return None if the simulator has failed."""
    try:
        return function(*arguments)
    except SimulatorError:
        return None


def open_stream(
    source: ExampleSource,
    settings: StreamSettings,
    examples: range,
    redraws: Mapping[str, int],
    while_waiting: Waiting,
) -> Stream:
    """Open the stream that the settings ask for; what has to start has started when it returns.

    `while_waiting` says what to do until then; for the others see `Stream`.
    """
    from .executors import ExecutorStream  # both are streams, so their modules import this one
    from .workers import WorkerStream

    if not examples or (settings.executor is None and settings.sim_threads == 0):
        return SerialStream(source, settings, examples, redraws)
    if settings.executor is not None:
        return ExecutorStream(source, settings, examples, redraws)
    return WorkerStream(source, settings, examples, redraws, while_waiting)


def take_batches(
    source: ExampleSource, settings: StreamSettings, examples: range, size: int, while_waiting: Waiting
) -> Iterator[tuple[MultisetBatch, np.ndarray]]:
    """Yield the examples of a range, in batches of `size` and the rest, which are none of a run's new ones."""
    settings = dataclasses.replace(settings, check_randomness=False)  # the stream of new examples does that
    with open_stream(source, settings, examples, NO_REDRAWS, while_waiting) as stream:
        for start in range(examples.start, examples.stop, size):
            yield stream.next_batch(min(size, examples.stop - start), while_waiting)


def assemble(examples: Sequence[Example]) -> tuple[MultisetBatch, np.ndarray]:
    """Put examples together to a batch and labels (B, N)."""
    batch = MultisetBatch.from_distinct([(example.rows, example.counts) for example in examples])
    return batch, np.stack([example.label for example in examples])
