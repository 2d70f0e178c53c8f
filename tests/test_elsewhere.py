"""A trained model is never lost: where it cannot be written, it goes elsewhere, and the error holds it."""

import errno
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest
from lives import run, simulator
from test_modelfile import model_of

from definetti_np import Model, SimulatorError, load
from definetti_np.errors import NotSavedError
from definetti_np.files import whole
from definetti_np.files.checkpoint import read_checkpoint
from definetti_np.files.elsewhere import save_or_keep

FOLDERS = ("here", "home", "temporary")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders that a model may be in, by name."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return {name: tmp_path / name for name in FOLDERS}


@pytest.fixture
def full(folders, monkeypatch):
    """A set of names of folders that are on full disks."""
    names = set()

    def open_unless_full(path, *rest, **keywords):
        for name in names:
            if Path(path).is_relative_to(folders[name]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return open(path, *rest, **keywords)

    monkeypatch.setattr(whole, "open", open_unless_full, raising=False)
    return names


def kept(folders):
    return [path for name in ("home", "temporary") for path in folders[name].iterdir()]


def weights(model):
    return model.network.flat.weights.tobytes()


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twin")
    run(folder)
    return folder


PLACES = {
    "the home folder": ({"here"}, "home"),
    "the folder of temporary files": ({"here", "home"}, "temporary"),
    "nowhere": (set(FOLDERS), None),
}


@pytest.mark.parametrize("place", PLACES)
def test_save_or_keep__writes_to_the_first_folder_that_has_room(folders, full, place):
    names, folder = PLACES[place]
    full |= names
    model = model_of()
    with pytest.raises(NotSavedError, match="No space left on device") as caught:
        save_or_keep(model, folders["here"] / "w.npz", what_finishes="nothing else helps")
    error = caught.value
    assert isinstance(error, OSError)
    assert error.model is model
    text = str(error)
    assert text.startswith(f"the trained model cannot be written to {folders['here'] / 'w.npz'}: ")
    assert text.endswith("the model is the attribute `model` of this error; nothing else helps")
    assert os.listdir(folders["here"]) == []
    assert kept(folders) == ([] if folder is None else [error.place])
    if folder is None:
        assert error.place is None
        assert "; nor to another folder. " in text
    else:
        assert error.place.parent == folders[folder]
        assert f"; it was written to {error.place} instead. " in text
        assert weights(load(error.place)) == weights(model)
    assert weights(pickle.loads(pickle.dumps(error)).model) == weights(model)  # as it comes from another process


def test_save_or_keep__without_a_home_folder(folders, full, monkeypatch):
    full.add("here")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(NotSavedError) as caught:
        save_or_keep(model_of(), folders["here"] / "w.npz", what_finishes="")
    assert caught.value.place.parent == folders["temporary"]


@pytest.mark.parametrize("name", ["w", "w" * 251])
def test_save_or_keep__replaces_nothing_elsewhere(folders, full, name):
    (folders["home"] / f"{name}.npz").write_bytes(b"another")
    full.add("here")
    for _ in range(3):
        with pytest.raises(NotSavedError):
            save_or_keep(model_of(), folders["here"] / f"{name}.npz", what_finishes="")
    assert (folders["home"] / f"{name}.npz").read_bytes() == b"another"
    assert len(kept(folders)) == 4


def spoil(folders):
    """Make it impossible to write to the first folder, in ways that are no full disk."""
    yield "removed", lambda: shutil.rmtree(folders["here"])
    yield "a folder in its place", (folders["here"] / "w.npz").mkdir


@pytest.mark.parametrize("what", ["removed", "a folder in its place"])
def test_save_or_keep__whatever_keeps_it_from_being_written(folders, what):
    dict(spoil(folders))[what]()
    with pytest.raises(NotSavedError) as caught:
        save_or_keep(model_of(), folders["here"] / "w.npz", what_finishes="")
    assert weights(load(caught.value.place)) == weights(model_of())


# In training


def simulator_that(changes):
    """The simulator, which calls functions before certain examples."""

    def changing(rng):
        changes.get(changing.calls, lambda: None)()
        changing.calls += 1
        return simulator(rng)

    changing.calls = 0
    changing.__qualname__ = simulator.__qualname__
    return changing


# From which example on the disk is full (None: when the model is saved), and what the message says of the checkpoint.
MOMENTS = {
    "all along": (0, "there is no checkpoint to go on from"),
    "after checkpoints": (70, "it goes on from .*w.checkpoint.npz, which holds 6 of 9 batches"),
    "at the model alone": (None, "it goes on from .*w.checkpoint.npz, which holds 9 of 9 batches"),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("others", ["room elsewhere", "no room at all"])
def test_train__a_full_disk_loses_no_weights(folders, full, twin, monkeypatch, moment, others):
    example, message = MOMENTS[moment]
    names = {"here"} if others == "room elsewhere" else set(FOLDERS)
    with monkeypatch.context() as patch:
        if example is None:
            save = Model.save
            patch.setattr(Model, "save", lambda *arguments: (full.update(names), save(*arguments)))
        filling = simulator_that({example: lambda: full.update(names)})
        with pytest.raises(NotSavedError, match=message) as caught:
            run(folders["here"], simulator=filling, checkpoint_every=3)
    assert weights(caught.value.model) == weights(load(twin / "w"))
    assert (caught.value.place is None) == (others == "no room at all")
    if caught.value.place is not None:
        assert caught.value.place.read_bytes() == (twin / "w.npz").read_bytes()
    full.clear()
    run(folders["here"], resume=True)
    assert (folders["here"] / "w.npz").read_bytes() == (twin / "w.npz").read_bytes()


def test_train__a_folder_that_is_removed_meanwhile_loses_no_weights(folders, twin):
    removing = simulator_that({80: lambda: shutil.rmtree(folders["here"])})
    with pytest.raises(NotSavedError, match="there is no checkpoint to go on from") as caught:
        run(folders["here"], simulator=removing, checkpoint_every=3)
    assert caught.value.place.read_bytes() == (twin / "w.npz").read_bytes()


def test_train__that_is_stopped_on_a_full_disk_puts_its_checkpoint_elsewhere(folders, full, twin, caplog):
    changes = {30: lambda: full.add("here"), 55: lambda: 1 / 0}
    with pytest.raises(SimulatorError):
        run(folders["here"], simulator=simulator_that(changes))
    [place] = kept(folders)
    assert f"it was written to {place} instead; when there is room, move it to " in caplog.text
    assert read_checkpoint(place).batches == 5
    assert str(folders["here"] / "w.checkpoint.npz") in caplog.text
    full.clear()
    shutil.move(place, folders["here"] / "w.checkpoint.npz")
    run(folders["here"], resume=True)
    assert (folders["here"] / "w.npz").read_bytes() == (twin / "w.npz").read_bytes()
