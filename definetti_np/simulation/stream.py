"""Where the examples of a run are simulated: in this process, in processes of our own, or by an executor."""

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..checks import as_integer, as_positive_number
from ..cores import available_cores
from .executors import ExecutorStream
from .source import ExampleSource, SerialStream
from .workers import WorkerStream


@dataclass
class StreamOptions:
    """Arguments of `train` that say how to simulate, of the same names; they are checked when it is made."""

    sim_threads: int | None
    queue_capacity: int
    executor: object
    simulator_timeout: float | None
    max_redraw_fraction: float
    worker_max_examples: int | None
    start_method: str | None

    def __post_init__(self):
        if self.executor is not None:
            self._check_executor()
        if self.sim_threads is None:
            self.sim_threads = available_cores()
        self.sim_threads = as_integer(self.sim_threads, "sim_threads", minimum=0)
        if self.simulator_timeout is not None:
            as_positive_number(self.simulator_timeout, "simulator_timeout")
            if self.sim_threads == 0:
                raise ValueError(
                    "simulator_timeout needs simulator processes to kill: sim_threads must be 1 at least, got 0"
                )
        if as_positive_number(self.max_redraw_fraction, "max_redraw_fraction") > 1:
            raise ValueError(f"max_redraw_fraction must be at most 1, got {self.max_redraw_fraction!r}")
        if self.worker_max_examples is not None:
            self.worker_max_examples = as_integer(self.worker_max_examples, "worker_max_examples", minimum=1)
        if self.start_method not in (None, *multiprocessing.get_all_start_methods()):
            choices = ", ".join(map(repr, multiprocessing.get_all_start_methods()))
            raise ValueError(f"start_method: unknown method {self.start_method!r}; choose from {choices}")

    def _check_executor(self) -> None:
        if isinstance(self.executor, type) or not callable(getattr(self.executor, "submit", None)):
            raise TypeError(
                "executor must be an object with a method submit, as those of concurrent.futures, got "
                f"{self.executor!r}"
            )
        for name in ("sim_threads", "simulator_timeout", "worker_max_examples", "start_method"):
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} must be None with an executor, which has its own way, got {value!r}")

    def open(
        self, source: ExampleSource, *, first: int, stop: int, redraws: Mapping[str, int], while_waiting: Callable
    ):
        """Open a stream of examples ``first``, ..., ``stop - 1``.

        `redraws` counts those of the examples before; `while_waiting` is called until processes have started.
        """
        options = {"first": first, "max_redraw_fraction": self.max_redraw_fraction, "redraws": redraws}
        if first == stop or self.executor is None and self.sim_threads == 0:
            return SerialStream(source, **options)
        options |= {"stop": stop, "capacity": self.queue_capacity}
        if self.executor is not None:
            return ExecutorStream(source, self.executor, **options)
        return WorkerStream(
            source,
            workers=self.sim_threads,
            start_method=self.start_method,
            timeout=self.simulator_timeout,
            worker_max_examples=self.worker_max_examples,
            while_waiting=while_waiting,
            **options,
        )

    def __str__(self) -> str:
        return "an executor" if self.executor is not None else f"{self.sim_threads} simulator processes"
