"""Layers with parameters, for network functions; the layer lists are built of them too.

A layer is a declaration: it is created once, outside of the function, and its parameters are drawn when a network uses
it for the first time, with sizes that fit its input. Each network has numbers of its own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from . import ops
from .checks import as_integer, check_width
from .engine.features import RowFeatures
from .engine.parameters import Parameter, binding_of, check_name, constant_bias, draw_weight
from .engine.tensor import Tensor
from .ops.dense_conv import LINEAR, RELU, conv_layer, dense_layer
from .ops.operands import log_result

__all__ = ["Conv", "Dense", "Parameter", "Sequential"]


class _Layer:
    """A weight, a bias and an activation; a ReLU is computed together with the product."""

    kind: ClassVar[str]
    _sizes: ClassVar[tuple[str, ...]]

    def __init__(self, activation: Callable | None, name: str | None):
        if activation is not None and not callable(activation):
            raise TypeError(f"activation must be a function such as ops.relu, or None, got {activation!r}")
        self.activation = activation
        self.name = check_name(name)

    def parameters(self, weight_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The weight and the bias in the network that is computing."""
        binding = binding_of(self)
        weight = binding.tensor(self, "weight", weight_shape, draw_weight)
        return weight, binding.tensor(self, "bias", weight_shape[-1:], constant_bias)

    def _apply(self, operation: Callable, x, weight_shape: tuple[int, ...]):
        floor = RELU if self.activation is ops.relu else LINEAR
        out = operation(x, *self.parameters(weight_shape), floor)
        if isinstance(out, RowFeatures):
            binding_of(self).count_features(out.row_shape)
        else:
            log_result(self.kind, out)
        return out if self.activation in (None, ops.relu) else self.activation(out)

    def __repr__(self) -> str:
        sizes = [str(getattr(self, size)) for size in self._sizes]
        return f"{type(self).__name__}({', '.join(sizes + [f'name={self.name!r}'] * (self.name is not None))})"


class Conv(_Layer):
    """Slide a window over the positions: features (rows, P, C) become (rows, P - width + 1, channels).

    It also takes pooled features (B, P, C). N nodes of a dense layer count as N positions of one channel.

    Parameters
    ----------
    width
        Positions under the window.
    channels
        Channels that are computed.
    activation
        Function that is applied to the result, such as `ops.relu` or `ops.tanh`; None for no function.
    name
        The name its parameters are saved under, "name.weight" and "name.bias"; None for "conv.0", by order of first
        use.
    """

    kind = "conv"
    _sizes = ("width", "channels")

    def __init__(self, width: int, channels: int, activation: Callable | None = ops.relu, name: str | None = None):
        super().__init__(activation, name)
        self.width = as_integer(width, "Conv: width", minimum=1)
        self.channels = as_integer(channels, "Conv: channels", minimum=1)

    def __call__(self, x: RowFeatures | Tensor) -> Any:
        """Apply it to features, or to a Tensor (B, P, C) or (B, N)."""
        positions, channels = (*_input_shape(self, x), 1)[:2]
        if self.width > positions:
            check_width(self.width, positions, repr(self))
        return self._apply(conv_layer, x, (self.width, channels, self.channels))


class Dense(_Layer):
    """Connect all features of a row, or all pooled features of a dataset, to nodes: (rows, nodes) or (B, nodes).

    Parameters
    ----------
    nodes
        Numbers that are computed.
    activation
        Function that is applied to the result, such as `ops.relu` or `ops.tanh`; None for none, as in a last layer.
    name
        The name its parameters are saved under, "name.weight" and "name.bias"; None for "dense.0", by order of first
        use.
    """

    kind = "dense"
    _sizes = ("nodes",)

    def __init__(self, nodes: int, activation: Callable | None = ops.relu, name: str | None = None):
        super().__init__(activation, name)
        self.nodes = as_integer(nodes, "Dense: nodes", minimum=1)

    def __call__(self, x: RowFeatures | Tensor) -> Any:
        """Apply it to features, or to a Tensor (B, P, C) or (B, N)."""
        return self._apply(dense_layer, x, (math.prod(_input_shape(self, x)), self.nodes))


class Sequential:
    """Layers and functions one after another.

    Parameters
    ----------
    layers
        Layers, and functions such as `ops.flatten`.
    name
        None, or the beginning of the names of its layers: "name.0", "name.1", ..., for those that have none.
    """

    def __init__(self, layers: Sequence[Callable], name: str | None = None):
        self.layers = tuple(layers)
        check_name(name)
        for i, layer in enumerate(self.layers):
            if not callable(layer):
                raise TypeError(f"Sequential: layers[{i}] must be a layer or a function, got {layer!r}")
            if name is not None and isinstance(layer, _Layer) and layer.name is None:
                layer.name = f"{name}.{i}"

    def __call__(self, x: Any) -> Any:
        """Apply the first layer to x, the next one to the result, and so on."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __repr__(self) -> str:
        return f"Sequential({list(self.layers)})"


def _input_shape(layer: _Layer, x) -> tuple[int, ...]:
    """The shape of x without its first axis, which is that of rows or datasets: (P, C) or (N,)."""
    if isinstance(x, RowFeatures):
        return x.row_shape
    if isinstance(x, Tensor) and x.ndim in (2, 3):
        return x.shape[1:]
    raise TypeError(f"{layer!r} takes features, or a Tensor (B, P, C) or (B, N), got {x!r}")
