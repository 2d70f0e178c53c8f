"""Differentiable operations for networks and losses that users write: each one's forward and backward stand together.

They take Tensors, Parameters, features, and arrays and numbers as constants. Constants take the Tensors' dtype.

    B          datasets of a batch: the first axis of a Tensor
    P, C       positions and channels of a row, or of what is pooled of rows
    N          nodes that a dense layer computes
    features   what is computed of each row of each dataset, as if of shape (rows, P, C) or (rows, N); the rows have
               no order, so what goes along their axis is symmetric in them, and gives a Tensor (B, P, C) or (B, N)
"""

import functools
import numbers
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..checks import as_integer, as_positive_number
from ..engine.bindings import current
from ..engine.features import RowFeatures
from ..engine.tensor import Tensor
from ..engine.workspace import empty_like
from ..kernels import pool as pool_kernels
from . import operations
from .operands import (
    check_broadcast,
    check_one_batch,
    elementwise,
    operation,
    resolved,
    shape_of,
    shown,
    tensor_of,
    tensors_of,
    total,
    unbroadcast,
)
from .operations import LINEAR
from .places import contiguous, expanded, met, of_datasets, of_rows, to_datasets, with_values

# Arithmetic


@elementwise(2)
def add(x, y):
    """x + y."""

    def backward(gradient):
        return unbroadcast(gradient, x.shape), unbroadcast(gradient, y.shape)

    return Tensor(np.asarray(x.array + y.array), (x, y), backward)


@elementwise(2)
def subtract(x, y):
    """x - y."""

    def backward(gradient):
        return unbroadcast(gradient, x.shape), unbroadcast(-gradient, y.shape)

    return Tensor(np.asarray(x.array - y.array), (x, y), backward)


@elementwise(2)
def multiply(x, y):
    """x * y."""

    def backward(gradient):
        return unbroadcast(gradient * y.array, x.shape), unbroadcast(gradient * x.array, y.shape)

    return Tensor(np.asarray(x.array * y.array), (x, y), backward)


@elementwise(2)
def divide(x, y):
    """x / y."""
    out = np.asarray(x.array / y.array)

    def backward(gradient):
        to_x = gradient / y.array
        return unbroadcast(to_x, x.shape), unbroadcast(-to_x * out, y.shape)

    return Tensor(out, (x, y), backward)


@elementwise(2)
def power(x, y):
    """x ** y; the gradient with respect to y is 0 where x is not positive."""
    out = np.asarray(x.array**y.array)

    def backward(gradient):
        to_x = to_y = None
        if x.needs_gradient:
            slope = np.where(y.array == 0, 0, y.array * x.array ** np.where(y.array == 0, 1, y.array - 1))
            to_x = unbroadcast(gradient * slope.astype(out.dtype), x.shape)
        if y.needs_gradient:
            to_y = unbroadcast(gradient * out * np.log(np.where(x.array > 0, x.array, 1)), y.shape)
        return to_x, to_y

    return Tensor(out, (x, y), backward)


@elementwise(1)
def negative(x):
    """-x."""
    return Tensor(-x.array, (x,), lambda gradient: (-gradient,))


@operation
def matmul(x, y):
    """x @ y, as `numpy.matmul`: (..., N) @ (N, M) is (..., M); of features (rows, P, C) @ (C, M) is (rows, P, M)."""
    x, y = resolved(x), resolved(y)
    if isinstance(x, RowFeatures):
        _check_factors(x, y, y_axes=(2,))
        y = tensors_of("matmul", [x.values, y])[1]
        return dense(x, y) if x.dense else conv(x, reshape(y, (1, *y.shape)))
    if isinstance(y, RowFeatures):
        raise TypeError(f"matmul: {shown(y)} can only be the first factor")
    x, y = tensors_of("matmul", [x, y])
    _check_factors(x, y, y_axes=range(1, 32))
    if x.ndim == 1:
        return getitem(matmul(reshape(x, (1, -1)), y), (Ellipsis, 0) if y.ndim == 1 else (Ellipsis, 0, slice(None)))
    if y.ndim == 1:
        return getitem(matmul(x, reshape(y, (-1, 1))), (Ellipsis, 0))
    if y.ndim == 2:
        return reshape(dense(reshape(x, (-1, x.shape[-1])), y), (*x.shape[:-1], y.shape[1]))
    return _matmul_of_stacks(x, y)


