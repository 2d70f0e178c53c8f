"""How many simulator cores does one trainer keep busy? Measured with workers that wait instead of simulating.

    python benchmarks/cluster_size.py --cores 10 50 100 200 500 --reuse 0 9

A stand-in for an executor of so many cores: a task comes back after as long as its examples take (8 ms each), plus what
the engine takes for a task (Dask: 3.1 ms of a scheduler that does one after another). The examples that it gives are
those of a few hundred simulations of the hotspot example, and the trainer does with them all that it does otherwise.
"""

import argparse
import heapq
import itertools
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

from common import BATCH_SIZE, HOTSPOT, hotspot_simulator, save, show_machine

from definetti_np import train
from definetti_np.simulation.executors import simulate, versions_here
from definetti_np.simulation.messages import encode
from definetti_np.simulation.source import ExampleSource
from definetti_np.specs import network_spec

EXAMPLE_SECONDS = 0.008
WARM_UP = 40  # batches
SIMULATED = 300


class StandIn(Executor):
    """An executor of `num_workers` cores, whose tasks are done when their time has come."""

    def __init__(self, cores: int, overhead: float, examples: list):
        self.num_workers = cores
        self._overhead, self._examples = overhead, examples
        self._free = [0.0] * cores  # when each core is free again
        self._scheduler_is_free = 0.0
        self._ends: list = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._deliver, daemon=True).start()

    def submit(self, function, *arguments):
        future: Future = Future()
        if function is not simulate:  # but whether workers have the package
            future.set_result(function(*arguments))
            return future
        indices = arguments[1]
        with self._changed:
            self._scheduler_is_free = max(self._scheduler_is_free, time.monotonic()) + self._overhead
            start = max(self._scheduler_is_free, heapq.heappop(self._free))
            seconds = len(indices) * EXAMPLE_SECONDS
            heapq.heappush(self._free, start + seconds)
            heapq.heappush(self._ends, (start + seconds, next(self._numbers), seconds, indices, future))
            self._changed.notify()
        return future

    def _deliver(self):
        while True:
            with self._changed:
                while not self._ends or self._ends[0][0] > time.monotonic():
                    self._changed.wait(self._ends[0][0] - time.monotonic() if self._ends else None)
                _, _, seconds, indices, future = heapq.heappop(self._ends)
            messages = [encode(index, self._examples[index % len(self._examples)]) for index in indices]
            if future.set_running_or_notify_cancel():
                future.set_result((seconds, versions_here(), messages))


def examples_per_second(executor: Executor, seconds: float, threads: int | None, reuse: int) -> float:
    """Examples a second that a run takes from an executor, after its first batches."""
    times = []

    def accuracy(prediction, label):
        times.append(time.perf_counter())
        if len(times) > WARM_UP * (1 + reuse) and times[-1] - times[WARM_UP * (1 + reuse)] > seconds:
            raise KeyboardInterrupt
        return 0.0

    try:
        train(
            **HOTSPOT, simulator=hotspot_simulator(), accuracy=accuracy, num_batches=10**6, batch_size=BATCH_SIZE,
            executor=executor, check_randomness=False, training_threads=threads, logfile=None, seed=1, reuse=reuse,
        )  # fmt: skip
    except KeyboardInterrupt:
        pass
    steps = len(times) - 1 - WARM_UP * (1 + reuse)
    return steps / (1 + reuse) * BATCH_SIZE / (times[-1] - times[WARM_UP * (1 + reuse)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cores", type=int, nargs="+", default=[10, 20, 50, 100, 200, 500])
    parser.add_argument(
        "--overhead", type=float, default=0.0031, help="seconds of the engine for a task (Dask: 0.0031)"
    )
    parser.add_argument("--reuse", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=5, help="length of a run (default 5)")
    parser.add_argument("--threads", type=int, help="of the training (default: one per core)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    show_machine()
    source = ExampleSource(hotspot_simulator(), 1, network_spec(**HOTSPOT), "cross-ent")
    examples = [source.example(index) for index in range(SIMULATED)]
    results = {}
    for reuse, cores in itertools.product(options.reuse, options.cores):
        executor = StandIn(cores, options.overhead, examples)
        rate = examples_per_second(executor, options.seconds, options.threads, reuse)
        busy = rate * EXAMPLE_SECONDS / cores
        print(f"reuse {reuse}, {cores:4} cores: {rate:7.0f} examples/s, cores busy {busy:.0%}", flush=True)
        results[f"reuse {reuse}, {cores} cores"] = {"examples/s": rate, "busy": busy}
    save(options.json, results)


if __name__ == "__main__":
    main()
