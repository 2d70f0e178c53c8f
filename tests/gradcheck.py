"""Check a gradient in one random direction: <u, J v> by finite differences against <J^T u, v> by one backward pass."""

import numpy as np

from definetti_np.engine.tensor import Leaf, backpropagate

STEP = 1e-6


def check_gradient(function, arrays, rng, tolerance=1e-6):
    """Assert that ``function(*tensors) -> Tensor`` has the gradient that its backward pass says.

    arrays are float64; J is the derivative of the function's output with respect to all of them.
    """
    directions = [rng.standard_normal(array.shape) for array in arrays]
    parameters = [Leaf(array.copy(), np.zeros_like(array)) for array in arrays]
    out = function(*parameters)
    u = rng.standard_normal(out.shape)
    backpropagate(out, u)
    backward = sum(np.vdot(parameter.gradient, v) for parameter, v in zip(parameters, directions, strict=True))
    difference = _shifted(function, arrays, directions, STEP) - _shifted(function, arrays, directions, -STEP)
    forward = np.vdot(u, difference) / (2 * STEP)
    scale = max(1.0, abs(forward), np.linalg.norm(u))
    assert abs(forward - backward) <= tolerance * scale, f"<u, Jv> is {forward}, <J^T u, v> is {backward}"


def _shifted(function, arrays, directions, step):
    shifted = [array + step * v for array, v in zip(arrays, directions, strict=True)]
    return function(*[Leaf(array, np.zeros_like(array)) for array in shifted]).array
