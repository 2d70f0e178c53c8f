"""The executor of a run: one that the user has opened, or one that a function makes, and again where it breaks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, wait
from typing import Any

from ..errors import SimulatorError

SECONDS_TO_BREAK = 10.0  # that are left to an executor to fail the calls that it has


class Pool:
    """Hands calls to an executor, and replaces an executor that broke, because such a one takes no calls any more.

    Parameters
    ----------
    given
        An executor, which stays open; or a function that makes one, which is closed here.

    Attributes
    ----------
    executor
        The one that takes calls now.

    Raises
    ------
    SimulatorError
        If the function fails, or makes something else.
    """

    def __init__(self, given: Any):
        self._make: Callable[[], Any] | None = None if hasattr(given, "submit") else given
        self.executor = given if self._make is None else _made_by(self._make)
        self._futures: weakref.WeakSet[Future] = weakref.WeakSet()  # of the executor's calls

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Hand over a call.

        An executor that breaks is left to fail its calls first: if one is cancelled meanwhile, the process pool of
        Python 3.11 stops in the middle, and its processes stay.
        """
        try:
            future = self.executor.submit(function, *arguments)
        except BrokenExecutor:
            wait(list(self._futures), SECONDS_TO_BREAK)
            if self._make is None:
                raise
            self._futures.clear()
            self.executor.shutdown(wait=False)
            self.executor = _made_by(self._make)
            future = self.executor.submit(function, *arguments)
        if not isinstance(future, Future):
            raise TypeError(f"its submit must return a Future of concurrent.futures, got {future!r}")
        self._futures.add(future)
        return future

    @property
    def what_helps(self) -> str:
        """What to do about an executor that broke."""
        if self._make is not None:
            return "It was made anew each time; see what ends its processes, such as a lack of memory"
        return (
            "An executor that has lost a process takes no more tasks. Call again with a new one; with a function that "
            "makes it, such as executor=lambda: ProcessPoolExecutor(8), it is made anew where it breaks; and without "
            "executor= lost processes are replaced"
        )

    def close(self) -> None:
        """Close an executor that was made here, when the calls that it is at have ended."""
        if self._make is not None:
            self.executor.shutdown()


def _made_by(make: Callable[[], Any]) -> Any:
    try:
        executor = make()
    except Exception as error:
        raise SimulatorError(f"the function that makes the executor failed: {type(error).__name__}: {error}") from error
    if not callable(getattr(executor, "submit", None)):
        raise SimulatorError(f"executor: the function must return an executor with a method submit, got {executor!r}")
    return executor
