"""Where the files of a run are: their names, and whether they can be written there."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

LONGEST_NAME_BYTES = 255  # bytes, on nearly all file systems


def as_path(value: str | os.PathLike, argument: str) -> Path:
    """The path that the user gives, with ``~`` expanded; or an error that names the argument."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be a path, as a str or a pathlib.Path, got {value!r}")
    if "\0" in text:
        raise ValueError(f"{argument} must not hold the character of code 0, got {text!r}")
    return Path(text).expanduser()


def model_path(path: str | os.PathLike, argument: str) -> Path:
    """The absolute path of a base name's file: ``~`` is expanded and ``.npz`` added where it is missing."""
    as_path(path, argument)
    text = os.fspath(path)
    if os.path.basename(text) in ("", ".", ".."):
        raise ValueError(f"{argument} must name a file, got {text!r}")
    return Path(text if text.endswith(".npz") else f"{text}.npz").expanduser().absolute()


def check_parent(path: Path, name: str) -> None:
    """Raise a ValueError if a file cannot be created at `path`, or where it links to, because of its folder."""
    if len(os.fsencode(path.name)) > LONGEST_NAME_BYTES:
        raise ValueError(f"{name}: the file name {path.name!r} is longer than {LONGEST_NAME_BYTES} bytes")
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if os.path.islink(target):
        raise ValueError(f"{name}: {str(path)!r} is a symbolic link that leads in a circle")
    if not os.path.isdir(target.parent):
        raise ValueError(f"{name}: the folder {str(target.parent)!r} does not exist; create it first")
    if os.path.isdir(target):
        raise ValueError(f"{name}: {str(path)!r} is a folder")
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"{name}: {str(path)!r} is a device or a pipe, which no file can replace")
    if reason := why_not_writable(target.parent):
        raise ValueError(f"{name}: the folder {str(target.parent)!r} cannot be written to: {reason}")
    if _is_kept_for_owner(target):
        raise ValueError(f"{name}: {str(target)!r} belongs to another user, and its folder lets nobody else replace it")


def why_not_writable(folder: Path) -> str:
    """Why no file can be made in a folder, or nothing. It is tried, because some file systems give rights in vain.

    A full disk is no reason, because there may be room when the file is written.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        return "permission denied"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return error.strerror or str(error)
    return ""


def _is_kept_for_owner(path: Path) -> bool:
    """Whether a file cannot be replaced although its folder can be written to, as in /tmp."""
    with contextlib.suppress(OSError, AttributeError):  # there is no such file, or this is Windows
        folder = os.stat(path.parent)
        return bool(folder.st_mode & stat.S_ISVTX) and os.geteuid() not in (0, folder.st_uid, os.lstat(path).st_uid)
    return False


def check_text_file(path: Path, name: str, *, is_replaced: bool = False) -> None:
    """Raise a ValueError if lines cannot be written to `path`: a new file, one that is there, or a device.

    One that is replaced at first need not be writable itself, such as a colleague's in a folder of a group.
    """
    if os.path.isdir(path) or not os.path.exists(path):
        check_parent(path, name)
    elif not os.access(path, os.W_OK):
        if not is_replaced or not os.path.isfile(path):
            raise ValueError(f"{name}: {str(path)!r} cannot be written to")
        check_parent(path, name)


def check_distinct_paths(paths: Mapping[str, Path]) -> None:
    """Raise a ValueError if two of the files of a run are one, by name or by links; devices may be shared.

    Parameters
    ----------
    paths
        What each file is, such as "training_summary", and where; the message blames the later one of two.
    """
    names = list(paths)
    for i, name in enumerate(names):
        for other in names[:i]:
            if _is_same_file(paths[name], paths[other]):
                raise ValueError(f"{name}: {str(paths[name])!r} is the file of {other}; choose another path")


def _is_same_file(path: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samefile(path, other) and stat.S_ISREG(os.stat(path).st_mode)
    return os.path.realpath(path) == os.path.realpath(other)  # they do not exist yet
