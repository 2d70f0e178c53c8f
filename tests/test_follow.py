"""A training that waits for simulations which others add to a folder, whatever happens to that folder meanwhile."""

import hashlib
import os
import shutil

import pytest
from disasters import SMALL, index_of, simulator

from definetti_np import Simulations, progress, simulate, train
from definetti_np.files import lock
from definetti_np.simulation import store_stream
from definetti_np.simulation.store import Store
from definetti_np.status import describe_status

COUNT = SMALL["num_batches"] * SMALL["batch_size"]


def fill(folder, start, stop, function=simulator, seed=1):
    shapes = SMALL["input_shape"], SMALL["output_shape"]
    simulate(function, *shapes, folder, seed=seed, start=start, stop=stop, sim_threads=0, logfile=None)


def digest(model):
    return hashlib.sha256(model.network.flat.weights.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed():
    return digest(train(simulator=simulator, **SMALL, sim_threads=0))


@pytest.fixture
def folder(tmp_path):
    """Holds the first half of what is needed."""
    path = tmp_path / "simulations"
    fill(path, 0, COUNT // 2)
    return path


@pytest.fixture
def at_looks(monkeypatch):
    """Calls one of these functions before each look of the waiting training into its folder, in order."""
    events = []
    look = Store.look

    def look_after_the_next_event(store):
        if store.follow and hasattr(store, "examples"):  # not when it is opened
            assert events, "it still waits"
            events.pop(0)()
        look(store)

    monkeypatch.setattr(Store, "look", look_after_the_next_event)
    monkeypatch.setattr(store_stream, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(store_stream, "TICK_SECONDS", 0.01)
    return events


def follow(folder, **options):
    return train(simulator=simulator, **{**SMALL, **options}, sim_threads=0, simulations=folder, follow=True)


def test_follow__a_file_that_is_half_copied_is_read_when_it_is_whole(folder, undisturbed, at_looks, tmp_path, caplog):
    fill(tmp_path / "elsewhere", COUNT // 2, COUNT)
    [source] = (tmp_path / "elsewhere").iterdir()
    at_looks += [
        lambda: (folder / source.name).write_bytes(source.read_bytes()[:500]),
        lambda: None,
        lambda: shutil.copy(source, folder),
    ]
    assert digest(follow(folder)) == undisturbed
    assert caplog.text.count("cannot be read and is left out") == 1


def test_follow__a_folder_that_is_removed_and_filled_again(folder, undisturbed, at_looks):
    at_looks += [lambda: shutil.rmtree(folder), lambda: fill(folder, COUNT // 2, COUNT)]
    assert digest(follow(folder)) == undisturbed


def test_follow__a_folder_that_cannot_be_read_for_a_moment(folder, undisturbed, at_looks, monkeypatch, caplog):
    monkeypatch.setattr(store_stream, "QUIET_SECONDS", 0.0)

    def fail():
        raise OSError(5, "Input/output error")

    at_looks += [fail, fail, lambda: fill(folder, COUNT // 2, COUNT)]
    assert digest(follow(folder)) == undisturbed
    assert "nobody has added example 100" in caplog.text
    assert "it holds the examples 0 to 99; the last problem was [Errno 5] Input/output error" in caplog.text


def test_follow__ranges_that_overlap_and_come_out_of_order(folder, undisturbed, at_looks, tmp_path):
    def copy(start, stop):
        fill(tmp_path / f"{start}", start, stop)
        shutil.copytree(tmp_path / f"{start}", folder, dirs_exist_ok=True)

    at_looks += [lambda: copy(150, COUNT), lambda: copy(40, 120), lambda: copy(90, 170)]
    assert digest(follow(folder)) == undisturbed


def simulate_otherwise(rng):
    data, label = simulator(rng)
    return data + 1, label


simulate_otherwise.__qualname__ = simulator.__qualname__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 2}, "several kinds of simulations"),
        ({"function": simulate_otherwise}, "hold different examples 50 to 99"),
    ],
)
def test_follow__other_simulations_end_it_with_a_checkpoint(folder, at_looks, tmp_path, options, message):
    fill(tmp_path / "elsewhere", 50, COUNT, **options)
    at_looks.append(lambda: shutil.copytree(tmp_path / "elsewhere", folder, dirs_exist_ok=True))
    with pytest.raises(ValueError, match=message):
        follow(folder, save_path=tmp_path / "model", checkpoint_every=1000)
    assert (tmp_path / "model.checkpoint.npz").exists()


def test_status__of_a_run_that_waits(folder, at_looks, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TELL_SECONDS", 0.0)
    path, seen = tmp_path / "model.lock", []

    def grow_old():
        os.utime(path, (0, 0))

    at_looks += [grow_old, lambda: seen.append(describe_status(tmp_path / "model")), lambda: fill(folder, 100, COUNT)]
    follow(folder, save_path=tmp_path / "model")
    assert seen[0].startswith("alive: host")
    assert "batch 10 of 20, loss" in seen[0]


def test_log__of_a_run_that_waits_for_others_advises_no_simulators_of_its_own(folder, at_looks, caplog, monkeypatch):
    monkeypatch.setattr(progress, "WORTH_SAYING", 0.0)
    caplog.set_level("INFO", "definetti_np")
    at_looks.append(lambda: fill(folder, 100, COUNT))
    train(simulator=simulator, **SMALL, sim_threads=2, simulations=folder, follow=True)
    assert "waiting for example 100" in caplog.text
    assert "more simulator core" not in caplog.text


@pytest.mark.parametrize("function", [simulator, simulate_otherwise])
def test_simulate__of_a_range_that_another_run_has_filled_meanwhile(tmp_path, function):
    def fill_meanwhile(rng):
        if index_of(rng) == 15:  # the last one
            fill(tmp_path / "folder", 0, 16, function)
        return simulator(rng)

    fill_meanwhile.__qualname__, fill_meanwhile.__module__ = simulator.__qualname__, simulator.__module__
    if function is simulator:
        fill(tmp_path / "folder", 0, 16, fill_meanwhile)
        assert len(Simulations(tmp_path / "folder")) == 16
    else:
        with pytest.raises(
            ValueError, match=r"another run has written .*shard meanwhile, with different examples 0 to 15"
        ):
            fill(tmp_path / "folder", 0, 16, fill_meanwhile)