def _check_factors(x, y, y_axes) -> None:
    x_shape, y_shape = shape_of(x), shape_of(y)
    if len(y_shape) not in y_axes or not x_shape or x_shape[-1] != y_shape[-2:][0]:
        raise ValueError(f"matmul: {shown(x)} and {shown(y)}: the last axis of the first must be the second's first")


def _matmul_of_stacks(x: Tensor, y: Tensor) -> Tensor:
    """(..., L, N) @ (..., N, M); `einsum` adds up in an order that does not depend on threads, as BLAS's may."""
    check_broadcast("matmul", (x, y), (x.shape[:-2], y.shape[:-2]))

    def backward(gradient):
        to_x = np.einsum("...lm,...nm->...ln", gradient, y.array)
        return unbroadcast(to_x, x.shape), unbroadcast(np.einsum("...ln,...lm->...nm", x.array, gradient), y.shape)

    return Tensor(np.einsum("...ln,...nm->...lm", x.array, y.array), (x, y), backward)


# Functions of each number


@elementwise(1)
def relu(x):
    """max(x, 0); the gradient at 0 is 0."""
    out = np.maximum(x.array, 0)
    return Tensor(out, (x,), lambda gradient: (gradient * (out > 0),))


@elementwise(1)
def leaky_relu(x, slope: float = 0.01):
    """x where x > 0, else slope * x."""
    slopes = np.where(x.array > 0, 1, slope).astype(x.array.dtype)
    return Tensor(x.array * slopes, (x,), lambda gradient: (gradient * slopes,))


@elementwise(1)
def tanh(x):
    """The hyperbolic tangent."""
    out = np.tanh(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient * (1 - out * out),))


@elementwise(1)
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    out = _sigmoid(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient * out * (1 - out),))


def _sigmoid(array: np.ndarray) -> np.ndarray:
    half = array.dtype.type(0.5)
    return half + half * np.tanh(half * array)  # cannot overflow


@elementwise(1)
def softplus(x):
    """log(1 + exp(x))."""
    out = np.logaddexp(x.array, x.array.dtype.type(0))
    return Tensor(out, (x,), lambda gradient: (gradient * _sigmoid(x.array),))


@elementwise(1)
def exp(x):
    """e ** x."""
    out = np.exp(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient * out,))


@elementwise(1)
def log(x):
    """The natural logarithm."""
    return Tensor(np.log(x.array), (x,), lambda gradient: (gradient / x.array,))


@elementwise(1)
def sqrt(x):
    """The square root; its gradient at 0 is infinite."""
    out = np.sqrt(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient / (2 * out),))


@elementwise(1)
def abs(x):
    """|x|; the gradient at 0 is 0."""
    return Tensor(np.abs(x.array), (x,), lambda gradient: (gradient * np.sign(x.array),))


@elementwise(1)
def clip(x, a_min=None, a_max=None):
    """x moved into the range from a_min to a_max; the gradient outside is 0."""
    inside = np.ones(x.shape, bool)
    if a_min is not None:
        inside &= x.array >= a_min
    if a_max is not None:
        inside &= x.array <= a_max
    out = np.clip(x.array, a_min, a_max).astype(x.array.dtype, copy=False)
    return Tensor(out, (x,), lambda gradient: (gradient * inside,))


