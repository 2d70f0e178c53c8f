"""How many simulator cores does one trainer keep busy? Measured with workers that wait instead of simulating.

    python benchmarks/cluster_size.py --cores 10 20 50 100 200 500 --reuse 0 9 --figure docs/clusters.svg

A stand-in for an executor of so many cores: a task comes back after as long as its examples take (8 ms each), plus what
the engine takes for a task (Dask: 3.1 ms of a scheduler that does one after another). The examples that it gives are
those of a few hundred simulations of the hotspot example, and the trainer does with them all that it does otherwise.
Each is measured with a consumer in the trainer's place too, which throws the examples away: then the engine is the
limit, or what the trainer's process does to receive them.
"""

import argparse
import heapq
import itertools
import sys
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path

from common import BATCH_SIZE, HOTSPOT, hotspot_simulator, save, show_machine

from definetti_np import train
from definetti_np.simulation.executors import ExecutorStream, simulate, versions_here
from definetti_np.simulation.messages import encode
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import StreamSettings
from definetti_np.specs import network_spec

EXAMPLE_SECONDS = 0.008
WARM_UP = 40  # batches
SIMULATED = 300


class StandIn(Executor):
    """An executor of `num_workers` cores, whose tasks are done when their time has come."""

    def __init__(self, cores: int, overhead: float, examples: list):
        self.num_workers = cores
        self._overhead = overhead
        self._messages = [encode(index, example) for index, example in enumerate(examples)]  # whose index nobody reads
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
            messages = [self._messages[index % len(self._messages)] for index in indices]
            if future.set_running_or_notify_cancel():
                future.set_result((seconds, versions_here(), messages))


def trained(executor: Executor, seconds: float, threads: int | None, reuse: int) -> float:
    """Examples a second that a run takes from an executor, after its first batches."""
    times = []
    first = max(5, WARM_UP // (1 + reuse)) * (1 + reuse)  # step that is timed

    def accuracy(prediction, label):
        times.append(time.perf_counter())
        if len(times) > first and times[-1] - times[first] > seconds:
            raise KeyboardInterrupt
        return 0.0

    try:
        train(
            **HOTSPOT, simulator=hotspot_simulator(), accuracy=accuracy, num_batches=10**6, batch_size=BATCH_SIZE,
            executor=executor, check_randomness=False, training_threads=threads, logfile=None, seed=1, reuse=reuse,
        )  # fmt: skip
    except KeyboardInterrupt:
        pass
    return (len(times) - 1 - first) / (1 + reuse) * BATCH_SIZE / (times[-1] - times[first])


def received(executor: Executor, source: ExampleSource, seconds: float) -> float:
    """Examples a second that a stream takes from an executor, after its first batches, where nobody trains."""
    settings = StreamSettings(0, None, executor=executor, check_randomness=False)
    with ExecutorStream(source, settings, range(10**8)) as stream:
        for _ in range(WARM_UP):
            stream.next_batch(BATCH_SIZE)
        batches, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            stream.next_batch(BATCH_SIZE)
            batches += 1
    return batches * BATCH_SIZE / elapsed


def draw(path: Path, rates: dict[str, dict[int, float]]) -> None:
    """Draw examples a second by the number of cores; a line bends where something else is the limit."""
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(6, 4), layout="constrained")).subplots()
    cores = sorted({number for line in rates.values() for number in line})
    axes.plot(cores, [number / EXAMPLE_SECONDS for number in cores], "k:", label="if all cores are busy")
    for name, line in rates.items():
        axes.plot(list(line), list(line.values()), "o-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="simulator cores, 8 ms an example", ylabel="examples a second")
    axes.set_xticks(cores, map(str, cores))
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(path)


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
    parser.add_argument("--figure", type=Path, help="file for a drawing")
    options = parser.parse_args()
    show_machine()
    source = ExampleSource(hotspot_simulator(), 1, network_spec(**HOTSPOT), "cross-ent")
    examples = [source.example(index) for index in range(SIMULATED)]
    rates: dict[str, dict[int, float]] = {}

    def note(name: str, cores: int, rate: float) -> None:
        rates.setdefault(name, {})[cores] = rate
        print(f"{name}, {cores:4} cores: {rate:7.0f} examples/s, cores busy {rate * EXAMPLE_SECONDS / cores:.0%}")
        sys.stdout.flush()

    for cores in options.cores:
        for reuse in options.reuse:
            executor = StandIn(cores, options.overhead, examples)
            note(f"training, reuse {reuse}", cores, trained(executor, options.seconds, options.threads, reuse))
        note("no training", cores, received(StandIn(cores, options.overhead, examples), source, options.seconds))
    save(options.json, rates)
    if options.figure is not None:
        draw(options.figure, rates)


if __name__ == "__main__":
    main()
