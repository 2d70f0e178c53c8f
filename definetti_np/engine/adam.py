"""Optimisers over flat vectors of parameters."""

import math

import numpy as np

from ..kernels import adam


class Adam:
    """Adam as in TensorFlow 1: the bias correction is in the step size (Kingma & Ba 2015, end of section 2).

    ``lr_t = lr * sqrt(1 - b2**t) / (1 - b1**t)`` and ``w -= lr_t * m / (sqrt(v) + eps)``.
    """

    def __init__(
        self,
        weights: np.ndarray,
        gradients: np.ndarray,
        *,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ):
        self.weights = weights
        self.gradients = gradients
        self.learning_rate = learning_rate
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.first_moments = np.zeros_like(weights)
        self.second_moments = np.zeros_like(weights)
        self.steps = 0

    def step(self) -> None:
        """Move the weights one step against the gradients."""
        self.steps += 1
        correction = math.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        rate = self.learning_rate * correction
        moments = self.first_moments, self.second_moments
        adam.adam_update(self.weights, self.gradients, *moments, rate, self.beta1, self.beta2, self.epsilon)
