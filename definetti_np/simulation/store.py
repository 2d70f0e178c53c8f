"""The store: simulations in a folder, each of which is made once.

The folder holds shards, each a file of consecutive examples that is written whole and never changed. The name of a shard
says which examples it holds, and of which simulations. So nothing has to be locked: runs on several machines may read
one folder, and write to it at the same time, since an example that two of them simulate is the same.
"""

from __future__ import annotations

import bisect
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import process
from ..errors import SimulatorError
from ..files.paths import check_parent
from ..files.whole import remove_old_temporaries, write_whole
from ..interruption import Waiting
from ..losses import check_labels
from ..multiset import MultisetBatch
from .ranges import Ranges
from .shards import Key, Shard, check_shard, encode_shard, read_header
from .source import NO_REDRAWS, Example, ExampleSource
from .stream import PATIENT, Stream, StreamSettings, assemble, open_simulating_stream

logger = logging.getLogger("definetti_np")

EXAMPLES_PER_SHARD = 1000
BYTES_PER_SHARD = 2**26  # of rows, before they are compressed
SECONDS_PER_SHARD = 60.0  # after which a shard is written that is not full
MOST_UNWRITTEN_BYTES = 2**28  # of shards that wait in memory for a disk that fails
STALE_SECONDS = 24 * 3600.0  # after which an unfinished file is that of a run that was killed

_NAME = re.compile(r"examples-(\d{12,20})-(\d{12,20})-([0-9a-f]{12})\.shard")


@dataclass(frozen=True)
class ShardFile:
    """A shard in a folder: its path, and the examples and the digest that its name tells."""

    path: Path
    start: int
    stop: int
    digest: str


def shard_path(folder: Path, start: int, stop: int, digest: str) -> Path:
    """The path of the shard of these examples."""
    return folder / f"examples-{start:012d}-{stop:012d}-{digest}.shard"


def shard_files(folder: Path) -> list[ShardFile]:
    """The shards of a folder by their names, in the order of their examples."""
    with os.scandir(folder) as entries:
        matches = [match for entry in entries if (match := _NAME.fullmatch(entry.name))]
    files = [ShardFile(folder / match[0], int(match[1]), int(match[2]), match[3]) for match in matches]
    return sorted((file for file in files if file.start < file.stop), key=lambda file: (file.start, -file.stop))


def find_key(folder: Path, argument: str) -> Key | None:
    """Return which simulations a folder holds, None if there are none.

    Raises
    ------
    ValueError
        If it holds simulations of several kinds, or nothing but damaged shards.
    """
    keys: dict[str, Key] = {}
    reasons: dict[str, str] = {}
    for file in shard_files(folder):
        if file.digest not in keys:
            try:
                keys[file.digest] = Key.from_dict(read_header(file.path.read_bytes())[0])
            except (OSError, ValueError) as error:
                reasons.setdefault(file.digest, f"{file.path}: {error}")
    if len(keys) > 1:
        kinds = "; ".join(f"{key} (files *-{digest}.shard)" for digest, key in sorted(keys.items()))
        raise ValueError(
            f"{argument}: {str(folder)!r} holds several kinds of simulations: {kinds}; move the files of all but one of "
            "them to folders of their own"
        )
    if reasons and not keys:
        raise ValueError(
            f"{argument}: no shard of {str(folder)!r} can be read ({next(iter(reasons.values()))}); remove them, or "
            "choose another folder"
        )
    return next(iter(keys.values()), None)


