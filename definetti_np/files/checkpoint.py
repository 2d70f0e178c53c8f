"""Checkpoints: all that a run needs to go on after its process has ended, and to end in the same bits."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import as_integer, shorten
from ..errors import ModelFileError
from ..history import columns_of
from ..process import is_ours, owner
from .archive import CHECKPOINT, StoredFile, list_members, open_file, refuse_on_error, write_file
from .elsewhere import put_elsewhere
from .whole import file_at, remove_temporaries

logger = logging.getLogger("definetti_np")

INTERVAL_SECONDS = 60.0  # between two checkpoints, at least, where the user has set no interval
INTERVAL_PER_WRITE = 50  # the interval is at least so many times as long as writing one took, which is 2 % of a run


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
    average
        The average of the weights, (N,), or (0,) in a run without one.
    best
        The weights that were best in validation, (N,), or (0,) in a run that keeps the last ones.
    state
        What else there is to know: ``started``, the date when the run began and the digest of its simulator's source;
        with reuse ``held_from``, the index of the first example that may be drawn, and ``means``, those of the losses;
        with validation ``last``, what the last batch reports.
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
    average: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    best: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    state: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        trainer: Any,
        run: Mapping,
        *,
        batches: int,
        summary: list[str],
        redraws: Mapping,
        best: np.ndarray | None = None,
        state: Mapping | None = None,
    ) -> "Checkpoint":
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
            average=optimizer.average,
            best=optimizer.weights[:0] if best is None else best,
            state=dict(state or {}),
        )

    def restore(self, trainer: Any) -> None:
        """Put a trainer into this state."""
        optimizer = trainer.optimizer
        if self.weights.shape != optimizer.weights.shape:
            raise ModelFileError(f"a checkpoint of {self.weights.size} weights for {optimizer.weights.size}")
        for name in (*_ARRAYS, "average"):
            getattr(optimizer, name)[...] = getattr(self, name)
        optimizer.steps = self.adam_steps


_ARRAYS = ("weights", "first_moments", "second_moments")
_MORE_ARRAYS = {"average": "averaging", "best": "keep"}  # by the argument under which there are such
_COUNTS = ("batches", "next_example", "adam_steps")
_PARTS = {"run": dict, "summary": list, "redraws": dict}


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, previous: Path) -> None:
    """Write a checkpoint to `path`; what is there becomes `previous`."""
    description = {name: getattr(checkpoint, name) for name in (*_PARTS, *_COUNTS)}
    if checkpoint.state:
        description["state"] = checkpoint.state
    arrays = {name: getattr(checkpoint, name) for name in _ARRAYS}
    arrays |= {name: getattr(checkpoint, name) for name in _arrays_of(checkpoint.run)[len(_ARRAYS) :]}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(
                f"after {checkpoint.batches} batches the {name.replace('_', ' ')} are not finite; try a smaller "
                "learning_rate"
            )
    write_file(path, CHECKPOINT, description, arrays, previous=previous)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint whose parts fit each other, or raise ModelFileError, which names the part that does not."""
    with open_file(path, CHECKPOINT) as stored:
        with refuse_on_error(path, "the header describes no run"):
            described = _described_run(stored)
        arrays: dict[str, Any] = {name: stored.read(name) for name in stored.shapes}
    if arrays["second_moments"].size and arrays["second_moments"].min() < 0:  # Adam takes their square root
        raise ModelFileError(f"{path}: second_moments are negative")
    return Checkpoint(**described, **arrays)


def is_checkpoint(path: Path) -> bool:
    """Whether a file holds what checkpoints hold."""
    return {f"{name}.npy" for name in _ARRAYS} < set(list_members(path))


def _arrays_of(run: Mapping) -> list[str]:
    """The names of the arrays of a run."""
    return [*_ARRAYS, *(name for name, argument in _MORE_ARRAYS.items() if run.get(argument) is not None)]


def _described_run(stored: StoredFile) -> dict:
    """What the header says of a run, if its parts and the arrays' shapes fit each other."""
    header = stored.header
    run, summary, redraws = (_check_type(header[name], kind, name) for name, kind in _PARTS.items())
    batches, next_example, adam_steps = (as_integer(header[name], name, minimum=0) for name in _COUNTS)
    batch_size = as_integer(run["batch_size"], "run: batch_size", minimum=1)
    as_integer(run["seed"], "run: seed", minimum=0)
    if next_example != batches * batch_size:
        raise ValueError(f"next_example is {next_example} after {batches} batches of {batch_size}")
    reuse = as_integer(run.get("reuse", 0), "run: reuse", minimum=0)
    if adam_steps != batches * (1 + reuse):
        raise ValueError(f"adam_steps is {adam_steps} after {batches} batches{f' and reuse={reuse}' * bool(reuse)}")
    state = _check_state(_check_type(header.get("state", {}), dict, "state"))
    if reuse:
        held_from = as_integer(state.get("held_from"), "state: held_from", minimum=0)
        if held_from % batch_size or held_from > next_example:
            raise ValueError(f"state: held_from is {held_from} after {next_example} examples, {batch_size} a batch")
    if summary and int(summary[-1].split()[0]) >= batches:  # archive.py has checked their form and order
        raise ValueError(f"summary: its last line is {summary[-1]!r} after {batches} batches")
    columns = columns_of(run)
    if summary and len(summary[-1].split()) != len(columns):
        raise ValueError(f"summary: its last line is {summary[-1]!r}, its columns are {', '.join(columns)}")
    for reason, number in redraws.items():
        as_integer(number, f"redraws: the number of {reason!r}", minimum=1)
    if redraws and run.get("on_simulator_error") == "raise":
        raise ValueError(f"redraws: {redraws} in a run that draws nothing again")
    if set(stored.shapes) != set(_arrays_of(run)):
        raise ValueError(f"arrays: {sorted(stored.shapes)}, they must be {sorted(_arrays_of(run))}")
    for name, shape in stored.shapes.items():
        if len(shape) != 1 or shape != stored.shapes["weights"]:
            raise ValueError(f"{name} has shape {shape}, weights have shape {stored.shapes['weights']}")
    (size,) = stored.shapes["weights"]
    parameters = _check_type(run.get("parameters", {"all": [size]}), dict, "run: parameters")
    if sum(math.prod(shape) for shape in parameters.values()) != size:
        raise ValueError(f"run: parameters: {parameters} are not {size} weights")
    return {**{name: header[name] for name in (*_PARTS, *_COUNTS)}, "state": state}


