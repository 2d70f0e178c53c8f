"""What operations take: Tensors, Parameters, features, arrays and numbers; and the list of the operations."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ..engine.features import RowFeatures, expand, of_rows, with_one_index, with_values
from ..engine.operators import OPERATIONS
from ..engine.parameters import Parameter, current
from ..engine.tensor import Leaf, Tensor

Operand = Any  # a Tensor, a Parameter, features, an array or a number
Result = Any  # features if an operand is features and the rows stay, else a Tensor
_P = ParamSpec("_P")
_R = TypeVar("_R")


def operation(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Enter an operation in the list that operators and NumPy functions are looked up in."""

    @functools.wraps(function)
    def call(*args: _P.args, **options: _P.kwargs) -> _R:
        return log_result(function.__name__, function(*args, **options))

    OPERATIONS[function.__name__] = call
    return call


def log_result(name: str, result: _R) -> _R:
    """Return what an operation computes; where the network that is computing keeps a log, write it there."""
    binding = current()
    if binding is not None and binding.log is not None and isinstance(result, Tensor):
        binding.log.append((name, result.array))
    return result


def elementwise(operands: int) -> Callable[[Callable[..., Tensor]], Callable[..., Result]]:
    """Let a function of so many Tensors take everything that operations take, and go through features row by row."""

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Result]:
        def aligned(*args, **options):
            if len(args) < operands:
                raise TypeError(f"{function.__name__} takes {operands} operands by position, got {len(args)}")
            tensors, finish = _align(function.__name__, args[:operands])
            return finish(function(*tensors, *args[operands:], **options))

        signature = inspect.signature(function)
        given = [p.replace(annotation=Operand) if p.annotation is Tensor else p for p in signature.parameters.values()]
        return operation(dress(aligned, function, signature.replace(parameters=given, return_annotation=Result)))

    return decorate


def dress(wrapper: Any, function: Callable, signature: inspect.Signature) -> Callable[..., Result]:
    """Give a wrapper the name and docstring of the function that it calls, and the signature that callers see."""
    functools.update_wrapper(wrapper, function)
    wrapper.__signature__ = signature
    return wrapper


def resolve(operand: Operand) -> Any:
    """The operand, or what stands for it in the network that is computing."""
    return operand.tensor() if isinstance(operand, Parameter) else operand


def tensors_of(name: str, operands: Iterable[Operand]) -> list[Tensor]:
    """Operands without features as Tensors of one dtype."""
    operands = [resolve(operand) for operand in operands]
    dtype = _dtype(name, [operand for operand in operands if isinstance(operand, Tensor)])
    return [_as_tensor(name, operand, dtype) for operand in operands]


def _dtype(name: str, tensors: list[Tensor]):
    trained = {tensor.array.dtype for tensor in tensors if tensor.needs_gradient}
    if len(trained) > 1:
        raise ValueError(f"{name}: Tensors of networks of different dtypes, {sorted(map(str, trained))}")
    floats = [tensor.array.dtype for tensor in tensors if tensor.array.dtype.kind == "f"]
    return next(iter(trained), floats[0] if floats else None)


def _as_tensor(name: str, operand, dtype) -> Tensor:
    if not isinstance(operand, Tensor):
        array = np.asarray(operand)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: takes Tensors, features, arrays of numbers and numbers, got {operand!r}")
        operand = Tensor(array if dtype is not None or array.dtype.kind == "f" else array.astype(np.float64))
    if dtype is None or operand.array.dtype == dtype:
        return operand
    return Tensor(operand.array.astype(dtype))


def tensor_of(name: str, operand: Operand) -> Tensor:
    """The one operand of an operation that takes no features here."""
    if isinstance(operand, RowFeatures):
        raise TypeError(f"{name}: takes Tensors, got {operand!r}; pool them first, with ops.max, for example")
    operand = resolve(operand)
    return operand if isinstance(operand, Tensor) else tensors_of(name, [operand])[0]


def _align(name: str, operands) -> tuple[list[Tensor], Callable]:
    """Tensors whose shapes broadcast, and a function that turns a result into what the operands were."""
    given_operands, operands = operands, [resolve(operand) for operand in operands]
    features = [operand for operand in operands if isinstance(operand, RowFeatures)]
    if not features:
        tensors = tensors_of(name, operands)
        check_broadcast(name, operands, [tensor.shape for tensor in tensors])
        return tensors, lambda result: result
    check_one_batch(name, features)
    if any(isinstance(given, Tensor) and not isinstance(given, Leaf) and given.ndim > 1 for given in given_operands):
        raise TypeError(
            f"{name}: {' and '.join(map(describe, operands))}: pooled numbers of datasets do not go together with "
            "features of rows; ops.to_rows(pooled, features) gives them to each row"
        )
    shapes = [shape_of(operand) for operand in operands]
    check_broadcast(name, operands, shapes)
    others = [len(shape_of(operand)) for operand in operands if not isinstance(operand, RowFeatures)]
    if max(others, default=0) <= 1 and (together := with_one_index(features)) is not None:
        data = all(feature.is_data for feature in features)
        values = _replace_features(operands, [feature.values for feature in together])
        return tensors_of(name, values), lambda result: with_values(together[0], result, data=data)
    ndim = max(len(shape) for shape in shapes)
    each = _replace_features(operands, [expand(feature, ndim) for feature in features])
    return tensors_of(name, each), lambda result: of_rows(features[0], result)


def _replace_features(operands: list, by: list) -> list:
    """The operands, with the items of `by` in place of the features."""
    features = iter(by)
    return [next(features) if isinstance(operand, RowFeatures) else operand for operand in operands]


def check_one_batch(name: str, features: list[RowFeatures]) -> None:
    """Raise an error if features are of the rows of different batches."""
    if any(other.offsets is not features[0].offsets for other in features):
        raise ValueError(f"{name}: features of different batches; combine features of one batch only")


def shape_of(operand: Operand) -> tuple[int, ...]:
    """The shape of an operand, of features that of a row."""
    if isinstance(operand, RowFeatures):
        return operand.row_shape
    return operand.shape if isinstance(operand, Tensor) else np.shape(operand)


def check_broadcast(name: str, operands: Iterable[Operand], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise an error that shows the operands if their shapes do not broadcast."""
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{name}: the shapes of {' and '.join(map(describe, operands))} do not broadcast") from None


def describe(operand: Operand) -> str:
    """What an operand is, with its shape and the letters of its axes."""
    if isinstance(operand, RowFeatures):
        letters = "N" if operand.flat_rows else "P, C"
        return f"features (rows, {letters}) = (rows, {', '.join(map(str, operand.row_shape))})"
    shape = shape_of(operand)
    letters = {2: " (B, N)", 3: " (B, P, C)"}.get(len(shape), "")
    return f"a Tensor{letters} = {shape}" if isinstance(operand, Tensor) else f"an array of shape {shape}"


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum a gradient over the axes along which an operand of this shape was repeated."""
    if gradient.shape == shape:
        return gradient
    leading = gradient.ndim - len(shape)
    repeated = [leading + axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[leading + axis] != 1]
    return total(gradient, (*range(leading), *repeated)).astype(gradient.dtype).reshape(shape)


def total(array: np.ndarray, axis: tuple[int, ...], *, keepdims: bool = False) -> np.ndarray:
    """A sum along axes in float64: NumPy adds in the dtype of the array, along its first axis one after another."""
    return np.asarray(array.sum(axis=axis, dtype=np.float64, keepdims=keepdims))
