"""Row features: what Phi computes of the distinct rows of a batch; and the windows of positions that a layer sees."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..kernels import context as context_kernels
from ..kernels import windows as kernels
from ..multiset import MultisetBatch
from .operators import Arithmetic
from .tensor import Tensor, change_shape
from .workspace import empty, empty_like

MOST_FEATURES = np.iinfo(np.int32).max  # of a batch: their numbers are int32
GIVE_UP = 0.75  # the share of distinct windows of the first dataset from which on a search does not pay


@dataclass(frozen=True, eq=False)
class RowFeatures(Arithmetic):
    """Features of the distinct rows of B datasets, each distinct feature held once.

    The feature of row u at position p is ``values.array[index[u, p]]``.

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
        Whether these are the rows themselves: then nothing has searched them for equal values.
    flat_rows
        Whether a row is N numbers without positions, as a dense layer leaves them: they are held as one position of N
        channels, and stand for N positions of one channel.
    """

    values: Tensor
    positions: int
    counts: np.ndarray
    offsets: np.ndarray
    index: np.ndarray | None
    value_offsets: np.ndarray
    is_data: bool = False
    flat_rows: bool = False

    @classmethod
    def from_batch(cls, batch: MultisetBatch, *, flat: bool = False) -> "RowFeatures":
        """The rows themselves as features: W positions of C channels, or for flat rows W numbers without an axis C."""
        _, positions, channels = batch.rows.shape
        if flat:
            positions, channels = 1, positions * channels
        values, value_offsets = Tensor(batch.rows.reshape(-1, channels)), batch.offsets * positions
        return cls(values, positions, batch.counts, batch.offsets, None, value_offsets, is_data=True, flat_rows=flat)

    @classmethod
    def with_context(cls, batch: MultisetBatch, context: np.ndarray) -> "RowFeatures":
        """The rows with a context (B, W, K) behind their channels: W positions of C + K channels.

        What rows have at a position is held once for all that have the same. The context need not be compared, because
        it is the same for all rows of a dataset.
        """
        rows, positions, channels = batch.rows.shape
        numbers, firsts = empty((rows, positions), np.int32), empty((rows * positions,), np.int64)
        counts = np.empty(len(batch), np.int64)
        words = batch.rows.view(np.int32)
        context_kernels.find_cells(words, batch.offsets, numbers, firsts, counts)
        offsets = np.zeros(len(batch) + 1, np.int64)
        counts.cumsum(out=offsets[1:])
        if offsets[-1] > GIVE_UP * numbers.size:
            both = np.concatenate([batch.rows, np.repeat(context, np.diff(batch.offsets), axis=0)], axis=2)
            cells = Tensor(both.reshape(-1, both.shape[2]))
            return cls(cells, positions, batch.counts, batch.offsets, None, batch.offsets * positions)
        values = empty((offsets[-1], channels + context.shape[2]), batch.rows.dtype)
        context_kernels.gather_cells(batch.rows, context, batch.offsets, firsts, offsets, numbers, values)
        return cls(Tensor(values), positions, batch.counts, batch.offsets, numbers, offsets)

    @property
    def channels(self) -> int:
        return self.values.array.shape[1]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of the features of a row: (P, C), or (N,) of flat rows."""
        channels = self.values.array.shape[1]
        return (channels,) if self.flat_rows else (self.positions, channels)

    def __repr__(self) -> str:
        return f"features of rows of shape {self.row_shape}"

    def rows_of_values(self) -> np.ndarray:
        """The index (U, P) int32, written out where it is the identity."""
        return identity_index(len(self.counts), self.positions) if self.index is None else self.index

    def slide(self, width: int) -> "Windows":
        """Find the distinct windows of `width` positions in each dataset."""
        positions = self.positions - width + 1
        # Distinct rows have distinct windows of full width; and where computed values have an identity index, a search
        # has found hardly any that are equal.
        if positions > 1 and (self.index is not None or self.is_data):
            index, words, step = self.rows_of_values(), self.index, 1
            if self.is_data:
                words = self.values.array.reshape(len(self.counts), -1).view(np.int32)
                step = words.shape[1] // self.positions
            windows = _distinct_windows(words, step, index, self.offsets, width, may_give_up=self.is_data)
            if windows is not None:
                return windows
        return Windows.all_of(self.index, len(self.counts), self.positions, width, self.offsets)

    def spread(self) -> "RowFeatures":
        """Turn the N numbers of flat rows into N positions of one channel."""
        if not self.flat_rows:
            return self
        values, offsets = change_shape(self.values, (-1, 1)), self.value_offsets * self.channels
        return replace(self, values=values, positions=self.channels, value_offsets=offsets, flat_rows=False)

    def merge_positions(self) -> "RowFeatures":
        """Turn P positions of C channels into one position of P * C channels, where the index is the identity."""
        if self.index is not None or self.positions == 1:
            return self
        values = change_shape(self.values, (-1, self.positions * self.channels))
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

    @classmethod
    def all_of(cls, index: np.ndarray | None, rows: int, positions: int, width: int, offsets: np.ndarray) -> "Windows":
        """All windows of `width` positions of rows of values at an index (rows, positions), None for the identity.

        offsets (B + 1,), the rows of each dataset.
        """
        in_turn = index is None and width in (1, positions)
        windows = identity_index(rows, positions) if index is None else index
        if not in_turn and width < positions:
            windows = np.lib.stride_tricks.sliding_window_view(windows, width, axis=1)
        windows = np.ascontiguousarray(windows.reshape(-1, width))
        return cls(windows, None, offsets * (positions - width + 1), in_turn)


