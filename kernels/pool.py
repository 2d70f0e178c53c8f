"""Symmetric functions over the rows of each dataset.

B    datasets; dataset b holds the distinct rows u in offsets[b], ..., offsets[b + 1] - 1
U    distinct rows; row u counts counts[u] times
P    positions; the feature of row u at position p is values[index[u, p]]
C    channels
K    pooled values of a feature
"""

import numpy as np

from ._jit import Kernel, jit


def max_forward(values, index, offsets, out, winners):
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
        for u in range(start, stop):  # no branch inside: a row seen before is written over by the next
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


def top_k_forward(values, index, counts, offsets, out, winners):
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


def moments_forward(values, index, counts, offsets, orders, out):
    """Write the means of ``values ** orders[k]`` over each dataset's rows, with ``0 ** m = 0``.

    values (V, C), index (U, P) int32, counts (U,) int64, offsets (B + 1,) int64, orders (K,) float64,
    out (B, K, P, C).
    """
    _moments_forward(len(out), values, index, counts, offsets, orders, out)


@Kernel
def _moments_forward(b, arguments):
    values, index, counts, offsets, orders, out = arguments[0]
    rows = 0
    for u in range(offsets[b], offsets[b + 1]):
        rows += counts[u]
    for k in range(len(orders)):
        for p in range(index.shape[1]):
            sums = out[b, k, p]
            for c in range(len(sums)):
                sums[c] = 0
            for u in range(offsets[b], offsets[b + 1]):
                row, count = values[index[u, p]], out.dtype.type(counts[u])
                if orders[k] == 1:  # the two common ones as loops of their own, which are vectorised
                    for c in range(len(sums)):
                        sums[c] += count * row[c]
                elif orders[k] == 2:
                    for c in range(len(sums)):
                        sums[c] += count * (row[c] * row[c])
                else:
                    for c in range(len(sums)):
                        if row[c] != 0:
                            sums[c] += count * row[c] ** orders[k]
            for c in range(len(sums)):
                sums[c] /= rows


def moments_backward(gradient, values, index, counts, offsets, orders, value_offsets, out):
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
    rows = 0
    for u in range(offsets[b], offsets[b + 1]):
        rows += counts[u]
    for k in range(len(orders)):
        for u in range(offsets[b], offsets[b + 1]):
            scale = out.dtype.type(orders[k] * counts[u] / rows)
            for p in range(index.shape[1]):
                v = index[u, p]
                for c in range(values.shape[1]):
                    x = values[v, c]
                    slope = 1.0 if orders[k] == 1 else x if orders[k] == 2 else x ** (orders[k] - 1)
                    if x != 0:
                        out[v, c] += scale * gradient[b, k, p, c] * slope
