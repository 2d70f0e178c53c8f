"""train and test from end to end, with simulators that cost nothing."""

import hashlib
import io
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import definetti_np
from definetti_np import SimulatorError, load, train
from definetti_np.engine.tensor import backpropagate
from definetti_np.files.checkpoint import read_checkpoint
from definetti_np.progress import progress

SMALL = {
    "input_shape": (12, 3),
    "output_shape": (2,),
    "phi_net": [("fc", 8)],
    "h_net": [("fc", 8), ("softmax",)],
    "num_batches": 6,
    "batch_size": 10,
    "queue_capacity": 20,
    "sim_threads": 0,
    "logfile": None,
    "seed": 1,
}


def simulator(rng):
    wide = rng.integers(2)
    return np.round(rng.standard_normal((12, 3)) * (1 + 3 * wide)), np.eye(2)[wide]


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_train__same_file_for_any_number_of_workers_and_threads(tmp_path):
    files = set()
    for workers, threads, capacity in [(0, 1, 10), (0, 2, 20), (1, 1, 10), (2, 2, 64), (3, 1, 11), (3, 4, 33)]:
        options = {"sim_threads": workers, "training_threads": threads, "queue_capacity": capacity}
        train(simulator=simulator, **{**SMALL, **options}, save_path=tmp_path / "weights")
        files.add(sha(tmp_path / "weights.npz"))
    assert len(files) == 1
    train(simulator=simulator, **{**SMALL, "seed": 2}, save_path=tmp_path / "weights")
    assert sha(tmp_path / "weights.npz") not in files


def test_train__returns_the_model_that_it_saves(tmp_path):
    model = train(simulator=simulator, **SMALL, save_path=tmp_path / "weights")
    loaded = load(tmp_path / "weights")
    assert loaded.network.flat.weights.tobytes() == model.network.flat.weights.tobytes()
    assert (model.seed, model.batches_trained, model.loss) == (1, 6, "cross-ent")
    data = [simulator(np.random.default_rng(i))[0] for i in range(3)]
    predictions = definetti_np.test(data, str(tmp_path / "weights"), 1)
    np.testing.assert_array_equal(predictions, model.predict(data))
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)


def test_train__draws_a_seed_and_tells_it():
    models = [train(simulator=simulator, **{**SMALL, "seed": None}) for _ in range(2)]
    assert models[0].seed != models[1].seed
    again = train(simulator=simulator, **{**SMALL, "seed": models[0].seed})
    assert again.network.flat.weights.tobytes() == models[0].network.flat.weights.tobytes()


def test_train__learns():
    model = train(simulator=simulator, **{**SMALL, "num_batches": 120, "batch_size": 20}, learning_rate=0.01)
    examples = [simulator(np.random.default_rng(10_000 + i)) for i in range(300)]
    predictions = model.predict([data for data, _ in examples])
    labels = np.array([label for _, label in examples])
    assert np.mean(predictions.argmax(axis=1) == labels.argmax(axis=1)) > 0.9


def test_train__a_script_for_the_original(tmp_path, monkeypatch):
    """Positional arguments, a simulator without argument, and the original's names."""
    monkeypatch.chdir(tmp_path)

    def simulate_data():
        return np.random.normal(size=(12, 3, 2)), np.array([0.0, 1])

    # fmt: off
    train((12, 3, 2), (2,), lambda: simulate_data(),
          phi_net=[("conv", 2, 4)], g=("top_k", 1), h_net=[("fc", 4), ("softmax",)],
          num_batches=3, verbosity=1, training_threads=2, sim_threads=2,
          save_path="./example_weights", training_summary="./summary.txt")
    # fmt: on
    output = definetti_np.test([simulate_data()[0] for _ in range(5)], model_path="./example_weights", threads=2)
    assert output.shape == (5, 2)
    assert sorted(os.listdir()) == ["example_weights.checkpoint.npz", "example_weights.npz", "summary.txt"]


def test_train__regression_with_defaults_of_the_original():
    def draw(rng):
        mean = rng.random()
        return rng.normal(mean, 0.1, (12, 1)), np.array([mean])

    shapes = {"input_shape": (12, 1), "output_shape": (1,)}
    layers = {"phi_net": [("fc", 16)], "g": ("moments", 1), "h_net": [("fc", 16), ("matmul",)], "loss": "l2"}
    options = {**SMALL, **shapes, **layers, "num_batches": 150, "accuracy": None, "learning_rate": 0.01}
    model = train(simulator=draw, **options)
    estimates = model.predict([np.full((12, 1), mean) for mean in (0.2, 0.5, 0.8)])
    np.testing.assert_allclose(estimates[:, 0], [0.2, 0.5, 0.8], atol=0.1)


