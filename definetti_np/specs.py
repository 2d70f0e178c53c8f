"""What a network looks like: its shapes and layer lists, checked and with every dimension worked out.

The layer lists are the original defiNETti's: ``("conv", width, channels)`` and ``("fc", nodes)`` before and after the
symmetric function ``g``, and ``("matmul",)`` or ``("softmax",)`` at the end. A network may also be a function of the
user's. Both may be given a context beside the rows: see context.py. `NetworkSpec` and `FunctionSpec` say of both what
the rest of the package needs to know, under the same names.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .checks import as_integer, as_positive_number, check_k, check_width, name_of
from .context import Context, check_context
from .heads import HEADS, MOST_LABELS, HeadSpec, LabelBox

HIDDEN_LAYERS = {"conv": ("width", "channels"), "fc": ("nodes",)}
FINAL_LAYERS = ("matmul", "softmax")
LAST_LAYERS = (*FINAL_LAYERS, *HEADS)
POOLINGS = ("max", "sort", "top_k", "moments")
MOST_LAYERS = 1000  # of a list, and orders of moments, because a file may list a million of them in little space
LARGEST_ROW = 2**24  # values; a network function is called on rows to find its layers, and a file may ask for larger


@dataclass(frozen=True)
class LayerSpec:
    """One layer with parameters: the name they are saved under, its kind, and the shape of its weight.

    The weight's shape is (width, channels in, channels out) for a convolution and (in, out) for the others.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    own_parameters: tuple[tuple[str, tuple[int, ...]], ...] = ()  # of a head, by role

    def parameter_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Pairs of the name and the shape of its parameters."""
        yield f"{self.name}.weight", self.weight_shape
        yield f"{self.name}.bias", self.weight_shape[-1:]
        for role, shape in self.own_parameters:
            yield f"{self.name}.{role}", shape

    def output(self, positions: int) -> tuple[int, int]:
        """The positions and channels of its output for an input of so many positions."""
        channels = self.weight_shape[-1]
        return (positions - self.weight_shape[0] + 1, channels) if self.kind == "conv" else (channels, 1)


@dataclass(frozen=True)
class PoolingSpec:
    """The symmetric function: `k` for max (1), top_k and sort; `orders` for moments."""

    kind: str
    k: int | None = None
    orders: tuple[float, ...] = ()

    def as_tuple(self) -> tuple:
        """The way the user writes it."""
        return (self.kind, *{"top_k": (self.k,), "moments": self.orders}.get(self.kind, ()))

    @property
    def values_per_feature(self) -> int:
        """How many values are pooled of one feature."""
        return len(self.orders) if self.k is None else self.k


class Spec(ABC):
    """What the rest of the package asks of a network before it is built."""

    input_shape: tuple
    output_shape: tuple[int]
    context: Context
    head: HeadSpec | None = None
    box: LabelBox | None = None
    _file_fields: ClassVar[tuple[str, ...]]

    @property
    @abstractmethod
    def final_layer(self) -> str | None:
        """The kind of the last layer; None for a function, which predicts what it returns."""

    @property
    @abstractmethod
    def fewest_rows(self) -> int:
        """How many rows a dataset needs at least."""

    @property
    @abstractmethod
    def is_invariant(self) -> bool:
        """Whether the order of rows cannot matter, because of the way in which the network is built."""

    @property
    @abstractmethod
    def written(self) -> dict[str, str]:
        """The network as the user wrote it, by argument."""

    @property
    @abstractmethod
    def steps(self) -> list[tuple[str, tuple, tuple]]:
        """(name, how the user wrote it, shape that it makes of a dataset) of layers and pooling; none of a function."""

    @property
    @abstractmethod
    def last_name(self) -> str:
        """The name under which the parameters of a head are saved."""

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the network computes log-probabilities and predicts probabilities."""
        return self.final_layer == "softmax"

    @property
    def row_shape(self) -> tuple[int, int]:
        """Positions W and channels C of a row of the data."""
        return row_shape(self.input_shape)

    @property
    def feature_shape(self) -> tuple[int, int]:
        """Positions and channels of a row as the network gets it: with the context."""
        positions, channels = self.row_shape
        return positions, channels + self.context.channels

    def as_dict(self) -> dict:
        """What a model file stores of it; of a context only where there is one, as before there were any."""
        stored = {field: getattr(self, field) for field in self._file_fields}
        if self.context:
            stored["context"] = self.context.as_tuple()
        return {**stored, **self.box.as_dict()} if self.box else stored


