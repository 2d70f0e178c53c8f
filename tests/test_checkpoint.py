"""Checkpoints: a run that was stopped, however, ends in the same file as one that was not."""

import dataclasses
import hashlib
import logging
import os
import re
import resource
import shutil
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from lives import SMALL, run, simulator
from sessions import LIVES, Session, start, until

from definetti_np import ModelFileError, Parameter, SimulatorError, load, ops, train
from definetti_np.files import checkpoint as checkpoint_module
from definetti_np.files.archive import CHECKPOINT, FORMAT_VERSION, read_file, read_model, write_file
from definetti_np.files.checkpoint import Checkpoints, read_checkpoint, write_checkpoint

FILES = ["s", "w.checkpoint.npz", "w.checkpoint.previous.npz", "w.npz"]


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def twin(tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("twin")
    run(folder)
    return folder


def assert_same(folder, twin):
    for name in ("w.npz", "s"):
        assert sha(folder / name) == sha(twin / name), name
    assert not list(folder.glob(".*"))


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="definetti_np")
    return caplog


@pytest.mark.parametrize("batches", range(1, 10))
def test_resume__ends_in_the_same_bits(tmp_path, twin, batches):
    run(tmp_path, num_batches=batches)
    assert (sha(tmp_path / "w.npz") == sha(twin / "w.npz")) == (batches == 9)
    model = run(tmp_path, seed=None, resume=True)
    assert_same(tmp_path, twin)
    assert load(tmp_path / "w").network.flat.weights.tobytes() == model.network.flat.weights.tobytes()
    assert sorted(os.listdir(tmp_path)) == [name for name in FILES if batches < 9 or "previous" not in name]


def test_resume__other_workers_threads_capacity_and_intervals(tmp_path, twin):
    for batches, workers, threads, every in [(2, 0, 1, None), (3, 2, 2, 1), (4, 1, 4, 3), (6, 3, 1, 2), (9, 7, 2, 1)]:
        changes = {"num_batches": batches, "sim_threads": workers, "training_threads": threads}
        run(tmp_path, **changes, queue_capacity=10 + workers, checkpoint_every=every, resume=True)
    assert_same(tmp_path, twin)


def test_resume__conv_and_moments(tmp_path):
    options = {"phi_net": [("conv", 2, 3)], "g": ("moments", 1, 2.5), "h_net": [("matmul",)], "loss": "l2"}
    run(tmp_path, **options)
    expected = sha(tmp_path / "w.npz")
    run(tmp_path, **options, num_batches=4)
    run(tmp_path, **options, resume=True)
    assert sha(tmp_path / "w.npz") == expected


def test_resume__after_the_end_simulates_nothing(tmp_path, twin):
    run(tmp_path)
    (tmp_path / "w.npz").unlink()

    def simulator(rng):
        pytest.fail("it simulates")

    run(tmp_path, simulator=simulator_named(simulator), resume=True, sim_threads=2)
    assert_same(tmp_path, twin)


def simulator_named(function):
    function.__qualname__ = simulator.__qualname__
    return function


def test_resume__without_a_checkpoint_starts_afresh(tmp_path, twin, log):
    run(tmp_path, resume=True)
    assert "there is no checkpoint" in log.text
    assert_same(tmp_path, twin)


def test_train__a_checkpoint_of_an_earlier_run_is_replaced_and_it_says_so(tmp_path, log):
    run(tmp_path, seed=7)
    assert "earlier run" not in log.text
    run(tmp_path, num_batches=3)
    assert "is of an earlier run and will be replaced; resume=True goes on from it" in log.text
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == 3


