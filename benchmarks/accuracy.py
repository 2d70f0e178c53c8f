"""What tells hotspots best? The example's network, the published one, the same in PyTorch, and gradient boosting.

    python benchmarks/accuracy.py --folder simulations --seeds 1 2 3 --examples 25000
    python benchmarks/accuracy.py --folder simulations --snps 64 --contenders published example-reuse boosting

All train on the same simulations and are tried on the same 5,000 others. The folder keeps them: what it has is not
simulated again. Boosting (scikit-learn) gets the numbers that the example's network has as its context, and the
distances of the SNPs. "cosine" lets the learning rate fall and mirrors examples at random; "reuse" takes steps on
earlier examples too.
"""

import argparse
import functools
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import peers
from simulations import Simulations, find_files, predict, train_network

sys.path.insert(0, str(common.EXAMPLE))
import simulator_example
from run_example import PUBLISHED

from definetti_np import augment
from definetti_np.context import check_context
from definetti_np.cores import available_cores
from definetti_np.engine.context import compute_context
from definetti_np.kernels._jit import threads as kernel_threads
from definetti_np.seeds import example_seed

HELD_OUT, HELD_OUT_SEED = 5_000, 999
FALSE_CALLS = 0.01  # the share of flat regions that is called, where power is reported
HEATS = (10, 20, 40, 100)
BACKGROUNDS = (0, 1, 3, np.inf)  # cM/Mb


# Contenders: functions (train, test, seed, options) to the probability of a hotspot and the seconds of training


def train_ours(published: bool, more: str, train: Simulations, test: Simulations, seed: int, options):
    """Ours; with a cosine schedule the examples are mirrored at random, and with reuse so are the earlier ones."""
    cosine = {"schedule": "cosine", "augment": augment.mirror(1)}
    extras = {"": {}, "cosine": cosine, "reuse": {**cosine, "reuse": options.reuse}}[more]
    network = PUBLISHED if published else common.example_network(options.snps)
    trained, seconds = train_network({**train.shapes, **network}, train, seed, options.threads, **extras)
    return predict(trained, test)[:, 1], seconds


def train_torch(train: Simulations, test: Simulations, seed: int, options):
    """PyTorch with the published network, from the weights that ours begins with, eager and channels last."""
    first = next(train.parts())
    job = peers.Job.of({**train.shapes, **PUBLISHED}, [train.dense(first)], [train.labels[first]], seed)
    start = time.perf_counter()
    network = peers.Torch(job, ("channels_last", "amax", "eager"), options.threads)
    for part in train.parts():
        network.data[0] = network.torch.from_numpy(train.dense(part))
        network.labels[0] = network.torch.from_numpy(train.labels[part])
        network.step(0)
    seconds = time.perf_counter() - start
    probabilities = []
    for part in test.parts():
        network.data[0] = network.torch.from_numpy(test.dense(part))
        probabilities.append(network.predict(0)[:, 1])
    return np.concatenate(probabilities), seconds


