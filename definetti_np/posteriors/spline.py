"""An autoregressive flow of splines on the box of the prior (Durkan et al. 2019): loss, posterior, samples.

A layer of the flow maps the unit cube onto itself: label i goes through a spline whose parameters a conditioner
computes of the dataset and of labels 0, ..., i - 1. The next layer takes the labels in the reverse order. What comes
out of the last layer is uniform under the posterior, so that the product of the slopes is the density.

A conditioner has three dense layers. What the dataset adds to the first nodes is the network's output; all labels share
the second and the third layer.
"""

from collections.abc import Mapping

import numpy as np

from ..engine.tensor import Tensor
from ..heads import SplineSpec
from ..kernels import spline as kernels
from ..ops.dense_conv import LINEAR, RELU, dense_layer
from .head import Head
from .posterior import Posterior

NEAREST_TO_END = 1e-5  # of 0 and 1, where a logit is infinite: nearer to them a temperature is a straight line
_ROLES = ("start.{}", "labels.{}", "weight.{}.0", "bias.{}.0", "weight.{}.1", "bias.{}.1")  # by layer


class SplineHead(Head[SplineSpec]):
    """The flow."""

    def losses(self, x: Tensor, labels: np.ndarray, parameters: Mapping[str, Tensor]) -> Tensor:
        """The negative logarithms of the density."""
        unit = np.clip((self.scale(labels) + 1) / 2, 0, 1).astype(labels.dtype)
        _, logs = self.to_uniform(x, Tensor(unit), parameters)
        return float(np.log(self.box.width).sum()) - logs

    def posterior(
        self, numbers: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float | None = None
    ) -> "SplinePosterior":
        """The posteriors; a temperature divides the logits of what is uniform."""
        return SplinePosterior(numbers, self, {role: array.copy() for role, array in parameters.items()}, temperature)

    def log_densities(
        self, numbers: np.ndarray, labels: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float
    ) -> np.ndarray:
        """The log densities (B,)."""
        unit = np.clip((self.scale(labels) + 1) / 2, 0, 1).astype(numbers.dtype)
        own = {role: Tensor(array) for role, array in parameters.items()}
        uniform, logs = self.to_uniform(Tensor(numbers), Tensor(unit), own)
        slopes = temper(uniform.array, temperature)[1].sum(axis=1)
        return logs.array + slopes - np.log(self.box.width).sum()

    def to_uniform(self, x: Tensor, labels: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What is uniform under the posterior, (R, N), and the log density (R,) of labels (R, N) of the unit cube.

        x (R, M) describes the posterior of each of them.
        """
        number = self.spec.labels
        state = _beside(labels, np.zeros((len(labels.array), 1), labels.array.dtype))
        for layer in range(self.spec.layers):
            nodes = _first_nodes(x, state, parameters[f"start.{layer}"], parameters[f"labels.{layer}"], layer)
            state = _through_splines(state, self._rest(nodes, layer, parameters))
        return state[:, :number], state[:, number]

    def from_uniform(self, x: np.ndarray, uniform: np.ndarray, parameters: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inverse of `to_uniform`, label by label: labels (R, N) of the unit cube, all of one dataset's x (M,)."""
        spec, dtype = self.spec, x.dtype
        layers, number, nodes = spec.layers, spec.labels, spec.nodes
        own = {role: np.stack([parameters[role.format(layer)] for layer in range(layers)]) for role in _ROLES}
        starts = (x.reshape(layers, -1) + own["start.{}"]).reshape(layers, number, nodes)
        out = np.empty(uniform.shape, dtype)
        kernels.flow_inverse(
            starts,
            own["labels.{}"].reshape(layers, number, number, nodes),
            own["weight.{}.0"],
            own["bias.{}.0"],
            own["weight.{}.1"],
            own["bias.{}.1"],
            np.ascontiguousarray(uniform, dtype),
            out,
        )
        return out

    def _rest(self, nodes: Tensor, layer: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """The second and third dense layers of the conditioners."""
        weights = [parameters[f"weight.{layer}.{i}"] for i in range(2)]
        biases = [parameters[f"bias.{layer}.{i}"] for i in range(2)]
        hidden = dense_layer(nodes, weights[0], biases[0], RELU)
        return dense_layer(hidden, weights[1], biases[1], LINEAR)  # type: ignore[return-value]


# The state of R labels on their way through the layers: their N places in the unit cube, and the logarithm of the
# product of the slopes so far, (R, N + 1). An operation does what many small ones could, because a training step of a
# small network takes as long as the calls of its operations.


def _beside(x: Tensor, y: np.ndarray) -> Tensor:
    """The columns of x (R, N) and y (R, M), a constant."""

    def backward(gradient):
        return (gradient[:, : x.shape[1]],)

    return Tensor(np.concatenate([x.array, y], axis=1), (x,), backward)


def _first_nodes(x: Tensor, state: Tensor, start: Tensor, weight: Tensor, layer: int) -> Tensor:
    """The first nodes of the conditioners of a layer, of each label of each row, (R * N, H).

    They are the ReLU of what the layer has of x (R, M), of start (N * H,), and of the places, between -1 and 1, of the
    labels before, each times weight (N, N * H)[j, label i], j < i.
    """
    number, size = weight.shape
    nodes = size // number
    places = 2 * state.array[:, :number] - 1
    own = slice(layer * size, (layer + 1) * size)
    out = x.array[:, own] + start.array
    for j in range(number - 1):
        after = (j + 1) * nodes
        out[:, after:] += places[:, j, None] * weight.array[j, after:]
    np.maximum(out, 0, out=out)

    def backward(gradient):
        gradient = gradient.reshape(out.shape) * (out > 0)
        to_x = np.zeros_like(x.array)
        to_x[:, own] = gradient
        to_weight, to_state = np.zeros_like(weight.array), np.zeros_like(state.array)
        for j in range(number - 1):
            after = (j + 1) * nodes
            to_weight[j, after:] = np.einsum("r,rk->k", places[:, j], gradient[:, after:])
            to_state[:, j] = 2 * np.einsum("rk,k->r", gradient[:, after:], weight.array[j, after:])
        return to_x, to_state, gradient.sum(axis=0), to_weight

    return Tensor(out.reshape(-1, nodes), (x, state, start, weight), backward)


def _through_splines(state: Tensor, splines: Tensor) -> Tensor:
    """The state behind a layer: labels go through splines (R * N, P), and come out in the reverse order."""
    number = state.shape[1] - 1
    places = np.ascontiguousarray(state.array[:, :number]).reshape(-1)
    both = np.empty((len(places), 2), places.dtype)
    parameters = np.ascontiguousarray(splines.array)
    kernels.spline_forward(places, parameters, both)
    both = both.reshape(-1, number, 2)
    values = both[:, ::-1, 0]
    out = np.empty_like(state.array)
    np.clip(values, 0, 1, out=out[:, :number])
    out[:, number] = state.array[:, number] + both[..., 1].sum(axis=1)
    is_free = values == out[:, :number]  # where nothing was clipped, so that a gradient goes back

    def backward(gradient):
        to_both = np.empty_like(both)
        to_both[..., 0] = (gradient[:, :number] * is_free)[:, ::-1]
        to_both[..., 1] = gradient[:, number:]
        to_places, to_splines = np.empty_like(places), np.empty_like(parameters)
        kernels.spline_backward(to_both.reshape(-1, 2), places, parameters, to_places, to_splines)
        return np.concatenate([to_places.reshape(-1, number), gradient[:, number:]], axis=1), to_splines

    return Tensor(out, (state, splines), backward)


class SplinePosterior(Posterior):
    """Posteriors on the box of the prior, as an autoregressive flow of splines."""

    def __init__(
        self,
        numbers: np.ndarray,
        head: SplineHead,
        parameters: Mapping[str, np.ndarray],
        temperature: float | None = None,
    ):
        super().__init__(numbers, head.box)
        self._head = head
        self._parameters = parameters
        self._temperature = temperature

    def from_uniform(self, uniform: np.ndarray) -> np.ndarray:
        """The labels (B, n, N) that uniform numbers (n, N) between 0 and 1 become: samples, if they are random."""
        uniform = np.asarray(uniform)
        if uniform.ndim != 2 or uniform.shape[1] != len(self.names) or not ((uniform >= 0) & (uniform <= 1)).all():
            raise ValueError(f"uniform must be numbers between 0 and 1 of shape (n, {len(self.names)})")
        found = [self._labels(b, uniform) for b in range(len(self))]
        return np.stack(found) if found else np.empty((0, *uniform.shape))

    def to_uniform(self, theta: np.ndarray) -> np.ndarray:
        """The inverse of `from_uniform`, theta (B, N): uniform over datasets if the posteriors are right, (B, N)."""
        theta = np.asarray(theta, np.float64)
        if theta.shape != (len(self), len(self.names)):
            raise ValueError(f"theta must have shape ({len(self)}, {len(self.names)}), got {theta.shape}")
        found = [self._flow(b, theta[b : b + 1])[0][0] for b in range(len(self))]
        return np.stack(found) if found else np.empty(theta.shape)

    def _labels(self, b: int, uniform: np.ndarray) -> np.ndarray:
        if self._temperature is not None:
            uniform = untemper(uniform, self._temperature)
        unit = self._head.from_uniform(self._numbers[b], uniform, self._parameters)
        return self._box.low + unit.astype(np.float64) * self._box.width

    def _draw(self, b: int, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._labels(b, rng.random((n, len(self.names)), np.float32))

    def _points(self, b: int, n: int) -> np.ndarray:
        return self._labels(b, lattice(n, len(self.names)))

    def _flow(self, b: int, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unit = np.clip((theta - self._box.low) / self._box.width, 0, 1).astype(self._numbers.dtype)
        x = Tensor(np.repeat(self._numbers[b : b + 1], len(theta), axis=0))
        own = {role: Tensor(array) for role, array in self._parameters.items()}
        uniform, logs = (found.array for found in self._head.to_uniform(x, Tensor(unit), own))
        if self._temperature is not None:
            uniform, slopes = temper(uniform, self._temperature)
            logs = logs + slopes.sum(axis=1)
        return uniform, logs

    def _log_prob(self, b: int, theta: np.ndarray) -> np.ndarray:
        place = (theta - self._box.low) / self._box.width
        inside = (np.abs(place - 0.5) <= 0.5 + self._box.tolerance).all(axis=1)
        logs = self._flow(b, theta)[1].astype(np.float64) - np.log(self._box.width).sum()
        return np.where(inside, logs, -np.inf)

    def _quantiles(self, levels: np.ndarray) -> np.ndarray:
        """Those of one label are what the levels become; those of several are found from points."""
        return self.from_uniform(levels[:, None]) if len(self.names) == 1 else super()._quantiles(levels)

    def _marginal(self, i: int) -> Posterior:
        return self if len(self.names) == 1 else super()._marginal(i)


def temper(uniform: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers between 0 and 1 whose logits are divided by a temperature, and the log of the slope, float64.

    Uniform numbers come closer to 0.5 if it is above 1, so that labels that were too often far out no longer are. It
    is a straight line near 0 and near 1, so that the slope stays finite, and 0 and 1 stay where they are.
    """
    nearest, far = _nearer_end(uniform)
    before = np.maximum(nearest, NEAREST_TO_END)
    after = _divide_logits(before, temperature)
    slope = np.log(after) + np.log1p(-after) - np.log(temperature) - np.log(before) - np.log1p(-before)
    end = float(_divide_logits(np.array(NEAREST_TO_END), temperature))
    is_line = nearest < NEAREST_TO_END
    after = np.where(is_line, nearest * (end / NEAREST_TO_END), after)
    slope = np.where(is_line, np.log(end / NEAREST_TO_END), slope)
    return np.where(far, 1 - after, after), slope


def untemper(uniform: np.ndarray, temperature: float) -> np.ndarray:
    """The inverse of `temper`."""
    nearest, far = _nearer_end(uniform)
    end = float(_divide_logits(np.array(NEAREST_TO_END), temperature))
    before = _divide_logits(np.maximum(nearest, end), 1 / temperature)
    before = np.where(nearest < end, nearest * (NEAREST_TO_END / end), before)
    return np.where(far, 1 - before, before)


def _nearer_end(uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distances to the nearer of 0 and 1, and whether that is 1."""
    uniform = uniform.astype(np.float64)
    return np.minimum(uniform, 1 - uniform), uniform > 0.5


def _divide_logits(uniform: np.ndarray, temperature: float) -> np.ndarray:
    with np.errstate(over="ignore"):  # of temperatures near 0
        return np.maximum(1 / (1 + (1 / uniform - 1) ** (1 / temperature)), np.finfo(np.float64).tiny)


def lattice(points: int, dimensions: int) -> np.ndarray:
    """Points that fill the unit cube evenly, (points, dimensions) float64: a Kronecker sequence of Roberts (2018)."""
    root = 2.0
    for _ in range(50):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1, dimensions + 1)
    return (0.5 + np.arange(1, points + 1)[:, None] * steps) % 1.0
