"""The same numbers in other shapes: joined, reshaped, reordered, indexed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine.features import RowFeatures, contiguous, expand, of_rows, with_one_index, with_values
from ..engine.tensor import Tensor, change_shape
from .operands import Operand, Result, check_one_batch, describe, operation, resolve, tensor_of, tensors_of


def _join(name: str, arrays, axis: int, join: Callable, *, new_axis: bool) -> Tensor | RowFeatures:
    """Apply a function of Tensors and an axis, one that is there or a new one, to Tensors or features."""
    if not isinstance(arrays, (list, tuple)) or not arrays:
        raise TypeError(f"{name}: takes a list of Tensors, got {arrays!r}")
    arrays = [resolve(array) for array in arrays]
    rows = [isinstance(array, RowFeatures) for array in arrays]
    if any(rows) != all(rows):
        what = ", ".join(map(describe, arrays))
        raise TypeError(f"{name}: features of rows and pooled Tensors do not go together: {what}; see ops.to_rows")
    if not rows[0]:
        return join(tensors_of(name, arrays), axis)
    first = arrays[0]
    check_one_batch(name, arrays)
    axes = 1 + len(first.row_shape) + new_axis
    if axis in (0, -axes):
        raise ValueError(f"{name}: features have no order of rows to follow; give an axis of the row, such as axis=-1")
    if not new_axis and axis in (-1, axes - 1) and (together := with_one_index(arrays)) is not None:
        return with_values(
            together[0], join([array.values for array in together], 1), data=all(a.is_data for a in arrays)
        )
    return of_rows(first, join([expand(array) for array in arrays], axis))


@operation
def concatenate(arrays: Sequence[Operand], axis: int = 0) -> Result:
    """Join along an axis that is there already."""

    def join(tensors, axis):
        try:
            out = np.concatenate([tensor.array for tensor in tensors], axis)
        except ValueError as error:
            what = " and ".join(map(describe, arrays))
            raise ValueError(f"concatenate: {what} along axis {axis}: {error}") from None
        ends = np.cumsum([tensor.shape[axis] for tensor in tensors])[:-1]

        def backward(gradient):
            return tuple(np.split(gradient, ends, axis))

        return Tensor(out, tuple(tensors), backward)

    return _join("concatenate", arrays, axis, join, new_axis=False)


@operation
def stack(arrays: Sequence[Operand], axis: int = 0) -> Result:
    """Join along a new axis."""

    def join(tensors, axis):
        if len({tensor.shape for tensor in tensors}) > 1:
            raise ValueError(f"stack: {' and '.join(map(describe, arrays))}: the shapes must be equal")
        out = np.stack([tensor.array for tensor in tensors], axis)

        def backward(gradient):
            return tuple(np.moveaxis(gradient, axis, 0))

        return Tensor(out, tuple(tensors), backward)

    return _join("stack", arrays, axis, join, new_axis=True)


@operation
def reshape(x: Operand, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in another shape; one of its numbers may be -1."""
    x = tensor_of("reshape", x)
    try:
        return change_shape(x, shape)
    except ValueError:
        raise ValueError(f"reshape: {describe(x)} cannot have shape {shape}") from None


@operation
def flatten(x: Operand) -> Result:
    """All of a dataset along one axis, (B, P, C) to (B, P * C); of features all of a row."""
    x = resolve(x)
    if isinstance(x, RowFeatures):
        each = expand(x)
        return of_rows(x, reshape(each, (each.shape[0], -1)), data=x.is_data)
    x = tensor_of("flatten", x)
    return reshape(x, (x.shape[0], -1))


@operation
def transpose(x: Operand, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order, reversed for None."""
    x = tensor_of("transpose", x)
    axes = tuple(range(x.ndim))[::-1] if axes is None else axes
    try:
        out = x.array.transpose(axes)
    except ValueError:
        raise ValueError(f"transpose: {describe(x)} has no such axes: {axes}") from None
    return Tensor(out, (x,), lambda gradient: (gradient.transpose(np.argsort([a % x.ndim for a in axes])),))


@operation
def getitem(x: Operand, key: Any) -> Result:
    """x[key] with slices, integers, `...` and None; of features `x[:, ...]`, where the rows stay as they are."""
    x = resolve(x)
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
        raise IndexError(
            f"{describe(x)}: the rows of a dataset have no order: the first index must be ':', got {key!r}"
        )
    if x.index is not None and len(full) == 3 and all(isinstance(k, slice) for k in full):
        index = np.ascontiguousarray(x.index[:, full[1]])  # the values stay as distinct as they are
        values = contiguous(_getitem(x.values, full[::2]))
        if index.size and values.array.size:
            return replace(x, values=values, index=index, positions=index.shape[1])
    return of_rows(x, _getitem(expand(x), full), data=x.is_data)


def _getitem(x: Tensor, keys: tuple) -> Tensor:
    try:
        out = np.asarray(x.array[keys])
    except IndexError as error:
        raise IndexError(f"{describe(x)}: {error}") from None

    def backward(gradient):
        x_gradient = np.zeros_like(x.array)
        x_gradient[keys] = gradient
        return (x_gradient,)

    return Tensor(out, (x,), backward)
