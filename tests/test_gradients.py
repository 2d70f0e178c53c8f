"""Gradients of operations and whole networks, in float64 and one random direction; and the checker itself."""

import numpy as np
import pytest
from gradcheck import check_gradient
from hypothesis import given
from hypothesis import strategies as st

from definetti_np import MultisetBatch, Network, Trainer, ops
from definetti_np.engine.features import RowFeatures
from definetti_np.engine.tensor import Leaf, Tensor, backpropagate
from definetti_np.ops.dense_conv import LINEAR, RELU, conv_layer, dense_layer
from definetti_np.ops.densities import mixture_size

SEEDS = st.integers(0, 2**32 - 1)


def features_of(values: Tensor, positions: int, sizes, counts=None) -> RowFeatures:
    counts = np.ones(sum(sizes), np.int64) if counts is None else np.asarray(counts)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return RowFeatures(values, positions, counts, offsets, None, offsets * positions)


@st.composite
def rows(draw):
    """A generator, the number of positions and channels, the datasets' sizes and the rows' counts."""
    rng = np.random.default_rng(draw(SEEDS))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    counts = rng.integers(1, 5, sum(sizes))
    return rng, draw(st.integers(1, 5)), draw(st.integers(1, 5)), sizes, counts


@given(rows(), st.integers(1, 5), st.integers(1, 6), st.sampled_from([RELU, LINEAR]))
def test_conv__gradient(rows, width, channels, floor):
    rng, positions, depth, sizes, counts = rows
    width = min(width, positions)
    shapes = (sum(sizes) * positions, depth), (width, depth, channels), (channels,)

    def function(values, weight, bias):
        features = features_of(values, positions, sizes, counts)
        return conv_layer(features, weight, bias, floor).values

    check_gradient(function, [rng.standard_normal(shape) for shape in shapes], rng)


@given(rows(), st.integers(1, 6), st.sampled_from([RELU, LINEAR]))
def test_dense__gradient(rows, nodes, floor):
    rng, positions, depth, sizes, counts = rows
    shapes = (sum(sizes) * positions, depth), (positions * depth, nodes), (nodes,)

    def function(values, weight, bias):
        features = features_of(values, positions, sizes, counts)
        return dense_layer(features, weight, bias, floor).values

    check_gradient(function, [rng.standard_normal(shape) for shape in shapes], rng)


@given(rows(), st.integers(1, 3), st.integers(2, 4))
def test_conv_after_dense__gradient(rows, width, nodes):
    rng, positions, depth, sizes, counts = rows
    width = min(width, nodes)
    shapes = (sum(sizes) * positions, depth), (positions * depth, nodes), (nodes,), (width, 1, 2), (2,)

    def function(values, weight, bias, conv_weight, conv_bias):
        features = dense_layer(features_of(values, positions, sizes, counts), weight, bias, RELU)
        return conv_layer(features, conv_weight, conv_bias, RELU).values

    check_gradient(function, [rng.standard_normal(shape) for shape in shapes], rng)


@given(rows(), st.integers(1, 8))
def test_top_k__gradient(rows, k):
    rng, positions, depth, sizes, counts = rows
    k = min(k, np.add.reduceat(counts, np.cumsum([0, *sizes])[:-1]).min())
    values = rng.standard_normal((sum(sizes) * positions, depth))
    check_gradient(lambda v: ops.top_k(features_of(v, positions, sizes, counts), k), [values], rng)


@given(rows(), st.lists(st.sampled_from([1.0, 2.0, 3.0, 0.5, 2.7]), min_size=1, max_size=4))
def test_moments__gradient(rows, orders):
    rng, positions, depth, sizes, counts = rows
    values = rng.uniform(0.2, 2, (sum(sizes) * positions, depth))
    check_gradient(lambda v: ops.moments(features_of(v, positions, sizes, counts), orders), [values], rng)