@elementwise(3)
def where(condition, x, y):
    """x where the condition holds, else y; the condition gets no gradient."""
    holds = condition.array != 0

    def backward(gradient):
        zero = np.zeros((), gradient.dtype)
        to_x, to_y = np.where(holds, gradient, zero), np.where(holds, zero, gradient)
        return unbroadcast(to_x, x.shape), unbroadcast(to_y, y.shape)

    return Tensor(np.where(holds, x.array, y.array), (x, y), backward)


@elementwise(1)
def constant(x):
    """The same numbers, to which no gradient is sent."""
    return Tensor(x.array)


@elementwise(1)
def dropout(x, rate: float, rng: np.random.Generator):
    """In training steps: 0 with probability `rate`, else x / (1 - rate). In predictions: x.

    Equal rows of a dataset, and equal windows of rows, are dropped together.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"dropout: rng must be a numpy.random.Generator, got {rng!r}")
    if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
        raise ValueError(f"dropout: rate must be at least 0 and below 1, got {rate!r}")
    if current() is None or not current().training:
        return x
    scale = ((rng.random(x.shape, np.float32) >= rate) / (1 - rate)).astype(x.array.dtype)
    return Tensor(x.array * scale, (x,), lambda gradient: (gradient * scale,))


def _comparison(function: np.ufunc, symbol: str) -> Callable:
    def compare(x, y):
        return Tensor(np.asarray(function(x.array, y.array)).astype(x.array.dtype))

    compare.__name__ = compare.__qualname__ = function.__name__
    compare.__doc__ = f"Whether x {symbol} y, 1 or 0: a condition for `where`. It has no gradient."
    return elementwise(2)(compare)


less = _comparison(np.less, "<")
less_equal = _comparison(np.less_equal, "<=")
greater = _comparison(np.greater, ">")
greater_equal = _comparison(np.greater_equal, ">=")
equal = _comparison(np.equal, "==")
not_equal = _comparison(np.not_equal, "!=")


# Along axes


def _reduction(over_rows: Callable | None = None) -> Callable:
    """Let a reduction of Tensors go through the axes of each row of features, and over rows where it is a pooling.

    The function gets the axes as a tuple of numbers that are not negative.
    """

    def decorate(function):
        name = function.__name__

        @operation
        @functools.wraps(function)
        def reduction(x, axis=None, keepdims=False):
            x = resolved(x)
            if not isinstance(x, RowFeatures):
                (x,) = tensors_of(name, [x])
                return function(x, _checked_axis(name, x, axis, x.ndim), keepdims)
            if axis in (None, 0):
                if over_rows is None or keepdims:
                    what = f"does not go over rows{' with keepdims' * keepdims}"
                    raise ValueError(f"{name}: {shown(x)}: {what}; give an axis of the row, such as axis=-1")
                return over_rows(x)
            axis = _checked_axis(name, x, axis, 1 + len(x.row_shape))
            return of_rows(x, function(expanded(x), axis, keepdims))

        return reduction

    return decorate


def _checked_axis(name: str, x, axis, ndim: int) -> tuple[int, ...]:
    """The axes as numbers that are not negative, ascending."""
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = [as_integer(a, f"{name}: axis", minimum=-ndim) for a in axes]
    checked = sorted({a % ndim for a in axes if a < ndim})
    if len(checked) != len(axes):
        raise ValueError(f"{name}: {shown(x)} has no axis {axis!r}, or it is named twice")
    if isinstance(x, RowFeatures) and 0 in checked:
        raise ValueError(f"{name}: {shown(x)}: axis 0, the rows, cannot be taken together with others")
    return tuple(checked)


def _spread(gradient: np.ndarray, shape: tuple[int, ...], axis: tuple[int, ...]) -> np.ndarray:
    """The gradient of a sum over axes, whether they were kept or not, for each number that was added."""
    kept = [1 if a in axis else size for a, size in enumerate(shape)]
    return np.broadcast_to(gradient.reshape(kept), shape)


def _count(x: Tensor, axis: tuple[int, ...]):
    """How many numbers go into one along the axes, in the Tensor's dtype."""
    return x.array.dtype.type(np.prod([x.shape[a] for a in axis]))


