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
    average: np.ndarray,
    constants: np.ndarray,
) -> None:
    """Update ``weights``, both moments and ``average`` in place; the gradients are left as they are.

    All arrays (N,), or ``average`` (0,) for none. ``constants`` (7,) are rate, b1, b2, eps, kept, scale, share:
    ``g`` is the gradient times scale, ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g**2``,
    ``w = kept * w - rate * m / (sqrt(v) + eps)``, and then ``average += share * (w - average)``; ``rate`` holds the
    bias correction (Kingma & Ba 2015, end of section 2; TensorFlow 1).
    """
    blocks = blocks_of(len(weights), PARAMETERS_PER_BLOCK)
    _adam_update(blocks, weights, gradients, first_moments, second_moments, average, constants.astype(weights.dtype))


@Kernel
def _adam_update(block, arguments):
    all_weights, all_gradients, all_first_moments, all_second_moments, all_average, constants = arguments[0]
    rate, beta1, beta2, epsilon = constants[0], constants[1], constants[2], constants[3]
    kept, scale, share = constants[4], constants[5], constants[6]
    one = constants.dtype.type(1)
    gain1, gain2 = scale * (one - beta1), scale * scale * (one - beta2)
    start, stop = block * PARAMETERS_PER_BLOCK, min((block + 1) * PARAMETERS_PER_BLOCK, len(all_weights))
    weights, gradients = all_weights[start:stop], all_gradients[start:stop]
    first_moments, second_moments = all_first_moments[start:stop], all_second_moments[start:stop]
    for i in range(len(weights)):
        g = gradients[i]
        first_moments[i] = beta1 * first_moments[i] + gain1 * g
        second_moments[i] = beta2 * second_moments[i] + gain2 * g * g
        weights[i] = kept * weights[i] - rate * first_moments[i] / (np.sqrt(second_moments[i]) + epsilon)
    average = all_average[start:stop]
    for i in range(len(average)):
        average[i] += share * (weights[i] - average[i])
