"""The distinct windows of each dataset: equal windows have equal features, which need computing once.

B    datasets; dataset b holds the rows u in offsets[b], ..., offsets[b + 1] - 1
U    rows
M    cells of a row; a cell is `step` words of 32 bits: the number of a feature, or the bits of the data itself
P    windows of a row, one beginning at each cell
D    distinct windows of all datasets together

A window is packed exactly into a key of 64 bits: its cells are numbered first if they are large, and a window of
many cells is numbered piece by piece. So windows with equal keys are equal, and nothing is compared but keys.
"""

import numpy as np

from ._jit import Kernel, jit
from ._tile import TERMS_PER_SUM

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio: spreads keys over a table (Knuth)


@jit
def _bits(number):
    """How many bits hold the numbers 0, ..., number - 1; at least one."""
    bits = 1
    while (number - 1) >> bits > 0:
        bits += 1
    return bits


@jit
def _enter(keys, bits):
    """A table of 2**bits slots with the numbers of keys, by open addressing; -1 marks a free slot."""
    table = np.full(1 << bits, -1, np.int32)
    for number in range(len(keys)):
        slot = (keys[number] * FACTOR) >> np.uint64(64 - bits)
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
        table[slot] = number
    return table


@jit
def _number_keys(keys, numbers, firsts):
    """Number distinct keys in the order in which they appear, and return how many there are.

    keys (P, U) uint64; numbers (P * U,) int32 gets the number of each; firsts (P * U,) int64 where each number first
    appears.
    """
    positions, rows = keys.shape
    known = np.empty(positions * rows, np.uint64)
    bits, found = 10, 0
    table = _enter(known[:0], bits)
    for p in range(positions):
        while 2 * (found + rows) > 1 << bits:
            bits += 2
        if len(table) < 1 << bits:
            table = _enter(known[:found], bits)
        column, place = keys[p], p * rows
        other = 0  # the first row that differs from row 0
        while other < rows - 1 and column[other] == column[0]:
            other += 1
        more = 0
        for u in range(rows):
            more += (column[u] != column[0]) & (column[u] != column[other])
        step = other if more == 0 and other > 0 else 1  # two alleles: the others need no search
        stop = other + 1 if more == 0 else rows
        for u in range(0, stop, step):
            key = column[u]
            slot = (key * FACTOR) >> np.uint64(64 - bits)
            number = table[slot]
            while number >= 0 and known[np.uintp(number)] != key:
                slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
                number = table[slot]
            if number < 0:
                number = np.int32(found)
                table[slot], known[np.uintp(found)], firsts[np.uintp(found)] = number, key, place + u
                found += 1
            numbers[np.uintp(place + u)] = number
        if more == 0:
            for u in range(1, rows):
                numbers[np.uintp(place + u)] = numbers[place if column[u] == column[0] else place + other]
    return found


@jit
def _copy(numbers, keys):
    """Write numbers (N,) over keys of N entries."""
    flat = keys.reshape(-1)
    for i in range(len(flat)):
        flat[i] = numbers[i]


