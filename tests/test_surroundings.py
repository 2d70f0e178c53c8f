"""Training in strange surroundings, and simulators that use processes and signals: the same bits everywhere."""

import sys
from pathlib import Path

import pytest
import surroundings
from sessions import Session

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
SLOW_TO_START = ("a spawned pool", "a forkservered pool")
WITH_AN_EXECUTOR = (
    "nothing",
    "a forked pool",
    "a process that is ended",
    "a child that fails",
    "a child of C code that fails",
)


@pytest.fixture(scope="module")
def expected():
    return surroundings.train(sim_threads=0)


def start_training(folder, *arguments):
    if "joblib" in arguments[1]:
        pytest.importorskip("joblib")
    folder.mkdir(exist_ok=True)
    return Session(Path(surroundings.__file__), folder, *arguments)


def digest_of(session, folder):
    """What a training prints that ends well, and of which no process is left."""
    code, output = session.end()
    assert code == 0, output
    assert not (folder / "w.lock").exists()
    return output.splitlines()[0]


@pytest.mark.parametrize("way", surroundings.WAYS)
def test_train__anywhere(tmp_path, expected, way):
    assert digest_of(start_training(tmp_path, "train", way), tmp_path) == expected


def numbers_of_workers(way):
    if way in SLOW_TO_START:
        return ["2"]
    return ["0", "2", "executor"] if way in WITH_AN_EXECUTOR else ["0", "2"]


@pytest.mark.parametrize("way", surroundings.SIMULATORS)
def test_train__whatever_the_simulator_does(tmp_path, expected, way):
    """In this process, in workers and in an executor, side by side because starting takes most of the time."""
    folders = {workers: tmp_path / workers for workers in numbers_of_workers(way)}
    sessions = {workers: start_training(folder, "simulate", way, workers) for workers, folder in folders.items()}
    for workers, folder in folders.items():
        assert digest_of(sessions[workers], folder) == expected, workers
        names = ["w.checkpoint.npz", "w.checkpoint.previous.npz", "w.npz"]
        assert sorted(path.name for path in folder.glob("*.npz")) == names
