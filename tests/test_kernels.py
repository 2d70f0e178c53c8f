"""Every kernel against its float64 twin in reference.py, over shapes that hypothesis draws."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from definetti_np.kernels import adam, context, conv, loss, pool
from definetti_np.kernels import rows as row_kernels
from definetti_np.kernels import windows as window_kernels
from definetti_np.kernels import winners as winner_kernels
from definetti_np.kernels._jit import _pack, threads

DTYPES = st.sampled_from([np.float32, np.float64])
SEEDS = st.integers(0, 2**32 - 1)
SMALL = st.integers(1, 5)
CHANNELS = st.sampled_from([1, 2, 3, 4, 7, 17])
MANY_CHANNELS = st.sampled_from([1, 2, 17, 32, 33, 64, 70, 130])


def tolerance(dtype):
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


def normal(rng, shape, dtype):
    """Normal deviates, a third of them 0, with some ties."""
    return (np.round(rng.standard_normal(shape), 1) * (rng.random(shape) > 0.3)).astype(dtype)


@st.composite
def ragged(draw):
    """Rows of a few datasets: a generator, index (U, P) into values of each dataset, counts (U,), offsets (B + 1,)."""
    rng = np.random.default_rng(draw(SEEDS))
    sizes = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    positions = draw(SMALL)
    index = [rng.permutation(size * positions).astype(np.int32).reshape(size, positions) for size in sizes]
    index = np.concatenate([part + sum(sizes[:b]) * positions for b, part in enumerate(index)])
    counts = rng.integers(1, draw(st.sampled_from([2, 4, 10_000])), len(index))
    return rng, index, counts, np.concatenate([[0], np.cumsum(sizes)])


def panels_of(matrix, rows=None):
    rows = np.arange(len(matrix)) if rows is None else rows
    width = conv.panel_columns(matrix.shape[1], matrix.dtype)
    panels = np.full((-(-matrix.shape[1] // width), len(rows), width), np.nan, matrix.dtype)
    conv.pack(matrix, rows, panels)
    return panels


@given(SEEDS, st.integers(1, 150), MANY_CHANNELS, DTYPES)
def test_pack__matches_reference(seed, number, channels, dtype):
    rng = np.random.default_rng(seed)
    matrix, rows = normal(rng, (number, channels), dtype), rng.integers(0, number, 70)
    panels = panels_of(matrix, rows)
    np.testing.assert_array_equal(panels, reference.pack(matrix, rows, panels.shape[2]))
    panels = np.full_like(panels_of(np.ascontiguousarray(matrix.T)), np.nan)
    conv.pack_transposed(matrix, panels)
    np.testing.assert_array_equal(panels, reference.pack_transposed(matrix, panels.shape[2]))


@given(SEEDS, SMALL, CHANNELS, MANY_CHANNELS, st.integers(1, 150), DTYPES, st.sampled_from([0.0, -np.inf]))
def test_conv_forward__matches_reference(seed, width, depth, channels, number, dtype, floor):
    rng = np.random.default_rng(seed)
    values, weight = normal(rng, (30, depth), dtype), normal(rng, (width, depth, channels), dtype)
    bias = normal(rng, channels, dtype)
    windows = rng.integers(0, 30, (number, width)).astype(np.int32)
    out = np.full((number, channels), np.nan, dtype)
    conv.conv_forward(values, windows, panels_of(weight.reshape(-1, channels)), bias, floor, out)
    expected = reference.conv_forward(values, windows, weight, bias, floor)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))


@pytest.mark.parametrize("channels", [1, 32, 33, 64, 100])
def test_conv_forward__bits_of_a_sum_do_not_depend_on_its_place(channels):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((200, 7)).astype(np.float32)
    weight, bias = rng.standard_normal((21, channels)).astype(np.float32), np.ones(channels, np.float32)
    windows = rng.integers(0, 200, (150, 3)).astype(np.int32)
    out, alone, column = (
        np.empty((150, channels), np.float32),
        np.empty((1, channels), np.float32),
        np.empty((150, 1), np.float32),
    )
    conv.conv_forward(values, windows, panels_of(weight), bias, 0.0, out)
    for d in range(150):
        conv.conv_forward(values, windows[d : d + 1], panels_of(weight), bias, 0.0, alone)
        assert alone.tobytes() == out[d].tobytes()
    for n in range(channels):
        conv.conv_forward(values, windows, panels_of(weight[:, n : n + 1].copy()), bias[:1], 0.0, column)
        assert column.tobytes() == out[:, n].tobytes()


def test_conv_forward__keeps_nan():
    values = np.array([[np.nan], [1.0]], np.float32)
    out = np.empty((2, 1), np.float32)
    windows = np.array([[0], [1]], np.int32)
    conv.conv_forward(values, windows, panels_of(np.ones((1, 1), np.float32)), np.zeros(1, np.float32), 0.0, out)
    np.testing.assert_array_equal(out, [[np.nan], [1.0]])


def mask(gradient, out, floor):
    """What `mask_gradient` writes: masked, nonzero and sums."""
    masked, sums = np.full_like(out, np.nan), np.full((conv.mask_blocks(len(out)), out.shape[1]), np.nan, out.dtype)
    nonzero = np.full(len(out), -1)
    conv.mask_gradient(gradient, out, floor, masked, nonzero, sums)
    return masked, nonzero, sums


@given(SEEDS, CHANNELS, st.integers(1, 150), DTYPES, st.sampled_from([0.0, -np.inf]))
def test_mask_gradient__matches_reference(seed, channels, number, dtype, floor):
    rng = np.random.default_rng(seed)
    gradient, out = normal(rng, (number, channels), dtype), normal(rng, (number, channels), dtype)
    masked, nonzero, sums = mask(gradient, out, floor)
    expected = reference.mask_gradient(gradient, out, floor)
    np.testing.assert_array_equal(masked, expected)
    np.testing.assert_array_equal(nonzero, np.count_nonzero(expected, axis=1))
    np.testing.assert_allclose(sums.sum(axis=0), expected.sum(axis=0, dtype=np.float64), **tolerance(dtype))


@st.composite
def windows_of_values(draw):
    """Datasets with windows of any of their values: rng, windows (D, width), value_offsets, window_offsets."""
    rng, index, _, offsets = draw(ragged())
    width = draw(SMALL)
    value_offsets, window_offsets = offsets * index.shape[1], offsets * draw(st.sampled_from([1, 3, 20]))
    windows = np.empty((window_offsets[-1], width), np.int32)
    for b in range(len(offsets) - 1):  # no two datasets share a row of values
        of_dataset = windows[window_offsets[b] : window_offsets[b + 1]]
        of_dataset[:] = rng.integers(value_offsets[b], value_offsets[b + 1], of_dataset.shape)
    return rng, windows, value_offsets, window_offsets


@given(windows_of_values(), CHANNELS, MANY_CHANNELS, DTYPES, st.sampled_from([1, 3, 8]))
def test_conv_backward__matches_reference(drawn, depth, channels, dtype, number):
    rng, windows, value_offsets, window_offsets = drawn
    values, gradient = (normal(rng, shape, dtype) for shape in [(value_offsets[-1], depth), (len(windows), channels)])
    gradient[rng.random(len(windows)) < 0.4] = 0
    active = np.flatnonzero(gradient.any(axis=1))
    product, out = normal(rng, (len(active), windows.shape[1], depth), dtype), np.full_like(values, np.nan)
    window_kernels.scatter_windows(
        product, active, np.searchsorted(active, window_offsets), windows, value_offsets, out
    )
    np.testing.assert_allclose(out, reference.scatter_windows(product, active, windows, out), **tolerance(dtype))

    expected = reference.conv_backward_weight(gradient, values, windows)
    parts = np.full((number, windows.shape[1] * depth, channels), np.nan, dtype)
    conv.conv_backward_weight(panels_of(gradient, active), active, values, windows, parts)
    np.testing.assert_allclose(parts.sum(axis=0).reshape(expected.shape), expected, **tolerance(dtype))


@given(windows_of_values(), st.sampled_from([1, 7, 80, 170]), CHANNELS, SMALL, DTYPES, st.sampled_from([1, 3, 8]))
def test_winners_backward__through_products_matches_reference(drawn, depth, channels, entries, dtype, number):
    rng, windows, value_offsets, window_offsets = drawn
    datasets, width = len(window_offsets) - 1, windows.shape[1]
    values, weight = normal(rng, (value_offsets[-1], depth), dtype), normal(rng, (channels, width, depth), dtype)
    gradient = normal(rng, (datasets, entries, channels), dtype)
    winners = np.empty(gradient.shape, np.int32)
    for b in range(datasets):
        winners[b] = rng.integers(window_offsets[b], window_offsets[b + 1], winners[b].shape)
    which = gradient, winners, window_offsets, windows

    out, matrix = np.full_like(values, np.nan), weight.reshape(channels, -1)
    winner_kernels.conv_backward_values_of_winners(*which, matrix, value_offsets, out)
    expected = reference.conv_backward_values_of_winners(gradient, winners, windows, weight, out)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))

    parts = np.full((number, channels, width * depth), np.nan, dtype)
    winner_kernels.conv_backward_weight_of_winners(*which, values, parts)
    expected = reference.conv_backward_weight_of_winners(gradient, winners, windows, values)
    np.testing.assert_allclose(parts.sum(axis=0).T.reshape(expected.shape), expected, **tolerance(dtype))


@given(SEEDS, st.sampled_from([1, 511, 512, 513, 1300]), st.sampled_from([1, 47, 48, 49, 100]), DTYPES)
def test_backward_weight__many_windows_and_channels(seed, number, depth, dtype):
    rng = np.random.default_rng(seed)
    values, gradient = normal(rng, (number, depth), dtype), normal(rng, (number, 3), dtype)
    windows, out = np.arange(number, dtype=np.int32).reshape(-1, 1), np.full((1, depth, 3), np.nan, dtype)
    conv.conv_backward_weight(panels_of(gradient), np.arange(number), values, windows, out)
    expected = values.astype(np.float64).T @ gradient.astype(np.float64)
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-4)


@given(ragged(), st.integers(1, 3), SMALL, st.sampled_from([2, 1000]))
def test_find_windows__matches_reference(rows, step, width, words):
    rng, _, _, offsets = rows
    cells = width + rng.integers(0, 4)
    data = rng.integers(0, words, (offsets[-1], cells * step)).astype(np.int32)
    positions = cells - width + 1
    numbers, firsts = np.full((len(data), positions), -1, np.int32), np.full(len(data) * positions, -1)
    counts = np.full(len(offsets) - 1, -1)
    window_kernels.find_windows(data, offsets, width * step, step, numbers, firsts, counts)
    expected = reference.find_windows(data, offsets, width * step, step)
    assert counts.tolist() == [len(found) for found in expected]

    window_offsets = np.concatenate([[0], np.cumsum(counts)])
    found = np.full((window_offsets[-1], width), -1, np.int32)
    index = np.arange(data.size // step, dtype=np.int32)
    window_kernels.gather_windows(index, offsets, firsts, window_offsets, numbers, found)
    cells = np.concatenate([firsts[a * positions :][:n] for a, n in zip(offsets[:-1], counts, strict=True)])
    np.testing.assert_array_equal(found, reference.gather_windows(index, cells, width))
    cell_words = data.reshape(-1, step)
    for b in range(len(offsets) - 1):
        of_dataset = found[window_offsets[b] : window_offsets[b + 1]]
        assert [tuple(cell_words[window].reshape(-1)) for window in of_dataset] == expected[b]
        for u in range(offsets[b], offsets[b + 1]):
            for p in range(positions):
                window = tuple(data[u, p * step : (p + width) * step])
                assert window == expected[b][numbers[u, p] - window_offsets[b]]


def test_find_windows__long_windows_of_large_words():
    """Keys of 64 bits do not hold them at once: they are numbered piece by piece."""
    rng = np.random.default_rng(1)
    data = rng.integers(-(2**31), 2**31 - 1, (3, 40)).astype(np.int32)[rng.integers(0, 3, (30, 40)), np.arange(40)]
    for length, step in ((12, 1), (12, 3), (40, 4), (40, 1)):
        numbers = np.empty((30, 40 // step - length // step + 1), np.int32)
        firsts, counts = np.empty(numbers.size, np.int64), np.empty(2, np.int64)
        offsets = np.array([0, 10, 30])
        window_kernels.find_windows(data, offsets, length, step, numbers, firsts, counts)
        expected = reference.find_windows(data, offsets, length, step)
        assert counts.tolist() == [len(found) for found in expected]
        for u in range(30):
            of_dataset = expected[int(u >= 10)]
            for p in range(numbers.shape[1]):
                assert of_dataset[numbers[u, p]] == tuple(data[u, p * step : p * step + length])


def test_find_windows__more_than_the_first_table_holds():
    data = np.random.default_rng(1).permutation(5000).astype(np.int32).reshape(-1, 1)
    data = np.concatenate([data, data])
    numbers, firsts, counts = np.empty((10_000, 1), np.int32), np.empty(10_000, np.int64), np.empty(1, np.int64)
    window_kernels.find_windows(data, np.array([0, 10_000]), 1, 1, numbers, firsts, counts)
    assert counts[0] == 5000
    np.testing.assert_array_equal(numbers[:, 0], np.tile(np.arange(5000), 2))


@given(SEEDS, st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 5), st.sampled_from([2, 2**31]))
def test_find_rows__match_reference(seed, sizes, length, words):
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    data = rng.integers(-words, words, (starts[-1], length)).astype(np.int32)
    data = data[np.concatenate([rng.integers(a, b, b - a) for a, b in zip(starts[:-1], starts[1:], strict=True)])]
    order, repeats, counts = np.full(len(data), -1), np.full(len(data), -1), np.full(len(sizes), -1)
    row_kernels.find_rows(data, starts, order, repeats, counts)
    expected = reference.find_rows(data, starts)
    assert counts.tolist() == [len(found) for found in expected]

    offsets = np.concatenate([[0], np.cumsum(counts)])
    distinct, times = np.full((offsets[-1], length), -1, np.int32), np.full(offsets[-1], -1)
    row_kernels.gather_rows(data, starts, order, repeats, offsets, distinct, times)
    chosen = np.concatenate([order[a:][:n] for a, n in zip(starts[:-1], counts, strict=True)])
    np.testing.assert_array_equal(distinct, reference.gather_rows(data, chosen))
    found = [(row.tobytes(), count) for row, count in zip(distinct, times.tolist(), strict=True)]
    assert found == [pair for of_dataset in expected for pair in of_dataset]


@given(SEEDS, st.sampled_from([1, 255, 256, 257, 600]), DTYPES, DTYPES, st.sampled_from([0, np.nan, np.inf, -np.inf]))
def test_convert_rows__match_reference(seed, number, of_dtype, dtype, value):
    data = normal(np.random.default_rng(seed), (number, 3), of_dtype)
    data[-1, -1] = value
    out, finite = np.empty((number, 3), dtype), np.empty(row_kernels.convert_blocks(number), np.uint8)
    row_kernels.convert_rows(data, out, finite)
    expected, all_finite = reference.convert_rows(data)
    np.testing.assert_array_equal(out, expected.astype(dtype))
    assert not np.signbit(out[out == 0]).any()
    assert finite.all() == all_finite


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
    value_offsets = offsets * index.shape[1]
    winners = np.empty(shape, np.int32)
    for b in range(len(offsets) - 1):
        winners[b] = rng.integers(value_offsets[b], value_offsets[b + 1], shape[1:])
    gradient, out = normal(rng, shape, dtype), np.full((index.size, depth), np.nan, dtype)
    winner_kernels.winners_backward(gradient, winners, value_offsets, out)
    np.testing.assert_allclose(
        out, reference.winners_backward(gradient, winners, np.zeros_like(out)), **tolerance(dtype)
    )


@st.composite
def repeated(draw):
    """As `ragged`, with values that several rows of a dataset have at several positions."""
    rng, index, counts, offsets = draw(ragged())
    if draw(st.booleans()):
        for b in range(len(offsets) - 1):
            of_dataset = index[offsets[b] : offsets[b + 1]]
            of_dataset[:] = rng.choice(of_dataset.reshape(-1)[: draw(SMALL)], of_dataset.shape)
    return rng, index, counts, offsets


@given(repeated(), CHANNELS, st.lists(st.sampled_from([1.0, 2.0, 3.0, 0.5, 2.7]), min_size=1, max_size=4), DTYPES)
def test_moments__match_reference(rows, depth, orders, dtype):
    rng, index, counts, offsets = rows
    values, orders = abs(normal(rng, (index.size, depth), dtype)), np.array(orders)
    out = np.full((len(offsets) - 1, len(orders), index.shape[1], depth), np.nan, dtype)
    pool.moments_forward(values, index, counts, offsets, orders, out)
    expected = reference.moments_forward(values, index, counts, offsets, orders)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))

    gradient, out = normal(rng, out.shape, dtype), np.full_like(values, np.nan)
    expected = reference.moments_backward(gradient, values, index, counts, offsets, orders, np.zeros_like(out))
    pool.moments_backward(gradient, values, index, counts, offsets, orders, offsets * index.shape[1], out)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))


@given(repeated(), CHANNELS, DTYPES, st.sampled_from([0, 100]))
def test_var__matches_reference(rows, depth, dtype, offset):
    rng, index, counts, offsets = rows
    values = normal(rng, (index.size, depth), dtype) + dtype(offset)
    out = np.full((len(offsets) - 1, index.shape[1], depth), np.nan, dtype)
    means = np.full(out.shape, np.nan)
    pool.var_forward(values, index, counts, offsets, means, out)
    expected_means, expected = reference.var_forward(values, index, counts, offsets)
    np.testing.assert_allclose(means, expected_means, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))

    gradient, out = normal(rng, out.shape, dtype), np.full_like(values, np.nan)
    expected = reference.var_backward(gradient, means, values, index, counts, offsets, np.zeros_like(out))
    pool.var_backward(gradient, means, values, index, counts, offsets, offsets * index.shape[1], out)
    np.testing.assert_allclose(out, expected, **tolerance(dtype))


@st.composite
def alleles(draw, largest=1):
    """Rows (U, P, C) of a few datasets in which channel 0 holds 0, ..., largest; counts (U,), offsets (B + 1,)."""
    rng = np.random.default_rng(draw(SEEDS))
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    positions, channels = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    rows = rng.standard_normal((sum(sizes), positions, channels)).astype(draw(DTYPES))
    rows[..., 0] = rng.integers(largest + 1, size=rows.shape[:2])
    rows[..., 0] *= rng.random(positions) > 0.2  # some positions do not vary
    counts = rng.integers(1, draw(st.sampled_from([2, 50])), len(rows))
    return rows, counts, np.concatenate([[0], np.cumsum(sizes)])


def words_of(rows):
    return rows.view(f"i{rows.itemsize}")


@given(st.one_of(alleles(), alleles(largest=2), alleles(largest=100)), st.data())
def test_count_windows__match_reference(drawn, data):
    rows, counts, offsets = drawn
    channel = data.draw(st.integers(0, rows.shape[2] - 1))
    widths = np.array(data.draw(st.lists(st.integers(1, rows.shape[1]), min_size=1, max_size=4)))
    distinct = np.full((len(offsets) - 1, rows.shape[1], len(widths)), -1)
    pairs = np.full_like(distinct, -1)
    context.count_windows(words_of(rows), channel, counts, offsets, widths, distinct, pairs)
    expected_distinct, expected_pairs = reference.count_windows(rows[..., channel], counts, offsets, widths)
    np.testing.assert_array_equal(distinct, expected_distinct)
    np.testing.assert_array_equal(pairs, expected_pairs)


def test_count_windows__missing_alleles_and_numbers_of_any_sign_are_told_apart():
    rows = np.array([[-1, 0], [-1, 1], [1, 1], [0, -1], [-2.5, 0], [1e30, 0]], np.float32)[..., np.newaxis]
    distinct, pairs = np.empty((1, 2, 1), np.int64), np.empty((1, 2, 1), np.int64)
    context.count_windows(words_of(rows), 0, np.ones(6, np.int64), np.array([0, 6]), np.array([1]), distinct, pairs)
    assert distinct[0, :, 0].tolist() == [5, 3]
    assert pairs[0, :, 0].tolist() == [4 + 4, 9 + 4 + 1]


@given(alleles(), st.lists(st.integers(1, 10), min_size=1, max_size=3))
def test_linkage__matches_reference(drawn, reaches):
    rows, counts, offsets = drawn
    r2 = np.full((len(offsets) - 1, rows.shape[1], len(reaches)), np.nan)
    four_gametes = np.full_like(r2, np.nan)
    context.linkage(rows, 0, counts, offsets, np.array(reaches), r2, four_gametes)
    expected_r2, expected_four_gametes = reference.linkage(rows[..., 0], counts, offsets, reaches)
    np.testing.assert_allclose(r2, expected_r2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(four_gametes, expected_four_gametes, rtol=1e-12)


@given(st.one_of(alleles(), alleles(largest=2)), st.data())
def test_context_of_alleles__bits_do_not_depend_on_the_order_of_rows_or_on_how_they_are_counted(drawn, data):
    rows, counts, offsets = drawn
    rng = np.random.default_rng(data.draw(SEEDS))
    chosen = np.repeat(np.arange(len(rows)), np.minimum(counts, 2))  # a row that occurs often as two rows
    parts = np.where(np.diff(chosen, append=-1) == 0, 1, counts[chosen] - (np.minimum(counts, 2)[chosen] - 1))
    datasets = np.searchsorted(offsets, chosen, side="right")
    order = np.lexsort((rng.random(len(chosen)), datasets))
    others = rows[chosen[order]], parts[order], np.searchsorted(datasets, np.arange(1, len(offsets) + 1))
    numbers = np.arange(1, rows.shape[1] + 1)
    results = []
    for these, times, begins in ((rows, counts, offsets), others):
        shape = len(begins) - 1, rows.shape[1], len(numbers)
        windows, pairs = np.empty(shape, np.int64), np.empty(shape, np.int64)
        r2, four_gametes, powers = np.empty(shape), np.empty(shape), np.empty(shape)
        context.count_windows(words_of(these), 0, times, begins, numbers, windows, pairs)
        context.linkage(these, 0, times, begins, numbers, r2, four_gametes)
        context.average_powers(these, 0, times, begins, numbers, powers)
        results.append([array.tobytes() for array in (windows, pairs, r2, four_gametes, powers)])
    assert results[0] == results[1]


@given(alleles(largest=3), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 2))
def test_average_powers__match_reference(drawn, orders, channel):
    rows, counts, offsets = drawn
    channel = min(channel, rows.shape[2] - 1)
    out = np.full((len(offsets) - 1, rows.shape[1], len(orders)), np.nan)
    context.average_powers(rows, channel, counts, offsets, np.array(orders), out)
    np.testing.assert_allclose(out, reference.average_powers(rows[..., channel], counts, offsets, orders), rtol=1e-9)


@given(st.one_of(alleles(), alleles(largest=2), alleles(largest=100)), SMALL, st.booleans())
def test_cells__match_reference(drawn, numbers_of_context, of_one_channel):
    rows, _, offsets = drawn
    rows = np.ascontiguousarray(rows[..., :1]) if of_one_channel else rows
    positions = rows.shape[1]
    numbers, firsts = np.full(rows.shape[:2], -1, np.int32), np.full(len(rows) * positions, -1)
    counts = np.full(len(offsets) - 1, -1)
    words = rows.view(np.int32)
    context.find_cells(words, offsets, numbers, firsts, counts)
    expected = reference.find_cells(words, offsets)
    assert counts.tolist() == [len(cells) for cells in expected]
    cell_offsets = np.concatenate([[0], np.cumsum(counts)])
    of_context = np.random.default_rng(0).random((len(counts), positions, numbers_of_context)).astype(rows.dtype)
    values = np.full((cell_offsets[-1], rows.shape[2] + numbers_of_context), np.nan, rows.dtype)
    context.gather_cells(rows, of_context, offsets, firsts, cell_offsets, numbers, values)
    cells = np.concatenate([firsts[a * positions :][:n] for a, n in zip(offsets[:-1], counts, strict=True)])
    np.testing.assert_array_equal(values, reference.gather_cells(rows, of_context, offsets, cells))
    np.testing.assert_array_equal(values[numbers][..., : rows.shape[2]], rows)


def test_find_cells__numbers_of_many_different_cells_are_right_where_equal_ones_are_not_found():
    rng = np.random.default_rng(1)
    rows = rng.integers(40, size=(100, 3, 1)).astype(np.float32)
    numbers, firsts, counts = np.empty((100, 3), np.int32), np.empty(300, np.int64), np.empty(1, np.int64)
    context.find_cells(rows.view(np.int32), np.array([0, 100]), numbers, firsts, counts)
    assert sorted(np.unique(numbers)) == list(range(counts[0]))
    np.testing.assert_array_equal(rows.reshape(-1)[firsts[numbers]], rows[..., 0])


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
    second, average = abs(second), normal(rng, number * (seed % 2), dtype)
    constants = np.array([0.001, 0.9, 0.999, 1e-8, 0.99, 0.5, 0.25])
    expected = reference.adam_update(weights, gradients, first, second, average, constants)
    adam.adam_update(weights, gradients, first, second, average, constants)
    for array, wanted in zip((weights, first, second, average), expected, strict=True):
        np.testing.assert_allclose(array, wanted, **tolerance(dtype))


def test_kernel__refuses_arrays_that_are_not_contiguous():
    with pytest.raises(ValueError, match="C-contiguous"):
        _pack([np.zeros((4, 4))[:, ::2]])


def test_mask_gradient__keeps_nan():
    nan = np.full((1, 2), np.nan, np.float32)
    for gradient, out in ((np.ones_like(nan), nan), (nan, np.ones_like(nan))):
        masked, nonzero, _ = mask(gradient, out, 0.0)
        np.testing.assert_array_equal(masked, gradient)
        assert nonzero[0] == 2


def test_kernel__two_threads_at_once():
    rng = np.random.default_rng(1)
    windows = np.arange(500, dtype=np.int32).reshape(-1, 1)
    values, panels = normal(rng, (500, 30), np.float32), panels_of(normal(rng, (30, 20), np.float32))

    def compute(_):
        out = np.empty((500, 20), np.float32)
        conv.conv_forward(values, windows, panels, np.zeros(20, np.float32), 0.0, out)
        return out.tobytes()

    with ThreadPoolExecutor(4) as pool_of_threads:
        assert len(set(pool_of_threads.map(compute, range(50)))) == 1


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_conv__bits_do_not_depend_on_threads(number):
    rng = np.random.default_rng(1)
    windows = np.arange(3000, dtype=np.int32).reshape(-1, 1)
    values, gradient = normal(rng, (3000, 140), np.float32), normal(rng, (3000, 30), np.float32)
    results = []
    for threads_used in (1, number):
        out = np.empty((4, 140, 30), np.float32)
        with threads(threads_used):
            conv.conv_backward_weight(panels_of(gradient), np.arange(3000), values, windows, out)
        results.append(out.tobytes())
    assert results[0] == results[1]
