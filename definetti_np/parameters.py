"""The parameters of a network and their gradients: named views into two flat vectors."""

import math
from collections.abc import Iterable

import numpy as np

from .specs import LayerSpec
from .tensor import Parameter

WEIGHT_DEVIATION = 0.05
BIAS = 0.01


class Parameters:
    """Flat vectors ``weights`` and ``gradients`` (N,), and a Parameter of each name that views them."""

    def __init__(self, layers: Iterable[LayerSpec], dtype=np.float32):
        self._layers = tuple(layers)
        shapes = dict(pair for layer in self._layers for pair in layer.parameter_shapes())
        size = sum(math.prod(shape) for shape in shapes.values())
        self.weights = np.zeros(size, dtype)
        self.gradients = np.zeros(size, dtype)
        self.by_name: dict[str, Parameter] = {}
        start = 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            views = (flat[start:stop].reshape(shape) for flat in (self.weights, self.gradients))
            self.by_name[name] = Parameter(*views)
            start = stop

    def __getstate__(self):
        return self._layers, self.weights, self.gradients

    def __setstate__(self, state):
        """Build the views anew: a copy's Parameters must view the copy's vectors."""
        layers, weights, gradients = state
        self.__init__(layers, weights.dtype)
        self.weights[:], self.gradients[:] = weights, gradients

    def initialise(self, rng: np.random.Generator) -> None:
        """Draw weights from a truncated normal distribution and set biases, as the original does."""
        for name, parameter in self.by_name.items():
            if name.endswith(".bias"):
                parameter.array[...] = BIAS
            else:
                parameter.array[...] = WEIGHT_DEVIATION * truncated_normal(rng, parameter.shape)


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal deviates, those beyond two standard deviations drawn again (TensorFlow's truncated_normal)."""
    deviates = rng.standard_normal(shape)
    while (beyond := np.abs(deviates) > 2).any():
        deviates[beyond] = rng.standard_normal(beyond.sum())
    return deviates
