"""What does each use of a simulation add? Cross-entropy on 5,000 fresh hotspot simulations, after so many of training.

    python benchmarks/learning.py simulate FOLDER             # once: 3 x 25,000 to train on, 5,000 to test on; hours
    python benchmarks/learning.py train FOLDER --seeds 1 2 3

Training reads the simulations from the folder, so that all variants see the same ones, in the same order.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import common
import numpy as np

from definetti_np import augment
from definetti_np.multiset import MultisetBatch, distinct_rows
from definetti_np.reuse import Memory, augment_batch
from definetti_np.schedules import StepSettings
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import PATIENT, StreamSettings, take_batches
from definetti_np.specs import network_spec

FRESH, FRESH_SEED = 5000, 20_000_000
IN_FILE = 5000
VARIANTS = {
    "once": {},
    "once, cosine": {"schedule": "cosine"},
    "reuse 9": {"reuse": 9},
    "reuse 9, cosine": {"reuse": 9, "schedule": "cosine"},
    "reuse 9, mirror": {"reuse": 9, "augment": augment.mirror()},
    "reuse 9, mirror, cosine": {"reuse": 9, "augment": augment.mirror(), "schedule": "cosine"},
    "reuse 9, mirror, averaging": {"reuse": 9, "augment": augment.mirror(), "averaging": 0.999},
    "reuse 9, mirror, cosine, averaging": {
        "reuse": 9, "augment": augment.mirror(), "schedule": "cosine", "averaging": 0.999,
    },
    "reuse 19, mirror, cosine": {"reuse": 19, "augment": augment.mirror(), "schedule": "cosine"},
    "reuse 19": {"reuse": 19},
    "reuse 9, mirror, cosine, rate 0.002": {
        "reuse": 9, "augment": augment.mirror(), "schedule": "cosine", "learning_rate": 0.002,
    },
}  # fmt: skip


def simulate(folder: Path, seed: int, number: int, workers: int) -> None:
    """Write examples 0 to number - 1 of a seed, `IN_FILE` a file."""
    source = ExampleSource(common.hotspot_simulator(), seed, network_spec(**common.HOTSPOT), "cross-ent")
    for start in range(0, number, IN_FILE):
        examples = range(start, min(start + IN_FILE, number))
        parts = list(take_batches(source, StreamSettings(workers), examples, common.BATCH_SIZE, PATIENT))
        data = [np.repeat(p.rows, p.counts, axis=0).reshape(-1, *common.HOTSPOT["input_shape"]) for p, _ in parts]
        data, labels = np.concatenate(data), np.concatenate([labels for _, labels in parts])
        alleles, distances = np.packbits(data[..., 0].astype(np.uint8), axis=2), data[:, 0, :, 1]
        path = folder / f"{seed}_{start // IN_FILE}.npz"
        np.savez(path, alleles=alleles, distances=distances, labels=labels)
        print(f"{path}: {len(labels)} examples", flush=True)


def read(folder: Path, seed: int, number: int) -> tuple[list, np.ndarray]:
    """The (distinct rows, counts) of the first examples of a seed, and their labels (number, 2)."""
    datasets, labels = [], []
    for part in range(-(-number // IN_FILE)):
        with np.load(folder / f"{seed}_{part}.npz") as file:
            alleles, distances = np.unpackbits(file["alleles"], axis=2), file["distances"]
            labels.append(file["labels"])
        for of_one, gaps in zip(alleles, distances, strict=True):
            data = np.empty((*of_one.shape, 2), np.float32)
            data[..., 0], data[..., 1] = of_one, gaps
            datasets.append(distinct_rows(data))
    return datasets[:number], np.concatenate(labels)[:number]


def train(simulations, seed: int, evaluate, threads, *, reuse=0, augment=None, schedule="constant", **options):
    """Train as `definetti_np.train` does; return results at the end, the running means of losses, and the times."""
    from definetti_np import Network, Trainer

    datasets, labels = simulations
    size, steps = common.BATCH_SIZE, len(datasets) // common.BATCH_SIZE * (1 + reuse)
    settings = StepSettings(schedule=schedule, **options)
    trainer = Trainer(Network(**common.HOTSPOT, seed=seed), threads=threads, **settings.for_trainer())
    memory, losses, seconds = Memory(seed, size, None), {"fresh": [], "reused": []}, {"preparing": 0.0, "steps": 0.0}
    for step in range(steps):
        clock = [time.perf_counter()]
        if step % (1 + reuse) == 0:
            first = step // (1 + reuse) * size
            batch = MultisetBatch.from_distinct(datasets[first : first + size]), labels[first : first + size]
            memory.add(*batch)
        else:
            batch = memory.draw(step)
        data = batch[0] if augment is None else augment_batch(augment, batch[0], seed=seed, step=step)
        clock.append(time.perf_counter())
        trainer.optimizer.learning_rate = settings.rate_at(step, steps)
        loss, _ = trainer.step(data, batch[1])
        clock.append(time.perf_counter())
        losses["reused" if step % (1 + reuse) else "fresh"].append(loss)
        for name, (start, stop) in zip(seconds, itertools.pairwise(clock), strict=True):
            seconds[name] += stop - start
    trainer.use_average()
    return evaluate(trainer.network), losses, seconds


def evaluator(fresh):
    """A function of a network: its cross-entropy and accuracy on fresh simulations."""
    datasets, labels = fresh
    parts = [MultisetBatch.from_distinct(datasets[i : i + 100]) for i in range(0, len(datasets), 100)]

    def evaluate(network):
        probabilities = np.concatenate([network(part) for part in parts])
        return -np.mean(np.log(probabilities[labels == 1])), np.mean(probabilities.argmax(1) == labels.argmax(1))

    return evaluate


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["simulate", "train"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--number", type=int, default=25_000, help="simulations to train on")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of the training; default: all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    common.show_machine()
    if options.what == "simulate":
        for seed, number in [(FRESH_SEED, FRESH), *((seed, options.number) for seed in options.seeds)]:
            simulate(options.folder, seed, number, options.workers)
        sys.exit()
    evaluate, results = evaluator(read(options.folder, FRESH_SEED, FRESH)), {}
    simulations = {seed: read(options.folder, seed, options.number) for seed in options.seeds}
    for name in options.variants:
        found = []
        for seed in options.seeds:
            (loss, accuracy), losses, seconds = train(
                simulations[seed], seed, evaluate, options.threads, **VARIANTS[name]
            )
            means = ", ".join(
                f"{key} {np.mean(values[-len(values) // 10 :]):.3f}" for key, values in losses.items() if values
            )
            times = ", ".join(f"{key} {value:.1f} s" for key, value in seconds.items())
            print(
                f"  {name}, seed {seed}: {loss:.4f}, accuracy {accuracy:.4f}; last tenth: {means}; {times}", flush=True
            )
            found.append((loss, accuracy))
        loss, accuracy = np.mean(found, axis=0)
        spread = np.std(found, axis=0, ddof=1)[0] if len(found) > 1 else np.nan
        print(
            f"{name}: cross-entropy {loss:.4f} (standard deviation {spread:.4f}), accuracy {accuracy:.4f}", flush=True
        )
        results[name] = found
    common.save(options.json, results)


if __name__ == "__main__":
    main()
