"""Simulator processes: each has a pipe of its own, and nothing else is shared between them.

The trainer tells a worker which examples to simulate and gets each back as one message of raw bytes. Since an
example is a function of its index, it does not matter who simulates it. A thread of the trainer receives
examples while others are trained on, and hands out new ones, at most `capacity` ahead of the last one taken.
"""

import contextlib
import multiprocessing
import os
import signal
import struct
import threading
import time
import warnings
from collections import deque
from multiprocessing.connection import Connection, wait

import numpy as np

from .errors import SimulatorError
from .simulation import Example, ExampleSource, assemble, forget_locks_of_other_threads

EXAMPLE, FAILURE = 0, 1
HEADER = struct.Struct("<qqq")  # EXAMPLE, index, number of distinct rows; or FAILURE, index, 0
TASK = struct.Struct("<q")  # the index of an example to simulate; an empty message says stop
MOST_TASKS = 16  # examples handed to a worker ahead, so that it need not wait for the trainer's answer
TICK = 1.0  # seconds between two looks at whether the workers live
GRACE = 1.0  # seconds that a worker gets to stop by itself


class WorkerStream:
    """Batches of examples ``first``, ``first + 1``, ..., ``stop - 1``, simulated ahead by worker processes.

    Parameters
    ----------
    source
        What simulates an example.
    workers
        Number of processes.
    capacity
        How many examples may be simulated ahead.
    first, stop
        The range of the examples.
    start_method
        Of `multiprocessing`; None for fork where the platform has it, so that any function can be the simulator.
    """

    def __init__(
        self,
        source: ExampleSource,
        *,
        workers: int,
        capacity: int,
        stop: int,
        first: int = 0,
        start_method=None,
    ):
        self._source = source
        self._capacity = capacity
        self._taken = self._assigned = first
        self._stop = stop
        self._most_tasks = max(1, min(MOST_TASKS, capacity // (2 * workers)))
        self._messages: dict[int, bytes] = {}
        self._wanted, self._missing = range(0), 0  # the batch that is waited for, and how many of it are missing
        self._error: SimulatorError | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._workers: list[_Worker] = []
        self._receiver: threading.Thread | None = None
        if start_method is None and "fork" in multiprocessing.get_all_start_methods():
            start_method = "fork"
        context = multiprocessing.get_context(start_method)
        try:
            for number in range(workers):
                self._workers.append(_Worker(number, source, context, self._workers))
            self._assign()
        except BaseException:
            self.close()
            raise
        self._receiver = threading.Thread(target=self._receive, name="definetti_np receiver", daemon=True)
        self._receiver.start()

    def next_batch(self, size: int):
        """Return the next `size` examples, waiting for them: their rows, and their labels (size, N).

        Raises
        ------
        SimulatorError
            If one of these examples failed, or a worker died.
        ValueError
            If the examples are more than the queue holds, more than are left, or the stream is closed.
        """
        start, end = self._taken, self._taken + size
        if size > self._capacity or end > self._stop or self._closing:
            raise ValueError(
                f"no examples {start} to {end - 1}: the queue holds {self._capacity}, the last example is "
                f"{self._stop - 1}, and the stream is {'closed' if self._closing else 'open'}"
            )
        with self._changed:
            self._wanted = range(start, end)
            self._missing = sum(index not in self._messages for index in self._wanted)
            self._changed.wait_for(lambda: self._error or not self._missing)
            if self._error:
                raise self._error
            messages = [self._messages.pop(index) for index in range(start, end)]
            self._taken = end
            self._assign()
        return assemble([decode(message, self._source) for message in messages])

    def _assign(self) -> None:
        """Hand out examples in turn while workers are short of them and the queue has room."""
        limit = 0 if self._closing else min(self._taken + self._capacity, self._stop)
        while self._assigned < limit:
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            if len(worker.tasks) >= self._most_tasks:
                break
            worker.assign(self._assigned)
            self._assigned += 1

    def _receive(self) -> None:
        """Receive messages for as long as a worker lives, and let no error pass unseen; runs in a thread."""
        try:
            self._receive_while_workers_live()
        except BaseException as error:
            self._fail(f"the receiver of simulations failed: {error!r}", error)

    def _receive_while_workers_live(self) -> None:
        living = list(self._workers)
        while living:
            ready = wait([waitable for worker in living for waitable in worker.waitables], TICK)
            for worker in living.copy():
                # After a quiet tick all are looked at: a dead worker's own children may keep its pipe open.
                if not ready or any(waitable in ready for waitable in worker.waitables):
                    if not self._receive_from(worker):
                        living.remove(worker)

    def _receive_from(self, worker: "_Worker") -> bool:
        """Take what a worker has sent; return whether it lives."""
        try:
            while worker.connection.poll():
                message = worker.connection.recv_bytes()
                with self._changed:
                    index = worker.tasks.popleft()
                    self._messages[index] = message
                    self._assign()
                    self._missing -= index in self._wanted
                    if not self._missing:  # waking the trainer for every example would cost more than the example
                        self._changed.notify_all()
            if worker.process.is_alive():
                return True
        except (EOFError, OSError):
            pass
        if not self._closing:
            self._fail(worker.obituary(self._source.seed))
        return False

    def _fail(self, message: str, cause: BaseException | None = None) -> None:
        """Let `next_batch` raise an error, the first one that there is."""
        with self._changed:
            if self._error is None:
                self._error = SimulatorError(message)
                self._error.__cause__ = cause
                self._changed.notify_all()

    def close(self) -> None:
        """Ask the workers to stop, wait a moment, and end those that go on; closing again does nothing."""
        self._closing = True
        for worker in self._workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + GRACE
        for worker in self._workers:
            worker.end(max(0.0, deadline - time.monotonic()))
        if self._receiver is not None:
            self._receiver.join()
        for worker in self._workers:
            worker.release()
        self._workers = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class _Worker:
    """The trainer's side of one worker process: its pipe and the examples it was given."""

    def __init__(self, number: int, source: ExampleSource, context, siblings: list["_Worker"]):
        self.number = number
        self.tasks: deque[int] = deque()
        self.connection, theirs = context.Pipe()
        # A forked child inherits the trainer's ends of all pipes. It closes them, or no pipe would ever end.
        inherited = []
        if context.get_start_method() == "fork":
            inherited = [self.connection, *(sibling.connection for sibling in siblings)]
        self.process = context.Process(
            target=_work,
            args=(source, theirs, inherited),
            name=f"definetti_np simulator {number}",
            daemon=True,
        )
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of any fork in a process with threads; ours touches nothing but the simulator.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                self.process.start()
        except OSError:
            self.connection.close()
            raise
        except Exception as error:  # pickling raises errors of many classes
            self.connection.close()
            raise TypeError(
                f"simulator: {error}; with start method {context.get_start_method()!r} it must be a function that "
                "can be imported, not a lambda or a closure"
            ) from error
        finally:
            theirs.close()

    @property
    def waitables(self):
        return self.connection, self.process.sentinel

    def assign(self, index: int) -> None:
        self.tasks.append(index)
        with contextlib.suppress(OSError):  # it died: the receiver finds out
            self.connection.send_bytes(TASK.pack(index))

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send_bytes(b"")

    def end(self, grace: float) -> None:
        self.process.join(grace)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()

    def release(self) -> None:
        """Close the files of a process that has ended."""
        self.connection.close()
        self.process.close()

    def obituary(self, seed: int) -> str:
        """Say how the process ended, and at which example."""
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is not None and code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"was killed by {names.get(-code, f'signal {-code}')}"
        else:
            how = f"ended with exit code {code}"
        task = f"while it simulated example {self.tasks[0]} of seed {seed}" if self.tasks else "while it was idle"
        text = f"simulator process {self.number} (pid {self.process.pid}) {how} {task}"
        if code == -signal.SIGKILL:
            text += "; if nobody killed it, it may have run out of memory"
        if self.tasks:
            text += (
                "\nTo reproduce it in this process:\n"
                f"    definetti_np.simulate_example(simulator, seed={seed}, index={self.tasks[0]})"
            )
        return text


def _work(source: ExampleSource, connection: Connection, inherited: list[Connection]) -> None:
    """Simulate the examples that the trainer asks for, until it says stop or is gone; runs in a worker process."""
    for other in inherited:
        other.close()
    os.register_at_fork(after_in_child=connection.close)  # a simulator's own children must not keep the pipe open
    forget_locks_of_other_threads()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the trainer stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    tasks = deque()
    with contextlib.suppress(EOFError, OSError):  # the trainer is gone
        while True:
            while not tasks or connection.poll():
                message = connection.recv_bytes()
                if not message:
                    return
                tasks.append(TASK.unpack(message)[0])
            index = tasks.popleft()
            try:
                message = encode(index, source.example(index))
            except SimulatorError as error:
                message = HEADER.pack(FAILURE, index, 0) + str(error).encode(errors="backslashreplace")
            connection.send_bytes(message)


def encode(index: int, example: Example) -> bytes:
    """Lay an example out as bytes: header, rows, counts, label."""
    header = HEADER.pack(EXAMPLE, index, len(example.counts))
    return b"".join([header, example.rows.tobytes(), example.counts.tobytes(), example.label.tobytes()])


def decode(message: bytes, source: ExampleSource) -> Example:
    """Read a message of `encode`; raise SimulatorError for that of a failure."""
    kind, _, rows = HEADER.unpack_from(message)
    if kind == FAILURE:
        raise SimulatorError(message[HEADER.size :].decode())
    shape = (rows, *source.spec.row_shape)
    size = int(np.prod(shape))
    counts_start = HEADER.size + 4 * size
    label_start = counts_start + 8 * rows
    return Example(
        np.frombuffer(message, np.float32, size, HEADER.size).reshape(shape),
        np.frombuffer(message, np.int64, rows, counts_start),
        np.frombuffer(message, np.float32, offset=label_start),
    )
