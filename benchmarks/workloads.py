"""Time a training step on other workloads than the hotspot batch against PyTorch, on the same data and threads.

    python benchmarks/workloads.py --threads 2

Many haplotypes, continuous rows in which nothing repeats, and the default network with max, moments and sort. See
hotspot_step.py for how the two are compared.
"""

import argparse

import numpy as np
from common import HOTSPOT, import_torch, interleave, show, show_machine, show_ratio

from definetti_np import MultisetBatch, Network, Trainer

torch = import_torch()
DEFAULT = {"input_shape": (100, 1), "output_shape": (2,), "phi_net": [("fc", 1024), ("fc", 1024)]}
REGRESSION = [("fc", 512), ("matmul",)]
MOMENTS = (1, 2)


class TorchNetwork(torch.nn.Module):
    """The same network with the same weights, on data (B, n, W, C), in channels-last layout."""

    def __init__(self, network: Network):
        super().__init__()
        self.spec = network.spec
        for name, array in network.parameters.items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.from_numpy(array.copy())))

    def layer(self, layer, x):
        name = layer.name.replace(".", "_")
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        if layer.kind == "conv":
            x = x.permute(0, 3, 1, 2)  # a view: the channels stay last in memory
            return torch.relu(torch.nn.functional.conv2d(x, weight.permute(2, 1, 0).unsqueeze(2), bias)).permute(
                0, 2, 3, 1
            )
        x = x.flatten(-2) @ weight + bias
        return torch.relu(x).unsqueeze(-1) if layer.kind == "fc" else x

    def forward(self, x):
        for layer in self.spec.phi_layers:
            x = self.layer(layer, x)
        kind = self.spec.pooling.kind
        if kind == "moments":
            x = torch.stack([x.pow(m).mean(1) for m in self.spec.pooling.orders], -2)
        elif kind == "sort":
            x = x.sort(1, descending=True).values.transpose(1, 2)
        else:
            pooled = torch.nn.functional.max_pool2d(x.permute(0, 3, 1, 2), (x.shape[1], 1))
            x = pooled.permute(0, 2, 3, 1).transpose(1, 2)
        x = x.flatten(2)
        for layer in self.spec.h_layers[:-1]:
            x = self.layer(layer, x)
        x = self.layer(self.spec.h_layers[-1], x)
        return torch.log_softmax(x, 1) if self.spec.ends_in_softmax else x


class TorchTrainer:
    """Training steps in PyTorch."""

    def __init__(self, network: Network, data, labels):
        self.network = TorchNetwork(network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001, fused=True)
        data = data if data.ndim == 4 else data[..., np.newaxis]
        self.data, self.labels = torch.from_numpy(data), torch.from_numpy(labels)

    def step(self) -> float:
        self.optimizer.zero_grad()
        out = self.network(self.data)
        softmax = self.network.spec.ends_in_softmax
        loss = -(self.labels * out).sum(1).mean() if softmax else ((out - self.labels) ** 2).sum(1).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def haplotypes(rng, datasets: int, rows: int) -> np.ndarray:
    """Datasets (datasets, rows, 24, 2) of msprime haplotypes from one population, distances in channel 1."""
    import msprime

    out = np.zeros((datasets, rows, 24, 2), np.float32)
    for dataset in out:
        seeds = rng.choice(2**31 - 1, 2, replace=False) + 1
        trees = msprime.sim_ancestry(
            rows, ploidy=1, population_size=2e4, sequence_length=52_000, recombination_rate=1.25e-8,
            discrete_genome=False, random_seed=seeds[0],
        )  # fmt: skip
        trees = msprime.sim_mutations(
            trees, rate=1.1e-8, model=msprime.BinaryMutationModel(), discrete_genome=False, random_seed=seeds[1]
        )
        genotypes, positions = trees.genotype_matrix(), trees.tables.sites.position
        first = np.searchsorted(positions, 26_000) - 12
        chosen = genotypes[first : first + 24].T
        dataset[..., 0] = np.where(chosen.mean(axis=0) < 0.5, chosen, 1 - chosen)
        dataset[:, :-1, 1] = np.diff(positions[first : first + 24]) * 4 * 1e4 * 1.1e-8
    return out


def workloads(rng):
    """Name, network, data and labels of each workload."""
    hotspot = {key: HOTSPOT[key] for key in ("output_shape", "phi_net", "h_net")}
    one_hot = np.eye(2, dtype=np.float32)
    many = {"input_shape": (None, 24, 2), "g": ("max",), **hotspot}
    yield "10,000 haplotypes, batch 8", many, haplotypes(rng, 8, 10_000), one_hot[rng.integers(0, 2, 8)]
    continuous = rng.standard_normal((50, 198, 24, 2)).astype(np.float32)
    yield "continuous rows, hotspot network", many, continuous, one_hot[rng.integers(0, 2, 50)]
    labels = np.column_stack([rng.beta(5, 10, 50), rng.uniform(6, 10, 50)]).astype(np.float32)
    gaussian = rng.normal(labels[:, :1], labels[:, 1:], (50, 100))[..., np.newaxis].astype(np.float32)
    for g in (("max",), ("moments", *MOMENTS), ("sort",)):
        yield f"default network, Gaussian, {g[0]}", {**DEFAULT, "g": g, "h_net": REGRESSION}, gaussian, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="number of threads (default 2)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate (default 7)")
    options = parser.parse_args()

    show_machine()
    for name, description, data, labels in workloads(np.random.default_rng(1)):
        print(name)
        compare(description, data, labels, options.threads, options.rounds)


def compare(description: dict, data, labels, threads: int, rounds: int) -> None:
    networks = [Network(**description, seed=1) for _ in range(2)]
    loss = "cross-ent" if networks[0].spec.ends_in_softmax else "l2"
    ours, on_multiset = (Trainer(network, loss=loss, threads=threads) for network in networks)
    batch, peer = MultisetBatch.from_datasets(data), TorchTrainer(networks[0], data, labels)

    def torch_step(_):
        torch.set_num_threads(threads)  # Numba's first parallel loop changes it
        return peer.step()

    candidates = {
        "ours, dense arrays": lambda _: ours.step(data, labels)[0],
        "ours, MultisetBatch": lambda _: on_multiset.step(batch, labels)[0],
        "PyTorch": torch_step,
    }
    losses = [candidate(0) for candidate in candidates.values()]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-4)
    seconds = interleave(candidates, rounds, 2)
    for candidate in candidates:
        show(candidate, seconds[candidate])
    for candidate in list(candidates)[:2]:
        show_ratio(f"PyTorch / {candidate}", seconds["PyTorch"], seconds[candidate])


if __name__ == "__main__":
    main()
