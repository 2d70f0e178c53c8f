"""A dataset of exchangeable rows is a multiset: its distinct rows, in canonical order, with their counts.

The canonical order is that of the rows' bytes. It is a function of the multiset alone, which is why
nothing computed from it can depend on the order of the rows, not even by rounding.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .errors import NotFiniteError

MOST_ROWS = np.iinfo(np.int64).max  # of a batch, repeats counted


@dataclass(frozen=True, eq=False)
class MultisetBatch:
    """The distinct rows of B datasets, one dataset after another, with their counts.

    Attributes
    ----------
    rows
        (U, W, C) floats, each dataset's rows in canonical order: build it with `from_datasets`.
    counts
        (U,) int64, how often each row occurs in its dataset.
    offsets
        (B + 1,) int64; dataset b holds the rows ``offsets[b]`` to ``offsets[b + 1] - 1``.
    """

    rows: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "rows", np.ascontiguousarray(self.rows))
        for name in ("counts", "offsets"):
            object.__setattr__(self, name, _as_int64(getattr(self, name), f"MultisetBatch: {name}"))
        u = len(self.rows)
        if self.rows.ndim != 3 or self.counts.shape != (u,) or self.offsets.ndim != 1:
            shapes = self.rows.shape, self.counts.shape, self.offsets.shape
            raise ValueError(f"MultisetBatch takes rows (U, W, C), counts (U,), offsets (B + 1,); got {shapes}")
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != u or (np.diff(self.offsets) < 1).any():
            raise ValueError(f"MultisetBatch: offsets must rise from 0 to the {u} rows, got {self.offsets}")
        if (self.counts < 1).any():
            raise ValueError("MultisetBatch: every count must be at least 1")
        if self.counts.sum(dtype=np.float64) >= MOST_ROWS / 2 and sum(self.counts.tolist()) > MOST_ROWS:
            raise ValueError(f"MultisetBatch: the counts must add up to at most {MOST_ROWS}")

    @classmethod
    def from_datasets(
        cls, datasets: Iterable[np.ndarray], dtype: DTypeLike = np.float32, *, first: int = 0
    ) -> "MultisetBatch":
        """Find the distinct rows of datasets of shape (n, W) or (n, W, C); n may differ between them.

        Errors name the datasets ``data[first]``, ``data[first + 1]``, ...
        """
        named = enumerate(datasets, first)
        return cls.from_distinct([distinct_rows(as_rows(dataset, f"data[{i}]", dtype)) for i, dataset in named])

    @classmethod
    def from_distinct(cls, datasets: Sequence[tuple[np.ndarray, np.ndarray]]) -> "MultisetBatch":
        """Put (rows, counts) pairs of `distinct_rows` together."""
        if not datasets:
            raise ValueError("a MultisetBatch needs at least one dataset")
        offsets = np.zeros(len(datasets) + 1, np.int64)
        np.cumsum([len(counts) for _, counts in datasets], out=offsets[1:])
        rows = np.concatenate([rows for rows, _ in datasets])
        return cls(rows, np.concatenate([counts for _, counts in datasets]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        sizes = sorted(set(self.dataset_sizes().tolist()))
        of = f" of {sizes[0]:,}{f' to {sizes[-1]:,}' * (len(sizes) > 1)} rows" if sizes else ""
        rows = f"{len(self.rows):,} distinct rows of shape {self.rows.shape[1:]} {self.rows.dtype}"
        return f"MultisetBatch({len(self):,} dataset{'s' * (len(self) != 1)}{of}: {rows})"

    def slice(self, start: int, stop: int) -> "MultisetBatch":
        """The datasets `start` to ``stop - 1``."""
        first, last = self.offsets[start], self.offsets[stop]
        return MultisetBatch(self.rows[first:last], self.counts[first:last], self.offsets[start : stop + 1] - first)

    def dataset_of(self, row: int) -> int:
        """The dataset that holds a row."""
        return int(np.searchsorted(self.offsets, row, side="right")) - 1

    def dataset_sizes(self) -> np.ndarray:
        """(B,) the number of rows of each dataset, repeats counted."""
        return np.add.reduceat(self.counts, self.offsets[:-1])


def as_rows(dataset: Any, name: str, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return a dataset as a fresh array (n, W, C) of `dtype`, with -0.0 as 0.0.

    Raises
    ------
    TypeError
        If it is not an array of numbers.
    ValueError
        If it has other than two or three dimensions, no rows, NaN or infinite values, or values that `dtype`
        cannot hold.
    """
    rows = as_floats(dataset, name, dtype)
    if rows.ndim not in (2, 3) or len(rows) == 0:
        raise ValueError(f"{name} must have shape (rows, width[, channels]) with a row at least, got {rows.shape}")
    return rows if rows.ndim == 3 else rows[:, :, np.newaxis]


