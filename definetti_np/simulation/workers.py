"""Batches from simulator processes: each has a socket of its own, and nothing else is shared between them.

Since an example is a function of its index, it does not matter which process simulates it, or how often: the examples
of a worker that died are simulated again. A thread of the trainer receives examples while others are trained on, hands
out new ones, at most `capacity` ahead of the last one taken, and sees to it that workers live.
"""

from __future__ import annotations

import atexit
import contextvars
import heapq
import logging
import multiprocessing
import selectors
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence

from ..errors import SimulatorError
from ..interruption import Waiting
from .forking import imports_under_way
from .messages import READY, decode, text_of
from .source import NO_REDRAWS, Example, ExampleSource
from .stream import DEFAULT_CAPACITY, PATIENT, Stream, StreamSettings, without_error
from .worker import Worker, end_all

logger = logging.getLogger("definetti_np")

MOST_TASKS = 16  # examples handed to a worker ahead, so that it need not wait for the trainer's answer
MOST_ENDS = 3  # processes that one example may end before it ends the run
MOST_FAILED_STARTS = 10  # in a row
TICK_SECONDS = 0.1  # between two looks at whether the workers live
QUIET_SECONDS = 60.0  # without an example until a warning
NOTEBOOK = (
    "A function that was written in a notebook or at the prompt is in no module that could be imported: put it into a "
    "file beside it and import it from there"
)
LONGEST_STEP_SECONDS = 1.0  # between two looks at the watch; if it is more, the trainer was stopped


