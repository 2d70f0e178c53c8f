"""Operations: functions from Tensors and row features to Tensors and row features, each with its backward.

Activations are fused into the layers as a floor: 0 is a ReLU, -inf none.
"""

from dataclasses import replace

import numpy as np

from ..engine.features import RowFeatures
from ..engine.tensor import Tensor, as_dense
from ..engine.workspace import empty, empty_like
from ..kernels import loss as loss_kernels
from ..kernels import pool as pool_kernels
from .window_products import WindowGradient, WinnersGradient, multiply_windows

RELU = 0.0
LINEAR = -np.inf


def conv(features: RowFeatures, weight: Tensor, bias: Tensor, *, floor: float = RELU) -> RowFeatures:
    """Slide a window of height 1 over the positions of each row, without padding.

    weight (width, C, N), bias (N,): P positions of depth C become ``P - width + 1`` of depth N.
    """
    return _slide(features.spread(), weight.shape[0], weight, bias, floor)


def dense(features: RowFeatures, weight: Tensor, bias: Tensor, *, floor: float = RELU) -> RowFeatures:
    """Connect the whole flattened row, positions slowest, to N nodes: a window of full width.

    weight (P * C, N), bias (N,). The N nodes are one position of depth N until a convolution or a pooling asks for
    N positions of depth 1.
    """
    features = features.merged()
    return replace(_slide(features, features.positions, weight, bias, floor), dense=True)


def _slide(features: RowFeatures, width: int, weight: Tensor, bias: Tensor, floor: float) -> RowFeatures:
    """Multiply each distinct window of `width` positions with a weight that can be shaped (width * C, N)."""
    values = features.values
    windows = features.slide(width)
    matrix = weight.array.reshape(width * features.depth, -1)
    out = multiply_windows(values.array, windows, matrix, bias.array, floor)

    def backward(gradient):
        if isinstance(gradient, WinnersGradient) and gradient.is_sparse:
            gradient = gradient.before_floor(floor)
        else:
            gradient = WindowGradient.before_floor(as_dense(gradient), out, floor)
        to_values = gradient.to_values(matrix, windows, features.value_offsets) if values.needs_gradient else None
        return to_values, gradient.to_matrix(values.array, windows).reshape(weight.shape), gradient.to_bias()

    return replace(
        features,
        values=Tensor(out, (values, weight, bias), backward, takes_sparse=True),
        positions=features.positions - width + 1,
        index=windows.index,
        value_offsets=windows.offsets,
        is_data=False,
    )


def top_k(features: RowFeatures, k: int) -> RowFeatures:
    """The k largest values of each feature over the rows of each dataset, descending.

    Every dataset needs k rows at least, repeats counted. ``k = 1`` is the maximum, ``k = n`` sorts. The gradient goes
    to the rows that the values come from; among equal values to the first in canonical order.
    """
    values, index, offsets = features.values, features.rows_of_values(), features.offsets
    out = empty((len(offsets) - 1, k, *_feature_shape(features)), values.array.dtype)
    winners = empty(out.shape, np.int32)
    if k == 1:
        pool_kernels.max_forward(values.array, index, offsets, out, winners)
    else:
        pool_kernels.top_k_forward(values.array, index, features.counts, offsets, out, winners)

    def backward(gradient):
        return (WinnersGradient(gradient, out, winners, features.value_offsets),)

    return _pooled(features, out, backward)


def moments(features: RowFeatures, orders: tuple[float, ...]) -> RowFeatures:
    """The means of ``x ** m`` over the rows of each dataset, for each order m; ``0 ** m = 0`` with gradient 0."""
    values, index = features.values, features.rows_of_values()
    rows = index, features.counts, features.offsets, np.array(orders, np.float64)
    out = empty((len(features.offsets) - 1, len(orders), *_feature_shape(features)), values.array.dtype)
    pool_kernels.moments_forward(values.array, *rows, out)

    def backward(gradient):
        values_gradient = empty_like(values.array)
        pool_kernels.moments_backward(gradient, values.array, *rows, features.value_offsets, values_gradient)
        return (values_gradient,)

    return _pooled(features, out, backward)


def _feature_shape(features: RowFeatures) -> tuple[int, int]:
    return features.positions, features.depth


def _pooled(features: RowFeatures, out: np.ndarray, backward) -> RowFeatures:
    """Lay pooled values (B, K, P, C) out as P positions of depth K * C, one row per dataset."""
    datasets, k = out.shape[:2]
    positions, depth = (features.depth, 1) if features.dense else _feature_shape(features)
    by_pooled_index = (datasets, k, positions, depth)

    def backward_in_order(gradient):
        gradient = gradient.reshape(datasets, positions, k, depth).transpose(0, 2, 1, 3)
        return backward(np.ascontiguousarray(gradient).reshape(out.shape))

    by_position = out.reshape(by_pooled_index).transpose(0, 2, 1, 3)
    array = np.ascontiguousarray(by_position).reshape(datasets * positions, k * depth)
    return RowFeatures.of_datasets(Tensor(array, (features.values,), backward_in_order), positions)


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithms of the softmax of each row (B, N)."""
    out = np.empty_like(logits.array)
    loss_kernels.log_softmax_forward(logits.array, out)

    def backward(gradient):
        logits_gradient = np.empty_like(out)
        loss_kernels.log_softmax_backward(np.ascontiguousarray(gradient), out, logits_gradient)
        return (logits_gradient,)

    return Tensor(out, (logits,), backward)


def cross_entropy(log_probabilities: Tensor, labels: np.ndarray) -> Tensor:
    """The mean over B datasets of ``-sum(labels * log_probabilities)``; both (B, N)."""
    losses = np.empty(len(labels), log_probabilities.array.dtype)
    loss_kernels.cross_entropy_forward(log_probabilities.array, labels, losses)

    def backward(gradient):
        out = np.empty_like(labels)
        loss_kernels.cross_entropy_backward(np.full_like(losses, gradient / len(losses)), labels, out)
        return (out,)

    return Tensor(np.asarray(losses.mean()), (log_probabilities,), backward)


def squared_error(estimates: Tensor, labels: np.ndarray) -> Tensor:
    """The mean over B datasets of the summed squared error; both (B, N)."""
    losses = np.empty(len(labels), estimates.array.dtype)
    loss_kernels.squared_error_forward(estimates.array, labels, losses)

    def backward(gradient):
        out = np.empty_like(labels)
        means = np.full_like(losses, gradient / len(losses))
        loss_kernels.squared_error_backward(means, estimates.array, labels, out)
        return (out,)

    return Tensor(np.asarray(losses.mean()), (estimates,), backward)