@dataclass(frozen=True)
class StoreSettings:
    """The arguments of `train` and `simulate` about a store: its folder, the version, and what is there.

    `found` says which simulations the folder holds, None if there are none.
    """

    folder: Path
    version: str | None
    found: Key | None
    argument: str

    @classmethod
    def checked(
        cls, folder: Any, version: Any, simulator: Callable | None, argument: str = "simulations"
    ) -> StoreSettings | None:
        """Check the arguments; None without a folder.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or there is no simulator and nothing to read.
        """
        if folder is None:
            if simulator is None:
                raise ValueError(f"simulator: None needs a folder of simulations to train on, got {argument}=None")
            if version is not None:
                raise ValueError(f"simulations_version needs a folder of simulations, got {argument}=None")
            return None
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"{argument} must be the path of a folder, got {folder!r}")
        if isinstance(version, bool) or not isinstance(version, (str, int, type(None))):
            raise TypeError(f"simulations_version must be a text or an integer, got {version!r}")
        folder = Path(folder).expanduser().absolute()
        is_there = os.path.isdir(folder)
        if not is_there:
            check_folder(folder, argument)
        found = find_key(folder, argument) if is_there else None
        if simulator is None and found is None:
            where = "holds no simulations" if is_there else "does not exist"
            raise ValueError(
                f"{argument}: {str(folder)!r} {where}, and simulator is None; give a simulator, or fill the folder with "
                "definetti_np.simulate"
            )
        version = None if version is None else str(version)
        if simulator is None and version is None and found is not None:
            version = found.version
        return cls(folder, version, found, argument)

    def open(self, simulator: str, seed: int, row_shape: tuple[int, int], output_shape: tuple[int]) -> Store:
        """Open the store, or raise a ValueError if the folder holds other simulations."""
        return Store(self.folder, Key(simulator, self.version, seed, row_shape, output_shape), self.argument)


class Store:
    """The simulations in a folder, to read and to add to.

    Parameters
    ----------
    folder
        Where they are; it need not exist before the first shard is written.
    key
        Which simulations they are.
    argument
        What messages call the folder.

    Raises
    ------
    ValueError
        If there are other simulations in the folder.
    """

    def __init__(self, folder: Path, key: Key, argument: str = "simulations"):
        self.folder, self.key, self.argument = folder, key, argument
        self._files: list[ShardFile] = []
        self._damaged: set[Path] = set()
        self._shards: deque[tuple[Path, Shard]] = deque(maxlen=2)  # the ones that were read last
        self.look()

    def look(self) -> None:
        """Find the shards that are there now."""
        files = shard_files(self.folder) if os.path.isdir(self.folder) else []
        if any(file.digest != self.key.digest for file in files):
            found = find_key(self.folder, self.argument)
            if found is not None and found != self.key:
                raise ValueError(
                    f"{self.argument}: {str(self.folder)!r} holds {difference(found, self.key)}; choose another folder"
                )
        self._plan([file for file in files if file.digest == self.key.digest and file.path not in self._damaged])

    def _plan(self, files: Sequence[ShardFile]) -> None:
        """Work out which shard to read an example from, where several have it: pieces of shards that do not overlap."""
        self._files = list(files)
        self._pieces: list[tuple[int, int, ShardFile]] = []
        stop = 0
        for file in files:
            if file.stop > stop:
                self._pieces.append((max(file.start, stop), file.stop, file))
                stop = file.stop
        self._starts = [start for start, _, _ in self._pieces]
        self.examples = Ranges(range(start, stop) for start, stop, _ in self._pieces)

    def check(self, within: range) -> None:
        """Read the shards of a range, and forget those that are damaged, with a warning."""
        for file in self._files.copy():
            if file.start < within.stop and file.stop > within.start:
                try:
                    check_shard(file.path.read_bytes())
                except (OSError, ValueError) as error:
                    self._forget(file, error)

    def _forget(self, file: ShardFile, error: Exception) -> None:
        logger.warning(
            "%s: %s cannot be read and is left out: %s",
            self.argument,
            file.path,
            getattr(error, "strerror", 0) or error,
        )
        self._damaged.add(file.path)
        self._plan([other for other in self._files if other.path != file.path])

    def shard_of(self, index: int) -> tuple[Shard, int] | None:
        """Return the shard to read an example from, and up to which example to read from it; None if there is none."""
        while True:
            place = bisect.bisect_right(self._starts, index) - 1
            if place < 0 or index >= self._pieces[place][1]:
                return None
            _, stop, file = self._pieces[place]
            try:
                return self._read(file), stop
            except (OSError, ValueError) as error:
                self._forget(file, error)

    def _read(self, file: ShardFile) -> Shard:
        for path, shard in self._shards:
            if path == file.path:
                return shard
        shard = Shard(file.path.read_bytes())
        if shard.key != self.key or (shard.start, shard.stop) != (file.start, file.stop):
            raise ValueError(f"its name is not that of what it holds, examples {shard.start} to {shard.stop - 1}")
        self._shards.append((file.path, shard))
        return shard

    def write(self, start: int, stop: int, content: bytes) -> None:
        """Write a shard; raise an OSError if that cannot be done."""
        self.folder.mkdir(exist_ok=True)
        path = shard_path(self.folder, start, stop, self.key.digest)
        write_whole(path, lambda file: file.write(content))
        self._damaged.discard(path)

    def end_of_damaged(self, index: int) -> int | None:
        """Where a damaged shard with this example ends; a new one with the same name takes its place."""
        for path in self._damaged:
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) <= index < int(match[2]):
                return int(match[2])
        return None


