"""Networks: their function, and that it depends on the multiset of rows alone, to the last bit."""

import copy
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from definetti_np import Model, MultisetBatch, Network, Trainer
from definetti_np.predictor import _parts

G = st.sampled_from([("max",), ("top_k", 1), ("top_k", 2), ("sort",), ("moments", 1, 2), ("moments", 0.5, 1, 3.5)])
LAYERS = st.lists(
    st.one_of(
        st.tuples(st.just("conv"), st.integers(1, 2), st.integers(1, 4)),
        st.tuples(st.just("fc"), st.integers(4, 6)),
    ),
    max_size=2,
)
FINAL = st.sampled_from([("matmul",), ("softmax",)])


@st.composite
def networks_and_data(draw):
    """A small network of any kind, and a few datasets with few, many or no repeats."""
    n, width, channels = draw(st.integers(2, 7)), draw(st.integers(5, 7)), draw(st.sampled_from([None, 1, 3]))
    shape = (n, width) if channels is None else (n, width, channels)
    seed = draw(st.integers(0, 1000))
    network = Network(shape, (3,), draw(LAYERS), draw(G), [*draw(LAYERS), draw(FINAL)], seed=seed)
    rng = np.random.default_rng(seed)
    for parameter in network.parameters.values():
        parameter[...] = rng.normal(0.1, 0.4, parameter.shape)
    data = np.abs(rng.standard_normal((4, *shape))).astype(np.float32)
    if draw(st.booleans()):
        data = np.round(data)
    for dataset in data:
        dataset[:] = dataset[rng.integers(0, draw(st.integers(1, n)), n)]
    return network, data, rng


@given(networks_and_data())
def test_network__computes_the_reference_function(case):
    network, data, _ = case
    expected = reference.network(network.spec, network.parameters, data)
    if network.spec.ends_in_softmax:
        expected = np.exp(expected)
    np.testing.assert_allclose(network(data), expected, rtol=2e-4, atol=2e-5)


@given(networks_and_data())
def test_network__permuted_rows_change_no_bit(case):
    network, data, rng = case
    permuted = np.array([rng.permutation(dataset) for dataset in data])
    assert network(permuted).tobytes() == network(data).tobytes()


@given(networks_and_data())
def test_network__alone_or_in_a_batch_is_the_same_to_the_bit(case):
    network, data, _ = case
    together = network(data)
    for dataset, prediction in zip(data, together, strict=True):
        assert network([dataset]).tobytes() == prediction.tobytes()
    assert network(MultisetBatch.from_datasets(data)).tobytes() == together.tobytes()


@given(networks_and_data(), st.sampled_from([2, 3, 4]))
def test_trainer__threads_and_row_order_change_no_bit(case, threads):
    network, data, rng = case
    spec, labels = network.spec, rng.dirichlet(np.ones(3), len(data))
    loss = "cross-ent" if spec.ends_in_softmax else "l2"
    results = []
    for number, batch in ((1, data), (threads, np.array([rng.permutation(dataset) for dataset in data]))):
        twin = Network(**spec.as_dict(), seed=network.seed)
        trainer = Trainer(twin, loss=loss, threads=number)
        losses = [trainer.step(batch, labels) for _ in range(3)]
        results.append((losses, twin.flat.weights.tobytes()))
    assert results[0] == results[1]


def test_network__rows_of_any_number():
    network = Network((None, 4), (2,), [("fc", 5)], ("moments", 1, 2), [("softmax",)], seed=1)
    rng = np.random.default_rng(1)
    data = [rng.standard_normal((n, 4)) for n in (1, 3, 50)]
    predictions = network(data)
    assert predictions.shape == (3, 2)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-6)
    repeated = network([np.repeat(data[1], 1000, axis=0)])
    np.testing.assert_allclose(repeated[0], predictions[1], rtol=1e-6)


def test_network__names_and_shapes_of_parameters():
    network = Network((9, 6, 2), (3,), [("conv", 5, 32), ("fc", 7)], ("top_k", 2), [("fc", 4), ("softmax",)], seed=1)
    assert {name: array.shape for name, array in network.parameters.items()} == {
        "phi.0.weight": (5, 2, 32),
        "phi.0.bias": (32,),
        "phi.1.weight": (64, 7),
        "phi.1.bias": (7,),
        "h.0.weight": (14, 4),
        "h.0.bias": (4,),
        "h.1.weight": (4, 3),
        "h.1.bias": (3,),
    }
    network.parameters["phi.0.bias"][3] = 99
    assert 99 in network.flat.weights


def test_network__initial_weights():
    network = Network((9, 300), (3,), [("fc", 300)], ("max",), [("softmax",)], seed=1)
    weight = network.parameters["phi.0.weight"]
    assert np.abs(weight).max() <= 0.1
    assert weight.std() == pytest.approx(0.05 * 0.8796, rel=0.01)  # of a normal truncated at two deviations
    assert (network.parameters["phi.0.bias"] == np.float32(0.01)).all()
    same, other = (Network(**network.spec.as_dict(), seed=seed).parameters["phi.0.weight"] for seed in (1, 2))
    np.testing.assert_array_equal(weight, same)
    assert (weight != other).any()


