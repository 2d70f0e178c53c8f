"""A stream that reads examples from a store, has those simulated that it lacks, and adds them to it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .. import process
from ..errors import SimulatorError
from ..files.whole import remove_old_temporaries
from ..interruption import Waiting
from ..losses import check_labels
from ..multiset import MultisetBatch
from .ranges import Ranges
from .shards import Shard, encode_shard
from .source import NO_REDRAWS, Example, ExampleSource
from .store import Store, check_folder
from .stream import PATIENT, Stream, StreamSettings, assemble, open_simulating_stream

logger = logging.getLogger("definetti_np")

EXAMPLES_PER_SHARD = 1000
BYTES_PER_SHARD = 2**26  # of rows, before they are compressed
SECONDS_PER_SHARD = 60.0  # after which a shard is written that is not full
MOST_UNWRITTEN_BYTES = 2**28  # of shards that wait in memory for a disk that fails
LOOK_SECONDS = 1.0  # between two looks into a folder for what others have added
QUIET_SECONDS = 60.0  # without what is waited for, until a warning; the next one comes after twice as long
TICK_SECONDS = 0.1  # between two looks at whether to go on waiting
STALE_SECONDS = 24 * 3600.0  # after which an unfinished file is that of a run that was killed


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
        self._twice = ()  # because the stream that simulates sees to that
        self._store = store
        store.check(examples)
        missing = store.examples.missing(examples)
        self._missing = Ranges([]) if store.follow else missing  # what is simulated here
        self._checked: Shard | None = None
        self.writer = Writer(store)
        self._simulated: Stream | None = None
        if self._missing:
            self._check_that_missing_can_be_made(examples)
            remove_old_temporaries(store.folder, STALE_SECONDS)
            self._simulated = open_simulating_stream(source, settings, self._missing, NO_REDRAWS, while_waiting)
        if examples:
            logger.info("%d of %d examples are in %s", len(examples) - len(missing), len(examples), store.folder)

    @property
    def simulators(self) -> int | None:
        """How many examples are simulated at a time for what the store lacks; None where others add it."""
        return None if self._simulated is None else self._simulated.simulators

    def _check_that_missing_can_be_made(self, examples: range) -> None:
        folder, argument = self._store.folder, self._store.argument
        if self._source.simulator is None:
            raise ValueError(
                f"{argument}: {str(folder)!r} lacks {len(self._missing)} of the {len(examples)} examples "
                f"{examples[0]} to {examples[-1]} that are wanted: {self._missing}; give a simulator, ask for fewer, "
                "or add them with definetti_np.simulate"
            )
        check_folder(folder, argument)

    def next_batch(self, size: int, while_waiting: Waiting = PATIENT) -> tuple[MultisetBatch, np.ndarray]:
        """Return the next `size` examples, read or simulated; see `Stream.next_batch`."""
        indices = self._next_indices(size)
        pieces = list(self._pieces(indices, while_waiting))
        self._next += size
        reasons = [reason for piece in pieces for reasons in piece.redraws for reason in reasons]
        self._redraws.count_reasons(reasons, indices[-1] + 1)
        return join_batches([piece.data for piece in pieces]), np.concatenate([piece.labels for piece in pieces])

    def _take(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example]:
        examples = [example for piece in self._pieces(indices, while_waiting) for example in piece.examples()]
        self._next += len(indices)
        return examples

    def _take_again(self, indices: Sequence[int], while_waiting: Waiting) -> list[Example | None]:
        return [None for _ in indices]

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
                self._source.spec.context.check_rows(piece.data.rows, self._name_of_row)
            elif self._store.follow:
                self._wait_for(index, while_waiting)
                continue
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

    def _wait_for(self, index: int, while_waiting: Waiting) -> None:
        """Wait until somebody has added an example. A folder that cannot be read may be so for a moment only."""
        logger.info("waiting for example %d, which %s does not hold yet", index, self._store.folder)
        start, quiet, problem = time.monotonic(), QUIET_SECONDS, ""
        while self._store.shard_of(index) is None:
            looked = time.monotonic()
            if looked - start > quiet:
                quiet *= 2
                logger.warning(
                    "nobody has added example %d to %s in %.0f s; it holds the examples %s%s",
                    index, self._store.folder, looked - start, self._store.examples, problem,
                )  # fmt: skip
            for _ in range(max(1, round(LOOK_SECONDS / TICK_SECONDS))):
                while_waiting()
                time.sleep(TICK_SECONDS)
            try:
                self._store.look()
            except OSError as error:
                problem = f"; the last problem was {error}"
            self._store.compare()

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
                f"{sizes[place]} rows, input_shape is {spec.input_shape}, and the network takes {spec.fewest_rows} "
                "rows at least; choose another folder or input_shape"
            )
        check_labels(shard.labels, self._source.loss, f"{self._store.argument}: a label", spec.box)
        self._checked = shard

    def _name_of_row(self, row: int) -> str:
        return f"{self._store.argument}: data"

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
        if self._closing:
            return
        super().close()
        try:
            self.writer.close()
        finally:
            if self._simulated is not None:
                self._simulated.close()
        if unwritten := self.writer.unwritten:
            logger.warning(
                "%s: examples %s of seed %d could not be written to %s: %s; definetti_np.simulate makes them again "
                "and writes them when it can be written to",
                self._store.argument, unwritten, self._store.key.seed, self._store.folder, self.writer.error,
            )  # fmt: skip


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


def join_batches(batches: Sequence[MultisetBatch]) -> MultisetBatch:
    """Put batches together, in order."""
    if len(batches) == 1:
        return batches[0]
    starts = np.cumsum([0, *(len(batch.rows) for batch in batches)])
    offsets = [batch.offsets[1:] + start for batch, start in zip(batches, starts, strict=False)]
    return MultisetBatch(
        np.concatenate([batch.rows for batch in batches]),
        np.concatenate([batch.counts for batch in batches]),
        np.concatenate([[0], *offsets]),
    )
