"""Convolutions of height 1 over gathered windows; a dense layer is a window of full width.

V    rows of values, C channels each
D    windows; a window is `width` rows of values, given by their row numbers
N    nodes that are computed
K    width * C, the terms of a sum
A    windows with a gradient

The products are of tiles of a few windows with panels of the weight: see _tile.py. An index that Numba cannot see to
be non-negative is cast to `numpy.uintp`: the check for negative ones would keep loops from being vectorised.
"""

import numpy as np

from ._jit import Kernel, blocks_of, jit
from ._tile import NARROW, TERMS_PER_SUM, VECTOR_BYTES, WIDE, narrow_tile, panel_width, wide_tile

WINDOWS_PER_BLOCK = 96  # windows in a block: their values stay in cache while the panels pass
WEIGHT_ROWS_PER_BLOCK = 48  # rows of the weight gradient in a block
TERMS_AT_ONCE = 512  # terms of a sum of the weight gradient that are packed at once
COLUMNS_PER_TILE = 32  # columns in a block of a matrix to transpose
MATRIX_ROWS_PER_BLOCK = 64  # rows of a matrix in a block of a simple pass

WIDE_ROWS, NARROW_ROWS = WIDE[0], NARROW[0]


def panel_columns(nodes: int, dtype: np.dtype) -> int:
    """The width of the panels that a matrix of N columns is cut into."""
    itemsize = np.dtype(dtype).itemsize
    narrow = panel_width(NARROW, itemsize)
    return narrow if nodes <= narrow else panel_width(WIDE, itemsize)


def mask_blocks(windows: int) -> int:
    """The number of blocks of `mask_gradient`."""
    return blocks_of(windows, MATRIX_ROWS_PER_BLOCK)


@jit
def _ceil_divide(a, b):
    return (a + b - 1) // b


def pack(matrix: np.ndarray, rows: np.ndarray, panels: np.ndarray) -> None:
    """Cut the columns of the chosen rows of a matrix into panels, the last one filled up with zeros.

    matrix (R, N), rows (K,) int64, panels (ceil(N / width), K, width) with the width of `panel_columns`.
    """
    _pack(panels.shape[0] * blocks_of(len(rows), MATRIX_ROWS_PER_BLOCK), matrix, rows, panels)


@Kernel
def _pack(block, arguments):
    matrix, rows, panels = arguments[0]
    number, _, width = panels.shape
    panel, first = block % number, block // number * MATRIX_ROWS_PER_BLOCK
    columns = min(width, matrix.shape[1] - panel * width)
    for k in range(first, min(first + MATRIX_ROWS_PER_BLOCK, len(rows))):
        for n in range(columns):
            panels[panel, k, n] = matrix[rows[k], np.uintp(panel * width + n)]
        for n in range(columns, width):
            panels[panel, k, n] = 0


def pack_transposed(matrix: np.ndarray, panels: np.ndarray) -> None:
    """Cut the columns of a transposed matrix into panels, as `pack` does.

    matrix (K, N), panels (ceil(K / width), N, width).
    """
    _pack_transposed(len(panels), matrix, panels)


@Kernel
def _pack_transposed(panel, arguments):
    matrix, panels = arguments[0]
    _, nodes, width = panels.shape
    rows = matrix[panel * width : min((panel + 1) * width, len(matrix))]
    for first in range(0, nodes, COLUMNS_PER_TILE):  # a tile that stays in cache while it is written column by column
        last = min(first + COLUMNS_PER_TILE, nodes)
        for k in range(len(rows)):
            for n in range(first, last):
                panels[panel, n, k] = rows[k, n]
        for k in range(len(rows), width):
            for n in range(first, last):
                panels[panel, n, k] = 0


def conv_forward(
    values: np.ndarray, windows: np.ndarray, panels: np.ndarray, bias: np.ndarray, floor: float, out: np.ndarray
) -> None:
    """Write ``max(floor, bias + sum_jc values[windows[d, j], c] * weight[j, c])`` to ``out[d]``.

    values (V, C); windows (D, width) int32; panels of the weight (K, N), see `pack`; bias (N,); out (D, N). A floor
    of 0 makes a ReLU, a floor of -inf a linear layer. NaN is kept.
    """
    blocks = blocks_of(len(out), WINDOWS_PER_BLOCK) * len(panels)
    _conv_forward(blocks, values, windows, panels, bias, float(floor), out)


@Kernel
def _conv_forward(block, arguments):
    values, windows, panels, bias, floor, out = arguments[0]
    width, channels, itemsize, columns = windows.shape[1], values.shape[1], values.itemsize, panels.shape[2]
    wide = columns == WIDE[1] * VECTOR_BYTES // itemsize
    rows = WIDE_ROWS if wide else NARROW_ROWS
    lowest = values.dtype.type(floor)
    sums = np.empty((rows, columns), values.dtype)
    table = np.empty((width, rows), np.int64)
    row, panel = block // len(panels), block % len(panels)
    start, stop = row * WINDOWS_PER_BLOCK, min((row + 1) * WINDOWS_PER_BLOCK, windows.shape[0])
    left = panel * columns
    used = min(columns, out.shape[1] - left)
    for r in range(rows):
        for n in range(used, columns):
            sums[r, n] = 0
    for top in range(start, stop, rows):
        for j in range(width):
            for r in range(rows):  # below the last window the tile repeats it
                table[j, r] = values.ctypes.data + windows[min(top + r, stop - 1), j] * channels * itemsize
        for r in range(rows):
            for n in range(used):
                sums[r, n] = bias[np.uintp(left + n)]
        if wide:
            wide_tile(sums, table, width, channels, itemsize, panels[panel])
        else:
            narrow_tile(sums, table, width, channels, itemsize, panels[panel])
        for r in range(min(rows, stop - top)):
            for n in range(used):
                out[np.uintp(top + r), np.uintp(left + n)] = lowest if sums[r, n] < lowest else sums[r, n]


