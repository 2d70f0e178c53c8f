"""What `repr` says of networks, models and trainers, and the table of layers of `Model.summary`."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .checks import name_of
from .specs import FunctionSpec, LayerSpec, NetworkSpec


def describe_network(
    spec: NetworkSpec | FunctionSpec, parameters: Mapping[str, np.ndarray], *, seed: int, dtype: np.dtype
) -> str:
    """Shapes, seed and the number of parameters on one line; below it the layer lists, or the function's name."""
    shapes = f"input_shape={spec.input_shape}, output_shape={spec.output_shape}"
    first = f"Network({shapes}, seed={seed}, dtype={dtype}) with {_count(parameters):,} parameters"
    if isinstance(spec, FunctionSpec):
        lines = [f"network_function: {spec.network_function.removeprefix('function ')}"]
    else:
        lines = [f"phi_net: {list(spec.phi_net)}", f"g:       {spec.g}", f"h_net:   {list(spec.h_net)}"]
    return "\n    ".join([first, *lines])


def describe_choice(choice: str | Callable | None) -> str:
    """A loss or an accuracy, as the user wrote it: in quotes where it is a name, and without where it is a function."""
    name = name_of(choice)
    return name if name is not None and name.startswith("function ") else repr(name)


def layer_table(spec: NetworkSpec | FunctionSpec, parameters: Mapping[str, np.ndarray]) -> str:
    """The layers of the lists, with the shape that each makes of a dataset; of a function the parameters by name."""
    if isinstance(spec, FunctionSpec):
        head = ["parameter", "shape", "numbers"]
        lines = [[name, str(array.shape), f"{array.size:,}"] for name, array in parameters.items()]
    else:
        head = ["layer", "", "output", "parameters"]
        lines = _layer_lines(spec, parameters)
    total = ["total", *[""] * (len(head) - 2), f"{_count(parameters):,}"]
    return _aligned([head, *lines, total])


def _layer_lines(spec: NetworkSpec, parameters: Mapping[str, np.ndarray]) -> list[list[str]]:
    rows = "n" if spec.input_shape[0] is None else spec.input_shape[0]
    dimensions = spec.row_shape
    lines = [["data", "", _tuple(rows, *spec.input_shape[1:]), ""]]

    def line(layer: LayerSpec, written: tuple, shape: str) -> list[str]:
        mine = {name: array for name, array in parameters.items() if name.startswith(f"{layer.name}.")}
        return [layer.name, str(written), shape, f"{_count(mine):,}"]

    for layer, written in zip(spec.phi_layers, spec.phi_net, strict=True):
        dimensions = _output(layer, dimensions[0])
        lines.append(line(layer, written, _shape(rows, *dimensions)))
    dimensions = (dimensions[0], dimensions[1] * spec.pooling.values_per_feature)
    lines.append(["g", str(spec.g), _shape(*dimensions), ""])
    for layer, written in zip(spec.h_layers, spec.h_net, strict=True):
        dimensions = _output(layer, dimensions[0])
        lines.append(line(layer, written, _shape(*dimensions)))
    return lines


def _output(layer: LayerSpec, positions: int) -> tuple[int, int]:
    """Positions and channels of what a layer computes."""
    channels = layer.weight_shape[-1]
    return (positions - layer.weight_shape[0] + 1, channels) if layer.kind == "conv" else (channels, 1)


def _shape(*dimensions: int | str) -> str:
    """A shape without its channels where there is one."""
    return _tuple(*(dimensions[:-1] if dimensions[-1] == 1 else dimensions))


def _tuple(*dimensions: int | str) -> str:
    return f"({', '.join(map(str, dimensions))}{',' * (len(dimensions) == 1)})"


def _count(parameters: Mapping[str, np.ndarray]) -> int:
    return sum(math.prod(array.shape) for array in parameters.values())


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; the numbers in the last one end below each other."""
    *widths, last = (max(map(len, column)) for column in zip(*lines, strict=True))
    texts = []
    for *cells, number in lines:
        left = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        texts.append("  ".join([*left, number.rjust(last)]).rstrip())
    return "\n".join(texts)