DIFFERENCES = {
    "seed": (2, "seed=2, the checkpoint has 1"),
    "learning_rate": (0.1, "learning_rate=0.1, the checkpoint has 0.001"),
    "accuracy": (None, "accuracy=None, the checkpoint has 'classification'"),
    "batch_size": (5, "batch_size=5, the checkpoint has 10"),
    "phi_net": ([("fc", 9)], r"phi_net=\[\['fc', 9\]\], the checkpoint has \[\['fc', 8\]\]"),
    "g": (("sort",), r"g=\['sort'\], the checkpoint has \['max'\]"),
    "input_shape": ((None, 3), r"input_shape=\[None, 3\], the checkpoint has \[12, 3\]"),
    "output_shape": ((3,), r"output_shape=\[3\], the checkpoint has \[2\]"),
    "simulator": (lambda rng: None, "simulator='<lambda>', the checkpoint has 'simulator'"),
    "num_batches": (8, "num_batches must be at least 9"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_resume__of_another_run_is_refused(twin, name):
    value, message = DIFFERENCES[name]
    before = sorted(os.listdir(twin))
    with pytest.raises(ValueError, match=message):
        run(twin, **{name: value}, resume=True)
    assert sorted(os.listdir(twin)) == before


def test_resume__lists_all_differences(twin):
    with pytest.raises(ValueError, match="loss='l2', .*; seed=3, .*; h_net="):
        run(twin, seed=3, loss="l2", h_net=[("matmul",)], resume=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resume": True}, ValueError, "resume needs a save_path"),
        ({"checkpoint_every": 5}, ValueError, "checkpoint_every needs a save_path"),
        ({"checkpoint_every": 0, "save_path": "w"}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"resume": 1, "save_path": "w"}, TypeError, "resume must be True or False, got 1"),
        ({"save_path": "w.checkpoint"}, ValueError, "save_path must not end in .checkpoint, .* got 'w.checkpoint'"),
        ({"save_path": "w" * 240}, ValueError, "is longer than 255 bytes"),
        ({"save_path": b"w"}, TypeError, "save_path must be a path, as a str or a pathlib.Path, got b'w'"),
        ({"training_summary": 3}, TypeError, "training_summary must be a path, as a str or a pathlib.Path, got 3"),
        ({"logfile": ["l"]}, TypeError, "logfile must be a path, as a str or a pathlib.Path, got .'l'."),
        ({"save_path": "a\0b"}, ValueError, "save_path must not hold the character of code 0"),
        ({"resume": np.True_}, ValueError, "resume needs a save_path"),
        ({"loss": np.array("l2")}, ValueError, "loss: unknown loss array"),
        ({"accuracy": np.array("x")}, ValueError, "accuracy: unknown accuracy array"),
        ({"on_simulator_error": np.array(["raise", "x"])}, ValueError, "on_simulator_error: unknown choice array"),
    ],
)
def test_train__arguments(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        train(simulator=simulator, **{**SMALL, **options})


def batches_in(tmp_path, **options):
    """After how many batches a run writes checkpoints."""
    written = []

    def watching(*arguments, **keywords):
        written.append(arguments[2]["batches"])
        write_file(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "write_file", watching)
        run(tmp_path, **options)
    return written


def test_checkpoint_every__counts_batches_and_the_last_is_written(tmp_path):
    assert batches_in(tmp_path, checkpoint_every=4) == [4, 8, 9]
    assert batches_in(tmp_path, checkpoint_every=3) == [3, 6, 9]
    assert batches_in(tmp_path, checkpoint_every=100) == [9]


def test_checkpoint_every__none_is_once_a_minute(tmp_path, monkeypatch):
    assert batches_in(tmp_path) == [9]
    monkeypatch.setattr(checkpoint_module, "INTERVAL_SECONDS", 0)
    monkeypatch.setattr(checkpoint_module, "INTERVAL_PER_WRITE", 0)
    assert batches_in(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_checkpoint__holds_the_run(twin):
    header, arrays = read_file(twin / "w.checkpoint.npz", CHECKPOINT)
    assert {name: header[name] for name in ("batches", "next_example", "adam_steps", "redraws")} == {
        "batches": 9,
        "next_example": 90,
        "adam_steps": 9,
        "redraws": {},
    }
    assert header["summary"] == (twin / "s").read_text().splitlines()
    assert header["run"]["seed"] == 1
    assert arrays["weights"].tobytes() == load(twin / "w").network.flat.weights.tobytes()
    assert load(twin / "w.checkpoint").network.flat.weights.tobytes() == arrays["weights"].tobytes()
    with pytest.raises(ModelFileError, match="another kind of file, 'definetti_np checkpoint'"):
        read_model(twin / "w.checkpoint.npz")
    with pytest.raises(ModelFileError, match="another kind of file, 'definetti_np model'"):
        read_checkpoint(twin / "w.npz")


def test_resume__a_damaged_newest_falls_back_to_the_one_before(tmp_path, twin, log):
    run(tmp_path, num_batches=5, checkpoint_every=2)
    newest, previous = tmp_path / "w.checkpoint.npz", tmp_path / "w.checkpoint.previous.npz"
    assert (read_checkpoint(newest).batches, read_checkpoint(previous).batches) == (5, 4)
    newest.write_bytes(newest.read_bytes()[:-1])
    run(tmp_path, resume=True)
    assert re.search(r"w\.checkpoint\.npz: not a readable .*; the one before it is taken, of 4 batches", log.text)
    assert_same(tmp_path, twin)


def test_resume__falls_back_without_losing_the_good_one(tmp_path):
    """The damaged file must not become the previous generation while the next is written."""
    run(tmp_path, num_batches=5, checkpoint_every=2)
    (tmp_path / "w.checkpoint.npz").write_bytes(b"damaged")
    checkpoints = Checkpoints(tmp_path / "w.npz", every=1)
    assert checkpoints.latest().batches == 4
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == 4


def test_resume__all_damaged_is_an_error(tmp_path):
    run(tmp_path, num_batches=5, checkpoint_every=2)
    for name in FILES[1:3]:
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ModelFileError, match=r"w\.checkpoint\.npz.*previous\.npz.*remove what is damaged"):
        run(tmp_path, resume=True)


def in_run(**changes):
    return lambda h, a: h["run"].update(changes)


def in_header(**changes):
    return lambda h, a: h.update(changes)


def in_arrays(function, *names):
    return lambda h, a: a.update({name: function(a[name]) for name in names or list(a)})


# What is changed in a checkpoint whose checksums are right, and what the message names.
CHANGES = {
    "no run": (lambda h, a: h.pop("run"), "run"),
    "a run of another type": (in_header(run=3), "run must be a dict, got 3"),
    "batches of another type": (in_header(batches="9"), "batches must be an integer, got '9'"),
    "batches true": (in_header(batches=True), "batches must be an integer, got True"),
    "negative batches": (in_header(batches=-1), "batches must be at least 0, got -1"),
    "fractional batches": (in_header(batches=9.0), "batches must be an integer, got 9.0"),
    "more batches": (in_header(batches=10), "next_example is 90 after 10 batches of 10"),
    "batches of thousands of digits": (in_header(batches=10**4000), "next_example is 90 after 1000"),
    "other examples": (in_header(next_example=91), "next_example is 91 after 9 batches of 10"),
    "no examples": (lambda h, a: h.pop("next_example"), "next_example"),
    "other steps": (in_header(adam_steps=8), "adam_steps is 8 after 9 batches"),
    "negative steps": (in_header(adam_steps=-9), "adam_steps must be at least 0"),
    "another batch size": (in_run(batch_size=9), "next_example is 90 after 9 batches of 9"),
    "a batch size of text": (in_run(batch_size="10"), "run: batch_size must be an integer, got '10'"),
    "no batch size": (lambda h, a: h["run"].pop("batch_size"), "batch_size"),
    "a seed of text": (in_run(seed="x"), "run: seed must be an integer, got 'x'"),
    "no seed": (in_run(seed=None), "run: seed must be an integer, got None"),
    "a summary of text": (in_header(summary="0 0.5 0.25"), "summary must be a list"),
    "a summary in a summary": (in_header(summary=[["0 0.5 0.25"]]), "summary.0. is no line"),
    "a line that is not ASCII": (in_header(summary=["0 0.5 0.25", "1 0.5 \u00e4"]), "summary.1. is no line"),
    "a line of numbers": (in_header(summary=[0]), "summary.0. is no line"),
    "a line of other things": (in_header(summary=["0 0.5 0.25 rm"]), "summary.0. is no line"),
    "an empty line": (in_header(summary=["0 0.5 0.25", ""]), "summary.1. is no line"),
    "two lines in one": (in_header(summary=["0 0.5 0.25\n1 0.5 0.25"]), "summary.0. is no line"),
    "lines in another order": (
        in_header(summary=["2 0.5 0.25", "0 0.5 0.25"]),
        "summary.1. is no line .*, or not in or",
    ),
    "a line twice": (in_header(summary=["0 0.5 0.25", "0 0.5 0.25"]), "summary.1. is no line .*, or not in order"),
    "a line of a later batch": (
        in_header(summary=["9 0.5 0.25"]),
        "summary: its last line is '9 0.5 0.25' after 9 bat",
    ),
    "redraws of text": (in_header(redraws={"a": "b"}), "redraws: the number of 'a' must be an integer, got 'b'"),
    "redraws of a list": (in_header(redraws=[]), "redraws must be a dict"),
    "redraws none": (in_header(redraws=None), "redraws must be a dict"),
    "negative redraws": (in_header(redraws={"a": -1}), "redraws: the number of 'a' must be at least 1"),
    "redraws that nobody wanted": (in_header(redraws={"a": 1}), "redraws: .* in a run that draws nothing again"),
    "no arrays": (lambda h, a: a.clear(), "arrays"),
    "an array missing": (lambda h, a: a.pop("weights"), "arrays: .'first_moments', 'second_moments'., they must be"),
    "an array too many": (lambda h, a: a.update(more=a["weights"]), "arrays: .*'more'"),
    "an array of another length": (in_arrays(lambda x: x[:-1], "first_moments"), "first_moments has shape"),
    "arrays of two axes": (in_arrays(lambda x: x[None]), "has shape .1, 122."),
    "arrays of no axis": (in_arrays(lambda x: x[0]), "has shape"),
    "arrays of another length": (in_arrays(lambda x: x[:-1]), "run: parameters: .* are not 121 weights"),
    "other parameters": (in_run(parameters={"h.0.weight": [3, 3]}), "run: parameters: .* are not 122 weights"),
    "parameters of another type": (in_run(parameters=[122]), "run: parameters must be a dict"),
    "moments that are not finite": (in_arrays(lambda x: x * np.inf, "second_moments"), "second_moments holds values"),
    "weights that are not finite": (in_arrays(lambda x: x * np.nan, "weights"), "weights holds values that are not"),
    "negative second moments": (in_arrays(lambda x: -x - 1, "second_moments"), "second_moments are negative"),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_resume__a_checkpoint_that_does_not_add_up(tmp_path, twin, change):
    shutil.copy(twin / "w.checkpoint.npz", tmp_path)
    function, named = CHANGES[change]
    path = tmp_path / "w.checkpoint.npz"
    header, arrays = read_file(path, CHECKPOINT)
    for name in ("format", "format_version", "sha256", "packages", "arrays"):
        del header[name]
    function(header, arrays)
    write_file(path, CHECKPOINT, header, arrays)
    for seed in (1, None):
        with pytest.raises(ModelFileError, match=named) as caught:
            run(tmp_path, resume=True, seed=seed)
        assert len(str(caught.value)) < 3000


def test_checkpoint__a_summary_may_have_many_lines(tmp_path, twin):
    """More than a header may have of anything else, and read in the time and memory that they take."""
    state = read_checkpoint(twin / "w.checkpoint.npz")
    batches, numbers = 400_000, ("0.6931471824645996", "1e-05", "nan", "-inf", "0.0")
    lines = [f"{batch} {numbers[batch % 5]} {numbers[batch % 3]}" for batch in range(batches)]
    counts = {"batches": batches, "adam_steps": batches, "next_example": 10 * batches}
    write_checkpoint(tmp_path / "w", dataclasses.replace(state, summary=lines, **counts), previous=tmp_path / "v")
    assert read_checkpoint(tmp_path / "w").summary == lines
    header, _ = read_file(tmp_path / "w", CHECKPOINT)
    assert header["summary"] == lines


def test_checkpoint__that_could_not_be_read_is_not_written(tmp_path, twin, log):
    """Then the one before is kept, and training goes on."""
    state = read_checkpoint(twin / "w.checkpoint.npz")
    checkpoints = Checkpoints(tmp_path / "w.npz", every=1)
    checkpoints.write(state)
    for redraws in ({"x" * 2**23: 1}, {str(number): 1 for number in range(2**17)}):
        checkpoints.write(dataclasses.replace(state, batches=10, redraws=redraws))
        assert "the checkpoint of 10 batches cannot be written: " in log.messages[-1]
        assert log.messages[-1].endswith("; the one of 9 batches is kept")
    assert read_checkpoint(checkpoints.path).batches == 9


def test_checkpoint__is_written_by_its_own_process_alone(tmp_path, twin):
    """A simulator that forks and goes on in the child must not write the run's files there."""
    state = read_checkpoint(twin / "w.checkpoint.npz")
    checkpoints = Checkpoints(tmp_path / "w.npz", every=1)
    child = os.fork()
    if child == 0:
        checkpoints.write(state)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.listdir(tmp_path) == []
    checkpoints.write(state)
    assert os.listdir(tmp_path) == ["w.checkpoint.npz"]


def test_train__a_simulator_that_fails_leaves_a_checkpoint(tmp_path, twin):
    def failing(rng):
        failing.calls += 1
        if failing.calls > 45:
            raise ArithmeticError
        return simulator(rng)

    failing.calls = 0
    with pytest.raises(SimulatorError):
        run(tmp_path, simulator=simulator_named(failing))
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == 4
    run(tmp_path, resume=True)
    assert_same(tmp_path, twin)


@pytest.mark.parametrize("version", range(2, FORMAT_VERSION + 1))
def test_checkpoint__files_of_every_version(version):
    """They were written by the code of that time; see make_golden.py."""
    path = Path(__file__).parent / "golden" / f"version_{version}_state.npz"
    state = read_checkpoint(path)
    assert (state.batches, state.next_example, state.adam_steps) == (1, 4, 1)
    assert (state.summary, state.redraws, state.run["seed"]) == (["0 0.5 0.25"], {"ValueError": 3}, 2)
    with np.load(path) as file:
        for name in ("weights", "first_moments", "second_moments"):
            assert getattr(state, name).tobytes() == file[name].tobytes()
    assert state.first_moments.any()


def test_checkpoint__is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The order of a save: the new file's content, the old file's new name, the new file's name, the folder."""
    done = []

    def record(name, describe):
        function = getattr(os, name)

        def recorded(*arguments):
            done.append((name, *describe(*arguments)))
            return function(*arguments)

        monkeypatch.setattr(os, name, recorded)

    record("fsync", lambda descriptor: [stat.S_ISDIR(os.fstat(descriptor).st_mode)])
    record("replace", lambda old, new: [Path(new).name])
    checkpoint = read_checkpoint(Path(__file__).parent / "golden" / "version_2_state.npz")
    for _ in range(2):
        done.clear()
        write_checkpoint(tmp_path / "new.npz", checkpoint, previous=tmp_path / "old.npz")
    assert done == [("fsync", False), ("replace", "old.npz"), ("replace", "new.npz"), ("fsync", True)]


# A full disk


@pytest.fixture
def disk():
    """A function that fills the disk: no file can be written beyond so many bytes; None is as many as one likes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def changing_disk(changes):
    """The simulator, which calls functions before certain examples."""

    def changing(rng):
        changes.get(changing.calls, lambda: None)()
        changing.calls += 1
        return simulator(rng)

    changing.calls = 0
    return simulator_named(changing)


def test_full_disk__training_goes_on_and_tries_again(tmp_path, twin, disk, log):
    def is_whole():
        assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == 3
        assert sorted(os.listdir(tmp_path)) == ["s", "w.checkpoint.npz", "w.checkpoint.previous.npz", "w.lock"]
        disk(None)

    disturbed = changing_disk({30: lambda: disk(1000), 50: is_whole})
    run(tmp_path, simulator=disturbed, checkpoint_every=1, check_randomness=False)
    assert len(re.findall(r"cannot be written: .*File too large; the one of 3 batches is kept", log.text)) == 2
    assert_same(tmp_path, twin)
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == 9


def test_full_disk__the_summary_catches_up(tmp_path, twin, disk, log):
    run(tmp_path, simulator=changing_disk({30: lambda: disk(70), 60: lambda: disk(None)}))
    assert "the training summary cannot be written now" in log.text
    assert_same(tmp_path, twin)


def test_full_disk__at_the_end_the_checkpoint_finishes(tmp_path, twin, disk):
    with pytest.raises(
        OSError, match=r"File too large.*resume=True: it goes on from .*w\.checkpoint\.npz, which holds 6"
    ):
        run(tmp_path, simulator=changing_disk({70: lambda: disk(1000)}), checkpoint_every=3)
    disk(None)
    assert not list(tmp_path.glob(".*"))
    run(tmp_path, resume=True)
    assert_same(tmp_path, twin)


# Files that are links, or the same


def test_train__links_stay_and_lead_to_the_files(tmp_path, twin):
    """On a cluster, results are often links to another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    for name in (*FILES, "log"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "disk" / name)
    for batches in (5, 9):
        run(tmp_path / "run", num_batches=batches, checkpoint_every=2, resume=True, logfile=tmp_path / "run" / "log")
    assert_same(tmp_path / "disk", twin)
    assert all((tmp_path / "run" / name).is_symlink() for name in (*FILES, "log"))
    assert sorted(os.listdir(tmp_path / "disk")) == sorted([*FILES, "log"])
    assert sorted(os.listdir(tmp_path / "run")) == sorted([*FILES, "log"])
    assert (tmp_path / "disk" / "log").read_text().count("saved the model as") == 2
    (tmp_path / "disk" / "w.checkpoint.npz").write_bytes(b"damaged")
    run(tmp_path / "run", resume=True)
    assert_same(tmp_path / "disk", twin)
    assert (tmp_path / "run" / "w.checkpoint.npz").is_symlink()


@pytest.mark.parametrize("name", ["training_summary", "logfile"])
@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("w.npz", "the model"),
        ("w.checkpoint.npz", "the checkpoint"),
        ("w.checkpoint.previous.npz", "the checkpoint before it"),
        ("w.lock", "the lock"),
        ("../{here}/w.npz", "the model"),
        ("link", "the model"),
    ],
)
def test_train__no_file_of_a_run_is_another_one_of_it(tmp_path, name, path, what):
    (tmp_path / "link").symlink_to("w.npz")
    options = {**SMALL, "save_path": tmp_path / "w", name: tmp_path / path.format(here=tmp_path.name)}
    with pytest.raises(ValueError, match=f"{name}: '.*' is the file of {what}; choose another path"):
        train(simulator=simulator, **options)
    assert os.listdir(tmp_path) == ["link"]