def find_windows(
    words: np.ndarray,
    offsets: np.ndarray,
    length: int,
    step: int,
    numbers: np.ndarray,
    firsts: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Number the distinct windows of each dataset in the order in which they appear, position by position.

    A window is `length` words, and two are equal if all of their words are. words (U, M * step) int32; offsets
    (B + 1,) int64. Writes numbers (U, P) int32; firsts (U * P,) int64, from ``offsets[b] * P`` the cell ``u * M + p``
    at which each window of dataset b first appears; counts (B,) int64, how many windows dataset b has.
    """
    _find_windows(len(counts), words, offsets, length, step, numbers, firsts, counts)


@Kernel
def _find_windows(b, arguments):
    words, offsets, length, step, numbers, firsts, counts = arguments[0]
    start, rows, positions = offsets[b], offsets[b + 1] - offsets[b], numbers.shape[1]
    cells, width = words.shape[1] // step, length // step
    number_of, first_of = np.empty(cells * rows, np.int32), np.empty(cells * rows, np.int64)

    # Everything is laid out position by position. Small words are cells as they are, others are numbered.
    cell_of = np.empty((cells, rows), np.uint64)
    low, bits = words[start, 0], 64
    if step == 1:
        high = low
        for u in range(start, start + rows):
            for i in range(words.shape[1]):
                low, high = min(low, words[u, i]), max(high, words[u, i])
        bits = _bits(np.int64(high) - np.int64(low) + 1)
    if step == 1 and bits * width <= 64:
        for u in range(rows):
            for cell in range(cells):
                cell_of[np.uintp(cell), np.uintp(u)] = np.int64(words[start + u, cell]) - low
    else:
        for i in range(step):
            if i >= 2:  # two words fill a key
                _number_keys(cell_of, number_of, first_of)
                _copy(number_of, cell_of)
            for u in range(rows):
                for cell in range(cells):
                    word = np.uint64(np.uint32(words[np.uintp(start + u), np.uintp(cell * step + i)]))
                    before = cell_of[cell, u] << np.uint64(32) if i > 0 else np.uint64(0)
                    cell_of[cell, u] = before | word
        bits = _bits(_number_keys(cell_of, number_of, first_of))
        _copy(number_of, cell_of)

    keys = np.zeros((positions, rows), np.uint64)
    filled, done, found = 0, 0, 0
    while done < width:
        while done < width and filled + bits <= 64:
            for p in range(positions):
                for u in range(rows):
                    keys[p, u] |= cell_of[np.uintp(p + done), u] << np.uint64(filled)
            filled += bits
            done += 1
        found = _number_keys(keys, number_of, first_of)
        _copy(number_of, keys)
        filled = _bits(found)
    counts[b] = found
    for u in range(rows):
        for p in range(positions):
            numbers[np.uintp(start + u), np.uintp(p)] = keys[np.uintp(p), np.uintp(u)]
    for number in range(found):
        p, u = first_of[number] // rows, first_of[number] % rows
        firsts[start * positions + number] = (start + u) * cells + p


def gather_windows(
    index: np.ndarray,
    offsets: np.ndarray,
    firsts: np.ndarray,
    window_offsets: np.ndarray,
    numbers: np.ndarray,
    windows: np.ndarray,
) -> None:
    """Write the features under each distinct window, and count the windows' numbers on through all datasets.

    index (U * M,) int32, the row of values of each cell; offsets, firsts, numbers as in `find_windows`;
    window_offsets (B + 1,) int64, where each dataset's windows begin; windows (D, width) int32.
    """
    _gather_windows(len(offsets) - 1, index, offsets, firsts, window_offsets, numbers, windows)


@Kernel
def _gather_windows(b, arguments):
    index, offsets, firsts, window_offsets, numbers, windows = arguments[0]
    positions = numbers.shape[1]
    first = window_offsets[b]
    for d in range(first, window_offsets[b + 1]):
        cell = firsts[offsets[b] * positions + d - first]
        for j in range(windows.shape[1]):
            windows[d, j] = index[cell + j]
    for u in range(offsets[b], offsets[b + 1]):
        for p in range(positions):
            numbers[u, p] += first


def scatter_windows(
    gradient: np.ndarray,
    active: np.ndarray,
    active_offsets: np.ndarray,
    windows: np.ndarray,
    value_offsets: np.ndarray,
    out: np.ndarray,
) -> None:
    """Set ``out`` to 0 and add ``gradient[a, j, c]`` to ``out[windows[active[a], j], c]``.

    gradient (A, width, C); active (A,) int64, ascending; active_offsets (B + 1,) int64, where each dataset begins in
    ``active``; windows (D, width) int32; value_offsets (B + 1,) int64, the rows of out of each dataset; out (V, C).
    """
    _scatter_windows(len(value_offsets) - 1, gradient, active, active_offsets, windows, value_offsets, out)


@Kernel
def _scatter_windows(dataset, arguments):
    gradient, active, active_offsets, windows, value_offsets, out = arguments[0]
    first, number = value_offsets[dataset], value_offsets[dataset + 1] - value_offsets[dataset]
    start, stop = active_offsets[dataset], active_offsets[dataset + 1]
    many = (stop - start) * windows.shape[1] > TERMS_PER_SUM
    totals = np.zeros((number if many else 0, out.shape[1]), np.float64)
    pending = np.zeros(number if many else 0, np.int64)  # terms in each row of out
    for v in range(first, first + number):
        for c in range(out.shape[1]):
            out[v, c] = 0
    for a in range(start, stop):
        for j in range(windows.shape[1]):
            v = windows[active[a], j]
            if many:
                if pending[v - first] == TERMS_PER_SUM:
                    pending[v - first] = 0
                    for c in range(out.shape[1]):
                        totals[v - first, c] += out[v, c]
                        out[v, c] = 0
                pending[v - first] += 1
            for c in range(out.shape[1]):
                out[v, c] += gradient[a, j, c]
    if many:
        for v in range(number):
            for c in range(out.shape[1]):
                out[first + v, c] += totals[v, c]
