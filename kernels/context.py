"""What is known of a whole dataset at each position: how its windows repeat, and how its positions go together.

B    datasets; dataset b holds the distinct rows u in offsets[b], ..., offsets[b + 1] - 1
U    distinct rows; row u counts counts[u] times
P    positions
C    channels, of which one is looked at
K    widths, reaches or orders; numbers of context
L    words of a cell, the channels of a row at a position; 32 bits each
V    distinct cells of all datasets together

Windows of all widths are counted in one pass over the positions. The rows are kept sorted by what lies before a
position, read backwards; then equal windows are neighbours, and it is enough to know from which position on each row
agrees with the one above it (the positional Burrows-Wheeler transform: Durbin 2014, algorithm 2).
"""

import numpy as np

from ._jit import Kernel, jit

MOST_CELLS = 16  # of a position, that others are compared with
ALL_FOUR = 2**32  # counts pairs with four gametes in the upper half of the sum that counts pairs in its lower half


def count_windows(
    words: np.ndarray,
    channel: int,
    counts: np.ndarray,
    offsets: np.ndarray,
    widths: np.ndarray,
    distinct: np.ndarray,
    pairs: np.ndarray,
) -> None:
    """Write how many distinct windows each dataset has around each position, and how many pairs of rows agree in one.

    The window of w positions around position p begins at ``p - w // 2``, and is cut off at the ends of the row. The
    pairs are ordered, and a row is a pair with itself: a window that occurs m times makes m * m of them. words
    (U, P, C) int32 or int64, the bits of the values; counts (U,) int64; offsets (B + 1,) int64; widths (K,) int64,
    from 1 to P; distinct, pairs (B, P, K) int64.
    """
    _count_windows(len(distinct), words, channel, counts, offsets, widths, distinct, pairs)


def linkage(
    rows: np.ndarray,
    channel: int,
    counts: np.ndarray,
    offsets: np.ndarray,
    reaches: np.ndarray,
    r2: np.ndarray,
    four_gametes: np.ndarray,
) -> None:
    """Write how the `a` positions before a position go together with the `a` positions from it on, for each reach a.

    Of these pairs of positions, without those beyond an end of the row, the ones count in which both positions vary:
    r2 gets the mean of their squared correlations, four_gametes the share in which 00, 01, 10 and 11 all occur; 0 where
    no pair counts. rows (U, P, C) of 0 and 1, counts (U,) int64, offsets (B + 1,) int64, reaches (K,) int64 from 1 on,
    r2 and four_gametes (B, P, K) float64.
    """
    _linkage(len(r2), rows, channel, counts, offsets, reaches, r2, four_gametes)


def average_powers(
    rows: np.ndarray, channel: int, counts: np.ndarray, offsets: np.ndarray, orders: np.ndarray, out: np.ndarray
) -> None:
    """Write the mean of ``x ** m`` over each dataset's rows at each position, for each order m.

    rows (U, P, C), counts (U,) int64, offsets (B + 1,) int64, orders (K,) int64 from 1 on, out (B, P, K) float64.
    """
    _average_powers(len(out), rows, channel, counts, offsets, orders, out)


def find_cells(
    words: np.ndarray, offsets: np.ndarray, numbers: np.ndarray, firsts: np.ndarray, counts: np.ndarray
) -> None:
    """Number the distinct cells of each dataset, those of each position apart, position by position.

    words (U, P, L) int32; offsets (B + 1,) int64. Writes numbers (U, P) int32; firsts (U * P,) int64, from
    ``offsets[b] * P`` the cell ``u * P + p`` at which each first appears; counts (B,) int64, how many a dataset has.
    Where a position has more than `MOST_CELLS`, those that differ from that many have numbers of their own, equal or
    not.
    """
    _find_cells(len(counts), words, offsets, numbers, firsts, counts)


def gather_cells(
    rows: np.ndarray,
    context: np.ndarray,
    offsets: np.ndarray,
    firsts: np.ndarray,
    cell_offsets: np.ndarray,
    numbers: np.ndarray,
    values: np.ndarray,
) -> None:
    """Write each distinct cell with the context of its position behind it, and count the numbers on through all.

    rows (U, P, C); context (B, P, K); offsets, firsts, numbers as in `find_cells`; cell_offsets (B + 1,) int64, where
    each dataset's cells begin; values (V, C + K).
    """
    _gather_cells(len(context), rows, context, offsets, firsts, cell_offsets, numbers, values)


