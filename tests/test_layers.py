"""Layers and Parameters: declarations whose numbers each network has for itself."""

import copy
import pickle

import numpy as np
import pytest

import definetti_np
from definetti_np import Network, Parameter, Trainer, ops
from definetti_np.layers import Conv, Dense, Sequential

SHAPES = (6, 5, 2), (3,)
DATA = np.random.default_rng(1).integers(0, 2, (4, 6, 5, 2)).astype(np.float32)
LABELS = np.eye(3)[[0, 1, 2, 0]]


def network_of(function, seed=1, **options):
    return Network.from_function(*SHAPES, function, seed=seed, **options)


def as_layer_lists(names=True):
    """The network of the layer lists below, as a function."""
    phi = Sequential([Conv(2, 4), Dense(6)], name="phi" if names else None)
    h = Sequential([Conv(2, 3), Dense(5), Dense(3, activation=None)], name="h" if names else None)
    return lambda x: ops.log_softmax(h(ops.top_k(phi(x), 2)))


LISTS = [("conv", 2, 4), ("fc", 6)], ("top_k", 2), [("conv", 2, 3), ("fc", 5), ("softmax",)]


def test_layers__the_list_form_is_built_of_them_to_the_bit():
    by_lists, by_function = Network(*SHAPES, *LISTS, seed=7), network_of(as_layer_lists(), seed=7)
    assert list(by_lists.parameters) == list(by_function.parameters)
    assert by_lists.flat.weights.tobytes() == by_function.flat.weights.tobytes()
    assert np.exp(by_function(DATA)).tobytes() == by_lists(DATA).tobytes()
    trainers = [Trainer(network) for network in (by_lists, by_function)]
    steps = [[trainer.step(DATA, LABELS) for _ in range(3)] for trainer in trainers]
    assert steps[0] == steps[1]
    assert by_lists.flat.weights.tobytes() == by_function.flat.weights.tobytes()


def test_layers__the_list_form_of_two_dimensional_data_too():
    phi, h = Sequential([Conv(2, 3)], name="phi"), Sequential([Dense(2, None)], name="h")
    networks = (
        Network((6, 5), (2,), [("conv", 2, 3)], ("moments", 1, 2), [("matmul",)], seed=1),
        Network.from_function((6, 5), (2,), lambda x: h(ops.moments(phi(x), (1, 2))), seed=1),
    )
    assert networks[0](DATA[..., 0]).tobytes() == networks[1](DATA[..., 0]).tobytes()


def test_layers__names_by_order_of_first_use():
    function = as_layer_lists(names=False)
    assert [*network_of(function).parameters][::2] == [
        "conv.0.weight", "dense.1.weight", "conv.2.weight", "dense.3.weight", "dense.4.weight"
    ]  # fmt: skip
    head, scale, offset = Dense(3, None, name="head"), Parameter(np.arange(3)), Parameter((1,), name="offset")
    names = network_of(lambda x: head(ops.mean(x)) * scale + offset).parameters
    shapes = {"head.weight": (10, 3), "head.bias": (3,), "parameter.1": (3,), "offset": (1,)}
    assert {name: array.shape for name, array in names.items()} == shapes


def test_layers__initial_values():
    layer, scale, drawn = Dense(3, None), Parameter(np.array([1.0, 2, 3])), Parameter((200, 3))
    network = network_of(lambda x: layer(ops.mean(x)) * scale + ops.mean(drawn, axis=0))
    values = network.parameters
    assert values["parameter.1"].tolist() == [1, 2, 3]
    assert (values["dense.0.bias"] == np.float32(0.01)).all()
    assert 0.03 < values["parameter.2"].std() < 0.06
    assert np.abs(values["parameter.2"]).max() <= 0.1
    assert values["parameter.1"].dtype == np.float32


def test_layers__each_network_has_its_own_numbers():
    function = as_layer_lists()
    first, second = network_of(function, seed=1), network_of(function, seed=2)
    before = first(DATA)
    assert (second(DATA) != before).any()
    Trainer(second, learning_rate=0.1).step(DATA, LABELS)
    np.testing.assert_array_equal(first(DATA), before)
    other_sizes = Network.from_function((4, 9), (3,), function, seed=1)
    assert other_sizes.parameters["phi.0.weight"].shape == (2, 1, 4)
    np.testing.assert_array_equal(first(DATA), before)


class Net:
    """A network as an object, which can be copied and pickled."""

    def __init__(self):
        self.phi, self.out, self.scale = Conv(2, 4), Dense(3, None), Parameter(1.0, name="scale")

    def __call__(self, x):
        return ops.log_softmax(self.out(ops.max(self.phi(x))) * self.scale)


