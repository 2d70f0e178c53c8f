"""Signals that ask a run to stop or to save: they wait until the run is in a state that can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from . import process

STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
SAVING = "SIGUSR1"


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; `signal` says which one."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class Waiting:
    """What a stream does while it waits for examples: here, nothing; see `Interruption.waiting`.

    A stream calls it again and again while others simulate. A stream that simulates in this thread cannot call it
    meanwhile, and simulates in a ``with`` block of it. Both may raise an exception.
    """

    def __call__(self) -> None:
        pass

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        pass


def _tell_nobody() -> None:
    pass


class Interruption:
    """Handles signals inside a ``with`` block, if that is in the main thread, and gives back what it took.

    Ctrl-C, SIGTERM, SIGHUP (the terminal is gone) and SIGXCPU (a limit of processor time) ask to stop, SIGUSR1 asks to
    save. A signal takes effect when the object that `waiting` returns is called, and at once in a ``with`` block of
    that object: it saves, or raises `Interrupted`. The block of this class turns `Interrupted` into KeyboardInterrupt
    or, for the other signals, SystemExit(128 + number of the signal). A second Ctrl-C raises KeyboardInterrupt at once.

    Signals that were ignored before stay ignored. The exception is SIGCHLD: while it is ignored, the exit codes of
    simulator processes are lost. A process that is forked inside the block gets the handlers from before the block.
    """

    def __init__(self) -> None:
        self._owner = process.owner()
        self._before: dict[int, Any] = {}  # handlers
        self._stop: int | None = None
        self._save = False
        self._is_hurried = False  # after a second Ctrl-C
        self._is_saving = False
        self._is_over = False
        self._acts_at_once: Callable[[], None] | None = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            process.after_fork(self._give_back)
            elsewhere = _signals_that_c_code_handles()
            for name in (*STOPPING, SAVING):
                number = getattr(signal, name, None)  # Windows has few of them
                if number is not None and number not in elsewhere and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
                self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            process.hold_at_forks(self, self._before)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._give_back()
        if self._stop is not None and (error is None or isinstance(error, Interrupted)):
            raise (KeyboardInterrupt if self._stop == signal.SIGINT else SystemExit(128 + self._stop)) from None

    def waiting(self, save: Callable[[], None], tell: Callable[[], None] = _tell_nobody) -> Waiting:
        """What streams do while they wait: act on signals, in a ``with`` block at once; and `tell` that they wait.

        The block must change nothing that `save` saves. After a signal that asks to stop it ends in `Interrupted`, also
        if a simulator caught the exception, because the example that it then made is not the one of an undisturbed run.
        """
        return _ActingOnSignals(self, save, tell)

    def act(self, save: Callable[[], None]) -> None:
        """Do what signals have asked for."""
        if self._is_hurried:
            raise KeyboardInterrupt
        if self._save and not self._is_saving:
            self._save = False
            self._is_saving = True
            try:
                save()
            finally:
                self._is_saving = False
        if self._stop is not None and not self._is_saving:
            raise Interrupted(self._stop)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A handler that was set inside the block may go on calling this one after it; and C code may fork without
        # Python's knowledge.
        if self._is_over or not process.is_ours(self._owner):
            self._pass_on(number, frame)
            return
        if number == getattr(signal, SAVING, None):
            self._save = True
        elif self._stop is None:
            self._stop = number
        elif number == signal.SIGINT:
            self._is_hurried = True
            raise KeyboardInterrupt
        if self._acts_at_once is not None:
            self.act(self._acts_at_once)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, handler)
            os.kill(os.getpid(), number)

    def _give_back(self) -> None:
        """Set the handlers from before the block; in a forked process forget the signals that its parent received."""
        if self._is_over:
            return
        self._is_over = True
        process.hold_at_forks(self, ())
        for number, handler in self._before.items():
            if signal.getsignal(number) in (self._handle, signal.SIG_DFL):  # nobody has set another one meanwhile
                signal.signal(number, handler)
        if not process.is_ours(self._owner):
            self._acts_at_once = self._stop = None
            self._save = self._is_hurried = False


def _signals_that_c_code_handles() -> set[int]:
    """The signals whose handler Python does not know and could not give back, such as faulthandler.register's."""
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("SigCgt:"))
    except (OSError, StopIteration):  # not Linux
        return {number for number in signal.valid_signals() if signal.getsignal(number) is None}
    caught = int(line.split()[1], 16)
    return {
        number
        for number in signal.valid_signals()
        if caught >> (number - 1) & 1 and not callable(signal.getsignal(number))
    }


class _ActingOnSignals(Waiting):
    def __init__(self, interruption: Interruption, save: Callable[[], None], tell: Callable[[], None]):
        self._interruption, self._save, self._tell = interruption, save, tell

    def __call__(self) -> None:
        self._interruption.act(self._save)
        self._tell()

    def __enter__(self) -> Waiting:
        self._interruption._acts_at_once = self._save
        try:
            self()
        except BaseException:
            self._interruption._acts_at_once = None
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._interruption._acts_at_once = None
        if not isinstance(error, KeyboardInterrupt):
            self()