def test_predict__any_number_of_datasets():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0)
    data = np.random.default_rng(1).standard_normal((150, 5, 4))
    expected = network(data)
    np.testing.assert_array_equal(model.predict(data), expected)
    np.testing.assert_array_equal(model.predict(list(data)), expected)
    np.testing.assert_array_equal(model.predict((dataset for dataset in data), threads=1), expected)
    np.testing.assert_array_equal(model.predict(MultisetBatch.from_datasets(data)), expected)
    assert model.predict([]).shape == (0, 2)
    assert model.predict(data[:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 5, 4, 1)), r"data: an array of shape \(3, 5, 4, 1\), the network takes \(datasets, 5, 4\)"),
        (np.zeros((5, 4)), r"data: an array of shape \(5, 4\)"),
        ([np.zeros((5, 4)), np.zeros((5, 3))], r"data\[1\] has shape \(5, 3\), the network takes \(5, 4\)"),
        ([np.zeros((6, 4))], r"data\[0\] has shape \(6, 4\), the network takes \(5, 4\)"),
        ([np.zeros((0, 4))], r"data\[0\] has shape \(0, 4\)"),
        ([np.full((5, 4), np.nan)], r"data\[0\] must be finite in float32, got nan at index \[0, 0\]"),
        ([np.full((5, 4), 1e300)], r"data\[0\] must be finite in float32, got 1e\+300"),
        ([np.full((5, 4), 2**24 + 1)], r"data\[0\] holds integers that float32 cannot represent"),
        (MultisetBatch(np.full((1, 4, 1), np.inf), np.array([5]), np.array([0, 1])), "data: rows must be finite"),
        (MultisetBatch.from_datasets([np.zeros((6, 4))]), "a dataset of 6 rows, the network takes 5"),
        (MultisetBatch.from_datasets([np.zeros((5, 3))]), r"rows of shape \(3, 1\), the network takes .*\(4, 1\)"),
    ],
)
def test_network__data_that_does_not_fit(data, message):
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    with pytest.raises(ValueError, match=message):
        network(data)


@pytest.mark.parametrize(
    "data", [[[[1.0] * 4] * 5], [np.full((5, 4), "a")], [np.full((5, 4), None)], [1j * np.ones((5, 4))]]
)
def test_network__data_that_is_no_array_of_numbers(data):
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    with pytest.raises(TypeError, match=r"data\[0\] must be a NumPy array"):
        network(data)


class Table:
    """As a DataFrame of pandas: NumPy makes an array of it, and it iterates over the names of its columns."""

    def __init__(self, array, iterates_over=None):
        self.array, self.shape = array, array.shape
        self.iterates_over = range(array.shape[1]) if iterates_over is None else iterates_over

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __iter__(self):
        return iter(self.iterates_over)


ASK = "data must be an array, arrays, or a MultisetBatch, got"
GIVE = r"must be a NumPy array, got {}; give numpy\.asarray\(data\[{}\]\)"
ANY_NUMBER = r"; train with input_shape\[0\]=None to allow any number of rows"
CUBE = np.zeros((2, 5, 4))
STRANGE = {
    "a table": (Table(CUBE[0]), r"data must be .* got Table; give \[numpy\.asarray\(data\)\] if it is one dataset"),
    "a cube of tables": (Table(CUBE, [Table(CUBE[0])] * 2), r"data must be .* got Table; give numpy\.asarray\(data\)"),
    "tables": ([CUBE[0], Table(CUBE[0])], GIVE.format("Table", 1)),
    "lists": (CUBE.tolist(), GIVE.format("list", 0)),
    "tuples": ((((0.0,) * 4,) * 5,), GIVE.format("tuple", 0)),
    "a list of numbers": ([1.0, 2.0], r"data\[0\] must be a NumPy array, got float$"),
    "an iterator of numbers": (lambda: iter(np.ones(3)), r"data\[0\] must be a NumPy array, got float64$"),
    "a dict": ({"a": CUBE[0]}, rf"{ASK} dict; give list\(data\.values\(\)\)"),
    "a path": ("data.npy", f"{ASK} str$"),
    "bytes": (b"data", f"{ASK} bytes$"),
    "nothing": (None, f"{ASK} NoneType$"),
    "a number": (3, f"{ASK} int$"),
    "a function": (len, f"{ASK} builtin_function_or_method$"),
    "one dataset": (CUBE[0], r"shape \(5, 4\), the network takes \(datasets, 5, 4\); one dataset is \[data\]$"),
    "a row": (CUBE[0, 0], r"an array of shape \(4,\), the network takes \(datasets, 5, 4\)$"),
    "other rows, an array": (np.zeros((2, 6, 4)), rf"data\[0\] has shape \(6, 4\), .*{ANY_NUMBER}"),
    "other rows, arrays": ([CUBE[0], np.zeros((6, 4))], rf"data\[1\] has shape \(6, 4\), .*{ANY_NUMBER}"),
    "other rows, an iterator": (lambda: iter([np.zeros((6, 4))]), rf"data\[0\] has shape \(6, 4\), .*{ANY_NUMBER}"),
    "other rows, a batch": (MultisetBatch.from_datasets([np.zeros((6, 4))]), rf"a dataset of 6 rows.*{ANY_NUMBER}"),
    "no rows": ([np.zeros((0, 4))], r"data\[0\] has shape \(0, 4\), the network takes \(5, 4\); it has no rows$"),
    "other rows and columns": ([np.zeros((6, 3))], r"data\[0\] has shape \(6, 3\), the network takes \(5, 4\)$"),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("call", ["network", "predict", "step"])
def test_network__data_that_somebody_may_try(name, call):
    data, message = STRANGE[name]
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0)
    step = Trainer(network).step
    function = {"network": network, "predict": model.predict, "step": lambda data: step(data, np.eye(2))}
    with pytest.raises((TypeError, ValueError), match=message):
        function[call](data() if "iterator" in name else data)


