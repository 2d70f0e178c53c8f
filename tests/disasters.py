"""Simulators to which something happens at given examples, and what tests need to look at processes."""

import ctypes
import faulthandler
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import definetti_np
from definetti_np import train

SMALL = {
    "input_shape": (12, 3),
    "output_shape": (2,),
    "phi_net": [("fc", 8)],
    "h_net": [("fc", 8), ("softmax",)],
    "num_batches": 20,
    "batch_size": 10,
    "queue_capacity": 40,
    "verbosity": 5,
    "logfile": None,
    "seed": 1,
}
HERE = Path(__file__).parent
PACKAGES = Path(definetti_np.__file__).parents[1]  # as in sessions.py


def simulator(rng):
    wide = rng.integers(2)
    return np.round(rng.standard_normal((12, 3)) * (1 + 3 * wide)), np.eye(2)[wide]


def index_of(rng):
    return rng.bit_generator.seed_seq.spawn_key[0]


class Disturbed:
    """Simulates, after a disaster the first so many times that one of these examples is asked for."""

    def __init__(self, folder, disaster, indices, times):
        self.folder, self.disaster, self.indices, self.times = folder, disaster, indices, times
        self.__qualname__ = simulator.__qualname__  # which is in the model file

    def __call__(self, rng):
        if index_of(rng) in self.indices:
            for k in range(self.times):
                try:
                    os.close(os.open(Path(self.folder) / f"{index_of(rng)}.{k}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                self.disaster()
                break
        return simulator(rng)


def with_disaster(folder, disaster, indices, times=1):
    return Disturbed(folder, disaster, indices, times)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def exit_0():
    os._exit(0)


def exit_3():
    os._exit(3)


def hang():
    time.sleep(600)


def hang_with_the_gil():
    ctypes.PyDLL(None).usleep(600_000_000)


def leave_a_process_that_holds_everything_and_die():
    if ctypes.CDLL(None).fork() == 0:  # unknown to Python: nothing is closed
        ctypes.CDLL(None).usleep(600_000_000)
    os._exit(5)


def sha_of_training(folder, function=simulator, **options):
    """Train, and return the SHA-256 of the model's file, which holds the simulator's name."""
    if "<locals>" in function.__qualname__:
        function.__qualname__ = simulator.__qualname__
    train(simulator=function, **{**SMALL, **options}, save_path=Path(folder) / "weights")
    return hashlib.sha256((Path(folder) / "weights.npz").read_bytes()).hexdigest()


def start_script(folder, program):
    """Start a program that may import from the tests."""
    path = Path(folder) / "program.py"
    path.write_text(program)
    folders = [str(HERE), str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """Process ids of the children of a process, their children, and so on, that are alive."""
    parents = {}
    for entry in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split() if entry.isdigit() else "ZZ"
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(entry)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def wait_until(condition, seconds):
    """Wait until something holds, at most so long; return whether it does."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()
