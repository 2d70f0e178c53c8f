"""`calibrate`: the temperature that makes probabilities of classes right on fresh simulations (Guo et al. 2017)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from ..model import Model
from .check import fresh_examples

LEAST, LARGEST = 0.05, 20.0  # temperature
HALVINGS = 60


def calibrate(
    model: Model,
    simulator: Callable | None,
    examples: int = 5000,
    *,
    seed: int | None = None,
    sim_threads: int | None = None,
    executor: Executor | None = None,
    simulations: str | os.PathLike | None = None,
    simulations_version: str | int | None = None,
    threads: int | None = None,
) -> float:
    """Find the temperature of a softmax model on simulations that its training never saw, and set it.

    Logarithms of probabilities are divided by it: more than 1 says that they were too sure. The most probable class
    stays. It is stored in the model; ``model.temperature = None`` undoes it. Check the model on other simulations
    afterwards.

    Parameters
    ----------
    model
        A model that ends in softmax; its attribute `temperature` is set.
    simulator, examples, seed, sim_threads, executor, simulations, simulations_version, threads
        As of `diagnostics.check`.

    Returns
    -------
    float
        The temperature.

    Raises
    ------
    ValueError, TypeError
        If the model gives no probabilities, or as `diagnostics.check` does.
    """
    if not isinstance(model, Model) or not model.network.spec.ends_in_softmax:
        raise ValueError("calibrate takes a Model that ends in softmax, whose probabilities of classes it changes")
    batch, labels, _ = fresh_examples(
        model, simulator, examples, seed, sim_threads, executor, simulations, simulations_version
    )
    model.temperature = None
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(model.predict(batch, threads).astype(np.float64), np.finfo(np.float32).tiny))
    model.temperature = best_temperature(logs, labels.astype(np.float64))
    return float(model.temperature or 1.0)


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