PLAIN = as_layer_lists()
COPIES = [
    (Net(), copy.deepcopy),
    (Net(), lambda network: pickle.loads(pickle.dumps(network))),
    (PLAIN, copy.deepcopy),  # a local function cannot be pickled
]


@pytest.mark.parametrize(("function", "copied"), COPIES)
def test_network__a_copy_trains_apart(function, copied):
    network = network_of(function)
    before = network(DATA)
    twin = copied(network)
    np.testing.assert_array_equal(twin(DATA), before)
    Trainer(twin, learning_rate=0.1).step(DATA, LABELS)
    assert (twin(DATA) != before).any()
    np.testing.assert_array_equal(network(DATA), before)


def test_layers__a_layer_used_twice_has_one_weight_and_the_sum_of_gradients():
    rng = np.random.default_rng(1)
    shared, out = Dense(10, ops.tanh), Dense(3, None)
    network = network_of(lambda x: ops.log_softmax(out(shared(shared(ops.mean(x))))), dtype=np.float64)
    assert len(network.parameters) == 4
    Trainer(network, learning_rate=1e-300).step(DATA, LABELS)
    weights, direction = network.flat.weights.copy(), rng.standard_normal(network.flat.weights.size)
    losses = []
    for sign in (1, -1):
        network.flat.weights[:] = weights + sign * 1e-6 * direction
        losses.append(-(network(DATA) * LABELS).sum(axis=1).mean())
    assert network.flat.gradients @ direction == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


def test_dropout__drops_in_training_alone():
    rng, layer = np.random.default_rng(1), Dense(3, None)
    seen = []

    def function(x):
        dropped = ops.dropout(ops.mean(x), 0.5, rng)
        seen.append(dropped.array)
        return layer(dropped)

    network = network_of(function, dtype=np.float64)
    mean = DATA.mean(axis=1)
    network(DATA)
    np.testing.assert_allclose(seen[-1], mean)
    state = rng.bit_generator.state
    network.forward(network.as_batch(DATA.astype(float)))
    assert rng.bit_generator.state != state
    dropped = seen[-1] == 0
    np.testing.assert_allclose(seen[-1][~dropped], 2 * mean[~dropped])
    assert dropped.any()
    assert not dropped[mean != 0].all()


def test_sequential__takes_functions_and_names_its_layers():
    h = Sequential([ops.flatten, Dense(4), ops.tanh, Dense(3, None, name="last")], name="h")
    assert [*network_of(lambda x: h(ops.max(x))).parameters][::2] == ["h.1.weight", "last.weight"]
    assert repr(h).startswith("Sequential([<function flatten")
    assert "Dense(4, name='h.1')" in repr(h)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Conv(0, 3), ValueError, "Conv: width must be at least 1, got 0"),
        (lambda: Dense("a"), TypeError, "Dense: nodes must be an integer, got 'a'"),
        (lambda: Dense(3, "relu"), TypeError, "activation must be a function such as ops.relu, or None, got 'relu'"),
        (
            lambda: Dense(3, name="a/b"),
            ValueError,
            "name must consist of Latin letters, digits, '_' and '.', got 'a/b'",
        ),
        (lambda: Parameter(1.0, name="header"), ValueError, "name of a Parameter must be none of .*got 'header'"),
        (lambda: Sequential([("fc", 3)]), TypeError, r"layers\[0\] must be a layer or a function, got \('fc', 3\)"),
        (lambda: Parameter(np.nan), ValueError, "initial of a Parameter must be finite, got nan"),
        (lambda: Parameter((0, 1)), ValueError, r"initial\[0\] of a Parameter must be at least 1, got 0"),
        (lambda: Dense(3)(np.ones((2, 2))), TypeError, r"Dense\(3\) takes features, or a Tensor"),
        (
            lambda: Parameter(1.0) + 1,
            RuntimeError,
            r"Parameter of shape \(\) has numbers only while a network computes: use it in",
        ),
        (
            lambda: network_of(lambda x: Conv(9, 1)(x)),
            ValueError,
            r"Conv\(9, 1\): the width is larger than the 5 positions it slides over, got 9",
        ),
    ],
)
def test_layers__what_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_layers__of_one_name():
    layers = Dense(3, name="a"), Dense(3, name="a")
    with pytest.raises(ValueError, match="two layers or Parameters are named 'a'; give them different names"):
        network_of(lambda x: layers[1](layers[0](ops.max(x))))


def test_layers__are_where_users_look_for_them():
    assert definetti_np.layers.Parameter is Parameter
    assert definetti_np.layers.Dense is Dense
    assert definetti_np.ops is ops


def test_name__only_what_a_model_file_can_hold():
    for name in ("β", "a b", "", "a/b"):
        with pytest.raises(ValueError, match="name must consist of Latin letters"):
            Dense(3, name=name)