@jit
def _sort_by_bit(bits, end, order, begins, new_order, new_begins):
    """Move the rows with a 0 before those with a 1, and keep their order otherwise.

    bits (U,) uint8, by row, of the position before `end`; order (U,) rows; begins (U,): rows ``order[i - 1]`` and
    ``order[i]`` agree from position ``begins[i]`` on.
    """
    zeros, ones = 0, 0  # where the next row with a 0, and the next with a 1, goes
    for u in range(len(bits)):
        ones += bits[u] == 0
    zeros_begin, ones_begin = end, end  # from where on it agrees with the last one of its kind
    for i in range(len(order)):  # no branch inside, because alleles cannot be foreseen
        row, begin = order[np.uintp(i)], begins[np.uintp(i)]
        bit = np.int64(bits[np.uintp(row)])
        if_one = -bit  # all bits of it, or none
        zeros_begin, ones_begin = max(zeros_begin, begin), max(ones_begin, begin)
        place = zeros ^ ((zeros ^ ones) & if_one)
        new_order[np.uintp(place)] = row
        new_begins[np.uintp(place)] = zeros_begin ^ ((zeros_begin ^ ones_begin) & if_one)
        zeros_begin, ones_begin = zeros_begin & if_one, ones_begin & ~if_one
        zeros, ones = zeros + 1 - bit, ones + bit


@jit
def _count_runs(begins, before, begin, ends):
    """How many distinct windows from position `begin` on there are, and the sum of the squares of their counts.

    before (U + 1,): the counts of the rows before each one, in their order; ends (U + 1,) is room for those of runs.
    """
    rows, number = len(begins), 0
    for i in range(1, rows):  # no branch inside: what is no end is written over by the next
        ends[np.uintp(number)] = before[np.uintp(i)]
        number += begins[np.uintp(i)] > begin
    ends[number] = before[rows]
    pairs = ends[0] * ends[0]
    for i in range(number):
        pairs += (ends[i + 1] - ends[i]) * (ends[i + 1] - ends[i])
    return number + 1, pairs


@Kernel
def _count_windows(b, arguments):
    words, channel, counts, offsets, widths, distinct, pairs = arguments[0]
    start, rows, positions = offsets[b], offsets[b + 1] - offsets[b], words.shape[1]
    order, begins = np.arange(rows), np.zeros(rows, np.int64)
    new_order, new_begins = np.empty(rows, np.int64), np.empty(rows, np.int64)
    column, bits = np.empty(rows, np.int64), np.empty(rows, np.uint8)
    before, ends = np.zeros(rows + 1, np.int64), np.empty(rows + 1, np.int64)
    for end in range(1, positions + 1):
        differ = np.int64(0)  # the bits that are not the same in all rows at this position
        for u in range(rows):
            column[u] = words[start + u, end - 1, channel] ^ words[start, end - 1, channel]
            differ |= column[u]
        others = 0
        for u in range(rows):
            others += (column[u] != 0) & (column[u] != differ)
        shift = 0
        while differ != 0:
            if others == 0:  # two values, as alleles have, are told apart at once
                for u in range(rows):
                    bits[u] = column[u] != 0
                differ = 0
            else:
                while (differ >> shift) & 1 == 0:
                    shift += 1
                for u in range(rows):
                    bits[u] = (column[u] >> shift) & 1
                differ ^= np.int64(1) << shift
            _sort_by_bit(bits, end, order, begins, new_order, new_begins)
            order, new_order = new_order, order
            begins, new_begins = new_begins, begins
        for i in range(rows):
            before[i + 1] = before[i] + counts[start + order[i]]
        for k in range(len(widths)):
            half = widths[k] // 2
            middle = end - widths[k] + half  # of the window that ends here
            last = positions - 1 if end == positions else middle
            for p in range(max(0, middle), last + 1):
                distinct[b, p, k], pairs[b, p, k] = _count_runs(begins, before, max(0, p - half), ends)


@jit
def _count_pairs(rows, channel, counts, both):
    """Write how many rows hold a 1 at position p and at position ``p + r`` to ``both[p, r]``.

    rows (U, P, C), counts (U,), both (P, R).
    """
    positions, reach = both.shape
    both[:] = 0
    ones = np.empty(positions, np.int64)
    for u in range(len(rows)):
        number = 0
        for p in range(positions):  # no branch inside: the place of a 0 is written over by the next
            ones[np.uintp(number)] = p
            number += rows[u, p, channel] == 1
        for i in range(number):
            p = ones[np.uintp(i)]
            for j in range(i, number):
                if ones[np.uintp(j)] - p >= reach:
                    break
                both[np.uintp(p), np.uintp(ones[np.uintp(j)] - p)] += counts[u]


@jit
def _compare(ones_i, ones_j, ones_both, number):
    """The squared correlation of two positions, and 1 if both vary, with `ALL_FOUR` added if all gametes occur."""
    spread_i, spread_j = ones_i * (number - ones_i), ones_j * (number - ones_j)
    if spread_i == 0 or spread_j == 0:
        return 0.0, 0
    excess = number * ones_both - ones_i * ones_j
    zeros_both = number - ones_i - ones_j + ones_both
    all_four = (0 < ones_both) & (ones_both < min(ones_i, ones_j)) & (zeros_both > 0)
    return (excess / spread_i) * (excess / spread_j), 1 + ALL_FOUR * all_four


