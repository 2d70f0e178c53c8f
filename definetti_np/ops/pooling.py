"""Symmetric functions of the rows of each dataset, and back from a dataset to its rows."""

from collections.abc import Sequence

import numpy as np

from ..checks import as_integer, as_positive_number, check_k, check_width
from ..engine.features import RowFeatures, of_rows
from ..engine.tensor import Tensor, change_shape
from ..engine.workspace import empty, empty_like
from ..kernels import context as context_kernels
from ..kernels import pool as kernels
from ..kernels import windows as window_kernels
from .operands import Operand, describe, operation, resolve, tensor_of
from .window_products import WinnersGradient


@operation
def top_k(features: RowFeatures, k: int) -> Tensor:
    """The k largest over the rows of each dataset, descending: (B, P, k * C), k before C; of (rows, N) (B, N, k).

    The gradient goes to the rows that the values come from; among equal values to the first in canonical order.
    """
    features, k = _features("top_k", features), as_integer(k, "top_k: k", minimum=1)
    check_k(k, int(_rows_of_datasets(features).min()), "features")
    return _largest(features, k)


@operation
def sort(features: RowFeatures) -> Tensor:
    """The rows' values sorted, descending, (B, P, n * C), or (B, N, n) of (rows, N); all datasets have n rows."""
    features = _features("sort", features)
    sizes = _rows_of_datasets(features)
    if sizes.min() != sizes.max():
        raise ValueError(f"sort: datasets of {sizes.min()} to {sizes.max()} rows; for any number of rows use top_k")
    return _largest(features, int(sizes[0]))


@operation
def moments(features: RowFeatures, orders: Sequence[float]) -> Tensor:
    """The means of x ** m over the rows of each dataset, for each order m > 0: (B, P, K * C) or (B, N, K).

    As in the original 0 ** m is 0 and has gradient 0, for m = 1 too; `mean` has a gradient there.
    """
    features = _features("moments", features)
    orders = tuple(as_positive_number(m, "moments: an order") for m in orders)
    if not orders:
        raise ValueError("moments: orders must not be empty")
    values = features.values
    rows = features.rows_of_values(), features.counts, features.offsets, np.array(orders, np.float64)
    out = empty((len(features.offsets) - 1, len(orders), features.positions, features.channels), values.array.dtype)
    kernels.moments_forward(values.array, *rows, out)

    def backward(gradient):
        values_gradient = empty_like(values.array)
        gradient = _by_order(gradient, out.shape, features.flat_rows)
        kernels.moments_backward(gradient, values.array, *rows, features.value_offsets, values_gradient)
        return (values_gradient,)

    return Tensor(_by_position(out, features.flat_rows), (values,), backward)


@operation
def count_distinct(features: RowFeatures, width: int = 1) -> Tensor:
    """How many distinct windows of `width` positions the rows of each dataset have around each position: (B, P, 1).

    The window around position p begins at ``p - width // 2``, and is cut off at the ends; N nodes are N positions.
    There is no gradient: a number of distinct things changes by jumps.
    """
    features = _features("count_distinct", features).spread()
    width = as_integer(width, "count_distinct: width", minimum=1)
    check_width(width, features.positions, "count_distinct")
    values = features.values.array + 0.0  # -0.0 is 0.0
    words = values.view(np.int32)
    numbers = empty((len(words), 1), np.int32)  # of the distinct values of a dataset
    firsts, found = empty((len(words),), np.int64), np.empty(len(features.offsets) - 1, np.int64)
    step = words.shape[1]
    window_kernels.find_windows(words, features.value_offsets, step, step, numbers, firsts, found)
    cells = numbers.reshape(-1)[features.rows_of_values()][:, :, np.newaxis]
    distinct = np.empty((len(found), features.positions, 1), np.int64)
    rows = features.counts, features.offsets, np.array([width])
    context_kernels.count_windows(cells, 0, *rows, distinct, np.empty_like(distinct))
    return Tensor(distinct.astype(values.dtype))


@operation
def to_rows(x: Operand, features: RowFeatures) -> RowFeatures:
    """Give each row of features the pooled numbers of its dataset, (B, P, C) or (B, N), as features of these rows."""
    x, features = tensor_of("to_rows", x), _features("to_rows", features)
    starts, number = features.offsets[:-1], np.diff(features.offsets)
    if x.ndim not in (2, 3) or len(x.array) != len(number):
        raise ValueError(f"to_rows: takes (B, P, C) or (B, N) with B = {len(number)}, got {describe(x)}")

    def backward(gradient):
        return (np.add.reduceat(gradient, starts, axis=0, dtype=np.float64).astype(gradient.dtype),)

    return of_rows(features, Tensor(np.repeat(x.array, number, axis=0), (x,), backward))


