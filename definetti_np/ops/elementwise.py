"""Arithmetic, and functions of each number."""

import numbers
from collections.abc import Callable

import numpy as np

from ..engine.parameters import current
from ..engine.tensor import Tensor
from .operands import elementwise, unbroadcast


@elementwise(2)
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""

    def backward(gradient):
        return unbroadcast(gradient, x.shape), unbroadcast(gradient, y.shape)

    return Tensor(np.asarray(x.array + y.array), (x, y), backward)


@elementwise(2)
def subtract(x: Tensor, y: Tensor) -> Tensor:
    """x - y."""

    def backward(gradient):
        return unbroadcast(gradient, x.shape), unbroadcast(-gradient, y.shape)

    return Tensor(np.asarray(x.array - y.array), (x, y), backward)


@elementwise(2)
def multiply(x: Tensor, y: Tensor) -> Tensor:
    """x * y."""

    def backward(gradient):
        return unbroadcast(gradient * y.array, x.shape), unbroadcast(gradient * x.array, y.shape)

    return Tensor(np.asarray(x.array * y.array), (x, y), backward)


@elementwise(2)
def divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y."""
    out = np.asarray(x.array / y.array)

    def backward(gradient):
        to_x = gradient / y.array
        return unbroadcast(to_x, x.shape), unbroadcast(-to_x * out, y.shape)

    return Tensor(out, (x, y), backward)


@elementwise(2)
def power(x: Tensor, y: Tensor) -> Tensor:
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
def negative(x: Tensor) -> Tensor:
    """-x."""
    return Tensor(-x.array, (x,), lambda gradient: (-gradient,))


@elementwise(1)
def relu(x: Tensor) -> Tensor:
    """max(x, 0); the gradient at 0 is 0."""
    out = np.maximum(x.array, 0)
    return Tensor(out, (x,), lambda gradient: (gradient * (out > 0),))


@elementwise(1)
def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x where x > 0, else slope * x."""
    slopes = np.where(x.array > 0, 1, slope).astype(x.array.dtype)
    return Tensor(x.array * slopes, (x,), lambda gradient: (gradient * slopes,))


@elementwise(1)
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    out = np.tanh(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient * (1 - out * out),))


@elementwise(1)
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    out = _sigmoid(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient * out * (1 - out),))


def _sigmoid(array: np.ndarray) -> np.ndarray:
    half = array.dtype.type(0.5)
    return half + half * np.tanh(half * array)  # cannot overflow


@elementwise(1)
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x))."""
    out = np.logaddexp(x.array, x.array.dtype.type(0))
    return Tensor(out, (x,), lambda gradient: (gradient * _sigmoid(x.array),))


@elementwise(1)
def exp(x: Tensor) -> Tensor:
    """e ** x."""
    out = np.exp(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient * out,))


@elementwise(1)
def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return Tensor(np.log(x.array), (x,), lambda gradient: (gradient / x.array,))


@elementwise(1)
def sqrt(x: Tensor) -> Tensor:
    """The square root; its gradient at 0 is infinite."""
    out = np.sqrt(x.array)
    return Tensor(out, (x,), lambda gradient: (gradient / (2 * out),))


@elementwise(1)
def abs(x: Tensor) -> Tensor:
    """|x|; the gradient at 0 is 0."""
    return Tensor(np.abs(x.array), (x,), lambda gradient: (gradient * np.sign(x.array),))


@elementwise(1)
def clip(x: Tensor, a_min: float | None = None, a_max: float | None = None) -> Tensor:
    """x moved into the range from a_min to a_max; the gradient outside is 0."""
    inside = np.ones(x.shape, bool)
    if a_min is not None:
        inside &= x.array >= a_min
    if a_max is not None:
        inside &= x.array <= a_max
    out = np.clip(x.array, a_min, a_max).astype(x.array.dtype, copy=False)
    return Tensor(out, (x,), lambda gradient: (gradient * inside,))


@elementwise(3)
def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x where the condition holds, else y; the condition gets no gradient."""
    holds = condition.array != 0

    def backward(gradient):
        zero = np.zeros((), gradient.dtype)
        to_x, to_y = np.where(holds, gradient, zero), np.where(holds, zero, gradient)
        return unbroadcast(to_x, x.shape), unbroadcast(to_y, y.shape)

    return Tensor(np.where(holds, x.array, y.array), (x, y), backward)


@elementwise(1)
def constant(x: Tensor) -> Tensor:
    """The same numbers, to which no gradient is sent."""
    return Tensor(x.array)


@elementwise(1)
def dropout(x: Tensor, rate: float, rng: np.random.Generator) -> Tensor:
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
    def compare(x: Tensor, y: Tensor) -> Tensor:
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
