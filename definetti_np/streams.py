"""Where the examples of a run are simulated: in this process, in processes of our own, or by an executor."""

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .checks import as_integer, as_positive_number
from .cores import available_cores
from .executors import ExecutorStream
from .simulation import ExampleSource, SerialStream
from .workers import WorkerStream


@dataclass(frozen=True)
class StreamOptions:
    """Arguments of `train` that say how to simulate, checked and with their defaults worked out."""

    workers: int
    capacity: int
    executor: object
    timeout: float | None
    max_redraw_fraction: float
    worker_max_examples: int | None
    start_method: str | None

    @classmethod
    def checked(
        cls,
        *,
        sim_threads,
        queue_capacity,
        executor,
        simulator_timeout,
        max_redraw_fraction,
        worker_max_examples,
        start_method,
    ) -> "StreamOptions":
        """Check the arguments of `train` that have these names."""
        if executor is not None:
            if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
                raise TypeError(
                    f"executor must be an object with a method submit, as those of concurrent.futures, got {executor!r}"
                )
            for name, value in {
                "sim_threads": sim_threads,
                "simulator_timeout": simulator_timeout,
                "worker_max_examples": worker_max_examples,
                "start_method": start_method,
            }.items():
                if value is not None:
                    raise ValueError(f"{name} must be None with an executor, which has its own way, got {value!r}")
        workers = available_cores() if sim_threads is None else as_integer(sim_threads, "sim_threads", minimum=0)
        if simulator_timeout is not None:
            as_positive_number(simulator_timeout, "simulator_timeout")
            if workers == 0:
                raise ValueError(
                    "simulator_timeout needs simulator processes to kill: sim_threads must be 1 at least, got 0"
                )
        if as_positive_number(max_redraw_fraction, "max_redraw_fraction") > 1:
            raise ValueError(f"max_redraw_fraction must be at most 1, got {max_redraw_fraction!r}")
        if worker_max_examples is not None:
            worker_max_examples = as_integer(worker_max_examples, "worker_max_examples", minimum=1)
        if start_method not in (None, *multiprocessing.get_all_start_methods()):
            choices = ", ".join(map(repr, multiprocessing.get_all_start_methods()))
            raise ValueError(f"start_method: unknown method {start_method!r}; choose from {choices}")
        return cls(
            workers=workers,
            capacity=queue_capacity,
            executor=executor,
            timeout=simulator_timeout,
            max_redraw_fraction=max_redraw_fraction,
            worker_max_examples=worker_max_examples,
            start_method=start_method,
        )

    def open(
        self, source: ExampleSource, *, first: int, stop: int, redraws: Mapping[str, int], while_waiting: Callable
    ):
        """Open a stream of examples ``first``, ..., ``stop - 1``.

        `redraws` counts those of the examples before; `while_waiting` is called until processes have started.
        """
        options = {"first": first, "max_redraw_fraction": self.max_redraw_fraction, "redraws": redraws}
        if first == stop or self.executor is None and self.workers == 0:
            return SerialStream(source, **options)
        options |= {"stop": stop, "capacity": self.capacity}
        if self.executor is not None:
            return ExecutorStream(source, self.executor, **options)
        return WorkerStream(
            source,
            workers=self.workers,
            start_method=self.start_method,
            timeout=self.timeout,
            worker_max_examples=self.worker_max_examples,
            while_waiting=while_waiting,
            **options,
        )

    def __str__(self) -> str:
        return "an executor" if self.executor is not None else f"{self.workers} simulator processes"
