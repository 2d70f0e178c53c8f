"""What does each use of a simulation add? Cross-entropy on 5,000 fresh hotspot simulations, after so many of training.

    python benchmarks/learning.py --folder simulations --seeds 1 2 3

All variants train on the same simulations in the same order. The folder keeps them, as for accuracy.py: what it has is
not simulated again.
"""

import argparse
import functools
from pathlib import Path

import common
import numpy as np
from accuracy import HELD_OUT, HELD_OUT_SEED
from simulations import Simulations, find_files, predict, train_network

from definetti_np import augment
from definetti_np.cores import available_cores

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("simulations"), help="where the simulations are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=25_000, help="to train on, for each seed")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    common.show_machine()
    find = functools.partial(find_files, options.folder, "hotspots", common.hotspot_simulator)
    test = Simulations(find(HELD_OUT_SEED, HELD_OUT, options.threads), HELD_OUT)
    results: dict[str, list] = {name: [] for name in options.variants}
    for seed in options.seeds:
        train = Simulations(find(seed, options.examples, options.threads), options.examples)
        for name in options.variants:
            model, seconds = train_network(common.HOTSPOT, train, seed, options.threads, **VARIANTS[name])
            probabilities = predict(model, test)
            loss = -np.mean(np.log(probabilities[test.labels == 1]))
            accuracy = np.mean(probabilities.argmax(axis=1) == test.labels.argmax(axis=1))
            print(f"{name}, seed {seed}: {loss:.4f}, accuracy {accuracy:.4f}, {seconds:.1f} s", flush=True)
            results[name].append((loss, accuracy))
    for name, found in results.items():
        (loss, accuracy), spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=min(1, len(found) - 1))[0]
        print(f"{name}: cross-entropy {loss:.4f} (standard deviation {spread:.4f}), accuracy {accuracy:.4f}")
    common.save(options.json, results)


if __name__ == "__main__":
    main()
