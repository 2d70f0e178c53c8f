"""A small training for tests that interrupt it; as a script, one that is killed and resumed many times.

    python tests/lives.py train FOLDER '{"resume": true}'        one run, with other options of train
    python tests/lives.py storm FOLDER KILLS SEED                SIGKILL at random moments
    python tests/lives.py save FOLDER                            SIGKILL before and after each step of each save

The many lives are forked from one process that has loaded all kernels.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import definetti_np.training
from definetti_np.files.checkpoint import Checkpoints

SMALL = {
    "input_shape": (12, 3),
    "output_shape": (2,),
    "phi_net": [("fc", 8)],
    "h_net": [("fc", 8), ("softmax",)],
    "num_batches": 9,
    "batch_size": 10,
    "queue_capacity": 20,
    "verbosity": 2,
    "training_threads": 1,
    "sim_threads": 0,
    "logfile": None,
    "seed": 1,
}


def simulator(rng):
    if os.environ.get("PACE"):
        time.sleep(float(os.environ["PACE"]))
    while "STALL" in os.environ and Path(os.environ["STALL"]).exists():
        time.sleep(0.05)
    wide = rng.integers(2)
    return np.round(rng.standard_normal((12, 3)) * (1 + 3 * wide)), np.eye(2)[wide]


def run(folder, **options):
    """Train in a folder: model w.npz, summary s."""
    options = {**SMALL, "simulator": simulator, **options}
    return definetti_np.train(save_path=Path(folder) / "w", training_summary=Path(folder) / "s", **options)


def fork(function) -> int:
    """Call a function in a new process; return its id."""
    process = os.fork()
    if process == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
    return process


def ending(process: int) -> int:
    """Wait for a process and return its exit code, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def storm(folder: Path, kills: int, seed: int) -> None:
    """Kill and resume until so many kills have hit; whenever the run ends, check it and begin another."""
    rng = random.Random(seed)
    options = {"num_batches": 400, "sim_threads": 1, "checkpoint_every": 3}
    (folder / "twin").mkdir()
    run(folder / "twin", **options)
    expected = [(folder / "twin" / name).read_bytes() for name in ("w.npz", "s")]
    hits = runs = 0
    while True:
        here = folder / str(runs)
        here.mkdir(exist_ok=True)
        process = fork(lambda here=here: run(here, **options, resume=True))
        if hits < kills:
            time.sleep(rng.uniform(0, 0.25))
            os.kill(process, signal.SIGKILL)
        code = ending(process)
        if code == -signal.SIGKILL:
            hits += 1
            continue
        assert code == 0, code
        assert [(here / name).read_bytes() for name in ("w.npz", "s")] == expected
        assert sorted(os.listdir(here)) == ["s", "w.checkpoint.npz", "w.checkpoint.previous.npz", "w.npz"]
        runs += 1
        if hits >= kills:
            break
    print(hits, "kills,", runs, "runs")


def save(folder: Path) -> None:
    """Kill the run before, in or after its k-th step of writing files, for every k; resume it."""
    (folder / "twin").mkdir()
    options = {"num_batches": 3, "checkpoint_every": 1}
    run(folder / "twin", **options)
    expected = [(folder / "twin" / name).read_bytes() for name in ("w.npz", "s")]
    for moment in ("before", "in", "after"):
        step = 0
        while True:
            step += 1
            here = folder / f"{moment}{step}"
            here.mkdir()
            code = ending(fork(lambda: run_killed(here, options, moment, step)))  # noqa: B023
            if code == 0:
                break
            assert code == -signal.SIGKILL, code
            check_latest(here)
            assert ending(fork(lambda: run(here, **options, resume=True))) == 0  # noqa: B023
            assert [(here / name).read_bytes() for name in ("w.npz", "s")] == expected
            assert not list(here.glob(".*"))
        print(step - 1, "steps,", moment)


def run_killed(here, options, moment, step):
    """Run, and be killed at a step of a save."""
    left = step

    def killing(function, written):
        def call(*arguments, **keywords):
            nonlocal left
            left -= moment != "in" or written
            if left == 0 and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            now = left == 0 and (moment != "in" or written)
            try:
                return function(*arguments, **keywords)
            finally:
                if now and moment == "in":
                    arguments[0].flush()
                    os.ftruncate(arguments[0].fileno(), arguments[0].tell() // 2)
                if now:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for module, name in ((np, "savez"), (os, "fsync"), (os, "replace")):
        setattr(module, name, killing(getattr(module, name), name == "savez"))
    run(here, **options)


def check_latest(here):
    """Fail if a run that has written a checkpoint has none to go on from, or lost more than one batch."""
    lines = (here / "s").read_text().splitlines() if (here / "s").exists() else []
    latest = Checkpoints(here / "w.npz", every=1).latest()
    trained = 2 * len(lines)  # a line every second batch
    if trained > 2:
        assert latest is not None
        assert latest.batches >= trained - 2
    elif latest is not None:
        assert latest.batches <= trained


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    import definetti_np.model
    import definetti_np.trainer

    if what == "train":
        run(folder, **json.loads(rest[0]))
    elif what == "storm":
        storm(Path(folder), int(rest[0]), int(rest[1]))
    elif what == "save":
        save(Path(folder))
