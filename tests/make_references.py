"""Write tests/references/<case>.npz: what PyTorch in float64 computes for each case of tests/cases.py.

Run ``python tests/make_references.py`` where PyTorch is installed; the tests themselves do not need it. The networks
are written anew here, on the dense data, where a row that occurs twice is computed twice.
"""

import itertools
import math
from pathlib import Path

import numpy as np
import torch
from cases import ADAM_STEPS, CASES, Case
from torch.nn import functional

FOLDER = Path(__file__).parent / "references"
MARGIN = 1e-3  # distance of ReLUs and of pooled values from a corner, so that float32 takes the same branches
SAME = 1e-12  # float64 values that differ by less are the same value, computed twice


class TorchNetwork:
    """The network of a case; its parameters are drawn in the first forward pass."""

    def __init__(self, case: Case, rng: np.random.Generator):
        self.case = case
        self.rng = rng
        self.parameters: dict[str, torch.Tensor] = {}
        self.margins: list[float] = []

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        """Log-probabilities or estimates (B, N) for data (B, n, W, C)."""
        datasets, rows = data.shape[:2]
        x = data.flatten(0, 1)
        for i, layer in enumerate(self.case.phi_net):
            x = self.layer(f"phi.{i}", layer, x)
        x = self.pool(x.unflatten(0, (datasets, rows)))
        *hidden, (final,) = self.case.h_net
        for i, layer in enumerate(hidden):
            x = self.layer(f"h.{i}", layer, x)
        logits = self.linear(f"h.{len(hidden)}", self.case.output_shape[0], x)
        return torch.log_softmax(logits, dim=1) if final == "softmax" else logits

    def layer(self, name: str, layer: tuple, x: torch.Tensor) -> torch.Tensor:
        """Turn x (rows, positions, channels) into features of the same layout."""
        if layer[0] == "conv":
            _, width, depth = layer
            weight, bias = self.weight_and_bias(name, (width, x.shape[2], depth), hidden=True)
            x = functional.conv1d(x.transpose(1, 2), weight.permute(2, 1, 0), bias).transpose(1, 2)
        else:
            x = self.linear(name, layer[1], x, hidden=True).unsqueeze(2)
        self.note_margin(x)
        return torch.relu(x)

    def linear(self, name: str, nodes: int, x: torch.Tensor, *, hidden: bool = False) -> torch.Tensor:
        flat = x.flatten(1)
        weight, bias = self.weight_and_bias(name, (flat.shape[1], nodes), hidden=hidden)
        return functional.linear(flat, weight.T, bias)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Turn x (B, n, P, C) into (B, P, k * C), the pooled index before the channel."""
        kind, *arguments = self.case.g
        if kind == "moments":
            zero = x == 0
            nonzero = torch.where(zero, 1.0, x)  # else the gradient of 0**0.5 is NaN, even where it is not used
            pooled = torch.stack([torch.where(zero, 0.0, nonzero**m).mean(dim=1) for m in arguments], dim=1)
        else:
            if kind == "max":
                pooled = x.amax(dim=1, keepdim=True)
            elif kind == "sort":
                pooled = x.sort(dim=1, descending=True).values
            else:
                pooled = x.topk(arguments[0], dim=1).values
            self.note_margin(x.sort(dim=1, descending=True).values[:, : pooled.shape[1] + 1].diff(dim=1))
        return pooled.transpose(1, 2).flatten(2)

    def weight_and_bias(self, name: str, shape: tuple, *, hidden: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if f"{name}.weight" not in self.parameters:
            weight = self.rng.normal(scale=math.sqrt(2 / math.prod(shape[:-1])), size=shape)
            bias = self.rng.normal(scale=0.5, size=shape[-1])
            if hidden and self.case.dead_units:
                bias[:2] = -100, 0
            self.parameters[f"{name}.weight"] = leaf(weight)
            self.parameters[f"{name}.bias"] = leaf(bias)
        return self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]

    def note_margin(self, x: torch.Tensor) -> None:
        distances = x.detach().abs()
        self.margins += distances[distances > SAME].tolist()

    def loss(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = -labels * output if self.case.loss == "cross-ent" else (output - labels) ** 2
        return losses.sum(dim=1).mean()


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(as_float32(array), dtype=torch.float64, requires_grad=True)


def as_float32(array: np.ndarray) -> np.ndarray:
    """Inputs and parameters are numbers that float32 can hold, so that both precisions start from the same."""
    return np.asarray(array, np.float32)


def draw_data(case: Case, rng: np.random.Generator) -> np.ndarray:
    rows, *row_shape = case.input_shape
    distinct = {"continuous": rows, "identical": 1}.get(case.data, max(rows // 2, 1))
    shape = (case.batch, distinct, *row_shape)
    pool = rng.integers(2, size=shape) if case.data == "haplotypes" else rng.normal(size=shape)
    chosen = [np.arange(rows) if distinct == rows else rng.integers(distinct, size=rows) for _ in pool]
    return np.stack([dataset[rows_of_it] for dataset, rows_of_it in zip(pool, chosen, strict=True)])


def draw_labels(case: Case, rng: np.random.Generator) -> np.ndarray:
    shape = (case.batch, *case.output_shape)
    if case.labels == "values":
        return rng.normal(size=shape)
    if case.labels == "soft":
        return rng.dirichlet(np.ones(shape[1]), size=shape[0])
    return np.eye(shape[1])[rng.integers(shape[1], size=shape[0])]


def adam(parameters, gradients_of, *, steps=ADAM_STEPS, rate=0.001, beta1=0.9, beta2=0.999, epsilon=1e-8) -> None:
    """Take Adam steps in TensorFlow 1's form; `torch.optim.Adam` puts epsilon in another place."""
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for t in range(1, steps + 1):
        corrected = rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        for p, m, v, gradient in zip(parameters, first, second, gradients_of(), strict=True):
            m.mul_(beta1).add_((1 - beta1) * gradient)
            v.mul_(beta2).add_((1 - beta2) * gradient**2)
            p.data.sub_(corrected * m / (v.sqrt() + epsilon))


