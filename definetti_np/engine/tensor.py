"""Tensors: arrays that remember what they were computed from, so that a gradient can be sent back."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .operators import Arithmetic


class Tensor(Arithmetic):
    """An array, the Tensors it was computed from, and a closure that sends a gradient back to them.

    ``backward(gradient)`` gets the gradient of the loss with respect to ``array`` and returns one gradient per parent,
    or None for a parent that needs none. A gradient is an array, or an object that makes one with ``as_array()``; only
    a Tensor that `takes_sparse` gets such an object.
    """

    __slots__ = ("array", "backward", "gradient", "needs_gradient", "parents", "takes_sparse")

    def __init__(
        self,
        array: np.ndarray,
        parents: tuple["Tensor", ...] = (),
        backward: Callable | None = None,
        *,
        takes_sparse: bool = False,
    ):
        self.array = array
        self.takes_sparse = takes_sparse
        self.gradient: np.ndarray | None = None
        self.needs_gradient = False
        for parent in parents:
            if parent.needs_gradient:
                self.needs_gradient = True
        self.parents = parents if self.needs_gradient else ()
        self.backward: Any = backward if self.needs_gradient else None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __repr__(self) -> str:
        return f"Tensor of shape {self.shape} and dtype {self.array.dtype}"


class Leaf(Tensor):
    """A Tensor that is trained: its array and its gradient are views into a network's flat vectors."""

    __slots__ = ()
    gradient: np.ndarray

    def __init__(self, array: np.ndarray, gradient: np.ndarray):
        super().__init__(array)
        self.gradient = gradient
        self.needs_gradient = True


def change_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers in another shape."""
    return Tensor(tensor.array.reshape(shape), (tensor,), lambda gradient: (gradient.reshape(tensor.shape),))


def backpropagate(tensor: Tensor, gradient: np.ndarray) -> None:
    """Send the gradient with respect to `tensor` back, and write it to every Leaf on the way.

    Raises
    ------
    ValueError
        If a gradient has another shape or dtype than the array it belongs to.
    """
    pending = {id(tensor): gradient}
    for node in reversed(_in_order(tensor)):
        gradient = pending.pop(id(node))
        if not node.takes_sparse:
            gradient = as_array(gradient)
        array = node.array
        if gradient.shape != array.shape or gradient.dtype != array.dtype:
            raise ValueError(
                f"gradient of shape {gradient.shape} and dtype {gradient.dtype} for an array of shape "
                f"{array.shape} and dtype {array.dtype}"
            )
        if isinstance(node, Leaf):
            node.gradient[...] = gradient
            continue
        for parent, parent_gradient in zip(node.parents, node.backward(gradient), strict=True):
            if parent.needs_gradient:
                known = pending.get(id(parent))
                both = parent_gradient if known is None else as_array(known) + as_array(parent_gradient)
                pending[id(parent)] = both


def as_array(gradient: Any) -> np.ndarray:
    """The gradient as an array; arithmetic with arrays of one number gives NumPy numbers."""
    return np.asarray(gradient) if isinstance(gradient, (np.ndarray, np.generic)) else gradient.as_array()


def _in_order(tensor: Tensor) -> list[Tensor]:
    """The Tensors that need a gradient, parents before children."""
    order, seen, stack = [], set(), [(tensor, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif node.needs_gradient and id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            for parent in node.parents:
                stack.append((parent, False))
    return order
