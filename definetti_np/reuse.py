"""Reuse: a run remembers the newest of its examples, and draws batches of them to train on again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .augment import augment_rows, describe_augmentation
from .checks import as_integer
from .multiset import MultisetBatch
from .seeds import augment_rng, reuse_rng

MOST_BYTES = 2**30  # of examples that are held, if their number is not given

Batch = tuple[MultisetBatch, np.ndarray]


@dataclass(frozen=True)
class ReuseSettings:
    """The arguments of `train` that say how often an example is used; `checked` makes them of what a user gives."""

    reuse: int = 0
    reuse_capacity: int | None = None
    augment: Callable | None = None

    @classmethod
    def checked(cls, *, reuse: Any, reuse_capacity: Any, augment: Any, batch_size: int) -> ReuseSettings:
        """Check the arguments.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or does not go with another one.
        """
        reuse = as_integer(reuse, "reuse", minimum=0)
        if reuse_capacity is not None:
            reuse_capacity = as_integer(reuse_capacity, "reuse_capacity", minimum=1)
            if not reuse:
                raise ValueError(f"reuse_capacity needs reuse to be 1 at least, got reuse_capacity={reuse_capacity}")
            if reuse_capacity < batch_size:
                raise ValueError(
                    f"reuse_capacity must be at least batch_size, of which {batch_size} are drawn at once; got "
                    f"{reuse_capacity}"
                )
        if augment is not None and not callable(augment):
            raise TypeError(
                f"augment must be a function (rows, counts, rng) -> (rows, counts), such as those of "
                f"definetti_np.augment, or None; got {augment!r}"
            )
        return cls(reuse, reuse_capacity, augment)

    def describe(self) -> dict[str, Any]:
        """What differs from the defaults, for the description of a run."""
        augment = None if self.augment is None else describe_augmentation(self.augment)
        described = {"reuse": self.reuse, "reuse_capacity": self.reuse_capacity, "augment": augment}
        return {name: value for name, value in described.items() if value}


class Memory:
    """The newest examples of a run, of which batches are drawn at random: a function of the seed and the step alone.

    Parameters
    ----------
    seed
        The seed of the run.
    batch_size
        Examples in a batch.
    capacity
        How many examples are held at most; None for as many as take `MOST_BYTES`, a batch at least.
    first
        The index of the first example that will be added.

    Attributes
    ----------
    first
        The index of the first example that is kept; a memory to which the examples from there on are added draws the
        same batches.
    """

    def __init__(self, seed: int, batch_size: int, capacity: int | None, first: int = 0):
        self._seed, self._batch_size, self._capacity = seed, batch_size, capacity
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self.first = first
        self._stop = first

    @property
    def held(self) -> range:
        """The indices of the examples that are drawn from."""
        first = self.first if self._capacity is None else max(self.first, self._stop - self._capacity)
        return range(first, self._stop)

    @property
    def bytes(self) -> int:
        """The memory that the arrays of the examples take."""
        return self._bytes

    def add(self, data: MultisetBatch, labels: np.ndarray) -> None:
        """Remember a batch, and forget what is too old."""
        self._batches.append((data, labels))
        self._stop += self._batch_size
        self._bytes += _bytes_of(self._batches[-1])
        while len(self._batches) > 1 and self._is_superfluous():
            self._bytes -= _bytes_of(self._batches.popleft())
            self.first += self._batch_size

    def _is_superfluous(self) -> bool:
        """Whether the oldest batch is to go."""
        if self._capacity is None:
            return self._bytes > MOST_BYTES
        return self.first + self._batch_size <= self._stop - self._capacity

    def draw(self, step: int) -> Batch:
        """Draw the batch of a step, without replacement."""
        held = self.held
        drawn = held.start + reuse_rng(self._seed, step).choice(len(held), self._batch_size, replace=False)
        datasets, labels = [], []
        for index in drawn.tolist():
            number, place = divmod(index - self.first, self._batch_size)
            data, all_labels = self._batches[number]
            datasets.append(dataset_at(data, place))
            labels.append(all_labels[place])
        return MultisetBatch.from_distinct(datasets), np.stack(labels)


def dataset_at(data: MultisetBatch, place: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows and the counts of one dataset of a batch."""
    start, stop = data.offsets[place], data.offsets[place + 1]
    return data.rows[start:stop], data.counts[start:stop]


def augment_batch(augment: Callable, data: MultisetBatch, *, seed: int, step: int) -> MultisetBatch:
    """Apply an augmentation to each dataset of the batch of a step, with a generator of its own."""
    datasets = [
        augment_rows(augment, *dataset_at(data, place), augment_rng(seed, step, place)) for place in range(len(data))
    ]
    return MultisetBatch.from_distinct(datasets)


def _bytes_of(batch: Batch) -> int:
    data, labels = batch
    return data.rows.nbytes + data.counts.nbytes + data.offsets.nbytes + labels.nbytes
