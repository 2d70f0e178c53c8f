"""Are the hotspot example's probabilities calibrated? As trained, with a temperature, and those of an ensemble.

    python benchmarks/calibration.py --folder simulations --seeds 1 2 3

Trains as the example does. The temperature is found on 5,000 simulations, and all are checked on 5,000 others. The
folder keeps simulations, as for accuracy.py: what it has is not simulated again.
"""

import argparse
from pathlib import Path

import common
from accuracy import HELD_OUT, HELD_OUT_SEED, find_hotspots
from simulations import Simulations, train_network

from definetti_np import augment, calibrate, diagnostics, ensemble
from definetti_np.cores import available_cores

CALIBRATION, CALIBRATION_SEED = 5_000, 998
OPTIONS = {"reuse": 9, "augment": augment.mirror(1), "schedule": "cosine"}


def measure(model, test: Simulations, threads: int) -> dict[str, float]:
    """What a check says of a model."""
    report = diagnostics.check(
        model, test.simulator, HELD_OUT, seed=HELD_OUT_SEED, sim_threads=0, threads=threads
    ).to_dict()
    return {
        "calibration error": report["calibration_error"],
        "p": report["p_value"],
        "accuracy": report["accuracy"],
        "cross-entropy": -report["log_score"],
        "Brier": report["brier"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("simulations"), help="where the simulations are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=25_000, help="to train on, for each seed")
    parser.add_argument("--snps", type=int, default=24, help="of the windows, as the original has them")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    common.show_machine()
    find, network = find_hotspots(options.folder, options.snps), common.example_network(options.snps)
    test = Simulations(find(HELD_OUT_SEED, HELD_OUT, options.threads), HELD_OUT)
    fresh = Simulations(find(CALIBRATION_SEED, CALIBRATION, options.threads), CALIBRATION)
    results: dict[str, list] = {"as trained": [], "calibrated": []}

    def show(name: str, model, which: str = "") -> None:
        found = measure(model, test, options.threads)
        results.setdefault(name, []).append(found)
        print(f"{name}{which}: " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)

    models = []
    for seed in options.seeds:
        train = Simulations(find(seed, options.examples, options.threads), options.examples)
        model, _ = train_network({**train.shapes, **network}, train, seed, options.threads, **OPTIONS)
        models.append(model)
        show("as trained", model, f", seed {seed}")
        temperature = calibrate(
            model, fresh.simulator, CALIBRATION, seed=CALIBRATION_SEED, sim_threads=0, threads=options.threads
        )
        show("calibrated", model, f", seed {seed}, temperature {temperature:.3f}")
    if len(models) > 1:
        show("ensemble of the calibrated", ensemble(models))
        for model in models:
            model.temperature = None
        show("ensemble as trained", ensemble(models))
    common.show_table(results)
    common.save(options.json, results)


if __name__ == "__main__":
    main()
