"""The context of a batch: numbers of each dataset at each position, computed of its distinct rows and their counts."""

from typing import Any

import numpy as np

from ..context import Context, Entry, check_result
from ..kernels import context as kernels
from ..multiset import MultisetBatch


def compute_context(context: Context, batch: MultisetBatch) -> np.ndarray:
    """What a context adds to the rows of each dataset, (B, W, K) of the rows' type.

    It depends on no order of rows, and on no other dataset. That alleles are 0 and 1 is checked before, by
    `Context.check_alleles`.

    Raises
    ------
    ValueError
        If it is not finite, or a function of the user's returns another shape than before.
    """
    numbers: dict = {}  # by what computes them: entries that share it are computed together
    for entry in context.entries:
        if not entry.is_function:
            numbers.setdefault((FUNCTIONS[entry.kind][0], entry.channel), set()).update(entry.numbers or (MEAN,))
    computed = {}
    for (function, channel), of_entries in numbers.items():
        every = sorted(of_entries)
        computed[function, channel] = every, function(batch, channel, np.array(every))
    parts = []
    for entry in context.entries:
        if entry.is_function:
            parts.append(_call(entry, batch))
        else:
            function, which = FUNCTIONS[entry.kind]
            every, results = computed[function, entry.channel]
            parts.append(results[which][:, :, [every.index(number) for number in entry.numbers or (MEAN,)]])
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(np.concatenate(parts, axis=2), batch.rows.dtype)
    if not np.isfinite(array).all():
        b, p, k = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"context: number {k} of position {p} is {array[b, p, k]}; give data of a size near 1")
    return array


def _windows(batch: MultisetBatch, channel: int, widths: np.ndarray):
    """Logarithms of the number of distinct windows and of their effective number, over one more than their width.

    Without recombination there are so many windows of alleles at most. The effective number is that of windows, all as
    frequent, among which two rows would agree as often.
    """
    datasets, positions = len(batch), batch.rows.shape[1]
    words = batch.rows.view(np.dtype(f"i{batch.rows.itemsize}"))
    distinct = np.empty((datasets, positions, len(widths)), np.int64)
    pairs = np.empty_like(distinct)
    kernels.count_windows(words, channel, batch.counts, batch.offsets, widths, distinct, pairs)
    begins = np.arange(positions)[:, np.newaxis] - widths // 2
    within = np.minimum(begins + widths, positions) - np.maximum(begins, 0)
    rows = batch.dataset_sizes().astype(np.float64)[:, np.newaxis, np.newaxis]
    return np.log(distinct / (within + 1)), np.log(rows * rows / (pairs * (within + 1)))


def _linkage(batch: MultisetBatch, channel: int, reaches: np.ndarray):
    """Mean r2, and the share of pairs of positions with four gametes."""
    r2 = np.empty((len(batch), batch.rows.shape[1], len(reaches)))
    four_gametes = np.empty_like(r2)
    kernels.linkage(batch.rows, channel, batch.counts, batch.offsets, reaches, r2, four_gametes)
    return r2, four_gametes


def _moments(batch: MultisetBatch, channel: int, orders: np.ndarray):
    """Means of powers."""
    out = np.empty((len(batch), batch.rows.shape[1], len(orders)))
    kernels.average_powers(batch.rows, channel, batch.counts, batch.offsets, orders, out)
    return (out,)


# What computes each kind, (batch, channel, numbers) to arrays (B, W, K), and which of these arrays it is.
FUNCTIONS = {
    "distinct": (_windows, 0),
    "effective": (_windows, 1),
    "frequency": (_moments, 0),
    "ld": (_linkage, 0),
    "four_gametes": (_linkage, 1),
    "moments": (_moments, 0),
}
MEAN = 1  # the order of the moment that a frequency is


def _call(entry: Entry, batch: MultisetBatch) -> np.ndarray:
    """What a function of the user's gives, (B, W, k)."""
    rows, counts, positions = batch.rows.view(), batch.counts.view(), batch.rows.shape[1]
    rows.flags.writeable = counts.flags.writeable = False
    function: Any = entry.function
    ranges = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    return np.array([check_result(function(rows[a:b], counts[a:b]), entry, positions) for a, b in ranges])
