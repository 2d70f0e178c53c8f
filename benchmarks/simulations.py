"""Simulations that a folder keeps, and training on them: what accuracy, errors, learning and scenarios share."""

import copy
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import BATCH_SIZE

from definetti_np import Model, MultisetBatch, simulate_example, train
from definetti_np.multiset import distinct_rows, merge_rows

PER_FILE = 5_000


def find_files(folder: Path, name: str, make: Callable, seed: int, examples: int, workers: int) -> list[Path]:
    """The files of a seed's examples; those that are missing are simulated with what ``make()`` returns."""
    paths = {first: folder / f"{name}_{seed}_from_{first}.npz" for first in range(0, examples, PER_FILE)}
    if missing := [first for first, path in paths.items() if not path.exists()]:
        print(f"Simulating {len(missing) * PER_FILE:,} examples of seed {seed} ...", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for first in missing:
                simulate = functools.partial(_simulate, make, seed)
                data, labels = zip(*pool.imap(simulate, range(first, first + PER_FILE), chunksize=50), strict=True)
                alleles, distances = np.moveaxis(np.array(data, np.float32), -1, 0)
                alleles = np.packbits(alleles.astype(np.uint8), axis=-1)
                np.savez(paths[first], alleles=alleles, distances=distances[:, 0], labels=np.array(labels, np.float32))
    return list(paths.values())


def _simulate(make: Callable, seed: int, index: int):
    return simulate_example(make(), seed=seed, index=index)


class Simulations:
    """Examples of alleles and distances, as dense data and as distinct rows with counts."""

    def __init__(self, files: list[Path], number: int):
        stored = [np.load(path) for path in files]
        self.alleles = np.concatenate([part["alleles"] for part in stored])[:number]
        self.distances = np.concatenate([part["distances"] for part in stored])[:number]
        self.labels = np.concatenate([part["labels"] for part in stored])[:number].astype(np.float32)
        self.rows = [distinct_rows(data) for part in self.parts() for data in self.dense(part)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arguments of a network that say what the data and the labels are."""
        rows, snps = self.alleles.shape[1], self.distances.shape[1]
        return {"input_shape": (rows, snps, 2), "output_shape": self.labels.shape[1:]}

    def changed(self, change: Callable) -> "Simulations":
        """The same examples with other rows: change(i, rows, counts) gives those of example i, not yet merged."""
        other = copy.copy(self)
        other.rows = [merge_rows(*change(i, *pair)) for i, pair in enumerate(self.rows)]
        return other

    def parts(self) -> Iterator[slice]:
        """Consecutive batches."""
        return (slice(i, i + BATCH_SIZE) for i in range(0, len(self.labels), BATCH_SIZE))

    def dense(self, part: slice) -> np.ndarray:
        """Data (B, n, W, 2) float32."""
        alleles = np.unpackbits(self.alleles[part], axis=-1)[..., : self.distances.shape[1]].astype(np.float32)
        distances = np.broadcast_to(self.distances[part][:, np.newaxis], alleles.shape)
        return np.stack([alleles, distances], axis=-1)

    def batches(self) -> Iterator[MultisetBatch]:
        return (MultisetBatch.from_distinct(self.rows[part]) for part in self.parts())

    def simulator(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A simulator whose example i is the one that is kept, for functions that take simulators."""
        index = rng.bit_generator.seed_seq.spawn_key[0]
        return np.repeat(*self.rows[index], axis=0), self.labels[index]


def train_network(
    description: dict, simulations: Simulations, seed: int, threads: int, **options
) -> tuple[Model, float]:
    """Train with `definetti_np.train`, and options of it, on these examples in order; return the model and seconds."""
    start = time.perf_counter()
    model = train(
        **description, simulator=simulations.simulator, num_batches=len(simulations.labels) // BATCH_SIZE,
        batch_size=BATCH_SIZE, sim_threads=0, training_threads=threads, check_randomness=False, logfile=None,
        seed=seed, **options,
    )  # fmt: skip
    return model, time.perf_counter() - start


def predict(model: Model, simulations: Simulations) -> np.ndarray:
    """Probabilities (B, N)."""
    return np.concatenate([model.predict(batch) for batch in simulations.batches()])
