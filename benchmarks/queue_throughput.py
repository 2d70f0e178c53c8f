"""Time how many examples a second the worker queue delivers, against PyTorch's DataLoader.

    python benchmarks/queue_throughput.py --workers 2

The simulator picks one of 64 hotspot datasets that msprime simulated before the workers were forked, so that little
but the queues is measured: what they do to an example, transport and making batches of 50. The consumer does nothing
else. Both queues are opened, filled, read and closed in turn.
"""

import argparse
import sys
import time

import numpy as np
from common import BATCH_SIZE, HOTSPOT, show, show_machine, show_ratio, simulate_hotspots

from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import SerialStream, StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

try:
    import torch
except ModuleNotFoundError:
    sys.exit("this benchmark compares with PyTorch, which is not installed: pip install torch")

SIMULATED = 64
WARM_UP = 10  # batches, so that every worker is running


class Simulations(torch.utils.data.IterableDataset):
    """The same simulator as an endless data set; every worker has a generator of its own."""

    def __init__(self, simulator):
        self.simulator = simulator

    def __iter__(self):
        rng = np.random.default_rng(torch.initial_seed())  # differs between workers
        while True:
            yield self.simulator(rng)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each queue (default 10)")
    parser.add_argument("--batches", type=int, default=200, help="batches timed in a turn (default 200)")
    parser.add_argument("--capacity", type=int, default=250, help="examples simulated ahead (default 250)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations (default 1)")
    options = parser.parse_args()

    show_machine()
    data, labels = simulate_hotspots(SIMULATED, options.seed)

    def simulator(rng):
        i = rng.integers(SIMULATED)
        return data[i], labels[i]

    source = ExampleSource(simulator, options.seed, network_spec(**HOTSPOT), "cross-ent")
    loader = torch.utils.data.DataLoader(
        Simulations(simulator),
        batch_size=BATCH_SIZE,
        num_workers=options.workers,
        prefetch_factor=max(2, options.capacity // (BATCH_SIZE * options.workers)),
    )
    queues = {
        "ours": lambda: read_ours(WorkerStream, options, source),
        "ours, in this process": lambda: read_ours(SerialStream, options, source),
        "DataLoader": lambda: read_loader(loader, options.batches),
    }
    per_second = {name: np.empty((options.rounds, 1)) for name in queues}
    for turn in range(options.rounds):
        for name, read in queues.items():
            per_second[name][turn] = options.batches * BATCH_SIZE / read()
    print(f"examples of 198 x 24 x 2 float32 in batches of {BATCH_SIZE}, {options.workers} workers")
    for name in queues:
        show(name, per_second[name], "examples/s", 1)
    show_ratio("ours / DataLoader", per_second["ours"], per_second["DataLoader"])


def read_ours(stream_class, options, source: ExampleSource) -> float:
    """Return the seconds for reading the batches."""
    examples = range((WARM_UP + options.batches) * BATCH_SIZE)
    with stream_class(source, StreamSettings(options.workers, options.capacity), examples) as stream:
        return time_batches(lambda: stream.next_batch(BATCH_SIZE), options.batches)


def read_loader(loader, batches: int) -> float:
    iterator = iter(loader)
    return time_batches(lambda: next(iterator), batches)


def time_batches(next_batch, batches: int) -> float:
    for _ in range(WARM_UP):
        next_batch()
    start = time.perf_counter()
    for _ in range(batches):
        next_batch()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
