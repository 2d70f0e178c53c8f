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


def digest_of(folder, *arguments):
    """What a training prints that ends well, and of which no process is left."""
    if "joblib" in arguments[1]:
        pytest.importorskip("joblib")
    code, output = Session(Path(surroundings.__file__), folder, *arguments).end()
    assert code == 0, output
    assert not (folder / "w.lock").exists()
    return output.splitlines()[0]


@pytest.mark.parametrize("way", surroundings.WAYS)
def test_train__anywhere(tmp_path, expected, way):
    assert digest_of(tmp_path, "train", way) == expected


WAYS_TO_SIMULATE = [
    (way, workers)
    for way in surroundings.SIMULATORS
    for workers in ("0", "2", "executor")
    if not (way in SLOW_TO_START and workers != "2" or way not in WITH_AN_EXECUTOR and workers == "executor")
]


@pytest.mark.parametrize(("way", "workers"), WAYS_TO_SIMULATE)
def test_train__whatever_the_simulator_does(tmp_path, expected, way, workers):
    assert digest_of(tmp_path, "simulate", way, workers) == expected
    names = ["w.checkpoint.npz", "w.checkpoint.previous.npz", "w.npz"]
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == names
