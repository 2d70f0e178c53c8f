"""Convolutions of height 1 and dense layers: products of windows with a weight, forward and backward.

A dense layer is a window of full width. The gradients are in window_products.py: conv_backward_weight and
conv_backward_values of all windows, or of the few that win a maximum.
"""

from dataclasses import replace

import numpy as np

from ..checks import check_width
from ..engine.features import RowFeatures, Windows
from ..engine.tensor import Tensor, as_array, change_shape
from .operands import Operand, Result, check_broadcast, describe, operation, resolve, shape_of, tensors_of, unbroadcast
from .shapes import getitem
from .window_products import WindowGradient, WinnersGradient, multiply_windows

# An activation that is computed together with the product: the least value that the product may have.
RELU = 0.0
LINEAR = -np.inf


@operation
def conv(x: Operand, weight: Operand, bias: Operand = None) -> Result:
    """Slide a window over the positions, without padding: (.., P, C) to (.., P - width + 1, N); N nodes are (N, 1).

    x are features or (B, P, C) or (B, N); weight (width, C, N), bias (N,).
    """
    x, weight, bias = _operands("conv", x, weight, bias)
    positions, channels = (*_row_shape(x), 1)[:2]
    if weight.ndim == 3 and weight.shape[1] == channels:
        check_width(weight.shape[0], positions, f"conv: weight {weight.shape}")
        if _fits(weight, bias):
            return conv_layer(x, weight, bias, LINEAR)
    raise _misfit("conv", x, weight, "(width, C, N)", bias)


@operation
def dense(x: Operand, weight: Operand, bias: Operand = None) -> Result:
    """Connect all of a row, or of a dataset, to N nodes: (.., P, C) to (.., N), positions slowest.

    x are features or (B, P, C) or (B, N); weight (P * C, N), bias (N,).
    """
    x, weight, bias = _operands("dense", x, weight, bias)
    if weight.ndim == 2 and weight.shape[0] == np.prod(_row_shape(x)) and _fits(weight, bias):
        return dense_layer(x, weight, bias, LINEAR)
    raise _misfit("dense", x, weight, "(P * C or N, nodes)", bias)


def conv_layer(x: Tensor | RowFeatures, weight: Tensor, bias: Tensor, floor: float) -> Tensor | RowFeatures:
    """`conv` of operands that fit together; every number of the result is at least `floor`."""
    width, _, nodes = weight.array.shape
    if isinstance(x, RowFeatures):
        return _slide(x.spread(), width, weight, bias, floor)
    datasets, positions = x.array.shape[:2]
    each = np.arange(datasets + 1)
    windows = Windows.all_of(None, datasets, positions, width, each)
    shape = datasets, positions - width + 1, nodes
    return multiply(x, windows, each * positions, weight, bias, floor, shape)


def dense_layer(x: Tensor | RowFeatures, weight: Tensor, bias: Tensor, floor: float) -> Tensor | RowFeatures:
    """`dense` of operands that fit together; every number of the result is at least `floor`."""
    if isinstance(x, RowFeatures):
        x = x.merge_positions()
        return replace(_slide(x, x.positions, weight, bias, floor), flat_rows=True)
    datasets = len(x.array)
    each = np.arange(datasets + 1)
    windows = Windows.all_of(None, datasets, 1, 1, each)
    return multiply(x, windows, each, weight, bias, floor, (datasets, weight.array.shape[1]))


def _slide(features: RowFeatures, width: int, weight: Tensor, bias: Tensor, floor: float) -> RowFeatures:
    """Compute each distinct window of `width` positions of rows once."""
    windows = features.slide(width)
    shape = len(windows.rows), weight.array.shape[-1]
    return RowFeatures(
        multiply(features.values, windows, features.value_offsets, weight, bias, floor, shape),
        features.positions - width + 1,
        features.counts,
        features.offsets,
        windows.index,
        windows.offsets,
    )


