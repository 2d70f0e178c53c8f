"""Write tests/references/custom/<case>.npz: what PyTorch in float64 computes for the networks of custom_cases.py.

Run ``python tests/make_custom_references.py`` where PyTorch is installed; the tests do not need it. The networks are
written anew here, on the dense data (B, n, P, C), where a row that occurs twice is computed twice.
"""

import itertools
import math

import numpy as np
import torch
from custom_cases import ADAM_STEPS, CUSTOM_CASES, CustomCase
from make_references import FOLDER, MARGIN, SAME, adam, as_float32, leaf
from torch.nn import functional

DATASETS = 5


class Twin:
    """The parameters of a network by name, and the layers that use them; it notes how close ReLUs are to 0."""

    def __init__(self, shapes: dict[str, tuple], rng: np.random.Generator):
        self.parameters = {name: leaf(rng.normal(scale=0.6, size=shape)) for name, shape in shapes.items()}
        self.margins: list[float] = []

    def conv(self, name: str, x):
        weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
        windows = x.unfold(-2, len(weight), 1)  # (..., P, C, width)
        return torch.einsum("...cw,wcn->...n", windows, weight) + bias

    def dense(self, name: str, x):
        return x @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def relu(self, x):
        return torch.relu(self.note(x))

    def note(self, x):
        distances = x.detach().abs()
        self.margins += distances[distances > SAME].tolist()
        return x

    def max(self, x):
        self.note(x.sort(dim=1, descending=True).values[:, :2].diff(dim=1))
        return x.amax(dim=1)


def two_branch(t: Twin, x):
    near = t.relu(t.conv("near.1", t.relu(t.conv("near.0", x))))
    whole = torch.tanh(t.dense("whole", x.flatten(2)))
    pooled = torch.cat([t.max(near).flatten(1), whole.mean(1)], 1)
    return torch.log_softmax(t.dense("head.1", t.relu(t.dense("head.0", pooled))), 1)


def residual(t: Twin, x):
    y = t.relu(t.conv("conv.0", x))
    y = t.relu(y[:, :, 1:-1] + t.conv("conv.1", y))
    return torch.log_softmax(t.dense("dense.3", t.max(t.relu(t.conv("conv.2", y))).flatten(1)), 1)


def set_network(t: Twin, x):
    y = torch.sigmoid(t.dense("dense.1", functional.softplus(t.dense("dense.0", x.flatten(2)))))
    pooled = torch.cat([y.mean(1), t.max(y), y.var(1, correction=0)], 1)
    return t.dense("dense.3", functional.leaky_relu(t.note(t.dense("dense.2", pooled)), 0.01))


def huber(t: Twin, x):
    y = t.relu(t.conv("conv.1", t.relu(t.conv("conv.0", x))))
    t.note(y.sort(dim=1, descending=True).values[:, :3].diff(dim=1))
    pooled = y.topk(2, dim=1).values.transpose(1, 2).flatten(2)
    h = t.relu(t.conv("conv.2", pooled)).flatten(1)
    return t.parameters["slope"] * t.dense("dense.3", h) + t.parameters["offset"]


def weighted(t: Twin, x):
    y = t.relu(t.dense("dense.0", x.flatten(2)))
    statistics = torch.sqrt(x.mean(1) + 1).flatten(1)
    return torch.log_softmax(
        t.dense("dense.2", torch.cat([(y * t.parameters["importance"]).sum(1) / 10, statistics], 1)), 1
    )


def loss(name: str, prediction, label):
    if name == "huber":
        return functional.huber_loss(prediction, label, delta=0.7)
    if name == "set_network":
        return ((prediction - label) ** 2).sum(1).mean()
    weights = torch.tensor([1, 5, 0.5]) if name == "weighted" else 1
    return -(weights * label * prediction).sum(1).mean()


TWINS = {f.__name__: f for f in (two_branch, residual, set_network, huber, weighted)}


def draw(case: CustomCase, rng: np.random.Generator):
    rows, *row_shape = case.input_shape
    if case.haplotypes:
        pool = rng.integers(2, size=(DATASETS, rows // 2 + 1, *row_shape))
        data = np.stack([distinct[rng.integers(len(distinct), size=rows)] for distinct in pool])
    else:
        data = rng.normal(size=(DATASETS, rows, *row_shape))
    shape = DATASETS, *case.output_shape
    labels = np.eye(shape[1])[rng.integers(shape[1], size=DATASETS)] if case.one_hot else rng.normal(size=shape)
    return as_float32(data), as_float32(labels)


def reference(name: str, case: CustomCase) -> dict[str, np.ndarray]:
    """Draw the case until nothing in it is within MARGIN of a corner, and compute all that the file holds."""
    shapes = {n: array.shape for n, array in case.network(seed=1).parameters.items()}
    for attempt in itertools.count():
        rng = np.random.default_rng([attempt, *name.encode()])
        data, labels = draw(case, rng)
        x = torch.tensor(data, dtype=torch.float64).reshape(*data.shape[:3], -1)
        targets = torch.tensor(labels, dtype=torch.float64)
        twin = Twin(shapes, rng)
        output = TWINS[name](twin, x)
        if min(twin.margins, default=math.inf) > MARGIN:
            break
    names, parameters = list(twin.parameters), list(twin.parameters.values())

    def gradients():
        return torch.autograd.grad(loss(name, TWINS[name](twin, x), targets), parameters)

    arrays = {
        "data": data,
        "labels": labels,
        "output": output.detach().numpy(),
        "loss": loss(name, output, targets).detach().numpy(),
    }
    arrays |= {f"initial.{n}": as_float32(p.detach().numpy()) for n, p in zip(names, parameters, strict=True)}
    arrays |= {f"gradient.{n}": g.numpy() for n, g in zip(names, gradients(), strict=True)}
    adam(parameters, gradients, steps=ADAM_STEPS)
    arrays |= {f"trained.{n}": p.detach().numpy() for n, p in zip(names, parameters, strict=True)}
    return arrays


def main() -> None:
    torch.set_num_threads(1)
    folder = FOLDER / "custom"
    folder.mkdir(exist_ok=True)
    for name, case in CUSTOM_CASES.items():
        np.savez_compressed(folder / f"{name}.npz", **reference(name, case))


if __name__ == "__main__":
    main()