def difference(found: Key, wanted: Key) -> str:
    """Say what a folder holds, and what is asked for instead."""
    names = {
        "simulator": "simulator",
        "version": "simulations_version",
        "seed": "seed",
        "row_shape": "rows of shape",
        "output_shape": "labels of shape",
    }
    parts = []
    for field, name in names.items():
        there, here = getattr(found, field), getattr(wanted, field)
        if there != here:
            parts.append(f"{name} {there!r}, not {here!r}")
    return "simulations of " + "; ".join(parts)


class Writer:
    """Puts examples that were simulated into shards, and keeps what cannot be written until it can be.

    Parameters
    ----------
    store
        Where they go.
    """

    def __init__(self, store: Store):
        self._store = store
        self._owner = process.owner()
        self._pending: list[Example] = []  # consecutive, not in a shard yet
        self._first = 0  # index of the first of them
        self._bytes = 0  # of them
        self._since = 0.0  # when the first of them came
        self._waiting: deque[tuple[int, int, bytes]] = deque()  # shards that are not written yet
        self.lost = Ranges([])  # examples that there was no room for
        self.error: OSError | None = None  # why the last shard was not written

    def add(self, index: int, example: Example) -> None:
        """Add an example; it is written when a shard is full, or a minute after the first one of its shard."""
        if self._pending and index != self._first + len(self._pending):
            self._close_shard()
        if not self._pending:
            self._first, self._bytes, self._since = index, 0, time.monotonic()
            self._end = self._store.end_of_damaged(index) or index + EXAMPLES_PER_SHARD
        self._pending.append(example)
        self._bytes += example.rows.nbytes
        is_old = time.monotonic() - self._since > SECONDS_PER_SHARD
        if index + 1 >= self._end or self._bytes > BYTES_PER_SHARD or is_old:
            self._close_shard()
            self.write()

    def _close_shard(self) -> None:
        content = encode_shard(self._store.key, self._first, self._pending)
        self._waiting.append((self._first, self._first + len(self._pending), content))
        self._pending = []

    def write(self) -> None:
        """Write what waits, as far as that can be done; say so once if it cannot."""
        if not process.is_ours(self._owner):
            return
        try:
            while self._waiting:
                self._store.write(*self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            if self.error is None:
                logger.warning(
                    "%s: %s cannot be written to now: %s; simulations are kept in memory, and are tried again with the "
                    "next ones",
                    self._store.argument, self._store.folder, error,
                )  # fmt: skip
            self.error = error
            while sum(len(content) for _, _, content in self._waiting) > MOST_UNWRITTEN_BYTES:
                start, stop, _ = self._waiting.popleft()
                self.lost = Ranges([*self.lost.ranges, range(start, stop)])
        else:
            self.error = None

    def close(self) -> None:
        """Write all that is left, as far as that can be done."""
        if self._pending:
            self._close_shard()
        self.write()

    @property
    def unwritten(self) -> Ranges:
        """The examples that are not on the disk."""
        waiting = [range(start, stop) for start, stop, _ in self._waiting]
        pending = range(self._first, self._first + len(self._pending))
        return Ranges([*self.lost.ranges, *waiting, pending])


class StoreStream(Stream):
    """Examples are read from a store; those that it lacks are simulated, and written to it.

    Parameters
    ----------
    store
        The simulations that there are.
    source, settings, examples, redraws
        As of every `Stream`; the simulator of the source may be None where nothing is missing.
    while_waiting
        What to do until simulators have started; it may raise an exception.

    Raises
    ------
    ValueError
        If examples are missing, and there is no simulator for them, or the folder cannot be written to.
    """

    def __init__(
        self,
        store: Store,
        source: ExampleSource,
        settings: StreamSettings,
        examples: range,
        redraws: Mapping[str, int] = NO_REDRAWS,
        while_waiting: Waiting = PATIENT,
    ):
        super().__init__(source, settings, examples, redraws)
        self._store = store
        store.check(examples)
        self._missing = store.examples.missing(examples)
        self._checked: Shard | None = None
        self.writer = Writer(store)
        self._simulated: Stream | None = None
        if self._missing:
            self._check_that_missing_can_be_made(examples)
            remove_old_temporaries(store.folder, STALE_SECONDS)
            self._simulated = open_simulating_stream(source, settings, self._missing, NO_REDRAWS, while_waiting)
        if examples:
            logger.info(
                "%d of %d examples are in %s", len(examples) - len(self._missing), len(examples), store.folder
            )  # fmt: skip

    def _check_that_missing_can_be_made(self, examples: range) -> None:
        folder, argument = self._store.folder, self._store.argument
        if self._source.simulator is None:
            raise ValueError(
                f"{argument}: {str(folder)!r} lacks {len(self._missing)} of the {len(examples)} examples "
                f"{examples[0]} to {examples[-1]} that are wanted: {self._missing}; give a simulator, ask for fewer, or "
                "add them with definetti_np.simulate"
            )
        check_folder(folder, argument)

    def next_batch(self, size: int, while_waiting: Waiting = PATIENT) -> tuple[MultisetBatch, np.ndarray]:
        """Return the next `size` examples, read or simulated; see `Stream.next_batch`."""
        indices = self._next_indices(size)
        pieces = list(self._pieces(indices, while_waiting))
        self._next += size
        reasons = [reason for piece in pieces for reasons in piece.redraws for reason in reasons]
        self._redraws.count_reasons(reasons, indices[-1] + 1)
        return _join([piece.data for piece in pieces]), np.concatenate([piece.labels for piece in pieces])

    def _take(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example]:
        examples = [example for piece in self._pieces(indices, while_waiting) for example in piece.examples()]
        self._next += len(indices)
        return examples

    def _pieces(self, indices: Sequence[int], while_waiting: Waiting) -> Iterator[_Piece]:
        """The examples, in pieces that are of one shard, or simulated."""
        index, stop = indices[0], indices[-1] + 1
        while index < stop:
            if index in self._missing:
                end = index + 1
                while end < stop and end in self._missing:
                    end += 1
                piece = self._simulate(range(index, end), while_waiting)
            elif (found := self._store.shard_of(index)) is not None:
                shard, end = found
                end = min(end, stop)
                self._check(shard)
                piece = _Piece.of_shard(shard, index, end)
                self._check_redraws(piece, index)
            else:  # somebody has removed it since the stream was opened
                end = index + 1
                piece = self._simulate_here(index, while_waiting)
            yield piece
            index = end

    def _simulate(self, indices: range, while_waiting: Waiting) -> _Piece:
        if self._simulated is None:
            raise RuntimeError("no stream simulates what is missing")
        examples = self._simulated.next_examples(len(indices), while_waiting)
        for index, example in zip(indices, examples, strict=True):
            self.writer.add(index, example)
        return _Piece.of_examples(examples)

    def _simulate_here(self, index: int, while_waiting: Waiting) -> _Piece:
        """Simulate an example that could be read when the stream was opened, and cannot now."""
        if self._source.simulator is None:
            self._check_that_missing_can_be_made(range(index, index + 1))
        with while_waiting:
            example = self._source.example(index)
        self.writer.add(index, example)
        return _Piece.of_examples([example])

    def _check(self, shard: Shard) -> None:
        """See that a shard fits this run's network and loss, as simulators are seen to."""
        if shard is self._checked:
            return
        spec, sizes = self._source.spec, shard.dataset_sizes()
        rows = spec.input_shape[0]
        wrong = sizes < spec.fewest_rows if rows is None else sizes != rows
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(
                f"{self._store.argument}: example {shard.start + place} in {str(self._store.folder)!r} has "
                f"{sizes[place]} rows, input_shape is {spec.input_shape}, and the network takes {spec.fewest_rows} rows "
                "at least; choose another folder or input_shape"
            )
        check_labels(shard.labels, self._source.loss, f"{self._store.argument}: a label")
        self._checked = shard

    def _check_redraws(self, piece: _Piece, index: int) -> None:
        """Fail where the simulator would: the store may be of a run that repeats draws."""
        if self._source.on_error == "raise" and self._source.simulator is not None and any(piece.redraws):
            place = next(i for i, reasons in enumerate(piece.redraws) if reasons)
            raise SimulatorError(
                f"example {index + place} of seed {self._source.seed}: the simulator failed when the example was "
                f'simulated for {self._store.folder}: {piece.redraws[place][0]}\non_simulator_error="redraw" takes the '
                "draw that was made instead."
            )

    def close(self) -> None:
        """Write what is not written yet, and stop what simulates."""
        if not self._closing:
            super().close()
            self.writer.close()
            if unwritten := self.writer.unwritten:
                logger.warning(
                    "%s: examples %s of seed %d could not be written to %s: %s; definetti_np.simulate makes them again "
                    "and writes them when it can be written to",
                    self._store.argument, unwritten, self._store.key.seed, self._store.folder, self.writer.error,
                )  # fmt: skip
            if self._simulated is not None:
                self._simulated.close()


@dataclass(frozen=True)
class _Piece:
    """Consecutive examples, and for each the reasons of draws that failed before it."""

    data: MultisetBatch
    labels: np.ndarray
    redraws: Sequence[tuple[str, ...]]

    @classmethod
    def of_shard(cls, shard: Shard, start: int, stop: int) -> _Piece:
        first, last = start - shard.start, stop - shard.start
        redraws = [shard.redraws.get(place, ()) for place in range(first, last)] if shard.redraws else [()]
        return cls(shard.batch(start, stop), shard.labels[first:last], redraws)

    @classmethod
    def of_examples(cls, examples: Sequence[Example]) -> _Piece:
        return cls(*assemble(examples), [example.redraws for example in examples])

    def examples(self) -> Iterator[Example]:
        offsets = self.data.offsets
        for place, label in enumerate(self.labels):
            rows = slice(offsets[place], offsets[place + 1])
            redraws = self.redraws[place] if any(self.redraws) else ()
            yield Example(self.data.rows[rows], self.data.counts[rows], label, redraws)


def _join(batches: Sequence[MultisetBatch]) -> MultisetBatch:
    if len(batches) == 1:
        return batches[0]
    starts = np.cumsum([0, *(len(batch.rows) for batch in batches)])
    offsets = [batch.offsets[1:] + start for batch, start in zip(batches, starts, strict=False)]
    return MultisetBatch(
        np.concatenate([batch.rows for batch in batches]),
        np.concatenate([batch.counts for batch in batches]),
        np.concatenate([[0], *offsets]),
    )


def check_folder(folder: Path, argument: str) -> None:
    """Raise a ValueError if shards cannot be written to a folder, or if it cannot be made."""
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            raise ValueError(f"{argument} must be a folder, {str(folder)!r} is none")
        check_parent(folder, argument)
    elif not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{argument}: examples are missing in {str(folder)!r}, which cannot be written to; choose another folder, or "
            "copy it"
        )