@Kernel
def _linkage(b, arguments):
    rows, channel, counts, offsets, reaches, r2, four_gametes = arguments[0]
    start, stop, positions = offsets[b], offsets[b + 1], rows.shape[1]
    number, reach = 0, 0
    for u in range(start, stop):
        number += counts[u]
    for k in range(len(reaches)):
        reach = max(reach, reaches[k])
    both = np.empty((positions, min(2 * reach, positions)), np.int64)
    _count_pairs(rows[start:stop], channel, counts[start:stop], both)
    # Each pair is looked at once, because many positions and reaches share it.
    correlations, kinds = np.empty(both.shape), np.empty(both.shape, np.int64)
    for i in range(positions):
        for j in range(i + 1, min(i + both.shape[1], positions)):
            correlations[i, j - i], kinds[i, j - i] = _compare(both[i, 0], both[j, 0], both[i, j - i], number)
    for p in range(positions):
        for k in range(len(reaches)):
            squares, kind = 0.0, 0
            for i in range(max(0, p - reaches[k]), p):
                for j in range(p, min(p + reaches[k], positions)):
                    squares += correlations[np.uintp(i), np.uintp(j - i)]
                    kind += kinds[np.uintp(i), np.uintp(j - i)]
            pairs, gametes = kind & (ALL_FOUR - 1), kind // ALL_FOUR
            r2[b, p, k] = squares / max(pairs, 1)
            four_gametes[b, p, k] = gametes / max(pairs, 1)


@Kernel
def _average_powers(b, arguments):
    rows, channel, counts, offsets, orders, out = arguments[0]
    number = 0
    for u in range(offsets[b], offsets[b + 1]):
        number += counts[u]
    out[b] = 0
    for u in range(offsets[b], offsets[b + 1]):
        for p in range(rows.shape[1]):
            value = np.float64(rows[u, p, channel])
            for k in range(len(orders)):
                out[b, p, k] += counts[u] * value ** orders[k]
    for p in range(rows.shape[1]):
        for k in range(len(orders)):
            out[b, p, k] /= number


@jit
def _differ(words, u, other, p):
    """Whether two rows differ at a position."""
    different = np.int32(0)
    for i in range(words.shape[2]):
        different |= words[np.uintp(u), np.uintp(p), i] ^ words[np.uintp(other), np.uintp(p), i]
    return different != 0


@jit
def _number_cells(words, start, stop, p, found, numbers, known):
    """Number the cells of some rows at a position from `found` on, and return how many there are.

    known (U,) gets the row in which each appears first.
    """
    number = 0
    for u in range(start, stop):
        n = 0
        while n < min(number, MOST_CELLS) and _differ(words, u, known[n], p):
            n += 1
        if n == min(number, MOST_CELLS):
            n = number
            known[n] = u
            number += 1
        numbers[u, p] = found + n
    return number


@Kernel
def _find_cells(b, arguments):
    words, offsets, numbers, firsts, counts = arguments[0]
    start, stop, positions = offsets[b], offsets[b + 1], words.shape[1]
    known = np.empty(stop - start + 1, np.int64)
    found, place = 0, start * positions
    for p in range(positions):
        other = start + 1  # the first row that differs from the first one
        while other < stop and not _differ(words, other, start, p):
            other += 1
        known[0], known[1] = start, other
        number = 1 + (other < stop)
        for u in range(start, other):
            numbers[u, p] = found
        more = 0
        for u in range(other, stop):
            differs = _differ(words, u, start, p)
            numbers[u, p] = found + differs
            more += differs & _differ(words, u, other, p)
        if more > 0:  # not two alleles
            number = _number_cells(words, start, stop, p, found, numbers, known)
        for n in range(number):
            firsts[place + found + n] = known[n] * positions + p
        found += number
    counts[b] = found


@Kernel
def _gather_cells(b, arguments):
    rows, context, offsets, firsts, cell_offsets, numbers, values = arguments[0]
    positions, channels = rows.shape[1], rows.shape[2]
    first = cell_offsets[b]
    for v in range(first, cell_offsets[b + 1]):
        cell = firsts[offsets[b] * positions + v - first]
        u, p = cell // positions, cell % positions
        for c in range(channels):
            values[v, c] = rows[u, p, c]
        for c in range(context.shape[2]):
            values[v, channels + c] = context[b, p, c]
    for u in range(offsets[b], offsets[b + 1]):
        for p in range(positions):
            numbers[u, p] += first
