"""Scripts in sessions of their own, of which no process may be left when they have ended."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import definetti_np

# What tests start uses the same package, installed or not, and so the same kernels on disk, as these tests do.
PACKAGES = Path(definetti_np.__file__).parents[1]
LIVES = Path(__file__).parent / "lives.py"
LIMIT = 120  # seconds
STAY_IGNORED = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGPIPE, signal.SIGXFSZ}


def restore_signals() -> None:
    """Let signals act as in a program started at a prompt, in this process and so in those that it starts.

    A script starts what runs in its background with SIGINT ignored, and other programs ignore or block other signals;
    a run goes on ignoring them, as it must. What a terminal or Python itself ignores stays ignored. Under nohup a
    lost terminal does nothing to this process, but ends what it starts, as a handler is not passed on.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in STAY_IGNORED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextlib.contextmanager
def full_disk(size: int):
    """Let no file of this process grow beyond so many bytes inside the block, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


started = []  # the sessions of the test that runs; conftest.py ends those that it has not


def search_path(*folders) -> str:
    """Folders to import from, before those where a cluster's modules may keep NumPy."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


class Session:
    """A Python script that runs in a new session."""

    def __init__(self, *arguments, **environment):
        started.append(self)
        environment = {**os.environ, "PYTHONPATH": search_path(PACKAGES), **environment}
        self.process = subprocess.Popen(
            [sys.executable, "-P", *map(str, arguments)],  # -P: without the folder that the tests are started in
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip

    def end(self, limit: int = LIMIT) -> tuple[int, str]:
        """Wait for the end; return the exit code and what it wrote to stderr. Nothing of it may be left after that."""
        try:
            output, errors = self.process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail("it hangs")
        until(lambda: not self.members(), "processes of it to be gone")
        return self.process.returncode, output + errors

    def kill(self) -> None:
        """Kill what is still there of it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.communicate()

    def members(self) -> list[str]:
        """The living processes of the session."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state not in "ZX" and int(entry.name) != self.process.pid:
                    found.append((entry / "cmdline").read_text())
        return found


def need_openmp() -> None:
    """Skip a test where OpenMP's library is missing, as on a bare machine: Numba has threads of its own there.

    Another process looks, because the library reads its variables when it is loaded.
    """
    look = [sys.executable, "-c", "import numba.np.ufunc.omppool"]
    if "libgomp" in subprocess.run(look, capture_output=True, text=True, timeout=LIMIT).stderr:
        pytest.skip("OpenMP's library is not installed")


def start(folder, environment=None, **options) -> Session:
    """Start a small training in a folder, with options of train; its log goes to `log` there."""
    options = {"logfile": str(folder / "log"), **options}
    return Session(LIVES, "train", folder, json.dumps(options), **(environment or {}))


def until(condition, what: str):
    """Wait until something is so, but not for ever; return what it is."""
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.01)
    return value
