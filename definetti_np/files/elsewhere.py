"""Where a trained model goes when it cannot be written to its own file, so that no weights are lost."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import NotSavedError

logger = logging.getLogger("definetti_np")


def save_or_keep(model: Any, path: Path, *, what_finishes: str) -> None:
    """Save a trained model; where that fails, put it elsewhere, and raise an error that holds it.

    Parameters
    ----------
    model
        The `Model`.
    path
        Its file.
    what_finishes
        What the message says about going on with the run.

    Raises
    ------
    NotSavedError
        If it cannot be written to `path`; the error has the model, and says where it is.
    """
    try:
        model.save(path)
    except Exception as error:
        place = put_elsewhere(path, model.save)
        where = "nor to another folder" if place is None else f"it was written to {place} instead"
        failure = NotSavedError(
            f"the trained model cannot be written to {path}: {error}; {where}. While this process lives, the model is "
            f"the attribute `model` of this error; {what_finishes}"
        )
        failure.model, failure.place = model, place
        raise failure from error
    logger.info("saved the model as %s", path)


def put_elsewhere(path: Path, write: Callable[[Path], None]) -> Path | None:
    """Let `write` write a file to another folder, because `path` cannot be written; return its path, or None.

    The user's home folder comes first, because on a cluster the folder for temporary files ends with the job.
    """
    for find in (Path.home, tempfile.gettempdir):
        with contextlib.suppress(Exception):  # there may be no such folder, or its disk is full too
            place = Path(find()).absolute() / f"{path.stem[:100]}-{os.urandom(4).hex()}.npz"
            write(place)
            return place
    return None
