"""Convolutions of height 1 over gathered windows; a dense layer is a window of full width.

V    rows of values, C channels each
D    windows; a window is `width` rows of values, given by their row numbers
N    output channels
K    width * C, the terms of a sum
A    windows with a gradient

The products are of tiles of a few windows with panels of the weight: see _tile.py.
"""

import numpy as np

from ._jit import Kernel, blocks_of
from ._tile import NARROW, VECTOR_BYTES, WIDE, narrow_tile, panel_width, wide_tile

WINDOWS = 96  # windows in a block: their values stay in cache while the panels pass
WEIGHTS = 48  # rows of the weight gradient in a block
TERMS = 512  # terms of a sum of the weight gradient that are packed at once
CHANNELS = 32  # channels in a block of a sparse or transposed matrix
ROWS = 64  # rows in a block of a simple pass

WIDE_ROWS, NARROW_ROWS = WIDE[0], NARROW[0]


def panel_columns(channels: int, dtype) -> int:
    """The width of the panels that a matrix of N columns is cut into."""
    itemsize = np.dtype(dtype).itemsize
    narrow = panel_width(NARROW, itemsize)
    return narrow if channels <= narrow else panel_width(WIDE, itemsize)


def pack(matrix, rows, panels):
    """Cut the columns of the chosen rows of a matrix into panels, the last one filled up with zeros.

    matrix (R, N), rows (K,) int64, panels (ceil(N / width), K, width) with the width of `panel_columns`.
    """
    _pack(panels.shape[0] * blocks_of(len(rows), ROWS), matrix, rows, panels)


def conv_forward(values, windows, panels, bias, floor, out):
    """Write ``max(floor, bias + sum_jc values[windows[d, j], c] * weight[j, c])`` to ``out[d]``.

    values (V, C); windows (D, width) int32; panels of the weight (K, N), see `pack`; bias (N,); out (D, N). A floor
    of 0 makes a ReLU, a floor of -inf a linear layer. NaN is kept.
    """
    _conv_forward(blocks_of(len(out), WINDOWS), values, windows, panels, bias, float(floor), out)


def mask_gradient(gradient, out, floor, masked, places, nonzero, sums):
    """Write 0 where ``out <= floor``, else ``gradient``, to ``masked``; find what is not 0, and sum over windows.

    gradient, out, masked (D, N). The first nonzero[d] entries of places[d] are the channels of window d that have a
    gradient; nonzero (D,) int64, places (D, N) int32. sums (`mask_blocks`, N) has the sums over each block of windows.
    NaN is kept.
    """
    _mask_gradient(mask_blocks(len(out)), gradient, out, float(floor), masked, places, nonzero, sums)


def mask_blocks(windows: int) -> int:
    """The number of blocks of `mask_gradient`."""
    return blocks_of(windows, ROWS)


def scatter_windows(gradient, active, active_offsets, windows, value_offsets, out):
    """Set ``out`` to 0 and add ``gradient[a, j, c]`` to ``out[windows[active[a], j], c]``.

    gradient (A, width, C); active (A,) int64, ascending; active_offsets (B + 1,) int64, where each dataset begins in
    ``active``; windows (D, width) int32; value_offsets (B + 1,) int64, the rows of out of each dataset; out (V, C).
    """
    _scatter_windows(len(value_offsets) - 1, gradient, active, active_offsets, windows, value_offsets, out)


def sparse_backward_values(gradient, places, nonzero, window_offsets, windows, weight, value_offsets, out):
    """Set ``out`` to 0 and add ``sum_n gradient[d, n] * weight[n, j, c]`` to ``out[windows[d, j], c]``.

    gradient (D, N), mostly 0, with places (D, N) and nonzero (D,) of `mask_gradient`; window_offsets (B + 1,) int64,
    the windows of each dataset; windows (D, width) int32; weight (N, width, C); value_offsets (B + 1,) int64, the rows
    of out of each dataset; out (V, C).
    """
    arguments = gradient, places, nonzero, window_offsets, windows, weight, value_offsets, out
    _sparse_backward_values(len(value_offsets) - 1, *arguments)


def backward_weight(panels, active, values, windows, out):
    """Write ``sum_a gradient[a, n] * values[windows[active[a], j], c]`` to ``out[j, c, n]``.

    panels of the gradient (A, N), see `pack`; active (A,) int64; values (V, C); windows (D, width) int32;
    out (width, C, N).
    """
    _backward_weight(blocks_of(out.shape[0] * out.shape[1], WEIGHTS), panels, active, values, windows, out)


def sparse_backward_weight(gradient, places, nonzero, values, windows, out):
    """Write ``sum_d gradient[d, n] * values[windows[d, j], c]`` to ``out[j, c, n]``, where most terms are 0.

    gradient (D, N), places (D, N) and nonzero (D,) as in `sparse_backward_values`; the rest as in `backward_weight`.
    """
    blocks = out.shape[0] * blocks_of(out.shape[1], CHANNELS)
    _sparse_backward_weight(blocks, gradient, places, nonzero, values, windows, out)


def transpose(matrix, out):
    """Write ``matrix[k, n]`` to ``out[n, k]``. matrix (K, N), out (N, K)."""
    _transpose(blocks_of(len(out), CHANNELS), matrix, out)


@Kernel
def _transpose(block, arguments):
    matrix, out = arguments[0]
    first, last = block * CHANNELS, min((block + 1) * CHANNELS, out.shape[0])
    for k in range(out.shape[1]):
        for n in range(first, last):
            out[n, k] = matrix[k, n]


