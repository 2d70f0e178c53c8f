"""Monotone rational-quadratic splines of the unit interval (Durkan et al. 2019), forward, backward and inverse.

R    numbers, each with a spline of its own
K    bins of a spline
P    parameters of a spline, 3 K + 1: K raw widths, K raw heights, and K + 1 raw slopes at the ends of the bins

Softmax makes widths and heights of the raw ones, softplus makes slopes; zeros give the identity. Widths, heights and
slopes have a least size, so that every spline can be inverted in floats.
"""

import numpy as np

from ._jit import Kernel, blocks_of, jit

NUMBERS_PER_BLOCK = 64
LEAST_SIZE = 1e-3  # of widths and heights, and of slopes
SLOPE_SHIFT = 0.5397424172369522  # softplus(SLOPE_SHIFT) + LEAST_SIZE is 1


def spline_forward(x: np.ndarray, parameters: np.ndarray, out: np.ndarray) -> None:
    """Write the value of each spline, and the logarithm of its slope. x (R,), parameters (R, P), out (R, 2)."""
    _spline_forward(blocks_of(len(x), NUMBERS_PER_BLOCK), x, parameters, out)


def spline_inverse(y: np.ndarray, parameters: np.ndarray, out: np.ndarray) -> None:
    """Write where each spline has the value y. y (R,), parameters (R, P), out (R,)."""
    _spline_inverse(blocks_of(len(y), NUMBERS_PER_BLOCK), y, parameters, out)


def spline_backward(
    gradient: np.ndarray, x: np.ndarray, parameters: np.ndarray, to_x: np.ndarray, to_parameters: np.ndarray
) -> None:
    """Write the gradients of what `spline_forward` computes. gradient (R, 2), to_x (R,), to_parameters (R, P)."""
    _spline_backward(blocks_of(len(x), NUMBERS_PER_BLOCK), gradient, x, parameters, to_x, to_parameters)


@jit
def _sizes(parameters, r, first, out):
    """Widths or heights of the bins of spline r, whose raw ones begin at parameter `first`."""
    bins = out.shape[0]
    one = out.dtype.type(1)
    largest = parameters[r, first]
    for k in range(1, bins):
        largest = max(largest, parameters[r, first + k])
    total = out.dtype.type(0)
    for k in range(bins):
        out[k] = np.exp(parameters[r, first + k] - largest)
        total += out[k]
    share = (one - out.dtype.type(LEAST_SIZE * bins)) / total
    for k in range(bins):
        out[k] = out.dtype.type(LEAST_SIZE) + share * out[k]


@jit
def _slope(parameters, r, j):
    """The slope of spline r whose raw one is parameter j: softplus and the least slope."""
    shifted = parameters[r, j] + parameters.dtype.type(SLOPE_SHIFT)
    least, zero = parameters.dtype.type(LEAST_SIZE), parameters.dtype.type(0)
    return least + max(shifted, zero) + np.log1p(np.exp(-abs(shifted)))


@jit
def _find(x, sizes):
    """The bin that x lies in, and where that begins."""
    start = sizes.dtype.type(0)
    k = 0
    while k < sizes.shape[0] - 1 and x >= start + sizes[k]:
        start += sizes[k]
        k += 1
    return k, start


@Kernel
def _spline_forward(block, arguments):
    x, parameters, out = arguments[0]
    bins = (parameters.shape[1] - 1) // 3
    widths, heights = np.empty(bins, x.dtype), np.empty(bins, x.dtype)
    one, two = x.dtype.type(1), x.dtype.type(2)
    for r in range(block * NUMBERS_PER_BLOCK, min((block + 1) * NUMBERS_PER_BLOCK, x.shape[0])):
        _sizes(parameters, r, 0, widths)
        _sizes(parameters, r, bins, heights)
        k, start = _find(x[r], widths)
        bottom = x.dtype.type(0)
        for j in range(k):
            bottom += heights[j]
        left, right = _slope(parameters, r, 2 * bins + k), _slope(parameters, r, 2 * bins + k + 1)
        place = (x[r] - start) / widths[k]
        steep = heights[k] / widths[k]
        mixed = place * (one - place)
        below = steep + (left + right - two * steep) * mixed
        out[r, 0] = bottom + heights[k] * (steep * place * place + left * mixed) / below
        rise = right * place * place + two * steep * mixed + left * (one - place) * (one - place)
        out[r, 1] = two * np.log(steep / below) + np.log(rise)


