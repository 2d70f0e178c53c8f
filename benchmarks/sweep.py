"""What a step costs by sample size, SNPs and network: a sweep, a cost model, and its check.

    python benchmarks/sweep.py --threads 1 --json sweep.json

The model's terms are counts of a batch: cells read of dense arrays, cells of distinct rows times layers, multiply-adds
of distinct windows, and weights. Their coefficients, not negative, are fitted to half of the measurements by least
squares of the relative error, and checked on the other half and on the example's batch, whose simulations are timed
too: how many simulator cores can one trainer core keep up with? The datasets of the sweep are simulated once and kept
in the --cache file.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
from common import (
    BATCH_SIZE,
    HOTSPOT,
    hotspot_batches,
    hotspot_simulator,
    middle_snps,
    save,
    show_machine,
    simulate_population,
    time_calls,
    use_cores,
    with_distances,
)
from peers import OURS, Job, Ours

HAPLOTYPES = (20, 60, 200, 600, 2_000, 6_000, 20_000)
SNPS = (24, 64, 128, 256, 512)
REGION = 700_000  # bp: 512 SNPs even of 20 haplotypes
BATCHES = (4, 16)  # datasets in a batch: what grows with them is told from what the network alone costs
MOST_HAPLOTYPES = 2_000  # of the larger batches
NETWORKS = {"example": (32, 64), "twice as deep": (64, 128)}  # depths of the two convolutions
TWICE_AS_DEEP_FOR = (200, 6_000)  # haplotypes
TERMS = ("step", "dense cell", "distinct cell x layer", "multiply-add of distinct windows", "weight")


def datasets(cache: Path, haplotypes, seed: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Alleles (B, n, 512) and positions (B, 512) for each sample size n, simulated or from the cache.

    B is the largest of `BATCHES`, or the smallest for more than `MOST_HAPLOTYPES`.
    """
    if not cache.exists():
        rng, arrays = np.random.default_rng(seed), {}
        few = max((n for n in haplotypes if n <= MOST_HAPLOTYPES), default=0)
        sizes = [max(haplotypes)] * min(BATCHES) + [few] * (max(BATCHES) - min(BATCHES))
        trees = [simulate_population(rng, size, REGION) for size in sizes if size]
        for n in haplotypes:  # a sample of a sample of the population is one of the population
            chosen = trees if n <= MOST_HAPLOTYPES else trees[: min(BATCHES)]
            alleles, positions = zip(*[middle_snps(t.simplify(range(n)), max(SNPS)) for t in chosen], strict=True)
            arrays[f"alleles {n}"], arrays[f"positions {n}"] = np.stack(alleles), np.stack(positions)
        np.savez_compressed(cache, **arrays)
    with np.load(cache) as arrays:
        return {n: (arrays[f"alleles {n}"], arrays[f"positions {n}"]) for n in haplotypes}


