"""Train a network to tell recombination hotspots from flat regions, then try it on fresh simulations.

    python example/run_example.py

Writes the model, the training summary, the predictions and, with matplotlib installed, three figures to example/output.
"""

import argparse
from pathlib import Path

import hotspots
import numpy as np
import simulator_example

from definetti_np import simulate_example, test, train

NETWORK = {name: getattr(hotspots, name) for name in ("context", "phi_net", "g", "h_net")}
LEARNING = {name: getattr(hotspots, name) for name in ("reuse", "augment", "schedule")}
PUBLISHED = {  # the network of the original defiNETti, which sees each haplotype alone
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

    regions = {} if options.published else hotspots.REGIONS
    encoder = simulator_example.encoder_of(regions.get("snps", simulator_example.SNPS))

    def simulator(rng):
        return simulator_example.simulate_data(rates, probabilities, rng, **regions)

    model = train(
        encoder.shape,
        simulator_example.OUTPUT_SHAPE,
        simulator,
        **(PUBLISHED if options.published else NETWORK | LEARNING),
        num_batches=options.num_batches,
        validation=min(hotspots.validation, 2 * options.num_batches),
        verbosity=max(1, options.num_batches // 20),
        training_threads=options.training_threads,
        sim_threads=options.sim_threads,
        save_path=options.output / "weights",
        training_summary=options.output / "summary.txt",
        seed=options.seed,
        resume=options.resume,
        encoder=encoder,
        classes=simulator_example.CLASSES,
    )

    print(f"Predicting {TESTED} fresh simulations ...")
    fresh = [simulate_example(simulator, seed=model.seed + 1, index=i) for i in range(TESTED)]
    predictions = test([data for data, _ in fresh], model_path=options.output / "weights")
    np.savetxt(options.output / "test_predictions.txt", predictions)
    is_hotspot = np.array([label[1] == 1 for _, label in fresh])
    accuracy = np.mean((predictions[:, 1] > 0.5) == is_hotspot)
    print(f"Accuracy on {TESTED} fresh simulations: {accuracy:.3f}")
    cross_entropy = -np.mean(np.log(np.where(is_hotspot, predictions[:, 1], predictions[:, 0])))
    print(f"Cross-entropy: {cross_entropy:.3f}")
    plot(options.output, model.history, predictions[:, 1], is_hotspot)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num-batches", type=int, default=500, help="training steps (default 500)")
    parser.add_argument("--published", action="store_true", help="train as the original defiNETti did")
    parser.add_argument("--map", default=HERE / "genetic_map.txt", help="genetic map in the HapMap format")
    parser.add_argument("--seed", type=int, help="seed of the run (default: a new one)")
    parser.add_argument("--sim-threads", type=int, help="simulator processes (default: one per core)")
    parser.add_argument("--training-threads", type=int, help="threads of the training (default: one per core)")
    parser.add_argument("--output", type=Path, default=HERE / "output", help="folder for the results")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the folder, if there is one"
    )
    return parser.parse_args()


def plot(folder, history, probabilities, is_hotspot):
    """Draw the training, the ROC curve and the reliability of the posterior, if matplotlib is installed."""
    try:
        import matplotlib
    except ImportError:
        print('For figures: pip install "definetti_np[plot]"')
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, draw, data in (
        ("training.png", draw_training, (history,)),
        ("roc.png", draw_roc, (probabilities, is_hotspot)),
        ("reliability.png", draw_reliability, (probabilities, is_hotspot)),
    ):
        figure, axes = plt.subplots(layout="constrained")
        draw(axes, *data)
        figure.savefig(folder / name, dpi=150)
        plt.close(figure)
        print(f"Figure: {folder / name}")


def draw_training(axes, history):
    axes.plot(history["batch"], history["loss"], color="grey", label="a batch of new simulations")
    errors = 2 * history["validation_loss_error"]
    axes.errorbar(history["batch"], history["validation_loss"], errors, label="validation, 2 standard errors")
    axes.set(xlabel="batch", ylabel="cross-entropy", title="Training", ylim=(0, None))
    axes.legend()


def draw_roc(axes, probabilities, is_hotspot):
    descending = np.argsort(-probabilities)
    true_positives = np.concatenate([[0], np.cumsum(is_hotspot[descending]) / is_hotspot.sum()])
    false_positives = np.concatenate([[0], np.cumsum(~is_hotspot[descending]) / (~is_hotspot).sum()])
    area = np.sum(np.diff(false_positives) * true_positives[1:])
    axes.plot(false_positives, true_positives)
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=f"ROC curve, area {area:.4f}")


def draw_reliability(axes, probabilities, is_hotspot):
    """Draw how many of the simulations with a posterior near p have a hotspot, with their standard error."""
    bins = np.minimum((probabilities * 5).astype(int), 4)
    axes.plot([0, 1], [0, 1], linestyle=":", color="grey")
    for group in (bins == b for b in range(5) if np.any(bins == b)):
        share = is_hotspot[group].mean()
        error = np.sqrt(share * (1 - share) / group.sum())
        axes.errorbar(probabilities[group].mean(), share, error, marker="o", color="C0")
    axes.set(xlabel="posterior probability", ylabel="share with a hotspot", title="Reliability")


if __name__ == "__main__":
    main()
