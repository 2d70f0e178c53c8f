"""Batches from any executor of `concurrent.futures`: threads, processes, or those of a cluster.

A task is as many examples as take a fifth of a second, because every engine needs some time for a task, and a cluster
more than an example of a fast simulator takes. A task whose worker was lost, or that does not come back, is sent again:
example i is the same whoever simulates it, so the first answer counts.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from importlib import metadata
from typing import Any

from ..checks import leave_out_middle
from ..errors import SimulatorError
from ..interruption import Waiting
from .messages import decode, encode, failure
from .parcel import Parcel
from .pool import Pool
from .source import NO_REDRAWS, Example, ExampleSource
from .stream import DEFAULT_CAPACITY, PATIENT, Stream, StreamSettings, without_error

logger = logging.getLogger("definetti_np")

PACKAGES = ("definetti_np", "numpy", "msprime")  # whose versions decide what an example is
TASK_SECONDS = 0.2  # that a task should take
TASKS_PER_WORKER = 3  # that are on their way: one is being simulated while others are sent and come back
UNKNOWN_WORKERS = 16  # where an executor does not say how many it has
MOST_BYTES = 2**29  # of examples on their way, because they are kept in memory
MOST_LOSSES = 3  # of one task, before they end the run
LATE = 10  # times as long as tasks usually take, after which one is sent again
LEAST_LATE_SECONDS = 2.0
MOST_OVERTAKEN = 50  # tasks that were sent later, after which one is late however many workers there are
JUDGED_TASKS = 5  # that have come back, before one is late
LOOK_SECONDS = 10.0  # between two questions to an executor, how many workers it has
TICK_SECONDS = 0.1  # between two looks at whether to go on waiting
QUIET_SECONDS = 60.0  # of waiting, until a warning


class ExecutorStream(Stream):
    """Examples are simulated ahead by ``settings.executor``, at most ``settings.queue_capacity`` of them.

    Without a `queue_capacity` they are as many as keep all workers of the executor busy. The executor stays open,
    unless a function of the user's makes it; see `Pool`.

    Parameters
    ----------
    source, settings, examples, redraws
        As of every `Stream`.
    while_waiting
        What to do until a worker has answered; it may raise an exception.

    Raises
    ------
    SimulatorError
        If the executor does not work, or its workers lack this package or what it needs.
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
        self._pool = Pool(settings.executor)
        self._parcel = Parcel(source, self._pool.executor)
        self._next_task = 0  # the place in `_examples` of the one that the next task begins with
        self._tasks: deque[_Task] = deque()  # in the order of their examples
        self._lost: deque[tuple[_Task, Future, BaseException]] = deque()  # what has failed, and why
        self._messages: deque[bytes] = deque()  # those that have arrived, of examples from `_next` on
        self._seconds: float | None = None  # that an example takes, about
        self._bytes = 1.0  # that it takes as a message, about
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=100)  # of tasks: when they were sent, and came back
        self._wanted = 0  # examples of the batch that is waited for
        self._workers, self._looked = UNKNOWN_WORKERS, -math.inf  # how many there are, and when that was asked
        self._reported = 0
        self._news = 0.0  # when the waiting began, or was warned of
        self._again: _Task | None = None
        try:
            if examples:
                self._see_that_workers_have_the_package(while_waiting)
            self._assign()
        except BaseException:
            self.close()
            raise

    @property
    def simulators(self) -> int | None:
        """How many workers the executor has now, None if it does not say."""
        return number_of_workers(self._pool.executor)

    def _see_that_workers_have_the_package(self, while_waiting: Waiting) -> None:
        """Ask a worker for its versions before it gets tasks: some engines hang if a message needs what it lacks.

        What is sent for that is of Python itself.
        """
        errors: list[BaseException] = []
        while len(errors) < MOST_LOSSES:
            answer = self._ask_for_versions(while_waiting)
            if isinstance(answer, ImportError):
                raise SimulatorError(
                    f"a worker of the executor cannot import this package: {answer}. Install definetti_np, NumPy and "
                    "msprime where the executor's workers run, in the versions that are here"
                ) from answer
            if not isinstance(answer, BaseException):
                self._check_versions(answer)
                return
            errors.append(answer)
        raise SimulatorError(f"the executor failed: {_one_line(errors[0])}") from errors[0]

    def _ask_for_versions(self, while_waiting: Waiting) -> tuple[str, ...] | BaseException:
        """The `versions_here` of a worker, or why there are none."""
        # The comment differs each time, because Dask does equal calls once, and remembers their errors.
        question = f"__import__({__name__!r}, fromlist=['*']).versions_here()  # {time.time_ns()}"
        try:
            future = self._pool.submit(eval, question)
        except Exception as error:
            return error
        self._news = time.monotonic()
        try:
            while not wait([future], TICK_SECONDS).done:
                self._warn_if_quiet()
                while_waiting()
        except BaseException:
            future.cancel()
            raise
        return _error_of(future) or future.result()

    def _warn_if_quiet(self) -> None:
        """Warn of an executor from which nothing comes, because it may have no worker."""
        if time.monotonic() - self._news > QUIET_SECONDS:
            self._news = time.monotonic()
            number = number_of_workers(self._pool.executor)
            logger.warning(
                "nothing has come back from the executor for %g seconds; it has %s workers",
                QUIET_SECONDS, "an unknown number of" if number is None else number,
            )  # fmt: skip

    def _take(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example]:
        self._wanted = len(indices)
        self._assign()
        while len(self._messages) < len(indices):
            messages = self._result(self._tasks[0], while_waiting)
            self._tasks.popleft()
            self._messages += messages
            self._assign()
        examples = [decode(self._messages.popleft(), self._source) for _ in indices]
        self._next, self._wanted = self._next + len(indices), 0
        self._assign()
        return examples

    def _take_again(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example | None]:
        messages = self._result(self._again, while_waiting) if self._again else []
        examples = [without_error(decode, message, self._source) for message in messages]
        examples += [None] * (len(self._twice) - len(examples))
        return examples[::-1][: len(indices)]

    def _result(self, task: _Task, while_waiting: Waiting) -> list[bytes]:
        """Wait for the messages of a task; send again what is lost, and this task if it is late."""
        self._news = time.monotonic()
        while True:
            self._send_what_is_lost()
            if task.error is not None and not task.futures:
                raise self._failure(task, task.error) from task.error
            done, _ = wait(task.futures, TICK_SECONDS, FIRST_COMPLETED)
            for future in done:
                if (error := _error_of(future)) is not None:
                    self._lost.append((task, future, error))  # perhaps before the executor has called `_note_end`
                    continue
                seconds, versions, messages = future.result()
                self._check_versions(versions)
                self._learn(task, seconds, messages)
                return messages
            if not done:
                self._warn_if_quiet()
                while_waiting()
                if task.error is None and self._is_late(task):
                    logger.warning(
                        "examples %d to %d have not come back from the executor after %.0f s, where tasks take %.1f s; "
                        "they are sent again",
                        task.first, task.last, time.monotonic() - task.sent, _median_latency(list(self._arrivals)),
                    )  # fmt: skip
                    self._send(task)

    def _check_versions(self, versions: tuple[str, ...]) -> None:
        """See that the executor's workers have our packages, because others may draw other numbers."""
        if versions != versions_here() and self._settings.check_versions:
            theirs, ours = set(versions), set(versions_here())
            there, here = ", ".join(sorted(theirs - ours)), ", ".join(sorted(ours - theirs))
            raise SimulatorError(
                f"a worker of the executor has {there}, and this process {here}, so the same seed may give other "
                "examples there. Install the same versions, or allow it with check_versions=False"
            )

    def _learn(self, task: _Task, seconds: float, messages: Sequence[bytes]) -> None:
        one, size = seconds / len(task.indices), sum(map(len, messages)) / len(messages)
        is_first = self._seconds is None
        self._seconds = one if self._seconds is None else 0.8 * self._seconds + 0.2 * one
        self._bytes = size if is_first else 0.8 * self._bytes + 0.2 * size
        task.cancel()

    def _is_late(self, task: _Task) -> bool:
        """Whether a task takes much longer than those that have come back; and each time twice as long.

        A task is late after others, which were sent later and have come back. While nothing comes back the executor
        is slow, not this task, and more tasks would make it slower.
        """
        arrivals = list(self._arrivals)
        if len(arrivals) < JUDGED_TASKS:
            return False
        overtaken = sum(sent > task.sent for sent, _ in arrivals)
        since = task.sent
        if overtaken < min(self._workers, MOST_OVERTAKEN):
            since = max(since, *(back for _, back in arrivals))
        patience = max(LATE * _median_latency(arrivals), LEAST_LATE_SECONDS)
        return time.monotonic() - since > patience * 2 ** (task.attempts - 1)

    def _send_what_is_lost(self) -> None:
        """Send lost tasks again as soon as that is known, and not only when the training needs them."""
        sent = []
        while self._lost:
            task, future, error = self._lost.popleft()
            if future in task.futures:  # or that was seen before, or the task has come back
                task.futures.remove(future)
                task.losses += 1
                if task.losses == MOST_LOSSES or self._parcel.error is not None:
                    task.error = error
                else:
                    self._send(task, because=error)
                if task.error is None:
                    sent.append((task, error))
        if sent:
            task, error = sent[0]
            logger.warning(
                "examples %d to %d%s are sent to the executor again, because it raised %s", task.first, task.last,
                f" and {len(sent) - 1} more task{'s' * (len(sent) > 2)}" if len(sent) > 1 else "", _one_line(error),
            )  # fmt: skip

    def _assign(self) -> None:
        """Send tasks while there is room, and after the first one what is simulated twice."""
        self._send_what_is_lost()
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._workers = number_of_workers(self._pool.executor) or UNKNOWN_WORKERS
            self._looked = time.monotonic()
        workers = self._workers
        in_task = 1 if self._seconds is None else max(1, round(TASK_SECONDS / max(self._seconds, 1e-9)))
        if self._settings.queue_capacity is None:
            most = max(DEFAULT_CAPACITY, min(int(MOST_BYTES / self._bytes), TASKS_PER_WORKER * workers * in_task))
        else:
            most = self._settings.queue_capacity
        in_task = min(in_task, max(1, most // (TASKS_PER_WORKER * workers)))
        if self._seconds is None:  # the first tasks are small, because nobody knows how long they take
            most = min(most, max(TASKS_PER_WORKER * workers, len(self._twice)))
        elif in_task > 2 * self._reported:
            self._reported = in_task
            logger.info(
                "the executor has %d workers; tasks of %d examples, %d examples at most ahead", workers, in_task, most
            )
        limit = min(self._next + max(most, self._wanted), len(self._examples))
        while self._next_task < limit and not (self._tasks and self._tasks[-1].error):
            indices = self._examples[self._next_task : min(self._next_task + in_task, limit)]
            self._tasks.append(self._new_task(indices))
            self._next_task += len(indices)
            if self._twice and self._again is None:
                # The other way round, because processes may draw the same numbers, one after another.
                self._again = self._new_task(self._twice[::-1])

    def _new_task(self, indices: Sequence[int]) -> _Task:
        task = _Task(indices)
        self._send(task)
        return task

    def _send(self, task: _Task, because: BaseException | None = None) -> None:
        """Hand a task to the executor; if that takes none, the task has failed.

        `because` is why it is sent again, which says more than what an executor that broke says.
        """
        try:
            # Its arguments differ from those of the attempt before, because Dask does equal calls once.
            future = self._pool.submit(simulate, self._parcel, task.indices, task.attempts)
        except Exception as error:
            task.error = error if because is None or isinstance(error, SimulatorError) else because
            return
        task.futures.append(future)
        task.attempts += 1
        task.sent = time.monotonic()
        future.add_done_callback(functools.partial(self._note_end, task, task.sent))

    def _note_end(self, task: _Task, sent: float, future: Future) -> None:
        """Note how long a task took to come back, or that it failed; the executor calls this in a thread of its own."""
        error = _error_of(future)
        if error is None:
            self._arrivals.append((sent, time.monotonic()))
        else:
            self._lost.append((task, future, error))

    def _failure(self, task: _Task, error: BaseException) -> SimulatorError:
        if self._parcel.error is not None:
            return SimulatorError(f"the executor failed: {self._parcel.error}")
        what = _one_line(error)
        if isinstance(error, (ImportError, AttributeError)):  # not of the simulator itself, whose errors come back
            what += ". The simulator must be in a module that the executor's workers can import"
        if isinstance(error, BrokenExecutor):
            what += f". {self._pool.what_helps}"
        return SimulatorError(
            f"examples {task.first} to {task.last} of seed {self._source.seed}, or others that the executor was at: "
            f"the executor failed: {what}\nTo try them in this process:\n"
            f"    {self._source.reproducing_line(task.first)}"
        )

    def close(self) -> None:
        """Cancel what the executor has not begun, and close it if it was made here."""
        if not self._closing:
            super().close()
            for task in (*self._tasks, self._again):
                if task is not None:
                    task.cancel()
            self._tasks.clear()
            self._pool.close()


class _Task:
    """Examples that one call of the executor simulates, and the futures of that call and of its repetitions."""

    def __init__(self, indices: Sequence[int]):
        self.indices = indices
        self.first, self.last = min(indices), max(indices)
        self.futures: list[Future] = []
        self.attempts = self.losses = 0
        self.sent = 0.0  # when the last attempt was made
        self.error: BaseException | None = None  # why it is not sent again

    def cancel(self) -> None:
        """Forget its futures, and cancel those that have not begun."""
        futures, self.futures = self.futures, []
        for future in futures:
            future.cancel()


def _error_of(future: Future) -> BaseException | None:
    """Why a future that is done has no result; None if it has one."""
    return CancelledError() if future.cancelled() else future.exception()


def _median_latency(arrivals: Sequence[tuple[float, float]]) -> float:
    return statistics.median(back - sent for sent, back in arrivals)


def number_of_workers(executor: Any) -> int | None:
    """How many examples an executor simulates at a time, or None if it does not say.

    The executors of `concurrent.futures`, loky, mpi4py and Dask keep it in places of their own.
    """
    with contextlib.suppress(Exception):  # of an engine that is out of reach, which its next task will say better
        for name in ("_max_workers", "num_workers", "max_workers"):
            number = getattr(executor, name, None)
            if isinstance(number, int) and number > 0:
                return number
        client = getattr(executor, "_client", None)
        if client is not None and callable(getattr(client, "nthreads", None)):
            return sum(client.nthreads().values()) or None
    return None


@functools.cache
def versions_here() -> tuple[str, ...]:
    """The versions of what examples depend on, in this process."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return tuple(found)


def _one_line(error: BaseException) -> str:
    return leave_out_middle(" ".join(f"{type(error).__name__}: {error}".split()))


def simulate(parcel: Parcel, indices: Sequence[int], attempt: int = 0) -> tuple[float, tuple[str, ...], list[bytes]]:
    """Simulate examples; return the seconds that it took, versions, and a message of each up to the first failure."""
    source = parcel.open()
    start = time.perf_counter()
    messages = []
    for index in indices:
        try:
            messages.append(encode(index, source.example(index)))
        except SimulatorError as error:
            messages.append(failure(index, str(error)))
            break
    return time.perf_counter() - start, versions_here(), messages