@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_losses__gradients(seed, datasets, outputs):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((datasets, outputs))
    labels = rng.dirichlet(np.ones(outputs), datasets)
    check_gradient(ops.log_softmax, [logits], rng)
    check_gradient(lambda t: ops.cross_entropy(t, labels), [logits], rng)
    check_gradient(lambda t: ops.squared_error(t, labels), [logits], rng)
    check_gradient(lambda t: ops.cross_entropy(ops.log_softmax(t), labels), [logits], rng)


NETWORKS = {
    "hotspot": ([("conv", 3, 4), ("conv", 2, 5)], ("top_k", 1), [("fc", 6), ("softmax",)]),
    "default": ([("fc", 7), ("fc", 6)], ("max",), [("fc", 5), ("softmax",)]),
    "mixed": ([("fc", 6), ("conv", 2, 3)], ("top_k", 3), [("conv", 2, 4), ("fc", 3), ("conv", 2, 2), ("matmul",)]),
    "sort": ([("conv", 2, 3)], ("sort",), [("conv", 2, 3), ("matmul",)]),
    "moments": ([("fc", 5)], ("moments", 1, 2, 0.5, 3.5), [("fc", 4), ("matmul",)]),
    "no phi": ([], ("top_k", 2), [("softmax",)]),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_network__gradient_in_a_random_direction(name):
    rng = np.random.default_rng(5)
    network = Network((9, 6, 2), (3,), *NETWORKS[name], seed=1, dtype=np.float64)
    loss = "cross-ent" if network.spec.ends_in_softmax else "l2"
    for parameter in network.parameters.values():
        parameter[...] = rng.normal(0.1, 0.5, parameter.shape)
    data = rng.integers(0, 3, (4, 9, 6, 2)).astype(float)
    labels = rng.dirichlet(np.ones(3), 4)
    before = network.flat.weights.copy()

    def loss_at(weights):
        network.flat.weights[:] = weights
        prediction = network.forward(network.as_batch(data))
        function = ops.cross_entropy if loss == "cross-ent" else ops.squared_error
        return float(function(prediction, labels).array)

    printed, _ = Trainer(network, loss=loss, accuracy=None).step(data, labels)
    assert printed == loss_at(before), "the loss that is printed is the one that is differentiated"
    direction = rng.standard_normal(before.shape)
    forward = (loss_at(before + 1e-6 * direction) - loss_at(before - 1e-6 * direction)) / 2e-6
    assert np.vdot(network.flat.gradients, direction) == pytest.approx(forward, rel=1e-6, abs=1e-8)


def gradient_of(function, values, gradient):
    parameter = Leaf(np.array(values, float), np.zeros_like(np.array(values, float)))
    backpropagate(function(parameter), np.array(gradient, float))
    return parameter.gradient.tolist()


def test_top_k__ties_send_the_gradient_to_the_first_rows():
    out = gradient_of(lambda v: ops.top_k(features_of(v, 1, [4]), 2), [[3], [5], [5], [5]], [[[1, 10]]])
    assert out == [[0], [1], [10], [0]]


def test_max__ties_send_the_gradient_to_the_first_row():
    out = gradient_of(lambda v: ops.top_k(features_of(v, 1, [3]), 1), [[5], [7], [7]], [[[1]]])
    assert out == [[0], [1], [0]]


def test_top_k__repeated_row_gets_the_gradient_of_every_place():
    out = gradient_of(lambda v: ops.top_k(features_of(v, 1, [2], [1, 3]), 3), [[9], [2]], [[[1, 10, 100]]])
    assert out == [[1], [110]]


def test_top_k__one_row():
    assert gradient_of(lambda v: ops.top_k(features_of(v, 1, [1]), 1), [[4]], [[[2]]]) == [[2]]


def test_top_k__k_is_n_sorts():
    out = gradient_of(lambda v: ops.top_k(features_of(v, 1, [3]), 3), [[1], [3], [2]], [[[1, 10, 100]]])
    assert out == [[100], [1], [10]]


def test_moments__zero_has_no_gradient():
    for order in (0.5, 1.0, 2.0, 3.0):
        out = gradient_of(lambda v, m=order: ops.moments(features_of(v, 1, [2]), [m]), [[0], [1]], [[[6]]])
        assert out == [[0], [3 * order]]


def test_moments__constant_column():
    out = gradient_of(lambda v: ops.moments(features_of(v, 1, [1], [5]), [1, 2]), [[3]], [[[1, 1]]])
    assert out == [[1 + 2 * 3]]


def test_relu__no_gradient_at_zero():
    weight, bias = Tensor(np.ones((1, 1, 1))), Tensor(np.zeros(1))
    out = gradient_of(
        lambda v: conv_layer(features_of(v, 1, [3]), weight, bias, RELU).values, [[-1], [0], [1]], [[1]] * 3
    )
    assert out == [[0], [0], [1]]


def test_backpropagate__second_use_of_a_tensor_adds_up():
    def double(tensor):
        return Tensor(2 * tensor.array, (tensor,), lambda gradient: (2 * gradient,))

    def add(a, b):
        return Tensor(a.array + b.array, (a, b), lambda gradient: (gradient, gradient))

    def function(v):
        twice = double(v)
        return add(add(twice, v), twice)

    assert gradient_of(function, [1, 2], [1, 1]) == [5, 5]


def test_backpropagate__rejects_gradient_of_wrong_shape_or_dtype():
    parameter = Leaf(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"gradient of shape \(2,\) and dtype float64 .* shape \(3,\)"):
        backpropagate(Tensor(np.zeros(3), (parameter,), lambda g: (np.zeros(2),)), np.zeros(3))
    with pytest.raises(ValueError, match="dtype float32"):
        backpropagate(Tensor(np.zeros(3), (parameter,), lambda g: (g,)), np.zeros(3, np.float32))


def test_check_gradient__accepts_a_right_gradient_and_rejects_wrong_ones():
    rng = np.random.default_rng(2)

    def square(factor):
        return lambda t: Tensor(t.array**2, (t,), lambda g: (factor * g * t.array,))

    array = rng.standard_normal((3, 2))
    check_gradient(square(2), [array], rng)
    for wrong in (0, 1, -2, 2.01):
        with pytest.raises(AssertionError, match="Jv"):
            check_gradient(square(wrong), [array], rng)


def test_step__gradients_are_those_of_the_last_batch_alone():
    rng = np.random.default_rng(3)
    network = Network((5, 4), (2,), [("fc", 3)], ("max",), [("softmax",)], seed=1)
    trainer = Trainer(network, learning_rate=1e-30)
    data, labels = rng.standard_normal((2, 5, 4)), np.eye(2)
    trainer.step(data, labels)
    first = network.flat.gradients.copy()
    trainer.step(MultisetBatch.from_datasets(data), labels)
    np.testing.assert_array_equal(network.flat.gradients, first)
    assert first.any()


@given(SEEDS, st.integers(2, 6), st.integers(1, 8))
def test_rational_quadratic__gradient(seed, bins, number):
    rng = np.random.default_rng(seed)
    # At 0.37 no bin of small parameters ends within the step of the check.
    parameters = 0.1 * rng.standard_normal((number, 3 * bins + 1))
    check_gradient(ops.rational_quadratic, [rng.choice([0.37, 0.63], number), parameters], rng)


@given(SEEDS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_mixture_log_density__gradient(seed, components, labels, datasets):
    rng = np.random.default_rng(seed)
    truth, size = rng.standard_normal((datasets, labels)), mixture_size(components, labels)
    x = 0.5 * rng.standard_normal((datasets, size))
    check_gradient(lambda t: ops.mixture_log_density(t, truth, components), [x], rng)


@given(SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_pinball__gradient(seed, labels, datasets):
    rng = np.random.default_rng(seed)
    truth, x = rng.integers(0, 9, (datasets, labels)), rng.integers(0, 9, (datasets, 3 * labels)) + 0.5
    check_gradient(lambda t: ops.pinball(t, truth, (0.1, 0.5, 0.8)), [x], rng)
