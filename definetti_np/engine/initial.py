"""Initial values of parameters, as the original draws them."""

import numpy as np

WEIGHT_DEVIATION = 0.05
BIAS = 0.01


def draw_weight(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from a normal distribution of standard deviation 0.05, truncated at two standard deviations."""
    return WEIGHT_DEVIATION * truncated_normal(rng, shape)


def constant_bias(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """0.01 each."""
    return np.full(shape, BIAS)


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal deviates, those beyond two standard deviations drawn again (TensorFlow's truncated_normal)."""
    deviates = rng.standard_normal(shape)
    while (beyond := np.abs(deviates) > 2).any():
        deviates[beyond] = rng.standard_normal(beyond.sum())
    return deviates
