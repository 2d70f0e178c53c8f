"""A simulator process from the inside: it is told indices, simulates these examples, and sends them back.

It shares nothing with the trainer but its own socket, and dies with the trainer.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
import time
import traceback
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ..errors import SimulatorError
from ..interruption import SAVING, STOPPING
from . import family
from .forking import forget_imports_of_other_threads
from .messages import TASK, encode, failure, ready
from .one_thread import use_one_thread
from .source import ExampleSource, forget_locks_of_other_threads

PR_SET_PDEATHSIG = 1
LAST = -1000  # priority of what a process does when it ends, after pools have ended
NO_GUARD_CODE = 64  # exit code of a simulator process whose script trains while it is imported


def worker_main(
    source: ExampleSource | bytes, connection: socket.socket, inherited: list[socket.socket], trainer: int | None
) -> None:
    """Simulate the examples that the trainer asks for, until it hangs up or is gone.

    Parameters
    ----------
    source
        What simulates an example, pickled unless this process was forked.
    connection
        The socket to the trainer.
    inherited
        What a forked process must close: the trainer's own sockets.
    trainer
        Process id of the trainer, None if it is not the parent of this process.
    """
    for other in inherited:
        other.close()
    os.setsid()  # a process group: what the simulator starts ends with it
    if trainer is None:
        _let_the_fork_server_end()
    _die_with_parent(os.getppid() if trainer is None else trainer)
    _reset_signals()
    _renew_standard_streams()
    forget_imports_of_other_threads()
    forget_locks_of_other_threads()
    multiprocessing.current_process().daemon = False  # so that the simulator may use a pool
    multiprocessing.util.Finalize(None, family.end_mine, exitpriority=LAST)
    use_one_thread()
    os.register_at_fork(after_in_child=connection.close)  # a simulator's own children must not keep it open
    with contextlib.suppress(OSError):  # the trainer is gone, or has hung up
        try:
            examples: ExampleSource = ForkingPickler.loads(source) if isinstance(source, bytes) else source
        except Exception:
            connection.sendall(failure(0, traceback.format_exc()))
            return
        connection.sendall(ready())
        _simulate(examples, connection)


def _simulate(source: ExampleSource, connection: socket.socket) -> None:
    tasks = b""
    while received := connection.recv(4096):
        tasks += received
        whole = len(tasks) - len(tasks) % TASK.size
        for (index,) in TASK.iter_unpack(tasks[:whole]):
            try:
                message = encode(index, source.example(index))
            except SimulatorError as error:
                message = failure(index, str(error))
            connection.sendall(message)
        tasks = tasks[whole:]


def _die_with_parent(parent: int) -> None:
    """Let this process be killed when its parent ends; on Linux also while the simulator holds the GIL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _let_the_fork_server_end() -> None:
    """Close the pipe that keeps the fork server alive, because it should end with the trainer."""
    server: Any = forkserver._forkserver
    if getattr(server, "_forkserver_alive_fd", None) is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)


def _reset_signals() -> None:
    """Ignore Ctrl-C, because the trainer stops its workers, and handle other signals of a run as the system does.

    Handlers of other signals stay: the simulator's module may have set them.
    """
    for name in (*STOPPING, SAVING):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN if name == "SIGINT" else signal.SIG_DFL)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _renew_standard_streams() -> None:
    """Replace stdout and stderr: in a forked process they hold unwritten text and, maybe, the lock of a lost thread."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it is no file
            if type(old) is io.TextIOWrapper and old.fileno() == number:
                new = open(number, "w", encoding=old.encoding, errors=old.errors, closefd=False)
                new.reconfigure(line_buffering=old.line_buffering)
                setattr(sys, name, new)


def refuse_to_train_while_starting() -> None:
    """End this process if it was started to simulate, and its script trains while it is imported."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        sys.exit(NO_GUARD_CODE)
