"""The distinct rows of dense datasets, in canonical order: that of their bytes.

B    datasets; dataset b holds the rows r in starts[b], ..., starts[b + 1] - 1
R    rows, repeats included
L    words of a row, 32 bits each
U    distinct rows of all datasets together
"""

import numpy as np

from ._jit import Kernel, blocks_of, jit

ROWS_PER_BLOCK = 256  # rows in a block of a simple pass


def convert_blocks(rows: int) -> int:
    """The number of blocks of `convert_rows`."""
    return blocks_of(rows, ROWS_PER_BLOCK)


def convert_rows(data: np.ndarray, out: np.ndarray, finite: np.ndarray) -> None:
    """Write ``data + 0.0``, which makes -0.0 0.0, and whether all values of a block are finite.

    data, out (R, N) of float types; finite (number of blocks,) uint8, see `convert_blocks`.
    """
    _convert_rows(len(finite), data, out, finite)


@Kernel
def _convert_rows(block, arguments):
    data, out, finite = arguments[0]
    bad = 0
    for r in range(block * ROWS_PER_BLOCK, min((block + 1) * ROWS_PER_BLOCK, len(data))):
        for n in range(data.shape[1]):
            out[r, n] = data[r, n] + data.dtype.type(0)
            bad += not abs(out[r, n]) < out.dtype.type(np.inf)
    finite[block] = bad == 0


@jit
def _before(words, r, s):
    """Whether row r comes before row s in the order of their bytes, on machines that store the low byte first."""
    for i in range(words.shape[1]):
        a, b = np.uint32(words[r, i]), np.uint32(words[s, i])
        if a != b:
            different = a ^ b
            lowest = different & (~different + np.uint32(1))
            shift = np.uint32(0)
            while lowest >= np.uint32(256):
                lowest >>= np.uint32(8)
                shift += np.uint32(8)
            return (a >> shift) & np.uint32(255) < (b >> shift) & np.uint32(255)
    return False


def find_rows(
    words: np.ndarray, starts: np.ndarray, order: np.ndarray, repeats: np.ndarray, counts: np.ndarray
) -> None:
    """Find the distinct rows of each dataset and sort them by their bytes.

    words (R, L) int32, starts (B + 1,) int64. From ``starts[b]``, ``order`` (R,) int64 gets the distinct rows r of
    dataset b in canonical order and ``repeats`` (R,) int64 how often each occurs; counts (B,) int64 how many they are.
    """
    _find_rows(len(counts), words, starts, order, repeats, counts)


@Kernel
def _find_rows(b, arguments):
    words, starts, order, repeats, counts = arguments[0]
    start, number = starts[b], starts[b + 1] - starts[b]
    size = 16
    while size < 2 * number:
        size *= 2
    table = np.full(size, -1, np.int64)  # open addressing; a slot holds a place in `rows`
    rows, times = np.empty(number, np.int64), np.zeros(number, np.int64)
    codes = np.empty(number, np.uint64)
    factors = np.empty(words.shape[1], np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    for i in range(len(factors)):
        factors[i] = factor
        factor = factor * np.uint64(6364136223846793005) + np.uint64(2)  # stays odd
    found = 0
    for r in range(start, start + number):
        row = np.uintp(r)
        code = np.uint64(0)
        for i in range(words.shape[1]):
            code += np.uint64(np.uint32(words[row, i])) * factors[i]
        code ^= code >> np.uint64(32)
        slot = code & np.uint64(size - 1)
        while True:
            place = table[slot]
            if place < 0:
                place = found
                table[slot], rows[found], codes[found] = found, r, code
                found += 1
                break
            if codes[np.uintp(place)] == code:
                other, different = np.uintp(rows[np.uintp(place)]), np.int32(0)
                for i in range(words.shape[1]):  # to the end: without a branch the loop is vectorised
                    different |= words[other, i] ^ words[row, i]
                if different == 0:
                    break
            slot = (slot + np.uint64(1)) & np.uint64(size - 1)
        times[np.uintp(place)] += 1

    sorted_, merged = np.arange(found), np.empty(found, np.int64)  # places in `rows`, merge sort
    run = 1
    while run < found:
        for left in range(0, found, 2 * run):
            middle, end = min(left + run, found), min(left + 2 * run, found)
            i, j = left, middle
            for k in range(left, end):
                if j >= end or (i < middle and not _before(words, rows[sorted_[j]], rows[sorted_[i]])):
                    merged[k] = sorted_[i]
                    i += 1
                else:
                    merged[k] = sorted_[j]
                    j += 1
        sorted_, merged = merged, sorted_
        run *= 2
    counts[b] = found
    for k in range(found):
        order[start + k], repeats[start + k] = rows[sorted_[k]], times[sorted_[k]]


def gather_rows(
    words: np.ndarray,
    starts: np.ndarray,
    order: np.ndarray,
    repeats: np.ndarray,
    offsets: np.ndarray,
    words_out: np.ndarray,
    repeats_out: np.ndarray,
) -> None:
    """Write the distinct rows of all datasets one after another, and how often each occurs.

    words, starts, order, repeats as in `find_rows`; offsets (B + 1,) int64, where each dataset's rows begin in
    words_out (U, L) int32 and repeats_out (U,) int64.
    """
    _gather_rows(len(offsets) - 1, words, starts, order, repeats, offsets, words_out, repeats_out)


@Kernel
def _gather_rows(b, arguments):
    words, starts, order, repeats, offsets, words_out, repeats_out = arguments[0]
    for u in range(offsets[b], offsets[b + 1]):
        r = order[starts[b] + u - offsets[b]]
        repeats_out[u] = repeats[starts[b] + u - offsets[b]]
        for i in range(words.shape[1]):
            words_out[u, i] = words[r, i]