@dataclass(frozen=True)
class DataSpec:
    """The shapes of simulations that no network is known for yet. Build it with `data_spec`."""

    input_shape: tuple
    output_shape: tuple[int]

    fewest_rows = 1
    context = Context()
    box = None

    @property
    def row_shape(self) -> tuple[int, int]:
        """Positions W and channels C of a row of the data."""
        return row_shape(self.input_shape)


def data_spec(input_shape: Sequence, output_shape: Sequence) -> DataSpec:
    """Check the shapes of data and labels."""
    return DataSpec(check_input_shape(input_shape), check_output_shape(output_shape))


@dataclass(frozen=True)
class NetworkSpec(Spec):
    """A checked network: the lists as the user gave them, and the layers with their dimensions.

    Build it with `network_spec`.
    """

    input_shape: tuple
    output_shape: tuple[int]
    phi_net: tuple[tuple, ...]
    g: tuple
    h_net: tuple[tuple, ...]
    phi_layers: tuple[LayerSpec, ...]
    poolings: tuple[PoolingSpec, ...]
    h_layers: tuple[LayerSpec, ...]
    context: Context = Context()
    head: HeadSpec | None = None
    box: LabelBox | None = None

    is_invariant = True
    _file_fields = ("input_shape", "output_shape", "phi_net", "g", "h_net")

    @property
    def written(self) -> dict[str, str]:
        """The lists, by argument."""
        g = self.g if len(self.poolings) == 1 else list(self.g)
        lists = {"phi_net": str(list(self.phi_net)), "g": str(g), "h_net": str(list(self.h_net))}
        return {**self.context.written, **lists}

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """All layers with parameters, in order."""
        return self.phi_layers + self.h_layers

    @property
    def final_layer(self) -> str:
        """The kind of the last layer, "softmax", "matmul" or that of a head."""
        return self.h_layers[-1].kind

    @property
    def last_name(self) -> str:
        """The name of the last layer."""
        return self.h_layers[-1].name

    @property
    def fewest_rows(self) -> int:
        """As many as the poolings take of them."""
        return max(pooling.k or 1 for pooling in self.poolings)

    @property
    def steps(self) -> list[tuple[str, tuple, tuple]]:
        """(name, how the user wrote it, shape that it makes of a dataset) of each layer and of the pooling."""
        rows = self.input_shape[:1]
        found: list[tuple[str, tuple, tuple]] = []
        dimensions = self.feature_shape
        if self.context:
            found.append(("context", self.context.as_tuple(), (*rows, *dimensions)))
        for layer, written in zip(self.phi_layers, self.phi_net, strict=True):
            dimensions = layer.output(dimensions[0])
            found.append((layer.name, written, (*rows, *dimensions)))
        dimensions = (dimensions[0], dimensions[1] * _values_per_feature(self.poolings))
        found.append(("g", self.g, dimensions))
        for layer, written in zip(self.h_layers, self.h_net, strict=True):
            dimensions = layer.output(dimensions[0])
            found.append((layer.name, written, dimensions))
        return found

    @property
    def features_per_row(self) -> int:
        """The number of values that Phi computes of one row, the row itself included."""
        dimensions = self.feature_shape
        total = math.prod(dimensions)
        for layer in self.phi_layers:
            dimensions = layer.output(dimensions[0])
            total += math.prod(dimensions)
        return total