def identity_index(rows: int, positions: int) -> np.ndarray:
    """The index (rows, positions) int32 that numbers values row by row."""
    if rows * positions > MOST_FEATURES:
        raise ValueError(f"a batch of {rows} rows of {positions} positions is too large; divide it")
    return np.arange(rows * positions, dtype=np.int32).reshape(rows, positions)


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
    counts.cumsum(out=window_offsets[1:])
    rows = empty((window_offsets[-1], width), np.int32)
    kernels.gather_windows(index.reshape(-1), offsets, firsts, window_offsets, numbers, rows)
    return Windows(rows, numbers, window_offsets)


# Between features and one value for each row and position


def contiguous(tensor: Tensor) -> Tensor:
    """The Tensor in the order of memory that kernels take."""
    if tensor.array.flags.c_contiguous:
        return tensor
    return Tensor(np.ascontiguousarray(tensor.array), (tensor,), lambda gradient: (gradient,))


def with_values(features: RowFeatures, values: Tensor, *, data: bool = False) -> RowFeatures:
    """The same rows and index with other values; values of data may still repeat, if nothing of them is trained."""
    return replace(features, values=contiguous(values), is_data=data and not values.needs_gradient)


def expand(features: RowFeatures, ndim: int = 0) -> Tensor:
    """Features of U distinct rows as a Tensor (U, P, C) or (U, N), with axes of 1 after U up to 1 + `ndim`."""
    shape = len(features.counts), *features.row_shape
    shape = shape[:1] + (1,) * (1 + ndim - len(shape)) + shape[1:]
    if features.index is None:
        return change_shape(features.values, shape)
    return _gather(features, features.index, features.offsets, shape)


def of_rows(features: RowFeatures, tensor: Tensor, *, data: bool = False) -> RowFeatures:
    """A Tensor (U, P, C) or (U, N) as features of the same rows."""
    if tensor.ndim not in (2, 3) or tensor.array.size == 0:
        raise ValueError(
            f"features of a row have shape (P, C) or (N,), and are not empty; this gives {tensor.shape[1:]}"
        )
    if len(tensor.array) != len(features.counts):
        raise ValueError(f"features of {len(features.counts)} rows cannot become those of {len(tensor.array)}")
    positions = tensor.shape[1] if tensor.ndim == 3 else 1
    values = change_shape(contiguous(tensor), (-1, tensor.shape[-1]))
    offsets = features.offsets * positions
    return replace(
        features,
        values=values,
        positions=positions,
        index=None,
        value_offsets=offsets,
        is_data=data and not values.needs_gradient,
        flat_rows=tensor.ndim == 2,
    )


def with_one_index(features: Sequence[RowFeatures]) -> Sequence[RowFeatures] | None:
    """Give features one index in common, in which each distinct combination of their values in a dataset has a number.

    None if their rows have different numbers of positions, or the combinations hardly repeat.
    """
    first = features[0]
    if any(other.positions != first.positions or other.flat_rows != first.flat_rows for other in features):
        return None
    if all(other.index is first.index for other in features):
        return features
    numbers = [_numbers(feature) for feature in features]
    combinations = np.stack(numbers, axis=2).reshape(-1, len(features)).view(np.float32)
    windows = replace(first, values=Tensor(combinations), index=None, is_data=True).slide(1)
    if windows.index is None:
        return None
    cells = windows.rows[:, 0]
    out = []
    for feature in features:
        index = feature.rows_of_values().reshape(-1)[cells].reshape(-1, 1)
        values = _gather(feature, index, windows.offsets, (-1, feature.channels))
        out.append(replace(feature, values=values, index=windows.index, value_offsets=windows.offsets, is_data=False))
    return out


def _numbers(features: RowFeatures) -> np.ndarray:
    """Numbers (U, P) int32 that differ where features of a dataset differ; those of equal data are equal, too."""
    windows = features.slide(1) if features.is_data else None
    return features.rows_of_values() if windows is None or windows.index is None else windows.index


def _gather(features: RowFeatures, index: np.ndarray, offsets: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The values at an index (D, K), in its order, as a Tensor of this shape; dataset b begins at ``offsets[b]``."""
    values = features.values

    def backward(gradient):
        out = empty_like(values.array)
        gradient = np.ascontiguousarray(gradient).reshape(*index.shape, values.shape[1])
        kernels.scatter_windows(gradient, np.arange(len(index)), offsets, index, features.value_offsets, out)
        return (out,)

    return Tensor(values.array[index.reshape(-1)].reshape(shape), (values,), backward)
