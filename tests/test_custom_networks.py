"""Networks, losses and accuracies of users: right, symmetric, saved and loaded, and refused with reasons."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from custom_cases import ADAM_STEPS, CUSTOM_CASES
from test_pytorch_parity import assert_close, by_name
from test_training import SMALL, sha, simulator

import definetti_np
from definetti_np import Model, ModelFileError, MultisetBatch, Network, Parameter, Trainer, load, ops, train
from definetti_np.files.archive import write_model
from definetti_np.layers import Conv, Dense, Sequential

FOLDER = Path(__file__).parent / "references" / "custom"
each_case = pytest.mark.parametrize("name", CUSTOM_CASES)
each_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def reference_trainer(name, dtype):
    case = CUSTOM_CASES[name]
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        reference = dict(file)
    network = case.network(seed=1, dtype=dtype)
    initial = by_name(reference, "initial.")
    assert {n: p.shape for n, p in network.parameters.items()} == {n: p.shape for n, p in initial.items()}
    for parameter_name, parameter in network.parameters.items():
        parameter[...] = initial[parameter_name]
    return reference, network, Trainer(network, loss=case.loss, accuracy=None)


@each_case
@each_dtype
def test_output_loss_and_gradients__as_in_pytorch(name, dtype):
    reference, network, trainer = reference_trainer(name, dtype)
    output = network(reference["data"])
    assert output.dtype == dtype
    assert_close(output, reference["output"], dtype, "output")
    loss, _ = trainer.step(reference["data"], reference["labels"])
    assert_close(loss, reference["loss"], dtype, "loss")
    for parameter_name, gradient in by_name(reference, "gradient.").items():
        assert_close(network.gradients[parameter_name], gradient, dtype, parameter_name)


@each_case
def test_twenty_adam_steps__as_in_pytorch(name):
    reference, network, trainer = reference_trainer(name, np.float64)
    for _ in range(ADAM_STEPS):
        trainer.step(reference["data"], reference["labels"])
    for parameter_name, trained in by_name(reference, "trained.").items():
        assert_close(network.parameters[parameter_name], trained, np.float64, parameter_name)


@each_case
def test_custom_networks__row_order_threads_and_company_change_no_bit(name):
    reference, network, _ = reference_trainer(name, np.float32)
    rng, data, labels = np.random.default_rng(1), reference["data"], reference["labels"]
    together = network(data)
    permuted = np.array([rng.permutation(dataset) for dataset in data])
    assert network(permuted).tobytes() == together.tobytes()
    for dataset, prediction in zip(data, together, strict=True):
        assert network([dataset]).tobytes() == prediction.tobytes()
    results = set()
    for threads, batch in ((1, data), (2, permuted), (4, data)):
        _, twin, _ = reference_trainer(name, np.float32)
        trainer = Trainer(twin, loss=CUSTOM_CASES[name].loss, accuracy=None, threads=threads)
        results.add((*(trainer.step(batch, labels) for _ in range(3)), twin.flat.weights.tobytes()))
    assert len(results) == 1


# train, save, load


def a_network():
    phi, h = Dense(8), Sequential([Dense(8), Dense(2, activation=None)])
    scale = Parameter(1.0, name="scale")
    return lambda x: ops.log_softmax(h(ops.concatenate([ops.max(phi(x)), ops.var(x) * scale], axis=1)))


def weighted_loss(prediction, label):
    return -ops.mean(ops.sum(np.array([1, 3]) * label * prediction, axis=1))


def share_right(prediction, label):
    assert type(prediction) is type(label) is np.ndarray
    return np.mean(prediction.argmax(axis=1) == label.argmax(axis=1))


CUSTOM = {key: value for key, value in SMALL.items() if key not in ("phi_net", "h_net")}
CUSTOM |= {"loss": weighted_loss, "accuracy": share_right}


def test_train__a_network_loss_and_accuracy_of_the_user(tmp_path):
    function, path = a_network(), tmp_path / "weights"
    options = {"network_function": function, "num_batches": 100, "learning_rate": 0.01, "phi_net": "ignored"}
    model = train(simulator=simulator, **{**CUSTOM, **options}, save_path=path)
    examples = [simulator(np.random.default_rng(10_000 + i)) for i in range(200)]
    data, labels = [data for data, _ in examples], np.array([label for _, label in examples])
    predictions = model.predict(data)
    assert share_right(predictions, labels) > 0.9
    np.testing.assert_array_equal(definetti_np.test(data, path, network_function=function), predictions)
    loaded = load(path, network_function=a_network())
    np.testing.assert_array_equal(loaded.predict(data), predictions)
    assert loaded.predict([]).shape == (0, 2)
    assert (model.loss, loaded.loss) == (weighted_loss, "function weighted_loss")
    loaded.save(tmp_path / "again")
    assert sha(path.with_suffix(".npz")) == sha(tmp_path / "again.npz")
    np.testing.assert_array_equal(load(tmp_path / "again", network_function=function).predict(data), predictions)


def test_train__same_file_for_any_number_of_workers_and_threads(tmp_path):
    files = set()
    for workers, threads in [(0, 1), (1, 2), (2, 4)]:
        options = {"sim_threads": workers, "training_threads": threads}
        train(simulator=simulator, **{**CUSTOM, **options}, network_function=a_network(), save_path=tmp_path / "w")
        files.add(sha(tmp_path / "w.npz"))
    assert len(files) == 1


def test_train__resumed_run_ends_in_the_same_bits(tmp_path):
    options = {**CUSTOM, "network_function": a_network()}
    train(simulator=simulator, **options, save_path=tmp_path / "whole")
    train(simulator=simulator, **{**options, "num_batches": 3}, save_path=tmp_path / "parts")
    with pytest.raises(ValueError, match="loss='cross-ent', the checkpoint has 'function weighted_loss'"):
        train(simulator=simulator, **{**options, "loss": "cross-ent"}, save_path=tmp_path / "parts", resume=True)
    train(simulator=simulator, **options, save_path=tmp_path / "parts", resume=True)
    assert sha(tmp_path / "parts.npz") == sha(tmp_path / "whole.npz")


def test_train__reports_what_it_found(tmp_path):
    train(simulator=simulator, **{**CUSTOM, "logfile": tmp_path / "log"}, network_function=a_network())
    assert (
        "network_function has 7 arrays of parameters: dense.0.weight (3, 8), dense.0.bias (8,), scale (), "
        "dense.2.weight (11, 8)"
    ) in (tmp_path / "log").read_text()


def test_train__a_loss_and_an_accuracy_with_the_layer_lists(tmp_path):
    options = {**SMALL, "loss": weighted_loss, "accuracy": share_right, "num_batches": 60, "learning_rate": 0.01}
    model = train(simulator=simulator, **options, save_path=tmp_path / "weights")
    data = [simulator(np.random.default_rng(i))[0] for i in range(5)]
    loaded = load(tmp_path / "weights")
    np.testing.assert_array_equal(loaded.predict(data), model.predict(data))
    np.testing.assert_allclose(loaded.predict(data).sum(axis=1), 1, rtol=1e-5)
    assert loaded.loss == "function weighted_loss"


def test_trainer__a_loss_of_the_user_is_the_built_in_one():
    """Cross-entropy and squared error written with operations: the same losses and weights, to rounding."""
    rng = np.random.default_rng(1)
    data = rng.standard_normal((4, 6, 5))
    written = {
        "cross-ent": lambda p, y: -ops.mean(ops.sum(y * p, axis=1)),
        "l2": lambda p, y: ops.mean(ops.sum((p - y) ** 2, axis=1)),
    }
    for loss, last in (("cross-ent", "softmax"), ("l2", "matmul")):
        results = []
        for choice in (loss, written[loss]):
            network = Network((6, 5), (2,), [("fc", 7)], ("max",), [(last,)], seed=1, dtype=np.float64)
            trainer = Trainer(network, loss=choice, accuracy=lambda p, y: p.sum())
            results.append(([trainer.step(data, np.eye(2)[[0, 1, 1, 0]]) for _ in range(3)], network.flat.weights))
        np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-12)
        np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-10)


def test_load__needs_the_function_and_its_parameters(tmp_path):
    path = tmp_path / "weights"
    model = Model(Network.from_function((6, 3), (2,), a_network(), seed=1), loss="cross-ent", seed=1, batches_trained=0)
    model.save(path)
    for call in (load, lambda path: definetti_np.test([], path)):
        with pytest.raises(
            ModelFileError, match=r"a model of a network_function \(function a_network.*give the functi"
        ):
            call(path)
    wide, other = Dense(9), Dense(2, None)
    with pytest.raises(
        ModelFileError,
        match=r"has other parameters than the model: dense.0.bias \(\(9,\) in the function, \(8,\) in the file\), .*scale \(none in the function, \(\) in the file\)",
    ):
        load(path, network_function=lambda x: other(ops.max(wide(x))))
    with pytest.raises(
        ModelFileError, match="network_function fails on data of the model's shapes.*the width is larger"
    ):
        load(path, network_function=Conv(9, 2))
    lists = Network((6, 3), (2,), [], ("max",), [("softmax",)], seed=1)
    Model(lists, loss="cross-ent", seed=1, batches_trained=0).save(path)
    with pytest.raises(
        ModelFileError, match="a model of phi_net, g and h_net, without a network_function; leave it out"
    ):
        load(path, network_function=a_network())


def test_load__a_header_whose_network_is_a_list(tmp_path):
    description = {"network": ["function"], "loss": "l2", "seed": 1, "batches_trained": 0}
    write_model(tmp_path / "weights.npz", description, {})
    with pytest.raises(ModelFileError, match="the header describes no network"):
        load(tmp_path / "weights")


def test_network__any_number_of_rows():
    phi, h = Dense(5), Dense(2, None)
    network = Network.from_function((None, 4), (2,), lambda x: h(ops.flatten(ops.top_k(phi(x), 3))), seed=1)
    assert network([np.ones((5, 4)), np.ones((3, 4))]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"features: top_k needs 1 <= k <= 2 \(the number of rows\), got k=3"):
        network([np.ones((5, 4)), np.ones((2, 4))])
    with pytest.raises(ValueError, match="sort: datasets of 1000 to 1001 rows; for any number of rows use top_k"):
        Network.from_function((None, 4), (2,), lambda x: h(ops.flatten(ops.sort(phi(x)))))


def test_trainer__a_gradient_of_what_the_loss_does_not_depend_on_is_zero():
    used, unused = Dense(2, None), Dense(2, None)
    network = Network.from_function((6, 3), (2,), lambda x: used(ops.max(x)) + ops.constant(unused(ops.max(x))), seed=1)
    network.flat.gradients[:] = 9
    Trainer(network, loss="l2", accuracy=None).step(np.ones((2, 6, 3)), np.ones((2, 2)))
    assert not network.gradients["dense.1.weight"].any()
    assert network.gradients["dense.0.weight"].any()


# What is refused


def step(function, shapes=((6, 3), (2,)), **options):
    rng = np.random.default_rng(1)
    network = Network.from_function(*shapes, function, seed=1)
    trainer = Trainer(network, **{"loss": "l2", "accuracy": None, **options})
    before = network.flat.weights.copy()
    data = [rng.standard_normal((6, 3)).round() for _ in range(5)]
    try:
        trainer.step(data, np.eye(2)[[0, 1, 1, 0, 1]])
    except Exception:
        np.testing.assert_array_equal(network.flat.weights, before)
        raise


def positional(x):
    """Weighs rows by their place in memory."""
    weights = np.sin(np.arange(len(x.counts)))[:, np.newaxis]
    return OUT(ops.mean(replace(x, values=x.values * weights)))


OUT = Dense(2, None)


def ignores_counts(x):
    """Takes the mean over the distinct rows, each once."""
    return OUT(ops.mean(replace(x, counts=np.ones_like(x.counts))))


def test_check__not_permutation_invariant():
    for function in (positional, ignores_counts):
        with pytest.raises(
            ValueError,
            match=r"not permutation invariant: with the rows of each dataset in another order its output \d of dataset "
            r"\d goes from \S+ to \S+; the first result of shape \(B, ...\) that changes is that of call 1 of ops.mean\.",
        ):
            step(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: OUT(ops.mean(x) - ops.mean(ops.mean(x), axis=0)),
        lambda x: OUT(ops.mean(x)[::-1]),
        lambda x: OUT(ops.mean(x) - ops.mean(x)[0:1]),
        lambda x: OUT(ops.mean(x) - ops.mean(x)[-1:]),
    ],
)
def test_check__datasets_of_a_batch_are_mixed(function):
    with pytest.raises(ValueError, match=r"mixes the datasets of a batch: computed between others, the output \d of"):
        step(function)


def test_check__a_function_that_draws_by_itself():
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="other results for the same batch: .* use ops.dropout"):
        step(lambda x: OUT(ops.mean(x) * rng.random(3)))


def test_check__dropout_with_a_generator_is_fine():
    rng = np.random.default_rng(1)
    step(lambda x: OUT(ops.dropout(ops.mean(ops.dropout(x, 0.5, rng)), 0.5, rng)))


def test_check__a_function_that_fails_between_other_datasets():
    calls = []

    def function(x):
        calls.append(len(x.offsets) - 1)
        if len(calls) == 5:
            raise KeyError("a table of five datasets")
        return OUT(ops.mean(x))

    with pytest.raises(KeyError, match="a table") as caught:
        step(function)
    assert calls == [2, 5, 5, 5, 20], "traced, computed twice, shuffled, and between others"
    assert "network_function failed with other datasets beside the batch, not before" in caught.value.__notes__[0]


def test_trace__says_that_the_data_is_made_up():
    with pytest.raises(ValueError, match=r"add: .* \(B, N\) = \(2, 3\) and an array of shape \(5, 1\)") as caught:
        Network.from_function((6, 3), (2,), lambda x: OUT(ops.mean(x) + np.ones((5, 1))))
    assert "called on made-up data, 2 datasets of 6 rows of shape (3,)" in caught.value.__notes__[0]


def test_check__passes_what_is_invariant_whatever_its_scale():
    layer = Dense(2, None)
    for scale in (1e-12, 1.0, 1e12):
        step(lambda x, s=scale: layer(ops.var(x) * s + ops.mean(x * s) - ops.sum(x)), loss=small_loss)


def small_loss(prediction, label):
    return ops.mean(ops.tanh(prediction))


REFUSED = {
    "no tensor": (lambda x: 3, {}, TypeError, r"network_function must return a Tensor \(B, M\), got 3"),
    "features": (lambda x: x, {}, TypeError, "must return a Tensor .*, got features of rows of shape"),
    "three axes": (lambda x: ops.top_k(x, 2), {}, ValueError, r"here \(2, M\), got shape \(2, 3, 2\)"),
    "no parameter": (lambda x: ops.mean(x)[:, :2], {"loss": small_loss}, ValueError, "there is no gradient path"),
    "a loss of arrays": (lambda x: OUT(ops.mean(x)), {"loss": lambda p, y: 0.5}, ValueError, "depends on a parameter, got 0.5"),
    "a loss of many": (lambda x: OUT(ops.mean(x)), {"loss": lambda p, y: p - y}, ValueError, r"one number, got a Tensor of shape \(5, 2\)"),
    "a loss of labels": (lambda x: OUT(ops.mean(x)), {"loss": lambda p, y: ops.mean(y)}, ValueError, "there is no gradient path"),
    "no probabilities": (lambda x: OUT(ops.mean(x)), {"loss": "cross-ent"}, ValueError, "let network_function end in ops.log_softmax"),
    "other outputs": (lambda x: ops.mean(x), {}, ValueError, r"loss 'l2' needs predictions of the labels' shape \(B, 2\), network_function returns \(B, 3\)"),
    "sin": (lambda x: OUT(np.sin(ops.mean(x))), {}, TypeError, "closest operation by name"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_trainer__what_does_not_fit(name):
    function, options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        step(function, **options)


def test_trainer__an_accuracy_that_is_no_number():
    network = Network.from_function((6, 3), (2,), lambda x: OUT(ops.mean(x)), seed=1)
    with pytest.raises(TypeError, match="accuracy must return a number, got 'good'"):
        Trainer(network, loss="l2", accuracy=lambda p, y: "good").step(np.ones((2, 6, 3)), np.ones((2, 2)))


def test_train__a_loss_that_is_nan_on_the_first_batch(tmp_path):
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(FloatingPointError, match=r"batch 0 \(examples 0 to 9 of seed 1\): the loss"),
    ):
        train(
            simulator=simulator,
            **{**CUSTOM, "loss": lambda p, y: ops.mean(ops.log(p - 10))},
            network_function=a_network(),
            save_path=tmp_path / "weights",
        )
    assert not list(tmp_path.iterdir())


def test_train__layers_created_in_the_function():
    with pytest.raises(
        ValueError, match=r"changes its parameters between calls: Dense\(2\) was not used when it was tra"
    ):
        train(simulator=simulator, **CUSTOM, network_function=lambda x: Dense(2)(ops.max(x)))


def test_trainer__parameters_that_are_not_used_every_time():
    first, second, calls = Dense(2, None), Dense(2, None), []

    def function(x):
        calls.append(1)
        pooled = ops.max(x)
        return first(pooled) + second(pooled) if len(calls) == 1 else first(pooled)

    with pytest.raises(ValueError, match="did not use dense.1.weight, dense.1.bias this time"):
        step(function)


def test_trainer__a_layer_that_meets_another_size():
    layer, calls = Dense(2, None), []

    def function(x):
        calls.append(1)
        return layer(ops.max(x)[:, : 3 if len(calls) == 1 else 2])

    with pytest.raises(ValueError, match=r"Dense\(2\): its weight has shape \(3, 2\), this input needs \(2, 2\)"):
        step(function)


def test_network__a_function_is_needed():
    with pytest.raises(TypeError, match="network_function must be a function, got 3"):
        Network.from_function((6, 3), (2,), 3)


def test_network__repeated_rows_count():
    """A dataset in which every row occurs three times has the same means; its sums are three times as large."""
    layer = Dense(2, None)
    network = Network.from_function((None, 3), (2,), lambda x: layer(ops.mean(x)) + ops.sum(x)[:, :2], seed=1)
    data = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
    once, thrice = network([data, np.tile(data, (3, 1))])
    np.testing.assert_allclose(thrice - once, 2 * data.sum(axis=0)[:2], rtol=1e-5, atol=1e-6)
    batch = MultisetBatch.from_datasets([data])
    np.testing.assert_array_equal(network(batch)[0], once)


def test_train__leaves_the_logger_alone(caplog):
    with caplog.at_level(logging.INFO, "definetti_np"):
        train(simulator=simulator, **CUSTOM, network_function=a_network())
    assert "arrays of parameters" in caplog.text
