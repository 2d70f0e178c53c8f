"""What the benchmarks share: the data and the hotspot network, timing in turn, and the report."""

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from definetti_np import simulate_example

EXAMPLE = Path(__file__).resolve().parents[1] / "example"
BATCH_SIZE = 50
HOTSPOT = {
    "input_shape": (198, 24, 2),
    "output_shape": (2,),
    "phi_net": [("conv", 5, 32), ("conv", 5, 64)],
    "g": ("top_k", 1),
    "h_net": [("fc", 128), ("fc", 128), ("softmax",)],
}
NARROW_CONTEXT = [
    ("distinct", 6, 12, 18, 24),
    ("effective", 6, 12, 18, 24),
    ("ld", 2, 4, 12),
    ("four_gametes", 2, 4, 12),
]
WARM_UP = 0.2  # seconds
PACKAGES = ("numpy", "numba", "msprime", "torch", "jax", "tensorflow", "tensorflow-cpu")


def hotspot_simulator(snps: int = 24) -> Callable:
    """The original's simulator, a function of a generator, with windows of so many SNPs."""
    simulator_example = example_module("simulator_example")
    rates = simulator_example.read_rates(EXAMPLE / "genetic_map.txt")
    return lambda rng: simulator_example.simulate_data(*rates, rng, snps=snps)


def example_module(name: str):
    """A module of the folder of examples."""
    sys.path.append(str(EXAMPLE))
    return importlib.import_module(name)


def example_network(snps: int = 24) -> dict:
    """The network of the hotspot example for windows of so many SNPs; of 24 it has a context of its own."""
    network = example_module("run_example").NETWORK
    return network if snps > 24 else network | {"context": NARROW_CONTEXT}


