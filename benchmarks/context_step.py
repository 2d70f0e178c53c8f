"""What context costs: training steps and predictions with and without it, in turn, and the context alone.

python benchmarks/context_step.py --threads 1 2
"""

import argparse
from pathlib import Path

import common
import numpy as np

from definetti_np import MultisetBatch, Network, Trainer
from definetti_np.context import check_context
from definetti_np.engine.context import compute_context
from definetti_np.kernels._jit import threads as kernel_threads

SHAPES = {key: common.HOTSPOT[key] for key in ("input_shape", "output_shape")}
NETWORK, CONTEXT = common.example_network(), common.NARROW_CONTEXT
PUBLISHED = {key: common.HOTSPOT[key] for key in ("phi_net", "g", "h_net")}
NETWORKS = {
    "published": PUBLISHED,
    "published, with context": {**PUBLISHED, "context": CONTEXT},
    "example, without context": {**NETWORK, "context": []},
    "example": NETWORK,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    common.show_machine()
    data, labels = common.hotspot_batches(options.batches, seed=1)
    batches = [MultisetBatch.from_datasets(part) for part in data]
    results = {}
    for threads in options.threads:
        trainers = {name: Trainer(Network(**SHAPES, **n, seed=1), threads=threads) for name, n in NETWORKS.items()}
        print(f"{threads} threads")
        with kernel_threads(threads):
            steps = {name: stepper(trainer, batches, labels) for name, trainer in trainers.items()}
            predictions = {f"{name}, prediction": predictor(t, batches) for name, t in trainers.items()}
            turns = {**steps, **predictions, "the context alone": context_alone(batches)}
            seconds = common.interleave(
                {name: lambda calls, f=function: common.time_calls(f, calls) for name, function in turns.items()},
                options.rounds,
                options.batches,
            )
        results[threads] = {name: common.show(name, values) for name, values in seconds.items()}
        for with_, without in (("published, with context", "published"), ("example", "example, without context")):
            for what in ("", ", prediction"):
                common.show_ratio(f"{with_}{what}: times as long", seconds[with_ + what], seconds[without + what])
        common.show_ratio("example: times the published", seconds["example"], seconds["published"])
        common.show_ratio(
            "example: times the published, prediction", seconds["example, prediction"], seconds["published, prediction"]
        )
    common.save(options.json, results)


def stepper(trainer: Trainer, batches: list[MultisetBatch], labels: list[np.ndarray]):
    return lambda i: trainer.step(batches[i], labels[i])


def predictor(trainer: Trainer, batches: list[MultisetBatch]):
    return lambda i: trainer.network(batches[i])


def context_alone(batches: list[MultisetBatch]):
    context = check_context(CONTEXT, *SHAPES["input_shape"][1:])
    return lambda i: compute_context(context, batches[i])


if __name__ == "__main__":
    main()
