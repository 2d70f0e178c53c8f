"""Symmetric functions over the rows of each dataset.

B    datasets; dataset b holds the distinct rows u in offsets[b], ..., offsets[b + 1] - 1
U    distinct rows; row u counts counts[u] times
P    positions; the feature of row u at position p is values[index[u, p]]
C    channels
K    pooled values of a feature
"""

import numpy as np

from ._jit import Kernel, jit


def max_forward(
    values: np.ndarray, index: np.ndarray, offsets: np.ndarray, out: np.ndarray, winners: np.ndarray
) -> None:
    """Write each dataset's largest values to ``out`` and the rows of values they come from to ``winners``.

    values (V, C), index (U, P) int32, offsets (B + 1,) int64, out (B, 1, P, C), winners (B, 1, P, C) int32.
    Among equal values the first row wins; a NaN is larger than all, as in NumPy.
    """
    _max_forward(len(out), values, index, offsets, out, winners)


@Kernel
def _max_forward(b, arguments):
    values, index, offsets, out, winners = arguments[0]
    start, stop = offsets[b], offsets[b + 1]
    low, high = index[start, 0], index[start, 0]
    for u in range(start, stop):
        for p in range(index.shape[1]):
            low, high = min(low, index[u, p]), max(high, index[u, p])
    last = np.full(high - low + 1, -1, np.int64)  # the last position at which a row of values has been seen
    rows = np.empty(stop - start, np.int32)  # those seen at this position
    for p in range(index.shape[1]):
        number = 0
        for u in range(start, stop):  # no branch inside: the next row overwrites one that was seen before
            v = index[u, p]
            rows[np.uintp(number)] = v
            number += last[np.uintp(v - low)] != p
            last[np.uintp(v - low)] = p
        largest, winner = out[b, 0, p], winners[b, 0, p]
        for c in range(len(largest)):
            largest[c], winner[c] = values[rows[0], c], rows[0]
        for i in range(1, number):
            v = rows[i]
            row = values[v]
            for c in range(len(largest)):
                larger = (row[c] > largest[c]) | ((row[c] != row[c]) & (largest[c] == largest[c]))
                largest[c] = row[c] if larger else largest[c]
                winner[c] = v if larger else winner[c]


@jit
def _sift_down(heap_values, heap_rows, root, size):
    """Restore a heap whose smallest value, on a tie the last row, is on top, below `root`."""
    value, row = heap_values[root], heap_rows[root]
    child = 2 * root + 1
    while child < size:
        right = child + 1
        if right < size and _before(heap_values[child], heap_rows[child], heap_values[right], heap_rows[right]):
            child = right
        if _before(heap_values[child], heap_rows[child], value, row):
            break
        heap_values[root], heap_rows[root] = heap_values[child], heap_rows[child]
        root, child = child, 2 * child + 1
    heap_values[root], heap_rows[root] = value, row


@jit
def _before(value, row, other_value, other_row):
    """Whether the first pair leads the second one in descending order."""
    return value > other_value or (value == other_value and row < other_row)


def top_k_forward(
    values: np.ndarray, index: np.ndarray, counts: np.ndarray, offsets: np.ndarray, out: np.ndarray, winners: np.ndarray
) -> None:
    """Write each dataset's K largest values, descending, and the rows of values they come from.

    values (V, C), index (U, P) int32, counts (U,) int64, offsets (B + 1,) int64, out (B, K, P, C), winners
    (B, K, P, C) int32. A row takes as many places as it counts; among equal values the first row leads. Where there
    is a NaN, all K are.
    """
    _top_k_forward(len(out), values, index, counts, offsets, out, winners)


