"""Convolutions of height 1 over gathered windows; a dense layer is a window of full width.

V    rows of values, C channels each
D    windows; a window is `width` rows of values, given by their row numbers
N    output channels
K    width * C, the terms of a sum
A    windows with a gradient

The products are of tiles of a few windows with panels of the weight: see _tile.py. An index that Numba cannot see to
be non-negative is cast to `numpy.uintp`: the check for negative ones would keep loops from being vectorised.
"""

import numpy as np

from ._jit import Kernel, blocks_of, jit
from ._tile import NARROW, VECTOR_BYTES, WIDE, narrow_tile, panel_width, wide_tile

WINDOWS = 96  # windows in a block: their values stay in cache while the panels pass
WEIGHTS = 48  # rows of the weight gradient in a block
TERMS = 512  # terms of a sum of the weight gradient that are packed at once
SPARSE_TERMS = 160  # terms of a window in a block of the sparse weight gradient
COLUMNS = 32  # columns in a block of a matrix to transpose
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


def pack_transposed(matrix, panels):
    """Cut the columns of a transposed matrix into panels, as `pack` does.

    matrix (K, N), panels (ceil(K / width), N, width).
    """
    _pack_transposed(len(panels), matrix, panels)


def conv_forward(values, windows, panels, bias, floor, out):
    """Write ``max(floor, bias + sum_jc values[windows[d, j], c] * weight[j, c])`` to ``out[d]``.

    values (V, C); windows (D, width) int32; panels of the weight (K, N), see `pack`; bias (N,); out (D, N). A floor
    of 0 makes a ReLU, a floor of -inf a linear layer. NaN is kept.
    """
    blocks = blocks_of(len(out), WINDOWS) * len(panels)
    _conv_forward(blocks, values, windows, panels, bias, float(floor), out)


def mask_gradient(gradient, out, floor, masked, nonzero, sums):
    """Write 0 where ``out <= floor``, else ``gradient``, to ``masked``; count what is not 0, and sum over windows.

    gradient, out, masked (D, N); nonzero (D,) int64; sums (`mask_blocks`, N), the sums over each block of windows. NaN
    is kept.
    """
    _mask_gradient(mask_blocks(len(out)), gradient, out, float(floor), masked, nonzero, sums)


def mask_blocks(windows: int) -> int:
    """The number of blocks of `mask_gradient`."""
    return blocks_of(windows, ROWS)


def find_places(masked, nonzero, places):
    """Write the channels of window d that have a gradient to the first nonzero[d] entries of ``places[d]``.

    masked (D, N) and nonzero (D,) of `mask_gradient`, places (D, N) int32.
    """
    _find_places(mask_blocks(len(masked)), masked, nonzero, places)


def scatter_windows(gradient, active, active_offsets, windows, value_offsets, out):
    """Set ``out`` to 0 and add ``gradient[a, j, c]`` to ``out[windows[active[a], j], c]``.

    gradient (A, width, C); active (A,) int64, ascending; active_offsets (B + 1,) int64, where each dataset begins in
    ``active``; windows (D, width) int32; value_offsets (B + 1,) int64, the rows of out of each dataset; out (V, C).
    """
    _scatter_windows(len(value_offsets) - 1, gradient, active, active_offsets, windows, value_offsets, out)


def sparse_backward_values(gradient, places, nonzero, window_offsets, windows, weight, value_offsets, out):
    """Set ``out`` to 0 and add ``sum_n gradient[d, n] * weight[n, j * C + c]`` to ``out[windows[d, j], c]``.

    gradient (D, N), mostly 0, with places (D, N) and nonzero (D,) of `find_places`; window_offsets (B + 1,) int64,
    the windows of each dataset; windows (D, width) int32; weight (N, K); value_offsets (B + 1,) int64, the rows of out
    of each dataset; out (V, C).
    """
    arguments = gradient, places, nonzero, window_offsets, windows, weight, value_offsets, out
    _sparse_backward_values(len(value_offsets) - 1, *arguments)


def backward_weight(panels, active, values, windows, out):
    """Write ``sum_a gradient[a, n] * values[windows[active[a], j], c]`` to ``out[j, c, n]``.

    panels of the gradient (A, N), see `pack`; active (A,) int64; values (V, C); windows (D, width) int32;
    out (width, C, N).
    """
    _backward_weight(blocks_of(out.shape[0] * out.shape[1], WEIGHTS), panels, active, values, windows, out)


