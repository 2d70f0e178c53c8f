"""Products of windows with a weight, and the backward pass of conv: of all windows, or of those that win a maximum."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from ..engine.features import Windows
from ..engine.workspace import empty, empty_like
from ..kernels import conv as kernels
from ..kernels import winners as winner_kernels
from ..kernels.windows import scatter_windows

FEWEST_WINDOWS = 1  # per node, for gradients to be treated as sparse
SPARSE_SHARE = 0.25  # the share of features that win below which going through them one by one beats the matrix product
LARGEST_ACTIVE_SHARE = 0.75  # the share of windows with a gradient from which on all are taken
WEIGHTS_OF_ONE_PART = 2**16  # a gradient of more weights is computed in one part, because memory would count
MOST_PARTS = 8

_panel_columns = functools.cache(kernels.panel_columns)


def multiply_windows(
    values: np.ndarray, windows: Windows, matrix: np.ndarray, bias: np.ndarray, floor: float
) -> np.ndarray:
    """Return ``max(floor, bias + window @ matrix)`` of each window, (D, N).

    values (V, C), matrix (width * C, N), bias (N,).
    """
    panels, out = _panels(matrix), empty((len(windows.rows), matrix.shape[1]), values.dtype)
    kernels.conv_forward(values, windows.rows, panels, bias, floor, out)
    return out


class WinnersGradient:
    """The gradient with respect to features of which few win a maximum: one entry for each pooled value.

    Parameters
    ----------
    array, pooled
        (B, K, P, C), the gradient with respect to the pooled values, and those values.
    winners
        (B, K, P, C) int32, the features (rows of V) that they come from.
    offsets
        (B + 1,) int64, the features of each dataset.
    """

    __slots__ = ("array", "dtype", "offsets", "pooled", "shape", "winners")

    def __init__(self, array: np.ndarray, pooled: np.ndarray, winners: np.ndarray, offsets: np.ndarray):
        self.array, self.pooled, self.winners, self.offsets = array, pooled, winners, offsets
        self.shape = int(offsets[-1]), array.shape[3]
        self.dtype = array.dtype

    @property
    def is_sparse(self) -> bool:
        """Whether going through the entries beats a matrix product.

        It does not where so few windows meet so many nodes that only the weight's size counts.
        """
        features, nodes = self.shape
        return features > FEWEST_WINDOWS * nodes and self.winners.size < SPARSE_SHARE * features * nodes

    def as_array(self) -> np.ndarray:
        """(V, C), the entries added up."""
        out = empty(self.shape, self.dtype)
        winner_kernels.winners_backward(np.ascontiguousarray(self.array), self.winners, self.offsets, out)
        return out

    def before_floor(self, floor: float) -> "WinnersGradient":
        """The gradient with respect to the products, before the floor turned them into features."""
        array = self.array * ~(self.pooled <= floor)
        array += 0  # turns -0.0 into 0.0, so that both lines compute np.where(...), in half the time
        return WinnersGradient(array, self.pooled, self.winners, self.offsets)

    def conv_backward_bias(self) -> np.ndarray:
        """The gradient with respect to the bias, (N,)."""
        return _sum_of_rows(self.array.reshape(-1, self.shape[1]))

    def conv_backward_weight(self, values: np.ndarray, windows: Windows) -> np.ndarray:
        """The gradient with respect to the weight as a matrix, (width * C, N)."""
        nodes, terms = self.shape[1], windows.rows.shape[1] * values.shape[1]
        parts = empty((_number_of_parts(terms * nodes, len(self.array)), nodes, terms), self.dtype)
        gradient, winners = self._entries()
        winner_kernels.conv_backward_weight_of_winners(gradient, winners, windows.offsets, windows.rows, values, parts)
        return parts.sum(axis=0).T

    def conv_backward_values(self, matrix: np.ndarray, windows: Windows, value_offsets: np.ndarray) -> np.ndarray:
        """The gradient with respect to the values, (V, C); value_offsets (B + 1,), the values of each dataset."""
        out = empty((int(value_offsets[-1]), len(matrix) // windows.rows.shape[1]), self.dtype)
        gradient, winners = self._entries()
        winner_kernels.conv_backward_values_of_winners(
            gradient, winners, windows.offsets, windows.rows, np.ascontiguousarray(matrix.T), value_offsets, out
        )
        return out

    def _entries(self):
        """The gradient and the winners, both (B, E, N)."""
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
        if len(active) > LARGEST_ACTIVE_SHARE * len(out):  # because leaving out the others does not pay then
            active = np.arange(len(out))
        return cls(array, active, sums)

    def conv_backward_bias(self) -> np.ndarray:
        """The gradient with respect to the bias, (N,)."""
        return _sum_of_rows(self.sums)

    def conv_backward_weight(self, values: np.ndarray, windows: Windows) -> np.ndarray:
        """The gradient with respect to the weight as a matrix, (width * C, N)."""
        shape = windows.rows.shape[1] * values.shape[1], self.array.shape[1]
        number = _number_of_parts(math.prod(shape), len(self.active) // kernels.TERMS_AT_ONCE)
        panels, parts = _panels(self.array, self.active), empty((number, *shape), values.dtype)
        kernels.conv_backward_weight(panels, self.active, values, windows.rows, parts)
        return parts[0] if len(parts) == 1 else parts.sum(axis=0)

    def conv_backward_values(self, matrix: np.ndarray, windows: Windows, value_offsets: np.ndarray) -> np.ndarray:
        """The gradient with respect to the values, (V, C); value_offsets (B + 1,), the values of each dataset."""
        dtype, width = self.array.dtype, windows.rows.shape[1]
        shape = int(value_offsets[-1]), len(matrix) // width
        panels = _empty_panels(matrix.shape[1], matrix.shape[0], dtype)
        product, zeros = empty((len(self.active), len(matrix)), dtype), np.zeros(len(matrix), dtype)
        rows = self.active.astype(np.int32).reshape(-1, 1)
        kernels.pack_transposed(matrix, panels)
        kernels.conv_forward(self.array, rows, panels, zeros, -np.inf, product)
        if windows.in_turn and len(self.active) == len(windows.rows):
            return product.reshape(shape)
        out = empty(shape, dtype)
        active_offsets = np.searchsorted(self.active, windows.offsets)
        product = product.reshape(-1, width, shape[1])
        scatter_windows(product, self.active, active_offsets, windows.rows, value_offsets, out)
        return out


def _sum_of_rows(array: np.ndarray) -> np.ndarray:
    """The sum along the first axis, added up in float64 because the rows may be many."""
    return array.sum(axis=0, dtype=np.float64).astype(array.dtype)


def _number_of_parts(weights: int, most: int) -> int:
    """The number of parts in which the gradient of so many weights is computed; later they are added up."""
    return min(MOST_PARTS, max(1, most)) if weights <= WEIGHTS_OF_ONE_PART else 1


def _panels(matrix: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The chosen rows of a matrix, in ascending order, or all, cut into panels of columns for the micro-kernel."""
    rows = np.arange(len(matrix)) if rows is None else rows
    panels = _empty_panels(len(rows), matrix.shape[1], matrix.dtype)
    if panels.shape == (1, *matrix.shape):  # one panel, full and of all rows: the matrix itself
        return matrix.reshape(panels.shape)
    kernels.pack(matrix, rows, panels)
    return panels


def _empty_panels(terms: int, nodes: int, dtype) -> np.ndarray:
    width = _panel_columns(nodes, dtype)
    return empty((-(-nodes // width), terms, width), dtype)
