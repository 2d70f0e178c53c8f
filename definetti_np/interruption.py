"""Signals that ask a run to stop or to save: they wait until the state of the run is one that can be saved."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("definetti_np")

STOPPING = ("SIGINT", "SIGTERM")
SAVING = "SIGUSR1"


class Interrupted(KeyboardInterrupt):
    """A signal has asked to stop; `signal` is which."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class Waiting:
    """What to do while something that takes long goes on: here, nothing; see `Interruption.waiting`.

    Call it again and again while you wait. Where the work is done in this thread, so that nothing can be called
    meanwhile, do it in a ``with`` block of it. Either way it may raise an exception.
    """

    def __call__(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Interruption:
    """Handles Ctrl-C, SIGTERM and SIGUSR1 inside a ``with`` block, if that is in the main thread.

    A signal acts when `act` is called, and at once in a block of `waiting`. Acting is to call `save` for SIGUSR1, and
    to raise `Interrupted` for the others; the ``with`` block turns that into KeyboardInterrupt or SystemExit(143). A
    second Ctrl-C raises KeyboardInterrupt wherever it comes. A signal that was ignored before goes on being ignored.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._stop: int | None = None
        self._save = False
        self._acts_at_once: Callable[[], None] | None = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in (*STOPPING, SAVING):
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._stop is not None and (error is None or isinstance(error, Interrupted)):
            raise (KeyboardInterrupt if self._stop == signal.SIGINT else SystemExit(128 + self._stop)) from None

    def waiting(self, save: Callable[[], None]) -> Waiting:
        """What streams do while they wait: act on signals, in a ``with`` block at once.

        The block must change nothing that `save` saves.
        """
        return _ActingOnSignals(self, save)

    def act(self, save: Callable[[], None]) -> None:
        """Do what signals have asked for."""
        if self._save:
            self._save = False
            logger.info("%s: writing a checkpoint", SAVING)
            save()
        if self._stop is not None:
            self._acts_at_once = None
            raise Interrupted(self._stop)

    def _handle(self, number, frame):
        if os.getpid() != self._process:  # a process that a worker or a simulator has forked
            return
        if number == getattr(signal, SAVING, None):
            self._save = True
        elif self._stop is None:
            self._stop = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._acts_at_once is not None:
            self.act(self._acts_at_once)


class _ActingOnSignals(Waiting):
    def __init__(self, interruption: Interruption, save: Callable[[], None]):
        self._interruption, self._save = interruption, save

    def __call__(self):
        self._interruption.act(self._save)

    def __enter__(self):
        self._interruption._acts_at_once = self._save
        try:
            self()
        except BaseException:
            self._interruption._acts_at_once = None
            raise
        return self

    def __exit__(self, *error):
        self._interruption._acts_at_once = None
