"""Four tasks of the SBI benchmark (Lueckmann et al. 2021), scored by C2ST against its reference posteriors.

    python benchmarks/sbi_tasks.py slcp --simulations 10000 --observations 1 2 3

C2ST is how often a classifier tells our samples from those of the reference posterior: 0.5 is perfect. It needs
scikit-learn, and the files of the package sbibm, of which nothing is imported: `pip install --no-deps sbibm`.
"""

import argparse
import bz2
import importlib.util
import time
from functools import partial
from pathlib import Path

import numpy as np

import definetti_np

# The simulators, in ten lines of NumPy each; data are a few rows, with numbers of a size near 1.


def gaussian_linear(rng):
    theta = rng.normal(0, np.sqrt(0.1), 10)
    return rng.normal(theta, np.sqrt(0.1))[None] / 0.45, theta


def gaussian_mixture(rng):
    theta = rng.uniform(-10, 10, 2)
    return (theta + rng.choice([1.0, 0.1]) * rng.standard_normal(2))[None] / 5, theta


def two_moons(rng):
    theta = rng.uniform(-1, 1, 2)
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2), rng.normal(0.1, 0.01)
    moon = np.array([radius * np.cos(angle) + 0.25, radius * np.sin(angle)])
    return (moon + np.array([-abs(theta.sum()), theta[1] - theta[0]]) / np.sqrt(2))[None], theta


def slcp(rng):
    theta = rng.uniform(-3, 3, 5)
    s1, s2, rho = theta[2] ** 2, theta[3] ** 2, np.tanh(theta[4])
    z = rng.standard_normal((4, 2))
    noise = np.column_stack([s1 * z[:, 0], s2 * (rho * z[:, 0] + np.sqrt(1 - rho**2) * z[:, 1])])
    return (theta[:2] + noise) / 4, theta


# The simulator, what a row of the observation is divided by, the shape of data, the head and the box.
TASKS = {
    "gaussian_linear": (gaussian_linear, 0.45, (1, 10), ("gaussian",), None),
    "gaussian_mixture": (gaussian_mixture, 5.0, (1, 2), ("spline", 16), [(-10, 10)] * 2),
    "two_moons": (two_moons, 1.0, (1, 2), ("spline", 16), [(-1, 1)] * 2),
    "slcp": (slcp, 4.0, (4, 2), ("spline", 10), [(-3, 3)] * 5),
}


def train(task, simulations, seed, *, reuse, threads=1, batch_size=100, save_path=None):
    """Train as the documentation advises: reuse, cosine, the best weights by validation; returns model and seconds."""
    simulator, _, shape, head, box = TASKS[task]
    start = time.perf_counter()
    model = definetti_np.train(
        shape,
        (len(simulator(np.random.default_rng(0))[1]),),
        simulator,
        [("fc", 128), ("fc", 128)],
        [("moments", 1), ("max",)] if shape[0] > 1 else ("max",),
        [("fc", 128), ("fc", 128), head],
        label_range=box,
        num_batches=simulations // batch_size,
        batch_size=batch_size,
        reuse=reuse,
        schedule="cosine",
        validation=1000,
        keep="best",
        verbosity=max(1, simulations // batch_size // 20),
        learning_rate=0.001,
        sim_threads=1,
        training_threads=threads,
        seed=seed,
        save_path=save_path,
    )
    return model, time.perf_counter() - start


def files_of(task, observation):
    """The observation (D,) and the samples of the reference posterior (10000, N)."""
    found = importlib.util.find_spec("sbibm")
    if found is None or found.origin is None:
        raise SystemExit("the reference posteriors are files of the package sbibm: pip install --no-deps sbibm")
    folder = Path(found.origin).parent / "tasks" / task / "files" / f"num_observation_{observation}"
    read = partial(np.loadtxt, delimiter=",", skiprows=1)
    with bz2.open(folder / "reference_posterior_samples.csv.bz2", "rt") as file:
        reference = read(file)
    return read(folder / "observation.csv"), reference


def c2st(samples, reference, seed=1):
    """The accuracy of a classifier in five-fold cross-validation, as the benchmark has it."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, sd = reference.mean(axis=0), reference.std(axis=0)
    both = (np.concatenate([samples, reference]) - mean) / sd
    which = np.repeat([0, 1], [len(samples), len(reference)])
    nodes = 10 * both.shape[1]
    classifier = MLPClassifier((nodes, nodes), max_iter=1000, random_state=seed)
    return cross_val_score(classifier, both, which, cv=KFold(5, shuffle=True, random_state=seed)).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--reuse", type=int, default=None, help="None for what makes 5,000 steps, 4 at least")
    parser.add_argument("--observations", type=int, nargs="*", default=list(range(1, 11)))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1, help="one is fastest for networks as small as these")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reuse = max(4, 5_000 * 100 // options.simulations - 1) if options.reuse is None else options.reuse
    model, seconds = train(options.task, options.simulations, options.seed, reuse=reuse, threads=options.threads)
    print(f"{options.task}: {options.simulations} simulations, trained in {seconds:.0f} s, reuse {reuse}")
    scores = []
    _, divisor, shape, _, _ = TASKS[options.task]
    for observation in options.observations:
        data, reference = files_of(options.task, observation)
        samples = model.posterior([data.reshape(shape) / divisor]).sample(options.samples, seed=observation)[0]
        scores.append(c2st(samples, reference[: options.samples]))
        print(f"observation {observation}: C2ST {scores[-1]:.3f}", flush=True)
    print(f"mean C2ST {np.mean(scores):.3f}")


if __name__ == "__main__":
    main()
