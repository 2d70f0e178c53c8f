"""Numba's cache on disk, where it may be damaged, full, another user's, or locked by a process that never goes on.

The cache only saves time. So whatever is wrong with it, kernels are compiled, and one warning says why.
"""

import contextlib
import hashlib
import io
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("definetti_np")

PATIENCE_SECONDS = 60.0  # that a process waits, all in all, for others that compile
LOCK_TICK_SECONDS = 0.01  # between two looks at the lock

_patience = PATIENCE_SECONDS


def compile_with_cache(compiled: Any, function: Callable, compile: Callable[[], None]) -> None:
    """Let a `CFunc` or dispatcher of Numba compile a function, or load it if it was compiled before."""
    try:
        cache = _KernelCache(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        _warn_that_nothing_is_kept("no folder for Numba's cache can be written to")
        compile()
        return
    compiled._cache = cache
    with cache.lock:
        compile()


class _KernelCache(FunctionCache):
    """The cache of one function, for one compilation, within ``with cache.lock``.

    Two processes that compile a function for different types at once may give both the same file name. So one takes a
    lock before it compiles. To load takes none, so a process that was stopped while it compiled delays only
    those that compile, too.
    """

    def __init__(self, function: Callable):
        super().__init__(function)
        names = self._impl
        self._cache_file = _CheckedFiles(self.cache_path, names.filename_base, names.locator.get_source_stamp())
        self.lock = contextlib.ExitStack()
        self._damage: Exception | None = None

    def load_overload(self, sig, target_context):
        found = self._find(sig, target_context)
        if found is None:
            if not self.lock.enter_context(_only_process(Path(self.cache_path))):
                self.disable()  # what is compiled without the lock is not kept
                return None
            found = self._find(sig, target_context)  # another process may have compiled it meanwhile
        return found

    def _find(self, sig, target_context):
        try:
            found = super().load_overload(sig, target_context)
            if found is not None and found.signature.args != tuple(sig.args):
                raise ValueError(f"an entry of {self.cache_path} is of other types than its name says")
        except Exception as error:  # Numba unpickles what it has read, which may raise anything
            self._damage = error
            return None
        return found

    def save_overload(self, sig, data):
        try:
            if self._damage is not None:
                self.flush()
            super().save_overload(sig, data)
        except OSError as error:
            _warn_that_nothing_is_kept(f"Numba's cache {self.cache_path} cannot be written to ({error})")
        else:
            if self._damage is not None:
                _warn_of_damage(str(self._damage))


class _CheckedFiles(IndexDataCacheFile):
    """The files of a cache, each with a digest at its end: what the disk or a power failure has changed is not run."""

    def _load_index(self):
        _check(self._index_path)
        return super()._load_index()

    def _load_data(self, name):
        _check(self._data_path(name))
        return super()._load_data(name)

    @contextlib.contextmanager
    def _open_for_write(self, path):
        content = io.BytesIO()
        yield content
        with super()._open_for_write(path) as file:
            file.write(content.getvalue() + _digest(content.getvalue()))  # which unpickling leaves alone


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _check(path: str) -> None:
    """Raise a ValueError if a file is there but cannot be read, or has changed since it was written."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ValueError(str(error)) from error
    size = len(_digest(b""))
    if _digest(content[:-size]) != content[-size:]:
        raise ValueError(f"{path} has changed since it was written")


@contextlib.contextmanager
def _only_process(folder: Path):
    """Keep other processes from compiling meanwhile; the value says whether they do, or none is known to."""
    path = folder / "definetti_np.lock"
    file = None if fcntl is None else _open_lock(path)
    if file is None:
        yield True
        return
    try:
        if _wait_for(file):
            yield True
        else:
            _warn_that_nothing_is_kept(f"another process holds {path} and does not go on")
            yield False
    finally:
        _unlock(file)  # a process that was forked meanwhile keeps the file open
        os.close(file)


def _open_lock(path: Path) -> int | None:
    for access in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # another user's file can only be read
        with contextlib.suppress(OSError):
            return os.open(path, access, 0o666)
    return None


def _wait_for(file: int) -> bool:
    """Whether the lock was free in time; the process has one deadline, and not one for each kernel."""
    global _patience
    while not _try_lock(file):
        if _patience <= 0:
            return False
        time.sleep(LOCK_TICK_SECONDS)
        _patience -= LOCK_TICK_SECONDS
    return True


def _try_lock(file: int) -> bool:
    """Whether to go on: with the lock, or because there is none to be had here."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def _unlock(file: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


_warned: set[str] = set()


def _warn_once(kind: str, message: str, *arguments) -> None:
    """Warn once a process, and not of each kernel."""
    if kind not in _warned:
        _warned.add(kind)
        logger.warning(message, *arguments)


def _warn_that_nothing_is_kept(reason: str) -> None:
    _warn_once("kept", "%s: kernels are compiled by each process; set NUMBA_CACHE_DIR to keep them", reason)


def _warn_of_damage(what: str) -> None:
    _warn_once("damage", "Numba's cache was damaged and is written anew: %s", what)
