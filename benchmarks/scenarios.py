"""Two other questions with and without context: three histories of a population, and normal distributions.

    python benchmarks/scenarios.py --folder simulations --seeds 1 2 3

Histories: a population of constant size, one after a bottleneck, or a sweep of a beneficial allele in the middle; which
is it, of 64 haplotypes of 40 SNPs? Normal: the mean and the standard deviation of 100 draws, as in the README. The
folder keeps the histories, because they take a while.
"""

import argparse
import functools
from pathlib import Path

import common
import msprime
import numpy as np
from simulations import Simulations, find_files, predict, train_network

from definetti_np import Network, Trainer, augment
from definetti_np.cores import available_cores
from definetti_np.kernels._jit import threads as kernel_threads
from definetti_np.seeds import example_seed

HISTORIES = ("constant", "bottleneck", "sweep")
HAPLOTYPES, SNPS, LENGTH = 64, 40, 100_000
NE, RATE_PER_BP = 1e4, 1.25e-8  # of mutation and of recombination
HELD_OUT, HELD_OUT_SEED = 5_000, 999
SHAPES = {"input_shape": (HAPLOTYPES, SNPS, 2), "output_shape": (3,), "h_net": [("fc", 128), ("fc", 128), ("softmax",)]}
WINDOWS = ("distinct", 4, 10, 20, 40), ("effective", 4, 10, 20, 40)
PAIRS = ("ld", 2, 4, 20), ("four_gametes", 2, 4, 20)
PUBLISHED = {"phi_net": [("conv", 5, 32), ("conv", 5, 64)], "g": ("max",)}
SMALL = {"phi_net": [("conv", 1, 64)], "g": ("max",)}
HISTORY_NETWORKS = {
    "published": PUBLISHED,
    "published, all context": {**PUBLISHED, "context": [*WINDOWS, ("frequency",), *PAIRS]},
    "small, all context": {**SMALL, "context": [*WINDOWS, ("frequency",), *PAIRS]},
    "small, windows and frequency": {**SMALL, "context": [*WINDOWS, ("frequency",)]},
    "small, windows": {**SMALL, "context": list(WINDOWS)},
    "small, frequency": {**SMALL, "context": [("frequency",)]},
}


def mean_and_deviation(rows, counts):
    """A function of a user's, (W, 2)."""
    mean = np.average(rows[..., 0], axis=0, weights=counts)
    deviation = np.sqrt(np.average((rows[..., 0] - mean) ** 2, axis=0, weights=counts))
    return np.stack([mean, deviation], axis=1)


DENSE = {"phi_net": [("fc", 64), ("fc", 64)], "h_net": [("fc", 64), ("matmul",)]}
NORMAL_NETWORKS = {
    "the README's, g=moments": {**DENSE, "g": ("moments", 1, 2)},
    "with moments as context": {**DENSE, "g": ("moments", 1, 2), "context": [("moments", 1, 2)]},
    "with a function as context": {**DENSE, "g": ("moments", 1, 2), "context": [mean_and_deviation]},
    "g=max": {**DENSE, "g": ("max",)},
    "g=max and moments": {**DENSE, "g": [("max",), ("moments", 1, 2)]},
}


def simulate_history(rng):
    """Draw data (64, 40, 2), minor alleles and distances of SNPs, and the one-hot label of a history."""
    history = int(rng.integers(3))
    while True:
        try:
            return common.with_distances(*common.middle_snps(simulate_trees(history, rng), SNPS)), np.eye(3)[history]
        except ValueError:  # too few SNPs on a side of the middle
            continue


