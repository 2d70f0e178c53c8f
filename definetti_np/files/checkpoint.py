"""Checkpoints: all that a run needs to go on after its process has ended, and to end in the same bits."""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checks import as_integer
from ..errors import ModelFileError
from .archive import CHECKPOINT, read_file, remove_temporaries, write_file

logger = logging.getLogger("definetti_np")

SECONDS = 60.0  # at least, between two checkpoints that nobody asked for
PATIENCE = 50  # times that writing one took, at least: 2 % of the time


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after `batches` batches.

    Attributes
    ----------
    run
        What must be the same when the run goes on, by argument name.
    batches, next_example, adam_steps
        How far it is.
    summary
        The lines of the training summary.
    redraws
        How many examples were drawn again, by reason.
    weights, first_moments, second_moments
        Of the network and of Adam, (N,) each.
    """

    run: dict
    batches: int
    next_example: int
    adam_steps: int
    summary: list[str]
    redraws: dict[str, int]
    weights: np.ndarray
    first_moments: np.ndarray
    second_moments: np.ndarray

    @classmethod
    def of(cls, trainer, run: Mapping, *, batches: int, summary: list[str], redraws: Mapping):
        """The state of a trainer, whose arrays are not copied."""
        optimizer = trainer.optimizer
        return cls(
            run=dict(run),
            batches=batches,
            next_example=batches * run["batch_size"],
            adam_steps=optimizer.steps,
            summary=summary,
            redraws=dict(redraws),
            weights=optimizer.weights,
            first_moments=optimizer.first_moments,
            second_moments=optimizer.second_moments,
        )

    def restore(self, trainer) -> None:
        """Put a trainer into this state."""
        optimizer = trainer.optimizer
        if self.weights.shape != optimizer.weights.shape:
            raise ModelFileError(f"a checkpoint of {self.weights.size} weights for {optimizer.weights.size}")
        for name in _ARRAYS:
            getattr(optimizer, name)[...] = getattr(self, name)
        optimizer.steps = self.adam_steps


_ARRAYS = ("weights", "first_moments", "second_moments")
_COUNTS = ("batches", "next_example", "adam_steps")


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, previous: Path) -> None:
    """Write a checkpoint to `path`; what is there becomes `previous`."""
    description = {name: getattr(checkpoint, name) for name in ("run", *_COUNTS, "summary", "redraws")}
    arrays = {name: getattr(checkpoint, name) for name in _ARRAYS}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(
                f"after {checkpoint.batches} batches the {name.replace('_', ' ')} are not finite; try a smaller "
                "learning_rate"
            )
    write_file(path, CHECKPOINT, description, arrays, previous=previous)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, or raise ModelFileError."""
    header, arrays = read_file(path, CHECKPOINT)
    try:
        for name in _COUNTS:
            as_integer(header[name], name, minimum=0)
        if set(arrays) != set(_ARRAYS) or len({array.shape for array in arrays.values()}) != 1:
            raise ValueError(f"it holds {sorted(arrays)}")
        run, summary, redraws = dict(header["run"]), list(map(str, header["summary"])), dict(header["redraws"])
        counts = {name: header[name] for name in _COUNTS}
        return Checkpoint(run=run, summary=summary, redraws=redraws, **counts, **arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: the header describes no run: {error!r}") from error


class Checkpoints:
    """The checkpoints of a run beside its model: the newest, and the one before it.

    Parameters
    ----------
    model
        The model file ``<name>.npz``; the checkpoints are ``<name>.checkpoint.npz`` and
        ``<name>.checkpoint.previous.npz``.
    every
        Write one every this many batches. None: once a minute, and not so
        often that it takes more than a fiftieth of the time.
    """

    def __init__(self, model: Path, *, every: int | None):
        self.path = model.with_suffix(".checkpoint.npz")
        self.previous = model.with_suffix(".checkpoint.previous.npz")
        self.lock = model.with_suffix(".lock")
        self.batches: int | None = None  # of the newest that this run knows
        self._model = model
        self._every = every
        self._not_before = time.monotonic() + SECONDS

    def tidy(self) -> None:
        """Remove what killed runs have left half written."""
        for path in (self._model, self.path):
            remove_temporaries(path)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there is none at all.

        Raises
        ------
        ModelFileError
            If there are checkpoints, but none is whole.
        """
        errors = []
        for path in (self.path, self.previous):
            if not os.path.lexists(path):
                continue
            try:
                checkpoint = read_checkpoint(path)
            except ModelFileError as error:
                errors.append(str(error))
                continue
            if errors:
                logger.warning("%s; the one before it is taken, of %d batches", errors[0], checkpoint.batches)
                os.replace(path, self.path)  # the damaged one must not become the one to fall back to
            self.batches = checkpoint.batches
            return checkpoint
        if errors:
            raise ModelFileError(f"{'; '.join(errors)}; remove what is damaged to start afresh")
        return None

    def is_due(self, batches: int) -> bool:
        """Whether to write one after so many batches."""
        if self._every is not None:
            return batches % self._every == 0
        return time.monotonic() >= self._not_before

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, unless it is there already; where there is no room, say so and leave the old one."""
        if checkpoint.batches == self.batches:
            return
        start = time.monotonic()
        try:
            write_checkpoint(self.path, checkpoint, previous=self.previous)
        except OSError as error:
            kept = "there is none yet" if self.batches is None else f"the one of {self.batches} batches is kept"
            logger.warning("the checkpoint of %d batches cannot be written: %s; %s", checkpoint.batches, error, kept)
        else:
            self.batches = checkpoint.batches
        end = time.monotonic()
        self._not_before = end + max(SECONDS, PATIENCE * (end - start))


def check_same_run(checkpoint: Checkpoint, run: Mapping, path: Path) -> None:
    """Raise a ValueError that lists what differs between the run of a checkpoint and this one."""
    ours, theirs = _flat(json.loads(json.dumps(run))), _flat(checkpoint.run)
    differences = [
        f"{name}={ours.get(name)!r}, the checkpoint has {theirs.get(name)!r}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise ValueError(
            f"resume: {path} is of another run: {'; '.join(differences)}. Call train with the checkpoint's arguments, "
            "or with resume=False or another save_path to start afresh"
        )


def _flat(run: Mapping) -> dict:
    network = run.get("network")
    return {**run, **network, "network": None} if isinstance(network, dict) else dict(run)