def _check_state(state: dict) -> dict:
    """Return the state if its parts are what they should be."""
    means = _check_type(state.get("means", {}), dict, "state: means")
    for name, number in means.items():
        _check_type(number, bool if name == "has_warned" else (int, float), f"state: means: {name}")
    if means and set(means) != {"batches", "fresh", "reused", "variance", "has_warned"}:
        raise ValueError(f"state: means: {sorted(means)}")
    for name, value in _check_type(state.get("started", {}), dict, "state: started").items():
        _check_type(value, str, f"state: started: {name}")
    for text in _check_type(state.get("last", ""), str, "state: last").split():
        float(text)
    return state


def _check_type(value: Any, kind: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {getattr(kind, '__name__', 'number')}, got {value!r}")
    return value


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
        self._owner = owner()
        self._every = every
        self._not_before = time.monotonic() + INTERVAL_SECONDS

    @property
    def files(self) -> dict[str, Path]:
        """All files of a run beside its summary and its log, by what they are."""
        return {
            "the model": self._model,
            "the checkpoint": self.path,
            "the checkpoint before it": self.previous,
            "the lock": self.lock,
        }

    def tidy(self) -> None:
        """Remove the files that killed runs have left half written."""
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
            if not os.path.exists(path):  # or it is a link to where none has been written yet
                continue
            try:
                checkpoint = read_checkpoint(path)
            except ModelFileError as error:
                errors.append(str(error))
                continue
            if errors:
                logger.warning("%s; the one before it is taken, of %d batches", errors[0], checkpoint.batches)
                with contextlib.suppress(OSError):  # or the damaged one would become the one before
                    os.replace(file_at(path), file_at(self.path))
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

    def write(self, checkpoint: Checkpoint, *, last: bool = False) -> None:
        """Write a checkpoint, unless it is there already; if that fails, log a warning and keep the old one.

        If it is the last one of a run that ends early, it is then put elsewhere, because its batches would be lost.
        """
        if checkpoint.batches == self.batches or not is_ours(self._owner):  # a simulator has forked: not our run
            return
        start = time.monotonic()
        try:
            write_checkpoint(self.path, checkpoint, previous=self.previous)
        except OSError as error:
            kept = "there is none yet" if self.batches is None else f"the one of {self.batches} batches is kept"
            logger.warning("the checkpoint of %d batches cannot be written: %s; %s", checkpoint.batches, error, kept)
            if last:
                self._put_elsewhere(checkpoint)
        else:
            self.batches = checkpoint.batches
        end = time.monotonic()
        self._not_before = end + max(INTERVAL_SECONDS, INTERVAL_PER_WRITE * (end - start))

    def _put_elsewhere(self, checkpoint: Checkpoint) -> None:
        place = put_elsewhere(self.path, lambda path: write_checkpoint(path, checkpoint, previous=path))
        if place is not None:
            logger.warning(
                "it was written to %s instead; when there is room, move it to %s, and resume=True goes on from there",
                place,
                self.path,
            )

    def what_finishes(self, batches: int) -> str:
        """Say which checkpoint finishes a run of `batches` batches whose model could not be written."""
        if self.batches is None or not os.path.exists(self.path):
            return "there is no checkpoint to go on from"
        return (
            "when it can be written there, call train again with resume=True: it goes on from "
            f"{self.path}, which holds {self.batches} of {batches} batches"
        )


def check_same_run(checkpoint: Checkpoint, run: Mapping, path: Path) -> None:
    """Raise a ValueError that lists what differs between the run of a checkpoint and this one."""
    ours, theirs = _flat(json.loads(json.dumps(run))), _flat(checkpoint.run)
    differences = [
        f"{name}={_short(ours.get(name))}, the checkpoint has {_short(theirs.get(name))}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        text = shorten("; ".join(differences), 5000)
        raise ValueError(
            f"resume: {path} is of another run: {text}. Call train with the checkpoint's arguments, or with "
            "resume=False or another save_path to start afresh"
        )


def _short(value) -> str:
    return shorten(repr(value), 200)


def _flat(run: Mapping) -> dict:
    network = run.get("network")
    return {**run, **network, "network": None} if isinstance(network, dict) else dict(run)