def sparse_backward_weight(gradient, places, nonzero, values, windows, parts):
    """Write to each of ``parts`` the sums of ``gradient[d, n] * values[windows[d, j], c]`` over a part of the windows.

    gradient (D, N), places (D, N) and nonzero (D,) as in `sparse_backward_values`; values (V, C); windows (D, width)
    int32; parts (`sparse_parts`, N, K).
    """
    blocks = len(parts) * blocks_of(parts.shape[2], SPARSE_TERMS)
    _sparse_backward_weight(blocks, gradient, places, nonzero, values, windows, parts)


def sparse_parts(weights: int) -> int:
    """In how many parts a sparse gradient of so many weights is computed: one where memory would count."""
    return 8 if weights <= 2**16 else 1


def add_parts(parts, out):
    """Write the sums of ``parts[:, n, k]`` to ``out[k, n]``. parts (number of parts, N, K), out (K, N)."""
    _add_parts(blocks_of(out.shape[1], COLUMNS), parts, out)


def transpose(matrix, out):
    """Write ``matrix[k, n]`` to ``out[n, k]``. matrix (K, N), out (N, K)."""
    _transpose(blocks_of(len(out), COLUMNS), matrix, out)


@jit
def _ceil_divide(a, b):
    return (a + b - 1) // b


@Kernel
def _transpose(block, arguments):
    matrix, out = arguments[0]
    first, last = block * COLUMNS, min((block + 1) * COLUMNS, out.shape[0])
    for k in range(out.shape[1]):
        for n in range(first, last):
            out[np.uintp(n), k] = matrix[k, np.uintp(n)]


@Kernel
def _pack(block, arguments):
    matrix, rows, panels = arguments[0]
    number, _, width = panels.shape
    panel, first = block % number, block // number * ROWS
    columns = min(width, matrix.shape[1] - panel * width)
    for k in range(first, min(first + ROWS, len(rows))):
        for n in range(columns):
            panels[panel, k, n] = matrix[rows[k], np.uintp(panel * width + n)]
        for n in range(columns, width):
            panels[panel, k, n] = 0


@Kernel
def _pack_transposed(panel, arguments):
    matrix, panels = arguments[0]
    _, channels, width = panels.shape
    rows = matrix[panel * width : min((panel + 1) * width, len(matrix))]
    for first in range(0, channels, COLUMNS):  # a tile that stays in cache while it is written column by column
        last = min(first + COLUMNS, channels)
        for k in range(len(rows)):
            for n in range(first, last):
                panels[panel, n, k] = rows[k, n]
        for k in range(len(rows), width):
            for n in range(first, last):
                panels[panel, n, k] = 0


@Kernel
def _conv_forward(block, arguments):
    values, windows, panels, bias, floor, out = arguments[0]
    width, depth, itemsize, columns = windows.shape[1], values.shape[1], values.itemsize, panels.shape[2]
    wide = columns == WIDE[1] * VECTOR_BYTES // itemsize
    rows = WIDE_ROWS if wide else NARROW_ROWS
    lowest = values.dtype.type(floor)
    sums = np.empty((rows, columns), values.dtype)
    table = np.empty((width, rows), np.int64)
    row, panel = block // len(panels), block % len(panels)
    start, stop = row * WINDOWS, min((row + 1) * WINDOWS, windows.shape[0])
    left = panel * columns
    used = min(columns, out.shape[1] - left)
    for r in range(rows):
        for n in range(used, columns):
            sums[r, n] = 0
    for top in range(start, stop, rows):
        for j in range(width):
            for r in range(rows):  # below the last window the tile repeats it
                table[j, r] = values.ctypes.data + windows[min(top + r, stop - 1), j] * depth * itemsize
        for r in range(rows):
            for n in range(used):
                sums[r, n] = bias[np.uintp(left + n)]
        if wide:
            wide_tile(sums, table, depth, itemsize, panels[panel])
        else:
            narrow_tile(sums, table, depth, itemsize, panels[panel])
        for r in range(min(rows, stop - top)):
            for n in range(used):
                out[np.uintp(top + r), np.uintp(left + n)] = lowest if sums[r, n] < lowest else sums[r, n]