def test_train__a_summary_is_not_the_log(tmp_path):
    options = {**SMALL, "training_summary": tmp_path / "s", "logfile": tmp_path / "s"}
    with pytest.raises(ValueError, match="logfile: '.*' is the file of training_summary; choose another path"):
        train(simulator=simulator, **options)
    assert os.listdir(tmp_path) == []


def test_train__another_programs_lock_is_left_as_it_is(tmp_path, twin):
    (tmp_path / "w.lock").write_text("of a package manager")
    run(tmp_path)
    assert (tmp_path / "w.lock").read_text() == "of a package manager"
    (tmp_path / "w.lock").unlink()
    assert_same(tmp_path, twin)


# Two runs, and what a killed one leaves


def test_lock__a_second_run_is_refused_and_sigkill_frees(tmp_path, twin):
    stall = tmp_path / "stall"
    stall.touch()
    session = start(tmp_path, {"STALL": str(stall), "SLURM_JOB_ID": "4711"}, sim_threads=2)
    until(lambda: (tmp_path / "w.lock").exists() and (tmp_path / "w.lock").read_text(), "the lock")
    message = rf"another run \(host \S+, process {session.process.pid}, Slurm job 4711\) is training this model"
    with pytest.raises(RuntimeError, match=message):
        run(tmp_path)
    os.kill(session.process.pid, signal.SIGKILL)
    session.process.wait()
    run(tmp_path)  # at once, although its workers may live for a moment
    session.end()
    assert sha(tmp_path / "w.npz") == sha(twin / "w.npz")
    assert "w.lock" not in os.listdir(tmp_path)


