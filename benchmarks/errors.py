"""What errors of genotypes and of phase cost: accuracy against their rate, by what the network was trained with.

    python benchmarks/errors.py --folder simulations --seeds 1 2 3 --json errors.json --figure docs/errors.png

The example's network is trained on simulations without errors, with errors of the right rate, and with a rate that is
drawn for each dataset, with a cosine schedule; and tried on 5,000 others with errors of each rate. The folder is that
of accuracy.py.
"""

import argparse
from pathlib import Path

import common
import numpy as np
from accuracy import HELD_OUT, HELD_OUT_SEED, PUBLISHED, find_hotspots
from simulations import Simulations, predict, train_network

from definetti_np import augment
from definetti_np.cores import available_cores
from definetti_np.kernels._jit import threads as kernel_threads

EXAMPLES = 25_000
KINDS = {
    "genotype errors": (augment.genotype_errors, (0, 0.0005, 0.001, 0.002, 0.005, 0.01)),
    "switch errors": (augment.switch_errors, (0, 0.005, 0.01, 0.02, 0.05)),
}


def with_errors(simulations: Simulations, errors) -> Simulations:
    """The same examples with errors, which are the same each time."""
    return simulations.changed(lambda i, rows, counts: errors(rows, counts, np.random.default_rng(i)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("simulations"), help="where the simulations are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="draw it, with matplotlib")
    options = parser.parse_args()
    common.show_machine()
    find = find_hotspots(options.folder, 24)
    results = {}
    with kernel_threads(options.threads):
        test = Simulations(find(HELD_OUT_SEED, HELD_OUT, options.threads), HELD_OUT)
        trained_on = [Simulations(find(seed, EXAMPLES, options.threads), EXAMPLES) for seed in options.seeds]
        for kind, (errors, rates) in KINDS.items():
            results[kind] = try_errors(errors, rates, test, trained_on, options)
            print(f"\n{kind}, accuracy", flush=True)
            common.show_table({name: [by_rate] for name, by_rate in results[kind].items()})
    common.save(options.json, results)
    if options.figure:
        draw(results, options.figure)


def try_errors(errors, rates: tuple, test: Simulations, trained_on: list[Simulations], options) -> dict:
    """The mean accuracy at each rate of networks that were trained with none, the right rate, and a range."""
    network = common.example_network()
    tests = {rate: with_errors(test, errors(rate)) for rate in rates}
    trained = {
        "the published network, none": (PUBLISHED, dict.fromkeys(rates, 0)),
        "none": (network, dict.fromkeys(rates, 0)),
        "the right rate": (network, {rate: rate for rate in rates}),
        "a range": (network, dict.fromkeys(rates, (0, rates[-1]))),
    }
    results = {}
    for name, (description, trained_with) in trained.items():
        accuracies = {rate: [] for rate in rates}
        for seed, train in zip(options.seeds, trained_on, strict=True):
            networks = {}
            for rate, test_with in tests.items():
                choice = trained_with[rate]
                if choice not in networks:
                    networks[choice], _ = train_network(
                        {**train.shapes, **description}, train, seed, options.threads,
                        schedule="cosine", augment=errors(choice) if choice else None,
                    )  # fmt: skip
                right = predict(networks[choice], test_with).argmax(axis=1) == test.labels.argmax(axis=1)
                accuracies[rate].append(right.mean())
        results[name] = {str(rate): float(np.mean(found)) for rate, found in accuracies.items()}
    return results


def draw(results: dict, path: Path) -> None:
    """Accuracy against the rate of errors, a panel for each kind."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, (kind, networks) in zip(axes, results.items(), strict=True):
        for name, by_rate in networks.items():
            style = "--" if "published" in name else "-"
            panel.plot([100 * float(rate) for rate in by_rate], list(by_rate.values()), style, marker="o", label=name)
        panel.set(xlabel=f"rate of {kind} in the data, %", title=kind)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy")
    axes[0].legend(title="trained with errors of", frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
