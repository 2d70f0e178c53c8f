"""Heads: last layers of h_net that describe a posterior of continuous labels; their names and sizes.

What they compute is in posteriors/, under the same names. Labels are scaled by the box of the prior, `label_range`, so
that labels of any size are fine.
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from .checks import as_integer

MOST_ARGUMENTS = 1000  # quantiles, components, bins
USUAL_NODES = 48  # of a spline's conditioners
MOST_LABELS = 1000  # because a file may ask for any number of names
RANGE_TOLERANCE = 1e-6  # of the width of a box: how far outside of it a label may be that was rounded
FEWEST_STEPS = 1000  # of float32, in which labels are, in the range of a label


@dataclass(frozen=True)
class HeadSpec(ABC):
    """A head for N labels: its arguments in the layer list, and how many numbers the dense layer before it makes.

    Attributes
    ----------
    kind, loss
        The names of the head and of its loss.
    needs_range
        Whether it needs the box of the labels.
    arguments
        What follows the name in the layer list.
    labels
        N.
    """

    kind: ClassVar[str]
    loss: ClassVar[str] = "nll"
    needs_range: ClassVar[bool] = False
    arguments: tuple
    labels: int

    @classmethod
    @abstractmethod
    def check_arguments(cls, arguments: tuple, where: str) -> tuple:
        """Return what follows the name in a layer list, or raise an error that says what may."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers describe the posterior of one dataset."""

    def as_tuple(self) -> tuple:
        """The way the user writes it."""
        return (self.kind, *self.arguments)

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters of its own, which are the same for all datasets, by role."""
        return {}

    def draw(self, role: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """The initial values of a parameter of its own."""
        raise ValueError(f"a {self.kind} head has no parameter {role!r}")


class QuantilesSpec(HeadSpec):
    """Quantiles of each label."""

    kind = "quantiles"
    loss = "pinball"

    @classmethod
    def check_arguments(cls, arguments: tuple, where: str) -> tuple:
        """Probabilities between 0 and 1, ascending."""
        are_numbers = all(isinstance(q, numbers.Real) and not isinstance(q, bool) for q in arguments)
        steps = np.diff([0.0, *map(float, arguments), 1.0]) if are_numbers else np.zeros(1)
        if not arguments or not (steps > 0).all() or len(arguments) > MOST_ARGUMENTS:
            raise ValueError(
                f"{where}: quantiles must be ascending numbers between 0 and 1, such as "
                f"('quantiles', 0.05, 0.5, 0.95), got {arguments!r}"
            )
        return tuple(map(float, arguments))

    @property
    def outputs(self) -> int:
        """Q for each label."""
        return self.labels * len(self.arguments)


class MixtureSpec(HeadSpec):
    """A mixture of K Gaussians with full covariances."""

    kind = "mixture"

    @classmethod
    def check_arguments(cls, arguments: tuple, where: str) -> tuple:
        """K, the number of components."""
        return _one_integer(cls.kind, "components", arguments, where, minimum=1)

    @property
    def components(self) -> int:
        """K."""
        return self.arguments[0]

    @property
    def outputs(self) -> int:
        """Weights, means, and the lower triangles of the factors of precisions."""
        weights = self.components if self.components > 1 else 0
        return weights + self.components * (self.labels + self.labels * (self.labels + 1) // 2)


class GaussianSpec(MixtureSpec):
    """One Gaussian with a full covariance."""

    kind = "gaussian"
    components = 1

    @classmethod
    def check_arguments(cls, arguments: tuple, where: str) -> tuple:
        """None."""
        if arguments:
            raise ValueError(f"{where}: {('gaussian', *arguments)!r} must be ('gaussian',)")
        return ()


class SplineSpec(HeadSpec):
    """An autoregressive flow of rational-quadratic splines on the box, with a uniform base (Durkan et al. 2019)."""

    kind = "spline"
    needs_range = True
    layers: ClassVar[int] = 2

    @classmethod
    def check_arguments(cls, arguments: tuple, where: str) -> tuple:
        """K, the number of bins, and perhaps H, the nodes of the conditioners."""
        given = (cls.kind, *arguments)
        if len(arguments) not in (1, 2):
            raise ValueError(f"{where}: {given!r} must be ('spline', bins) or ('spline', bins, nodes)")
        bins = as_integer(arguments[0], f"{where}: bins of {given!r}", minimum=2)
        if bins > 100:
            raise ValueError(f"{where}: a spline has 2 to 100 bins, got {bins}")
        if len(arguments) == 1:
            return (bins,)
        nodes = as_integer(arguments[1], f"{where}: nodes of {given!r}", minimum=1)
        if nodes > MOST_ARGUMENTS:
            raise ValueError(f"{where}: nodes of {given!r} must be at most {MOST_ARGUMENTS}")
        return bins, nodes

    @property
    def bins(self) -> int:
        """K."""
        return self.arguments[0]

    @property
    def nodes(self) -> int:
        """H, of each of the two hidden layers of a conditioner."""
        return self.arguments[1] if len(self.arguments) > 1 else USUAL_NODES

    @property
    def outputs(self) -> int:
        """What enters the first nodes of the conditioner of each label in each layer."""
        return self.layers * self.labels * self.nodes

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The rest of the conditioners, two dense layers behind the first nodes; labels share it."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            shapes[f"labels.{layer}"] = (self.labels, self.labels * self.nodes)
            shapes[f"start.{layer}"] = (self.labels * self.nodes,)
            shapes[f"weight.{layer}.0"] = (self.nodes, self.nodes)
            shapes[f"bias.{layer}.0"] = (self.nodes,)
            shapes[f"weight.{layer}.1"] = (self.nodes, 3 * self.bins + 1)
            shapes[f"bias.{layer}.1"] = (3 * self.bins + 1,)
        return shapes

    def draw(self, role: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Nodes that bend at places all over the box, hidden ones as He et al. (2015), and nearly straight splines."""
        name, _, number = role.partition(".")
        if name == "start":
            return rng.uniform(-1, 1, shape)
        if name == "bias":
            return np.zeros(shape)
        deviation = {"labels": 1.0, "weight": (2 / shape[0]) ** 0.5}[name]
        return rng.uniform(-1, 1, shape) * 3**0.5 * (0.1 if number.endswith(".1") else 1) * deviation


