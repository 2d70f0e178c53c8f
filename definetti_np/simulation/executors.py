"""Batches from any executor of `concurrent.futures`: threads, processes, or those of a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, wait

from ..errors import SimulatorError
from ..interruption import Waiting
from .messages import decode, encode, failure
from .source import NO_REDRAWS, Example, ExampleSource, shorten
from .stream import Stream, StreamSettings, without_error

MOST_IN_TASK = 8  # examples that are simulated by one call of the executor
TICK_SECONDS = 0.1  # between two looks at whether to go on waiting


class ExecutorStream(Stream):
    """Examples are simulated ahead by ``settings.executor``, at most ``settings.queue_capacity`` of them.

    The executor stays open. What it raises is not retried: a pool whose process died takes no more tasks.
    """

    def __init__(
        self,
        source: ExampleSource,
        settings: StreamSettings,
        examples: range,
        redraws: Mapping[str, int] = NO_REDRAWS,
    ):
        super().__init__(source, settings, examples, redraws)
        self._in_task = max(1, min(MOST_IN_TASK, settings.queue_capacity // 16))
        self._next_task = examples.start  # the example that the next task begins with
        self._tasks: deque[tuple[range, Future]] = deque()  # in the order of their examples
        self._messages: deque[bytes] = deque()  # those that have arrived, of examples from `_next` on
        self._again: Future | None = None
        self._assign()

    def _take(self, indices: range, while_waiting: Waiting) -> list[Example]:
        while len(self._messages) < len(indices):
            task, future = self._tasks[0]
            messages = self._result(task, future, while_waiting)
            self._tasks.popleft()
            self._messages += messages
        examples = [decode(self._messages.popleft(), self._source) for _ in indices]
        self._next = indices.stop
        self._assign()
        return examples

    def _take_again(self, indices: range, while_waiting: Waiting) -> list[Example | None]:
        messages = self._result(self._twice, self._again, while_waiting) if self._again else []
        examples = [without_error(decode, message, self._source) for message in messages]
        examples += [None] * (len(self._twice) - len(examples))
        return examples[::-1][: len(indices)]

    def _result(self, indices: range, future: Future, while_waiting: Waiting) -> list[bytes]:
        while not wait([future], TICK_SECONDS).done:
            while_waiting()
        try:
            return future.result()
        except (Exception, CancelledError) as error:
            raise self._failure(indices, error) from error

    def _assign(self) -> None:
        """Submit tasks while the queue has room, and after the first one what is simulated twice."""
        limit = min(self._next + self._settings.queue_capacity, self._stop)
        while self._next_task < limit:
            indices = range(self._next_task, min(self._next_task + self._in_task, limit))
            self._tasks.append((indices, self._submit(indices)))
            self._next_task = indices.stop
            if self._twice and self._again is None:
                # The other way round, because processes may draw the same numbers, one after another.
                self._again = self._submit(self._twice[::-1])

    def _submit(self, indices: range) -> Future:
        try:
            return self._settings.executor.submit(simulate, self._source, indices)
        except Exception as error:
            raise self._failure(indices, error) from error

    def _failure(self, indices: range, error: BaseException) -> SimulatorError:
        return SimulatorError(
            f"examples {indices[0]} to {indices[-1]} of seed {self._source.seed}, or others that the executor was at: "
            f"the executor failed: {shorten(f'{type(error).__name__}: {error}')}\nTo try them in this process:\n"
            f"    {self._source.reproducing_line(indices[0])}"
        )

    def close(self) -> None:
        """Cancel what the executor has not begun."""
        super().close()
        for future in (*(future for _, future in self._tasks), self._again):
            if future is not None:
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
