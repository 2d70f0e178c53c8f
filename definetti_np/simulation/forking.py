"""What a process does before it starts simulator processes, and what these do after a fork."""

from __future__ import annotations

import _imp
import contextlib
import importlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

from ..numba_threads import compiler_lock

IMPORT_SECONDS = 60.0  # at most, to wait for the end of imports
_bootstrap: Any = importlib._bootstrap
_compiler: Any = None  # the lock that `no_import_meanwhile` holds


@contextlib.contextmanager
def children_allowed() -> Iterator[None]:
    """Let a daemonic process of `multiprocessing`, such as one of a Pool, start processes inside the block.

    `multiprocessing` forbids it, because they would outlive it when it is killed. Simulator processes do not.
    """
    settings: dict = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    is_daemon = settings.pop("daemon", None)
    try:
        yield
    finally:
        if is_daemon is not None:
            settings["daemon"] = is_daemon


@contextlib.contextmanager
def ends_of_children_known() -> Iterator[None]:
    """Start nothing inside the block with SIGCHLD blocked: by this signal a fork server hears that a process ended."""
    if not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def imports_under_way() -> set[str]:
    """Names of the modules that other threads are importing, or this one."""
    return {lock.name for lock in _locks_of_imports()}


@contextlib.contextmanager
def no_import_meanwhile(ignore: Collection[str]) -> Iterator[None]:
    """Wait until no other thread imports or compiles, and let none begin inside the block.

    A process that is forked meanwhile has the locks of those threads, and nobody releases them there. Modules to
    `ignore` are not waited for, because they import for as long as they train.
    """
    global _compiler
    deadline = time.monotonic() + IMPORT_SECONDS
    me = threading.get_ident()
    while True:
        compiler = compiler_lock()  # which comes with Numba, whose import is waited for
        compiler.acquire()  # first, because a thread that compiles may import
        _imp.acquire_lock()  # a thread needs it to begin an import, not to go on with one
        others = any(lock.owner != me and lock.name not in ignore for lock in _locks_of_imports())
        if not others and compiler is compiler_lock() or time.monotonic() > deadline:
            break
        _imp.release_lock()
        compiler.release()  # because a thread that imports may compile
        time.sleep(0.005)
    _compiler = compiler
    try:
        yield
    finally:
        _imp.release_lock()
        compiler.release()


def forget_imports_of_other_threads() -> None:
    """In a forked process: release what `no_import_meanwhile` holds, and let nothing wait for threads of the parent."""
    while _imp.lock_held():
        _imp.release_lock()
    if _compiler is not None:
        _compiler.release()
    _bootstrap._module_locks.clear()


def _locks_of_imports() -> list[Any]:
    """Python's locks of the modules that some thread is importing, or is about to import."""
    locks = [reference() for reference in list(_bootstrap._module_locks.values())]
    return [lock for lock in locks if lock is not None]
