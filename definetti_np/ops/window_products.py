"""Products of windows with a weight, and their gradients: of all values, or of the few that have one."""

import math
from dataclasses import dataclass

import numpy as np

from ..engine.features import Windows
from ..engine.workspace import empty, empty_like
from ..kernels import conv as kernels
from ..kernels import winners as winners_kernels
from ..kernels.pool import winners_backward

FEWEST_WINDOWS = 1  # per channel, for gradients to be treated as sparse
SPARSE = 0.25  # below this share of features that win, going through them one by one beats the matrix product
MOST_ACTIVE = 0.75  # the share of windows with a gradient from which on all are taken


def multiply_windows(values, windows: Windows, matrix, bias, floor: float) -> np.ndarray:
    """Return ``max(floor, bias + window @ matrix)`` of each window, (D, N).

    values (V, C), matrix (width * C, N), bias (N,).
    """
    out = empty((len(windows.rows), matrix.shape[1]), values.dtype)
    kernels.conv_forward(values, windows.rows, _panels(matrix), bias, floor, out)
    return out


@dataclass(frozen=True, eq=False)
class WinnersGradient:
    """The gradient with respect to features of which few win a maximum: one entry for each pooled value.

    Attributes
    ----------
    array, pooled
        (B, K, P, C), the gradient with respect to the pooled values, and those values.
    winners
        (B, K, P, C) int32, the features (rows of V) that they come from.
    offsets
        (B + 1,) int64, the features of each dataset.
    """

    array: np.ndarray
    pooled: np.ndarray
    winners: np.ndarray
    offsets: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.offsets[-1]), self.array.shape[3]

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def is_sparse(self) -> bool:
        """Whether going through the entries beats a matrix product.

        It does not where so few windows meet so many channels that only the weight's size counts.
        """
        features, channels = self.shape
        return features > FEWEST_WINDOWS * channels and self.winners.size < SPARSE * features * channels

    def dense(self) -> np.ndarray:
        """(V, C), the entries added up."""
        out = empty(self.shape, self.dtype)
        winners_backward(np.ascontiguousarray(self.array), self.winners, self.offsets, out)
        return out

    def before_floor(self, floor: float) -> "WinnersGradient":
        array = np.where(self.pooled <= floor, self.dtype.type(0), self.array)
        return WinnersGradient(array, self.pooled, self.winners, self.offsets)

    def to_bias(self) -> np.ndarray:
        return self.array.reshape(-1, self.shape[1]).sum(axis=0)

    def to_matrix(self, values: np.ndarray, windows: Windows) -> np.ndarray:
        """The gradient with respect to the matrix, (width * C, N)."""
        channels, terms = self.shape[1], windows.rows.shape[1] * values.shape[1]
        parts = empty((_parts(terms * channels, len(self.array)), channels, terms), self.dtype)
        winners_kernels.winners_backward_weight(*self._entries(), windows.offsets, windows.rows, values, parts)
        return parts.sum(axis=0).T

    def to_values(self, matrix: np.ndarray, windows: Windows, value_offsets: np.ndarray) -> np.ndarray:
        """The gradient with respect to the values, (V, C); value_offsets (B + 1,), the values of each dataset."""
        out = empty((int(value_offsets[-1]), len(matrix) // windows.rows.shape[1]), self.dtype)
        weight = np.ascontiguousarray(matrix.T)
        winners_kernels.winners_backward_values(
            *self._entries(), windows.offsets, windows.rows, weight, value_offsets, out
        )
        return out

    def _entries(self):
        """The gradient and the winners, both (B, E, C)."""
        shape = len(self.array), -1, self.shape[1]
        return self.array.reshape(shape), self.winners.reshape(shape)


@dataclass(frozen=True, eq=False)
class WindowGradient:
    """The gradient with respect to products of windows, before the floor.

    Attributes
    ----------
    array
        (D, N).
    active
        (A,) int64, the windows that have a gradient.
    sums
        (number of blocks of windows, N), its sums over each block.
    """

    array: np.ndarray
    active: np.ndarray
    sums: np.ndarray

    @classmethod
    def before_floor(cls, gradient: np.ndarray, out: np.ndarray, floor: float) -> "WindowGradient":
        """Send the gradient with respect to ``out`` back through the floor."""
        blocks = kernels.mask_blocks(len(out))
        array, nonzero = empty_like(out), empty((len(out),), np.int64)
        sums = empty((blocks, out.shape[1]), out.dtype)
        kernels.mask_gradient(np.ascontiguousarray(gradient), out, floor, array, nonzero, sums)
        active = np.flatnonzero(nonzero)
        if len(active) > MOST_ACTIVE * len(out):  # then leaving out the others does not pay
            active = np.arange(len(out))
        return cls(array, active, sums)

    def to_bias(self) -> np.ndarray:
        return self.sums.sum(axis=0)

    def to_matrix(self, values: np.ndarray, windows: Windows) -> np.ndarray:
        """The gradient with respect to the matrix, (width * C, N)."""
        shape = windows.rows.shape[1] * values.shape[1], self.array.shape[1]
        parts = empty((_parts(math.prod(shape), len(self.active) // kernels.TERMS), *shape), values.dtype)
        kernels.backward_weight(_panels(self.array, self.active), self.active, values, windows.rows, parts)
        return parts[0] if len(parts) == 1 else parts.sum(axis=0)

    def to_values(self, matrix: np.ndarray, windows: Windows, value_offsets: np.ndarray) -> np.ndarray:
        """The gradient with respect to the values, (V, C); value_offsets (B + 1,), the values of each dataset."""
        dtype, width = self.array.dtype, windows.rows.shape[1]
        shape = int(value_offsets[-1]), len(matrix) // width
        product, zeros = empty((len(self.active), len(matrix)), dtype), np.zeros(len(matrix), dtype)
        rows = self.active.astype(np.int32).reshape(-1, 1)
        panels = _empty_panels(matrix.shape[::-1], dtype)
        kernels.pack_transposed(matrix, panels)
        kernels.conv_forward(self.array, rows, panels, zeros, -np.inf, product)
        if windows.in_turn and len(self.active) == len(windows.rows):
            return product.reshape(shape)
        out = empty(shape, dtype)
        where = self.active, np.searchsorted(self.active, windows.offsets), windows.rows
        kernels.scatter_windows(product.reshape(-1, width, shape[1]), *where, value_offsets, out)
        return out


def _parts(weights: int, most: int) -> int:
    """In how many parts the gradient of so many weights is computed: one where memory would count."""
    return min(8, max(1, most)) if weights <= 2**16 else 1


def _panels(matrix: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The chosen rows of a matrix, in ascending order, or all, cut into panels of columns for the micro-kernel."""
    rows = np.arange(len(matrix)) if rows is None else rows
    panels = _empty_panels((len(rows), matrix.shape[1]), matrix.dtype)
    if panels.shape == (1, *matrix.shape):  # one panel, full and of all rows: the matrix itself
        return matrix.reshape(panels.shape)
    kernels.pack(matrix, rows, panels)
    return panels


def _empty_panels(shape: tuple[int, int], dtype) -> np.ndarray:
    terms, channels = shape
    width = kernels.panel_columns(channels, dtype)
    return empty((-(-channels // width), terms, width), dtype)
