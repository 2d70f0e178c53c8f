"""`calibrate`: the temperature that makes posteriors right on fresh simulations (Guo et al. 2017)."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import cast

import numpy as np

from ..model import Model
from ..posteriors.posterior import Posterior
from .check import fresh_examples

logger = logging.getLogger("definetti_np")

LEAST, LARGEST = 0.05, 20.0  # temperature
HALVINGS = 60
NEAR_END = 1.001  # factor of an end
GOLDEN_STEPS = 40  # of the search in a head's temperature


def calibrate(
    model: Model,
    simulator: Callable | None,
    examples: int = 5000,
    *,
    seed: int | None = None,
    sim_threads: int | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    simulations: str | os.PathLike | None = None,
    simulations_version: str | int | None = None,
    threads: int | None = None,
) -> float:
    """Find the temperature of a model's posteriors on simulations that its training never saw, and set it.

    More than 1 says that they were too sure. Logarithms of probabilities of classes are divided by it, and the most
    probable class stays. Gaussian and mixture posteriors become as many times as wide; a spline's do so by the logits
    of its distribution functions. It is stored in the model; ``model.temperature = None`` undoes it. Check the model
    on other simulations afterwards.

    Parameters
    ----------
    model
        A model that ends in softmax or in a head other than quantiles; its attribute `temperature` is set.
    simulator, examples, seed, sim_threads, executor, simulations, simulations_version, threads
        As of `diagnostics.check`.

    Returns
    -------
    float
        The temperature, from 0.05 to 20; at 20 a warning says that the model does not fit the simulator. It is 1, with
        a warning, and the model stays without one, if the lowest is best: where classes were told apart without an
        error, it would make the probabilities 0 and 1.

    Raises
    ------
    ValueError, TypeError
        If the model gives neither probabilities nor densities, or as `diagnostics.check` does.
    """
    if not isinstance(model, Model) or not model.takes_temperature:
        raise ValueError(
            "calibrate takes a Model that ends in softmax, whose probabilities of classes it changes, or in a head "
            "with a density, ('gaussian',), ('mixture', K) or ('spline', bins)"
        )
    batch, labels, _ = fresh_examples(
        model, simulator, examples, seed, sim_threads, executor, simulations, simulations_version
    )
    model.temperature = None
    head = model.network.head
    if head is not None:
        numbers = cast(Posterior, model.posterior(batch, threads))._numbers
        own = {role: tensor.array for role, tensor in model.network.head_parameters().items()}
        return _set(model, best_of_scores(lambda t: head.log_densities(numbers, labels, own, t).mean()))
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(model.predict(batch, threads).astype(np.float64), np.finfo(np.float32).tiny))
    return _set(model, best_temperature(logs, labels.astype(np.float64)))


def _set(model: Model, temperature: float) -> float:
    """Give a model a temperature that was found, unless it is the lowest that was tried."""
    if temperature < LEAST * NEAR_END:
        logger.warning(
            "calibrate: the lowest temperature, %g, fits best, so the model has none: the examples are too few, or "
            "their classes are told apart without an error; calibrate on more examples, or leave the model as it is",
            LEAST,
        )
        return 1.0
    if temperature > LARGEST / NEAR_END:
        logger.warning(
            "calibrate: the highest temperature, %g, fits best: the model knows nothing of what this simulator makes; "
            "train it for longer, or give the simulator of its training",
            LARGEST,
        )
    model.temperature = temperature
    return temperature


def best_temperature(logs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least cross-entropy, of log probabilities and labels (E, N).

    In 1 / temperature the cross-entropy is convex, so that the zero of its slope is found by halving.
    """
    low, high = 1 / LARGEST, 1 / LEAST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        weights = np.exp(middle * (logs - logs.max(axis=1, keepdims=True)))
        expected = (weights * logs).sum(axis=1) / weights.sum(axis=1)
        slope = (expected - (labels * logs).sum(axis=1)).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(1 / (low * high) ** 0.5)


def best_of_scores(score: Callable[[float], float]) -> float:
    """The temperature of the largest score, by golden sections of its logarithm."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(LEAST), math.log(LARGEST)
    places = [high - ratio * (high - low), low + ratio * (high - low)]
    scores = [score(math.exp(place)) for place in places]
    for _ in range(GOLDEN_STEPS):
        if scores[0] >= scores[1]:
            high = places[1]
            places = [high - ratio * (high - low), places[0]]
            scores = [score(math.exp(places[0])), scores[0]]
        else:
            low = places[0]
            places = [places[1], low + ratio * (high - low)]
            scores = [scores[1], score(math.exp(places[1]))]
    return math.exp((low + high) / 2)
