"""Four tasks of the SBI benchmark (Lueckmann et al. 2021), scored by C2ST against its reference posteriors.

    python benchmarks/sbi_tasks.py slcp --simulations 10000 --observations 1 2 3

C2ST is how often a classifier tells our samples from those of the reference posterior: 0.5 is perfect; "at most" is
how often the best classifier does, by the exact densities. It needs
scikit-learn, and the files of the package sbibm, of which nothing is imported: `pip install --no-deps sbibm`.
`--peer` trains the package sbi on the same simulations too, and compares time and C2ST: NPE with a neural spline flow,
its defaults.
"""

import argparse
import bz2
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import sbi_simulators as simulators
from common import show_machine
from processes import in_processes

from definetti_np import simulate_example


@dataclass(frozen=True)
class Task:
    """Its name, what data are multiplied by, the largest step, the shape of data, the box of the prior, the network.

    The flow of a sharp posterior is learned several times sooner if data are of a size near 10 than near 1.
    """

    name: str
    scale: float
    learning_rate: float
    shape: tuple[int, int]
    box: list[tuple[float, float]] | None
    phi_net: list
    g: list
    h_net: list
    context: Sequence = ()

    def simulate(self, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Data (number, n, W) and labels (number, N) float32; example i is that of a run of this seed."""
        simulator = getattr(simulators, self.name)
        examples = [simulate_example(simulator, seed=seed, index=i) for i in range(number)]
        data, labels = zip(*examples, strict=True)
        return (self.scale * np.array(data)).astype(np.float32), np.array(labels, np.float32)

    def dataset(self, observation: np.ndarray) -> np.ndarray:
        """An observation (D,) of the benchmark as data of this task, (n, W)."""
        return (self.scale * observation.reshape(self.shape)).astype(np.float32)


ONE_ROW = {"phi_net": [], "g": [("max",)]}  # the maximum of one row is the row
TASKS = {
    "gaussian_linear": Task("gaussian_linear", 7.0, 0.004, (1, 10), None, **ONE_ROW, h_net=[("gaussian",)]),
    "gaussian_mixture": Task(
        "gaussian_mixture", 2.0, 0.006, (1, 2), [(-10, 10)] * 2, **ONE_ROW, h_net=[("spline", 16, 96)]
    ),
    "two_moons": Task("two_moons", 10.0, 0.006, (1, 2), [(-1, 1)] * 2, **ONE_ROW, h_net=[("spline", 16, 96)]),
    "slcp": Task(
        "slcp",
        0.25,
        0.002,
        (4, 2),
        [(-3, 3)] * 5,
        phi_net=[("fc", 64), ("fc", 64)],
        g=[("moments", 1), ("max",)],
        h_net=[("fc", 128), ("fc", 128), ("spline", 10)],
        context=[("moments", 1, 2)],
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How training goes. Of the simulations one in twenty is held for validation, and not trained on."""

    steps: int
    batch_size: int
    learning_rate: float
    reuse: int = 9
    seed: int = 1


USUAL = {False: (3_000, 200, 0.5), True: (7_000, 500, 1.0)}  # few simulations, many: steps, batch, part of the step


class Ours:
    """definetti_np: several epochs, each simulation reused, cosine, the best weights by validation."""

    def __init__(self, name: str, threads: int, path: Path | None):
        self.task, self.threads, self.path = TASKS[name], threads, path

    def train(self, data: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
        """Train on these simulations, and return the seconds; a model that is there already took none."""
        from definetti_np import load, train

        if self.path is not None and self.path.with_suffix(".npz").exists():
            self.model = load(self.path)
            return 0.0

        held = len(data) // 20
        trained = len(data) - held

        def simulator(rng):
            index, *is_validation = rng.bit_generator.seed_seq.spawn_key
            place = trained + index if is_validation else index % trained
            return data[place], labels[place]

        start = time.perf_counter()
        batches = recipe.steps // (1 + recipe.reuse)
        self.model = train(
            self.task.shape, labels.shape[1:], simulator, self.task.phi_net, self.task.g, self.task.h_net,
            context=self.task.context, label_range=self.task.box, num_batches=batches, batch_size=recipe.batch_size,
            reuse=recipe.reuse, reuse_capacity=trained, learning_rate=recipe.learning_rate, schedule="cosine",
            validation=held, keep="best", verbosity=max(1, batches // 20), check_randomness=False, sim_threads=0,
            queue_capacity=2 * recipe.batch_size, training_threads=self.threads, seed=recipe.seed, logfile=None,
            save_path=self.path,
        )  # fmt: skip
        return time.perf_counter() - start

    def sample(self, observation: np.ndarray, samples: int, seed: int) -> np.ndarray:
        """Samples (samples, N) of the posterior of an observation."""
        return self.model.posterior([self.task.dataset(observation)]).sample(samples, seed=seed)[0]

    def log_prob(self, observation: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """The log density (S,) of labels theta (S, N)."""
        return self.model.posterior([self.task.dataset(observation)]).log_prob(theta[None])[0]


class Peer:
    """The package sbi: NPE with a neural spline flow, as its defaults have it."""

    def __init__(self, name: str, threads: int):
        import sbi.inference  # noqa: F401  (its import is not timed)
        import torch

        torch.set_num_threads(threads)
        self.task = TASKS[name]

    def train(self, data: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
        """Train on these simulations, of which it holds one in ten for validation, and return the seconds."""
        import torch
        from sbi.inference import NPE_C
        from sbi.utils import BoxUniform
        from torch.utils.tensorboard.writer import SummaryWriter

        torch.manual_seed(recipe.seed)
        if self.task.box is None:
            prior = torch.distributions.MultivariateNormal(
                torch.zeros(labels.shape[1]), 0.1 * torch.eye(labels.shape[1])
            )
        else:
            prior = BoxUniform(*torch.tensor(self.task.box, dtype=torch.float32).T)
        x = torch.from_numpy(data.reshape(len(data), -1))
        with tempfile.TemporaryDirectory() as folder:  # of its logs
            start = time.perf_counter()
            writer = SummaryWriter(folder)
            inference = NPE_C(prior, density_estimator="nsf", summary_writer=writer, show_progress_bars=False)
            inference.append_simulations(torch.from_numpy(labels), x).train()
            seconds = time.perf_counter() - start
            writer.close()
        self.posterior = inference.build_posterior()
        return seconds

    def sample(self, observation: np.ndarray, samples: int, seed: int) -> np.ndarray:
        """Samples (samples, N) of the posterior of an observation."""
        import torch

        torch.manual_seed(seed)
        x = torch.from_numpy(self.task.dataset(observation).reshape(1, -1))
        return self.posterior.sample((samples,), x=x, show_progress_bars=False).numpy()

    def log_prob(self, observation: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """The log density (S,) of labels theta (S, N), up to a constant."""
        import torch

        x = torch.from_numpy(self.task.dataset(observation).reshape(1, -1))
        labels = torch.from_numpy(theta.astype(np.float32))
        return self.posterior.log_prob(labels, x=x, norm_posterior=False).numpy()


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


def best_accuracy(of_reference: np.ndarray, of_samples: np.ndarray) -> float:
    """The accuracy of the best classifier: by the true density over ours, whose logarithms these are for both samples.

    It needs no training. C2ST is at most as much, but for chance, and less where its classifier does not see it all.
    """
    ratios = np.concatenate([of_reference, of_samples])
    is_reference = np.repeat([1 / len(of_reference), -1 / len(of_samples)], [len(of_reference), len(of_samples)])
    return 0.5 - 0.5 * np.cumsum(is_reference[np.argsort(ratios)]).min()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--steps", type=int, help="None for what the number of simulations allows")
    parser.add_argument("--batch-size", type=int, help="None for what the number of simulations allows")
    parser.add_argument("--learning-rate", type=float, help="the same")
    parser.add_argument("--reuse", type=int, default=9)
    parser.add_argument("--observations", type=int, nargs="*", default=list(range(1, 11)))
    parser.add_argument("--samples", type=int, default=10_000, help="fewer make C2ST too good")
    parser.add_argument("--exact", action="store_true", help="only the accuracy of the best classifier, in seconds")
    parser.add_argument("--threads", type=int, default=1, help="one is fastest for networks as small as these")
    parser.add_argument("--peer", action="store_true", help="train the package sbi on the same simulations too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=Path, help="a folder that keeps models: what it has is not trained again")
    options = parser.parse_args()
    show_machine()
    steps, batch_size, part = USUAL[options.simulations >= 50_000]
    recipe = Recipe(
        options.steps or steps,
        options.batch_size or batch_size,
        options.learning_rate or part * TASKS[options.task].learning_rate,
        options.reuse,
        options.seed,
    )
    print(f"{options.task}, {options.simulations} simulations, {options.threads} threads, {recipe}", flush=True)
    path = None
    if options.models is not None:
        options.models.mkdir(parents=True, exist_ok=True)
        path = options.models / f"{options.task}_{options.simulations}_{options.seed}"
    if not options.peer:
        ours = Ours(options.task, options.threads, path)
        measure({"definetti_np": lambda method, *arguments: getattr(ours, method)(*arguments)}, recipe, options)
        return
    arguments = options.task, options.threads
    both = {"definetti_np": (Ours, *arguments, path), "sbi": (Peer, *arguments)}
    with in_processes(both, options.threads) as remotes:
        measure({name: remote.ask for name, remote in remotes.items()}, recipe, options)


def measure(candidates: dict[str, Callable], recipe: Recipe, options: argparse.Namespace) -> None:
    """Print the seconds of training and the C2ST of candidates, functions ``(method, *arguments)``."""
    simulations = TASKS[options.task].simulate(options.simulations, options.seed)
    density = getattr(simulators, f"{options.task}_density")
    for name, ask in candidates.items():
        print(f"{name}: trained in {ask('train', *simulations, recipe):.0f} s", flush=True)
    for name, ask in candidates.items():
        scores = []
        for number in options.observations:
            observation, reference = files_of(options.task, number)
            samples = ask("sample", observation, options.samples, number)
            ratios = [
                density(theta, observation) - ask("log_prob", observation, theta) for theta in (reference, samples)
            ]
            scores.append([best_accuracy(*ratios)])
            if not options.exact:
                scores[-1].append(c2st(samples, reference[: options.samples]))
            print(f"{name}: observation {number}: {describe(scores[-1])}", flush=True)
        if scores:
            print(f"{name}: mean: {describe(np.mean(scores, axis=0))}", flush=True)


def describe(scores: Sequence[float]) -> str:
    """The accuracy of the best classifier, and C2ST if it was computed."""
    return ", ".join(f"{what} {score:.3f}" for what, score in zip(["at most", "C2ST"], scores, strict=False))


if __name__ == "__main__":
    main()
