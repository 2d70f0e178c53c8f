"""Windows in a few numbers, which tell how they look: of datasets, and of windows along haplotypes alike."""

from __future__ import annotations

import numpy as np

from ..multiset import MultisetBatch
from .encoder import ALLELE, DISTANCES, HaplotypeEncoder, Sites

QUANTILES = {"least": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "most": 1.0}
DIGITS = 6  # of the numbers, because they are stored as text


def names_of(encoder: HaplotypeEncoder) -> tuple[str, ...]:
    """The names of the J numbers that describe a window."""
    of_channel = [f"{name}, {what}" for name in encoder.channels for what in ("mean", *QUANTILES)]
    return ("distinct rows", "singletons", "monomorphic SNPs", *of_channel)


def describe_datasets(encoder: HaplotypeEncoder, data: MultisetBatch) -> np.ndarray:
    """The numbers of B datasets, (B, J)."""
    starts, rows = data.offsets[:-1], data.rows
    totals = np.add.reduceat(rows * data.counts[:, np.newaxis, np.newaxis], starts, dtype=np.float64)
    columns = totals / data.dataset_sizes()[:, np.newaxis, np.newaxis]
    alleles = rows[:, :, ALLELE]
    is_same = np.maximum.reduceat(alleles, starts) == np.minimum.reduceat(alleles, starts)
    return _numbers(encoder, np.diff(data.offsets), totals[:, :, ALLELE], is_same, columns)


def describe_windows(sites: Sites, first: np.ndarray) -> np.ndarray:
    """The numbers of the windows that begin at these sites, (K, J); a window that comes twice is described once."""
    encoder = sites.encoder
    distinct, number = np.unique(first, return_inverse=True)
    out = np.empty((len(distinct), len(names_of(encoder))))
    for group in sites.groups(distinct):
        low = distinct[group][0]
        starts = distinct[group] - low
        table = sites.table(low, low + starts[-1] + encoder.snps)  # (n, L, channels)
        windows = starts[:, np.newaxis] + np.arange(encoder.snps)
        columns = table.mean(axis=0, dtype=np.float64)[windows]
        if encoder.distances:
            columns[:, -1, DISTANCES] = 0
        alleles = table[:, :, ALLELE]
        out[group] = _numbers(
            encoder,
            _count_distinct(encoder, table, starts),
            alleles.sum(axis=0, dtype=np.float64)[windows],
            (alleles.max(axis=0) == alleles.min(axis=0))[windows],
            columns,
        )
    return out[number]


def _count_distinct(encoder: HaplotypeEncoder, table: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many distinct rows windows have that begin at these positions of a table, (K,).

    Rows are compared by sums of random multiples of their cells, in integers of 64 bits, which all but surely differ
    where rows do.
    """
    cells = np.zeros(table.shape[:2], np.uint64)
    for channel, name in enumerate(encoder.channels):
        if name != "distances":  # they are the same in all rows
            cells = 4 * cells + table[:, :, channel].astype(np.uint64)
    multipliers = np.random.default_rng(0).integers(2**64, size=table.shape[1], dtype=np.uint64)
    sums = np.zeros((table.shape[1] + 1, len(table)), np.uint64)
    np.cumsum((cells * multipliers).T, axis=0, out=sums[1:])
    keys = np.sort(sums[starts + encoder.snps] - sums[starts], axis=1)
    return 1 + np.count_nonzero(keys[:, 1:] != keys[:, :-1], axis=1)


def _numbers(
    encoder: HaplotypeEncoder, distinct: np.ndarray, totals: np.ndarray, is_same: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """The numbers (K, J) of windows, of the means `columns` (K, W, channels) of their rows among others."""
    numbers = [distinct, np.count_nonzero(totals == 1, axis=1), np.count_nonzero(is_same, axis=1)]
    last = columns.shape[1] - 1
    for channel, name in enumerate(encoder.channels):
        # The last SNP has no distance to a next one.
        values = np.sort(columns[:, : max(1, last) if name == "distances" else None, channel], axis=1)
        numbers.append(values.mean(axis=1))
        numbers += [values[:, round(quantile * (values.shape[1] - 1))] for quantile in QUANTILES.values()]
    return rounded(np.stack(numbers, axis=1).astype(np.float64))


def rounded(numbers: np.ndarray) -> np.ndarray:
    """The numbers to so many digits, so that those of the data and those of a file can be equal."""
    size = np.floor(np.log10(np.abs(numbers), where=numbers != 0, out=np.zeros_like(numbers)))
    digits = np.round(numbers * 10.0**-size, DIGITS - 1)
    return np.where(size < 0, digits / 10.0**-size, digits * 10.0**size)  # what is written then has few digits
