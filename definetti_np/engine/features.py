"""Row features: what Phi computes of the distinct rows of a batch, and h of the pooled datasets."""

from dataclasses import dataclass, replace

import numpy as np

from ..kernels import windows as kernels
from ..multiset import MultisetBatch
from .operators import Arithmetic
from .tensor import Tensor
from .workspace import empty

GIVE_UP = 0.75  # the share of distinct windows of the first dataset from which on a search does not pay


@dataclass(frozen=True, eq=False)
class RowFeatures(Arithmetic):
    """Features of the distinct rows of B datasets, each distinct feature held once.

    The feature of row u at position p is ``values.array[index[u, p]]``. After pooling there is one row per dataset.

    Attributes
    ----------
    values
        Tensor (V, C); no two datasets share a row of it.
    positions
        P.
    counts, offsets
        (U,) and (B + 1,), as in `MultisetBatch`.
    index
        (U, P) int32, or None for the identity ``index[u, p] = u * P + p``.
    value_offsets
        (B + 1,) int64, the rows of values of each dataset.
    is_data
        Whether these are the rows themselves: then equal values have not been looked for.
    dense
        Whether the one position of depth C stands for C positions of depth 1, as a dense layer leaves it.
    """

    values: Tensor
    positions: int
    counts: np.ndarray
    offsets: np.ndarray
    index: np.ndarray | None
    value_offsets: np.ndarray
    is_data: bool = False
    dense: bool = False

    @classmethod
    def from_batch(cls, batch: MultisetBatch, *, flat: bool = False) -> "RowFeatures":
        """The rows themselves as features: W positions of depth C, or for flat rows W numbers without an axis C."""
        _, positions, depth = batch.rows.shape
        if flat:
            positions, depth = 1, positions * depth
        values, value_offsets = Tensor(batch.rows.reshape(-1, depth)), batch.offsets * positions
        return cls(values, positions, batch.counts, batch.offsets, None, value_offsets, is_data=True, dense=flat)

    @classmethod
    def of_datasets(cls, values: Tensor, positions: int) -> "RowFeatures":
        """Features with one row per dataset; values (B * P, C)."""
        datasets = values.shape[0] // positions
        offsets = np.arange(datasets + 1)
        return cls(values, positions, np.ones(datasets, np.int64), offsets, None, offsets * positions)

    @property
    def depth(self) -> int:
        return self.values.shape[1]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of the features of a row: (P, C), or (N,) as a dense layer leaves them."""
        return (self.depth,) if self.dense else (self.positions, self.depth)

    def __repr__(self) -> str:
        return f"features of rows of shape {self.row_shape}"

    def rows_of_values(self) -> np.ndarray:
        """The index (U, P) int32, written out where it is the identity."""
        if self.index is not None:
            return self.index
        if len(self.counts) * self.positions > np.iinfo(np.int32).max:
            raise ValueError(
                f"a batch of {len(self.counts)} rows of {self.positions} positions is too large; divide it"
            )
        return np.arange(len(self.counts) * self.positions, dtype=np.int32).reshape(-1, self.positions)

    def slide(self, width: int) -> "Windows":
        """Find the distinct windows of `width` positions in each dataset."""
        index = self.rows_of_values()
        positions = self.positions - width + 1
        # Distinct rows have distinct windows of full width, and the identity has been searched before.
        if positions > 1 and (self.index is not None or self.is_data):
            words, step = self.index, 1
            if self.is_data:
                words = self.values.array.reshape(len(self.counts), -1).view(np.int32)
                step = words.shape[1] // self.positions
            windows = _distinct_windows(words, step, index, self.offsets, width, may_give_up=self.is_data)
            if windows is not None:
                return windows
        rows = index if positions == 1 else np.lib.stride_tricks.sliding_window_view(index, width, axis=1)
        in_turn = self.index is None and width in (1, self.positions)
        return Windows(np.ascontiguousarray(rows.reshape(-1, width)), None, self.offsets * positions, in_turn)

    def spread(self) -> "RowFeatures":
        """Turn the one position of depth C that a dense layer leaves into C positions of depth 1."""
        if not self.dense:
            return self
        values, offsets = _reshape(self.values, (-1, 1)), self.value_offsets * self.depth
        return replace(self, values=values, positions=self.depth, value_offsets=offsets, dense=False)

    def merged(self) -> "RowFeatures":
        """Turn P positions of depth C into one position of depth P * C, where the index is the identity."""
        if self.index is not None or self.positions == 1:
            return self
        values = _reshape(self.values, (-1, self.positions * self.depth))
        return replace(self, values=values, positions=1, value_offsets=self.offsets)


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows that a layer computes: each distinct one of a dataset once, or all of them.

    Attributes
    ----------
    rows
        (D, width) int32, the rows of values under each window.
    index
        (U, P) int32, the window of each row at each position, or None for the identity.
    offsets
        (B + 1,) int64, the windows of each dataset.
    in_turn
        Whether the windows, one after another, are all rows of values in their order.
    """

    rows: np.ndarray
    index: np.ndarray | None
    offsets: np.ndarray
    in_turn: bool = False


def _distinct_windows(words, step, index, offsets, width, *, may_give_up) -> Windows | None:
    """Windows of `width` cells of `step` words, or None if hardly any repeats in the first dataset."""
    cells = words.shape[1] // step
    numbers = empty((len(words), cells - width + 1), np.int32)
    firsts = empty((numbers.size,), np.int64)
    counts = np.empty(len(offsets) - 1, np.int64)
    if may_give_up:
        kernels.find_windows(words, offsets[:2], width * step, step, numbers, firsts, counts[:1])
        if counts[0] > GIVE_UP * offsets[1] * numbers.shape[1]:
            return None
    kernels.find_windows(words, offsets, width * step, step, numbers, firsts, counts)
    window_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum(counts, out=window_offsets[1:])
    rows = empty((window_offsets[-1], width), np.int32)
    kernels.gather_windows(index.reshape(-1), offsets, firsts, window_offsets, numbers, rows)
    return Windows(rows, numbers, window_offsets)


def _reshape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    def backward(gradient):
        return (gradient.reshape(tensor.shape),)

    return Tensor(tensor.array.reshape(shape), (tensor,), backward)
