"""Sums over rows and over datasets in float32 networks: within a few roundings of the same sums in float64."""

import functools

import numpy as np
import pytest
from test_gradients import features_of

from definetti_np import MultisetBatch, Network, ops
from definetti_np.engine.features import Windows
from definetti_np.engine.tensor import Leaf, Tensor, backpropagate
from definetti_np.kernels._jit import threads
from definetti_np.ops.window_products import WindowGradient

FEW_ROUNDINGS = 4 * 2.0**-24
NUMBERS = pytest.mark.parametrize("number", [10**3, 10**4, 10**5, 10**6])
OFFSETS = pytest.mark.parametrize("offset", [0, 1, 100, 10_000])
ORDERS = 1, 2, 3, 2.5

POOLINGS = {
    "mean": (ops.mean, lambda x: x.mean(axis=0)),
    "sum": (ops.sum, lambda x: x.sum(axis=0)),
    "var": (ops.var, lambda x: x.var(axis=0)),
    "moments": (lambda x: ops.moments(x, ORDERS), lambda x: np.stack([(x**m).mean(axis=0) for m in ORDERS])),
}


@functools.cache
def gamma(shape):
    return np.random.default_rng(1).gamma(2, 1, shape)


def positive(number, offset, shape=(2,)):
    """Numbers above 0 and above the offset, float32."""
    return (offset + gamma((number, *shape))).astype(np.float32)


def assert_close(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.reshape(-1), expected.reshape(-1), rtol=FEW_ROUNDINGS, atol=0)


@NUMBERS
@OFFSETS
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__of_many_rows(name, number, offset):
    values = positive(number, offset)
    pool, expected = POOLINGS[name]
    assert_close(pool(features_of(Tensor(values), 1, [number])).array, expected(values.astype(np.float64)))


@OFFSETS
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__of_a_few_rows_that_count_often(name, offset):
    values = positive(100, offset)
    counts = np.random.default_rng(2).integers(1, 20_000, 100)
    pool, expected = POOLINGS[name]
    whole = np.repeat(values.astype(np.float64), counts, axis=0)
    assert_close(pool(features_of(Tensor(values), 1, [100], counts)).array, expected(whole))


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__of_as_many_rows_as_can_be_counted(name):
    """Counts that add up to 2**63 - 1: at weights 1/2, 1/4 and 1/4."""
    values, counts = positive(3, 1), [2**62 - 1, 2**61, 2**61]
    found = POOLINGS[name][0](features_of(Tensor(values), 1, [3], counts)).array
    x, weights = values.astype(np.float64), np.array([0.5, 0.25, 0.25])
    mean = weights @ x
    expected = {
        "mean": mean,
        "sum": mean * 2.0**63,
        "var": weights @ (x - mean) ** 2,
        "moments": np.stack([weights @ x**m for m in ORDERS]),
    }
    assert_close(found, expected[name])


@NUMBERS
@pytest.mark.parametrize("name", POOLINGS)
def test_pooling__gradient_where_many_rows_share_a_value(name, number):
    """Three values; each row has one of them at each of two positions."""
    values = Leaf(positive(3, 0), np.zeros((3, 2), np.float32))
    rng = np.random.default_rng(2)
    index = rng.integers(0, 3, (number, 2)).astype(np.int32)
    counts = rng.integers(1, 4, number)
    features = features_of(values, 2, [number], counts)
    features = type(features)(**{**vars(features), "index": index, "value_offsets": np.array([0, 3])})
    out = POOLINGS[name][0](features)
    gradient = positive(1, 0, out.shape)[0]
    backpropagate(out, gradient)

    x = values.array.astype(np.float64)
    shares = np.stack([np.bincount(index[:, p], counts, 3) for p in range(2)]) / counts.sum()  # (position, value)
    by_position = gradient.reshape(2, -1, 2).astype(np.float64)  # (position, order, channel)
    mean = np.einsum("pv,vc->pc", shares, x)
    slopes = {
        "mean": [np.ones((2, 3, 2))],
        "sum": [np.full((2, 3, 2), counts.sum())],
        "var": [2 * (x - mean[:, np.newaxis])],
        "moments": [np.broadcast_to(m * x ** (m - 1), (2, 3, 2)) for m in ORDERS],
    }[name]
    expected = sum(np.einsum("pv,pc,pvc->vc", shares, by_position[:, k], slope) for k, slope in enumerate(slopes))
    np.testing.assert_allclose(values.gradient, expected, rtol=4 * FEW_ROUNDINGS, atol=4 * FEW_ROUNDINGS)


@NUMBERS
def test_to_rows__gradient_of_many_rows(number):
    pooled = Leaf(positive(1, 0), np.zeros((1, 2), np.float32))
    values = positive(number, 0)
    features = features_of(Tensor(values), 1, [number])
    backpropagate(ops.sum(features * ops.to_rows(pooled, features)), np.ones((1, 1, 2), np.float32))
    assert_close(pooled.gradient, values.astype(np.float64).sum(axis=0))