@dataclass(frozen=True)
class FunctionSpec(Spec):
    """A network that is a function of the user's, and perhaps a head behind it.

    What it computes is known only when it is called.

    `network_function` is the function's name. Its own operations say how many rows it needs, and
    whether their order matters can only be tried.
    """

    input_shape: tuple
    output_shape: tuple[int]
    network_function: str
    context: Context = Context()
    head: HeadSpec | None = None
    box: LabelBox | None = None

    last_name = "head"
    fewest_rows = 1
    is_invariant = False
    steps: ClassVar[list] = []
    _file_fields = ("input_shape", "output_shape", "network_function")

    @property
    def final_layer(self) -> str | None:
        """The kind of the head, or None."""
        return None if self.head is None else self.head.kind

    @property
    def written(self) -> dict[str, str]:
        """The function's name, and the head."""
        head = {} if self.head is None else {"head": str(self.head.as_tuple())}
        return {**self.context.written, "network_function": self.network_function.removeprefix("function "), **head}

    def as_dict(self) -> dict:
        """What a model file stores of it."""
        return super().as_dict() | ({} if self.head is None else {"head": self.head.as_tuple()})


def function_spec(
    input_shape: Sequence,
    output_shape: Sequence,
    network_function: Callable,
    context: Sequence | Context = (),
    *,
    head: Sequence | None = None,
    label_range: Sequence | None = None,
    label_names: Sequence[str] | None = None,
) -> FunctionSpec:
    """Check the shapes of a network that is a function of the user's, that it is one, and the head behind it."""
    if not callable(network_function):
        raise TypeError(f"network_function must be a function, got {network_function!r}")
    input_shape = check_input_shape(input_shape)
    output_shape = check_output_shape(output_shape)
    if math.prod(row_shape(input_shape)) > LARGEST_ROW:
        raise ValueError(f"input_shape: a row must have at most {LARGEST_ROW} values, got {input_shape!r}")
    name = str(name_of(network_function))
    checked = check_context(context, *row_shape(input_shape))
    layer = None if head is None else _checked_layer(head, "head", {kind: () for kind in HEADS})
    found, box = _head(layer, output_shape[0], label_range, label_names, "head")
    return FunctionSpec(input_shape, output_shape, name, checked.without_functions(), found, box)


def network_spec(
    input_shape: Sequence,
    output_shape: Sequence,
    phi_net: Sequence,
    g: Sequence,
    h_net: Sequence,
    context: Sequence | Context = (),
    *,
    label_range: Sequence | None = None,
    label_names: Sequence[str] | None = None,
) -> NetworkSpec:
    """Check the description of a network and work out its dimensions.

    Parameters
    ----------
    input_shape
        ``(n, W)`` or ``(n, W, C)``; ``n`` may be None for any number of rows.
    output_shape
        ``(N,)``.
    phi_net, h_net
        Layer lists before and after the pooling; `h_net` ends in ``("matmul",)``, ``("softmax",)`` or a head.
    g
        ``("max",)``, ``("sort",)``, ``("top_k", k)`` or ``("moments", m1, m2, ...)``, or a list of several.
    context
        What the rows get as further channels: see `definetti_np.context`.
    label_range, label_names
        The box and the names of the labels of a head.

    Raises
    ------
    ValueError, TypeError
        Naming the argument, what it was and what is allowed.
    """
    input_shape = check_input_shape(input_shape)
    output_shape = check_output_shape(output_shape)
    phi_net = _check_list(phi_net, "phi_net", HIDDEN_LAYERS)
    h_net = _check_list(h_net, "h_net", HIDDEN_LAYERS | {kind: () for kind in LAST_LAYERS})
    if not h_net or h_net[-1][0] not in LAST_LAYERS:
        last = repr(h_net[-1]) if h_net else "no layer"
        raise ValueError(f"h_net must end in ('matmul',) or ('softmax',), got {last}; or in a head: ('gaussian',), ...")
    head, box = _head(h_net[-1], output_shape[0], label_range, label_names, "h_net")
    positions, channels = row_shape(input_shape)
    checked = check_context(context, positions, channels)
    phi_layers, dimensions = _hidden_layers("phi", phi_net, (positions, channels + checked.channels))
    poolings = _poolings(g, input_shape[0])
    dimensions = (dimensions[0], dimensions[1] * _values_per_feature(poolings))
    h_layers, dimensions = _hidden_layers("h", h_net[:-1], dimensions)
    outputs, own = (output_shape[0], ()) if head is None else (head.outputs, tuple(head.parameters.items()))
    final = LayerSpec(f"h.{len(h_net) - 1}", h_net[-1][0], (math.prod(dimensions), outputs), own)
    written = poolings[0].as_tuple() if len(poolings) == 1 else tuple(pooling.as_tuple() for pooling in poolings)
    return NetworkSpec(
        input_shape=input_shape,
        output_shape=output_shape,
        phi_net=phi_net,
        g=written,
        h_net=h_net,
        phi_layers=phi_layers,
        poolings=poolings,
        h_layers=(*h_layers, final),
        context=checked.without_functions(),
        head=head,
        box=box,
    )