def simulate_hotspots(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate examples with msprime; data (number, 198, 24, 2) and labels (number, 2), both float32."""
    simulator = hotspot_simulator()
    data, labels = zip(*[simulate_example(simulator, seed=seed, index=i) for i in range(number)], strict=True)
    return np.array(data, np.float32), np.array(labels, np.float32)


def hotspot_batches(batches: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The data and the labels of batches of hotspot examples."""
    data, labels = simulate_hotspots(batches * BATCH_SIZE, seed)
    return np.split(data, batches), np.split(labels, batches)


def simulate_population(rng, haplotypes: int, length: float):
    """Simulate the tree sequence of haplotypes from one population, `length` bp long."""
    import msprime

    seeds = rng.choice(2**31 - 1, 2, replace=False) + 1
    trees = msprime.sim_ancestry(
        haplotypes, ploidy=1, population_size=2e4, sequence_length=length, recombination_rate=1.25e-8,
        discrete_genome=False, random_seed=seeds[0],
    )  # fmt: skip
    return msprime.sim_mutations(
        trees, rate=1.1e-8, model=msprime.BinaryMutationModel(), discrete_genome=False, random_seed=seeds[1]
    )


def middle_snps(trees, snps: int) -> tuple[np.ndarray, np.ndarray]:
    """Minor alleles (haplotypes, snps) uint8 and positions (snps,) of the SNPs in the middle of a tree sequence."""
    positions = trees.tables.sites.position
    first = np.searchsorted(positions, trees.sequence_length / 2) - snps // 2
    if first < 0 or first + snps > len(positions):
        raise ValueError(f"{len(positions)} SNPs, not {snps} around the middle; simulate a longer region")
    left, right = positions[first], np.nextafter(positions[first + snps - 1], np.inf)
    chosen = np.stack([variant.genotypes for variant in trees.variants(left=left, right=right)], axis=1)
    minor = np.where(chosen.mean(axis=0) < 0.5, chosen, 1 - chosen)
    return minor.astype(np.uint8), positions[first : first + snps]


def with_distances(alleles: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Data (n, W, 2) float32 as in the example: alleles (n, W), and the scaled distances of the SNPs at (W,)."""
    data = np.zeros((*alleles.shape, 2), np.float32)
    data[..., 0] = alleles
    data[:, :-1, 1] = np.diff(positions) * 4 * 1e4 * 1.1e-8
    return data


def use_cores(number: int) -> None:
    """Keep this process, and the threads it will start, on `number` cores."""
    if not hasattr(os, "sched_setaffinity"):
        return  # only the frameworks' own settings bound their threads
    cores = sorted(os.sched_getaffinity(0))
    if number > len(cores):
        sys.exit(f"{number} threads on {len(cores)} cores would tell nothing; choose at most {len(cores)}")
    os.sched_setaffinity(0, cores[:number])


def time_calls(function: Callable, calls: int) -> list[float]:
    """The seconds of ``function(0), function(1), ...`` after calls that are not timed, for `WARM_UP` seconds at least.

    During those the threads of whoever was timed before stop spinning, its own wake up, and caches and clock rates
    become those of a run.
    """
    start = time.perf_counter()
    while True:
        function(calls - 1)
        if time.perf_counter() - start > WARM_UP:
            break
    seconds = []
    for call in range(calls):
        start = time.perf_counter()
        function(call)
        seconds.append(time.perf_counter() - start)
    return seconds


def interleave(turns: Mapping[str, Callable[[int], Sequence[float]]], rounds: int, calls: int) -> dict[str, np.ndarray]:
    """Let candidates take turns, A B A B; return the seconds of each, (rounds, calls).

    A turn is a function of the number of calls that returns the seconds of each, as `time_calls` does.
    """
    seconds = {name: np.empty((rounds, calls)) for name in turns}
    for turn in range(rounds):
        for name, take_turn in turns.items():
            seconds[name][turn] = take_turn(calls)
    return seconds


def show(name: str, values: np.ndarray, unit: str = "ms", scale: float = 1e3) -> list[float]:
    """Print and return the median and the quartiles of measured values."""
    low, median, high = np.percentile(np.asarray(values) * scale, (25, 50, 75))
    print(f"  {name:<44} {median:9.2f} {unit:<10} (quartiles {low:.2f} to {high:.2f})", flush=True)
    return [median, low, high]


def show_ratio(name: str, of: np.ndarray, to: np.ndarray) -> list[float]:
    """Print and return the ratio of the medians of each round, (rounds, calls): median over rounds, and range."""
    ratios = np.median(of, axis=1) / np.median(to, axis=1)
    shown = np.median(ratios), ratios.min(), ratios.max()
    print(f"  {name:<44} {shown[0]:9.2f} {'times':<10} (rounds {shown[1]:.2f} to {shown[2]:.2f})", flush=True)
    return list(shown)


def show_table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print the mean over runs of the numbers of each contender, as a table in Markdown."""
    names = list(next(iter(results.values()))[0])
    print(f"\n| | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|")
    for contender, runs in results.items():
        means = {name: np.mean([run[name] for run in runs]) for name in names}
        shown = [f"{mean:.0f}" if name == "seconds" else f"{mean:.4f}" for name, mean in means.items()]
        print(f"| {contender} | {' | '.join(shown)} |", flush=True)


def machine() -> str:
    """What the numbers depend on: processor, cores, versions and the load by other processes."""
    cpu = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        info = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        info = {key.strip(): value.strip() for key, value in info.items()}
        cpu = info.get("model name", cpu)
        flags = ", AVX-512" if "avx512f" in info.get("flags", "").split() else ""
    text = f"{cpu}{flags}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    for package in PACKAGES:
        try:
            text += f", {package} {version(package)}"
        except PackageNotFoundError:
            pass
    text += f"; load {os.getloadavg()[0]:.2f}"
    if "GLIBC_TUNABLES" in os.environ:
        text += "; GLIBC_TUNABLES=" + os.environ["GLIBC_TUNABLES"]
    return text


def show_machine() -> None:
    print(machine(), flush=True)


def save(path: Path | None, results: Mapping) -> None:
    """Write results as JSON, with the script's name and the machine, for plot.py; nothing without a path."""
    if path is not None:
        content = {"script": Path(sys.argv[0]).stem, "machine": machine(), "results": results}
        path.write_text(json.dumps(content, indent=1, default=float) + "\n")
