"""Checkpoints: a run that was stopped, however, ends in the same file as one that was not."""

import hashlib
import os

import numpy as np
import pytest

from definetti_np import load, train

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
    wide = rng.integers(2)
    return np.round(rng.standard_normal((12, 3)) * (1 + 3 * wide)), np.eye(2)[wide]


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Oracle:
    """The SHA-256 of the model of an undisturbed run, and the text of its summary."""

    def __init__(self, folder):
        folder.mkdir()
        train(simulator=simulator, **SMALL, save_path=folder / "w", training_summary=folder / "s")
        self.model, self.summary = sha(folder / "w.npz"), (folder / "s").read_text()


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    return Oracle(tmp_path_factory.mktemp("oracle") / "run")


@pytest.mark.parametrize("batches", range(1, 10))
def test_resume__ends_in_the_same_bits(tmp_path, oracle, batches):
    options = {"simulator": simulator, "save_path": tmp_path / "w", "training_summary": tmp_path / "s"}
    train(**{**SMALL, "num_batches": batches}, **options)
    assert sha(tmp_path / "w.npz") != oracle.model or batches == 9
    model = train(**{**SMALL, "seed": None}, **options, resume=True)
    assert sha(tmp_path / "w.npz") == oracle.model
    assert (tmp_path / "s").read_text() == oracle.summary
    assert load(tmp_path / "w").network.flat.weights.tobytes() == model.network.flat.weights.tobytes()
    expected = ["s", "w.checkpoint.npz", "w.checkpoint.previous.npz", "w.npz"]
    assert sorted(os.listdir(tmp_path)) == [name for name in expected if batches < 9 or "previous" not in name]


def test_resume__other_workers_threads_capacity_and_intervals(tmp_path, oracle):
    for batches, workers, threads, every in [(2, 0, 1, None), (3, 2, 2, 1), (4, 1, 4, 3), (6, 3, 1, 2), (9, 7, 2, 1)]:
        changes = {"num_batches": batches, "sim_threads": workers, "training_threads": threads}
        options = {**SMALL, **changes, "queue_capacity": 10 + workers}
        train(simulator=simulator, **options, save_path=tmp_path / "w", checkpoint_every=every, resume=True)
    assert sha(tmp_path / "w.npz") == oracle.model