def train_boosting(train: Simulations, test: Simulations, seed: int, options):
    """Gradient boosting on summary statistics, with the settings that did best of five that were tried."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    start = time.perf_counter()
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=1000, max_features=0.2, early_stopping=True, random_state=seed
    )
    trees.fit(statistics(train), train.labels[:, 1])
    seconds = time.perf_counter() - start
    return trees.predict_proba(statistics(test))[:, 1], seconds


def statistics(simulations: Simulations) -> np.ndarray:
    """The context at each SNP and the distances, (B, numbers)."""
    _, snps, channels = simulations.shapes["input_shape"]
    context = check_context(common.example_network(snps)["context"], snps, channels)
    numbers = [compute_context(context, batch).reshape(len(batch), -1) for batch in simulations.batches()]
    return np.concatenate([np.concatenate(numbers), simulations.distances], axis=1)


CONTENDERS = {
    "published": functools.partial(train_ours, True, ""),
    "published-reuse": functools.partial(train_ours, True, "reuse"),
    "example": functools.partial(train_ours, False, ""),
    "example-cosine": functools.partial(train_ours, False, "cosine"),
    "example-reuse": functools.partial(train_ours, False, "reuse"),
    "boosting": train_boosting,
    "torch": train_torch,
}
NEEDS = {"boosting": ("sklearn", "scikit-learn"), "torch": ("torch", "torch")}


# What they are worth


def find_hotspots(folder: Path, snps: int) -> Callable:
    """A function (seed, number, workers) that finds or makes the files of simulations in a folder."""
    name = "hotspots" if snps == 24 else f"hotspots_{snps}"
    return functools.partial(find_files, folder, name, functools.partial(common.hotspot_simulator, snps))


def facts_of(seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The background rates, in cM/Mb, and the heats that the simulator has drawn for examples of a seed."""
    rates = simulator_example.read_rates(common.EXAMPLE / "genetic_map.txt")
    drawn = [
        simulator_example.draw_parameters(*rates, np.random.default_rng(example_seed(seed, i))) for i in range(number)
    ]
    return np.array([background * 1e8 for _, background, _ in drawn]), np.array([heat for _, _, heat in drawn])


def measure(probabilities: np.ndarray, is_hotspot: np.ndarray, seconds: float, slices: dict) -> dict[str, float]:
    """The numbers of a contender; power is the share of hotspots called where `FALSE_CALLS` of flat regions are."""
    of_label = np.where(is_hotspot, probabilities, 1 - probabilities)
    flat = np.sort(probabilities[~is_hotspot])
    above = np.searchsorted(flat, probabilities[is_hotspot]) + np.searchsorted(flat, probabilities[is_hotspot], "right")
    is_called = probabilities > np.quantile(flat, 1 - FALSE_CALLS)
    return {
        "accuracy": np.mean((probabilities > 0.5) == is_hotspot),
        "cross-entropy": -np.mean(np.log(np.maximum(of_label, 1e-30))),
        "area": np.mean(above) / (2 * len(flat)),
        "seconds": seconds,
        **{name: np.mean(is_called[chosen & is_hotspot]) for name, chosen in slices.items()},
    }


def slices_of(seed: int, number: int) -> dict[str, np.ndarray]:
    """Which examples have a heat, and a background rate, in each range."""
    background, heat = facts_of(seed, number)
    slices = {f"heat {a}-{b}": (a <= heat) & (heat < b) for a, b in itertools.pairwise(HEATS)}
    return slices | {f"{a}-{b} cM/Mb": (a <= background) & (background < b) for a, b in itertools.pairwise(BACKGROUNDS)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("simulations"), help="where the simulations are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=25_000, help="to train on, for each seed")
    parser.add_argument("--snps", type=int, default=24, help="of the windows, as the original has them")
    parser.add_argument("--reuse", type=int, default=9, help="more steps after each batch, where there is reuse")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in options.contenders:
        if name in NEEDS and importlib.util.find_spec(NEEDS[name][0]) is None:
            sys.exit(f"{name} needs {NEEDS[name][1]}: pip install {NEEDS[name][1]}, or choose other --contenders")

    common.show_machine()
    with kernel_threads(options.threads):
        find = find_hotspots(options.folder, options.snps)
        test = Simulations(find(HELD_OUT_SEED, HELD_OUT, options.threads), HELD_OUT)
        is_hotspot, slices = test.labels[:, 1] == 1, slices_of(HELD_OUT_SEED, HELD_OUT)
        results = {name: [] for name in options.contenders}
        for seed in options.seeds:
            train = Simulations(find(seed, options.examples, options.threads), options.examples)
            for name in options.contenders:
                probabilities, seconds = CONTENDERS[name](train, test, seed, options)
                found = measure(probabilities, is_hotspot, seconds, slices)
                results[name].append(found)
                shown = "  ".join(f"{key} {value:.4g}" for key, value in found.items())
                print(f"{name:<16} seed {seed}  {shown}", flush=True)
    common.show_table(results)
    common.save(options.json, results)


if __name__ == "__main__":
    main()