def _head(
    layer: tuple | None, labels: int, label_range, label_names, where: str
) -> tuple[HeadSpec | None, LabelBox | None]:
    """The head that a last layer is, and the box of its labels."""
    kind, *arguments = layer or (None,)
    if kind not in HEADS:
        wanted = "an h_net that ends in one of" if where == "h_net" else "a network_function with a head, one of"
        for name, value in (("label_range", label_range), ("label_names", label_names)):
            if value is not None:
                raise ValueError(f"{name} is for {wanted} {', '.join(map(repr, HEADS))}, got {layer}")
        return None, None
    if labels > MOST_LABELS:
        raise ValueError(f"output_shape: a head describes at most {MOST_LABELS} numbers, got {labels}")
    box = LabelBox.checked(label_range, label_names, labels)
    if HEADS[kind].needs_range and box.ranges is None:
        raise ValueError(
            f"{where}: {layer} needs label_range=[(low, high), ...], the box of the prior, with a pair for each of the "
            f"{labels} numbers of a label"
        )
    return HEADS[kind](tuple(arguments), labels), box


def check_input_shape(input_shape: Sequence) -> tuple:
    """Return ``(n, W)`` or ``(n, W, C)`` with ints, n perhaps None, or raise an error."""
    shape = _as_tuple(input_shape, "input_shape")
    if len(shape) not in (2, 3):
        raise ValueError(f"input_shape must be (rows, width) or (rows, width, channels), got {shape!r}")
    rows = None if shape[0] is None else as_integer(shape[0], "input_shape[0]", minimum=1)
    return (rows, *(as_integer(d, f"input_shape[{i}]", minimum=1) for i, d in enumerate(shape[1:], 1)))


def check_output_shape(output_shape: Sequence) -> tuple[int]:
    """Return ``(N,)`` with an int, or raise an error."""
    shape = _as_tuple(output_shape, "output_shape")
    if len(shape) != 1:
        raise ValueError(f"output_shape must have one dimension, such as (2,), got {shape!r}")
    return (as_integer(shape[0], "output_shape[0]", minimum=1),)


def context_of_rows(context: Sequence | Context, input_shape: Sequence) -> Context:
    """The checked context of datasets of this shape, with the functions that the specs leave out."""
    return check_context(context, *row_shape(check_input_shape(input_shape)))


def row_shape(input_shape: tuple) -> tuple[int, int]:
    """Positions W and channels C of the rows of datasets of `input_shape`; two-dimensional data is C = 1."""
    return input_shape[1], input_shape[2] if len(input_shape) == 3 else 1


def shape_fits(shape: tuple, wanted: tuple) -> bool:
    """Whether a shape is the wanted one, where None in the first place stands for any number of rows but 0."""
    return len(shape) == len(wanted) and shape[1:] == wanted[1:] and shape[0] == (wanted[0] or max(shape[0], 1))


def _as_tuple(value, name: str) -> tuple:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple, got {value!r}")
    return tuple(value)


def _check_list(layers, name: str, allowed: dict[str, tuple[str, ...]]) -> tuple[tuple, ...]:
    """Return layers ``(kind, size, ...)`` with the sizes as ints, or raise an error that says where one is wrong."""
    layers = _as_tuple(layers, name)
    if len(layers) > MOST_LAYERS:
        raise ValueError(f"{name} must have at most {MOST_LAYERS} layers, got {len(layers)}")
    checked = tuple(_checked_layer(layer, f"{name}[{i}]", allowed) for i, layer in enumerate(layers))
    for i, (kind, *_) in enumerate(checked):
        if kind in LAST_LAYERS and i < len(checked) - 1:
            raise ValueError(f"{name}[{i}]: {kind!r} can only be the last layer of h_net")
    return checked


