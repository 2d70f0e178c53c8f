"""Time a training step of the hotspot network as layer lists and as a function, and what a residual connection costs.

    python benchmarks/custom_network.py --threads 1 2

The same data, weights and numbers of threads, in the same process and in turn. The function computes the same bits.
"""

import argparse
import functools

from common import HOTSPOT, hotspot_batches, interleave, show, show_machine, show_ratio, time_calls

from definetti_np import MultisetBatch, Network, Trainer, ops
from definetti_np.layers import Conv, Dense, Sequential

SHAPES = HOTSPOT["input_shape"], HOTSPOT["output_shape"]


def hotspot_function():
    phi = Sequential([Conv(5, 32), Conv(5, 64)])
    h = Sequential([Dense(128), Dense(128), Dense(2, activation=None)])
    return lambda x: ops.log_softmax(h(ops.max(phi(x))))


def residual_function():
    first, second = Conv(5, 32), Conv(5, 32, activation=None)
    third = Conv(1, 64)
    h = Sequential([Dense(128), Dense(128), Dense(2, activation=None)])

    def network(x):
        y = first(x)
        y = ops.relu(y[:, 2:-2] + second(y))
        return ops.log_softmax(h(ops.max(third(y))))

    return network


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each candidate (default 10)")
    parser.add_argument("--batches", type=int, default=4, help="batches, and steps in a turn (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations and weights (default 1)")
    options = parser.parse_args()

    show_machine()
    data, labels = hotspot_batches(options.batches, options.seed)
    batches = [MultisetBatch.from_datasets(d) for d in data]
    for threads in options.threads:
        print(f"\n{threads} thread(s)")
        compare(batches, labels, threads, options.rounds, options.seed)


def compare(batches, labels, threads: int, rounds: int, seed: int) -> None:
    networks = {
        "layer lists": Network(**HOTSPOT, seed=seed),
        "function": Network.from_function(*SHAPES, hotspot_function(), seed=seed),
        "function with a residual connection": Network.from_function(*SHAPES, residual_function(), seed=seed),
    }
    trainers = {name: Trainer(network, threads=threads) for name, network in networks.items()}
    steps = {name: lambda i, t=trainer: t.step(batches[i], labels[i])[0] for name, trainer in trainers.items()}
    losses = {name: step(0) for name, step in steps.items()}
    if losses["layer lists"] != losses["function"]:
        raise ValueError(f"the losses differ: {losses}")
    turns = {name: functools.partial(time_calls, step) for name, step in steps.items()}
    seconds = interleave(turns, rounds, len(batches))
    for name, values in seconds.items():
        show(name, values)
    show_ratio("layer lists / function", seconds["layer lists"], seconds["function"])


if __name__ == "__main__":
    main()