@Kernel
def _spline_inverse(block, arguments):
    y, parameters, out = arguments[0]
    bins = (parameters.shape[1] - 1) // 3
    widths, heights = np.empty(bins, y.dtype), np.empty(bins, y.dtype)
    one, two, four, zero = y.dtype.type(1), y.dtype.type(2), y.dtype.type(4), y.dtype.type(0)
    for r in range(block * NUMBERS_PER_BLOCK, min((block + 1) * NUMBERS_PER_BLOCK, y.shape[0])):
        _sizes(parameters, r, 0, widths)
        _sizes(parameters, r, bins, heights)
        k, bottom = _find(y[r], heights)
        start = zero
        for j in range(k):
            start += widths[j]
        left, right = _slope(parameters, r, 2 * bins + k), _slope(parameters, r, 2 * bins + k + 1)
        steep = heights[k] / widths[k]
        above = y[r] - bottom
        bend = left + right - two * steep
        a = heights[k] * (steep - left) + above * bend
        b = heights[k] * left - above * bend
        c = -steep * above
        root = np.sqrt(max(b * b - four * a * c, zero))
        place = min(max(two * c / (-b - root), zero), one)
        out[r] = start + place * widths[k]


@Kernel
def _spline_backward(block, arguments):
    gradient, x, parameters, to_x, to_parameters = arguments[0]
    bins = (parameters.shape[1] - 1) // 3
    widths, heights = np.empty(bins, x.dtype), np.empty(bins, x.dtype)
    one, two = x.dtype.type(1), x.dtype.type(2)
    for r in range(block * NUMBERS_PER_BLOCK, min((block + 1) * NUMBERS_PER_BLOCK, x.shape[0])):
        _sizes(parameters, r, 0, widths)
        _sizes(parameters, r, bins, heights)
        k, start = _find(x[r], widths)
        left, right = _slope(parameters, r, 2 * bins + k), _slope(parameters, r, 2 * bins + k + 1)
        place = (x[r] - start) / widths[k]
        steep = heights[k] / widths[k]
        mixed = place * (one - place)
        bend = left + right - two * steep
        below = steep + bend * mixed
        above = steep * place * place + left * mixed
        rise = right * place * place + two * steep * mixed + left * (one - place) * (one - place)
        # The value is bottom + height * above / below, the logarithm 2 log(steep) + log(rise) - 2 log(below).
        to_value, to_log = gradient[r, 0], gradient[r, 1]
        to_above = to_value * heights[k] / below
        to_below = -(to_above * above + two * to_log) / below
        to_rise = to_log / rise
        to_steep = (
            two * to_log / steep + to_above * place * place + to_below * (one - two * mixed) + to_rise * two * mixed
        )
        to_left = (to_above + to_below) * mixed + to_rise * (one - place) * (one - place)
        to_right = to_below * mixed + to_rise * place * place
        to_mixed = to_above * left + to_below * bend + to_rise * two * steep
        to_place = (
            to_above * two * steep * place
            + to_rise * two * (right * place - left * (one - place))
            + to_mixed * (one - two * place)
        )
        to_x[r] = to_place / widths[k]
        to_width = -(to_steep * steep + to_place * place) / widths[k]
        to_height = to_steep / widths[k] + to_value * above / below
        _sizes_backward(to_parameters, r, 0, widths, k, -to_x[r], to_width)
        _sizes_backward(to_parameters, r, bins, heights, k, to_value, to_height)
        for j in range(2 * bins, 3 * bins + 1):
            to_parameters[r, j] = 0
        to_parameters[r, 2 * bins + k] = to_left * _slope_backward(parameters, r, 2 * bins + k)
        to_parameters[r, 2 * bins + k + 1] = to_right * _slope_backward(parameters, r, 2 * bins + k + 1)


@jit
def _slope_backward(parameters, r, j):
    """The derivative of `_slope`: the logistic function."""
    one = parameters.dtype.type(1)
    return one / (one + np.exp(-(parameters[r, j] + parameters.dtype.type(SLOPE_SHIFT))))


@jit
def _sizes_backward(out, r, first, sizes, k, to_before, to_own):
    """The gradients of raw sizes if that of each size before bin k is to_before, that of size k to_own, of others 0."""
    least = sizes.dtype.type(LEAST_SIZE)
    room = sizes.dtype.type(1) - sizes.dtype.type(LEAST_SIZE * sizes.shape[0])
    mean = to_own * (sizes[k] - least)
    for j in range(k):
        mean += to_before * (sizes[j] - least)
    mean /= room
    for j in range(sizes.shape[0]):
        to_size = to_before if j < k else (to_own if j == k else sizes.dtype.type(0))
        out[r, first + j] = (sizes[j] - least) * (to_size - mean)