@Kernel
def _pack(block, arguments):
    matrix, rows, panels = arguments[0]
    number, _, width = panels.shape
    panel, first = block % number, block // number * ROWS
    columns = min(width, matrix.shape[1] - panel * width)
    for k in range(first, min(first + ROWS, len(rows))):
        for n in range(columns):
            panels[panel, k, n] = matrix[rows[k], panel * width + n]
        for n in range(columns, width):
            panels[panel, k, n] = 0


@Kernel
def _conv_forward(block, arguments):
    values, windows, panels, bias, floor, out = arguments[0]
    width, depth, itemsize, columns = windows.shape[1], values.shape[1], values.itemsize, panels.shape[2]
    wide = columns == WIDE[1] * VECTOR_BYTES // itemsize
    rows = WIDE_ROWS if wide else NARROW_ROWS
    sums = np.empty((rows, columns), values.dtype)
    table = np.empty((width, rows), np.int64)
    start, stop = block * WINDOWS, min((block + 1) * WINDOWS, windows.shape[0])
    for panel in range(panels.shape[0]):
        left = panel * columns
        used = min(columns, out.shape[1] - left)
        for n in range(used, columns):
            for r in range(rows):
                sums[r, n] = 0
        for top in range(start, stop, rows):
            for j in range(width):
                for r in range(rows):  # below the last window the tile repeats it
                    table[j, r] = values.ctypes.data + windows[min(top + r, stop - 1), j] * depth * itemsize
            for r in range(rows):
                for n in range(used):
                    sums[r, n] = bias[left + n]
            if wide:
                wide_tile(sums, table, depth, itemsize, panels[panel])
            else:
                narrow_tile(sums, table, depth, itemsize, panels[panel])
            for r in range(min(rows, stop - top)):
                for n in range(used):
                    out[top + r, left + n] = floor if sums[r, n] < floor else sums[r, n]


@Kernel
def _mask_gradient(block, arguments):
    gradient, out, floor, masked, places, nonzero, sums = arguments[0]
    for n in range(out.shape[1]):
        sums[block, n] = 0
    for d in range(block * ROWS, min((block + 1) * ROWS, out.shape[0])):
        for n in range(out.shape[1]):
            masked[d, n] = 0 if out[d, n] <= floor else gradient[d, n]
            sums[block, n] += masked[d, n]
        number = 0
        for n in range(out.shape[1]):  # no branch: where the next one is written over does not matter
            places[d, number] = n
            number += masked[d, n] != 0
        nonzero[d] = number


@Kernel
def _scatter_windows(dataset, arguments):
    gradient, active, active_offsets, windows, value_offsets, out = arguments[0]
    for v in range(value_offsets[dataset], value_offsets[dataset + 1]):
        for c in range(out.shape[1]):
            out[v, c] = 0
    for a in range(active_offsets[dataset], active_offsets[dataset + 1]):
        for j in range(windows.shape[1]):
            v = windows[active[a], j]
            for c in range(out.shape[1]):
                out[v, c] += gradient[a, j, c]


@Kernel
def _sparse_backward_values(dataset, arguments):
    gradient, places, nonzero, window_offsets, windows, weight, value_offsets, out = arguments[0]
    for v in range(value_offsets[dataset], value_offsets[dataset + 1]):
        for c in range(out.shape[1]):
            out[v, c] = 0
    for d in range(window_offsets[dataset], window_offsets[dataset + 1]):
        for place in range(nonzero[d]):
            n = places[d, place]
            g = gradient[d, n]
            for j in range(windows.shape[1]):
                v = windows[d, j]
                for c in range(out.shape[1]):
                    out[v, c] += g * weight[n, j, c]


@Kernel
def _backward_weight(block, arguments):
    panels, active, values, windows, out = arguments[0]
    number, terms, columns = panels.shape
    width, depth, channels = out.shape
    itemsize = values.itemsize
    wide = columns == WIDE[1] * VECTOR_BYTES // itemsize
    rows = WIDE_ROWS if wide else NARROW_ROWS
    first, last = block * WEIGHTS, min((block + 1) * WEIGHTS, width * depth)
    packed = np.zeros((TERMS, WEIGHTS), values.dtype)  # the values that these rows of the weight are multiplied with
    sums = np.zeros((number, WEIGHTS, columns), values.dtype)
    table = np.empty((1, rows), np.int64)
    for start in range(0, terms, TERMS):
        stop = min(start + TERMS, terms)
        for a in range(start, stop):
            j, c = first // depth, first % depth
            for k in range(last - first):
                packed[a - start, k] = values[windows[active[a], j], c]
                c += 1
                if c == depth:
                    j, c = j + 1, 0
        for panel in range(number):
            for top in range(0, last - first, rows):
                for r in range(rows):
                    table[0, r] = packed.ctypes.data + (top + r) * itemsize
                tile, part = sums[panel, top : top + rows], panels[panel, start:stop]
                if wide:
                    wide_tile(tile, table, stop - start, WEIGHTS * itemsize, part)
                else:
                    narrow_tile(tile, table, stop - start, WEIGHTS * itemsize, part)
    for k in range(first, last):
        for n in range(channels):
            out[k // depth, k % depth, n] = sums[n // columns, k - first, n % columns]


@Kernel
def _sparse_backward_weight(block, arguments):
    gradient, places, nonzero, values, windows, out = arguments[0]
    width, depth, channels = out.shape
    j, first = block % width, block // width * CHANNELS
    used = min(CHANNELS, depth - first)
    sums = np.zeros((channels, CHANNELS), values.dtype)
    for d in range(len(nonzero)):
        v = windows[d, j]
        for place in range(nonzero[d]):
            n = places[d, place]
            g = gradient[d, n]
            for c in range(used):
                sums[n, c] += g * values[v, first + c]
    for c in range(used):
        for n in range(channels):
            out[j, first + c, n] = sums[n, c]
