"""What `repr` says of networks, models and trainers, and the table of layers of `Model.summary`."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .checks import name_of
from .specs import Spec


def describe_network(spec: Spec, parameters: Mapping[str, np.ndarray], *, seed: int, dtype: np.dtype) -> str:
    """Shapes, seed and the number of parameters on one line; below it the layer lists, or the function's name."""
    shapes = f"input_shape={spec.input_shape}, output_shape={spec.output_shape}"
    first = f"Network({shapes}, seed={seed}, dtype={dtype}) with {_count(parameters):,} parameters"
    lines = [f"{name + ':':<8} {text}" for name, text in spec.written.items()]
    return "\n    ".join([first, *lines])


def describe_choice(choice: str | Callable | None) -> str:
    """A loss or an accuracy, as the user wrote it: in quotes where it is a name, and without where it is a function."""
    name = name_of(choice)
    return name if name is not None and name.startswith("function ") else repr(name)


def layer_table(spec: Spec, parameters: Mapping[str, np.ndarray]) -> str:
    """The layers of the lists, with the shape that each makes of a dataset; of a function the parameters by name."""
    if spec.steps:
        head = ["layer", "", "output", "parameters"]
        lines = [["data", "", _tuple(*spec.input_shape), ""]]
        for name, written, shape in spec.steps:
            mine = {key: array for key, array in parameters.items() if key.startswith(f"{name}.")}
            lines.append([name, str(written), _shape(*shape), f"{_count(mine):,}" if mine else ""])
    else:
        head = ["parameter", "shape", "numbers"]
        lines = [[name, str(array.shape), f"{array.size:,}"] for name, array in parameters.items()]
    total = ["total", *[""] * (len(head) - 2), f"{_count(parameters):,}"]
    return _align([head, *lines, total])


def _shape(*dimensions: int | None) -> str:
    """A shape without its channels where there is one."""
    return _tuple(*(dimensions[:-1] if dimensions[-1] == 1 else dimensions))


def _tuple(*dimensions: int | None) -> str:
    """A shape, with n for any number of rows."""
    return f"({', '.join('n' if d is None else str(d) for d in dimensions)}{',' * (len(dimensions) == 1)})"


def _count(parameters: Mapping[str, np.ndarray]) -> int:
    return sum(math.prod(array.shape) for array in parameters.values())


def _align(lines: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart; the numbers in the last one end below each other."""
    *widths, last = (max(map(len, column)) for column in zip(*lines, strict=True))
    texts = []
    for *cells, number in lines:
        left = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        texts.append("  ".join([*left, number.rjust(last)]).rstrip())
    return "\n".join(texts)