def reference(name: str, case: Case) -> dict[str, np.ndarray]:
    """Draw the case until nothing in it is within MARGIN of a corner, and compute all that the file holds."""
    for attempt in itertools.count():
        rng = np.random.default_rng([attempt, *name.encode()])
        data, labels = as_float32(draw_data(case, rng)), as_float32(draw_labels(case, rng))
        rows = torch.tensor(data, dtype=torch.float64).reshape(*data.shape[:3], -1)
        targets = torch.tensor(labels, dtype=torch.float64)
        network = TorchNetwork(case, rng)
        output = network.forward(rows)
        if min(network.margins, default=math.inf) > MARGIN:
            break
    names, parameters = list(network.parameters), list(network.parameters.values())

    def gradients():
        return torch.autograd.grad(network.loss(network.forward(rows), targets), parameters)

    arrays = {
        "case": np.frombuffer(case.as_json().encode(), np.uint8),
        "data": data,
        "labels": labels,
        "output": output.detach().numpy(),
        "predictions": (output.exp() if case.h_net[-1] == ("softmax",) else output).detach().numpy(),
        "loss": network.loss(output, targets).detach().numpy(),
    }
    arrays |= {f"initial.{n}": as_float32(p.detach().numpy()) for n, p in zip(names, parameters, strict=True)}
    arrays |= {f"gradient.{n}": g.numpy() for n, g in zip(names, gradients(), strict=True)}
    adam(parameters, gradients)
    arrays |= {f"trained.{n}": p.detach().numpy() for n, p in zip(names, parameters, strict=True)}
    return arrays


def main() -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name, case in CASES.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **reference(name, case))


if __name__ == "__main__":
    main()