def max_over_rows(features: RowFeatures) -> Tensor:
    """The largest over the rows of each dataset, (B, P, C) or (B, N)."""
    largest = _largest(features, 1)
    return change_shape(largest, largest.shape[:-1]) if features.flat_rows else largest


def mean_over_rows(features: RowFeatures) -> Tensor:
    """The mean over the rows of each dataset, (B, P, C) or (B, N)."""
    values = features.values
    rows = features.rows_of_values(), features.counts, features.offsets, np.ones(1)
    out = np.empty((len(features.offsets) - 1, 1, features.positions, features.channels), values.array.dtype)
    kernels.moments_forward(values.array, *rows, out)

    def backward(gradient):
        values_gradient = empty_like(values.array)
        ones = np.ones_like(values.array)  # a mean has a gradient at 0 too; moments have none there
        gradient = np.ascontiguousarray(gradient).reshape(out.shape)
        kernels.moments_backward(gradient, ones, *rows, features.value_offsets, values_gradient)
        return (values_gradient,)

    return Tensor(out.reshape(-1, *features.row_shape), (values,), backward)


def var_over_rows(features: RowFeatures) -> Tensor:
    """The variance over the rows of each dataset, (B, P, C) or (B, N)."""
    values = features.values
    rows = features.rows_of_values(), features.counts, features.offsets
    out = np.empty((len(features.offsets) - 1, features.positions, features.channels), values.array.dtype)
    means = np.empty(out.shape)
    kernels.var_forward(values.array, *rows, means, out)

    def backward(gradient):
        values_gradient = empty_like(values.array)
        gradient = np.ascontiguousarray(gradient).reshape(out.shape)
        kernels.var_backward(gradient, means, values.array, *rows, features.value_offsets, values_gradient)
        return (values_gradient,)

    return Tensor(out.reshape(-1, *features.row_shape), (values,), backward)


def rows_of_datasets(features: RowFeatures) -> np.ndarray:
    """The number of rows of each dataset, in a shape that broadcasts with pooled features: (B, 1, 1) or (B, 1)."""
    return _rows_of_datasets(features).reshape(-1, *(1,) * len(features.row_shape))


def _rows_of_datasets(features: RowFeatures) -> np.ndarray:
    return np.add.reduceat(features.counts, features.offsets[:-1])


def _features(name: str, x) -> RowFeatures:
    if not isinstance(x, RowFeatures):
        raise TypeError(f"{name}: takes features of rows, got {describe(resolve(x))}; it has been pooled already")
    return x


def _largest(features: RowFeatures, k: int) -> Tensor:
    values, index, offsets = features.values, features.rows_of_values(), features.offsets
    out = empty((len(offsets) - 1, k, features.positions, features.channels), values.array.dtype)
    winners = empty(out.shape, np.int32)
    if k == 1:
        kernels.max_forward(values.array, index, offsets, out, winners)
    else:
        kernels.top_k_forward(values.array, index, features.counts, offsets, out, winners)

    def backward(gradient):
        gradient = _by_order(gradient, out.shape, features.flat_rows)
        return (WinnersGradient(gradient, out, winners, features.value_offsets),)

    return Tensor(_by_position(out, features.flat_rows), (values,), backward)


def _by_position(pooled: np.ndarray, flat_rows: bool) -> np.ndarray:
    """Lay pooled values (B, K, P, C) out as (B, P, K * C), of flat rows (B, K, 1, N) as (B, N, K)."""
    datasets, k, positions, channels = pooled.shape
    if flat_rows:
        positions, channels = channels, 1
    by_position = pooled.reshape(datasets, k, positions, channels).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(by_position).reshape(datasets, positions, k * channels)


def _by_order(gradient: np.ndarray, shape: tuple[int, ...], flat_rows: bool) -> np.ndarray:
    """Undo `_by_position`; shape (B, K, P, C)."""
    datasets, k, positions, channels = shape
    if flat_rows:
        positions, channels = channels, 1
    by_order = gradient.reshape(datasets, positions, k, channels).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(by_order).reshape(shape)
