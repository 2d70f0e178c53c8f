"""Training with workers that simulate, against the same workers when nobody trains: examples a second.

    python benchmarks/end_to_end.py --workers 2 --seconds 60 --json end_to_end.json

`train` on the hotspot example, and the same `WorkerStream` with a consumer that throws the batches away, in turn, each
in a new process on as many cores as there are workers. Counted are the examples after the first batches, during which
the trainer loads or compiles its kernels. Several numbers of threads are compared with ``--training-threads 1 2``.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
from common import BATCH_SIZE, HOTSPOT, hotspot_simulator, interleave, save, show, show_machine, show_ratio
from processes import in_processes

ORIGINAL = 27  # examples a second of the original with two workers on two cores; stated, not measured here
CAPACITY = 250
WARM_UP = 2 * CAPACITY // BATCH_SIZE  # batches: then the queue holds none from before the first step
ENDLESS = 10**6  # batches


class TimeIsUpError(Exception):
    """Ends a run from within."""


class Run:
    """One of the two, in a process of its own."""

    def examples_per_second(self, threads: int, reuse: int, workers: int, seconds: float, seed: int) -> float:
        """New examples a second of a training with so many threads, or, with 0, without training."""
        from definetti_np import train
        from definetti_np.simulation.source import ExampleSource
        from definetti_np.simulation.stream import StreamSettings
        from definetti_np.simulation.workers import WorkerStream
        from definetti_np.specs import network_spec

        times = []
        next_batch = WorkerStream.next_batch

        def timed(stream, *arguments):
            batch = next_batch(stream, *arguments)
            times.append(time.perf_counter())
            if len(times) > WARM_UP + 1 and times[-1] - times[WARM_UP] > seconds:
                raise TimeIsUpError
            return batch

        WorkerStream.next_batch = timed
        simulator = hotspot_simulator()
        try:
            if threads:
                train(
                    **HOTSPOT, simulator=simulator, num_batches=ENDLESS, batch_size=BATCH_SIZE, queue_capacity=CAPACITY,
                    training_threads=threads, sim_threads=workers, logfile=None, seed=seed, reuse=reuse,
                )  # fmt: skip
            source = ExampleSource(simulator, seed, network_spec(**HOTSPOT), "cross-ent")
            with WorkerStream(source, StreamSettings(workers, CAPACITY), range(ENDLESS * BATCH_SIZE)) as stream:
                while True:
                    stream.next_batch(BATCH_SIZE)
        except TimeIsUpError:
            return (len(times) - 1 - WARM_UP) * BATCH_SIZE / (times[-1] - times[WARM_UP])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="worker processes, and cores (default 2)")
    parser.add_argument(
        "--training-threads", type=int, nargs="+", help="threads of the training (default: one per core)"
    )
    parser.add_argument("--reuse", type=int, default=0, help="steps more on each batch (default 0)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--seconds", type=float, default=60, help="length of a run (default 60)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()

    def runs(threads: int):
        seeds = itertools.count(1)  # all simulate the same examples in a round

        def turn(calls: int) -> list[float]:
            with in_processes({"run": (Run,)}, options.workers) as processes:
                arguments = threads, options.reuse, options.workers, options.seconds, next(seeds)
                return [processes["run"].ask("examples_per_second", *arguments)]

        return turn

    numbers = options.training_threads or [options.workers]
    names = {"simulating only": 0} | {f"training, {number} threads": number for number in numbers}
    rates = interleave({name: runs(threads) for name, threads in names.items()}, options.rounds, calls=1)
    results = {"rates": {name: show(name, rates[name], "examples/s", 1) for name in rates}}
    simulating, *trainings = rates.values()
    original = np.full_like(simulating, ORIGINAL)
    for name, training in zip(list(names)[1:], trainings, strict=True):
        results[f"{name} / simulating only"] = show_ratio(f"{name} / simulating only", training, simulating)
        if not options.reuse:
            results[f"{name} / original"] = show_ratio(f"{name} / original ({ORIGINAL}, stated)", training, original)
    for name, training in zip(list(names)[2:], trainings[1:], strict=True):
        results[f"{name} / {list(names)[1]}"] = show_ratio(f"{name} / {list(names)[1]}", training, trainings[0])
    save(options.json, results)


if __name__ == "__main__":
    main()