REDUCTIONS = {
    "sum": (ops.sum, np.sum),
    "mean": (ops.mean, np.mean),
    "var": (ops.var, np.var),
    "logsumexp": (ops.logsumexp, lambda x, axis: np.logaddexp.reduce(x, axis=axis)),
}


@NUMBERS
@OFFSETS
@pytest.mark.parametrize("axis", [0, None, (0, 1)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction__over_many_datasets(name, axis, number, offset):
    array = positive(number, offset)
    reduce, expected = REDUCTIONS[name]
    axis_of_numpy = (0, 1) if axis is None else axis
    values = array.astype(np.float64)
    if name == "logsumexp":
        values, axis_of_numpy = (values, 0) if axis == 0 else (values.reshape(-1), 0)
    assert_close(reduce(Tensor(array), axis=axis).array, np.asarray(expected(values, axis=axis_of_numpy)))


@NUMBERS
@pytest.mark.parametrize("shape", [(), (2,), (1, 2), (1, 1)])
def test_gradient__of_what_is_added_to_many_datasets(shape, number):
    bias, scale = (Leaf(positive(1, 0, shape)[0], np.zeros(shape, np.float32)) for _ in range(2))
    array = positive(number, 0)
    out = Tensor(array) * scale + bias
    backpropagate(out, array)
    whole = array.astype(np.float64)
    axes = (0, 1) if shape in ((), (1, 1)) else 0
    assert_close(bias.gradient, whole.sum(axis=axes))
    assert_close(scale.gradient, (whole * whole).sum(axis=axes))


@NUMBERS
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_bias__gradient_of_many_rows(pool, number):
    """Of a dense layer; under a maximum each dataset sends its gradient to one row."""
    datasets = number if pool == "max" else 1
    bias = Leaf(np.zeros(2, np.float32), np.zeros(2, np.float32))
    features = features_of(Tensor(positive(number, 0, (3,))), 1, [number // datasets] * datasets)
    out = getattr(ops, pool)(ops.dense(ops.flatten(features), np.ones((3, 2), np.float32), bias))
    gradient = positive(datasets, 0)
    backpropagate(out, gradient)
    expected = gradient.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(bias.gradient, expected, rtol=64 * 2.0**-24)  # blocks of 64 rows are added up in float32


@NUMBERS
@OFFSETS
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_weight__gradient_of_many_rows(pool, number, offset):
    """Of a dense layer, from all rows of one dataset, or under a maximum from the one row of each dataset."""
    datasets = number if pool == "max" else 1
    array, gradient = positive(number, offset, (3,)), positive(datasets, 0)
    weight = Leaf(np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32))
    features = features_of(Tensor(array), 1, [number // datasets] * datasets)
    backpropagate(getattr(ops, pool)(ops.dense(ops.flatten(features), weight, np.zeros(2, np.float32))), gradient)
    expected = array.astype(np.float64).T @ np.broadcast_to(gradient / (number / datasets), (number, 2))
    np.testing.assert_allclose(weight.gradient, expected, rtol=64 * 2.0**-24)  # 1024 are added up in float32


@NUMBERS
def test_values__gradient_where_many_windows_share_them(number):
    """The windows of a convolution consist of two values alone."""
    index = np.random.default_rng(1).integers(2, size=(number, 3)).astype(np.int32)
    gradient = positive(number, 0, (1,))
    windows = Windows(index, None, np.array([0, number]))
    found = WindowGradient(gradient, np.arange(number), gradient).conv_backward_values(
        np.ones((3, 1), np.float32), windows, np.array([0, 2])
    )
    expected = [(gradient.astype(np.float64) * (index == v)).sum() for v in range(2)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=64 * 2.0**-24)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@NUMBERS
def test_loss__mean_of_many_datasets(loss, number):
    labels = np.random.default_rng(3).dirichlet([1, 1], number).astype(np.float32)
    values = -positive(number, 0)
    found = getattr(ops, loss)(Tensor(values), labels).array
    x, y = values.astype(np.float64), labels.astype(np.float64)
    each = -(y * x).sum(axis=1) if loss == "cross_entropy" else ((x - y) ** 2).sum(axis=1)
    assert_close(found, each.mean())


def test_pooling__same_bits_for_any_threads_and_order_of_rows():
    rows = positive(100_000, 100, (3, 2))
    order = np.random.default_rng(3).permutation(len(rows))

    def function(x):
        phi = ops.tanh(ops.conv(x, np.full((2, 2, 4), 1e-3, np.float32)))
        return ops.flatten(
            ops.concatenate([ops.mean(phi), ops.var(phi), ops.sum(x[:, 1:]), ops.moments(phi, ORDERS)], -1)
        )

    network = Network.from_function((None, 3, 2), (1,), function)
    with threads(1):
        expected = network(rows[np.newaxis])
    for number in (1, 2, 4):
        with threads(number):
            assert network(rows[np.newaxis, order]).tobytes() == expected.tobytes()
    batch = MultisetBatch.from_datasets([rows[:50], rows])
    assert network(batch)[1].tobytes() == expected.tobytes()
