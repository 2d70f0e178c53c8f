"""Reductions along axes; of features over the rows of each dataset, too."""

import inspect
from collections.abc import Callable

import numpy as np

from ..checks import as_integer
from ..engine.features import RowFeatures, expand, of_rows
from ..engine.tensor import Tensor
from .elementwise import multiply
from .operands import Operand, Result, describe, dress, operation, resolve, tensors_of, total
from .pooling import max_over_rows, mean_over_rows, rows_of_datasets, var_over_rows


def _reduction(over_rows: Callable | None = None) -> Callable[[Callable[..., Tensor]], Callable[..., Result]]:
    """Let a reduction of Tensors go through the axes of each row of features, and over rows where it is a pooling.

    The function gets the axes as a tuple of numbers that are not negative.
    """

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Result]:
        name = function.__name__

        def reduction(x: Operand, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Result:
            x = resolve(x)
            if not isinstance(x, RowFeatures):
                (x,) = tensors_of(name, [x])
                return function(x, _checked_axis(name, x, axis, x.ndim), keepdims)
            if axis in (None, 0):
                if over_rows is None or keepdims:
                    what = f"does not go over rows{' with keepdims' * keepdims}"
                    raise ValueError(f"{name}: {describe(x)}: {what}; give an axis of the row, such as axis=-1")
                return over_rows(x)
            axis = _checked_axis(name, x, axis, 1 + len(x.row_shape))
            return of_rows(x, function(expand(x), axis, keepdims))

        return operation(dress(reduction, function, inspect.signature(reduction)))

    return decorate


def _checked_axis(name: str, x, axis, ndim: int) -> tuple[int, ...]:
    """The axes as numbers that are not negative, ascending."""
    named = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = [as_integer(a, f"{name}: axis", minimum=-ndim) for a in named]
    checked = sorted({a % ndim for a in axes if a < ndim})
    if len(checked) != len(axes):
        raise ValueError(f"{name}: {describe(x)} has no axis {axis!r}, or it is named twice")
    if isinstance(x, RowFeatures) and 0 in checked:
        raise ValueError(f"{name}: {describe(x)}: axis 0, the rows, cannot be taken together with others")
    return tuple(checked)


def _spread(gradient: np.ndarray, shape: tuple[int, ...], axis: tuple[int, ...]) -> np.ndarray:
    """The gradient of a sum over axes, whether they were kept or not, for each number that was added."""
    kept = [1 if a in axis else size for a, size in enumerate(shape)]
    return np.broadcast_to(gradient.reshape(kept), shape)


def _count(x: Tensor, axis: tuple[int, ...]):
    """How many numbers along the axes are reduced to one, in the Tensor's dtype."""
    return x.array.dtype.type(np.prod([x.shape[a] for a in axis]))


def _sum_over_rows(features: RowFeatures) -> Tensor:
    return multiply(mean_over_rows(features), rows_of_datasets(features))


@_reduction(_sum_over_rows)
def sum(x: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """The sum along axes; of features over the rows of each dataset, (B, P, C) or (B, N)."""

    def backward(gradient):
        return (_spread(gradient, x.shape, axis),)

    return Tensor(total(x.array, axis, keepdims=keepdims).astype(x.array.dtype), (x,), backward)


@_reduction(mean_over_rows)
def mean(x: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """The mean along axes; of features over the rows of each dataset, (B, P, C) or (B, N)."""
    number = _count(x, axis)

    def backward(gradient):
        return (_spread(np.asarray(gradient / number), x.shape, axis),)

    return Tensor((total(x.array, axis, keepdims=keepdims) / number).astype(x.array.dtype), (x,), backward)


@_reduction(var_over_rows)
def var(x: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """The variance along axes, divided by their length; of features over the rows of each dataset."""
    number = _count(x, axis)
    deviations = x.array - total(x.array, axis, keepdims=True) / number

    def backward(gradient):
        return ((_spread(np.asarray(gradient * (2 / number)), x.shape, axis) * deviations).astype(x.array.dtype),)

    squares = deviations * deviations
    return Tensor((total(squares, axis, keepdims=keepdims) / number).astype(x.array.dtype), (x,), backward)


@_reduction(max_over_rows)
def max(x: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
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
def logsumexp(x: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """log(sum(exp(x))) along axes, without overflow."""
    largest = x.array.max(axis=axis, keepdims=True)
    exponentials = np.exp(x.array - largest)
    sums = total(exponentials, axis, keepdims=True).astype(exponentials.dtype)
    out = largest + np.log(sums)

    def backward(gradient):
        return (_spread(gradient, x.shape, axis) * (exponentials / sums),)

    return Tensor(np.asarray(out if keepdims else out.squeeze(axis)), (x,), backward)
