"""The parameters of a network and their gradients: named views into two flat vectors."""

import math
from collections.abc import Mapping

import numpy as np

from .tensor import Parameter


class Parameters:
    """Flat vectors ``weights`` and ``gradients`` (N,), and a Parameter of each name that views them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype=np.float32):
        self._shapes = dict(shapes)
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self.weights = np.zeros(size, dtype)
        self.gradients = np.zeros(size, dtype)
        self.by_name: dict[str, Parameter] = {}
        start = 0
        for name, shape in self._shapes.items():
            stop = start + math.prod(shape)
            views = (flat[start:stop].reshape(shape) for flat in (self.weights, self.gradients))
            self.by_name[name] = Parameter(*views)
            start = stop

    def __getstate__(self):
        return self._shapes, self.weights, self.gradients

    def __setstate__(self, state):
        """Build the views anew: a copy's Parameters must view the copy's vectors."""
        shapes, weights, gradients = state
        self.__init__(shapes, weights.dtype)
        self.weights[:], self.gradients[:] = weights, gradients
