"""What checkpoints and checks cost: the hotspot example's training with and without them, in turn.

    python benchmarks/reliability.py

Without: no save_path, and no look at the gradient. With: everything, and a checkpoint every 20 batches, some hundred
times as often as by default. The time is that from the first batch to the last.
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import BATCH_SIZE, EXAMPLE, HOTSPOT, show, show_machine, show_ratio

from definetti_np import Trainer, train
from definetti_np.files.checkpoint import Checkpoint, Checkpoints


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=60, help="training steps of a run (default 60)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--every", type=int, default=20, help="batches between two checkpoints (default 20)")
    parser.add_argument("--workers", type=int, default=2, help="simulator processes (default 2)")
    parser.add_argument("--threads", type=int, default=2, help="training threads (default 2)")
    options = parser.parse_args()

    show_machine()
    sys.path.append(str(EXAMPLE))
    simulator_example = importlib.import_module("simulator_example")
    rates = simulator_example.read_rates(EXAMPLE / "genetic_map.txt")

    def simulator(rng):
        return simulator_example.simulate_data(*rates, rng)

    def run(**changes) -> float:
        times = []
        step = Trainer.step

        def timed(trainer, data, labels):
            result = step(trainer, data, labels)
            times.append(time.perf_counter())
            return result

        Trainer.step = timed
        try:
            train(
                simulator=simulator, **HOTSPOT, num_batches=options.batches, batch_size=BATCH_SIZE, seed=1,
                training_threads=options.threads, sim_threads=options.workers, logfile=None, **changes,
            )  # fmt: skip
        finally:
            Trainer.step = step
        return times[-1] - times[0]

    check = Trainer._check_gradients

    def without() -> float:
        Trainer._check_gradients = lambda trainer: None
        try:
            return run()
        finally:
            Trainer._check_gradients = check

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:

        def with_them() -> float:
            return run(save_path=Path(tempfile.mkdtemp(dir=folder)) / "weights", checkpoint_every=options.every)

        without()  # compiles
        seconds = np.array([[without(), with_them()] for _ in range(options.rounds)])
        rate = (options.batches - 1) * BATCH_SIZE / seconds
        show("without, examples a second", rate[:, 0], "1/s", 1)
        show("with, examples a second", rate[:, 1], "1/s", 1)
        show_ratio("seconds with / without", seconds[:, 1:], seconds[:, :1])
        time_parts(folder)


def time_parts(folder: str) -> None:
    """Time one checkpoint and one check of the gradient."""
    from definetti_np import Network

    trainer = Trainer(Network(**HOTSPOT, seed=1))
    run = {"batch_size": BATCH_SIZE, "seed": 1}
    checkpoints = Checkpoints(Path(folder) / "parts.npz", every=1, verbosity=1)
    lines = ["1000 0.6931471824645996 0.5"] * 1000
    times = []
    for batches in range(20):
        start = time.perf_counter()
        checkpoints.write(Checkpoint.of(trainer, run, batches=batches, summary=lines, redraws={}))
        times.append(time.perf_counter() - start)
    show("one checkpoint", np.array(times[1:]))
    times = []
    for _ in range(200):
        start = time.perf_counter()
        trainer._check_gradients()
        times.append(time.perf_counter() - start)
    show("one check of the gradient", np.array(times))


if __name__ == "__main__":
    main()
