"""One run at a time for one file: a lock that the operating system takes back, however its holder ends."""

import contextlib
import functools
import logging
import os
import platform
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing keeps a second run away
    fcntl = None

logger = logging.getLogger("definetti_np")


@contextlib.contextmanager
def only_run(path: Path | None):
    """Hold the lock file `path`, which says who holds it, inside a block, and remove it afterwards; None locks nothing.

    Between machines it works where the file system supports ``flock``, as NFS does unless it is mounted ``nolock``
    or ``local_lock``, and Lustre if it is mounted ``flock``.

    Raises
    ------
    RuntimeError
        If another run holds it; the message says which.
    """
    if path is None or fcntl is None:
        yield
        return
    descriptor = _acquire(path)
    _held.add(descriptor)
    _close_in_forked_processes()
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _myself().encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is unlocked: who waited for it sees that it is another file now
        _held.discard(descriptor)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace")
            os.close(descriptor)
            raise RuntimeError(
                f"save_path: another run ({holder}) is training this model and holds {path}; wait until it has ended, "
                "or choose another save_path"
            ) from None
        except OSError as error:
            logger.warning("%s cannot be locked: %s; start no second run with this save_path", path, error)
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # the run before has removed it meanwhile


def _myself() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"host {platform.node()}, process {os.getpid()}" + (f", Slurm job {job}" if job else "")


_held: set[int] = set()


@functools.cache  # once a process
def _close_in_forked_processes() -> None:
    """Keep the processes of simulators from holding a lock longer than the trainer lives."""
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
