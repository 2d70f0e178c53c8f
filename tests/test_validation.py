"""Validation, history and warm starts: what a run says of itself, which weights it keeps, and which it begins with."""

import dataclasses
import functools
import json
import logging
import os
import sys
import types

import numpy as np
import pytest
from lives import SMALL, run, simulator

import definetti_np
from definetti_np import Model, Network, SimulatorError, Trainer, load, ops, simulate_example, train
from definetti_np.files.checkpoint import read_checkpoint
from definetti_np.history import RunningMeans, read_lines, write_lines
from definetti_np.layers import Dense
from definetti_np.provenance import date_now, digest_of_source
from definetti_np.validation import Validation, ValidationSettings

OPTIONS = {**SMALL, "simulator": simulator, "num_batches": 10, "validation": 40, "verbosity": 4}


def held_examples(number, seed=1, of=simulator):
    data, labels = zip(*[simulate_example(of, seed=seed, index=i, validation=True) for i in range(number)], strict=True)
    return np.array(data), np.array(labels)


def test_validation__is_the_loss_of_the_model_on_examples_of_their_own(tmp_path):
    model = train(**OPTIONS, training_summary=tmp_path / "s", save_path=tmp_path / "w", learning_rate=0.01)
    data, labels = held_examples(40)
    losses = -np.log(model.predict(data)[labels == 1].astype(np.float64))
    right = model.predict(data).argmax(axis=1) == labels.argmax(axis=1)
    history = model.history
    assert history["batch"].tolist() == [0, 4, 8, 9], "every verbosity batches, and at the end"
    np.testing.assert_allclose(history["validation_loss"][-1], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(history["validation_loss_error"][-1], losses.std(ddof=1) / 40**0.5, rtol=1e-5)
    np.testing.assert_allclose(history["validation_accuracy"][-1], right.mean())
    np.testing.assert_allclose(history["validation_accuracy_error"][-1], right.std(ddof=1) / 40**0.5)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "s"), np.column_stack(list(history.values())))
    loaded = load(tmp_path / "w").history
    assert list(loaded) == list(history)
    for name, column in history.items():
        np.testing.assert_array_equal(loaded[name], column)


def test_validation__changes_no_bit_of_the_training():
    plain = train(**{**OPTIONS, "validation": 0})
    assert plain.network.flat.weights.tobytes() == train(**OPTIONS).network.flat.weights.tobytes()
    assert list(plain.history) == ["batch", "loss", "accuracy"]


def test_validation__examples_are_none_of_the_trainings():
    data, _ = held_examples(20)
    others = [simulate_example(simulator, seed=1, index=i)[0].tobytes() for i in range(100)]
    assert not {dataset.tobytes() for dataset in data} & set(others)


def test_validation__a_failing_example_says_how_to_repeat_it():
    def failing(rng):
        raise ArithmeticError

    with pytest.raises(SimulatorError, match=r"validation example 0 of seed 1: .*[\s\S]*index=0, validation=True\)"):
        train(**{**OPTIONS, "simulator": failing})


def test_evaluate__functions_give_what_names_give():
    network = Network((12, 3), (2,), [("fc", 8)], ("max",), [("softmax",)], seed=1)
    data, labels = held_examples(10)

    def loss(prediction, label):
        return ops.mean(ops.sum(prediction * (-label), axis=1))

    def accuracy(prediction, label):
        return np.mean(prediction.argmax(axis=1) == label.argmax(axis=1))

    by_name = Trainer(network).evaluate(data, labels)
    by_function = Trainer(network, loss=loss, accuracy=accuracy).evaluate(data, labels)
    np.testing.assert_allclose(by_function[0], by_name[0], rtol=1e-5)
    np.testing.assert_array_equal(by_function[1], by_name[1])
    np.testing.assert_allclose(by_name[0].mean(), Trainer(network).step(data, labels)[0], rtol=1e-5)


