"""Operations: functions from Tensors and row features to Tensors and row features, each with its backward.

Activations are fused into the layers as a floor: 0 is a ReLU, -inf none.
"""

from dataclasses import replace

import numpy as np

from .features import RowFeatures
from .kernels import conv as kernels
from .kernels import loss as loss_kernels
from .kernels import pool as pool_kernels
from .tensor import Tensor
from .workspace import empty, empty_like

RELU = 0.0
LINEAR = -np.inf

SPARSE = 0.1  # below this share of values with a gradient, going through them one by one beats the matrix product


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
    values, dtype = features.values, features.values.array.dtype
    windows = features.slide(width)
    matrix = weight.array.reshape(width * features.depth, -1)
    out = empty((len(windows.rows), matrix.shape[1]), dtype)
    kernels.conv_forward(values.array, windows.rows, _panels(matrix), bias.array, floor, out)

    def backward(gradient):
        masked, places, nonzero = empty_like(out), empty(out.shape, np.int32), empty((len(out),), np.int64)
        sums = empty((kernels.mask_blocks(len(out)), out.shape[1]), dtype)
        kernels.mask_gradient(np.ascontiguousarray(gradient), out, floor, masked, places, nonzero, sums)
        sparse = nonzero.sum() < SPARSE * out.size
        weight_gradient = empty((width, features.depth, out.shape[1]), dtype)
        if sparse:
            parts = empty((kernels.sparse_parts(matrix.size), *matrix.shape[::-1]), dtype)
            kernels.sparse_backward_weight(masked, places, nonzero, values.array, windows.rows, parts)
            kernels.add_parts(parts, weight_gradient.reshape(matrix.shape))
        else:
            active = np.flatnonzero(nonzero)
            kernels.backward_weight(_panels(masked, active), active, values.array, windows.rows, weight_gradient)
        values_gradient = None
        if values.needs_gradient:
            transposed = empty(matrix.shape[::-1], dtype)
            kernels.transpose(matrix, transposed)
            values_gradient = empty_like(values.array)
            if sparse:
                where = places, nonzero, windows.offsets, windows.rows
                kernels.sparse_backward_values(masked, *where, transposed, features.value_offsets, values_gradient)
            else:
                where = active, np.searchsorted(active, windows.offsets), windows.rows
                product = empty((len(active), width, features.depth), dtype)
                rows, zeros = active.astype(np.int32).reshape(-1, 1), np.zeros(len(matrix), dtype)
                flat = product.reshape(len(active), -1)
                kernels.conv_forward(masked, rows, _panels(transposed), zeros, LINEAR, flat)
                kernels.scatter_windows(product, *where, features.value_offsets, values_gradient)
        return values_gradient, weight_gradient.reshape(weight.shape), sums.sum(axis=0)

    return replace(
        features,
        values=Tensor(out, (values, weight, bias), backward),
        positions=features.positions - width + 1,
        index=windows.index,
        value_offsets=windows.offsets,
        is_data=False,
    )


def _panels(matrix: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The chosen rows of a matrix, or all, cut into panels of columns for the micro-kernel."""
    rows = np.arange(len(matrix)) if rows is None else rows
    width = kernels.panel_columns(matrix.shape[1], matrix.dtype)
    panels = empty((-(-matrix.shape[1] // width), len(rows), width), matrix.dtype)
    kernels.pack(matrix, rows, panels)
    return panels


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
        values_gradient = empty_like(values.array)
        pool_kernels.winners_backward(gradient, winners, features.value_offsets, values_gradient)
        return (values_gradient,)

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
