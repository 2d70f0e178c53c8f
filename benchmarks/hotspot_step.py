"""Time a training step and a prediction of the hotspot network against the same network in PyTorch.

    python benchmarks/hotspot_step.py --threads 1 2

Same data (msprime simulations), same initial weights, same number of threads, in the same process and in turn. Of
several ways to write the network in PyTorch the fastest one is taken. PyTorch allocates tens of megabytes in each
step, and is up to twice as fast if glibc keeps freed memory instead of returning it to the system; ours gains nothing:

    export GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592
"""

import argparse
import itertools

import numpy as np
from common import BATCH_SIZE, HOTSPOT, import_torch, interleave, show, show_machine, show_ratio, simulate_hotspots

from definetti_np import Model, MultisetBatch, Network, Trainer

torch = import_torch()
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
POOLINGS = {
    "amax": lambda x: x.amax(2),
    "topk": lambda x: x.topk(1, 2).values.squeeze(2),
    "max_pool2d": lambda x: torch.nn.functional.max_pool2d(x, (x.shape[2], 1)).squeeze(2),
}
TRIALS = 2  # rounds in which the fastest PyTorch is found


class TorchNetwork(torch.nn.Module):
    """The hotspot network with the weights of ours; from data (B, C, n, W) to log-probabilities (B, 2)."""

    def __init__(self, network: Network, pooling):
        super().__init__()
        self.pooling = pooling
        self.phi = torch.nn.ModuleList([torch.nn.Conv2d(2, 32, (1, 5)), torch.nn.Conv2d(32, 64, (1, 5))])
        self.h = torch.nn.ModuleList(
            [torch.nn.Linear(16 * 64, 128), torch.nn.Linear(128, 128), torch.nn.Linear(128, 2)]
        )
        ours = {name: torch.from_numpy(array) for name, array in network.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 1:
                    parameter.copy_(ours[name])
                elif parameter.ndim == 2:
                    parameter.copy_(ours[name].T)
                else:
                    parameter.copy_(ours[name].permute(2, 1, 0).unsqueeze(2))

    def forward(self, x):
        for layer in self.phi:
            x = torch.relu(layer(x))
        x = self.pooling(x).transpose(1, 2).flatten(1)  # positions slowest, as ours
        for layer in self.h[:-1]:
            x = torch.relu(layer(x))
        return torch.log_softmax(self.h[-1](x), dim=1)


class TorchTrainer:
    """Training steps and predictions in PyTorch, with the data in one memory layout."""

    def __init__(self, network: Network, data, labels, threads: int, layout, pooling):
        self.threads = threads
        self.network = TorchNetwork(network, pooling).to(memory_format=layout)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.001, fused=True)
        self.data = [torch.from_numpy(d).permute(0, 3, 1, 2).contiguous(memory_format=layout) for d in data]
        self.labels = [torch.from_numpy(y) for y in labels]

    def step(self, i: int) -> float:
        torch.set_num_threads(self.threads)  # each time: Numba sets it too, when its threads start
        self.optimizer.zero_grad()
        loss = -(self.labels[i] * self.network(self.data[i])).sum(dim=1).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, i: int) -> np.ndarray:
        torch.set_num_threads(self.threads)
        with torch.no_grad():
            return self.network(self.data[i]).exp().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each candidate (default 10)")
    parser.add_argument("--batches", type=int, default=4, help="batches, and steps in a turn (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations and weights (default 1)")
    options = parser.parse_args()

    show_machine()
    data, labels = simulate_hotspots(options.batches * BATCH_SIZE, options.seed)
    data, labels = np.split(data, options.batches), np.split(labels, options.batches)
    multisets = [MultisetBatch.from_datasets(d) for d in data]
    distinct = sum(len(m.rows) for m in multisets) / (options.batches * BATCH_SIZE)
    print(f"{options.batches} batches of {BATCH_SIZE} x 198 x 24 x 2, {distinct:.1f} distinct rows per dataset")
    for threads in options.threads:
        compare(data, multisets, labels, threads, options.rounds, options.seed)


def compare(data, multisets, labels, threads: int, rounds: int, seed: int) -> None:
    dense, multiset = (Trainer(Network(**HOTSPOT, seed=seed), threads=threads) for _ in range(2))
    model = Model(dense.network, loss="cross-ent", seed=seed, batches_trained=0)
    peers = {}
    for layout, pooling in itertools.product(LAYOUTS, POOLINGS):
        options = threads, LAYOUTS[layout], POOLINGS[pooling]
        peers[f"PyTorch, {layout}, {pooling}"] = TorchTrainer(dense.network, data, labels, *options)
    predictions = {
        "ours, dense arrays": lambda i: model.predict(data[i], threads),
        "ours, MultisetBatch": lambda i: model.predict(multisets[i], threads),
    }
    steps = {
        "ours, dense arrays": lambda i: dense.step(data[i], labels[i])[0],
        "ours, MultisetBatch": lambda i: multiset.step(multisets[i], labels[i])[0],
    }
    torch_predictions = {name: peer.predict for name, peer in peers.items()}
    torch_steps = {name: peer.step for name, peer in peers.items()}

    print(f"\n{threads} thread(s)")
    check_equal(predictions | torch_predictions)
    losses = list(check_equal(steps | torch_steps).values())  # moves the weights: after the predictions
    print(f"loss of the first batch: {losses[0]:.7f}, and in PyTorch {min(losses[2:]):.7f} to {max(losses[2:]):.7f}")
    for title, ours, theirs in (("training step", steps, torch_steps), ("prediction", predictions, torch_predictions)):
        print(title)
        trial = interleave(theirs, TRIALS, len(data))
        for name in theirs:
            show(f"trial: {name}", trial[name])
        peer = min(theirs, key=lambda name: np.median(trial[name]))
        seconds = interleave(ours | {peer: theirs[peer]}, rounds, len(data))
        for name in seconds:
            show(name, seconds[name])
        for name in ours:
            show_ratio(f"PyTorch / {name}", seconds[peer], seconds[name])


def check_equal(candidates: dict) -> dict:
    """Return what each candidate computes of the first batch; fail unless it is the same, to float32 rounding."""
    results = {name: candidate(0) for name, candidate in candidates.items()}
    first = next(iter(results.values()))
    for name, result in results.items():
        np.testing.assert_allclose(result, first, rtol=1e-5, err_msg=name)
    return results


if __name__ == "__main__":
    main()