class Stub:
    """A trainer whose losses are given."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def with_average(self):
        return Trainer.with_average(self)

    optimizer = types.SimpleNamespace(weights=np.zeros(1), average=np.zeros(0), steps=0)

    def evaluate(self, data, labels):
        loss = next(self.losses)
        return np.array([loss, loss]), np.array([loss, loss])


@pytest.mark.parametrize(
    ("losses", "best", "over"),
    [
        ([3, 2, 1], [True, True, True], [False] * 3),
        ([1, 2, 2, 0.5], [True, False, False, True], [False, False, True, False]),
        ([1, 1, 1, 1], [True, False, False, False], [False, False, True, True]),
        ([np.nan, 1, np.nan, 2], [True, True, False, False], [False, False, False, True]),
    ],
)
def test_validation__best_and_patience(losses, best, over):
    validation, trainer = Validation(ValidationSettings(2, patience=2), [(None, None)]), Stub(losses)
    seen = []
    for _ in losses:
        validation.evaluate(trainer)
        seen.append((validation.is_best, validation.is_over))
    assert seen == list(zip(best, over, strict=True))


def test_keep__best_gives_the_weights_of_the_lowest_validation_loss():
    def noisy(rng):
        data, label = simulator(rng)
        return data, label if rng.random() < 0.8 else 1 - label

    options = {**OPTIONS, "simulator": noisy, "learning_rate": 0.2, "num_batches": 20, "verbosity": 1}
    last, best = train(**options), train(**options, keep="best")
    losses = best.history["validation_loss"]
    assert losses.argmin() < 19, "otherwise this tests nothing"
    np.testing.assert_array_equal(losses, last.history["validation_loss"])
    data, labels = held_examples(40, of=noisy)
    loss = -np.log(best.predict(data)[labels == 1].astype(np.float64)).mean()
    np.testing.assert_allclose(loss, losses.min(), rtol=1e-4)
    assert losses.min() > 0.1


def test_patience__ends_early_and_a_resumed_run_stays_ended(tmp_path):
    options = {"learning_rate": 0.5, "num_batches": 40, "verbosity": 1, "validation": 40, "patience": 3, "keep": "best"}
    model = run(tmp_path, **options)
    assert model.batches_trained < 40
    assert model.history["validation_loss"].argmin() == model.batches_trained - 4
    before = (tmp_path / "w.npz").read_bytes()
    run(tmp_path, **options, resume=True)
    assert (tmp_path / "w.npz").read_bytes() == before


def test_accuracy__of_a_squared_error_is_none_unless_it_is_asked_for():
    network = Network((12, 3), (2,), [], ("max",), [("matmul",)], seed=1)
    assert Trainer(network, loss="l2").accuracy is None
    assert Trainer(network, loss="l2", accuracy="classification").accuracy == "classification"
    assert Trainer(Network((12, 3), (2,), [], ("max",), [("softmax",)], seed=1)).accuracy == "classification"


def test_log__tells_of_validation_and_reused_batches(caplog):
    caplog.set_level(logging.INFO, logger="definetti_np")
    train(**{**OPTIONS, "reuse": 2})
    assert "simulating 40 examples for validation" in caplog.text
    line = next(text for text in caplog.messages if text.startswith("batch 4 of 10"))
    assert "; loss of new examples 0." in line
    assert ", of reused ones 0." in line
    assert "; validation loss 0." in line
    assert " +- 0." in line


def test_running_means__are_those_of_the_last_batches():
    means, rng = RunningMeans(), np.random.default_rng(1)
    fresh = rng.random(50)
    for loss in fresh:
        means.add(loss, 2 * loss)
    np.testing.assert_allclose([means.fresh, means.reused], [fresh.mean(), 2 * fresh.mean()])
    np.testing.assert_allclose(means.variance, fresh.var())
    for _ in range(2000):
        means.add(7.0, 8.0)
    np.testing.assert_allclose([means.fresh, means.reused], [7, 8])
    assert not means.overfits


@pytest.mark.parametrize(
    ("fresh", "reused", "noise", "overfits"), [(0.2, 0.1, 0.05, True), (0.2, 0.17, 0.05, False), (0.2, 0.1, 0.6, False)]
)
def test_running_means__overfit_where_the_gap_is_large_and_certain(fresh, reused, noise, overfits):
    means, rng = RunningMeans(), np.random.default_rng(1)
    for _ in range(500):
        means.add(fresh + noise * rng.standard_normal(), reused)
    assert means.overfits == overfits


def test_train__warns_once_when_a_run_overfits(caplog):
    """With labels that are random, what is learned is the examples."""

    def random_labels(rng):
        return rng.standard_normal((12, 3)), np.eye(2)[rng.integers(2)]

    options = {**SMALL, "simulator": random_labels, "num_batches": 130, "reuse": 30, "reuse_capacity": 20}
    layers = {"phi_net": [("fc", 64)], "g": ("sort",), "h_net": [("fc", 64), ("softmax",)]}
    train(**{**options, **layers}, learning_rate=0.01)
    warnings = [record.getMessage() for record in caplog.records if "overfits" in record.getMessage()]
    assert len(warnings) == 1
    assert "of new examples, before a step on them, and " in warnings[0]


def test_lines__and_arrays_are_the_same_and_long_histories_are_thinned():
    lines = [f"{batch} {batch / 3!r} nan" for batch in range(5)]
    arrays = read_lines(["batch", "loss", "accuracy"], lines)
    assert write_lines(arrays) == lines
    assert len(write_lines({"batch": np.arange(25_000)})) == 8334
    with pytest.raises(ValueError, match="a line of 3 numbers for the columns batch, loss"):
        read_lines(["batch", "loss"], lines)


def test_bar__in_a_notebook(monkeypatch):
    tqdm = pytest.importorskip("tqdm.auto")
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    made = []

    class Widget:
        def __init__(self, **options):
            made.append(options)

        def set_postfix_str(self, text, refresh):
            made.append(text)

        def update(self):
            made.append("update")

        def close(self):
            made.append("close")

    monkeypatch.setattr(tqdm, "tqdm", Widget)
    bar = definetti_np.progress.progress(10, 5, 1, to_terminal=True)
    bar.update({"batch": 0, "loss": 0.5, "accuracy": 0.25}, 0.0, "; validation loss 0.4")
    bar.close()
    assert made[0] == {"total": 10, "initial": 0, "unit": "batch", "dynamic_ncols": True}
    assert "loss 0.5, accuracy 0.25; validation loss 0.4" in made[1]
    assert made[2:] == ["update", "close"]


# Files that explain themselves


def test_model__says_how_it_was_trained(tmp_path):
    metadata = {"names": ["narrow", "wide"], "note": {"n": 1.5, "ok": None}}
    run(tmp_path, metadata=metadata, weight_decay=0.1)
    model = load(tmp_path / "w")
    assert model.metadata == metadata
    assert model.info["date"] == "2027-01-15", "that of SOURCE_DATE_EPOCH"
    wanted = {"simulator": "simulator", "batch_size": 10, "learning_rate": 0.001, "weight_decay": 0.1}
    assert wanted.items() <= model.info.items()
    model.save(tmp_path / "again")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "w.npz").read_bytes()


def test_date__is_that_of_the_start(tmp_path, monkeypatch):
    run(tmp_path, num_batches=3)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert date_now() == "1970-01-01"
    assert run(tmp_path, resume=True).info["date"] == "2027-01-15"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert date_now() > "2025"


def test_resume__warns_if_the_source_of_the_simulator_has_changed(tmp_path, caplog):
    def changed(rng):
        return simulator(rng)

    changed.__qualname__ = "simulator"
    run(tmp_path, num_batches=3)
    run(tmp_path, resume=True, num_batches=4)
    assert "has changed" not in caplog.text
    run(tmp_path, simulator=changed, resume=True)
    assert "the source of the simulator simulator has changed since the run began" in caplog.text


class Simulating:
    """A simulator that is an object, as scientists write them."""

    def __call__(self, rng):
        return self.draw(rng)

    def draw(self, rng):
        return simulator(rng)


class Inheriting(Simulating):
    @staticmethod
    def draw(rng):
        return simulator(rng)


def test_digest_of_source__is_of_what_simulates():
    assert digest_of_source(functools.partial(functools.partial(simulator), scale=2)) == digest_of_source(simulator)
    assert digest_of_source(Simulating()) == digest_of_source(Simulating)
    different = [simulator, Simulating().draw, Simulating(), Inheriting.draw, Inheriting()]
    assert len({digest_of_source(one) for one in different} - {None}) == len(different)
    for without_source in (None, len, np.add, eval("lambda rng: rng"), dataclasses.make_dataclass("Made", "a")(1)):
        assert digest_of_source(without_source) is None


def test_digest_of_source__parses_nothing(monkeypatch):
    """Python 3.11 cannot parse in two threads at a time: a run failed for it while a pool told of an error."""

    def parse(*arguments, **options):
        raise SystemError("AST constructor recursion depth mismatch (before=135, after=30)")

    monkeypatch.setattr("ast.parse", parse)
    assert digest_of_source(Simulating()) is not None


def test_load__reads_a_checkpoint_as_a_model(tmp_path):
    model = run(tmp_path, averaging=0.9, num_batches=8)
    loaded = load(tmp_path / "w.checkpoint")
    data, _ = held_examples(5)
    np.testing.assert_array_equal(loaded.predict(data), model.predict(data))
    assert (loaded.batches_trained, loaded.seed, loaded.loss) == (8, 1, "cross-ent")
    assert loaded.info == model.info
    assert loaded.history["batch"].tolist() == [0, 2, 4, 6]


def test_with_rows__predicts_as_before_for_other_numbers_of_rows():
    model = train(**{**OPTIONS, "validation": 0})
    data, _ = held_examples(5)
    free = model.with_rows(None)
    np.testing.assert_array_equal(free.predict(data), model.predict(data))
    assert free.predict(data[:, :4]).shape == (5, 2)
    assert free.history == model.history
    with pytest.raises(ValueError, match="12"):
        model.predict(data[:, :4])
    with pytest.raises(ValueError, match="sort"):
        Model(
            Network((12, 3), (2,), [], ("sort",), [("softmax",)]), loss="cross-ent", seed=1, batches_trained=0
        ).with_rows(None)
    dense = Dense(4)
    function = Network.from_function((12, 3), (2,), lambda x: ops.max(dense(x)), seed=1)
    assert function.with_rows(5)(data[:, :5]).shape == (5, 4)


def first_loss(**options):
    return train(**{**OPTIONS, "num_batches": 1, "validation": 0, "batch_size": 20, **options}).history["loss"][0]


def test_initial__training_goes_on_from_the_weights_of_a_model(tmp_path):
    model = run(tmp_path, num_batches=200, learning_rate=0.01, batch_size=20)
    from_model = first_loss(initial=model)
    assert from_model < 0.3 < 0.5 < first_loss()
    assert first_loss(initial=tmp_path / "w") == first_loss(initial=str(tmp_path / "w.checkpoint")) == from_model
    other_rows = train(**{**OPTIONS, "input_shape": (None, 3), "num_batches": 1, "initial": tmp_path / "w"})
    assert other_rows.network.spec.input_shape == (None, 3)


def test_initial__is_part_of_a_run_that_is_resumed(tmp_path):
    model = run(tmp_path, num_batches=3)
    (tmp_path / "here").mkdir()
    run(tmp_path / "here", initial=model, num_batches=4)
    with pytest.raises(ValueError, match="initial=None, the checkpoint has '"):
        run(tmp_path / "here", resume=True)
    run(tmp_path / "here", initial=model, resume=True)
    (tmp_path / "twin").mkdir()
    run(tmp_path / "twin", initial=model)
    assert (tmp_path / "here" / "w.npz").read_bytes() == (tmp_path / "twin" / "w.npz").read_bytes()


def model_with(**changes):
    lists = {"phi_net": [("fc", 8)], "g": ("max",), "h_net": [("fc", 8), ("softmax",)], **changes}
    return Model(Network((12, 3), (2,), **lists, seed=1), loss="cross-ent", seed=1, batches_trained=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation": -1}, ValueError, "validation must be at least 0, got -1"),
        ({"validation": 1}, ValueError, "validation must be 0 or at least 2, because one example has no standard error; got 1"),
        ({"validation": 10**12}, ValueError, "validation: 1000000000000 examples are held in memory and take .* GiB at least"),
        ({"validation": 0, "keep": "best"}, ValueError, "keep='best' needs validation, .*; got validation=0"),
        ({"keep": "first"}, ValueError, "keep: unknown choice 'first'; choose from 'last', 'best'"),
        ({"validation": 0, "patience": 3}, ValueError, "patience needs validation, .*; got patience=3"),
        ({"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ({"metadata": [1]}, TypeError, "metadata must be a dict of plain JSON, got list"),
        ({"metadata": {"a": np.zeros(2)}}, TypeError, "metadata must be plain JSON .*ndarray"),
        ({"metadata": {"a": float("nan")}}, TypeError, "metadata must be plain JSON"),
        ({"metadata": {1: 2}}, TypeError, "metadata must have keys of text, got 1"),
        ({"metadata": {"a": "x" * 2**20}}, ValueError, "metadata must take at most 1048576 bytes"),
        ({"initial": 3}, TypeError, "initial must be a Model, or the path of one, got 3"),
        ({"initial": "nowhere"}, definetti_np.ModelFileError, "nowhere.npz: there is no such model file"),
        ({"initial": model_with(g=("top_k", 1))}, ValueError, r"initial must be .* the same layers: g=\['max'\], initial has \['top_k', 1\]"),
        ({"initial": model_with(phi_net=[("fc", 9)])}, ValueError, r"phi_net=\[\['fc', 8\]\], initial has \[\['fc', 9\]\]"),
    ],
)  # fmt: skip
def test_train__arguments(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        train(**{**OPTIONS, **options})
    assert os.listdir(tmp_path) == []


def test_load__a_history_that_does_not_add_up_is_refused(tmp_path):
    from test_modelfile import rewrite

    run(tmp_path, num_batches=3)
    for change in ({"columns": ["batch"]}, {"lines": ["0 x 1"]}, {"lines": 3}):
        run(tmp_path, num_batches=3)
        rewrite(tmp_path / "w.npz", lambda header, arrays, change=change: header["history"].update(change))
        with pytest.raises(definetti_np.ModelFileError, match=r"w\.npz: the header describes no network"):
            load(tmp_path / "w")


def test_checkpoint__holds_what_validation_needs(tmp_path):
    run(tmp_path, num_batches=4, validation=10, keep="best")
    state = read_checkpoint(tmp_path / "w.checkpoint.npz")
    assert state.best.size == state.weights.size
    assert len(state.state["last"].split()) == 2
    assert json.dumps(state.state["started"])