def simulate_trees(history: int, rng):
    seeds = rng.choice(2**31 - 1, 2, replace=False) + 1
    demography, models = msprime.Demography.isolated_model([NE]), [msprime.StandardCoalescent()]
    if HISTORIES[history] == "bottleneck":
        start, duration = rng.uniform(200, 2000), rng.uniform(200, 1000)  # generations
        demography.add_population_parameters_change(time=start, initial_size=NE * rng.uniform(0.02, 0.2))
        demography.add_population_parameters_change(time=start + duration, initial_size=NE)
    if HISTORIES[history] == "sweep":
        sweep = msprime.SweepGenicSelection(
            position=LENGTH / 2, start_frequency=1 / (2 * NE), end_frequency=1 - 1 / (2 * NE),
            s=rng.uniform(0.01, 0.1), dt=1 / (40 * NE),
        )  # fmt: skip
        models = [msprime.StandardCoalescent(duration=rng.uniform(1, 3000)), sweep, msprime.StandardCoalescent()]
    trees = msprime.sim_ancestry(
        HAPLOTYPES // 2, demography=demography, sequence_length=LENGTH, recombination_rate=RATE_PER_BP, model=models,
        random_seed=seeds[0],
    )  # fmt: skip
    return msprime.sim_mutations(
        trees, rate=RATE_PER_BP, model=msprime.BinaryMutationModel(), discrete_genome=False, random_seed=seeds[1]
    )


def make_simulator():
    return simulate_history


def try_histories(options) -> dict:
    """Accuracy and cross-entropy of each network, and the share of each history that it finds."""
    find = functools.partial(find_files, options.folder, "histories", make_simulator)
    test = Simulations(find(HELD_OUT_SEED, HELD_OUT, options.threads), HELD_OUT)
    results = {name: [] for name in HISTORY_NETWORKS}
    for seed in options.seeds:
        train = Simulations(find(seed, options.examples, options.threads), options.examples)
        for name, network in HISTORY_NETWORKS.items():
            trained, seconds = train_network(
                {**SHAPES, **network}, train, seed, options.threads,
                schedule="cosine", reuse=options.reuse, augment=augment.mirror(distances=1),
            )  # fmt: skip
            probabilities, wanted = predict(trained, test), test.labels.argmax(axis=1)
            found = probabilities.argmax(axis=1) == wanted
            shares = {f"{history} found": found[wanted == h].mean() for h, history in enumerate(HISTORIES)}
            loss = -np.log(np.maximum(probabilities[test.labels == 1], 1e-30)).mean()
            results[name].append({"accuracy": found.mean(), "cross-entropy": loss, **shares, "seconds": seconds})
    return results


def simulate_normal(rng):
    mu, sigma = rng.beta(5, 10), rng.uniform(6, 10)
    return rng.normal(mu, sigma, (100, 1)).astype(np.float32), np.array([mu, sigma])


def try_normal(options) -> dict:
    """Squared errors; those of the mean are hardly below its variance in the prior, which is 0.014."""

    def examples(seed, first, number):
        drawn = [simulate_normal(np.random.default_rng(example_seed(seed, i))) for i in range(first, first + number)]
        return np.array([data for data, _ in drawn]), np.array([label for _, label in drawn])

    data, wanted = examples(HELD_OUT_SEED, 0, HELD_OUT)
    results = {name: [] for name in NORMAL_NETWORKS}
    for seed in options.seeds:
        for name, description in NORMAL_NETWORKS.items():
            network = Network((100, 1), (2,), **description, seed=seed)
            trainer = Trainer(network, loss="l2", accuracy=None, threads=options.threads)
            for batch in range(1000):
                trainer.step(*examples(seed, 50 * batch, 50))
            errors = ((network(data) - wanted) ** 2).mean(axis=0)
            results[name].append({"error of mean": errors[0], "error of deviation": errors[1], "both": errors.sum()})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("simulations"), help="where the simulations are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=10_000, help="histories to train on, for each seed")
    parser.add_argument("--reuse", type=int, default=4, help="more steps after each batch")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    common.show_machine()
    with kernel_threads(options.threads):
        results = {"normal": try_normal(options), "histories": try_histories(options)}
    for found in results.values():
        common.show_table(found)
    common.save(options.json, results)


if __name__ == "__main__":
    main()
