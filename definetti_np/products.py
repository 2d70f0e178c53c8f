"""Products of windows with a weight, and their gradients: of all values, or of the few that have one."""

import functools
from dataclasses import dataclass

import numpy as np

from .features import Windows
from .kernels import conv as kernels
from .workspace import empty, empty_like

FEWEST_WINDOWS = 1  # per channel, for gradients to be treated as sparse
SPARSE = 0.1  # below this share of values with a gradient, going through them one by one beats the matrix product


def multiply_windows(values, windows: Windows, matrix, bias, floor: float) -> np.ndarray:
    """Return ``max(floor, bias + window @ matrix)`` of each window, (D, N).

    values (V, C), matrix (width * C, N), bias (N,).
    """
    out = empty((len(windows.rows), matrix.shape[1]), values.dtype)
    kernels.conv_forward(values, windows.rows, _panels(matrix), bias, floor, out)
    return out


@dataclass(frozen=True, eq=False)
class WindowGradient:
    """The gradient with respect to products of windows, before the floor.

    Attributes
    ----------
    array
        (D, N).
    nonzero
        (D,), how many channels of each window have a gradient.
    sums
        (number of blocks of windows, N), its sums over each block.
    """

    array: np.ndarray
    nonzero: np.ndarray
    sums: np.ndarray

    @classmethod
    def before_floor(cls, gradient: np.ndarray, out: np.ndarray, floor: float) -> "WindowGradient":
        """Send the gradient with respect to ``out`` back through the floor."""
        blocks = kernels.mask_blocks(len(out))
        array, nonzero = empty_like(out), empty((len(out),), np.int64)
        sums = empty((blocks, out.shape[1]), out.dtype)
        kernels.mask_gradient(np.ascontiguousarray(gradient), out, floor, array, nonzero, sums)
        return cls(array, nonzero, sums)

    @functools.cached_property
    def places(self) -> np.ndarray | None:
        """(D, N) int32, first the channels of each window that have a gradient; None where a dense product is sooner.

        That is where many have one, and where so few windows meet so many channels that only the weight's size counts.
        """
        windows, channels = self.array.shape
        if windows <= FEWEST_WINDOWS * channels or self.nonzero.sum() >= SPARSE * self.array.size:
            return None
        places = empty(self.array.shape, np.int32)
        kernels.find_places(self.array, self.nonzero, places)
        return places

    def to_bias(self) -> np.ndarray:
        return self.sums.sum(axis=0)

    def to_matrix(self, values: np.ndarray, windows: Windows) -> np.ndarray:
        """The gradient with respect to the matrix, (width * C, N)."""
        width, depth, channels, dtype = windows.rows.shape[1], values.shape[1], self.array.shape[1], values.dtype
        out = empty((width, depth, channels), dtype)
        if self.places is not None:
            parts = empty((kernels.sparse_parts(out.size), channels, width * depth), dtype)
            kernels.sparse_backward_weight(self.array, self.places, self.nonzero, values, windows.rows, parts)
            kernels.add_parts(parts, out.reshape(-1, channels))
        else:
            active = np.flatnonzero(self.nonzero)
            kernels.backward_weight(_panels(self.array, active), active, values, windows.rows, out)
        return out.reshape(-1, channels)

    def to_values(self, matrix: np.ndarray, windows: Windows, value_offsets: np.ndarray) -> np.ndarray:
        """The gradient with respect to the values, (V, C); value_offsets (B + 1,), the values of each dataset."""
        dtype, width = self.array.dtype, windows.rows.shape[1]
        out = empty((int(value_offsets[-1]), len(matrix) // width), dtype)
        if self.places is not None:
            transposed = empty(matrix.shape[::-1], dtype)
            kernels.transpose(matrix, transposed)
            where = self.places, self.nonzero, windows.offsets, windows.rows
            kernels.sparse_backward_values(self.array, *where, transposed, value_offsets, out)
        else:
            active = np.flatnonzero(self.nonzero)
            product, zeros = empty((len(active), len(matrix)), dtype), np.zeros(len(matrix), dtype)
            rows = active.astype(np.int32).reshape(-1, 1)
            panels = _empty_panels(matrix.shape[::-1], dtype)
            kernels.pack_transposed(matrix, panels)
            kernels.conv_forward(self.array, rows, panels, zeros, -np.inf, product)
            where = active, np.searchsorted(active, windows.offsets), windows.rows
            kernels.scatter_windows(product.reshape(-1, width, out.shape[1]), *where, value_offsets, out)
        return out


def _panels(matrix: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The chosen rows of a matrix, or all, cut into panels of columns for the micro-kernel."""
    rows = np.arange(len(matrix)) if rows is None else rows
    panels = _empty_panels((len(rows), matrix.shape[1]), matrix.dtype)
    kernels.pack(matrix, rows, panels)
    return panels


def _empty_panels(shape: tuple[int, int], dtype) -> np.ndarray:
    terms, channels = shape
    width = kernels.panel_columns(channels, dtype)
    return empty((-(-channels // width), terms, width), dtype)
