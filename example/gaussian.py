"""The README's example against its exact posterior, which a grid gives: mean and standard deviation of 100 draws.

python example/gaussian.py [--batches 2000] [--figure gaussian.png]
"""

import argparse

import numpy as np

from definetti_np import diagnostics, train

BOX = [(0, 1), (6, 10)]
NAMES = ("mu", "sigma")


def simulate(rng):
    """100 draws (100, 1), and their mean and standard deviation (2,)."""
    mu, sigma = rng.beta(5, 10), rng.uniform(6, 10)
    return rng.normal(mu, sigma, (100, 1)), np.array([mu, sigma])


def exact_posterior(data, points=200):
    """The posterior of data (n, 1) on a grid of the box: mu (P,), sigma (P,), density (P, P)."""
    mu, sigma = ((np.arange(points) + 0.5) / points * (high - low) + low for low, high in BOX)
    log_prior = 4 * np.log(mu) + 9 * np.log1p(-mu)
    squares = data.var() + (data.mean() - mu) ** 2
    logs = log_prior[:, None] - len(data) * (np.log(sigma) + squares[:, None] / (2 * sigma**2))
    density = np.exp(logs - logs.max())
    return mu, sigma, density / density.sum() / ((mu[1] - mu[0]) * (sigma[1] - sigma[0]))


def compare(model, datasets):
    """The mean Kullback-Leibler divergences of the posteriors, and of the prior, from the exact ones, in nats."""
    divergences = []
    for data in datasets:
        mu, sigma, density = exact_posterior(data)
        grid = np.stack(np.meshgrid(mu, sigma, indexing="ij"), axis=-1).reshape(1, -1, 2)
        ours = model.posterior([data]).log_prob(grid).reshape(density.shape)
        prior = np.log(10010 * mu**4 * (1 - mu) ** 9 / 4)[:, None]  # of Beta(5, 10), and uniform from 6 to 10
        cell = (mu[1] - mu[0]) * (sigma[1] - sigma[0])
        logs = np.log(np.maximum(density, 1e-300))
        divergences.append([(density * (logs - other)).sum() * cell for other in (ours, prior)])
    return np.mean(divergences, axis=0)


def draw(model, data, path):
    """Exact and learnt posteriors of one dataset: both numbers together, then each alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mu, sigma, density = exact_posterior(data)
    grid = np.stack(np.meshgrid(mu, sigma, indexing="ij"), axis=-1).reshape(1, -1, 2)
    learnt = np.exp(model.posterior([data]).log_prob(grid)).reshape(density.shape)
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    together, *alone = figure.subplots(1, 3)
    for shown, color, style in ((density, "black", "-"), (learnt, "tab:red", "--")):
        together.contour(mu, sigma, shown.T, levels(density), colors=color, linestyles=style, linewidths=1)
    together.set(title="regions of 50, 80 and 95 %", xlabel=NAMES[0], ylabel=NAMES[1])
    for i, axis in enumerate(alone):
        width = ((sigma, mu)[i])[1] - ((sigma, mu)[i])[0]
        axis.plot((mu, sigma)[i], density.sum(axis=1 - i) * width, color="black", label="exact")
        axis.plot((mu, sigma)[i], learnt.sum(axis=1 - i) * width, "--", color="tab:red", label="network")
        axis.set(title=f"density of {NAMES[i]}", xlabel=NAMES[i], ylim=(0, None))
        axis.legend(frameon=False)
    figure.savefig(path, dpi=100)


def levels(density):
    """The densities at the edges of the smallest regions that hold 95, 80 and 50 % of a posterior on a grid."""
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    return [ordered[np.searchsorted(mass, wanted)] for wanted in (0.95, 0.8, 0.5)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--datasets", type=int, default=30, help="of which the exact posterior is computed")
    parser.add_argument("--figure", help="where to draw exact and learnt posteriors of one dataset")
    options = parser.parse_args()
    model = train(
        (100, 1),
        (2,),
        simulate,
        phi_net=[("fc", 64), ("fc", 64)],
        g=("moments", 1, 2),
        h_net=[("fc", 64), ("spline", 8)],
        label_range=BOX,
        label_names=NAMES,
        num_batches=options.batches,
        learning_rate=0.003,
        schedule="cosine",
        seed=1,
    )
    rng = np.random.default_rng(2)
    datasets = [simulate(rng)[0] for _ in range(options.datasets)]
    ours, prior = compare(model, datasets)
    print(f"mean divergence from the exact posteriors: {ours:.4f} nats; of the prior: {prior:.4f}")
    print(diagnostics.check(model, simulate, 1000, seed=3))
    if options.figure:
        draw(model, datasets[0], options.figure)


if __name__ == "__main__":
    main()
