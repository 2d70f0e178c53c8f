"""Time a training step on other workloads than the hotspot batch against PyTorch, JAX and TensorFlow.

    python benchmarks/workloads.py --threads 2 --json workloads.json

Many haplotypes, and what they cost relative to few; continuous rows, in which nothing repeats; and the default network
with max, moments and sort. See comparison.py for how they are compared.
"""

import argparse
import functools
from pathlib import Path

import numpy as np
from common import (
    HOTSPOT,
    interleave,
    middle_snps,
    save,
    show,
    show_machine,
    show_ratio,
    simulate_population,
    with_distances,
)
from comparison import Contender, compare
from peers import Job, Ours
from processes import in_processes

MANY = HOTSPOT | {"input_shape": (None, 24, 2), "g": ("max",)}
DEFAULT = {"input_shape": (100, 1), "output_shape": (2,), "phi_net": [("fc", 1024), ("fc", 1024)]}
REGRESSION = [("fc", 512), ("matmul",)]
FEW, HAPLOTYPES = 198, 10_000
ONE_HOT = np.eye(2, dtype=np.float32)


def haplotypes(rng, rows: int) -> Job:
    """A batch of 8 datasets (rows, 24, 2) of msprime haplotypes from one population."""
    data = [with_distances(*middle_snps(simulate_population(rng, rows, 52_000), 24)) for _ in range(8)]
    return Job.of(MANY, [np.stack(data)], [ONE_HOT[rng.integers(0, 2, 8)]])


def workloads(rng):
    """The name and the job of each workload."""
    yield f"{HAPLOTYPES:,} haplotypes, batch 8", haplotypes(rng, HAPLOTYPES)
    continuous = rng.standard_normal((50, 198, 24, 2)).astype(np.float32)
    yield "continuous rows, hotspot network", Job.of(MANY, [continuous], [ONE_HOT[rng.integers(0, 2, 50)]])
    labels = np.column_stack([rng.beta(5, 10, 50), rng.uniform(6, 10, 50)]).astype(np.float32)
    gaussian = rng.normal(labels[:, :1], labels[:, 1:], (50, 100))[..., np.newaxis].astype(np.float32)
    for g in (("max",), ("moments", 1, 2), ("sort",)):
        description = DEFAULT | {"g": g, "h_net": REGRESSION}
        yield f"default network, Gaussian, {g[0]}", Job.of(description, [gaussian], [labels])


def sample_size(threads: int, rounds: int) -> dict:
    """What a step on many haplotypes costs relative to one on few, of the same network and number of datasets."""
    print(f"\nsteps of 8 datasets on a MultisetBatch, {threads} thread(s)")
    rng = np.random.default_rng(2)
    candidates = {
        f"{rows:,} haplotypes": (Contender, Ours, ["MultisetBatch"], haplotypes(rng, rows), threads)
        for rows in (FEW, HAPLOTYPES)
    }
    with in_processes(candidates, threads) as processes:
        for process in processes.values():
            process.ask("trial", "step")
        turns = {name: functools.partial(process.ask, "turn", "step") for name, process in processes.items()}
        seconds = interleave(turns, rounds, 10)
    few, many = seconds
    return {
        "milliseconds": {name: show(name, seconds[name]) for name in seconds},
        "ratio": show_ratio(f"{many} / {few}", seconds[many], seconds[few]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="number of threads (default 2)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each candidate (default 7)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    results = {"sample size": sample_size(options.threads, options.rounds)}
    jobs = workloads(np.random.default_rng(1))
    results["comparisons"] = [compare(name, job, options.threads, options.rounds) for name, job in jobs]
    save(options.json, results)


if __name__ == "__main__":
    main()