@Kernel
def _top_k_forward(b, arguments):
    values, index, counts, offsets, out, winners = arguments[0]
    start, stop, k = offsets[b], offsets[b + 1], out.shape[1]
    size = min(k, stop - start)  # every distinct row counts at least once
    heap_values = np.empty(size, values.dtype)
    heap_rows = np.empty(size, np.int64)
    for p in range(index.shape[1]):
        for c in range(values.shape[1]):
            for i in range(size):
                heap_values[i], heap_rows[i] = values[index[start + i, p], c], start + i
            for root in range(size // 2 - 1, -1, -1):
                _sift_down(heap_values, heap_rows, root, size)
            has_nan = False
            for i in range(size):
                has_nan |= heap_values[i] != heap_values[i]
            for u in range(start + size, stop):
                value = values[index[u, p], c]
                has_nan |= value != value
                if value > heap_values[0]:  # on a tie the earlier row stays
                    heap_values[0], heap_rows[0] = value, u
                    _sift_down(heap_values, heap_rows, 0, size)
            for last in range(size - 1, 0, -1):  # the smallest goes to the end: descending order
                heap_values[0], heap_values[last] = heap_values[last], heap_values[0]
                heap_rows[0], heap_rows[last] = heap_rows[last], heap_rows[0]
                _sift_down(heap_values, heap_rows, 0, last)
            filled = 0
            for i in range(size):
                for _ in range(min(counts[heap_rows[i]], k - filled)):
                    out[b, filled, p, c] = heap_values[i]
                    winners[b, filled, p, c] = index[heap_rows[i], p]
                    filled += 1
            if has_nan:
                out[b, :, p, c] = np.nan


@jit
def _rows_of_values(index, start, stop):
    """The lowest row of values of a dataset, and room for `_count_rows`: how often each counts, and a list of them."""
    low, high = index[start, 0], index[start, 0]
    for u in range(start, stop):
        for p in range(index.shape[1]):
            low, high = min(low, index[u, p]), max(high, index[u, p])
    return low, np.zeros(high - low + 1, np.int64), np.empty(stop - start, np.int32)


@jit
def _count_rows(index, counts, start, stop, p, low, times, rows):
    """List the rows of values at a position, each once, count how often each occurs, and return how many there are.

    They are fewer than the rows of the dataset where windows repeat, and are added up in their order there.
    """
    number = 0
    for u in range(start, stop):  # no branch inside: the next row overwrites one that was seen before
        v = index[u, p]
        rows[np.uintp(number)] = v
        number += times[np.uintp(v - low)] == 0
        times[np.uintp(v - low)] += counts[u]
    return number


@jit
def _size(counts, start, stop):
    """The number of rows of a dataset, repeats counted."""
    size = 0
    for u in range(start, stop):
        size += counts[u]
    return size


def moments_forward(
    values: np.ndarray, index: np.ndarray, counts: np.ndarray, offsets: np.ndarray, orders: np.ndarray, out: np.ndarray
) -> None:
    """Write the means of ``values ** orders[k]`` over each dataset's rows, with ``0 ** m = 0``, added up in float64.

    values (V, C), index (U, P) int32, counts (U,) int64, offsets (B + 1,) int64, orders (K,) float64,
    out (B, K, P, C).
    """
    _moments_forward(len(out), values, index, counts, offsets, orders, out)


@Kernel
def _moments_forward(b, arguments):
    values, index, counts, offsets, orders, out = arguments[0]
    start, stop = offsets[b], offsets[b + 1]
    size = _size(counts, start, stop)
    low, times, rows = _rows_of_values(index, start, stop)
    sums = np.empty(values.shape[1], np.float64)
    for p in range(index.shape[1]):
        number = _count_rows(index, counts, start, stop, p, low, times, rows)
        for k in range(len(orders)):
            for c in range(len(sums)):
                sums[c] = 0
            for i in range(number):
                row, count = values[np.uintp(rows[i])], np.float64(times[np.uintp(rows[i] - low)])
                if orders[k] == 1:  # the two common ones as loops of their own, which are vectorised
                    for c in range(len(sums)):
                        sums[c] += count * row[c]
                elif orders[k] == 2:
                    for c in range(len(sums)):
                        sums[c] += count * (np.float64(row[c]) * np.float64(row[c]))
                else:
                    for c in range(len(sums)):
                        if row[c] != 0:
                            sums[c] += count * row[c] ** orders[k]
            for c in range(len(sums)):
                out[b, k, p, c] = sums[c] / size
        for i in range(number):
            times[np.uintp(rows[i] - low)] = 0


def moments_backward(
    gradient: np.ndarray,
    values: np.ndarray,
    index: np.ndarray,
    counts: np.ndarray,
    offsets: np.ndarray,
    orders: np.ndarray,
    value_offsets: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the gradient of `moments_forward` to ``out``; it is 0 where a value is 0.

    gradient (B, K, P, C), value_offsets (B + 1,) int64, the rows of out of each dataset, out (V, C), the rest as in
    `moments_forward`.
    """
    _moments_backward(len(gradient), gradient, values, index, counts, offsets, orders, value_offsets, out)


@Kernel
def _moments_backward(b, arguments):
    gradient, values, index, counts, offsets, orders, value_offsets, out = arguments[0]
    for v in range(value_offsets[b], value_offsets[b + 1]):
        for c in range(out.shape[1]):
            out[v, c] = 0
    start, stop = offsets[b], offsets[b + 1]
    size = _size(counts, start, stop)
    low, times, rows = _rows_of_values(index, start, stop)
    for p in range(index.shape[1]):
        number = _count_rows(index, counts, start, stop, p, low, times, rows)
        for k in range(len(orders)):
            for i in range(number):
                row, total, of_moment = values[np.uintp(rows[i])], out[np.uintp(rows[i])], gradient[b, k, p]
                scale = out.dtype.type(orders[k] * times[np.uintp(rows[i] - low)] / size)
                if orders[k] == 1:
                    for c in range(len(row)):
                        total[c] += scale * of_moment[c] if row[c] != 0 else out.dtype.type(0)
                elif orders[k] == 2:
                    for c in range(len(row)):
                        total[c] += scale * of_moment[c] * row[c]
                else:
                    for c in range(len(row)):
                        if row[c] != 0:
                            total[c] += scale * of_moment[c] * row[c] ** (orders[k] - 1)
        for i in range(number):
            times[np.uintp(rows[i] - low)] = 0


def var_forward(
    values: np.ndarray, index: np.ndarray, counts: np.ndarray, offsets: np.ndarray, means: np.ndarray, out: np.ndarray
) -> None:
    """Write the means of each dataset's rows and the means of the squared deviations from them, added up in float64.

    values (V, C), index (U, P) int32, counts (U,) int64, offsets (B + 1,) int64, means (B, P, C) float64,
    out (B, P, C).
    """
    _var_forward(len(out), values, index, counts, offsets, means, out)


@Kernel
def _var_forward(b, arguments):
    values, index, counts, offsets, means, out = arguments[0]
    start, stop = offsets[b], offsets[b + 1]
    size = _size(counts, start, stop)
    low, times, rows = _rows_of_values(index, start, stop)
    sums = np.empty(values.shape[1], np.float64)
    for p in range(index.shape[1]):
        number = _count_rows(index, counts, start, stop, p, low, times, rows)
        mean = means[b, p]
        for c in range(len(sums)):
            mean[c], sums[c] = 0, 0
        for i in range(number):
            row, count = values[np.uintp(rows[i])], np.float64(times[np.uintp(rows[i] - low)])
            for c in range(len(sums)):
                mean[c] += count * row[c]
        for c in range(len(sums)):
            mean[c] /= size
        for i in range(number):
            row, count = values[np.uintp(rows[i])], np.float64(times[np.uintp(rows[i] - low)])
            for c in range(len(sums)):
                deviation = row[c] - mean[c]
                sums[c] += count * (deviation * deviation)
            times[np.uintp(rows[i] - low)] = 0
        for c in range(len(sums)):
            out[b, p, c] = sums[c] / size


def var_backward(
    gradient: np.ndarray,
    means: np.ndarray,
    values: np.ndarray,
    index: np.ndarray,
    counts: np.ndarray,
    offsets: np.ndarray,
    value_offsets: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the gradient of `var_forward` to ``out``.

    gradient (B, P, C), value_offsets (B + 1,) int64, the rows of out of each dataset, out (V, C), the rest as in
    `var_forward`.
    """
    _var_backward(len(gradient), gradient, means, values, index, counts, offsets, value_offsets, out)


@Kernel
def _var_backward(b, arguments):
    gradient, means, values, index, counts, offsets, value_offsets, out = arguments[0]
    for v in range(value_offsets[b], value_offsets[b + 1]):
        for c in range(out.shape[1]):
            out[v, c] = 0
    start, stop = offsets[b], offsets[b + 1]
    size = _size(counts, start, stop)
    low, times, rows = _rows_of_values(index, start, stop)
    for p in range(index.shape[1]):
        number = _count_rows(index, counts, start, stop, p, low, times, rows)
        for i in range(number):
            v, scale = np.uintp(rows[i]), 2 * times[np.uintp(rows[i] - low)] / size
            for c in range(values.shape[1]):
                out[v, c] += scale * gradient[b, p, c] * (values[v, c] - means[b, p, c])
            times[np.uintp(rows[i] - low)] = 0
