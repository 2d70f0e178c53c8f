"""What a store of simulations costs to read, and what small blocks of msprime gain.

    python benchmarks/simulations_store.py --examples 5000

Training steps on batches that are ready in memory and on those of a store are measured in turn, and so is the example's
simulator with msprime as it comes and with small blocks, whose datasets must be equal.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
from common import HOTSPOT, hotspot_simulator, show_machine
from msprime import ancestry

from definetti_np import Network, Trainer, simulate, simulate_example
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.store import Store
from definetti_np.simulation.store_stream import StoreStream
from definetti_np.simulation.stream import StreamSettings
from definetti_np.specs import data_spec

BATCH_SIZE = 50
ROUNDS = 6


def open_stream(simulations, spec):
    store = Store(simulations.folder, simulations._store.key)
    source = ExampleSource(None, simulations.seed, spec, None)
    examples = range(len(simulations) // BATCH_SIZE * BATCH_SIZE)
    return StoreStream(store, source, StreamSettings(0, check_randomness=False), examples)


def seconds_of_steps(trainer, next_batch, batches):
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        trainer.step(*next_batch())
    return time.perf_counter() - start, time.process_time() - cpu


def measure_store(folder, examples):
    simulator = hotspot_simulator()
    spec = data_spec(HOTSPOT["input_shape"], HOTSPOT["output_shape"])
    simulations = simulate(simulator, spec.input_shape, spec.output_shape, folder, seed=1, stop=examples)
    print(simulations)
    batches = examples // BATCH_SIZE
    with open_stream(simulations, spec) as stream:
        ready = [stream.next_batch(BATCH_SIZE) for _ in range(batches)]
    trainer = Trainer(Network(**HOTSPOT, seed=1))
    trainer.step(*ready[0])
    ratios = []
    for _ in range(ROUNDS):
        memory = seconds_of_steps(trainer, iter(ready).__next__, batches)
        with open_stream(simulations, spec) as stream:
            store = seconds_of_steps(trainer, lambda stream=stream: stream.next_batch(BATCH_SIZE), batches)
        ratios.append((store[0] / memory[0], store[1] / memory[1]))
    for name, values in zip(("wall", "processor"), zip(*ratios, strict=True), strict=True):
        print(f"steps from the store / from memory, {name} time: {statistics.median(values):.3f} ({sorted(values)})")


def measure_small_blocks(examples):
    simulator = hotspot_simulator()  # whose module has called small_blocks
    kinds = {"small blocks": ancestry.Simulator, "as it comes": ancestry.Simulator.__bases__[0]}
    seconds = {name: [] for name in kinds}
    for first in range(0, ROUNDS * examples, examples):
        found = []
        for name, kind in kinds.items():
            ancestry.Simulator = kind
            start = time.perf_counter()
            found.append([simulate_example(simulator, seed=3, index=first + i) for i in range(examples)])
            seconds[name].append((time.perf_counter() - start) / examples)
        for (data, label), (other, other_label) in zip(*found, strict=True):
            np.testing.assert_array_equal(data, other)
            np.testing.assert_array_equal(label, other_label)
    for name, values in seconds.items():
        print(f"{name}: {1000 * statistics.median(values):.2f} ms an example")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"small blocks are {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5000, help="in the store (default 5000)")
    arguments = parser.parse_args()
    show_machine()
    with tempfile.TemporaryDirectory() as folder:
        measure_store(folder, arguments.examples)
    measure_small_blocks(100)


if __name__ == "__main__":
    main()
