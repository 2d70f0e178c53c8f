"""Every kernel against its float64 twin in reference.py, over shapes that hypothesis draws."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from definetti_np.kernels import adam, conv, loss, pool
from definetti_np.kernels._jit import _pack, threads

DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32 - 1)
SMALL = st.integers(1, 5)
CHANNELS = st.sampled_from([1, 2, 3, 4, 7, 17])


def tolerance(dtype):
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


def normal(rng, shape, dtype):
    """Normal deviates, a third of them 0, with some ties."""
    return (np.round(rng.standard_normal(shape), 1) * (rng.random(shape) > 0.3)).astype(dtype)


@st.composite
def ragged(draw):
    """Distinct rows of a few datasets: index (U, P), counts (U,), offsets (B + 1,), and a generator."""
    rng = np.random.default_rng(draw(SEEDS))
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    positions = draw(SMALL)
    index = rng.permutation(sum(sizes) * positions).astype(np.int32).reshape(-1, positions)
    counts = rng.integers(1, draw(st.sampled_from([2, 4, 10_000])), len(index))
    return rng, index, counts, np.concatenate([[0], np.cumsum(sizes)])


@given(SEEDS, SMALL, CHANNELS, CHANNELS, st.integers(1, 150), DTYPES, st.sampled_from([0.0, -np.inf]))
def test_conv_forward__matches_reference(seed, width, depth, channels, number, dtype, floor):
    rng = np.random.default_rng(seed)
    values, weight = normal(rng, (30, depth), dtype), normal(rng, (width, depth, channels), dtype)
    bias = normal(rng, channels, dtype)
    windows = rng.integers(0, 30, (number, width)).astype(np.int32)
    out = np.full((number, channels), np.nan, dtype)
    conv.conv_forward(values, windows, weight, bias, floor, out)
    np.testing.assert_allclose(out, reference.conv_forward(values, windows, weight, bias, floor), **tolerance(dtype))


def test_conv_forward__keeps_nan():
    values = np.array([[np.nan], [1.0]], np.float32)
    out = np.empty((2, 1), np.float32)
    windows = np.array([[0], [1]], np.int32)
    conv.conv_forward(values, windows, np.ones((1, 1, 1), np.float32), np.zeros(1, np.float32), 0.0, out)
    np.testing.assert_array_equal(out, [[np.nan], [1.0]])


@given(SEEDS, CHANNELS, st.integers(1, 150), DTYPES, st.sampled_from([0.0, -np.inf]))
def test_mask_gradient__matches_reference(seed, channels, number, dtype, floor):
    rng = np.random.default_rng(seed)
    gradient, out = normal(rng, (number, channels), dtype), normal(rng, (number, channels), dtype)
    masked, active = np.full_like(out, np.nan), np.full(number, 7, np.uint8)
    conv.mask_gradient(gradient, out, floor, masked, active)
    expected = reference.mask_gradient(gradient, out, floor)
    np.testing.assert_array_equal(masked, expected[0])
    np.testing.assert_array_equal(active, expected[1])


@given(ragged(), SMALL, CHANNELS, CHANNELS, DTYPES)
def test_conv_backward__matches_reference(rows, width, depth, channels, dtype):
    rng, index, _, offsets = rows
    width = min(width, index.shape[1])
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(index, width, axis=1).reshape(-1, width))
    values, weight = normal(rng, (index.size, depth), dtype), normal(rng, (width, depth, channels), dtype)
    gradient = normal(rng, (len(windows), channels), dtype)
    active = np.flatnonzero(rng.random(len(windows)) < 0.6)
    active_offsets = np.searchsorted(active, offsets * (index.shape[1] - width + 1))

    transposed = np.ascontiguousarray(weight.transpose(0, 2, 1))
    out = normal(rng, values.shape, dtype)
    expected = reference.conv_backward_values(gradient, active, active_offsets, windows, transposed, out)
    conv.conv_backward_values(gradient, active, active_offsets, windows, transposed, out)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))

    weight_out, bias_out = np.full_like(weight, np.nan), np.full(channels, np.nan, dtype)
    conv.conv_backward_weight(gradient, active, values, windows, weight_out, bias_out)
    expected_weight, expected_bias = reference.conv_backward_weight(gradient, active, values, windows)
    np.testing.assert_allclose(weight_out, expected_weight, **tolerance(dtype))
    np.testing.assert_allclose(bias_out, expected_bias, **tolerance(dtype))


@given(ragged(), CHANNELS, DTYPES)
def test_max_forward__matches_reference(rows, depth, dtype):
    rng, index, _, offsets = rows
    values = normal(rng, (index.size, depth), dtype)
    out = np.empty((len(offsets) - 1, 1, index.shape[1], depth), dtype)
    winners = np.empty(out.shape, np.int32)
    pool.max_forward(values, index, offsets, out, winners)
    expected, expected_winners = reference.max_forward(values, index, offsets)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(winners, expected_winners)


@given(ragged(), CHANNELS, st.integers(1, 12), DTYPES)
def test_top_k_forward__matches_reference(rows, depth, k, dtype):
    rng, index, counts, offsets = rows
    k = min(k, np.add.reduceat(counts, offsets[:-1]).min())
    values = normal(rng, (index.size, depth), dtype)
    out = np.full((len(offsets) - 1, k, index.shape[1], depth), np.nan, dtype)
    winners = np.full(out.shape, -1, np.int32)
    pool.top_k_forward(values, index, counts, offsets, out, winners)
    expected, expected_winners = reference.top_k_forward(values, index, np.minimum(counts, k), offsets, k)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(winners, expected_winners)


@given(ragged(), CHANNELS, SMALL, DTYPES)
def test_winners_backward__matches_reference(rows, depth, k, dtype):
    rng, index, _, offsets = rows
    shape = (len(offsets) - 1, k, index.shape[1], depth)
    winners = np.empty(shape, np.int32)
    for b, _, p, _ in np.ndindex(shape):
        winners[b, :, p] = index[rng.integers(offsets[b], offsets[b + 1], (k, depth)), p]
    gradient, out = normal(rng, shape, dtype), normal(rng, (index.size, depth), dtype)
    expected = reference.winners_backward(gradient, winners, out)
    pool.winners_backward(gradient, winners, out)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))


@given(ragged(), CHANNELS, st.lists(st.sampled_from([1.0, 2.0, 3.0, 0.5, 2.7]), min_size=1, max_size=4), DTYPES)
def test_moments__match_reference(rows, depth, orders, dtype):
    rng, index, counts, offsets = rows
    values, orders = abs(normal(rng, (index.size, depth), dtype)), np.array(orders)
    out = np.full((len(offsets) - 1, len(orders), index.shape[1], depth), np.nan, dtype)
    pool.moments_forward(values, index, counts, offsets, orders, out)
    expected = reference.moments_forward(values, index, counts, offsets, orders)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))

    gradient, out = normal(rng, out.shape, dtype), normal(rng, values.shape, dtype)
    expected = reference.moments_backward(gradient, values, index, counts, offsets, orders, out)
    pool.moments_backward(gradient, values, index, counts, offsets, orders, out)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))


@given(SEEDS, st.integers(1, 40), st.integers(1, 6), DTYPES)
def test_losses__match_reference(seed, datasets, outputs, dtype):
    rng = np.random.default_rng(seed)
    logits, labels, gradient = (normal(rng, (datasets, outputs), dtype) for _ in range(3))
    row_gradient = gradient[:, 0].copy()
    out, losses = np.empty_like(logits), np.empty(datasets, dtype)

    loss.log_softmax_forward(logits, out)
    np.testing.assert_allclose(out, reference.log_softmax_forward(logits), **tolerance(dtype))
    log_probabilities = out.copy()
    loss.log_softmax_backward(gradient, log_probabilities, out)
    expected = reference.log_softmax_backward(gradient, log_probabilities)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))

    loss.cross_entropy_forward(log_probabilities, labels, losses)
    expected = reference.cross_entropy_forward(log_probabilities, labels)
    np.testing.assert_allclose(losses, expected, **tolerance(dtype))
    loss.cross_entropy_backward(row_gradient, labels, out)
    np.testing.assert_allclose(out, reference.cross_entropy_backward(row_gradient, labels), **tolerance(dtype))

    loss.squared_error_forward(logits, labels, losses)
    np.testing.assert_allclose(losses, reference.squared_error_forward(logits, labels), **tolerance(dtype))
    loss.squared_error_backward(row_gradient, logits, labels, out)
    expected = reference.squared_error_backward(row_gradient, logits, labels)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))


def test_log_softmax__large_logits_stay_finite():
    logits = np.array([[1e4, 0.0], [-1e4, 1e4]], np.float32)
    out = np.empty_like(logits)
    loss.log_softmax_forward(logits, out)
    np.testing.assert_array_equal(out, [[0, -1e4], [-2e4, 0]])


def test_cross_entropy__impossible_class_of_weight_zero_counts_nothing():
    losses = np.empty(1, np.float32)
    loss.cross_entropy_forward(np.array([[0.0, -np.inf]], np.float32), np.array([[1, 0]], np.float32), losses)
    assert losses[0] == 0


@given(SEEDS, st.sampled_from([1, 5, 8192, 20_000]), DTYPES)
def test_adam_update__matches_reference(seed, number, dtype):
    rng = np.random.default_rng(seed)
    weights, gradients, first, second = (normal(rng, number, dtype) for _ in range(4))
    second = abs(second)
    constants = 0.001, 0.9, 0.999, 1e-8
    expected = reference.adam_update(weights, gradients, first, second, *constants)
    adam.adam_update(weights, gradients, first, second, *constants)
    for array, wanted in zip((weights, first, second), expected, strict=True):
        np.testing.assert_allclose(array, wanted, **tolerance(dtype))


def test_kernel__refuses_arrays_that_are_not_contiguous():
    with pytest.raises(ValueError, match="C-contiguous"):
        _pack([np.zeros((4, 4))[:, ::2]])


def test_mask_gradient__keeps_nan():
    nan = np.full((1, 2), np.nan, np.float32)
    masked, active = np.zeros_like(nan), np.zeros(1, np.uint8)
    conv.mask_gradient(np.ones_like(nan), nan, 0.0, masked, active)
    conv.mask_gradient(nan, nan, 0.0, masked, active)
    assert np.isnan(masked).all()
    assert active[0]


def test_kernel__two_threads_at_once():
    rng = np.random.default_rng(1)
    windows = np.arange(500, dtype=np.int32).reshape(-1, 1)
    values, weight = normal(rng, (500, 30), np.float32), normal(rng, (1, 30, 20), np.float32)

    def compute(_):
        out = np.empty((500, 20), np.float32)
        conv.conv_forward(values, windows, weight, np.zeros(20, np.float32), 0.0, out)
        return out.tobytes()

    with ThreadPoolExecutor(4) as pool_of_threads:
        assert len(set(pool_of_threads.map(compute, range(50)))) == 1


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_conv__bits_do_not_depend_on_threads(number):
    rng = np.random.default_rng(1)
    windows = np.arange(3000, dtype=np.int32).reshape(-1, 1)
    values, gradient = normal(rng, (3000, 40), np.float32), normal(rng, (3000, 30), np.float32)
    results = []
    for threads_used in (1, number):
        out, bias = np.empty((1, 40, 30), np.float32), np.empty(30, np.float32)
        with threads(threads_used):
            conv.conv_backward_weight(gradient, np.arange(3000), values, windows, out, bias)
        results.append(out.tobytes() + bias.tobytes())
    assert results[0] == results[1]