def _mean_over_rows(features: RowFeatures) -> Tensor:
    values = features.values
    rows = features.rows_of_values(), features.counts, features.offsets, np.ones(1)
    out = np.empty((len(features.offsets) - 1, 1, features.positions, features.depth), values.array.dtype)
    pool_kernels.moments_forward(values.array, *rows, out)

    def backward(gradient):
        values_gradient = empty_like(values.array)
        ones = np.ones_like(values.array)  # a mean has a gradient at 0 too; moments have none there
        gradient = np.ascontiguousarray(gradient).reshape(out.shape)
        pool_kernels.moments_backward(gradient, ones, *rows, features.value_offsets, values_gradient)
        return (values_gradient,)

    return Tensor(out.reshape(-1, *features.row_shape), (values,), backward)


def _sum_over_rows(features: RowFeatures) -> Tensor:
    sizes = np.add.reduceat(features.counts, features.offsets[:-1])
    return multiply(_mean_over_rows(features), sizes.reshape(-1, *(1,) * len(features.row_shape)))


def _var_over_rows(features: RowFeatures) -> Tensor:
    values = features.values
    rows = features.rows_of_values(), features.counts, features.offsets
    out = np.empty((len(features.offsets) - 1, features.positions, features.depth), values.array.dtype)
    means = np.empty(out.shape)
    pool_kernels.var_forward(values.array, *rows, means, out)

    def backward(gradient):
        values_gradient = empty_like(values.array)
        gradient = np.ascontiguousarray(gradient).reshape(out.shape)
        pool_kernels.var_backward(gradient, means, values.array, *rows, features.value_offsets, values_gradient)
        return (values_gradient,)

    return Tensor(out.reshape(-1, *features.row_shape), (values,), backward)


def _max_over_rows(features: RowFeatures) -> Tensor:
    return reshape(top_k(features, 1), (-1, *features.row_shape))


@_reduction(_sum_over_rows)
def sum(x, axis=None, keepdims=False):
    """The sum along axes; of features over the rows of each dataset, (B, P, C) or (B, N)."""

    def backward(gradient):
        return (_spread(gradient, x.shape, axis),)

    return Tensor(total(x.array, axis, keepdims=keepdims).astype(x.array.dtype), (x,), backward)


@_reduction(_mean_over_rows)
def mean(x, axis=None, keepdims=False):
    """The mean along axes; of features over the rows of each dataset, (B, P, C) or (B, N)."""
    number = _count(x, axis)

    def backward(gradient):
        return (_spread(np.asarray(gradient / number), x.shape, axis),)

    return Tensor((total(x.array, axis, keepdims=keepdims) / number).astype(x.array.dtype), (x,), backward)


@_reduction(_var_over_rows)
def var(x, axis=None, keepdims=False):
    """The variance along axes, divided by their length; of features over the rows of each dataset."""
    number = _count(x, axis)
    deviations = x.array - total(x.array, axis, keepdims=True) / number

    def backward(gradient):
        return ((_spread(np.asarray(gradient * (2 / number)), x.shape, axis) * deviations).astype(x.array.dtype),)

    squares = deviations * deviations
    return Tensor((total(squares, axis, keepdims=keepdims) / number).astype(x.array.dtype), (x,), backward)


@_reduction(_max_over_rows)
def max(x, axis=None, keepdims=False):
    """The largest along axes; of features over the rows of each dataset. Of equal ones the first gets the gradient."""
    last = tuple(range(-len(axis), 0))
    moved = np.moveaxis(x.array, axis, last)
    flat = moved.reshape(*moved.shape[: x.ndim - len(axis)], -1)
    first = flat.argmax(axis=-1)[..., np.newaxis]

    def backward(gradient):
        out = np.zeros_like(flat)
        np.put_along_axis(out, first, gradient.reshape(first.shape), axis=-1)
        return (np.moveaxis(out.reshape(moved.shape), last, axis),)

    return Tensor(np.asarray(x.array.max(axis=axis, keepdims=keepdims)), (x,), backward)


