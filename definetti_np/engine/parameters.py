"""Parameters: declared by layers, drawn and named when a network is built, held in two flat vectors.

Layers and Parameters are declarations: a network binds arrays of its own to them while it computes.
"""

import contextlib
import math
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..checks import as_integer
from .operators import Arithmetic
from .tensor import Leaf, Tensor

RESERVED_NAMES = ("header", "file", "allow_pickle")
INITIAL_DEVIATION = 0.05  # of weights, as in the original
INITIAL_BIAS = 0.01

Key = tuple[Hashable, str]  # (owner, role) of a parameter

_current = threading.local()


class Parameter(Arithmetic):
    """An array that is trained, for use in a network function, where it behaves as a Tensor.

    Like a layer it holds no numbers: each network has its own.

    Parameters
    ----------
    initial
        The initial values, an array or a number; or a tuple, the shape of an array whose values are drawn as those
        of weights are.
    name
        The name it is saved under; None for "parameter.0", by order of first use.
    """

    kind = "parameter"

    def __init__(self, initial: ArrayLike, name: str | None = None):
        self.name = check_name(name)
        if name in RESERVED_NAMES:
            raise ValueError(
                f"name of a Parameter must be none of {RESERVED_NAMES}, which model files use, got {name!r}"
            )
        if isinstance(initial, tuple):
            self.shape = tuple(as_integer(d, f"initial[{i}] of a Parameter", minimum=1) for i, d in enumerate(initial))
            self._values = None
        else:
            self._values = np.array(initial, np.float64)
            self.shape = self._values.shape
            if not np.isfinite(self._values).all():
                raise ValueError(f"initial of a Parameter must be finite, got {initial!r}")

    def tensor(self) -> Tensor:
        """The Tensor that stands for it in the network that is computing."""
        return binding_of(self).tensor(self, "", self.shape, self._draw)

    def _draw(self, rng, shape):
        return draw_weight(rng, shape) if self._values is None else self._values

    def __repr__(self):
        return f"Parameter of shape {self.shape}" + (f" named {self.name!r}" if self.name else "")


class Binding:
    """The Tensors that stand for the parameters of a network while it computes.

    Attributes
    ----------
    tensors
        By (owner, role), such as (a layer, "weight").
    training
        Whether this is a step of training: then dropout drops.
    used
        The keys of the parameters that were used.
    log
        None, or a list to which each operation adds its name and the array of the Tensor that it computes.
    """

    def __init__(self, tensors: dict[Key, Tensor], *, training: bool = False, log: list | None = None):
        self.tensors = tensors
        self.training = training
        self.used: set[Key] = set()
        self.log = log

    @contextlib.contextmanager
    def active(self) -> Iterator[Self]:
        """Let layers and Parameters find their Tensors here, in this thread."""
        outer = getattr(_current, "binding", None)
        _current.binding = self
        try:
            yield self
        finally:
            _current.binding = outer

    def tensor(self, owner: Any, role: str, shape: tuple[int, ...], initial: Callable) -> Tensor:
        """The Tensor of a parameter."""
        tensor = self.tensors.get((owner, role))
        if tensor is None:
            tensor = self.missing(owner, role, shape, initial)
        if tensor.array.shape != shape:
            raise ValueError(f"{owner!r}: its {role or 'array'} has shape {tensor.shape}, this input needs {shape}")
        self.used.add((owner, role))
        return tensor

    def missing(self, owner: Any, role: str, shape: tuple[int, ...], initial: Callable) -> Tensor:
        """Say that a network function uses another layer or Parameter than before."""
        raise ValueError(
            f"network_function changes its parameters between calls: {owner!r} was not used when it was traced. Create "
            "layers and Parameters once, outside of the function, and use all of them in every call"
        )

    def count_features(self, row_shape: tuple[int, ...]) -> None:
        """Take note of the shape of the features that a layer computes of each row; only a `Tracer` adds them up."""


class Tracer(Binding):
    """Draws each parameter when it is used for the first time, and names it; without a generator it is zero.

    Attributes
    ----------
    names
        The names of the parameters, by (owner, role), in order of first use.
    features_per_row
        The number of values that layers compute of one row.
    """

    def __init__(self, rng: np.random.Generator | None, dtype: DTypeLike):
        super().__init__({})
        self.names: dict[Key, str] = {}
        self.features_per_row = 0
        self._owners: dict[Hashable, str] = {}
        self._rng, self._dtype = rng, dtype

    def missing(self, owner: Any, role: str, shape: tuple[int, ...], initial: Callable) -> Tensor:
        """Draw a parameter."""
        if owner not in self._owners:
            name = owner.name or f"{owner.kind}.{len(self._owners)}"
            if name in self._owners.values():
                raise ValueError(f"two layers or Parameters are named {name!r}; give them different names")
            self._owners[owner] = name
        name = f"{self._owners[owner]}.{role}" if role else self._owners[owner]
        if name in self.names.values():
            raise ValueError(f"two parameters are named {name!r}; give their layers different names")
        self.names[owner, role] = name
        undrawn = self._rng is None
        array = np.zeros(shape, self._dtype) if undrawn else np.array(initial(self._rng, shape), self._dtype)
        self.tensors[owner, role] = Tensor(array)
        return self.tensors[owner, role]

    def count_features(self, row_shape: tuple[int, ...]) -> None:
        """Add up what layers compute of one row."""
        self.features_per_row += math.prod(row_shape)


def current() -> Binding | None:
    """The binding in use in this thread."""
    return getattr(_current, "binding", None)


def binding_of(owner: Any) -> Binding:
    """The binding of the network that is computing, in which a layer or Parameter has numbers."""
    binding = current()
    if binding is None:
        raise RuntimeError(
            f"{owner!r} has numbers only while a network computes: use it in a function that you give to "
            "train(network_function=...) or Network.from_function"
        )
    return binding


def check_name(name: Any) -> str | None:
    """Return the name of a layer or Parameter if it is one that a model file can hold."""
    if name is not None and (not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.]+", name)):
        raise ValueError(f"name must consist of Latin letters, digits, '_' and '.', got {name!r}")
    return name


class FlatParameters:
    """Flat vectors ``weights`` and ``gradients`` (N,), and a Leaf of each name that views them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike = np.float32):
        self._shapes = dict(shapes)
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self.weights = np.zeros(size, dtype)
        self.gradients = np.zeros(size, dtype)
        self.by_name: dict[str, Leaf] = {}
        start = 0
        for name, shape in self._shapes.items():
            stop = start + math.prod(shape)
            views = (flat[start:stop].reshape(shape) for flat in (self.weights, self.gradients))
            self.by_name[name] = Leaf(*views)
            start = stop

    def __getstate__(self):
        return self._shapes, self.weights, self.gradients

    def __setstate__(self, state):
        """Build the views anew: a copy's leaves must view the copy's vectors."""
        shapes, weights, gradients = state
        FlatParameters.__init__(self, shapes, weights.dtype)
        self.weights[:], self.gradients[:] = weights, gradients


def draw_weight(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from a normal distribution of standard deviation 0.05, truncated at two standard deviations."""
    return INITIAL_DEVIATION * truncated_normal(rng, shape)


def constant_bias(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """0.01 each."""
    return np.full(shape, INITIAL_BIAS)


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal deviates, those beyond two standard deviations drawn again (TensorFlow's truncated_normal)."""
    deviates = rng.standard_normal(shape)
    while (beyond := np.abs(deviates) > 2).any():
        deviates[beyond] = rng.standard_normal(beyond.sum())
    return deviates