def test_lock__is_free_again_after_errors(tmp_path):
    for _ in range(2):
        with pytest.raises(SimulatorError):
            run(tmp_path, simulator=lambda rng: 1 / 0)
    assert os.listdir(tmp_path) == ["s"]


def test_train__removes_its_own_stale_files_alone(tmp_path):
    from definetti_np.files.whole import _temporary_prefix

    names = ("w.npz", "w.checkpoint.npz", "s", "x.npz")
    stale = [f"{_temporary_prefix(tmp_path / name)}abcdefgh.tmp" for name in names]
    for name in [*stale, ".other.tmp"]:
        (tmp_path / name).touch()
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.glob(".*")) == sorted([stale[3], ".other.tmp"])


# SIGKILL


def lives(*arguments):
    code, output = Session(LIVES, *arguments).end()
    assert code == 0, output
    return output


def test_sigkill__at_random_moments(tmp_path):
    assert "20 kills" in lives("storm", tmp_path, 20, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_sigkill__at_200_random_moments(tmp_path, seed):
    assert "20 kills" in lives("storm", tmp_path, 20, seed)


def test_sigkill__at_each_step_of_a_save(tmp_path):
    assert lives("save", tmp_path).split("\n")[:3] == ["22 steps, before", "4 steps, in", "22 steps, after"]


def test_sigstop__a_pause_changes_nothing(tmp_path, twin):
    session = start(tmp_path, {"PACE": "0.01"}, sim_threads=2)
    until(lambda: (tmp_path / "s").exists() and (tmp_path / "s").read_text(), "the first batch")
    os.killpg(session.process.pid, signal.SIGSTOP)
    time.sleep(1)
    os.killpg(session.process.pid, signal.SIGCONT)
    code, output = session.end()
    assert code == 0, output
    assert_same(tmp_path, twin)


def test_resume__of_other_parameters_is_refused(tmp_path):
    first, second, third = (Parameter(shape) for shape in [(3, 2), (2, 2), (1, 2)])

    def network(parameters):
        def function(x):
            return ops.log_softmax(ops.mean(x) @ ops.concatenate(parameters, axis=0))

        return function

    run(tmp_path, num_batches=2, network_function=network([first]))
    with pytest.raises(ValueError, match=r"resume: .* is of another run: parameters=\{'parameter\.0': \[2, 2\], .*"):
        run(tmp_path, resume=True, network_function=network([second, third]))


def test_train__an_accuracy_that_raises_leaves_a_checkpoint(tmp_path, twin):
    calls = []

    def accuracy(prediction, label):
        calls.append(1)
        if len(calls) == 4:
            raise ValueError("one class alone")
        return 1.0

    with pytest.raises(ValueError, match="one class alone") as caught:
        run(tmp_path, accuracy=accuracy)
    assert "This was batch 3 (examples 30 to 39 of seed 1)" in caught.value.__notes__[0]
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == 3
