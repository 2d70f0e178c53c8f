"""Batches from any executor of `concurrent.futures`: threads, processes, or those of a cluster."""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future, wait

from ..errors import SimulatorError
from .messages import decode, encode, failure
from .redraws import NO_REDRAWS, Redraws
from .source import ExampleSource, Stream, assemble, reproducing_line

MOST_IN_TASK = 8  # examples that are simulated by one call of the executor
TICK = 0.1  # seconds between two looks at whether to go on waiting


class ExecutorStream(Stream):
    """Batches of examples ``first``, ``first + 1``, ..., ``stop - 1``, simulated ahead by an executor.

    The executor stays open. What it raises is not retried: a pool whose process died takes no more tasks.

    Parameters
    ----------
    source
        What simulates an example; executors of processes send it to them.
    executor
        The executor.
    capacity
        How many examples may be simulated ahead.
    first, stop
        The range of the examples.
    max_redraw_fraction, redraws
        As in `SerialStream`.
    """

    def __init__(
        self,
        source: ExampleSource,
        executor: Executor,
        *,
        capacity: int,
        stop: int,
        first: int = 0,
        max_redraw_fraction: float = 0.1,
        redraws: Mapping[str, int] = NO_REDRAWS,
    ):
        self._source = source
        self._executor = executor
        self._capacity = capacity
        self._in_task = max(1, min(MOST_IN_TASK, capacity // 16))
        self._taken = self._assigned = first
        self._stop = stop
        self._redraws = Redraws(max_redraw_fraction, redraws)
        self._tasks: deque[tuple[range, Future]] = deque()  # in the order of their examples
        self._messages: deque[bytes] = deque()  # that have come and are not taken
        self._assign()

    def next_batch(self, size: int, while_waiting: Callable[[], None] = lambda: None):
        """Return the next `size` examples, waiting for them: their rows, and their labels (size, N).

        `while_waiting` is called again and again meanwhile; it may raise an exception.

        Raises
        ------
        SimulatorError
            If one of these examples failed, or the executor did.
        """
        while len(self._messages) < size:
            indices, future = self._tasks[0]
            while not wait([future], TICK).done:
                while_waiting()
            self._tasks.popleft()
            try:
                self._messages += future.result()
            except (Exception, CancelledError) as error:
                raise self._broken(indices, error) from error
        examples = [decode(self._messages.popleft(), self._source) for _ in range(size)]
        self._taken += size
        self._redraws.take(examples, self._taken)
        self._assign()
        return assemble(examples)

    def _assign(self) -> None:
        """Submit what there is room for."""
        limit = min(self._taken + self._capacity, self._stop)
        while self._assigned < limit:
            indices = range(self._assigned, min(self._assigned + self._in_task, limit))
            try:
                future = self._executor.submit(simulate, self._source, indices)
            except Exception as error:
                raise self._broken(indices, error) from error
            self._tasks.append((indices, future))
            self._assigned = indices.stop

    def _broken(self, indices: range, error: BaseException) -> SimulatorError:
        return SimulatorError(
            f"examples {indices[0]} to {indices[-1]} of seed {self._source.seed}, or others that the executor was at: "
            f"the executor failed: {type(error).__name__}: {error}\nTo try them in this process:\n"
            f"    {reproducing_line(self._source.seed, indices[0])}"
        )

    def close(self) -> None:
        """Cancel what the executor has not begun."""
        for _, future in self._tasks:
            future.cancel()
        self._tasks.clear()


def simulate(source: ExampleSource, indices: range) -> list[bytes]:
    """Simulate examples, and return a message of each, the last one of a failure if there is one."""
    messages = []
    for index in indices:
        try:
            messages.append(encode(index, source.example(index)))
        except SimulatorError as error:
            messages.append(failure(index, str(error)))
            break
    return messages