def _checked_layer(layer, where: str, allowed: dict[str, tuple[str, ...]]) -> tuple:
    layer = _as_tuple(layer, where)
    kind = layer[0] if layer else None
    if isinstance(kind, str) and kind in LAST_LAYERS and kind not in allowed:
        raise ValueError(f"{where}: {kind!r} can only be the last layer of h_net")
    if not isinstance(kind, str) or kind not in allowed:
        raise ValueError(f"{where}: unknown layer {kind!r}; choose from {', '.join(map(repr, allowed))}")
    if kind in HEADS:
        return (kind, *HEADS[kind].check_arguments(layer[1:], where))
    names = allowed[kind]
    if len(layer) != 1 + len(names):
        raise ValueError(f"{where}: {layer!r} must be ({', '.join([repr(kind), *names])}{',' * (not names)})")
    sizes = zip(names, layer[1:], strict=True)
    return (kind, *(as_integer(size, f"{where}: {name} of {layer!r}", minimum=1) for name, size in sizes))


def _hidden_layers(net: str, layers, dimensions: tuple[int, int]) -> tuple[tuple[LayerSpec, ...], tuple[int, int]]:
    """Return the LayerSpecs of conv and fc layers, and the (positions, channels) of what they compute."""
    specs = []
    for i, (kind, *sizes) in enumerate(layers):
        positions, channels = dimensions
        if kind == "conv":
            width, channels_out = sizes
            check_width(width, positions, f"{net}_net[{i}]: {layers[i]!r}")
            weight_shape = (width, channels, channels_out)
            dimensions = (positions - width + 1, channels_out)
        else:
            weight_shape = (positions * channels, *sizes)
            dimensions = (sizes[0], 1)
        specs.append(LayerSpec(f"{net}.{i}", kind, weight_shape))
    return tuple(specs), dimensions


def _values_per_feature(poolings: tuple[PoolingSpec, ...]) -> int:
    return sum(pooling.values_per_feature for pooling in poolings)


def _poolings(g, rows: int | None) -> tuple[PoolingSpec, ...]:
    """The symmetric functions of `g`: one, or a list of several."""
    several = _as_tuple(g, "g")
    if not several or not all(isinstance(one, (tuple, list)) for one in several):
        return (_pooling(g, rows, "g"),)
    if len(several) > MOST_LAYERS:
        raise ValueError(f"g must have at most {MOST_LAYERS} functions, got {len(several)}")
    return tuple(_pooling(one, rows, f"g[{i}]") for i, one in enumerate(several))


def _pooling(g, rows: int | None, where: str) -> PoolingSpec:
    kind, *arguments = tuple(g) or (None,)
    if not isinstance(kind, str) or kind not in POOLINGS:
        raise ValueError(f"{where}: unknown function {kind!r}; choose from {', '.join(map(repr, POOLINGS))}")
    if kind in ("max", "sort") and arguments:
        raise ValueError(f"{where}: {g!r} must be ({kind!r},)")
    if kind == "max":
        return PoolingSpec(kind, k=1)
    if kind == "sort":
        if rows is None:
            raise ValueError(f"{where}: sort needs a fixed number of rows, got input_shape[0]=None; use top_k instead")
        return PoolingSpec(kind, k=rows)
    if kind == "top_k":
        if len(arguments) != 1:
            raise ValueError(f"{where}: {g!r} must be ('top_k', k)")
        k = as_integer(arguments[0], f"{where}: k of top_k", minimum=1)
        if rows is not None:
            check_k(k, rows, where)
        return PoolingSpec(kind, k=k)
    if not arguments:
        raise ValueError(f"{where}: {g!r} must be ('moments', m1, m2, ...)")
    if len(arguments) > MOST_LAYERS:
        raise ValueError(f"{where}: moments must have at most {MOST_LAYERS} orders, got {len(arguments)}")
    orders = f"{where}: the orders of moments in {g!r}"
    return PoolingSpec(kind, orders=tuple(as_positive_number(m, orders) for m in arguments))
