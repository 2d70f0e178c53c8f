"""One run at a time for one file: a lock that the operating system takes back, however its holder ends."""

import contextlib
import errno
import functools
import logging
import math
import os
import platform
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..process import after_fork, is_ours, owner

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second run away
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("definetti_np")

MOST_ATTEMPTS = 100  # to lock a file before another run removes it
_OURS = re.compile(rb"host [^\n]*, process [0-9]+(, Slurm job [^\n]*)?(\n[^\n]*)?")  # as `Holder` writes it
TELL_SECONDS = 5.0  # between two lines about the run


class Holder:
    """The run that holds a lock: it writes into the file who it is, and how far it has come.

    Others read it on another machine, and see by the time of the file when it last gave a sign of life.
    """

    def __init__(self, descriptor: int | None):
        self._descriptor = descriptor  # None where nothing can be written
        self._owner = owner()
        self._told = -math.inf
        self.tell("")

    def tell(self, text: str, *, at_once: bool = False) -> None:
        """Write a line about the run, unless the last one was written a moment ago, and it need not be `at_once`.

        If the disk is full, others cannot read it, and training goes on.
        """
        now = time.monotonic()
        is_due = at_once or now - self._told >= TELL_SECONDS
        if self._descriptor is None or not is_due or not is_ours(self._owner):
            return
        self._told = now if text else self._told
        content = f"{_myself()}\n{text}".rstrip("\n").encode(errors="replace")
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))


NOBODY = Holder(None)


@contextlib.contextmanager
def only_run(path: Path | None) -> Iterator[Holder]:
    """Hold the lock file `path` inside a block, and remove it afterwards; None locks nothing.

    The file says which run holds it. A file that no run has made, or that belongs to another user, is locked if that is
    possible, and is not changed. Where nothing can be locked, a warning says so, and the run goes on.

    Between machines it works where the file system supports ``flock``, as NFS does unless it is mounted ``nolock``
    or ``local_lock``, and Lustre if it is mounted ``flock``.

    Raises
    ------
    RuntimeError
        If another run holds it; the message says which.
    """
    if path is None or fcntl is None:
        yield NOBODY
        return
    try:
        descriptor, is_mine = _acquire(path)
    except OSError as error:
        logger.warning("%s cannot be locked: %s; start no second run with this save_path", path, error)
        yield NOBODY
        return
    holder = owner()
    _held.add(descriptor)
    _close_in_forked_processes()
    try:
        yield Holder(descriptor if is_mine else None)
    finally:
        if is_ours(holder):
            # Another run may have opened this file. It is removed before it is unlocked, so that the other run, once it
            # has locked it, can see that the path leads to no file or to a new one.
            if is_mine:
                with contextlib.suppress(OSError):
                    path.unlink()
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(path: Path) -> tuple[int, bool]:
    """Lock the file; return its descriptor, and whether a run has made it, so that this one may write to it."""
    for _ in range(MOST_ATTEMPTS):
        try:
            descriptor, is_new, is_writable = _open(path)
        except FileNotFoundError:  # the run that held it has just removed it
            continue
        try:
            who = _content(descriptor)
            _lock(descriptor, path, who)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, is_new or is_writable and _OURS.fullmatch(who) is not None
            os.close(descriptor)
        except FileNotFoundError:
            os.close(descriptor)
        except BaseException as error:
            os.close(descriptor)
            if is_new and isinstance(error, OSError):  # files cannot be locked here
                with contextlib.suppress(OSError):
                    path.unlink()
            raise
    raise OSError(errno.ENOENT, "it cannot be made, or is removed again and again", str(path))


def _open(path: Path) -> tuple[int, bool, bool]:
    """Open the file; return its descriptor, whether it was made, and whether it can be written to."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True, True
    except FileExistsError:
        pass
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK), False, True  # a pipe would wait for the other end
    except PermissionError:  # somebody else's: that is enough to lock it
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK), False, False


def _lock(descriptor: int, path: Path, who: bytes) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        run = f"another run ({who.decode(errors='replace').partition(chr(10))[0]}) is training this model and"
        raise RuntimeError(
            f"save_path: {run if _OURS.fullmatch(who) else 'another run or program'} holds {path}; wait until it has "
            "ended, or choose another save_path"
        ) from None


def read_lock(path: Path) -> tuple[str, float]:
    """Return what a run has written into a lock file, who it is and how far, and when, in seconds since the epoch.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is not of a run.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        content, when = _content(descriptor), os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
    if _OURS.fullmatch(content) is None:
        raise ValueError("a lock file that no run has written")
    return content.decode(errors="replace"), when


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 1000, 0) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _myself() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    text = f"host {platform.node()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "")
    return " ".join(text.split("\n"))


_held: set[int] = set()


@functools.cache  # once a process
def _close_in_forked_processes() -> None:
    """Keep the processes of simulators from holding a lock longer than the trainer lives."""
    after_fork(_forget)


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
