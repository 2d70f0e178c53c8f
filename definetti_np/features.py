"""Row features: what Phi computes of the distinct rows of a batch, and h of the pooled datasets."""

from dataclasses import dataclass, replace

import numpy as np

from .multiset import MultisetBatch
from .tensor import Tensor


@dataclass(frozen=True, eq=False)
class RowFeatures:
    """Features of the distinct rows of B datasets, each distinct feature held once.

    The feature of row u at position p is ``values.array[index[u, p]]``. After pooling there is one row per dataset.

    Attributes
    ----------
    values
        Tensor (V, C); no two datasets share a row of it.
    index
        (U, P) int32, or None for the identity ``index[u, p] = u * P + p``.
    positions
        P.
    counts, offsets
        (U,) and (B + 1,), as in `MultisetBatch`.
    dense
        Whether the one position of depth C stands for C positions of depth 1, as a dense layer leaves it.
    """

    values: Tensor
    index: np.ndarray | None
    positions: int
    counts: np.ndarray
    offsets: np.ndarray
    dense: bool = False

    @classmethod
    def from_batch(cls, batch: MultisetBatch) -> "RowFeatures":
        """The rows themselves as features: W positions of depth C."""
        _, positions, depth = batch.rows.shape
        return cls(Tensor(batch.rows.reshape(-1, depth)), None, positions, batch.counts, batch.offsets)

    @classmethod
    def of_datasets(cls, values: Tensor, positions: int) -> "RowFeatures":
        """Features with one row per dataset; values (B * P, C)."""
        datasets = values.shape[0] // positions
        return cls(values, None, positions, np.ones(datasets, np.int64), np.arange(datasets + 1))

    @property
    def depth(self) -> int:
        return self.values.shape[1]

    def rows_of_values(self) -> np.ndarray:
        """The index (U, P) int32, written out where it is the identity."""
        if self.index is not None:
            return self.index
        if len(self.counts) * self.positions > np.iinfo(np.int32).max:
            raise ValueError(
                f"a batch of {len(self.counts)} rows of {self.positions} positions is too large; divide it"
            )
        return np.arange(len(self.counts) * self.positions, dtype=np.int32).reshape(-1, self.positions)

    def windows(self, width: int) -> np.ndarray:
        """The rows of values under each window, (U * (P - width + 1), width) int32."""
        index = self.rows_of_values()
        return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(index, width, axis=1).reshape(-1, width))

    def spread(self) -> "RowFeatures":
        """Turn the one position of depth C that a dense layer leaves into C positions of depth 1."""
        if not self.dense:
            return self
        index = None
        if self.index is not None:
            index = self.index * np.int32(self.depth) + np.arange(self.depth, dtype=np.int32)
        return replace(self, values=_reshape(self.values, (-1, 1)), index=index, positions=self.depth, dense=False)

    def merged(self) -> "RowFeatures":
        """Turn P positions of depth C into one position of depth P * C, where the index is the identity."""
        if self.index is not None or self.positions == 1:
            return self
        values = _reshape(self.values, (-1, self.positions * self.depth))
        return replace(self, values=values, positions=1)


def _reshape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    def backward(gradient):
        return (gradient.reshape(tensor.shape),)

    return Tensor(tensor.array.reshape(shape), (tensor,), backward)
