"""The Adam update, fused into one pass over all parameters.

N    parameters, in one flat vector
"""

import numpy as np

from ._jit import Kernel, blocks_of

PARAMETERS_PER_BLOCK = 8192  # parameters in a block


def adam_update(
    weights: np.ndarray,
    gradients: np.ndarray,
    first_moments: np.ndarray,
    second_moments: np.ndarray,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """Update ``weights`` and both moments in place; the gradients are left as they are.

    All arrays (N,). ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g**2``, ``w -= rate * m / (sqrt(v) + eps)``;
    ``rate`` holds the bias correction (Kingma & Ba 2015, end of section 2; TensorFlow 1).
    """
    blocks = blocks_of(len(weights), PARAMETERS_PER_BLOCK)
    constants = np.array([rate, beta1, beta2, epsilon], weights.dtype)
    _adam_update(blocks, weights, gradients, first_moments, second_moments, constants)


@Kernel
def _adam_update(block, arguments):
    all_weights, all_gradients, all_first_moments, all_second_moments, constants = arguments[0]
    rate, beta1, beta2, epsilon = constants[0], constants[1], constants[2], constants[3]
    one = constants.dtype.type(1)
    start, stop = block * PARAMETERS_PER_BLOCK, min((block + 1) * PARAMETERS_PER_BLOCK, len(all_weights))
    weights, gradients = all_weights[start:stop], all_gradients[start:stop]
    first_moments, second_moments = all_first_moments[start:stop], all_second_moments[start:stop]
    for i in range(len(weights)):
        g = gradients[i]
        first_moments[i] = beta1 * first_moments[i] + (one - beta1) * g
        second_moments[i] = beta2 * second_moments[i] + (one - beta2) * g * g
        weights[i] -= rate * first_moments[i] / (np.sqrt(second_moments[i]) + epsilon)