def batch(alleles: np.ndarray, positions: np.ndarray, snps: int) -> np.ndarray:
    """Data (B, n, snps, 2) of the middle SNPs; alleles (B, n, 512) and positions (B, 512)."""
    middle = slice((max(SNPS) - snps) // 2, (max(SNPS) + snps) // 2)
    return np.stack([with_distances(a[:, middle], p[middle]) for a, p in zip(alleles, positions, strict=True)])


def network(depths: tuple[int, int], snps: int) -> dict:
    phi_net = [("conv", 5, depth) for depth in depths]
    return HOTSPOT | {"input_shape": (None, snps, 2), "phi_net": phi_net, "g": ("max",)}


def measure(job: Job, threads: int, calls: int) -> dict:
    """Counts of a batch, and the seconds of steps on it of each form of ours."""
    from definetti_np import MultisetBatch
    from definetti_np.engine.features import RowFeatures
    from definetti_np.ops.dense_conv import RELU, conv_layer

    rows = MultisetBatch.from_datasets(job.data[0])
    point = {"B": len(rows), "n": job.data[0].shape[1], "W": job.data[0].shape[2], "U": len(rows.rows), "D": []}
    point["multiply-adds"] = 0
    for name, form in OURS.items():
        ours = Ours(job, form, threads)
        point[name] = time_calls(lambda _: ours.step(0), calls)  # noqa: B023
    features, parameters = RowFeatures.from_batch(rows), ours.trainer.network.flat.by_name
    for layer in job.spec.phi_layers:
        weight = parameters[f"{layer.name}.weight"]
        features = conv_layer(features, weight, parameters[f"{layer.name}.bias"], RELU)
        point["D"].append(len(features.values.array))
        point["multiply-adds"] += point["D"][-1] * weight.array.size
    point["weights"] = ours.trainer.network.flat.weights.size
    return point


def terms(point: dict, form: str) -> list[float]:
    """The values of `TERMS` for a step."""
    dense = point["B"] * point["n"] * point["W"] if "dense" in form else 0
    return [1, dense, point["U"] * point["W"] * len(point["D"]), point["multiply-adds"], point["weights"]]


def fit(values: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Coefficients >= 0 with the least sum of squared relative errors: the best of all choices of terms."""
    best, least = None, np.inf
    scaled = values / seconds[:, np.newaxis]
    for size in range(1, values.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(values.shape[1]), size)):
            unit = np.abs(scaled[:, chosen]).max(axis=0)
            solution = np.linalg.lstsq(scaled[:, chosen] / unit, np.ones(len(seconds)), rcond=None)[0] / unit
            coefficients = np.zeros(values.shape[1])
            coefficients[chosen] = solution
            error = np.sum((scaled @ coefficients - 1) ** 2)
            if (solution >= 0).all() and error < least:
                best, least = coefficients, error
    return best


def example_costs(threads: int, calls: int, examples: int = 200) -> tuple[dict, float, float]:
    """Counts and steps of the example's batch; seconds per example of simulating, and of all that the trainer does."""
    from definetti_np.simulation.messages import decode, encode
    from definetti_np.simulation.source import ExampleSource
    from definetti_np.simulation.stream import assemble

    job = Job.of(HOTSPOT, *hotspot_batches(1, seed=1))
    point = measure(job, threads, calls)
    source = ExampleSource(hotspot_simulator(), 1, job.spec, "cross-ent")
    start = time.perf_counter()
    messages = [encode(index, source.example(index)) for index in range(examples)]
    simulating = (time.perf_counter() - start) / examples
    messages = messages[:BATCH_SIZE]
    assembling = np.median(time_calls(lambda _: assemble([decode(m, source) for m in messages]), 20)) / BATCH_SIZE
    training = np.median(point["ours, MultisetBatch"]) / BATCH_SIZE + assembling
    return point, simulating, training


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="number of threads (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="times each batch is measured, in turn (default 3)")
    parser.add_argument("--calls", type=int, default=5, help="steps in a turn (default 5)")
    parser.add_argument("--haplotypes", type=int, nargs="+", default=HAPLOTYPES, help="sample sizes")
    parser.add_argument("--snps", type=int, nargs="+", default=SNPS, help="numbers of SNPs, at most 512")
    parser.add_argument(
        "--cache", type=Path, help="file of the simulations (default: in the folder for temporary files)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations (default 1)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    use_cores(options.threads)  # before Numba is loaded
    show_machine()
    name = "_".join(map(str, ("definetti_np_sweep", options.seed, *options.haplotypes))) + ".npz"
    data = datasets(options.cache or Path(tempfile.gettempdir()) / name, options.haplotypes, options.seed)
    points = sweep(data, options)
    results = check(points)
    results["example"] = predict_example(results["coefficients"], options)
    save(options.json, results | {"points": points, "threads": options.threads})


def sweep(data: dict, options) -> list[dict]:
    """Measure every batch, `rounds` times, all in turn."""
    points = {}
    for turn in range(options.rounds):
        grid = itertools.product(options.haplotypes, options.snps, BATCHES, NETWORKS)
        for key in grid:
            n, snps, size, title = key
            if title != "example" and n not in TWICE_AS_DEEP_FOR or size > len(data[n][0]):
                continue
            labels = np.eye(2, dtype=np.float32)[np.arange(size) % 2]
            datasets_of_batch = batch(*(part[:size] for part in data[n]), snps)
            job = Job.of(network(NETWORKS[title], snps), [datasets_of_batch], [labels])
            point = measure(job, options.threads, options.calls)
            if turn == 0:
                points[key] = point | {"network": title}
            else:
                for form in OURS:
                    points[key][form] += point[form]
    print(
        f"{'B':>3} {'n':>6} {'W':>4} {'U':>7} {'cells':>9} {'D1':>7} {'D2':>7} {'weights':>9}  milliseconds of a step"
    )
    for point in points.values():
        milliseconds = ", ".join(f"{form} {1e3 * np.median(point[form]):.2f}" for form in OURS)
        sizes = f"{point['B']:3} {point['n']:6} {point['W']:4} {point['U']:7} {point['U'] * point['W']:9}"
        print(f"{sizes} {point['D'][0]:7} {point['D'][1]:7} {point['weights']:9}  {milliseconds}")
    return list(points.values())


def check(points: list[dict]) -> dict:
    """Fit the model to half of the batches, in random order, and say how far off it is on the other half."""
    order = np.random.default_rng(1).permutation(len(points))
    values = np.array([[terms(points[i], form) for form in OURS] for i in order], float)
    seconds = np.array([[np.median(points[i][form]) for form in OURS] for i in order])
    half = len(order) // 2
    coefficients = fit(values[:half].reshape(-1, len(TERMS)), seconds[:half].ravel())
    print("\nnanoseconds per")
    for term, coefficient in zip(TERMS, coefficients, strict=True):
        print(f"  {term:<44} {1e9 * coefficient:12.3f}")
    errors = np.abs(values @ coefficients / seconds - 1)
    shown = {}
    for title, part in (("fitted half", errors[:half]), ("other half", errors[half:])):
        shown[title] = {"median": np.median(part), "worst": part.max()}
        print(f"  relative error, {title}: median {np.median(part):.1%}, worst {part.max():.1%}")
    return {"terms": TERMS, "coefficients": coefficients.tolist(), "errors": shown}


def predict_example(coefficients: list[float], options) -> dict:
    """The example's batch, not part of the sweep: the model's step and the real one; and what a trainer core feeds."""
    point, simulating, training = example_costs(options.threads, options.rounds * options.calls)
    print("\nthe example's batch")
    shown = {}
    for form in OURS:
        predicted, measured = np.dot(coefficients, terms(point, form)), np.median(point[form])
        shown[form] = {"predicted": predicted, "measured": measured}
        print(f"  {form:<44} {1e3 * measured:9.2f} ms, by the model {1e3 * predicted:.2f} ms")
    print(f"  {1e3 * simulating:.2f} ms to simulate an example, {1e3 * training:.3f} ms to train on it", end="")
    print(f": {options.threads} trainer core(s) keep up with {simulating / training:.0f} simulator cores")
    return shown | {"simulating": simulating, "training": training, "cores": simulating / training}


if __name__ == "__main__":
    main()
