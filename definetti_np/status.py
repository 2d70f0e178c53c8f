"""What can be seen of a run from elsewhere: its lock, its checkpoint and its model, which may be on another machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .errors import ModelFileError
from .files.archive import MODEL, open_file
from .files.checkpoint import Checkpoints, read_checkpoint
from .files.paths import model_path

SILENT_SECONDS = 60.0  # without a sign of life, after which a run may be stuck, or killed with its machine


def describe_status(save_path: str | os.PathLike) -> str:
    """Say how the run of this `save_path` stands, in a few lines.

    Raises
    ------
    ValueError
        If there is nothing of such a run.
    """
    path = model_path(save_path, "SAVE_PATH")
    checkpoints = Checkpoints(path, every=None)
    known = [line for line in (_of_lock(checkpoints.lock), _of_checkpoint(checkpoints), _of_model(path)) if line]
    if not known:
        raise ValueError(f"there is no run, checkpoint or model at {path}")
    lines = known if checkpoints.lock.exists() else ["not running", *known]
    return "\n".join(lines)


def _of_lock(path: Path) -> str | None:
    try:
        seconds = max(0.0, time.time() - os.stat(path).st_mtime)
        who, _, progress = path.read_text("utf-8", errors="replace").partition("\n")
    except OSError:
        return None
    silent = f"silent for {_duration(seconds)}" if seconds > SILENT_SECONDS else "alive"
    return f"{silent}: {who}{': ' if progress else ''}{progress}"


def _of_checkpoint(checkpoints: Checkpoints) -> str | None:
    for path in (checkpoints.path, checkpoints.previous):
        try:
            batches, age = read_checkpoint(path).batches, time.time() - os.stat(path).st_mtime
        except (ModelFileError, OSError):
            continue
        return f"checkpoint: {batches} batches, written {_duration(age)} ago, {path}"
    return None


def _of_model(path: Path) -> str | None:
    try:
        with open_file(path, MODEL) as stored:
            return f"model: {stored.header['batches_trained']} batches, {path}"
    except (ModelFileError, OSError, KeyError):
        return None


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