HEADS: dict[str, type[HeadSpec]] = {spec.kind: spec for spec in (QuantilesSpec, GaussianSpec, MixtureSpec, SplineSpec)}


def _one_integer(kind: str, noun: str, arguments: tuple, where: str, *, minimum: int) -> tuple[int]:
    if len(arguments) != 1:
        raise ValueError(f"{where}: {(kind, *arguments)!r} must be ({kind!r}, {noun})")
    number = as_integer(arguments[0], f"{where}: {noun} of {(kind, *arguments)!r}", minimum=minimum)
    if number > MOST_ARGUMENTS:
        raise ValueError(f"{where}: {noun} of {(kind, number)!r} must be at most {MOST_ARGUMENTS}")
    return (number,)


@dataclass(frozen=True)
class LabelBox:
    """What is known of N labels before any data: their names, and the lowest and highest number of each, or none."""

    names: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...] | None

    @classmethod
    def checked(cls, label_range: Any, label_names: Any, labels: int) -> Self:
        """Check the arguments of these names."""
        return cls(_check_names(label_names, labels), _check_ranges(label_range, labels))

    def as_dict(self) -> dict:
        """What a model file stores of it."""
        has_names = self.names != _check_names(None, len(self.names))
        stored = {"label_range": self.ranges, "label_names": self.names if has_names else None}
        return {name: value for name, value in stored.items() if value is not None}

    @property
    def low(self) -> np.ndarray:
        """(N,); -1 where there is no range, so that labels stay as they are."""
        return np.array([-1.0] * len(self.names) if self.ranges is None else [low for low, _ in self.ranges])

    @property
    def width(self) -> np.ndarray:
        """(N,)."""
        return (np.full(len(self.names), 1.0) if self.ranges is None else np.array(self.ranges)[:, 1]) - self.low

    @property
    def tolerance(self) -> np.ndarray:
        """How far outside of its range a label may be, (N,) in widths, because labels are rounded to float32."""
        return RANGE_TOLERANCE + _step(self.low, self.low + self.width) / self.width

    def check(self, labels: np.ndarray, name: str) -> None:
        """Raise a ValueError if one of labels (N,) or (B, N) is outside."""
        if self.ranges is None:
            return
        place = (np.atleast_2d(labels).astype(np.float64) - self.low) / self.width
        outside = np.argwhere(~(np.abs(place - 0.5) <= 0.5 + self.tolerance))
        if len(outside):
            b, i = outside[0]
            where = f"{name}[{b}]" if np.ndim(labels) > 1 else name
            value = float(np.atleast_2d(labels)[b, i])
            raise ValueError(
                f"{where} is outside of label_range: {self.names[i]} is {value:g}, its range is {self.ranges[i]}; "
                "widen label_range, or correct the simulator"
            )


def _check_names(names: Any, labels: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"label {i}" for i in range(labels))
    are_texts = isinstance(names, (tuple, list)) and all(isinstance(name, str) and name for name in names)
    if not are_texts or len(names) != labels or len(set(names)) != labels:
        raise ValueError(f"label_names must be {labels} different texts, one for each number of a label, got {names!r}")
    return tuple(names)


def _check_ranges(ranges: Any, labels: int) -> tuple[tuple[float, float], ...] | None:
    if ranges is None:
        return None
    wanted = f"label_range must be {labels} pairs (low, high), one for each number of a label"
    if not isinstance(ranges, (tuple, list, np.ndarray)) or len(ranges) != labels:
        raise ValueError(f"{wanted}, got {ranges!r}")
    return tuple(_check_pair(pair, f"label_range[{i}]") for i, pair in enumerate(ranges))


def _check_pair(pair: Any, where: str) -> tuple[float, float]:
    is_pair = isinstance(pair, (Sequence, np.ndarray)) and not isinstance(pair, str) and len(pair) == 2
    if not is_pair or not all(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in pair):
        raise TypeError(f"{where} must be a pair of numbers (low, high), got {pair!r}")
    low, high = map(float, pair)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"{where} must be finite with low < high, got ({low:g}, {high:g})")
    if not _step(low, high) * FEWEST_STEPS <= high - low < np.finfo(np.float32).max:
        raise ValueError(
            f"{where} must hold {FEWEST_STEPS:,} numbers of float32, in which labels are stored, got {(low, high)!r}; "
            "let the simulator subtract a constant, or give labels in another unit"
        )
    return low, high


def _step(low: Any, high: Any) -> Any:
    """How far apart numbers of float32 are at the larger end of a range."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(np.float64)