@_reduction()
def logsumexp(x, axis=None, keepdims=False):
    """log(sum(exp(x))) along axes, without overflow."""
    largest = x.array.max(axis=axis, keepdims=True)
    exponentials = np.exp(x.array - largest)
    sums = total(exponentials, axis, keepdims=True).astype(exponentials.dtype)
    out = largest + np.log(sums)

    def backward(gradient):
        return (_spread(gradient, x.shape, axis) * (exponentials / sums),)

    return Tensor(np.asarray(out if keepdims else out.squeeze(axis)), (x,), backward)


@operation
def log_softmax(x, axis=-1):
    """The logarithms of probabilities that are proportional to exp(x) along an axis."""
    x = resolved(x)
    if not isinstance(x, RowFeatures):
        (x,) = tensors_of("log_softmax", [x])
        if x.ndim == 2 and axis in (1, -1):
            return operations.log_softmax(contiguous(x))
    return subtract(x, logsumexp(x, axis, keepdims=True))


# Pooling the rows of each dataset


def _features(name: str, x) -> RowFeatures:
    if not isinstance(x, RowFeatures):
        raise TypeError(f"{name}: takes features of rows, got {shown(resolved(x))}; it has been pooled already")
    return x


def _pooled(features: RowFeatures, pooled: RowFeatures) -> Tensor:
    """What is pooled as (B, P, K * C), of features (rows, N) as (B, N, K)."""
    return reshape(pooled.values, (len(pooled.counts), pooled.positions, pooled.depth))


@operation
def top_k(features, k: int):
    """The k largest over the rows of each dataset, descending: (B, P, k * C), k before C; of (rows, N) (B, N, k)."""
    features, k = _features("top_k", features), as_integer(k, "top_k: k", minimum=1)
    fewest = np.add.reduceat(features.counts, features.offsets[:-1]).min()
    if k > fewest:
        raise ValueError(f"top_k: k={k} needs as many rows, a dataset has {fewest}")
    return _pooled(features, operations.top_k(features, k))


@operation
def sort(features):
    """The rows' values sorted, descending, (B, P, n * C), or (B, N, n) of (rows, N); all datasets have n rows."""
    features = _features("sort", features)
    sizes = np.add.reduceat(features.counts, features.offsets[:-1])
    if sizes.min() != sizes.max():
        raise ValueError(f"sort: datasets of {sizes.min()} to {sizes.max()} rows; for any number of rows use top_k")
    return top_k(features, int(sizes[0]))


@operation
def moments(features, orders):
    """The means of x ** m over the rows of each dataset, for each order m > 0: (B, P, K * C) or (B, N, K).

    As in the original 0 ** m is 0 and has gradient 0, for m = 1 too; `mean` has a gradient there.
    """
    features = _features("moments", features)
    orders = tuple(as_positive_number(m, "moments: an order") for m in orders)
    if not orders:
        raise ValueError("moments: orders must not be empty")
    return _pooled(features, operations.moments(features, orders))


@operation
def to_rows(x, features):
    """Give each row of features what was pooled of its dataset, (B, P, C) or (B, N), as features of the same rows."""
    x, features = tensor_of("to_rows", x), _features("to_rows", features)
    starts, number = features.offsets[:-1], np.diff(features.offsets)
    if x.ndim not in (2, 3) or len(x.array) != len(number):
        raise ValueError(f"to_rows: takes (B, P, C) or (B, N) with B = {len(number)}, got {shown(x)}")

    def backward(gradient):
        return (np.add.reduceat(gradient, starts, axis=0, dtype=np.float64).astype(gradient.dtype),)

    return of_rows(features, Tensor(np.repeat(x.array, number, axis=0), (x,), backward))


# Shapes


