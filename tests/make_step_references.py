"""Write tests/references/steps/thirty_steps.npz: what PyTorch's optimiser, schedule and average make, in float64.

Run ``python tests/make_step_references.py`` where PyTorch is installed; the tests themselves do not need it.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

PATH = Path(__file__).parent / "references" / "steps" / "thirty_steps.npz"
STEPS, RATE = 30, 0.01
VARIANTS = {
    "decay": {"weight_decay": 0.3},
    "norm": {"max_gradient_norm": 0.05},
    "average": {"averaging": 0.9},
    "cosine": {"schedule": "cosine"},
    "all": {"weight_decay": 0.3, "max_gradient_norm": 0.05, "averaging": 0.9, "schedule": "cosine"},
}


class Network(torch.nn.Module):
    """Phi is one dense layer, g the mean, h one linear layer."""

    def __init__(self, phi, h):
        super().__init__()
        self.phi, self.h = phi, h

    def forward(self, x):
        return self.h(torch.relu(self.phi(x)).mean(dim=1))


def warm_up_and_cosine(fraction: float) -> float:
    if fraction < 0.05:
        return fraction / 0.05
    return (1 + math.cos(math.pi * (fraction - 0.05) / 0.95)) / 2


def arrays_of(network: Network) -> dict[str, np.ndarray]:
    names = {"phi.weight": "phi.0.weight", "phi.bias": "phi.0.bias", "h.weight": "h.0.weight", "h.bias": "h.0.bias"}
    return {names[name]: p.detach().numpy().T.copy() for name, p in network.named_parameters()}


def train(network: Network, data, labels, *, weight_decay=0.0, max_gradient_norm=None, averaging=None, schedule=None):
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=weight_decay)
    factor = warm_up_and_cosine if schedule else lambda fraction: 1.0
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor((step + 0.5) / STEPS))

    def with_correction(average, weights, number):  # AveragedModel would begin with the first weights alone
        return average + (1 - averaging) / (1 - averaging ** (int(number) + 1)) * (weights - average)

    averaged = AveragedModel(network, avg_fn=with_correction if averaging else None)
    for step in range(STEPS):
        optimizer.zero_grad()
        (network(data[step]) - labels[step]).square().sum(dim=1).mean().backward()
        if max_gradient_norm is not None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()])
            for p in network.parameters():
                p.grad.mul_(min(1.0, float(max_gradient_norm / norm)))
        # TensorFlow 1 has epsilon elsewhere; with this one both are the same.
        optimizer.param_groups[0]["eps"] = 1e-8 / math.sqrt(1 - 0.999 ** (step + 1))
        optimizer.step()
        rates.step()
        averaged.update_parameters(network)
    return averaged.module if averaging else network


def main() -> None:
    rng = np.random.default_rng(1)
    scale = np.exp(rng.normal(0, 1, (STEPS, 1, 1)))  # so that some gradients are longer than others
    data = rng.normal(size=(STEPS, 6, 5, 4))
    labels = rng.normal(size=(STEPS, 6, 3)) * scale
    arrays = {"data": data, "labels": labels}
    for name, options in VARIANTS.items():
        torch.manual_seed(1)
        network = Network(torch.nn.Linear(4, 7), torch.nn.Linear(7, 3)).double()
        arrays |= {f"initial.{key}": array for key, array in arrays_of(network).items()}
        trained = train(network, torch.tensor(data), torch.tensor(labels), **options)
        arrays |= {f"{name}.{key}": array for key, array in arrays_of(trained).items()}
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