def test_predict__what_gives_arrays_is_data():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    expected = network(CUBE).tobytes()
    for data in (Table(CUBE, list(CUBE)), tuple(CUBE), map(np.asarray, CUBE), {0: CUBE[0], 1: CUBE[1]}.values()):
        assert network(data).tobytes() == expected


def test_network__too_few_rows_for_top_k():
    network = Network((None, 4), (2,), [("fc", 3)], ("top_k", 3), [("softmax",)], seed=1)
    with pytest.raises(ValueError, match=r"a dataset of 2 rows: top_k needs 1 <= k <= 2 .*, got k=3"):
        network([np.zeros((3, 4)), np.zeros((2, 4))])


def test_trainer__labels_that_do_not_fit():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    data = np.zeros((3, 5, 4))
    with pytest.raises(ValueError, match=r"labels has shape \(2, 2\), expected \(3, 2\)"):
        Trainer(network).step(data, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="labels must be a probability distribution under loss 'cross-ent'"):
        Trainer(network).step(data, np.zeros((3, 2)))


def test_trainer__bad_arguments():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    for arguments, message in (
        ({"loss": "l2"}, "loss 'l2' needs an h_net that ends in"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"learning_rate": -1}, "learning_rate must be positive and finite, got -1"),
        ({"accuracy": "auc"}, "accuracy: unknown accuracy 'auc'"),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(network, **arguments)


def test_trainer__learns_a_function_of_the_multiset():
    rng = np.random.default_rng(1)
    network = Network((20, 3), (2,), [("fc", 16)], ("moments", 1, 2), [("fc", 16), ("softmax",)], seed=1)
    trainer = Trainer(network, learning_rate=0.01)

    def draw(number):
        wide = rng.integers(0, 2, number)
        return rng.standard_normal((number, 20, 3)) * (1 + wide)[:, None, None], np.eye(2)[wide]

    losses = [trainer.step(*draw(50))[0] for _ in range(150)]
    data, labels = draw(500)
    assert np.mean(network(data).argmax(axis=1) == labels.argmax(axis=1)) > 0.95
    assert np.mean(losses[-10:]) < 0.3 < losses[0]


def test_predict__names_the_dataset_that_does_not_fit():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0)
    good = [np.zeros((5, 4))] * 100
    with pytest.raises(ValueError, match=r"data\[100\] has shape \(5, 3\)"):
        model.predict([*good, np.zeros((5, 3))])
    with pytest.raises(ValueError, match=r"data\[100\] must be finite"):
        model.predict([*good, np.full((5, 4), np.inf)])


def test_predict__parts_are_bounded_by_rows():
    assert list(_parts([5, 5, 5, 100, 1], 12)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(_parts([1] * 130, 10**9)) == [(0, 64), (64, 128), (128, 130)]
    assert list(_parts([], 12)) == []


def test_network__masked_arrays_are_refused():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    with pytest.raises(TypeError, match=r"data\[0\] is a masked array; fill the masked values first"):
        network([np.ma.masked_array(np.zeros((5, 4)), mask=True)])


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_network__a_copy_trains_apart(copy_of):
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    before = network.flat.weights.copy()
    twin = copy_of(network)
    trainer = Trainer(twin, learning_rate=0.1)
    data = np.random.default_rng(1).standard_normal((4, 5, 4))
    losses = [trainer.step(data, np.eye(2)[[0, 1, 0, 0]])[0] for _ in range(5)]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(network.flat.weights, before)


def test_trainer__a_loss_that_is_not_finite_stops_before_the_step():
    network = Network((5, 4), (2,), [], ("moments", 0.5), [("softmax",)], seed=1)
    before = network.flat.weights.copy()
    with pytest.raises(FloatingPointError, match="the loss is nan; the network is as it was"):
        Trainer(network).step(np.full((2, 5, 4), -1.0), np.eye(2))
    np.testing.assert_array_equal(network.flat.weights, before)


def test_trainer__accuracy_none_is_the_loss():
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("matmul",)], seed=1)
    loss, accuracy = Trainer(network, loss="l2", accuracy=None).step(np.ones((3, 5, 4)), np.ones((3, 2)))
    assert loss == accuracy > 0
