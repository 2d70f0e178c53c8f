"""Draw what goes into the hotspot example and what comes out of it: docs/hotspot.png.

python example/run_example.py --seed 1 && python docs/draw_hotspot.py
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from definetti_np import load, simulate_example

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "example" / "output"
sys.path.insert(0, str(ROOT / "example"))
import simulator_example  # noqa: E402

FLAT, HOTSPOT = "#8a8a8a", "#c8442e"  # one colour for each class, in every panel


def main():
    rates, shares = simulator_example.read_rates(ROOT / "example" / "genetic_map.txt")

    def simulator(rng):
        return simulator_example.simulate_data(rates, shares, rng)

    # The example predicts the first simulations of the seed after that of its training.
    seed = load(OUTPUT / "weights").seed + 1
    probabilities = np.loadtxt(OUTPUT / "test_predictions.txt")[:, 1]
    fresh = [simulate_example(simulator, seed=seed, index=i) for i in range(len(probabilities))]
    is_hotspot = np.array([label[1] == 1 for _, label in fresh])

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 4, figsize=(10.5, 3), width_ratios=[1, 1, 2.1, 1.7], layout="constrained")
    for panel, wanted, name in ((axes[0], False, "flat"), (axes[1], True, "hotspot")):
        draw_haplotypes(panel, next(data for (data, _), hot in zip(fresh, is_hotspot, strict=True) if hot == wanted))
        panel.set_title(name, color=HOTSPOT if wanted else FLAT)
    axes[0].set_ylabel("198 haplotypes, sorted")
    draw_posteriors(axes[2], probabilities, is_hotspot)
    draw_roc(axes[3], probabilities, is_hotspot)
    figure.savefig(ROOT / "docs" / "hotspot.png", dpi=120)


def draw_haplotypes(axes, data):
    alleles = data[:, :, 0]
    axes.imshow(alleles[np.lexsort(alleles.T[::-1])], aspect="auto", cmap="Greys", interpolation="nearest")
    axes.axvline(alleles.shape[1] / 2 - 0.5, color=HOTSPOT, linewidth=0.8, linestyle=":")
    axes.set(xlabel="24 SNPs", xticks=[], yticks=[])


def draw_posteriors(axes, probabilities, is_hotspot):
    bins = np.linspace(0, 1, 21)
    axes.hist(
        [probabilities[~is_hotspot], probabilities[is_hotspot]],
        bins,
        color=[FLAT, HOTSPOT],
        label=["simulated flat", "simulated with a hotspot"],
    )
    accuracy = np.mean((probabilities > 0.5) == is_hotspot)
    axes.set(xlabel="posterior probability of a hotspot", ylabel="fresh simulations")
    axes.set_title(f"{len(probabilities)} fresh simulations, accuracy {accuracy:.3f}")
    axes.legend(frameon=False, loc="upper center")


def draw_roc(axes, probabilities, is_hotspot):
    descending = np.argsort(-probabilities)
    true_positives = np.cumsum(is_hotspot[descending]) / is_hotspot.sum()
    false_positives = np.cumsum(~is_hotspot[descending]) / (~is_hotspot).sum()
    axes.plot([0, 1], [0, 1], linestyle=":", color=FLAT)
    axes.plot([0, *false_positives], [0, *true_positives], color=HOTSPOT, clip_on=False)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curve", xlim=(0, 1), ylim=(0, 1))


if __name__ == "__main__":
    main()