def _joined(name: str, arrays, axis: int, join: Callable, *, new_axis: bool) -> Tensor | RowFeatures:
    """Apply a function of Tensors and an axis, one that is there or a new one, to Tensors or features."""
    if not isinstance(arrays, (list, tuple)) or not arrays:
        raise TypeError(f"{name}: takes a list of Tensors, got {arrays!r}")
    arrays = [resolved(array) for array in arrays]
    rows = [isinstance(array, RowFeatures) for array in arrays]
    if any(rows) != all(rows):
        what = ", ".join(map(shown, arrays))
        raise TypeError(f"{name}: features of rows and what is pooled do not go together: {what}; see ops.to_rows")
    if not rows[0]:
        return join(tensors_of(name, arrays), axis)
    first = arrays[0]
    check_one_batch(name, arrays)
    axes = 1 + len(first.row_shape) + new_axis
    if axis in (0, -axes):
        raise ValueError(f"{name}: features have no order of rows to follow; give an axis of the row, such as axis=-1")
    if not new_axis and axis in (-1, axes - 1) and (together := met(arrays)) is not None:
        return with_values(
            together[0], join([array.values for array in together], 1), data=all(a.is_data for a in arrays)
        )
    return of_rows(first, join([expanded(array) for array in arrays], axis))


@operation
def concatenate(arrays, axis=0):
    """Join along an axis that is there already."""

    def join(tensors, axis):
        try:
            out = np.concatenate([tensor.array for tensor in tensors], axis)
        except ValueError as error:
            what = " and ".join(map(shown, arrays))
            raise ValueError(f"concatenate: {what} along axis {axis}: {error}") from None
        ends = np.cumsum([tensor.shape[axis] for tensor in tensors])[:-1]

        def backward(gradient):
            return tuple(np.split(gradient, ends, axis))

        return Tensor(out, tuple(tensors), backward)

    return _joined("concatenate", arrays, axis, join, new_axis=False)


@operation
def stack(arrays, axis=0):
    """Join along a new axis."""

    def join(tensors, axis):
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(f"stack: {' and '.join(map(shown, arrays))}: the shapes must be equal")
        out = np.stack([tensor.array for tensor in tensors], axis)

        def backward(gradient):
            return tuple(np.moveaxis(gradient, axis, 0))

        return Tensor(out, tuple(tensors), backward)

    return _joined("stack", arrays, axis, join, new_axis=True)


@operation
def reshape(x, shape):
    """The same numbers in another shape; one of its numbers may be -1."""
    x = tensor_of("reshape", x)
    try:
        out = x.array.reshape(shape)
    except ValueError:
        raise ValueError(f"reshape: {shown(x)} cannot have shape {shape}") from None
    return Tensor(out, (x,), lambda gradient: (gradient.reshape(x.shape),))


@operation
def flatten(x):
    """All of a dataset along one axis, (B, P, C) to (B, P * C); of features all of a row."""
    x = resolved(x)
    if isinstance(x, RowFeatures):
        each = expanded(x)
        return of_rows(x, reshape(each, (each.shape[0], -1)), data=x.is_data)
    x = tensor_of("flatten", x)
    return reshape(x, (x.shape[0], -1))


@operation
def transpose(x, axes=None):
    """The axes in another order, reversed for None."""
    x = tensor_of("transpose", x)
    axes = tuple(range(x.ndim))[::-1] if axes is None else axes
    try:
        out = x.array.transpose(axes)
    except ValueError:
        raise ValueError(f"transpose: {shown(x)} has no such axes: {axes}") from None
    return Tensor(out, (x,), lambda gradient: (gradient.transpose(np.argsort([a % x.ndim for a in axes])),))


