"""What the benchmarks share: the hotspot example's data and network, interleaved timing, and the report."""

import importlib
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
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


def simulate_hotspots(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate examples with msprime; data (number, 198, 24, 2) and labels (number, 2), both float32."""
    sys.path.append(str(EXAMPLE))
    simulator_example = importlib.import_module("simulator_example")
    rates = simulator_example.read_rates(EXAMPLE / "genetic_map.txt")

    def simulator(rng):
        return simulator_example.simulate_data(*rates, rng)

    data, labels = zip(*[simulate_example(simulator, seed=seed, index=i) for i in range(number)], strict=True)
    return np.array(data, np.float32), np.array(labels, np.float32)


def import_torch():
    """Import PyTorch, or say how to install it."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        sys.exit("this benchmark compares with PyTorch, which is not installed: pip install torch")


def interleave(candidates: Mapping[str, Callable], rounds: int, calls: int) -> dict[str, np.ndarray]:
    """Time candidates in turn, A B A B; return the seconds of each, (rounds, calls).

    A turn is `calls` timed calls ``candidate(0), candidate(1), ...`` after one that is not timed. During that one the
    threads of the candidate before stop spinning, and its own wake up.
    """
    seconds = {name: np.empty((rounds, calls)) for name in candidates}
    for turn in range(rounds):
        for name, candidate in candidates.items():
            candidate(calls - 1)
            for call in range(calls):
                start = time.perf_counter()
                candidate(call)
                seconds[name][turn, call] = time.perf_counter() - start
    return seconds


def show(name: str, values: np.ndarray, unit: str = "ms", scale: float = 1e3) -> None:
    """Print the median and the quartiles of measured values."""
    low, median, high = np.percentile(values * scale, (25, 50, 75))
    print(f"  {name:<44} {median:9.2f} {unit:<10} (quartiles {low:.2f} to {high:.2f})")


def show_ratio(name: str, of: np.ndarray, to: np.ndarray) -> None:
    """Print the ratio of the medians of each round, (rounds, calls): the median of all rounds, and its range."""
    ratios = np.median(of, axis=1) / np.median(to, axis=1)
    print(f"  {name:<44} {np.median(ratios):9.2f} {'times':<10} (rounds {ratios.min():.2f} to {ratios.max():.2f})")


def show_machine() -> None:
    """Print what the numbers depend on: processor, cores, versions and the load by other processes."""
    cpu = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        info = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        info = {key.strip(): value.strip() for key, value in info.items()}
        cpu = info.get("model name", cpu)
        flags = ", AVX-512" if "avx512f" in info.get("flags", "").split() else ""
    print(f"{cpu}{flags}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}", end="")
    for package in ("numpy", "numba", "msprime", "torch"):
        try:
            print(f", {package} {version(package)}", end="")
        except PackageNotFoundError:
            pass
    print(f"; load {os.getloadavg()[0]:.2f}")
    if "GLIBC_TUNABLES" in os.environ:
        print("GLIBC_TUNABLES=" + os.environ["GLIBC_TUNABLES"])
