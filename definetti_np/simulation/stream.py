"""Streams: batches of examples in order, simulated here, in processes of our own, or by an executor, or read."""

from __future__ import annotations

import dataclasses
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import as_bool, as_integer, as_positive_number
from ..cores import available_cores
from ..errors import SimulatorError
from ..interruption import Waiting
from ..multiset import MultisetBatch
from .randomness import MOST_TWICE, judge
from .source import NO_REDRAWS, Example, ExampleSource, Redraws

if TYPE_CHECKING:
    from .store import Store

PATIENT = Waiting()
DEFAULT_CAPACITY = 250  # examples


@dataclass(frozen=True)
class StreamSettings:
    """The arguments of `train` that say how to simulate; `checked` makes them of what a user gives."""

    sim_threads: int
    queue_capacity: int | None = DEFAULT_CAPACITY
    simulator_timeout: float | None = None
    max_redraw_fraction: float = 0.1
    worker_max_examples: int | None = None
    start_method: str | None = None
    executor: Any = None
    check_randomness: bool = True
    check_versions: bool = True

    @property
    def starts_processes(self) -> bool:
        """Whether examples are simulated by processes of our own."""
        return self.executor is None and self.sim_threads > 0

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
        check_versions: Any = True,
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
            if isinstance(executor, type) or not (callable(executor) or callable(getattr(executor, "submit", None))):
                raise TypeError(
                    "executor must be an object with a method submit, as those of concurrent.futures, or a function "
                    f"without arguments that makes one, got {executor!r}"
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
        if queue_capacity is not None:
            queue_capacity = as_integer(queue_capacity, "queue_capacity", minimum=1)
        elif executor is None:
            queue_capacity = DEFAULT_CAPACITY
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
        check_randomness = as_bool(check_randomness, "check_randomness")
        return cls(
            sim_threads=sim_threads,
            queue_capacity=queue_capacity,
            simulator_timeout=simulator_timeout,
            max_redraw_fraction=max_redraw_fraction,
            worker_max_examples=worker_max_examples,
            start_method=start_method,
            executor=executor,
            check_randomness=check_randomness,
            check_versions=as_bool(check_versions, "check_versions"),
        )

    def __str__(self) -> str:
        return "an executor" if self.executor is not None else f"{self.sim_threads} simulator processes"


class Stream(ABC):
    """Batches of examples in the order of their indices; a context at whose end the stream is closed.

    Parameters
    ----------
    source
        What simulates an example.
    settings
        How to simulate.
    examples
        The indices of the examples, rising: a range, or those that a store lacks.
    redraws
        How many draws failed in the part of the run before, by reason.
    """

    def __init__(
        self,
        source: ExampleSource,
        settings: StreamSettings,
        examples: Sequence[int],
        redraws: Mapping[str, int] = NO_REDRAWS,
    ):
        self._source = source
        self._settings = settings
        self._examples = examples
        self._next = 0  # the place in `_examples` of the first one that is left to be taken
        self._redraws = Redraws(settings.max_redraw_fraction, redraws)
        self._closing = False
        self._twice: Sequence[int] = ()  # which are simulated twice
        if settings.check_randomness:
            self._twice = examples[:MOST_TWICE]

    @property
    def redraws(self) -> Mapping[str, int]:
        """How many draws failed up to the end of the last batch, by reason."""
        return self._redraws.counts

    @property
    def capacity(self) -> int | None:
        """How many examples may be taken at once, None for any number."""
        return self._settings.queue_capacity

    @property
    def simulators(self) -> int | None:
        """How many examples are simulated at a time beside the training, None if that is not known, or none are."""
        return self._settings.sim_threads or None

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
        indices = self._examples[self._next : self._next + size]
        examples = self.next_examples(size, while_waiting)
        self._redraws.count(examples, indices[-1] + 1)
        return assemble(examples)

    def next_examples(self, size: int, while_waiting: Waiting = PATIENT) -> list[Example]:
        """Return the next `size` examples one by one, and count no redraws; see `next_batch`."""
        indices = self._next_indices(size)
        examples = self._take(indices, while_waiting)
        if twice := self._twice[:size]:
            judge(self._source, indices, examples, self._take_again(twice, while_waiting))
            self._twice = ()
        return examples

    def _next_indices(self, size: int) -> Sequence[int]:
        end, capacity = self._next + size, self.capacity
        if (capacity is not None and size > capacity) or end > len(self._examples) or self._closing:
            last = self._examples[-1] if self._examples else -1
            first = self._examples[self._next] if self._next < len(self._examples) else last + 1
            raise ValueError(
                f"no examples {first} to {first + size - 1}: the queue holds {capacity}, the last example is {last}, "
                f"and the stream is {'closed' if self._closing else 'open'}"
            )
        return self._examples[self._next : end]

    @abstractmethod
    def _take(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example]:
        """Return these examples, the ones from the place `_next` on, and set `_next` to the place behind them."""

    @abstractmethod
    def _take_again(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example | None]:
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

    def _take(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example]:
        with while_waiting:
            examples = [self._source.example(index) for index in indices]
        self._next += len(indices)
        return examples

    def _take_again(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example | None]:
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
    store: Store | None = None,
) -> Stream:
    """Open the stream that the settings ask for; what has to start has started when it returns.

    `while_waiting` says what to do until then. With a store, examples are read from it, and what it lacks is added. For
    the others see `Stream`.
    """
    from .store_stream import StoreStream  # it is a stream, so its module imports this one

    if store is not None:
        return StoreStream(store, source, settings, examples, redraws, while_waiting)
    return open_simulating_stream(source, settings, examples, redraws, while_waiting)


def open_simulating_stream(
    source: ExampleSource,
    settings: StreamSettings,
    examples: Sequence[int],
    redraws: Mapping[str, int],
    while_waiting: Waiting,
) -> Stream:
    """Open a stream that simulates all examples; see `open_stream`."""
    from .executors import ExecutorStream  # both are streams, so their modules import this one
    from .workers import WorkerStream

    if not examples or (settings.executor is None and settings.sim_threads == 0):
        return SerialStream(source, settings, examples, redraws)
    if settings.executor is not None:
        return ExecutorStream(source, settings, examples, redraws, while_waiting)
    return WorkerStream(source, settings, examples, redraws, while_waiting)


def take_batches(
    source: ExampleSource,
    settings: StreamSettings,
    examples: range,
    size: int,
    while_waiting: Waiting,
    store: Store | None = None,
) -> Iterator[tuple[MultisetBatch, np.ndarray]]:
    """Yield the examples of a range, in batches of `size` and the rest, which are none of a run's new ones."""
    settings = dataclasses.replace(settings, check_randomness=False)  # the stream of new examples does that
    with open_stream(source, settings, examples, NO_REDRAWS, while_waiting, store) as stream:
        for start in range(examples.start, examples.stop, size):
            yield stream.next_batch(min(size, examples.stop - start), while_waiting)


def assemble(examples: Sequence[Example]) -> tuple[MultisetBatch, np.ndarray]:
    """Put examples together to a batch and labels (B, N)."""
    batch = MultisetBatch.from_distinct([(example.rows, example.counts) for example in examples])
    return batch, np.stack([example.label for example in examples])
