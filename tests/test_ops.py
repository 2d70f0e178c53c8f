"""Operations: what they compute against NumPy in float64, and their gradients in one random direction."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradcheck import check_gradient
from hypothesis import given
from hypothesis import strategies as st
from test_gradients import features_of, rows

from definetti_np import MultisetBatch, Network, ops
from definetti_np.engine.features import RowFeatures, expand
from definetti_np.engine.operators import OPERATIONS
from definetti_np.engine.tensor import Leaf, Tensor, backpropagate

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def broadcast_shapes(draw, number=2):
    """Shapes that broadcast with each other."""
    whole = draw(SHAPES)
    shapes = []
    for _ in range(number):
        shape = [draw(st.sampled_from([1, size])) for size in whole]
        shapes.append(tuple(shape[draw(st.integers(0, len(shape))) :]))
    return shapes


def away_from(rng, shape, low=0.3, high=2.0):
    """Numbers of both signs whose absolute values lie between low and high."""
    return rng.uniform(low, high, shape) * rng.choice([-1, 1], shape)


BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
}
UNARY = {  # what it is in NumPy, and whether it takes positive numbers alone
    "negative": (np.negative, False),
    "relu": (lambda x: np.maximum(x, 0), False),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.01 * x), False),
    "tanh": (np.tanh, False),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), False),
    "softplus": (lambda x: np.log(1 + np.exp(x)), False),
    "exp": (np.exp, False),
    "log": (np.log, True),
    "sqrt": (np.sqrt, True),
    "abs": (np.abs, False),
}


@pytest.mark.parametrize("name", BINARY)
@given(seed=SEEDS, shapes=broadcast_shapes())
def test_arithmetic__numpy_and_gradient(name, seed, shapes):
    rng = np.random.default_rng(seed)
    x, y = (rng.uniform(0.3, 2, shape) for shape in shapes)
    operation = getattr(ops, name)
    np.testing.assert_allclose(operation(Tensor(x), Tensor(y)).array, BINARY[name](x, y), rtol=1e-12)
    check_gradient(operation, [x, y], rng)


@pytest.mark.parametrize("name", UNARY)
@given(seed=SEEDS, shape=SHAPES)
def test_functions__numpy_and_gradient(name, seed, shape):
    rng = np.random.default_rng(seed)
    function, positive = UNARY[name]
    x = np.abs(away_from(rng, shape)) if positive else away_from(rng, shape)
    np.testing.assert_allclose(getattr(ops, name)(Tensor(x)).array, function(x), rtol=1e-12)
    check_gradient(getattr(ops, name), [x], rng)


@given(SEEDS, broadcast_shapes(3))
def test_where__numpy_and_gradient(seed, shapes):
    rng = np.random.default_rng(seed)
    condition = rng.random(shapes[0]) < 0.5
    x, y = (rng.standard_normal(shape) for shape in shapes[1:])
    np.testing.assert_array_equal(ops.where(condition, Tensor(x), Tensor(y)).array, np.where(condition, x, y))
    check_gradient(lambda x, y: ops.where(condition, x, y), [x, y], rng)


@given(SEEDS, SHAPES, st.sampled_from([(-1, 1), (None, 1), (-1, None)]))
def test_clip__numpy_and_gradient(seed, shape, limits):
    rng = np.random.default_rng(seed)
    x = away_from(rng, shape, 0.2, 0.9) * rng.choice([1, 3], shape)
    np.testing.assert_array_equal(ops.clip(Tensor(x), *limits).array, np.clip(x, *limits))
    check_gradient(lambda x: ops.clip(x, *limits), [x], rng)


@st.composite
def arrays_and_axes(draw):
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    signed = tuple(axis - len(shape) * draw(st.booleans()) for axis in axes)
    axis = draw(st.sampled_from([None, signed, signed[0]]))
    return rng, rng.standard_normal(shape), {"axis": axis, "keepdims": draw(st.booleans())}


@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "logsumexp"])
@given(case=arrays_and_axes())
def test_reductions__numpy_and_gradient(name, case):
    rng, x, options = case
    if name == "logsumexp":
        expected = np.log(np.sum(np.exp(x), **options))
    else:
        expected = getattr(np, name)(x, **options)
    out = getattr(ops, name)(Tensor(x), **options)
    assert out.shape == expected.shape
    np.testing.assert_allclose(out.array, expected, rtol=1e-10, atol=1e-12)
    check_gradient(lambda x: getattr(ops, name)(x, **options), [x], rng)


@given(arrays_and_axes())
def test_log_softmax__sums_to_one_and_gradient(case):
    rng, x, options = case
    axis = options["axis"] if isinstance(options["axis"], int) else -1
    np.testing.assert_allclose(np.exp(ops.log_softmax(Tensor(x), axis).array).sum(axis), 1, rtol=1e-12)
    check_gradient(lambda x: ops.log_softmax(x, axis), [x], rng)


def test_logsumexp__does_not_overflow():
    assert ops.logsumexp(Tensor(np.array([1000.0, 1000.0]))).array == 1000 + np.log(2)
    assert ops.softplus(Tensor(np.array([1e4, -1e4]))).array.tolist() == [1e4, 0]
    assert ops.sigmoid(Tensor(np.array([1e4, -1e4]))).array.tolist() == [1, 0]


@st.composite
def factors(draw):
    """Shapes that matmul takes."""
    left, inner, right = (draw(st.integers(1, 4)) for _ in range(3))
    stacks = draw(broadcast_shapes())
    x = draw(st.sampled_from([(inner,), (left, inner), (*stacks[0], left, inner)]))
    y = draw(st.sampled_from([(inner,), (inner, right), (*stacks[1], inner, right)]))
    return np.random.default_rng(draw(SEEDS)), x, y


@given(factors())
def test_matmul__numpy_and_gradient(case):
    rng, *shapes = case
    x, y = (rng.standard_normal(shape) for shape in shapes)
    out = ops.matmul(Tensor(x), Tensor(y))
    assert out.shape == np.matmul(x, y).shape
    np.testing.assert_allclose(out.array, np.matmul(x, y), rtol=1e-9, atol=1e-12)
    check_gradient(ops.matmul, [x, y], rng)


@given(SEEDS, SHAPES.filter(len), st.integers(-4, 3), st.integers(1, 3))
def test_concatenate_and_stack__numpy_and_gradient(seed, shape, axis, number):
    rng = np.random.default_rng(seed)
    axis = axis % len(shape) - len(shape) * (axis < 0)
    arrays = [rng.standard_normal(shape) for _ in range(number)]
    longer = [np.repeat(array, i + 1, axis) for i, array in enumerate(arrays)]
    for operation, function, joined in ((ops.concatenate, np.concatenate, longer), (ops.stack, np.stack, arrays)):
        out = operation([Tensor(array) for array in joined], axis=axis)
        np.testing.assert_array_equal(out.array, function(joined, axis=axis))
        check_gradient(lambda *tensors, f=operation: f(tensors, axis=axis), joined, rng)


@given(SEEDS, SHAPES, st.randoms())
def test_reshape_transpose_flatten__numpy_and_gradient(seed, shape, random):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    axes = random.sample(range(len(shape)), len(shape))
    for function in (
        lambda x: np.reshape(x, (-1, 1)),
        lambda x: np.transpose(x),
        lambda x: np.transpose(x, axes),
    ):
        np.testing.assert_array_equal(function(Tensor(x)).array, function(x))
        check_gradient(function, [x], rng)
    if shape:
        assert ops.flatten(Tensor(x)).shape == (shape[0], x[0].size)


@pytest.mark.parametrize(
    "key", [0, -1, slice(1, None), (Ellipsis, 0), (slice(None), slice(None, None, -1)), (None, 1, slice(0, 1))]
)
def test_indexing__numpy_and_gradient(key):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, 2))
    np.testing.assert_array_equal(Tensor(x)[key].array, x[key])
    check_gradient(lambda x: x[key], [x], rng)


def test_constant__stops_the_gradient():
    parameter = Leaf(np.ones(3), np.full(3, 7.0))
    out = ops.constant(parameter)
    assert not out.needs_gradient
    assert not ops.less(parameter, 2).needs_gradient


@given(SEEDS, st.sampled_from([(7, 1, 1), (5, 9, 1), (5, 1, 9), (6, 33, 2), (5, 3, 200)]), st.booleans())
def test_operations__a_dataset_alone_gives_the_same_bits(seed, shape, single):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32 if single else np.float64)
    right, left = rng.standard_normal((shape[2], 4)), rng.standard_normal((3, shape[1]))
    for function in (
        *(getattr(ops, name) for name in ("tanh", "exp", "sigmoid", "softplus", "log_softmax")),
        *(
            lambda x, f=f, a=a: f(x, axis=a)
            for f in (ops.sum, ops.mean, ops.var, ops.logsumexp)
            for a in (1, 2, (1, 2))
        ),
        lambda x: ops.abs(x) ** 1.7 + ops.sqrt(ops.abs(x)),
        lambda x: x @ right,
        lambda x: left @ x,
        lambda x: x @ ops.transpose(x, (0, 2, 1)),
        lambda x: ops.exp(ops.sum(ops.transpose(x, (0, 2, 1)), axis=1)),
    ):
        together = function(Tensor(x)).array
        for start, stop in ((0, 1), (2, 4)):
            assert function(Tensor(x[start:stop])).array.tobytes() == together[start:stop].tobytes()


# The operators of Python and the functions of NumPy


def test_operators__are_the_operations():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0.5, 2, (2, 3, 3))
    for function in (
        lambda x, y: x + y - x * y / x**y,
        lambda x, y: 2 - x + (3 / y) * -x + 2**y,
        lambda x, y: (x @ y) ** 2 + abs(-x),
        lambda x, y: x + np.ones(3) * y + np.arange(3) @ x,
        lambda x, y: np.exp(x) + np.concatenate([x, y], axis=1)[:, 1:4],
        lambda x, y: np.float64(2) * x + np.float32(1) - y,
        lambda x, y: np.where(x > y, x, y) * np.where(y >= 1, 1, 2) + np.where(x <= y, 2 * x, y),
        lambda x, y: np.where(x == x[0, 0], 3, x) + np.where(y != y[1, 1], y, 2 * y),
        lambda x, y: np.absolute(np.sum(x, axis=0, keepdims=True)) + np.mean(y) + np.max(x),
    ):
        np.testing.assert_allclose(function(Tensor(x), Tensor(y)).array, function(x, y), rtol=1e-12)
        check_gradient(function, [x, y], rng)


def test_operators__are_neither_true_nor_false():
    x = Tensor(np.ones((2, 3)))
    for ask in (lambda: bool(x > 0), lambda: x > 0 and x < 1, lambda: not x, lambda: x in [Tensor(np.ones(3))]):
        with pytest.raises(TypeError, match=r"a Tensor is not True or False.* definetti_np\.ops\.where"):
            ask()
    assert x in [x]
    assert len({x, Tensor(x.array)}) == 2, "they can be keys, by identity"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            np.sin,
            r"numpy\.sin has no gradient here .* the closest operation by name is definetti_np\.ops\.\w+, and all",
        ),
        (np.log2, r"closest operation by name is definetti_np\.ops\.log, "),
        (np.std, r"closest operation by name is definetti_np\.ops\.\w+,"),
        (np.add.reduce, r"numpy\.add\.reduce has no gradient here"),
        (np.asarray, "a Tensor is no array: NumPy cannot see its gradient"),
    ],
)
def test_numpy__other_functions_name_the_closest_operation(function, message):
    with pytest.raises(TypeError, match=message):
        function(Tensor(np.ones(3)))


@pytest.mark.parametrize("other", [2, 0.1, np.float64(0.1), np.arange(3), np.ones((2, 3)), np.array(True)])
def test_dtype__stays_that_of_the_network(other):
    tensor = Leaf(np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32))
    outs = [tensor + other, other * tensor, tensor / other if np.all(other) else tensor, tensor**other, other - tensor]
    outs += [ops.where(other, tensor, 0.5), ops.mean(tensor), ops.var(tensor, axis=0), ops.logsumexp(tensor, axis=1)]
    outs += [
        ops.sigmoid(tensor),
        ops.softplus(tensor),
        ops.leaky_relu(tensor, 0.3),
        ops.clip(tensor, 0.1, np.float64(3)),
    ]
    outs += [
        ops.log_softmax(tensor),
        ops.sqrt(tensor),
        tensor @ np.ones((3, 2)),
        ops.concatenate([tensor, np.ones((1, 3))]),
    ]
    for out in outs:
        assert out.array.dtype == np.float32
        backpropagate(out, np.ones(out.shape, np.float32))  # fails if a gradient has another dtype


def test_second_use__gradients_add_up():
    x = np.random.default_rng(3).uniform(0.5, 1, (2, 3))
    check_gradient(lambda x: x * x + ops.exp(x) @ ops.transpose(x) @ x - ops.sum(x), [x], np.random.default_rng(4))
    parameter = Leaf(np.array([3.0]), np.zeros(1))
    backpropagate(parameter + parameter * parameter, np.ones(1))
    assert parameter.gradient == [7]


def test_max__the_first_of_equal_numbers_gets_the_gradient():
    parameter = Leaf(np.array([[1.0, 5, 5], [2, 2, 1]]), np.zeros((2, 3)))
    backpropagate(ops.max(parameter, axis=1), np.array([1.0, 10]))
    assert parameter.gradient.tolist() == [[0, 1, 0], [10, 0, 0]]
    backpropagate(ops.max(parameter), np.asarray(1.0))
    assert parameter.gradient.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_corners__have_gradient_zero():
    for function, at in ((ops.relu, 0), (ops.abs, 0), (lambda x: x**0, 0), (lambda x: x**2, 0)):
        parameter = Leaf(np.array([float(at)]), np.ones(1))
        backpropagate(function(parameter), np.ones(1))
        assert parameter.gradient == [0]


# Features of rows


@given(rows(), st.sampled_from(["mean", "sum", "var", "max", "sort", "top_k", "moments"]), st.booleans())
def test_pooling__reference_and_gradient(case, name, flat):
    rng, positions, depth, sizes, counts = case
    if name == "sort":  # datasets of equal numbers of rows
        sizes, counts = [sizes[0]] * 2, np.tile(counts[: sizes[0]], 2)
    positions = 1 if flat else positions
    values = rng.uniform(0.2, 2, (int(np.sum(sizes)) * positions, depth))
    options = {"top_k": {"k": 1}, "moments": {"orders": (1, 2.5)}}.get(name, {})

    def function(values):
        features = features_of(values, positions, sizes, counts)
        return getattr(ops, name)(ops.flatten(features) if flat else features, **options)

    out = function(Tensor(values)).array
    starts = np.cumsum([0, *sizes])
    for b, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        dense = values.reshape(-1, positions, depth)[start:stop].repeat(counts[start:stop], axis=0)
        if name == "sort":
            expected = -np.sort(-dense, axis=0)
        elif name == "moments":
            expected = np.stack([(dense**m).mean(axis=0) for m in (1, 2.5)])
        else:
            expected = getattr(np, "max" if name == "top_k" else name)(dense, axis=0)[np.newaxis]
        expected = expected.transpose(1, 0, 2) if not flat else expected.transpose(1, 2, 0)  # P, K, C or 1, N, K
        np.testing.assert_allclose(out[b].reshape(-1), expected.reshape(-1), rtol=1e-9, atol=1e-12)
    check_gradient(function, [values], rng)


def batch_of(rng, datasets=3, shape=(6, 4), dtype=np.float64):
    data = rng.integers(0, 2, (datasets, *shape)).astype(dtype)
    return data, MultisetBatch.from_datasets(data, dtype)


def test_features__several_uses_of_one_phi():
    """Windows that occur several times, features with different indices, and a second use of the same features."""
    rng = np.random.default_rng(6)
    _, batch = batch_of(rng, shape=(6, 7))
    arrays = [rng.normal(0.2, 1, shape) for shape in ((3, 1, 3), (3,), (2, 3, 3), (3,), (3,), (5, 3))]

    def function(weight, bias, weight2, bias2, scale, each):
        x = RowFeatures.from_batch(batch)
        phi = ops.relu(ops.conv(x, weight, bias))
        more = ops.tanh(ops.conv(phi, weight2, bias2))
        mixed = phi[:, 1:] * more + ops.concatenate([phi, scale * phi], axis=-1)[:, :-1, 3:]
        mixed = mixed + ops.where(phi[:, 1:] > 0.5, phi[:, 1:], -more)
        pooled = [ops.max(mixed), ops.mean(mixed), ops.var(mixed), ops.sum(phi * each)[:, 1:], ops.mean(x)[:, 3:] * 2]
        pooled += [ops.max(phi), ops.mean(phi), ops.top_k(phi, 2), ops.max(phi)]  # sparse and dense gradients meet
        pooled += [ops.mean(ops.stack([ops.max(phi, axis=-1), ops.sum(phi, axis=2)], axis=-1))]
        return ops.concatenate([ops.flatten(p) for p in pooled], axis=1) * ops.mean(ops.flatten(phi))[:, :1]

    check_gradient(function, arrays, rng)


def test_features__as_the_dense_rows():
    """Each operation of features gives what NumPy gives of the rows, each computed by itself."""
    rng = np.random.default_rng(7)
    data, batch = batch_of(rng, shape=(6, 7))
    weight, bias, scale = rng.normal(size=(3, 1, 2)), rng.normal(size=2), rng.normal(size=(5, 2))
    windows = np.lib.stride_tricks.sliding_window_view(data, 3, axis=2)
    conv = windows @ weight[:, 0] + bias
    x = RowFeatures.from_batch(batch)
    phi = ops.conv(x, weight, bias)
    pairs = [
        (phi * scale, conv * scale),
        (phi + phi * 2, 3 * conv),
        (1 / (1 + ops.exp(-phi)), 1 / (1 + np.exp(-conv))),
        (phi[:, 1:-1], conv[:, :, 1:-1]),
        (phi[..., :1], conv[..., :1]),
        (phi[:, :, 1], conv[..., 1]),
        (phi[:, 1:][..., 1:], conv[:, :, 1:, 1:]),
        (phi[:, ::-1], conv[:, :, ::-1]),
        (phi[:], conv),
        (ops.flatten(phi)[:, 2:4], conv.reshape(3, 6, 10)[..., 2:4]),
        (phi - x[:, 1:-1], conv - data[:, :, 1:-1, np.newaxis]),
        (ops.concatenate([phi, x[:, 2:]], axis=-1), np.concatenate([conv, data[:, :, 2:, np.newaxis]], axis=-1)),
        (ops.stack([ops.flatten(phi), ops.flatten(phi)], axis=1), np.stack([conv.reshape(3, 6, 10)] * 2, axis=2)),
        (ops.mean(phi, axis=(1, 2), keepdims=True), conv.mean(axis=(2, 3), keepdims=True)),
        (ops.log_softmax(phi), conv - np.log(np.exp(conv).sum(axis=-1, keepdims=True))),
        (phi @ np.array([[1.0, 2, 3], [4, 5, 6]]), conv @ np.array([[1.0, 2, 3], [4, 5, 6]])),
        (ops.where(phi > 0, phi, 0), np.maximum(conv, 0)),
        (ops.where(x[:, 1:-1] > 0, phi, -phi), np.where(data[:, :, 1:-1, np.newaxis] > 0, conv, -conv)),
        (ops.conv(x < 1, np.ones((2, 1, 1))), (data[:, :, 1:] + data[:, :, :-1] < 1.0)[..., np.newaxis] * 2.0 + (data[:, :, 1:] != data[:, :, :-1])[..., np.newaxis]),
        (ops.flatten(x) @ np.ones((7, 2)), data @ np.ones((7, 2))),
    ]  # fmt: skip
    for features, expected in pairs:
        np.testing.assert_allclose(ops.mean(features).array, expected.mean(axis=1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ops.max(features).array, expected.max(axis=1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ops.var(features).array, expected.var(axis=1), rtol=1e-9, atol=1e-12)


@given(SEEDS, st.data())
def test_features__broadcast_as_if_there_were_one_row(seed, data):
    """Features with each other, of any numbers of positions and channels that broadcast, and with constants."""
    rng = np.random.default_rng(seed)
    whole = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    rows, batch = batch_of(rng, shape=(5, 6, 1))
    x = RowFeatures.from_batch(batch)

    def features_and_rows(shape):
        positions, channels = shape
        weight = rng.normal(size=(7 - positions, 1, channels))
        windows = np.lib.stride_tricks.sliding_window_view(rows[..., 0], 7 - positions, axis=2)
        return ops.conv(x, weight), windows @ weight[:, 0]

    shapes = [tuple(data.draw(st.sampled_from([1, size])) for size in whole) for _ in range(3)]
    (a, dense_a), (b, dense_b) = (features_and_rows(shape) for shape in shapes[:2])
    constant = rng.normal(size=shapes[2][data.draw(st.integers(0, 2)) :])
    for function in (
        lambda a, b, c: a * b + c,
        lambda a, b, c: c - a / (2 + abs(b)),
        lambda a, b, c: np.where(a > b, a, c),
        lambda a, b, c: (np.exp(a) * c) ** 2,
    ):
        expected = function(dense_a, dense_b, constant)
        np.testing.assert_allclose(ops.var(function(a, b, constant)).array, expected.var(axis=1), rtol=1e-8, atol=1e-12)
    gradients = [rng.normal(size=array.shape) for array in (a.values.array, b.values.array)]

    def function(first, second, c):
        u, v = replace(a, values=first), replace(b, values=second)
        return ops.mean(u * v + c * u)

    check_gradient(function, [*gradients, constant], rng)


@given(rows(), st.integers(1, 3), st.integers(1, 4))
def test_conv_and_dense__of_what_is_pooled(case, width, nodes):
    rng, positions, depth, sizes, counts = case
    width = min(width, positions)
    arrays = [rng.standard_normal(s) for s in ((2, positions, depth), (width, depth, nodes), (positions * depth, 3))]
    x, weight, matrix = arrays
    windows = np.lib.stride_tricks.sliding_window_view(x, width, axis=1)
    np.testing.assert_allclose(
        ops.conv(Tensor(x), weight).array, np.einsum("bpcw,wcn->bpn", windows, weight), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(ops.dense(Tensor(x), matrix).array, x.reshape(2, -1) @ matrix, rtol=1e-9, atol=1e-12)
    check_gradient(lambda x, w, m: ops.mean(ops.conv(x, w)) * ops.dense(x, m), arrays, rng)


def test_mean__has_a_gradient_at_zero_where_moments_have_none():
    for pool, expected in ((ops.mean, 0.25), (lambda x: ops.moments(x, [1]), 0)):
        parameter = Leaf(np.zeros((4, 1)), np.ones((4, 1)))
        out = pool(features_of(parameter, 1, [4]))
        backpropagate(out, np.ones(out.shape))
        assert (parameter.gradient == expected).all()


@pytest.mark.parametrize("learned", [False, True])
@given(case=rows(), width=st.integers(1, 4), flat=st.booleans())
def test_count_distinct__reference(case, width, flat, learned):
    rng, positions, depth, sizes, counts = case
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    batch = MultisetBatch(rng.integers(-1, 2, (len(counts), positions, depth)) * 0.5, counts, offsets)
    features = RowFeatures.from_batch(batch, flat=flat).spread()
    if learned:  # units that never fire make the features of different rows equal
        weight, bias = rng.normal(size=(1, features.channels, 2)), rng.normal(size=2)
        features = ops.relu(ops.conv(features, Tensor(weight), Tensor(bias)))
    width = min(width, features.positions)
    counted = ops.count_distinct(features, width)
    expected, each = np.zeros((len(sizes), features.positions, 1)), expand(features).array + 0.0
    for b, p, _ in np.ndindex(expected.shape):
        begin = p - width // 2
        windows = each[offsets[b] : offsets[b + 1], max(begin, 0) : begin + width]
        expected[b, p] = len({window.tobytes() for window in windows})
    np.testing.assert_array_equal(counted.array, expected)
    assert not counted.needs_gradient


def test_count_distinct__of_rows_without_channels():
    batch = MultisetBatch.from_datasets([np.array([[0, 1, 1], [0, 0, 1], [0, 0, 1]]), np.array([[1, 1, 0]])])
    features = RowFeatures.from_batch(batch, flat=True)
    np.testing.assert_array_equal(ops.count_distinct(features, 2).array[..., 0], [[1, 2, 2], [1, 1, 1]])


@given(rows())
def test_to_rows__reference_and_gradient(case):
    rng, positions, depth, sizes, counts = case
    arrays = [rng.standard_normal((n, depth)) for n in (int(np.sum(sizes)) * positions, len(sizes) * positions)]

    def function(values, pooled):
        features = features_of(values, positions, sizes, counts)
        return ops.mean((features - ops.to_rows(ops.reshape(pooled, (-1, positions, depth)), features)) ** 2)

    values, pooled = arrays[0].reshape(-1, positions, depth), arrays[1].reshape(-1, positions, depth)
    squares = (values - np.repeat(pooled, sizes, axis=0)) ** 2
    starts = np.cumsum([0, *sizes])
    for b, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        expected = np.average(squares[start:stop], axis=0, weights=counts[start:stop])
        np.testing.assert_allclose(function(*map(Tensor, arrays)).array[b], expected, rtol=1e-10)
    check_gradient(function, arrays, rng)


def test_features__combinations_stay_as_distinct_as_they_are():
    """What is computed of windows that repeat is computed once, in sums and concatenations too."""
    rng = np.random.default_rng(8)
    _, batch = batch_of(rng, datasets=4, shape=(40, 12))
    x = RowFeatures.from_batch(batch)
    phi = ops.conv(x, rng.normal(size=(2, 1, 3)))
    more = ops.conv(phi, rng.normal(size=(2, 3, 3)))
    for features, most in (
        (ops.tanh(phi) * 2, 4),
        (phi[:, 1:] + more, 8),
        (ops.concatenate([phi[:, 1:], more, x[:, 2:]], axis=-1), 8),
        (ops.conv(phi[:, 1:] + more, rng.normal(size=(2, 3, 1))), 16),
    ):
        assert len(features.values.array) <= 4 * most * features.positions < features.positions * len(batch.rows)
        assert features.index is not None


def test_var__of_large_numbers():
    values = 1e4 + np.arange(4, dtype=np.float32).reshape(4, 1)
    out = ops.var(features_of(Tensor(values), 1, [4]))
    assert out.array.ravel().tolist() == [1.25]


# What is refused


def features(shape=(4, 2), sizes=(3, 3)):
    rows = np.arange(np.prod((int(np.sum(sizes)), *shape)), dtype=float).reshape(int(np.sum(sizes)), *shape)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return RowFeatures.from_batch(MultisetBatch(rows, np.ones(len(rows)), offsets))


T = Tensor(np.ones((2, 3)))
T3 = Tensor(np.ones((2, 4, 3)))
REFUSED = {
    "add": (lambda: T + np.ones((4, 3)), r"add: the shapes of a Tensor \(B, N\) = \(2, 3\) and an array of shape \(4, 3\)"),
    "add features": (lambda: features() + np.ones(3), r"features \(rows, P, C\) = \(rows, 4, 2\) and an array of shape \(3,\)"),
    "other batch": (lambda: features() + features(), "add: features of different batches"),
    "matmul": (lambda: T @ np.ones((2, 3)), r"matmul: a Tensor \(B, N\) = \(2, 3\) and a Tensor \(B, N\) = \(2, 3\)"),
    "matmul features": (lambda: features() @ np.ones((3, 3)), r"matmul: features \(rows, P, C\) = \(rows, 4, 2\) and an"),
    "conv depth": (lambda: ops.conv(features(), np.ones((2, 3, 4))), r"conv: features \(rows, P, C\) = \(rows, 4, 2\), weight \(width, C, N\) = \(2, 3, 4\) and bias \(4,\) do not fit together"),
    "conv width": (lambda: ops.conv(T3, np.ones((5, 3, 4))), r"conv: weight \(5, 3, 4\): the width is larger than the 4 positions it slides over, got 5"),
    "dense": (lambda: ops.dense(T3, np.ones((3, 4))), r"dense: a Tensor \(B, P, C\) = \(2, 4, 3\), weight \(P \* C or N, nodes\) = \(3, 4\)"),
    "bias": (lambda: ops.dense(T, np.ones((3, 4)), np.ones(3)), r"bias \(3,\) do not fit together"),
    "axis": (lambda: ops.sum(T, axis=2), r"sum: a Tensor \(B, N\) = \(2, 3\) has no axis 2"),
    "axis twice": (lambda: ops.max(T, axis=(0, -2)), "or it is named twice"),
    "rows and another axis": (lambda: ops.mean(features(), axis=(0, 1)), "axis 0, the rows, cannot be taken together"),
    "logsumexp of rows": (lambda: ops.logsumexp(features()), "logsumexp: features .* does not go over rows; give an axis"),
    "concatenate": (lambda: ops.concatenate([T, T3], axis=1), r"concatenate: a Tensor \(B, N\) = \(2, 3\) and a Tensor \(B, P, C\)"),
    "concatenate rows": (lambda: ops.concatenate([features(), features()]), "different batches"),
    "stack": (lambda: ops.stack([T, T3]), "stack: .* the shapes must be equal"),
    "reshape": (lambda: ops.reshape(T, (4, 2)), r"reshape: a Tensor \(B, N\) = \(2, 3\) cannot have shape \(4, 2\)"),
    "transpose": (lambda: ops.transpose(T, (0, 2)), "transpose: a Tensor .* has no such axes"),
    "top_k": (lambda: ops.top_k(features(), 4), r"features: top_k needs 1 <= k <= 3 \(the number of rows\), got k=4"),
    "sort": (lambda: ops.sort(features(sizes=(2, 4))), "sort: datasets of 2 to 4 rows"),
    "count_distinct": (lambda: ops.count_distinct(features(), 5), "count_distinct: .* larger than the 4 positions"),
    "to_rows": (lambda: ops.to_rows(np.ones((3, 4)), features()), r"to_rows: takes \(B, P, C\) or \(B, N\) with B = 2, got a"),
    "cross_entropy": (lambda: ops.cross_entropy(T, np.ones(2)), r"cross_entropy: takes a prediction \(B, N\) and labels of its shape, got \(2, 3\) and \(2,\)"),
    "squared_error": (lambda: ops.squared_error(T3, T3.array), r"squared_error: takes a prediction \(B, N\) and labels of its shape"),
    "dropout rate": (lambda: ops.dropout(T, 1, np.random.default_rng(1)), "dropout: rate must be at least 0 and below 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_operations__what_does_not_fit(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        function()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda: ops.conv(features(), np.ones((1, 2, 2)))[:, 1:1], ValueError, "are not empty"),
        (lambda: ops.conv(features()[:, :3] * 0, np.ones((1, 2, 2)))[:, :, 2:], ValueError, "are not empty"),
        (lambda: features()[..., 0, 0, 0], IndexError, "the first index must be ':'"),
        (lambda: features()[None, :], IndexError, "the first index must be ':'"),
        (lambda: features()[:, 0, 0, 0], IndexError, "too many indices"),
        (lambda: features()[0], IndexError, "the rows of a dataset have no order: the first index must be ':'"),
        (lambda: T[0, 5], IndexError, r"a Tensor \(B, N\) = \(2, 3\): index 5 is out of bounds"),
        (lambda: T[[0, 1]], TypeError, "indexing takes slices, integers, ... and None"),
        (lambda: T + "a", TypeError, "add: takes Tensors, features, arrays of numbers and numbers, got 'a'"),
        (lambda: list(T), TypeError, "not iterable"),
        (lambda: ops.max(features()) * features(), TypeError, "features of rows; ops.to_rows"),
        (lambda: ops.max(T, 1) @ features(), TypeError, "can only be the first factor"),
        (lambda: ops.top_k(T, 1), TypeError, "top_k: takes features of rows, got a Tensor .* it has been pooled already"),
        (lambda: ops.reshape(features(), (2, 2)), TypeError, "reshape: takes Tensors, got features"),
        (lambda: ops.concatenate([features(), T]), TypeError, "features of rows and pooled Tensors do not go together"),
        (lambda: ops.concatenate(T), TypeError, "concatenate: takes a list of Tensors"),
        (lambda: ops.dropout(T, 0.5, 1), TypeError, "dropout: rng must be a numpy.random.Generator"),
        (lambda: ops.add(T), TypeError, "add takes 2 operands by position, got 1"),
    ],
)  # fmt: skip
def test_operations__what_they_do_not_take(function, error, message):
    with pytest.raises(error, match=message):
        function()


def test_operations__each_is_tested_and_documented():
    text = Path(__file__).read_text()
    for name, operation in OPERATIONS.items():
        assert operation.__doc__, name
        assert (
            f"ops.{name}(" in text
            or f'"{name}"' in text
            or name in ("getitem", "greater", "greater_equal", "less_equal", "equal", "not_equal")
        ), name
        assert getattr(ops, name) is operation


@pytest.mark.parametrize("axis", [0, -3])
def test_concatenate__rows_have_no_order_to_follow(axis):
    with pytest.raises(ValueError, match="features have no order of rows to follow"):
        Network.from_function((4, 3, 2), (2,), lambda x: ops.mean(ops.concatenate([x, x], axis=axis)))


def test_stack__rows_have_no_order_to_follow():
    with pytest.raises(ValueError, match="features have no order of rows to follow"):
        Network.from_function((4, 3, 2), (2,), lambda x: ops.mean(ops.stack([ops.flatten(x)] * 2, axis=-3)))


@pytest.mark.parametrize("pool", [ops.max, lambda x: ops.top_k(x, 2)])
def test_max__a_nan_is_larger_than_all(pool):
    with np.errstate(invalid="ignore"):
        network = Network.from_function((None, 1), (1,), lambda x: ops.flatten(pool(ops.log(x))))
        for rows in ([-1.0, 2.0, 3.0], [2.0, -1.0, 3.0], [2.0, 3.0, -1.0]):
            assert np.isnan(network([np.array(rows)[:, np.newaxis]])).all()
        assert np.isfinite(network([np.array([1.0, 2.0, 3.0])[:, np.newaxis]])).all()


def test_operations__their_signatures_say_what_callers_may_give():
    for name in ("add", "where", "sum", "dense"):
        parameters = inspect.signature(getattr(ops, name)).parameters
        assert parameters["x"].annotation is Any, f"{name} takes features, Parameters, arrays and numbers too"
    axis = inspect.signature(ops.sum).parameters["axis"]
    assert (axis.default, axis.annotation) == (None, int | tuple[int, ...] | None)


def test_densities__values_and_what_does_not_fit():
    standard = Tensor(np.zeros((1, 5)))  # two labels: means, and the factor with the logarithm of its diagonal
    log_density = ops.mixture_log_density(standard, np.array([[1.0, -2.0]]), 1).array
    np.testing.assert_allclose(log_density, -np.log(2 * np.pi) - 2.5)
    x = Tensor(np.array([[1.0, 4.0]]))
    np.testing.assert_allclose(ops.pinball(x, np.array([[3.0]]), (0.1, 0.8)).array, [0.1 * 2 + 0.2 * 1])
    splines = ops.rational_quadratic(np.array([0.2, 0.9]), np.zeros((2, 13))).array
    np.testing.assert_allclose(splines, [[0.2, 0], [0.9, 0]], atol=1e-12)
    with pytest.raises(ValueError, match=r"2 Gaussians of labels \(1, 2\) take a Tensor \(1, 12\), got \(1, 5\)"):
        ops.mixture_log_density(standard, np.array([[1.0, -2.0]]), 2)
    with pytest.raises(ValueError, match="pinball: takes a prediction"):
        ops.pinball(x, np.array([[3.0]]), (0.1, 0.5, 0.8))
    with pytest.raises(ValueError, match=r"parameters \(R, 3 K \+ 1\), got \(2,\) and \(2, 12\)"):
        ops.rational_quadratic(np.array([0.2, 0.9]), np.zeros((2, 12)))
    with pytest.raises(ValueError, match="x must be between 0 and 1, got 0.2 to 1.5"):
        ops.rational_quadratic(np.array([0.2, 1.5]), np.zeros((2, 13)))