@operation
def getitem(x, key):
    """x[key] with slices, integers, `...` and None; of features `x[:, ...]`, where the rows stay as they are."""
    x = resolved(x)
    keys = key if isinstance(key, tuple) else (key,)
    if not all(k is None or k is Ellipsis or isinstance(k, (slice, int, np.integer)) for k in keys):
        raise TypeError(f"indexing takes slices, integers, ... and None, got {key!r}")
    if not isinstance(x, RowFeatures):
        return _getitem(tensor_of("indexing", x), keys)
    ndim = 1 + len(x.row_shape)
    given = len(keys) - keys.count(Ellipsis) - keys.count(None)
    if Ellipsis not in keys:
        keys = *keys, Ellipsis
    place = keys.index(Ellipsis)
    full = keys[:place] + (slice(None),) * (ndim - given) + keys[place + 1 :]
    if full[:1] != (slice(None),):
        raise IndexError(f"{shown(x)}: the rows of a dataset have no order: the first index must be ':', got {key!r}")
    if x.index is not None and len(full) == 3 and all(isinstance(k, slice) for k in full):
        index = np.ascontiguousarray(x.index[:, full[1]])  # the values stay as distinct as they are
        values = contiguous(_getitem(x.values, full[::2]))
        if index.size and values.array.size:
            return replace(x, values=values, index=index, positions=index.shape[1])
    return of_rows(x, _getitem(expanded(x), full), data=x.is_data)


def _getitem(x: Tensor, keys: tuple) -> Tensor:
    try:
        out = np.asarray(x.array[keys])
    except IndexError as error:
        raise IndexError(f"{shown(x)}: {error}") from None

    def backward(gradient):
        x_gradient = np.zeros_like(x.array)
        x_gradient[keys] = gradient
        return (x_gradient,)

    return Tensor(out, (x,), backward)


# Layers without parameters of their own


def _layer(name: str, apply: Callable, x, weight, bias, floor: float):
    """Apply conv or dense to features, or to a Tensor (B, P, C) or (B, N)."""
    x = resolved(x)
    if isinstance(x, RowFeatures):
        values, weight = tensors_of(name, [x.values, weight])
        features = replace(x, values=values)
    else:
        x, weight = tensors_of(name, [x, weight])
        if x.ndim not in (2, 3) or x.array.size == 0:
            raise ValueError(f"{name}: x must be features or a Tensor (B, P, C) or (B, N), got {shown(x)}")
        features = of_datasets(x)
    bias = np.zeros(weight.shape[-1:]) if bias is None else bias
    bias = tensors_of(name, [weight, bias])[1]
    positions, depth = (features.depth, 1) if features.dense else (features.positions, features.depth)
    if name == "conv":
        letters = "(width, C, N) with width at most P"
        fits = weight.ndim == 3 and weight.shape[0] <= positions and weight.shape[1] == depth
    else:
        letters = "(P * C or N, nodes)"
        fits = weight.ndim == 2 and weight.shape[0] == positions * depth
    if not fits or bias.shape != weight.shape[-1:] or not weight.array.size:
        raise ValueError(
            f"{name}: {shown(x)}, weight {letters} = {weight.shape} and bias {bias.shape} do not fit together"
        )
    out = apply(features, contiguous(weight), contiguous(bias), floor=floor)
    return out if isinstance(x, RowFeatures) else to_datasets(out)


@operation
def conv(x, weight, bias=None, *, floor: float = LINEAR):
    """Slide a window over the positions, without padding: (.., P, C) to (.., P - width + 1, N); N nodes are (N, 1).

    x are features or (B, P, C) or (B, N); weight (width, C, N), bias (N,). What is computed is at least `floor`: 0 is a
    ReLU.
    """
    return _layer("conv", operations.conv, x, weight, bias, floor)


@operation
def dense(x, weight, bias=None, *, floor: float = LINEAR):
    """Connect all of a row, or of a dataset, to N nodes: (.., P, C) to (.., N), positions slowest.

    x are features or (B, P, C) or (B, N); weight (P * C, N), bias (N,). What is computed is at least `floor`: 0 is a
    ReLU.
    """
    return _layer("dense", operations.dense, x, weight, bias, floor)
