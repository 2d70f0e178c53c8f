"""A simulator process from the outside: its socket, the examples it was given, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

from .messages import TASK, Inbox
from .source import ExampleSource
from .worker_process import NO_GUARD_CODE, worker_main

GRACE_SECONDS = 1.0  # that a process gets to end by itself
CHUNK_BYTES = 2**18  # that are received at once
GUARD = (
    "the script that calls train was imported by its own simulator process: call train under "
    'if __name__ == "__main__":, as start methods spawn and forkserver need it'
)


# Modules are imported with this lock held while workers may be started, because a process that is forked in the middle
# of an import has locks of modules that nobody releases.
no_fork_meanwhile = threading.Lock()


class Worker:
    """The trainer's side of one simulator process.

    Parameters
    ----------
    number
        What it is called in messages.
    source
        What simulates an example.
    context
        Of `multiprocessing`.
    siblings
        The other workers, whose sockets a forked process inherits and must close.

    Raises
    ------
    TypeError
        If the simulator cannot be sent to another process.
    """

    def __init__(self, number: int, source: ExampleSource, context: Any, siblings: Sequence[Worker]):
        self.number = number
        self.tasks: deque[int] = deque()  # the first one is being simulated, since `began` on the trainer's watch
        self.began = 0.0
        self.total = 0  # examples that it was told to simulate
        self.ready = False  # has it said so?
        self.retired = False  # gets no more examples
        self.verdict = ""  # how it ended, where its exit code does not tell
        self._inbox = Inbox()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        method = context.get_start_method()
        try:
            inherited = [self.socket, *(sibling.socket for sibling in siblings)] if method == "fork" else []
            arguments = (
                source if method == "fork" else _pickled(source, method),
                theirs,
                inherited,
                None if method == "forkserver" else os.getpid(),
            )
            name = f"definetti_np simulator {number}"
            self.process = context.Process(target=worker_main, args=arguments, name=name, daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of any fork in a process with threads; ours touches nothing but the simulator.
                warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
                with no_fork_meanwhile:
                    self.process.start()
        except (EOFError, ConnectionError) as error:
            self.socket.close()
            raise RuntimeError(f"the process that starts simulator processes has ended; perhaps {GUARD}") from error
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.pid = self.process.pid

    def assign(self, indices: Sequence[int]) -> None:
        """Have examples simulated after those that it was given before."""
        self.tasks.extend(indices)
        self.total += len(indices)
        with contextlib.suppress(OSError):  # it died, which is noticed where its messages are received
            self.socket.sendall(b"".join([TASK.pack(index) for index in indices]))

    def receive(self) -> list[tuple[int, int, bytes]] | None:
        """Return (kind, index, message) of what has arrived whole, or None if nothing has, without waiting.

        Raises
        ------
        EOFError, OSError
            If nothing will arrive any more.
        """
        try:
            data = self.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise EOFError
        return self._inbox.add(data)

    def hang_up(self) -> None:
        """Ask it to end, by ending the conversation; what it has not sent yet is lost."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def lives(self) -> bool:
        """Whether the process runs; another process may keep its socket open after its end."""
        return self.process.is_alive()

    def signal(self, number: int) -> None:
        """Send a signal to it and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
            os.killpg(self.pid, number)
        if self.lives():  # it may not have made its process group yet
            os.kill(self.pid, number)

    def end(self) -> str:
        """End it and what it has started, release its files, and say how it ended."""
        if not self._ends_within(GRACE_SECONDS):
            self.verdict = self.verdict or "hung up and went on"
        self.signal(signal.SIGKILL)
        self.process.join()
        how = self.verdict or _describe(self.process.exitcode)
        self.socket.close()
        self.process.close()
        return how

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.lives():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


def end_all(workers: Sequence[Worker]) -> None:
    """Ask workers to end, wait a moment, and end those that go on."""
    for worker in workers:
        worker.hang_up()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while any(worker.lives() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.002)
        for worker in workers:
            worker.signal(number)
    for worker in workers:
        worker.end()


def _pickled(source: ExampleSource, method: str) -> bytes:
    try:
        return bytes(ForkingPickler.dumps(source))
    except Exception as error:  # pickling raises errors of many classes
        raise TypeError(
            f"simulator: {error}; with start method {method!r} it must be a function that can be imported, not a "
            "lambda or a closure"
        ) from error


def _describe(code: int) -> str:
    if code == NO_GUARD_CODE:
        return f"found that {GUARD}"
    if code >= 0:
        return f"ended with exit code {code}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was killed by {names.get(-code, f'signal {-code}')}"
