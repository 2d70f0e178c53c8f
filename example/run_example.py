"""Train a network to tell recombination hotspots from flat regions, then try it on fresh simulations.

    python example/run_example.py

Writes the model, the training summary, the predictions and, with matplotlib installed, two figures to example/output.
"""

import argparse
from pathlib import Path

import numpy as np
import simulator_example

from definetti_np import simulate_example, test, train

NETWORK = {
    "context": [  # numbers of all haplotypes together around each SNP: see docs/context.md
        ("distinct", 6, 12, 18, 24),
        ("effective", 6, 12, 18, 24),
        ("ld", 2, 4, 12),
        ("four_gametes", 2, 4, 12),
    ],
    "phi_net": [("conv", 1, 64)],
    "g": ("max",),
    "h_net": [("fc", 128), ("fc", 128), ("softmax",)],
}
PUBLISHED = {  # that of the original defiNETti, which sees each haplotype alone
    "phi_net": [("conv", 5, 32), ("conv", 5, 64)],
    "g": ("top_k", 1),
    "h_net": [("fc", 128), ("fc", 128), ("softmax",)],
}
HERE = Path(__file__).parent
TESTED = 500  # fresh simulations


def main():
    options = parse_arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    rates, probabilities = simulator_example.read_rates(options.map)

    def simulator(rng):
        return simulator_example.simulate_data(rates, probabilities, rng)

    model = train(
        simulator_example.INPUT_SHAPE,
        simulator_example.OUTPUT_SHAPE,
        simulator,
        **(PUBLISHED if options.published else NETWORK),
        num_batches=options.num_batches,
        verbosity=max(1, options.num_batches // 20),
        training_threads=options.training_threads,
        sim_threads=options.sim_threads,
        save_path=options.output / "weights",
        training_summary=options.output / "summary.txt",
        seed=options.seed,
        resume=options.resume,
        encoder=simulator_example.ENCODER,
        classes=simulator_example.CLASSES,
    )

    print(f"Predicting {TESTED} fresh simulations ...")
    fresh = [simulate_example(simulator, seed=model.seed + 1, index=i) for i in range(TESTED)]
    predictions = test([data for data, _ in fresh], model_path=options.output / "weights")
    np.savetxt(options.output / "test_predictions.txt", predictions)
    is_hotspot = np.array([label[1] == 1 for _, label in fresh])
    accuracy = np.mean((predictions[:, 1] > 0.5) == is_hotspot)
    print(f"Accuracy on {TESTED} fresh simulations: {accuracy:.3f}")
    plot(options.output, predictions[:, 1], is_hotspot)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num-batches", type=int, default=500, help="training steps (default 500)")
    parser.add_argument("--published", action="store_true", help="train the network of the original defiNETti")
    parser.add_argument("--map", default=HERE / "genetic_map.txt", help="genetic map in the HapMap format")
    parser.add_argument("--seed", type=int, help="seed of the run (default: a new one)")
    parser.add_argument("--sim-threads", type=int, help="simulator processes (default: one per core)")
    parser.add_argument("--training-threads", type=int, help="threads of the training (default: one per core)")
    parser.add_argument("--output", type=Path, default=HERE / "output", help="folder for the results")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the folder, if there is one"
    )
    return parser.parse_args()


def plot(folder, probabilities, is_hotspot):
    """Draw the training curve and the ROC curve, if matplotlib is installed."""
    try:
        import matplotlib
    except ImportError:
        print('For figures: pip install "definetti_np[plot]"')
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    batch, loss, accuracy = np.loadtxt(folder / "summary.txt", ndmin=2).T
    figure, axes = plt.subplots()
    axes.plot(batch, loss, label="cross-entropy")
    axes.plot(batch, accuracy, label="accuracy")
    axes.set(xlabel="batch", title="Training, one batch at a time")
    axes.legend()
    figure.savefig(folder / "training.png", dpi=150)

    descending = np.argsort(-probabilities)
    true_positives = np.cumsum(is_hotspot[descending]) / is_hotspot.sum()
    false_positives = np.cumsum(~is_hotspot[descending]) / (~is_hotspot).sum()
    figure, axes = plt.subplots()
    axes.plot([0, *false_positives], [0, *true_positives])
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curve", aspect="equal")
    figure.savefig(folder / "roc.png", dpi=150)
    print(f"Figures: {folder / 'training.png'}, {folder / 'roc.png'}")


if __name__ == "__main__":
    main()
