"""Does the hotspot network learn as it should? Accuracy on 3,000 fresh simulations while it trains.

    python benchmarks/learning.py --seeds 1 2 3

The same network in PyTorch, with the same initialisation, optimiser and simulations, reached accuracies of 0.807,
0.850, 0.894, 0.889, 0.900 and cross-entropies of 0.451, 0.346, 0.256, 0.259, 0.235 after 100, 200, ..., 500 batches.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

sys.path.insert(0, str(Path(__file__).parents[1] / "example"))
import simulator_example

NETWORK = {
    "input_shape": simulator_example.INPUT_SHAPE,
    "output_shape": simulator_example.OUTPUT_SHAPE,
    "phi_net": [("conv", 5, 32), ("conv", 5, 64)],
    "g": ("top_k", 1),
    "h_net": [("fc", 128), ("fc", 128), ("softmax",)],
}
BATCH_SIZE = 50
FRESH = 3000
FRESH_SEED = 20_000_000


def open_stream(seed, examples, workers):
    rates, probabilities = simulator_example.read_rates(Path(simulator_example.__file__).with_name("genetic_map.txt"))
    spec = network_spec(**NETWORK)
    source = ExampleSource(
        lambda rng: simulator_example.simulate_data(rates, probabilities, rng), seed, spec, "cross-ent"
    )
    return WorkerStream(source, StreamSettings(workers), range(examples))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--num-batches", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    with open_stream(FRESH_SEED, FRESH, options.workers) as stream:
        parts = [stream.next_batch(BATCH_SIZE) for _ in range(FRESH // BATCH_SIZE)]
    for seed in options.seeds:
        with open_stream(seed, options.num_batches * BATCH_SIZE, options.workers) as stream:
            from definetti_np import Network, Trainer  # after the fork: they load Numba

            network = Network(**NETWORK, seed=seed)
            trainer = Trainer(network)
            for batch in range(1, options.num_batches + 1):
                trainer.step(*stream.next_batch(BATCH_SIZE))
                if batch % 100 == 0:
                    accuracy, loss = evaluate(network, parts)
                    print(f"seed {seed}, batch {batch}: accuracy {accuracy:.3f}, cross-entropy {loss:.3f}", flush=True)


def evaluate(network, parts):
    probabilities = np.concatenate([network(data) for data, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    accuracy = np.mean(probabilities.argmax(axis=1) == labels.argmax(axis=1))
    return accuracy, -np.mean(np.log(probabilities[labels == 1]))


if __name__ == "__main__":
    main()