def mask_gradient(
    gradient: np.ndarray, out: np.ndarray, floor: float, masked: np.ndarray, nonzero: np.ndarray, sums: np.ndarray
) -> None:
    """Write 0 where ``out <= floor``, else ``gradient``, to ``masked``; count what is not 0, and sum over windows.

    gradient, out, masked (D, N); nonzero (D,) int64; sums (`mask_blocks`, N), the sums over each block of windows. NaN
    is kept.
    """
    _mask_gradient(len(sums), gradient, out, float(floor), masked, nonzero, sums)


@Kernel
def _mask_gradient(block, arguments):
    gradient, out, floor, masked, nonzero, sums = arguments[0]
    for n in range(out.shape[1]):
        sums[block, n] = 0
    for d in range(block * MATRIX_ROWS_PER_BLOCK, min((block + 1) * MATRIX_ROWS_PER_BLOCK, out.shape[0])):
        for n in range(out.shape[1]):
            masked[d, n] = 0 if out[d, n] <= floor else gradient[d, n]
            sums[block, n] += masked[d, n]
        number = 0
        for n in range(out.shape[1]):
            number += masked[d, n] != 0
        nonzero[d] = number


def conv_backward_weight(
    panels: np.ndarray, active: np.ndarray, values: np.ndarray, windows: np.ndarray, parts: np.ndarray
) -> None:
    """Write to each of ``parts`` the sums of ``gradient[a, n] * values[windows[active[a], j], c]`` over a part of a.

    panels of the gradient (A, N), see `pack`; active (A,) int64; values (V, C); windows (D, width) int32;
    parts (number of parts, width * C, N).
    """
    blocks = len(parts) * blocks_of(parts.shape[1], WEIGHT_ROWS_PER_BLOCK)
    _conv_backward_weight(blocks, panels, active, values, windows, parts)


@Kernel
def _conv_backward_weight(block, arguments):
    panels, active, values, windows, parts = arguments[0]
    number, terms, columns = panels.shape
    channels, nodes = values.shape[1], parts.shape[2]
    itemsize = values.itemsize
    wide = columns == WIDE[1] * VECTOR_BYTES // itemsize
    rows = WIDE_ROWS if wide else NARROW_ROWS
    part, first = block % len(parts), block // len(parts) * WEIGHT_ROWS_PER_BLOCK
    last = min(first + WEIGHT_ROWS_PER_BLOCK, parts.shape[1])
    terms_of_part = _ceil_divide(terms, len(parts))
    begin, end = part * terms_of_part, min(terms, (part + 1) * terms_of_part)
    many = end - begin > TERMS_PER_SUM
    # The values that these rows of the weight are multiplied with.
    packed = np.zeros((min(terms_of_part, TERMS_AT_ONCE), WEIGHT_ROWS_PER_BLOCK), values.dtype)
    sums = np.zeros((number, WEIGHT_ROWS_PER_BLOCK, columns), values.dtype)
    every_sum, totals = sums.reshape(-1), np.zeros(sums.size if many else 0, np.float64)
    table = np.empty((1, rows), np.int64)
    for start in range(begin, end, TERMS_AT_ONCE):
        stop = min(start + TERMS_AT_ONCE, end)
        if many and start > begin and (start - begin) % TERMS_PER_SUM == 0:
            for i in range(len(totals)):  # not of whole arrays, which takes Numba seconds to compile
                totals[i] += every_sum[i]
                every_sum[i] = 0
        for j in range(first // channels, _ceil_divide(last, channels)):
            lowest, highest = max(first, j * channels), min(last, (j + 1) * channels)
            for a in range(start, stop):
                v = np.uintp(windows[np.uintp(active[a]), np.uintp(j)])
                for k in range(lowest, highest):
                    packed[np.uintp(a - start), np.uintp(k - first)] = values[v, np.uintp(k - j * channels)]
        for panel in range(number):
            for top in range(0, last - first, rows):
                for r in range(rows):
                    table[0, r] = packed.ctypes.data + (top + r) * itemsize
                tile, factors = sums[panel, top : top + rows], panels[panel, start:stop]
                if wide:
                    wide_tile(tile, table, 1, stop - start, WEIGHT_ROWS_PER_BLOCK * itemsize, factors)
                else:
                    narrow_tile(tile, table, 1, stop - start, WEIGHT_ROWS_PER_BLOCK * itemsize, factors)
    for i in range(len(totals)):
        every_sum[i] = totals[i] + every_sum[i]
    for k in range(first, last):
        for panel in range(number):
            left = panel * columns
            for n in range(min(columns, nodes - left)):
                parts[part, k, np.uintp(left + n)] = sums[panel, k - first, n]