def as_floats(array: Any, name: str, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return an array of numbers as a fresh, finite array of `dtype`, or raise an error that names it."""
    if np.ma.isMaskedArray(array):
        raise TypeError(f"{name} is a masked array; fill the masked values first")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name} must be a NumPy array of numbers, got {kind}")
    with np.errstate(all="ignore"):
        floats = np.ascontiguousarray(np.add(array, 0.0, dtype=dtype, casting="unsafe"))
    if not np.isfinite(floats).all():
        bad = np.argwhere(~np.isfinite(floats))[0].tolist()
        raise NotFiniteError(f"{name} must be finite in {np.dtype(dtype).name}, got {array[tuple(bad)]} at index {bad}")
    if array.dtype.kind in "iu" and array.itemsize > 2 and not (exact := _are_exact(floats, array)).all():
        bad = np.argwhere(~exact)[0].tolist()
        raise ValueError(
            f"{name} holds integers that {np.dtype(dtype).name} cannot represent exactly, such as "
            f"{array[tuple(bad)]} at index {bad}; scale them, or give floats, which are rounded"
        )
    return floats


def _are_exact(floats: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Where floats are equal to the integers that they were made of; NumPy would compare both as float64."""
    in_range = floats < 2.0 ** (np.iinfo(integers.dtype).bits - (integers.dtype.kind == "i"))  # not rounded up beyond
    return in_range & (np.where(in_range, floats, 0).astype(integers.dtype) == integers)


def _as_int64(array, name: str) -> np.ndarray:
    """Whole numbers as int64, or an error that names them; NumPy would cut fractions and wrap what is too large."""
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be integers, got an array of {array.dtype}")
    if array.dtype.kind in "uf":
        fits = array <= np.iinfo(np.int64).max if array.dtype.kind == "u" else np.abs(array) < 2.0**63
        whole = fits & (array == np.floor(array))
        if not whole.all():
            raise ValueError(f"{name} must be integers below 2**63, got {array[~whole][0]}")
    return np.ascontiguousarray(array, np.int64)


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows of an array (n, W, C) in canonical order, (U, W, C), and their counts (U,) int64."""
    return _of_counter(Counter(_bytes_of(rows)), rows)


def merge_rows(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows of rows (n, W, C) that occur counts (n,) times, as `distinct_rows` does."""
    rows, counter = rows + 0.0, Counter[bytes]()
    for row, count in zip(_bytes_of(rows), counts.tolist(), strict=True):
        counter[row] += count
    return _of_counter(counter, rows)


def _bytes_of(rows: np.ndarray) -> list[bytes]:
    size, data = rows[0].nbytes, rows.tobytes()
    return [data[i : i + size] for i in range(0, len(data), size)]


def _of_counter(counter: Counter, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distinct = sorted(counter)
    counts = np.array([counter[row] for row in distinct], np.int64)
    return np.frombuffer(b"".join(distinct), rows.dtype).reshape(-1, *rows.shape[1:]), counts