def test_train__summary_has_a_line_every_verbosity_batches(tmp_path):
    path = tmp_path / "summary.txt"
    seen = []

    def watching(rng):
        seen.append(path.read_text().count("\n") if path.exists() else 0)
        return simulator(rng)

    train(simulator=watching, **SMALL, verbosity=2, training_summary=path, check_randomness=False)
    summary = np.loadtxt(path)
    assert summary[:, 0].tolist() == [0, 2, 4]
    assert (summary[:, 1] > 0).all()
    assert ((summary[:, 2] >= 0) & (summary[:, 2] <= 1)).all()
    assert seen[::10] == [0, 1, 1, 2, 2, 3], "written as training goes"
    assert path.read_text().splitlines()[0].startswith("0 ")


def test_train__log_lines(tmp_path):
    train(simulator=simulator, **{**SMALL, "logfile": tmp_path / "log"}, verbosity=2)
    log = (tmp_path / "log").read_text()
    assert "training 122 parameters for 6 batches of 10, with seed 1, 0 simulator processes" in log
    lines = re.findall(
        r"batch (\d) of 6: loss \d\S*, accuracy \d\S*; \d+ examples/s, \d+% of the time (?:waiting for sim|training)",
        log,
    )
    assert lines == ["0", "2", "4", "5"]


def test_train__log_goes_to_stderr_and_the_root_logger_is_left_alone(capsys):
    before = logging.root.handlers[:], logging.root.level, logging.getLogger("definetti_np").handlers[:]
    train(simulator=simulator, **{**SMALL, "logfile": "."})
    output = capsys.readouterr()
    assert "batch 0 of 6" in output.err
    assert output.out == ""
    assert before == (logging.root.handlers, logging.root.level, logging.getLogger("definetti_np").handlers)


def test_train__logfile_none_is_silent(capfd):
    train(simulator=simulator, **SMALL)
    assert capfd.readouterr() == ("", "")


def test_train__a_failing_simulator_leaves_nothing_running(tmp_path):
    def failing(rng):
        return 1 / 0

    for workers in (0, 2):
        with pytest.raises(SimulatorError, match="ZeroDivisionError: division by zero"):
            train(simulator=failing, **{**SMALL, "sim_threads": workers}, save_path=tmp_path / "weights")
    assert os.listdir(tmp_path) == []


def test_train__a_loss_that_is_not_finite_stops_training(tmp_path):
    options = {**SMALL, "phi_net": [], "g": ("moments", 0.5), "h_net": [("softmax",)]}
    with pytest.raises(FloatingPointError, match=r"batch 0 \(examples 0 to 9 of seed 1\): the loss is nan"):
        train(simulator=simulator, **options, save_path=tmp_path / "weights")
    assert os.listdir(tmp_path) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress__a_bar_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = progress(10, 50, 100, to_terminal=True)
    for batch in range(10):
        bar.update({"batch": batch, "loss": 0.25, "accuracy": 0.75}, 1e-9)
    bar.close()
    shown = sys.stderr.getvalue()
    assert "10/10" in shown
    assert "loss 0.25, accuracy 0.75" in shown
    assert "examples/s" in shown
    assert "of the time training" in shown


def test_progress__lines_without_a_terminal_or_tqdm(monkeypatch):
    assert type(progress(10, 50, 100, to_terminal=True)).__name__ == "_Lines"
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(progress(10, 50, 100, to_terminal=False)).__name__ == "_Lines"
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert type(progress(10, 50, 100, to_terminal=True)).__name__ == "_Lines"


