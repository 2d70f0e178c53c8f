"""Files that are written whole or not at all: the one function that does it."""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# What fsync says on file systems that have no such thing; there the file is as safe as it can be.
WITHOUT_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY}
_PREFIX = ".definetti_np-"


def write_whole(path: Path, write: Callable[[BinaryIO], object], *, previous: Path | None = None) -> None:
    """Let `write` fill a new file in the same folder, then rename it to `path`; a file there becomes `previous`.

    At every moment there is a whole file: the old or the new one at `path`, or the old one at `previous`. The new one
    is on the disk before it gets its name, and has its name on the disk when this returns, as far as the file system
    can promise that. Where `path` is a symbolic link, the file that it points to is replaced, and the link stays.

    Raises
    ------
    OSError
        If it cannot be written; then nothing has changed.
    """
    path = file_at(path)
    temporary = path.with_name(f"{_temporary_prefix(path)}{os.urandom(4).hex()}.tmp")
    file = open(temporary, "xb")  # with the rights that the user's umask gives a new file
    try:
        with file:
            write(file)
            file.flush()
            _sync(file.fileno())
        if previous is None:
            os.replace(temporary, path)
        else:
            _replace_and_keep(temporary, path, file_at(previous))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def file_at(path: Path) -> Path:
    """The file that is meant by a path, which need not exist: where symbolic links lead, if it is one.

    Raises
    ------
    OSError
        If it is no regular file, because then it cannot be replaced, or links lead in a circle.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(target))
    return target


def remove_temporaries(path: Path) -> None:
    """Remove what killed runs have left of files that were to be written to `path`."""
    with contextlib.suppress(OSError):
        path = file_at(path)
        for stale in path.parent.glob(f"{_temporary_prefix(path)}*.tmp"):
            with contextlib.suppress(OSError):
                stale.unlink()


def remove_old_temporaries(folder: Path, seconds: float) -> None:
    """Remove what killed runs have left of any file in a folder, if nobody has written to it for so many seconds."""
    with contextlib.suppress(OSError):
        for stale in folder.glob(f"{_PREFIX}*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - stale.stat().st_mtime > seconds:
                    stale.unlink()


def _temporary_prefix(path: Path) -> str:
    # The name itself would be too long: it may have 255 bytes.
    return f"{_PREFIX}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}-"


def _replace_and_keep(temporary: Path, path: Path, previous: Path) -> None:
    """Give the old file the name `previous` and the new one that of the old; or neither."""
    try:
        os.replace(path, previous)
    except FileNotFoundError:  # the first of its name
        os.replace(temporary, path)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open(path, "rb") as file:  # a link has led to another file system
            write_whole(previous, lambda copy: shutil.copyfileobj(file, copy))
    try:
        os.replace(temporary, path)
    except OSError:
        if not os.path.exists(path):
            os.replace(previous, path)
        raise


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in WITHOUT_FSYNC:
            raise


def _sync_folder(folder: Path) -> None:
    """See that a new name is on the disk. Where that fails, the file is whole and has its name nevertheless."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        with contextlib.suppress(OSError):  # some may not be read, and some not be synced
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
