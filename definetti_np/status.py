"""What can be seen of a run from elsewhere: its lock, its checkpoint and its model, which may be on another machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from .checks import shorten
from .errors import ModelFileError
from .files.archive import MODEL, open_file
from .files.checkpoint import Checkpoints, read_checkpoint
from .files.lock import read_lock
from .files.paths import model_path

SILENT_SECONDS = 60.0  # without a sign of life, after which a run may be stuck, or killed with its machine
LONGEST_REASON = 300  # characters


def describe_status(save_path: str | os.PathLike) -> str:
    """Say how the run of this `save_path` stands, in a few lines.

    Raises
    ------
    ValueError
        If there is nothing of such a run.
    """
    path = model_path(save_path, "SAVE_PATH")
    checkpoints = Checkpoints(path, every=None)
    run = _of_lock(checkpoints.lock)
    files = [*_of_checkpoints(checkpoints), *_of_model(path)]
    if run is None and not files:
        raise ValueError(f"there is no run, checkpoint or model at {path}")
    return "\n".join([run or "not running", *files])


def _of_lock(path: Path) -> str | None:
    """How the run is that holds a lock, or None if there is no lock file."""
    try:
        text, when = read_lock(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"perhaps running: {getattr(error, 'strerror', None) or error}: {path}"
    who, _, progress = text.partition("\n")
    seconds = time.time() - when
    how = "alive"
    if seconds > SILENT_SECONDS:
        how = f"silent for {_duration(seconds)}"
    elif seconds < -SILENT_SECONDS:
        how = f"alive or not: its last sign of life is {_duration(-seconds)} ahead of the clock here"
    return f"{how}: {who}{': ' if progress else ''}{progress}"


def _of_checkpoints(checkpoints: Checkpoints) -> Iterator[str]:
    """The newest checkpoint that can be read, behind those that cannot."""
    for path in (checkpoints.path, checkpoints.previous):
        if os.path.lexists(path):
            try:
                batches, age = read_checkpoint(path).batches, time.time() - os.stat(path).st_mtime
            except (ModelFileError, OSError) as error:
                yield f"checkpoint that cannot be read: {shorten(str(error), LONGEST_REASON)}"
                continue
            yield f"checkpoint: {batches} batches, written {_duration(age)} ago, {path}"
            return


def _of_model(path: Path) -> Iterator[str]:
    if os.path.lexists(path):
        try:
            with open_file(path, MODEL) as stored:
                members = stored.header.get("ensemble")
                what = "model" if members is None else f"ensemble of {len(members)}, the first one"
                first = stored.header if members is None else members[0]
                yield f"{what}: {first['batches_trained']} batches, {path}"
        except (ModelFileError, OSError, LookupError, TypeError) as error:
            yield f"model that cannot be read: {shorten(str(error), LONGEST_REASON)}"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
