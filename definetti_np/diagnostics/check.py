"""`check` and `evaluate`: reports of a model on fresh simulations, and of a posterior on labels."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from ..checks import as_integer, name_of, qualified_name
from ..ensembles import Ensemble
from ..genomes.encoder import name_with_encoder
from ..interruption import Interruption
from ..model import Model
from ..multiset import MultisetBatch
from ..posteriors.classes import ClassPosterior
from ..posteriors.posterior import Posterior
from ..seeds import check_seed
from ..simulation.source import NO_REDRAWS, ExampleSource, takes_generator
from ..simulation.store import StoreSettings
from ..simulation.stream import StreamSettings, open_stream
from .bands import FEWEST_EXAMPLES
from .classes import ClassesReport
from .numbers import NumbersReport
from .report import Report

EXAMPLES_AT_ONCE = 50


def check(
    model: Model | Ensemble,
    simulator: Callable | None,
    examples: int = 1000,
    *,
    seed: int | None = None,
    sim_threads: int | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    simulations: str | os.PathLike | None = None,
    simulations_version: str | int | None = None,
    threads: int | None = None,
) -> Report:
    """Check the posteriors of a model on simulations that its training never saw.

    Example i of a seed is a function of the seed and i, so that examples of another seed than the model's are new to
    it; the model's own seed, a store of it, and the seeds of the weights that its training began with are refused.

    Parameters
    ----------
    model
        A model that ends in softmax or in a head, or an `Ensemble` of such.
    simulator
        The simulator of its training; None reads `simulations` alone.
    examples
        How many, 100 at least.
    seed
        Their seed; None draws one, or takes that of the store.
    sim_threads, executor
        As of `train`.
    simulations, simulations_version
        Folder of a store, from which examples are read, and to which those that it lacks are written; as of `train`.
    threads
        Threads of the network.

    Returns
    -------
    Report
        Which is also kept, in short, as `model.last_check`, and saved with the model.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, the simulations are those of the training, or the model has no posterior.
    SimulatorError
        If the simulator fails.
    """
    batch, labels, seed = fresh_examples(
        model, simulator, examples, seed, sim_threads, executor, simulations, simulations_version
    )
    report = evaluate(model.posterior(batch, threads), labels, seed=seed)
    short = {key: value for key, value in report.to_dict().items() if not isinstance(value, (dict, list))}
    model.last_check = {"date": datetime.date.today().isoformat(), **short}
    return report


def evaluate(posterior: Posterior | ClassPosterior, labels: np.ndarray, *, seed: int | None = None) -> Report:
    """Compare posteriors of E datasets with their labels (E, N); one-hot for classes.

    Parameters
    ----------
    posterior
        What `Model.posterior` returns.
    labels
        Their labels, drawn from the prior that the posteriors are of.
    seed
        Seed of the samples that ranks are found with, and what the report says of its seed.

    Raises
    ------
    ValueError
        If there are fewer than 100 datasets, or labels of another shape, outside of `label_range`, not finite, or of
        classes and not one-hot.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(posterior), len(posterior.names)):
        raise ValueError(f"labels must have shape ({len(posterior)}, {len(posterior.names)}), got {labels.shape}")
    _check_number(len(labels), "labels")
    _check_truth(posterior, labels)
    rng = np.random.default_rng(0 if seed is None else seed)
    if isinstance(posterior, ClassPosterior):
        return ClassesReport(posterior, labels, seed, rng)
    return NumbersReport(posterior, labels, seed, rng)


def fresh_examples(
    model: Model | Ensemble,
    simulator: Callable | None,
    examples: int,
    seed: int | None,
    sim_threads: int | None,
    executor: Executor | Callable[[], Executor] | None,
    simulations: str | os.PathLike | None,
    simulations_version: str | int | None,
) -> tuple:
    """Data and labels of examples that the training of a model did not use, and their seed."""
    examples = as_integer(examples, "examples", minimum=1)
    _check_number(examples, "examples")
    if not isinstance(model, (Model, Ensemble)):
        hint = "; read it with definetti_np.load" if isinstance(model, (str, os.PathLike)) else ""
        raise TypeError(f"model must be a Model or an Ensemble, got {model!r}{hint}")
    model.posterior([])  # raises if it has none, before anything is simulated
    settings = StoreSettings.of_training(simulations, simulations_version, simulator, False)
    if simulator is not None:
        takes_generator(simulator)
    if seed is None and settings is not None and settings.found is not None:
        seed = settings.found.seed
    seed = check_seed(seed)
    if seed in model.seeds:
        where = "" if settings is None else f", as in the store {str(settings.folder)!r}"
        raise ValueError(
            f"seed must be another one than that of the model's training, {seed}{where}: the training used its "
            "examples; give another seed and folder"
        )
    streams = StreamSettings.checked(
        sim_threads=sim_threads,
        queue_capacity=None,
        simulator_timeout=None,
        max_redraw_fraction=0.1,
        worker_max_examples=None,
        start_method=None,
        executor=executor,
        check_randomness=True,
    )
    spec = model.network.spec
    source = ExampleSource(simulator, seed, spec, name_of(model.loss), "raise", model.encoder)
    store = None
    if settings is not None:
        name = settings.found.simulator if simulator is None and settings.found else qualified_name(simulator)
        name = name if simulator is None else name_with_encoder(name, model.encoder)
        store = settings.open(name, seed, spec.row_shape, spec.output_shape)
    parts, labels = [], []
    with Interruption() as interruption:
        waiting = interruption.waiting(lambda: None)
        with open_stream(source, streams, range(examples), NO_REDRAWS, waiting, store) as stream:
            for start in range(0, examples, EXAMPLES_AT_ONCE):
                batch, truth = stream.next_batch(min(EXAMPLES_AT_ONCE, examples - start), waiting)
                parts += [(batch.slice(i, i + 1).rows, batch.slice(i, i + 1).counts) for i in range(len(batch))]
                labels.append(truth)
    return MultisetBatch.from_distinct(parts), np.concatenate(labels), seed


def _check_truth(posterior: Posterior | ClassPosterior, labels: np.ndarray) -> None:
    """Raise a ValueError if labels (E, N) are none that the posteriors could be of."""
    if isinstance(posterior, Posterior):
        if not np.isfinite(labels).all():
            raise ValueError(f"labels must be finite numbers, got {labels[~np.isfinite(labels)][0]}")
        posterior.check_labels(labels, "labels")
        return
    is_one_hot = ((labels == 0) | (labels == 1)).all(axis=1) & (labels.sum(axis=1) == 1)
    if not is_one_hot.all():
        b = int(is_one_hot.argmin())
        raise ValueError(
            f"labels must be one-hot, because probabilities are compared with classes that are known; labels[{b}] is "
            f"{labels[b].tolist()}"
        )


def _check_number(examples: int, name: str) -> None:
    if examples < FEWEST_EXAMPLES:
        raise ValueError(
            f"{name}: bands need {FEWEST_EXAMPLES} examples at least, and 1,000 to find small errors; got {examples}"
        )
