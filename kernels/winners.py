"""Gradients that a maximum sends back to its winners alone, through the products that made them.

B    datasets; dataset b has the windows d in window_offsets[b], ..., window_offsets[b + 1] - 1
E    pooled values of a dataset and node: the entries
N    nodes
D    windows; a window is `width` rows of values, given by their row numbers
V    rows of values, C channels each
K    width * C, the terms of a product

Entry e of dataset b and node n sends ``gradient[b, e, n]`` to node n of window ``winners[b, e, n]``.
"""

import numpy as np

from ._jit import Kernel, blocks_of, jit
from ._tile import ROW, TERMS_PER_SUM, VECTOR_BYTES, add_rows

WINDOWS_AT_ONCE = 16  # windows whose sums are held at once
TERMS_PER_BLOCK = 160  # terms of a product in a block of the weight gradient


@jit
def _add_rows(sums, factors, rows, number, matrix):
    """Add ``factors[i] * matrix[rows[i]]`` to ``sums`` for i = 0, ..., number - 1, one after another."""
    width = ROW * VECTOR_BYTES // sums.itemsize
    left = 0
    while left + width <= len(sums):
        add_rows(sums, factors, rows, number, matrix, left, matrix.shape[1] * matrix.itemsize)
        left += width
    for i in range(number):
        factor, row = factors[i], matrix[rows[i]]
        for k in range(left, len(sums)):
            sums[k] += factor * row[k]


def conv_backward_values_of_winners(
    gradient: np.ndarray,
    winners: np.ndarray,
    window_offsets: np.ndarray,
    windows: np.ndarray,
    weight: np.ndarray,
    value_offsets: np.ndarray,
    out: np.ndarray,
) -> None:
    """Set ``out`` to 0 and add ``gradient[b, e, n] * weight[n, j * C + c]`` to ``out[windows[d, j], c]``.

    d is the winner of b, e, n. gradient (B, E, N); winners (B, E, N) int32; window_offsets (B + 1,) int64;
    windows (D, width) int32; weight (N, K); value_offsets (B + 1,) int64, the rows of out of each dataset; out (V, C).
    """
    _conv_backward_values_of_winners(
        len(gradient), gradient, winners, window_offsets, windows, weight, value_offsets, out
    )


@Kernel
def _conv_backward_values_of_winners(b, arguments):
    gradient, winners, window_offsets, windows, weight, value_offsets, out = arguments[0]
    _, entries, nodes = gradient.shape
    width, channels = windows.shape[1], out.shape[1]
    first, number = window_offsets[b], window_offsets[b + 1] - window_offsets[b]
    for v in range(value_offsets[b], value_offsets[b + 1]):
        for c in range(channels):
            out[v, c] = 0
    # The entries sorted by their window, in which they keep their order.
    ends = np.zeros(number + 1, np.int64)
    for e in range(entries):
        for n in range(nodes):
            ends[winners[b, e, n] - first + 1] += 1
    for d in range(number):
        ends[d + 1] += ends[d]
    factors, rows = np.empty(entries * nodes, gradient.dtype), np.empty(entries * nodes, np.uintp)
    for e in range(entries):
        for n in range(nodes):
            d = winners[b, e, n] - first
            factors[ends[d]], rows[ends[d]] = gradient[b, e, n], n
            ends[d] += 1

    sums = np.empty((WINDOWS_AT_ONCE, width * channels), out.dtype)  # of a few windows: they stay in cache
    start = 0
    for top in range(0, number, WINDOWS_AT_ONCE):
        bottom = min(top + WINDOWS_AT_ONCE, number)
        sums[:] = 0
        for d in range(top, bottom):
            _add_rows(sums[d - top], factors[start:], rows[start:], ends[d] - start, weight)
            start = ends[d]
        for j in range(width):
            for d in range(top, bottom):
                v = np.uintp(windows[np.uintp(first + d), np.uintp(j)])
                for c in range(channels):
                    out[v, c] += sums[np.uintp(d - top), np.uintp(j * channels + c)]