class WorkerStream(Stream):
    """Examples are simulated by worker processes ahead, at most ``settings.queue_capacity`` of them.

    Parameters
    ----------
    source, settings, examples, redraws
        As of every `Stream`.
    while_waiting
        What to do until all workers have started; it may raise an exception.

    Raises
    ------
    TypeError
        If the simulator cannot be sent to another process.
    SimulatorError
        If a process does not start.
    """

    def __init__(
        self,
        source: ExampleSource,
        settings: StreamSettings,
        examples: Sequence[int],
        redraws: Mapping[str, int] = NO_REDRAWS,
        while_waiting: Waiting = PATIENT,
    ):
        super().__init__(source, settings, examples, redraws)
        self._next_task = 0  # the place in `_examples` of the next one that no worker was told to simulate
        self._capacity = settings.queue_capacity or DEFAULT_CAPACITY
        self._most_tasks = max(1, min(MOST_TASKS, self._capacity // (2 * settings.sim_threads)))
        self._messages: dict[int, bytes] = {}
        self._to_repeat = [*reversed(self._twice)]  # not by the worker that simulates them first, nor in this order
        self._first: Worker | None = None  # that worker
        self._again: dict[int, bytes] = {}  # of these examples, what arrived second
        self._repeats: list[int] = []  # heap of the examples whose worker died
        self._ends: dict[int, list[str]] = {}  # how the processes ended that were at an example
        self._failed_starts: list[str] = []  # how processes ended before they were ready, since the last that was
        self._batch: Collection[int] = ()  # what the trainer waits for
        self._missing = 0  # how many of it have not arrived
        self._error: SimulatorError | None = None
        self._changed = threading.Condition()
        self._watch = _Watch()
        self._last_look = self._last_news = 0.0
        self._workers: list[Worker] = []
        self._selector = selectors.PollSelector()
        here = contextvars.copy_context()  # in which the log of this run is known
        self._receiver = threading.Thread(
            target=here.run, args=(self._receive,), name="definetti_np receiver", daemon=True
        )
        method = settings.start_method
        if method is None and "fork" in multiprocessing.get_all_start_methods():
            method = "fork"  # any function can be the simulator
        self._context = multiprocessing.get_context(method)
        self._ignored_imports = imports_under_way()  # such as that of a module that trains while it is imported
        try:
            for number in range(settings.sim_threads):
                self._start_worker(number)
            while not all(worker.ready for worker in self._workers):
                self._attend()
                while_waiting()
            self._assign_to_repeat()
        except BaseException:
            end_all(self._workers)
            raise
        self._receiver.start()
        atexit.register(self.close)  # or multiprocessing would end the workers, and this stream start them again

    def _take(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example]:
        with self._changed:
            self._batch = set(indices)
            self._missing = sum(index not in self._messages for index in indices)
            while not self._changed.wait_for(lambda: self._error or not self._missing, TICK_SECONDS):
                while_waiting()
            if self._error:
                raise self._error
            messages = [self._messages.pop(index) for index in indices]
            self._next += len(indices)
            self._assign()
        return [decode(message, self._source) for message in messages]

    def _take_again(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example | None]:
        with self._changed:
            while not self._changed.wait_for(lambda: self._error or len(self._again) >= len(indices), TICK_SECONDS):
                while_waiting()
            if self._error:
                raise self._error
        return [without_error(decode, self._again[index], self._source) for index in indices]

    def _assign(self) -> None:
        """Hand out examples in turn, repeats first, while workers are short of them and the queue has room."""
        limit = min(self._next + self._capacity, len(self._examples))
        most_examples = self._settings.worker_max_examples or float("inf")
        given: dict[Worker, list[int]] = {}
        free = [worker for worker in self._workers if worker.ready and not worker.retired]
        while free and (self._repeats or self._next_task < limit):
            worker = min(free, key=lambda worker: len(worker.tasks) + len(given.get(worker, ())))
            indices = given.setdefault(worker, [])
            if self._first not in (None, worker):
                indices += self._to_repeat
                self._to_repeat = []
            if len(worker.tasks) + len(indices) >= self._most_tasks:
                break
            if self._repeats:
                indices.append(heapq.heappop(self._repeats))
            else:
                indices.append(self._examples[self._next_task])
                self._first = self._first or worker
                self._next_task += 1
            if worker.total + len(indices) >= most_examples:
                worker.retired = True
                free.remove(worker)
        for worker, indices in given.items():
            self._give(worker, indices)

    def _assign_to_repeat(self) -> None:
        """Hand out what is to be simulated twice, if no second worker was there while there were other examples."""
        free = [worker for worker in self._workers if worker is not self._first and not worker.retired]
        if free and self._to_repeat:
            self._give(free[0], self._to_repeat)
        else:
            self._repeats += self._to_repeat[::-1]
            self._assign()
        self._to_repeat = []

    def _give(self, worker: Worker, indices: list[int]) -> None:
        if not worker.tasks:
            worker.began = self._watch.now()
        worker.assign(indices)

    def _receive(self) -> None:
        """Attend to the workers until the stream is closed or fails, then end them; runs in a thread."""
        try:
            while not self._closing and self._error is None:
                self._attend()
        except BaseException as error:
            self._fail(f"the receiver of simulations failed: {error!r}", error)
        finally:
            end_all(self._workers)

    def _attend(self) -> None:
        """Wait a tick at most for messages, take them, and look after the workers every tick."""
        arrived = self._selector.select(TICK_SECONDS)
        with self._changed:
            now = self._watch.now()
        for key, _ in arrived:
            self._receive_from(key.data)
        if now - self._last_look >= TICK_SECONDS or not arrived:
            self._last_look = now
            self._look_after_workers(now)

    def _receive_from(self, worker: Worker) -> bool:
        """Take what a worker has sent, or replace it if it is gone; return whether there was anything."""
        try:
            messages = worker.receive()
        except (EOFError, OSError):
            self._replace(worker)
            return False
        if messages is not None:  # a part of an example is a sign of life too: it is large
            worker.began = self._watch.time
        if messages:
            with self._changed:
                for kind, index, message in messages:
                    self._accept(worker, kind, index, message)
                self._last_news = self._watch.time
                if worker.retired and not worker.tasks:
                    worker.hang_up()
                if any(worker.ready and len(worker.tasks) <= self._most_tasks // 2 for worker in self._workers):
                    self._assign()
                if not self._missing:  # waking the trainer for every example would cost more than the example
                    self._changed.notify_all()
        return messages is not None

    def _accept(self, worker: Worker, kind: int, index: int, message: bytes) -> None:
        if kind == READY:
            worker.ready = True
            self._failed_starts.clear()
        elif not worker.ready:
            worker.verdict = f"could not load the simulator:\n\n{text_of(message)}"
        else:
            worker.tasks.popleft()
            self._ends.pop(index, None)
            if self._is_taken(index) or index in self._messages:
                self._again[index] = message
                self._changed.notify_all()
            else:
                self._messages[index] = message
                self._missing -= index in self._batch

    def _is_taken(self, index: int) -> bool:
        return self._next > 0 and index <= self._examples[self._next - 1]

    def _look_after_workers(self, now: float) -> None:
        """Replace workers that are dead or too slow, and say so if nothing happens for long."""
        timeout = self._settings.simulator_timeout
        for worker in self._workers.copy():
            if not worker.lives():  # and its socket is still open: a process that it started has it too
                while self._receive_from(worker):
                    pass
                if worker in self._workers:
                    self._replace(worker)
            elif timeout is not None and worker.tasks and now - worker.began > timeout:
                worker.verdict = f"took longer than simulator_timeout={timeout:g} seconds and was killed"
                worker.kill()
                self._replace(worker)
        if not any(worker.tasks or not worker.ready for worker in self._workers):
            self._last_news = now
        if now - self._last_news >= QUIET_SECONDS:
            self._last_news = now
            at = ", ".join(f"{worker.number} at {worker.tasks[0]}" for worker in self._workers if worker.tasks)
            logger.warning(
                "no example has arrived for %g seconds (simulator processes and their examples: %s)",
                QUIET_SECONDS,
                at or "none",
            )

    def _replace(self, worker: Worker) -> None:
        """Start another worker in the place of one that has ended, and have its examples simulated again."""
        self._selector.unregister(worker.socket)
        with self._changed:
            self._workers.remove(worker)
        how = worker.end()
        with self._changed:
            if self._closing:
                return
            for index in worker.tasks:
                heapq.heappush(self._repeats, index)
            if not worker.retired or worker.tasks:
                self._warn_or_end_run(worker, how)
        if self._error is None:
            self._start_worker(worker.number)

    def _start_worker(self, number: int) -> None:
        worker = Worker(number, self._source, self._context, self._workers, self._ignored_imports)
        worker.began = self._watch.time
        self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        with self._changed:
            self._workers.append(worker)

    def _warn_or_end_run(self, worker: Worker, how: str) -> None:
        """Warn of a worker that ended by itself, or let the run end if that happens again and again."""
        text = f"simulator process {worker.number} (pid {worker.pid}) {how}"
        if not worker.ready:
            text = f"simulator process {worker.number} (pid {worker.pid}), before it was ready, {how}"
            self._failed_starts.append(how)
            if not self._receiver.is_alive():
                raise SimulatorError(f"{text}\n{self._start_hint()}")
            if len(self._failed_starts) >= MOST_FAILED_STARTS:
                self._fail(f"{text}, as the {MOST_FAILED_STARTS - 1} before: {'; '.join(self._failed_starts)}")
        elif worker.tasks:
            index = worker.tasks[0]
            text += f" while it simulated example {index} of seed {self._source.seed}"
            ends = self._ends.setdefault(index, [])
            ends.append(how)
            if "SIGKILL" in how:
                text += "; if nobody killed it, it may have run out of memory"
            if len(ends) >= MOST_ENDS:
                self._fail(
                    f"{text}\nIt is the third process that ended at this example: {'; '.join(ends)}.\n"
                    f"To reproduce it in this process:\n    {self._source.reproducing_line(index)}"
                )
        else:
            text += " while it was idle"
        logger.warning("%s; %s", text, "another one takes its place" if self._error is None else "giving up")

    def _start_hint(self) -> str:
        method = self._context.get_start_method()
        if method == "fork":
            return "It had not called the simulator yet."
        return (
            f"Under start method {method!r} a simulator process imports the script and the simulator's module; what "
            "goes wrong there is on stderr. Both must be importable, and the script must call train under "
            'if __name__ == "__main__":' + ("" if hasattr(sys.modules["__main__"], "__file__") else f". {NOTEBOOK}")
        )

    def _fail(self, message: str, cause: BaseException | None = None) -> None:
        """Let `next_batch` raise this error, unless there has been one before."""
        with self._changed:
            if self._error is None:
                self._error = SimulatorError(message)
                self._error.__cause__ = cause
                self._changed.notify_all()

    def close(self) -> None:
        """Ask the workers to end, wait a moment, and end those that go on; closing again does nothing."""
        with self._changed:
            super().close()
            for worker in self._workers:
                worker.hang_up()  # which wakes the receiver
        self._receiver.join()
        self._workers = []
        self._selector.close()
        atexit.unregister(self.close)


class _Watch:
    """Seconds in which this process ran: while it is stopped, or the machine sleeps, no worker is late."""

    def __init__(self):
        self.time = 0.0
        self._last = time.monotonic()

    def now(self) -> float:
        now = time.monotonic()
        self.time += min(now - self._last, LONGEST_STEP_SECONDS)
        self._last = now
        return self.time
