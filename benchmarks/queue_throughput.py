"""Time how many examples a second queues deliver to a consumer that does nothing else.

    python benchmarks/queue_throughput.py --workers 2                  # against PyTorch's DataLoader
    python benchmarks/queue_throughput.py --workers 2 --executors      # against executors of a process pool, loky, Dask

Against the DataLoader, the simulator picks one of 64 hotspot datasets that msprime simulated before, so that little but
the queues is measured: what they do to an example, transport and making batches of 50. Against executors it is the
hotspot example's, because an executor is to give the examples of a real simulator as fast as our own workers do. Each
queue is in a process of its own on as many cores as there are workers, and they take turns.
"""

import argparse
import importlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
from common import BATCH_SIZE, EXAMPLE, HOTSPOT, interleave, save, show, show_machine, show_ratio, simulate_hotspots
from processes import in_processes

from definetti_np.simulation.executors import ExecutorStream
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import SerialStream, Stream, StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

SIMULATED = 64
KINDS = ("our workers", "process pool", "loky", "Dask", "Dask as it comes")
OF_THE_RECIPE = {  # dask.sbatch
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}
WARM_UP = 10  # batches, so that every worker is running, and the queue holds none from before


def one_of_few(seed: int) -> Callable:
    """A simulator that takes no time: one of a few datasets of the hotspot example."""
    data, labels = simulate_hotspots(SIMULATED, seed)

    def simulator(rng):
        i = rng.integers(SIMULATED)
        return data[i], labels[i]

    return simulator


def hotspots(seed: int) -> Callable:
    """The hotspot example's simulator, of a module that all processes can import."""
    sys.path.append(str(EXAMPLE))
    return importlib.import_module("hotspots").simulator


class OurQueue:
    """A stream of ours. It ends with each turn; an executor stays, as a user's does."""

    def __init__(self, make_simulator: Callable, workers: int, capacity: int | None, seed: int, kind: str):
        self._simulator, self._workers, self._capacity, self._seed = make_simulator(seed), workers, capacity, seed
        self._kind, self._executor = kind, open_executor(kind, workers)

    def read(self, batches: int) -> float:
        """The seconds for so many batches."""
        source = ExampleSource(self._simulator, self._seed, network_spec(**HOTSPOT), "cross-ent")
        settings = StreamSettings(self._workers, self._capacity, executor=self._executor)
        stream_class: type[Stream] = ExecutorStream if self._executor is not None else WorkerStream
        if self._kind == "this process":
            stream_class = SerialStream
        with stream_class(source, settings, range((WARM_UP + batches) * BATCH_SIZE)) as stream:
            return time_batches(lambda: stream.next_batch(BATCH_SIZE), batches)

    def close(self) -> None:
        """End the executor's processes."""
        if self._kind.startswith("Dask"):
            self._executor._client.shutdown()
        elif self._executor is not None:
            self._executor.shutdown()


def open_executor(kind: str, workers: int) -> Executor | None:
    """An executor of so many processes, or None for what is ours.

    The processes are sessions of their own, as our workers are, because Linux shares a busy machine among sessions.
    """
    if kind == "process pool":
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=os.setsid)
    if kind == "loky":
        return importlib.import_module("loky").ProcessPoolExecutor(workers, initializer=os.setsid)
    if kind.startswith("Dask"):
        if kind == "Dask":
            os.environ.update(OF_THE_RECIPE)
        distributed = importlib.import_module("distributed")
        cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        )
        client = distributed.Client(cluster)
        client.run(os.setsid)
        return client.get_executor()
    return None


class DataLoader:
    """PyTorch's, with the same simulator as an endless data set; every worker has a generator of its own."""

    def __init__(self, make_simulator: Callable, workers: int, capacity: int, seed: int):
        import torch

        simulator = make_simulator(seed)

        class Simulations(torch.utils.data.IterableDataset):
            def __iter__(self):
                rng = np.random.default_rng(torch.initial_seed())  # differs between workers
                while True:
                    yield simulator(rng)

        self._loader = torch.utils.data.DataLoader(
            Simulations(),
            batch_size=BATCH_SIZE,
            num_workers=workers,
            prefetch_factor=max(2, capacity // (BATCH_SIZE * workers)),
        )

    def read(self, batches: int) -> float:
        """The seconds for so many batches."""
        iterator = iter(self._loader)
        return time_batches(lambda: next(iterator), batches)

    def close(self) -> None:
        """Do nothing: its workers end with each turn."""


def time_batches(next_batch: Callable, batches: int) -> float:
    for _ in range(WARM_UP):
        next_batch()
    start = time.perf_counter()
    for _ in range(batches):
        next_batch()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--executors", action="store_true", help="compare with executors, and simulate")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each queue (default 10)")
    parser.add_argument("--batches", type=int, help="batches timed in a turn (default 200, or 40 with --executors)")
    parser.add_argument("--capacity", type=int, default=250, help="examples simulated ahead (default 250)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations (default 1)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    if options.executors:
        batches = options.batches or 40
        settings = hotspots, options.workers, None, options.seed
        queues = {kind: (OurQueue, *settings, kind) for kind in KINDS}
    else:
        batches = options.batches or 200
        settings = one_of_few, options.workers, options.capacity, options.seed
        queues = {
            "our workers": (OurQueue, *settings, "our workers"),
            "this process": (OurQueue, *settings, "this process"),
            "DataLoader": (DataLoader, *settings),
        }
    with in_processes(queues, options.workers) as processes:

        def turn_of(name: str) -> Callable:
            return lambda calls: [processes[name].ask("read", batches)]

        seconds = interleave({name: turn_of(name) for name in queues}, options.rounds, calls=1)
        for process in processes.values():
            process.ask("close")
    print(f"examples of 198 x 24 x 2 float32 in batches of {BATCH_SIZE}, {options.workers} workers")
    rates = {name: batches * BATCH_SIZE / seconds[name] for name in queues}
    results = {name: show(name, rates[name], "examples/s", 1) for name in queues}
    for name in queues:
        if name != "our workers":
            results[f"{name} / our workers"] = show_ratio(f"{name} / our workers", rates[name], rates["our workers"])
    save(options.json, results)


if __name__ == "__main__":
    main()
