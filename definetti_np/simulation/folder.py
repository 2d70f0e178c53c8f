"""`Simulations`: what a folder of simulations holds, for a person who looks into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..multiset import MultisetBatch
from .ranges import Ranges
from .store import Store, find_key
from .store_stream import join_batches


class Simulations:
    """The simulations in a folder that `train` or `simulate` has filled.

    Example i has the index that it has in every run of this seed; some indices may be missing. ``simulations[i]`` is
    example i as a tuple (data, label) of arrays (n, W, C) and (N,), float32, where the rows stand in an order of their
    own; iteration goes through all examples that are there.

    Parameters
    ----------
    folder
        The folder.

    Attributes
    ----------
    folder
        Its path.
    simulator, simulations_version, seed
        What the examples were simulated with: the name of the simulator, its version or None, the seed.
    row_shape, output_shape
        Shapes (W, C) of a row and (N,) of a label.

    Raises
    ------
    ValueError
        If the folder holds no simulations, or several kinds of them.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).expanduser().absolute()
        if not os.path.isdir(self.folder):
            raise ValueError(f"folder: {str(self.folder)!r} is no folder; definetti_np.simulate makes and fills one")
        key = find_key(self.folder, "folder")
        if key is None:
            raise ValueError(f"folder: {str(self.folder)!r} holds no simulations; definetti_np.simulate adds them")
        self.simulator, self.simulations_version, self.seed = key.simulator, key.version, key.seed
        self.row_shape, self.output_shape = key.row_shape, key.output_shape
        self._store = Store(self.folder, key, "folder")

    @property
    def ranges(self) -> list[range]:
        """The indices of the examples that are there, as disjoint ranges in order."""
        return list(self._store.examples.ranges)

    @property
    def holes(self) -> list[range]:
        """The indices that are missing before the last example."""
        return self._holes.ranges

    @property
    def _holes(self) -> Ranges:
        there = self._store.examples
        return there.missing(range(there[-1] + 1 if there else 0))

    @property
    def labels(self) -> np.ndarray:
        """The labels of all examples that are there, (examples, N) float32, in the order of their indices."""
        labels = [shard.labels[start - shard.start : stop - shard.start] for shard, start, stop in self._store.pieces()]
        return np.concatenate([np.zeros((0, *self.output_shape), np.float32), *labels])

    @property
    def info(self) -> dict[str, object]:
        """What `print` says, as a dict."""
        files = self._store.files
        size = sum(file.path.stat().st_size for file in files)
        return {
            "folder": str(self.folder),
            "simulator": self.simulator,
            "simulations_version": self.simulations_version,
            "seed": self.seed,
            "row_shape": self.row_shape,
            "output_shape": self.output_shape,
            "examples": len(self),
            "ranges": self.ranges,
            "holes": self.holes,
            "files": len(files),
            "bytes": size,
        }

    def __len__(self) -> int:
        return len(self._store.examples)

    def __contains__(self, index: object) -> bool:
        return index in self._store.examples

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch, labels = self.batch(index, index + 1)
        return np.repeat(batch.rows, batch.counts, axis=0), labels[0]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in self._store.examples:
            yield self[index]

    def batch(self, start: int, stop: int) -> tuple[MultisetBatch, np.ndarray]:
        """Return the examples `start` to ``stop - 1`` as a batch, and their labels (B, N).

        Raises
        ------
        IndexError
            If one of them is missing; the message says which there are.
        """
        batches, labels, index = [], [], start
        while index < stop:
            found = self._store.shard_of(index) if index >= 0 else None
            if found is None:
                raise IndexError(f"example {index} is not in {str(self.folder)!r}, which holds {self._store.examples}")
            shard, end = found[0], min(found[1], stop)
            batches.append(shard.batch(index, end))
            labels.append(shard.labels[index - shard.start : end - shard.start])
            index = end
        if not batches:
            raise IndexError(f"stop must be larger than start, got start={start} and stop={stop}")
        return join_batches(batches), np.concatenate(labels)

    def check(self) -> None:
        """Read every file, and raise a ValueError that names those that are damaged, cannot be read or contradict."""
        if damaged := self._store.damaged_files():
            reasons = "; ".join(f"{path}: {reason}" for path, reason in damaged)
            raise ValueError(f"folder: {len(damaged)} files cannot be read: {reasons}; remove them, and simulate again")
        self._store.compare()

    def __repr__(self) -> str:
        info = self.info
        version = "" if self.simulations_version is None else f" version {self.simulations_version}"
        holes = f", without {self._holes}" if self.holes else ""
        per_example = f", {info['bytes'] / len(self):.0f} bytes each" if len(self) else ""  # type: ignore[operator]
        return (
            f"Simulations({str(self.folder)!r}): {len(self):,} examples ({self._store.examples}{holes}) of simulator "
            f"{self.simulator}{version}, seed {self.seed}, rows {self.row_shape}, labels {self.output_shape}"
            f"{per_example}"
        )
