"""Features at common places: from distinct values to one value per row and position, and back."""

from dataclasses import replace

import numpy as np

from ..engine.features import RowFeatures
from ..engine.tensor import Tensor
from ..engine.workspace import empty_like
from ..kernels import conv as kernels


def reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in another shape."""
    return Tensor(tensor.array.reshape(shape), (tensor,), lambda gradient: (gradient.reshape(tensor.shape),))


def contiguous(tensor: Tensor) -> Tensor:
    """The Tensor in the order of memory that kernels take."""
    if tensor.array.flags.c_contiguous:
        return tensor
    return Tensor(np.ascontiguousarray(tensor.array), (tensor,), lambda gradient: (gradient,))


def with_values(features: RowFeatures, values: Tensor, *, data: bool = False) -> RowFeatures:
    """The same places with other values; rows of data are still to be searched for repeats if nothing is trained."""
    return replace(features, values=contiguous(values), is_data=data and not values.needs_gradient)


def _gathered(features: RowFeatures, index: np.ndarray, offsets: np.ndarray) -> Tensor:
    """The values at an index (D, K), in its order, (D * K, C); dataset b has the rows from ``offsets[b]`` on."""
    values = features.values

    def backward(gradient):
        out = empty_like(values.array)
        gradient = np.ascontiguousarray(gradient).reshape(*index.shape, values.shape[1])
        kernels.scatter_windows(gradient, np.arange(len(index)), offsets, index, features.value_offsets, out)
        return (out,)

    return Tensor(values.array[index.reshape(-1)], (values,), backward)


def expanded(features: RowFeatures, ndim: int = 0) -> Tensor:
    """Features of U distinct rows as a Tensor (U, P, C) or (U, N), with axes of 1 after U up to 1 + `ndim`."""
    shape = len(features.counts), *features.row_shape
    shape = shape[:1] + (1,) * (1 + ndim - len(shape)) + shape[1:]
    if features.index is None:
        return reshaped(features.values, shape)
    return reshaped(_gathered(features, features.index, features.offsets), shape)


def met(features: list[RowFeatures]) -> list[RowFeatures] | None:
    """The features with one index for all, so that each distinct combination of values is there once a dataset.

    None if their rows have different numbers of positions, or the combinations hardly repeat.
    """
    first = features[0]
    if any(other.positions != first.positions or other.dense != first.dense for other in features):
        return None
    if all(other.index is first.index for other in features):
        return features
    indices = [_numbered(feature) for feature in features]
    combinations = np.stack(indices, axis=2).reshape(-1, len(features)).view(np.float32)
    windows = replace(first, values=Tensor(combinations), index=None, is_data=True).slide(1)
    if windows.index is None:
        return None
    cells = windows.rows[:, 0]
    out = []
    for feature in features:
        index = feature.rows_of_values().reshape(-1)[cells].reshape(-1, 1)
        values = _gathered(feature, index, windows.offsets)
        out.append(replace(feature, values=values, index=windows.index, value_offsets=windows.offsets, is_data=False))
    return out


def _numbered(features: RowFeatures) -> np.ndarray:
    """Numbers (U, P) int32 that are equal only where features of a dataset are; of data wherever they are."""
    windows = features.slide(1) if features.is_data else None
    return features.rows_of_values() if windows is None or windows.index is None else windows.index


def of_rows(features: RowFeatures, tensor: Tensor, *, data: bool = False) -> RowFeatures:
    """A Tensor (U, P, C) or (U, N) as features of the same rows."""
    if tensor.ndim not in (2, 3) or tensor.array.size == 0:
        raise ValueError(
            f"features of a row have shape (P, C) or (N,), and are not empty; this gives {tensor.shape[1:]}"
        )
    if len(tensor.array) != len(features.counts):
        raise ValueError(f"features of {len(features.counts)} rows cannot become those of {len(tensor.array)}")
    positions = tensor.shape[1] if tensor.ndim == 3 else 1
    values = reshaped(contiguous(tensor), (-1, tensor.shape[-1]))
    offsets = features.offsets * positions
    changed = {"positions": positions, "index": None, "value_offsets": offsets, "dense": tensor.ndim == 2}
    return replace(features, values=values, is_data=data and not values.needs_gradient, **changed)


def of_datasets(tensor: Tensor) -> RowFeatures:
    """A Tensor (B, P, C) or (B, N) as features with one row per dataset."""
    positions = tensor.shape[1] if tensor.ndim == 3 else 1
    values = reshaped(contiguous(tensor), (-1, tensor.shape[-1]))
    return replace(RowFeatures.of_datasets(values, positions), dense=tensor.ndim == 2)


def to_datasets(features: RowFeatures) -> Tensor:
    """Undo `of_datasets`."""
    return reshaped(features.values, (len(features.counts), *features.row_shape))
