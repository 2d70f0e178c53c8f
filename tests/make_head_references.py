"""Write references of heads that PyTorch computes in float64: densities, gradients, samples of given uniforms.

    python tests/make_head_references.py

It needs PyTorch; the tests that read the references do not.
"""

from pathlib import Path

import numpy as np
import torch

REFERENCES = Path(__file__).parent / "references" / "heads"
NODES, LAYERS = 48, 2
LOW, HIGH = np.array([-1.0, 10.0, 0.0]), np.array([2.0, 30.0, 0.5])


def knots(raw, least=1e-3):
    sizes = least + (1 - least * raw.shape[-1]) * torch.softmax(raw, -1)
    return torch.cat([torch.zeros_like(sizes[..., :1]), torch.cumsum(sizes, -1)], -1)


def spline(x, parameters, *, inverse=False):
    """Durkan et al. 2019, equations 4 to 8, on the unit interval; returns the value and the log slope."""
    bins = (parameters.shape[-1] - 1) // 3
    across, up = knots(parameters[..., :bins]), knots(parameters[..., bins : 2 * bins])
    slopes = 1e-3 + torch.nn.functional.softplus(parameters[..., 2 * bins :] + np.log(np.expm1(1 - 1e-3)))
    inner = (up if inverse else across)[..., 1:-1]
    k = (x[..., None] >= inner).sum(-1, keepdim=True)
    x0, x1, y0, y1 = (t.gather(-1, k + i)[..., 0] for t in (across, up) for i in (0, 1))
    d0, d1 = (slopes.gather(-1, k + i)[..., 0] for i in (0, 1))
    s = (y1 - y0) / (x1 - x0)
    if inverse:
        a = (y1 - y0) * (s - d0) + (x - y0) * (d1 + d0 - 2 * s)
        b = (y1 - y0) * d0 - (x - y0) * (d1 + d0 - 2 * s)
        c = -s * (x - y0)
        return x0 + (x1 - x0) * 2 * c / (-b - torch.sqrt(b**2 - 4 * a * c))
    z = (x - x0) / (x1 - x0)
    below = s + (d1 + d0 - 2 * s) * z * (1 - z)
    value = y0 + (y1 - y0) * (s * z**2 + d0 * z * (1 - z)) / below
    return value, torch.log(s**2 * (d1 * z**2 + 2 * s * z * (1 - z) + d0 * (1 - z) ** 2) / below**2)


def conditioner(x, own, layer, i, labels, number):
    start = (layer * number + i) * NODES
    first = x[..., start : start + NODES] + own[f"start.{layer}"][i * NODES : (i + 1) * NODES]
    for j in range(i):
        first = first + (2 * labels[..., j, None] - 1) * own[f"labels.{layer}"][j, i * NODES : (i + 1) * NODES]
    hidden = torch.relu(torch.relu(first) @ own[f"weight.{layer}.0"] + own[f"bias.{layer}.0"])
    return hidden @ own[f"weight.{layer}.1"] + own[f"bias.{layer}.1"]


def spline_reference(rng, number=3, bins=5, datasets=4, samples=7):
    own = {}
    for layer in range(LAYERS):
        own[f"start.{layer}"] = rng.normal(size=number * NODES)
        own[f"labels.{layer}"] = rng.normal(size=(number, number * NODES))
        own[f"weight.{layer}.0"] = rng.normal(size=(NODES, NODES)) / 6
        own[f"weight.{layer}.1"] = rng.normal(size=(NODES, 3 * bins + 1)) / 8
        own[f"bias.{layer}.0"] = rng.normal(size=NODES)
        own[f"bias.{layer}.1"] = rng.normal(size=3 * bins + 1)
    x, unit = rng.normal(size=(datasets, LAYERS * number * NODES)), rng.random((datasets, number))
    uniform = rng.random((samples, number))
    t = {role: torch.tensor(value, requires_grad=True) for role, value in own.items()}
    tx = torch.tensor(x, requires_grad=True)
    labels, logs = torch.tensor(unit), 0
    for layer in range(LAYERS):
        columns = []
        for i in range(number):
            value, slope = spline(labels[:, i], conditioner(tx, t, layer, i, labels, number))
            columns.append(value)
            logs = logs + slope
        labels = torch.stack(columns[::-1], -1)
    logs = logs - np.log(HIGH - LOW).sum()
    (-logs.mean()).backward()
    drawn = []
    with torch.no_grad():
        for b in range(datasets):
            values = torch.tensor(uniform)
            for layer in (1, 0):
                values, found = values.flip(-1), torch.zeros(samples, number, dtype=torch.float64)
                for i in range(number):
                    parameters = conditioner(tx[b].expand(samples, -1), t, layer, i, found, number)
                    found[:, i] = spline(values[:, i], parameters, inverse=True)
                values = found
            drawn.append(LOW + values.numpy() * (HIGH - LOW))
    gradients = {f"to {role}": tensor.grad.numpy() for role, tensor in t.items()}
    arrays = {f"own {role}": value for role, value in own.items()} | gradients
    return arrays | {
        "x": x, "labels": LOW + unit * (HIGH - LOW), "log_density": logs.detach().numpy(), "to_x": tx.grad.numpy(),
        "uniform": uniform, "samples": np.stack(drawn),
    }  # fmt: skip


def mixture_reference(rng, components, number=3, datasets=4):
    weights = components if components > 1 else 0
    each = number * (number + 1) // 2
    x = rng.normal(size=(datasets, weights + components * (number + each))) / 2
    labels = LOW + rng.random((datasets, number)) * (HIGH - LOW)
    tx = torch.tensor(x, requires_grad=True)
    logits = tx[:, :components] if weights else torch.zeros(datasets, 1, dtype=torch.float64)
    means = tx[:, weights : weights + components * number].reshape(datasets, components, number)
    factors = torch.zeros(datasets, components, number, number, dtype=torch.float64)
    rows, columns = np.tril_indices(number)
    factors[:, :, rows, columns] = tx[:, weights + components * number :].reshape(datasets, components, each)
    diagonal = torch.diagonal(factors, dim1=-2, dim2=-1)
    factors = factors - torch.diag_embed(diagonal) + torch.diag_embed(diagonal.exp())
    precision = factors @ factors.transpose(-1, -2)
    half = (HIGH - LOW) / 2
    scaled = torch.tensor((labels - LOW) / half - 1)
    normal = torch.distributions.MultivariateNormal(means, precision_matrix=precision)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), normal)
    logs = mixture.log_prob(scaled) - np.log(half).sum()
    (-logs.mean()).backward()
    mean = LOW + (mixture.mean.detach().numpy() + 1) * half
    std = mixture.variance.detach().numpy() ** 0.5 * half
    found = {"log_density": logs.detach().numpy(), "to_x": tx.grad.numpy(), "mean": mean, "std": std}
    return {"x": x, "labels": labels} | found


def main():
    REFERENCES.mkdir(exist_ok=True)
    torch.manual_seed(0)
    np.savez_compressed(REFERENCES / "spline.npz", **spline_reference(np.random.default_rng(1)))
    np.savez_compressed(REFERENCES / "gaussian.npz", **mixture_reference(np.random.default_rng(2), 1))
    np.savez_compressed(REFERENCES / "mixture.npz", **mixture_reference(np.random.default_rng(3), 3))


if __name__ == "__main__":
    main()