def run_python(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_train__workers_never_import_numba(tmp_path):
    done = run_python(
        "import sys, numpy as np, definetti_np\n"
        "def simulate(rng):\n"
        "    assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules\n"
        "    return rng.random((4, 2)), np.array([1.0])\n"
        "definetti_np.train((4, 2), (1,), simulate, phi_net=[('fc', 2)], h_net=[('matmul',)], loss='l2',\n"
        "    num_batches=2, batch_size=5, sim_threads=2)\n"
        "assert 'numba' in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_train__tells_when_it_compiles_and_not_when_it_need_not(tmp_path):
    program = (
        "import numpy as np, definetti_np\n"
        "definetti_np.train((4, 2), (1,), lambda: (np.ones((4, 2)), np.ones(1)), phi_net=[('fc', 2)],\n"
        "    h_net=[('matmul',)], loss='l2', num_batches=1, sim_threads=0, seed=1)\n"
    )
    logs = [run_python(program, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert [done.returncode for done in logs] == [0, 0], logs[0].stderr
    assert [done.stderr.count("compiling kernels") for done in logs] == [1, 0]


def test_train__twice_in_a_process_and_from_another_thread():
    import threading

    results = []
    options = {**SMALL, "sim_threads": 2}
    for _ in range(2):
        results.append(train(simulator=simulator, **options).network.flat.weights.tobytes())
    thread = threading.Thread(
        target=lambda: results.append(train(simulator=simulator, **options).network.flat.weights.tobytes())
    )
    thread.start()
    thread.join()
    assert len(results) == 3
    assert len(set(results)) == 1


def data_of_size(size):
    """The simulator, with data multiplied by a size from example 35 on."""
    calls = []

    def large(rng):
        calls.append(None)
        data, label = simulator(rng)
        return data * (size if len(calls) > 35 else 1), label

    return large


@pytest.mark.parametrize("size", [1e20, 1e30, 1e37])
def test_train__numbers_that_become_too_large_stop_it_at_their_batch(tmp_path, size):
    """The loss is finite for a while where the gradient, or its square, is not."""
    options = {**SMALL, "h_net": [("matmul",)], "loss": "l2"}
    with pytest.raises(
        FloatingPointError,
        match=r"batch 3 \(examples 30 to 39 of seed 1\): the (loss is|gradient) .*Try a smaller learning rate, or data "
        r"and labels of a size near 1\. .*w\.checkpoint\.npz holds the run after 3 batches",
    ):
        train(simulator=data_of_size(size), **options, save_path=tmp_path / "w", checkpoint_every=1)
    assert sorted(os.listdir(tmp_path)) == ["w.checkpoint.npz", "w.checkpoint.previous.npz"]
    state = read_checkpoint(tmp_path / "w.checkpoint.npz")
    twin = train(simulator=data_of_size(1), **{**options, "num_batches": 3})
    assert state.weights.tobytes() == twin.network.flat.weights.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
def test_step__a_gradient_that_is_not_finite_changes_nothing(monkeypatch, bad):
    trainer = definetti_np.Trainer(definetti_np.Network((12, 3), (2,), [("fc", 8)], ("max",), [("softmax",)], seed=1))
    batch = np.ones((2, 12, 3)), np.eye(2)
    trainer.step(*batch)
    optimizer = trainer.optimizer
    arrays = (optimizer.weights, optimizer.first_moments, optimizer.second_moments)
    before = [array.tobytes() for array in arrays]

    def spoiled(*arguments):
        backpropagate(*arguments)
        trainer.network.gradients["h.0.weight"][3, 1] = bad

    monkeypatch.setattr(definetti_np.trainer, "backpropagate", spoiled)
    message = "the gradient is too large" if np.isfinite(bad) else r"the gradient of h\.0\.weight is NaN or infinite"
    with pytest.raises(FloatingPointError, match=f"{message}.*the network is as it was before this step"):
        trainer.step(*batch)
    assert [array.tobytes() for array in arrays] == before
    assert optimizer.steps == 1


def test_train__weights_that_are_not_finite_are_never_written(tmp_path):
    with pytest.raises(FloatingPointError, match="weights are not finite; try a smaller|the loss is nan"):
        train(simulator=simulator, **SMALL, save_path=tmp_path / "w", checkpoint_every=1, learning_rate=1e39)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("rate", [1e37, 3e38, 1e39, 1e308])
@pytest.mark.parametrize(
    "options",
    [{}, {"h_net": [("matmul",)], "loss": "l2"}, {"g": ("moments", 1, 2)}, {"phi_net": [], "h_net": [("softmax",)]}],
    ids=str,
)
@pytest.mark.parametrize("batches", [1, 3])
def test_train__a_learning_rate_that_is_too_large_gives_no_model(tmp_path, saved, rate, options, batches):
    """No step comes after the last one that would find its loss NaN."""
    options = {**SMALL, **options, "num_batches": batches}
    with pytest.raises(FloatingPointError, match="batch [01] .*: the (loss is|gradient).* smaller learning rate"):
        train(
            simulator=simulator,
            **options,
            **{"save_path": tmp_path / "w", "checkpoint_every": 10} if saved else {},
            learning_rate=rate,
        )
    assert os.listdir(tmp_path) == []