@Kernel
def _mask_gradient(block, arguments):
    gradient, out, floor, masked, nonzero, sums = arguments[0]
    for n in range(out.shape[1]):
        sums[block, n] = 0
    for d in range(block * ROWS, min((block + 1) * ROWS, out.shape[0])):
        for n in range(out.shape[1]):
            masked[d, n] = 0 if out[d, n] <= floor else gradient[d, n]
            sums[block, n] += masked[d, n]
        number = 0
        for n in range(out.shape[1]):
            number += masked[d, n] != 0
        nonzero[d] = number


@Kernel
def _find_places(block, arguments):
    masked, nonzero, places = arguments[0]
    for d in range(block * ROWS, min((block + 1) * ROWS, len(masked))):
        n, found = 0, 0
        while found < nonzero[d]:  # no branch inside: a place that is not one is written over by the next
            places[d, np.uintp(found)] = n
            found += masked[d, np.uintp(n)] != 0
            n += 1


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
    width, depth = windows.shape[1], out.shape[1]
    for v in range(value_offsets[dataset], value_offsets[dataset + 1]):
        for c in range(depth):
            out[v, c] = 0
    sums = np.empty(width * depth, out.dtype)  # of one window
    for d in range(window_offsets[dataset], window_offsets[dataset + 1]):
        if nonzero[d] == 0:
            continue
        sums[:] = 0
        for place in range(nonzero[d]):
            n = places[d, place]
            g = gradient[d, n]
            for k in range(len(sums)):
                sums[k] += g * weight[n, k]
        for j in range(width):
            v = windows[d, j]
            for c in range(depth):
                out[v, c] += sums[j * depth + c]


@Kernel
def _backward_weight(block, arguments):
    panels, active, values, windows, out = arguments[0]
    number, terms, columns = panels.shape
    width, depth, channels = out.shape
    itemsize = values.itemsize
    wide = columns == WIDE[1] * VECTOR_BYTES // itemsize
    rows = WIDE_ROWS if wide else NARROW_ROWS
    first, last = block * WEIGHTS, min((block + 1) * WEIGHTS, width * depth)
    packed = np.zeros(
        (min(terms, TERMS), WEIGHTS), values.dtype
    )  # the values that these rows of the weight are multiplied with
    sums = np.zeros((number, WEIGHTS, columns), values.dtype)
    table = np.empty((1, rows), np.int64)
    for start in range(0, terms, TERMS):
        stop = min(start + TERMS, terms)
        for a in range(start, stop):
            for j in range(first // depth, _ceil_divide(last, depth)):
                v = windows[active[a], j]
                for k in range(max(first, j * depth), min(last, (j + 1) * depth)):
                    packed[a - start, np.uintp(k - first)] = values[v, np.uintp(k - j * depth)]
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
    gradient, places, nonzero, values, windows, parts = arguments[0]
    depth, windows_of_part = values.shape[1], -(-len(nonzero) // len(parts))
    part, first = block % len(parts), block // len(parts) * SPARSE_TERMS
    used = min(SPARSE_TERMS, parts.shape[2] - first)
    sums, window = np.zeros((parts.shape[1], used), values.dtype), np.empty(used, values.dtype)
    for d in range(part * windows_of_part, min((part + 1) * windows_of_part, len(nonzero))):
        if nonzero[d] == 0:
            continue
        for j in range(first // depth, _ceil_divide(first + used, depth)):
            v = windows[d, j]
            for k in range(max(first, j * depth), min(first + used, (j + 1) * depth)):
                window[np.uintp(k - first)] = values[v, np.uintp(k - j * depth)]
        for place in range(nonzero[d]):
            n = places[d, place]
            g = gradient[d, n]
            for i in range(used):
                sums[n, i] += g * window[i]
    for n in range(parts.shape[1]):
        for i in range(used):
            parts[part, n, first + i] = sums[n, i]


@Kernel
def _add_parts(block, arguments):
    parts, out = arguments[0]
    first, last = block * COLUMNS, min((block + 1) * COLUMNS, out.shape[1])
    for k in range(out.shape[0]):
        for n in range(first, last):
            total = parts[0, n, k]
            for part in range(1, len(parts)):
                total += parts[part, n, k]
            out[k, n] = total