def multiply(
    x: Tensor,
    windows: Windows,
    value_offsets: np.ndarray,
    weight: Tensor,
    bias: Tensor,
    floor: float,
    shape: tuple[int, ...],
) -> Tensor:
    """``max(floor, bias + window @ weight)`` of each window of the values in x, (D, N), as a Tensor of this shape.

    x can be shaped (V, C), one value after another, and weight (width * C, N); value_offsets (B + 1,) are the values
    of each dataset.
    """
    dtype, width = weight.array.dtype, windows.rows.shape[1]
    matrix = np.ascontiguousarray(weight.array.reshape(-1, weight.array.shape[-1]))
    values = np.ascontiguousarray(x.array.reshape(-1, len(matrix) // width), dtype)
    out = multiply_windows(values, windows, matrix, np.ascontiguousarray(bias.array), floor)

    def backward(gradient):
        if isinstance(gradient, WinnersGradient) and gradient.is_sparse:
            gradient = gradient.before_floor(floor)
        else:
            gradient = WindowGradient.before_floor(as_array(gradient).reshape(out.shape), out, floor)
        to_x = None
        if x.needs_gradient:
            to_x = gradient.conv_backward_values(matrix, windows, value_offsets).reshape(x.array.shape)
        to_weight = gradient.conv_backward_weight(values, windows).reshape(weight.array.shape)
        return to_x, to_weight, gradient.conv_backward_bias()

    return Tensor(out.reshape(shape), (x, weight, bias), backward, takes_sparse=True)


@operation
def matmul(x: Operand, y: Operand) -> Result:
    """x @ y, as `numpy.matmul`: (..., N) @ (N, M) is (..., M); of features (rows, P, C) @ (C, M) is (rows, P, M)."""
    x, y = resolve(x), resolve(y)
    if isinstance(x, RowFeatures):
        _check_factors(x, y, y_axes=(2,))
        y = tensors_of("matmul", [x.values, y])[1]
        return dense(x, y) if x.flat_rows else conv(x, change_shape(y, (1, *y.shape)))
    if isinstance(y, RowFeatures):
        raise TypeError(f"matmul: {describe(y)} can only be the first factor")
    x, y = tensors_of("matmul", [x, y])
    _check_factors(x, y, y_axes=range(1, 32))
    if x.ndim == 1:
        return getitem(
            matmul(change_shape(x, (1, -1)), y), (Ellipsis, 0) if y.ndim == 1 else (Ellipsis, 0, slice(None))
        )
    if y.ndim == 1:
        return getitem(matmul(x, change_shape(y, (-1, 1))), (Ellipsis, 0))
    if y.ndim == 2:
        return change_shape(dense(change_shape(x, (-1, x.shape[-1])), y), (*x.shape[:-1], y.shape[1]))
    return _matmul_of_stacks(x, y)


def _check_factors(x, y, y_axes) -> None:
    x_shape, y_shape = shape_of(x), shape_of(y)
    if len(y_shape) not in y_axes or not x_shape or x_shape[-1] != y_shape[-2:][0]:
        raise ValueError(
            f"matmul: {describe(x)} and {describe(y)}: the last axis of the first must be the second's first"
        )


def _matmul_of_stacks(x: Tensor, y: Tensor) -> Tensor:
    """(..., L, N) @ (..., N, M); `einsum` adds up in an order that does not depend on threads, as BLAS's may."""
    check_broadcast("matmul", (x, y), (x.shape[:-2], y.shape[:-2]))

    def backward(gradient):
        to_x = np.einsum("...lm,...nm->...ln", gradient, y.array)
        return unbroadcast(to_x, x.shape), unbroadcast(np.einsum("...ln,...lm->...nm", x.array, gradient), y.shape)

    return Tensor(np.einsum("...ln,...nm->...lm", x.array, y.array), (x, y), backward)


def _operands(name: str, x, weight, bias):
    """x as features or a Tensor (B, P, C) or (B, N), weight and bias as Tensors of the same dtype."""
    x = resolve(x)
    if isinstance(x, RowFeatures):
        values, weight = tensors_of(name, [x.values, weight])
        x = replace(x, values=values)
    else:
        x, weight = tensors_of(name, [x, weight])
        if x.ndim not in (2, 3) or x.array.size == 0:
            raise ValueError(f"{name}: x must be features or a Tensor (B, P, C) or (B, N), got {describe(x)}")
    bias = np.zeros(weight.shape[-1:]) if bias is None else bias
    return x, weight, tensors_of(name, [weight, bias])[1]


def _row_shape(x: RowFeatures | Tensor) -> tuple[int, ...]:
    """The shape of each row or dataset: (P, C) or (N,)."""
    return x.row_shape if isinstance(x, RowFeatures) else x.shape[1:]


def _fits(weight: Tensor, bias: Tensor) -> bool:
    return bias.shape == weight.shape[-1:] and weight.array.size > 0


def _misfit(name: str, x, weight: Tensor, letters: str, bias: Tensor) -> ValueError:
    what = f"{describe(x)}, weight {letters} = {weight.shape} and bias {bias.shape}"
    return ValueError(f"{name}: {what} do not fit together")
