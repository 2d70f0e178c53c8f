"""Which process this is: the one place that knows of forks.

A fork copies everything but the threads. So what belongs to the process that made it (a lock that another thread may
hold, a thread, a handler of signals, a file that is being written) keeps the `owner` that it was made under, and asks
`is_ours` before it is used; what a child must make anew says so to `after_fork`.
"""

import contextlib
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

_forks = 0  # that lie between this process and the first one that imported this module
_callbacks: list[Callable[[], Callable | None]] = []
_pauses: list[tuple[Callable[[], None], Callable[[], None]]] = []
_held: dict[int, set[int]] = {}  # signals, by the object that holds them
_thread = threading.local()  # `mask`: which signals its thread held back before it forked


def owner() -> tuple[int, int]:
    """Return what names this process: its id, and how many forks led to it, because the system reuses ids."""
    return os.getpid(), _forks


def is_ours(owner_of_thing: tuple[int, int]) -> bool:
    """Whether this is the process that `owner` named, and not one that was forked from it."""
    return owner_of_thing == owner()


def after_fork(callback: Callable[[], None]) -> None:
    """Call a function in every process that is forked from this one, before anything else runs there.

    The functions are called in the order in which they were given. A method is forgotten with its object.
    """
    known = weakref.WeakMethod(callback) if isinstance(callback, types.MethodType) else lambda: callback
    _callbacks[:] = [reference for reference in _callbacks if reference() is not None]
    _callbacks.append(known)


def pause_for_fork(begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Call `begin` before each fork, and `end` after it in both processes, in the thread that forks.

    That is for work of other threads that must not be half done in the child: `begin` takes the lock that they hold.
    """
    _pauses.append((begin, end))


def _begin_pauses() -> None:
    for begin, _ in reversed(_pauses):
        begin()


def _end_pauses() -> None:
    for _, end in _pauses:
        end()


def end_fork(owner_of_call: tuple[int, int], error: BaseException | None = None) -> None:
    """End this process if it was forked by a function of the user's, and has come back from it, with an error perhaps.

    What follows is the parent's to do: it would write the parent's files and end its processes.
    """
    if not is_ours(owner_of_call):
        _end(error)


@contextlib.contextmanager
def end_forks() -> Iterator[None]:
    """End processes that functions of the user's fork inside a block, when they come to its end."""
    owner_of_call = owner()
    try:
        yield
    except BaseException as error:
        end_fork(owner_of_call, error)
        raise
    end_fork(owner_of_call)


def _end(error: BaseException | None) -> NoReturn:
    """End this process as Python ends a script, but without the parent's ``atexit``."""
    code = 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif error is not None:
        code = 1
        with contextlib.suppress(Exception):
            sys.excepthook(type(error), error, error.__traceback__)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


def hold_at_forks(who: object, numbers: Iterable[int]) -> None:
    """Whenever this process forks, hold these signals back until the child's `after_fork` functions have run.

    Python forgets a signal that reaches a child before that, if it has a handler of Python's. It is asked anew by the
    same object, for no signals in the end.
    """
    _held.pop(id(who), None)
    if found := set(numbers):
        _held[id(who)] = found


def _hold() -> None:
    held: set[int] = set().union(*_held.values())
    _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, held) if held else None


def _let_go() -> None:
    if getattr(_thread, "mask", None) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _thread.mask)
        _thread.mask = None


def _note_fork() -> None:
    global _forks
    _forks += 1
    _held.clear()
    try:
        for reference in list(_callbacks):
            callback = reference()
            if callback is not None:
                callback()
    finally:
        _end_pauses()


pause_for_fork(_hold, _let_go)
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_begin_pauses, after_in_parent=_end_pauses, after_in_child=_note_fork)
