"""The distinct windows of each dataset: equal windows have equal features, which need computing once.

B    datasets; dataset b holds the rows u in offsets[b], ..., offsets[b + 1] - 1
U    rows
M    cells of a row; a cell is `step` words of 32 bits: the number of a feature, or the bits of the data itself
P    windows of a row, one beginning at each cell
D    distinct windows of all datasets together
"""

import numpy as np

from ._jit import Kernel, jit


def find_windows(words, offsets, length, step, numbers, firsts, counts):
    """Number the distinct windows of each dataset in the order in which they appear, position by position.

    A window is `length` words, and two are equal if all of their words are. words (U, M * step) int32; offsets
    (B + 1,) int64. Writes numbers (U, P) int32; firsts (U * P,) int64, from ``offsets[b] * P`` the cell ``u * M + p``
    at which each window of dataset b first appears; counts (B,) int64, how many windows dataset b has.
    """
    _find_windows(len(counts), words, offsets, length, step, numbers, firsts, counts)


def gather_windows(index, offsets, firsts, window_offsets, numbers, windows):
    """Write the features under each distinct window, and count the windows' numbers on through all datasets.

    index (U * M,) int32, the row of values of each cell; offsets, firsts, numbers as in `find_windows`;
    window_offsets (B + 1,) int64, where each dataset's windows begin; windows (D, width) int32.
    """
    _gather_windows(len(offsets) - 1, index, offsets, firsts, window_offsets, numbers, windows)


@jit
def _insert(table, code, number):
    slot = code & np.uint64(len(table) - 1)
    while table[slot] >= 0:
        slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
    table[slot] = number


@Kernel
def _find_windows(b, arguments):
    words, offsets, length, step, numbers, firsts, counts = arguments[0]
    start, rows, positions = offsets[b], offsets[b + 1] - offsets[b], numbers.shape[1]
    cells, width = words.shape[1] // step, length // step
    # Codes of all beginnings of a row give the code of any window with one product: a rolling hash.
    factor = np.uint64(0x9E3779B97F4A7C15)
    power = np.uint64(1)
    for _ in range(length):
        power *= factor
    codes_before = np.empty((cells + 1, rows), np.uint64)
    for u in range(rows):
        code = np.uint64(0)
        for cell in range(cells):
            codes_before[cell, u] = code
            for i in range(step):
                code = code * factor + np.uint64(np.uint32(words[np.uintp(start + u), np.uintp(cell * step + i)]))
        codes_before[cells, u] = code

    row_of, begin_of = np.empty(rows * positions, np.int64), np.empty(rows * positions, np.int64)
    code_of = np.empty(rows * positions, np.uint64)
    table = np.full(256, -1, np.int32)  # open addressing; a slot holds the number of a window
    found = 0
    for p in range(positions):
        begin = p * step
        for u in range(rows):
            code = codes_before[p + width, u] - codes_before[p, u] * power
            code = (code ^ (code >> np.uint64(32))) * factor
            code ^= code >> np.uint64(32)
            slot = code & np.uint64(len(table) - 1)
            number = table[slot]
            while number >= 0:
                if code_of[np.uintp(number)] == code:
                    row, other = row_of[np.uintp(number)], begin_of[np.uintp(number)]
                    i = 0
                    while (
                        i < length
                        and words[np.uintp(row), np.uintp(other + i)] == words[np.uintp(start + u), np.uintp(begin + i)]
                    ):
                        i += 1
                    if i == length:
                        break
                slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
                number = table[slot]
            if number < 0:
                number = found
                row_of[np.uintp(found)], begin_of[np.uintp(found)], code_of[np.uintp(found)] = start + u, begin, code
                table[slot] = found
                found += 1
                if 2 * found > len(table):
                    table = np.full(4 * len(table), -1, np.int32)
                    for other in range(found):
                        _insert(table, code_of[other], other)
            numbers[np.uintp(start + u), p] = number
    counts[b] = found
    for number in range(found):
        firsts[start * positions + number] = row_of[number] * cells + begin_of[number] // step


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
