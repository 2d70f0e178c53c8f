"""A simulator process from the outside: its socket, the examples it was given, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import warnings
from collections import deque
from collections.abc import Collection, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

from . import family
from .forking import children_allowed, ends_of_children_known, no_import_meanwhile
from .messages import TASK, Inbox
from .source import ExampleSource
from .worker_process import NO_GUARD_CODE, worker_main

GRACE_SECONDS = 1.0  # that a process gets to end by itself
CHUNK_BYTES = 2**18  # that are received at once
GUARD = (
    "the script that calls train was imported by its own simulator process: call train under "
    'if __name__ == "__main__":, as start methods spawn and forkserver need it'
)
LOST_CODE = (
    "ended; its exit code is lost, because another part of the program waits for any child, or SIGCHLD is ignored"
)


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
    ignore
        Modules whose import need not end before the process is started.

    Raises
    ------
    TypeError
        If the simulator cannot be sent to another process.
    """

    def __init__(
        self, number: int, source: ExampleSource, context: Any, siblings: Sequence[Worker], ignore: Collection[str]
    ):
        self.number = number
        self.tasks: deque[int] = deque()  # the first one is being simulated, since `began` on the trainer's watch
        self.began = 0.0
        self.total = 0  # examples that it was told to simulate
        self.ready = False  # whether it has said so
        self.retired = False  # gets no more examples
        self.verdict = ""  # how it ended, where its exit code does not tell
        self._inbox = Inbox()
        self.socket, theirs = socket.socketpair()
        self.socket.setblocking(False)
        method = context.get_start_method()
        self._has_own_code = method != "forkserver"  # the fork server waits for its processes, and gets their codes
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
                with children_allowed(), ends_of_children_known(), no_import_meanwhile(ignore):
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
        if not self.process.is_alive():
            return False
        if self._has_own_code:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                # Another part of the program has taken its exit code: it waits for any child, or ignores SIGCHLD, so
                # that the system does. multiprocessing would believe for ever that the process lives.
                self.verdict = self.verdict or LOST_CODE
                self.process._popen.returncode = 0
                return self.process.is_alive()
        return True

    def kill(self) -> None:
        """End it, and what it has started, at once."""
        known = family.relatives({self.pid})  # while it lives, because later nothing tells whose children they are
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        family.kill({self.pid}, known)

    def end(self) -> str:
        """End it and what it has started, release its files, and say how it ended."""
        if not self._ends_within(GRACE_SECONDS):
            self.verdict = self.verdict or "hung up and went on"
        if self.lives() or not self.retired or self.process.exitcode != 0:  # else it has ended what it started
            self.kill()
        while self.lives():
            time.sleep(0.002)
        self.process.join()  # so that multiprocessing forgets it
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
    """Ask workers to end, wait a moment, and end those that go on, with all that they have started."""
    leaders = {worker.pid for worker in workers}
    known = family.relatives(leaders)
    for worker in workers:
        worker.hang_up()
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while any(worker.lives() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.002)
        rest = [worker.pid for worker in workers if worker.lives()]
        known |= family.relatives(rest)
        for pid in rest:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if _leads_a_group(pid) else os.kill)(pid, number)
    family.kill(leaders, known)
    for worker in workers:
        worker.end()


def _leads_a_group(pid: int) -> bool:
    """Whether a worker has made its process group yet."""
    return os.getpgid(pid) == pid


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