def conv_backward_weight_of_winners(
    gradient: np.ndarray,
    winners: np.ndarray,
    window_offsets: np.ndarray,
    windows: np.ndarray,
    values: np.ndarray,
    parts: np.ndarray,
) -> None:
    """Write to each of ``parts`` the sums of ``gradient[b, e, n] * values[windows[d, j], c]`` over a part of b.

    d is the winner of b, e, n. gradient (B, E, N); winners (B, E, N) int32; window_offsets (B + 1,) int64;
    windows (D, width) int32; values (V, C); parts (number of parts, N, K).
    """
    blocks = len(parts) * blocks_of(parts.shape[2], TERMS_PER_BLOCK)
    _conv_backward_weight_of_winners(blocks, gradient, winners, window_offsets, windows, values, parts)


@Kernel
def _conv_backward_weight_of_winners(block, arguments):
    gradient, winners, window_offsets, windows, values, parts = arguments[0]
    datasets, entries, nodes = gradient.shape
    channels, datasets_of_part = values.shape[1], -(-datasets // len(parts))
    part, left = block % len(parts), block // len(parts) * TERMS_PER_BLOCK
    used = min(TERMS_PER_BLOCK, parts.shape[2] - left)
    sums = np.zeros((nodes, used), values.dtype)
    pending = np.zeros(nodes, np.int64)  # entries in each row of sums
    many = entries * datasets_of_part > TERMS_PER_SUM
    totals = np.zeros((nodes if many else 0, used), np.float64)
    factors, rows = np.empty(TERMS_PER_SUM, gradient.dtype), np.empty(TERMS_PER_SUM, np.uintp)
    first_dataset, last_dataset = part * datasets_of_part, min((part + 1) * datasets_of_part, datasets)
    most = 0
    for b in range(first_dataset, last_dataset):
        most = max(most, window_offsets[b + 1] - window_offsets[b])
    gathered = np.empty((most, used), values.dtype)  # the windows of one dataset
    for b in range(first_dataset, last_dataset):
        first = window_offsets[b]
        for j in range(left // channels, (left + used + channels - 1) // channels):
            start, stop = max(left, j * channels), min(left + used, (j + 1) * channels)
            for d in range(window_offsets[b + 1] - first):
                v = np.uintp(windows[np.uintp(first + d), np.uintp(j)])
                for k in range(start, stop):
                    gathered[d, np.uintp(k - left)] = values[v, np.uintp(k - j * channels)]
        for n in range(nodes):
            for top in range(0, entries, TERMS_PER_SUM):
                number = 0
                for e in range(top, min(top + TERMS_PER_SUM, entries)):  # the next entry overwrites one that is 0
                    factors[number], rows[number] = gradient[b, e, n], winners[b, e, n] - first
                    number += gradient[b, e, n] != 0
                if pending[n] + number > TERMS_PER_SUM:
                    for k in range(used):  # not of whole arrays, which takes Numba seconds to compile
                        totals[n, k] += sums[n, k]
                        sums[n, k] = 0
                    pending[n] = 0
                _add_rows(sums[n], factors, rows, number, gathered)
                pending[n] += number
    for n in range(nodes):
        for k in range(used):
            if many:
                sums[n, k] = totals[n, k] + sums[n, k]
            parts[part, n, np.uintp(left + k)] = sums[n, k]


def winners_backward(gradient: np.ndarray, winners: np.ndarray, value_offsets: np.ndarray, out: np.ndarray) -> None:
    """Set ``out`` to 0 and add ``gradient[b, k, p, c]`` to ``out[winners[b, k, p, c], c]``: of max and top_k.

    gradient (B, K, P, C), winners (B, K, P, C) int32, value_offsets (B + 1,) int64, the rows of out of each dataset,
    out (V, C).
    """
    _winners_backward(len(gradient), gradient, winners, value_offsets, out)


@Kernel
def _winners_backward(b, arguments):
    gradient, winners, value_offsets, out = arguments[0]
    _, number, positions, channels = winners.shape
    for v in range(value_offsets[b], value_offsets[b + 1]):
        for c in range(channels):
            out[v, c] = 0
    for k in range(number):
        for p in range(positions):
            for c in range(channels):
                out[winners[b, k, p, c], c] += gradient[b, k, p, c]
