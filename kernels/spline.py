"""Monotone rational-quadratic splines of the unit interval (Durkan et al. 2019), forward, backward and inverse.

R    numbers, each with a spline of its own
K    bins of a spline
P    parameters of a spline, 3 K + 1: K raw widths, K raw heights, and K + 1 raw slopes at the ends of the bins
L    layers of a flow, N its labels, H nodes of the hidden layers of conditioners, S samples

Softmax makes widths and heights of the raw ones, softplus makes slopes; zeros give the identity. Widths, heights and
slopes have a least size, so that every spline can be inverted in floats.
"""

import numpy as np

from ._jit import Kernel, blocks_of, jit

NUMBERS_PER_BLOCK = 64
SAMPLES_PER_BLOCK = 64
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


def flow_inverse(
    starts: np.ndarray,
    labels: np.ndarray,
    weight0: np.ndarray,
    bias0: np.ndarray,
    weight1: np.ndarray,
    bias1: np.ndarray,
    uniform: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write what an autoregressive flow of splines maps to uniform numbers, label by label; uniform, out (S, N).

    The conditioner of label i in a layer starts from starts (L, N, H), to which label j < i adds its place between -1
    and 1 times labels (L, N, N, H)[layer, j, i]; ReLU, weight0 (L, H, H), bias0 (L, H), ReLU, weight1 (L, H, P), bias1
    (L, P). Between layers the order of the labels is reversed.
    """
    blocks = blocks_of(len(out), SAMPLES_PER_BLOCK)
    _flow_inverse(blocks, starts, labels, weight0, bias0, weight1, bias1, uniform, out)


@Kernel
def _flow_inverse(block, arguments):
    starts, labels, weight0, bias0, weight1, bias1, uniform, out = arguments[0]
    layers, number, nodes = starts.shape
    size = bias1.shape[1]
    dtype = out.dtype
    zero, one, two = dtype.type(0), dtype.type(1), dtype.type(2)
    first, hidden, splines = np.empty(nodes, dtype), np.empty(nodes, dtype), np.empty((1, size), dtype)
    widths, heights = np.empty((size - 1) // 3, dtype), np.empty((size - 1) // 3, dtype)
    values, found = np.empty(number, dtype), np.empty(number, dtype)
    for s in range(block * SAMPLES_PER_BLOCK, min((block + 1) * SAMPLES_PER_BLOCK, out.shape[0])):
        for i in range(number):
            values[i] = uniform[s, i]
        for back in range(layers):
            layer = layers - 1 - back
            for i in range(number):
                for h in range(nodes):
                    first[h] = starts[layer, i, h]
                for j in range(i):
                    place = two * found[j] - one
                    for h in range(nodes):
                        first[h] += place * labels[layer, j, i, h]
                for h in range(nodes):
                    hidden[h] = bias0[layer, h]
                for k in range(nodes):
                    if first[k] > zero:
                        for h in range(nodes):
                            hidden[h] += first[k] * weight0[layer, k, h]
                for p in range(size):
                    splines[0, p] = bias1[layer, p]
                for k in range(nodes):
                    if hidden[k] > zero:
                        for p in range(size):
                            splines[0, p] += hidden[k] * weight1[layer, k, p]
                inverse = _inverse_of(values[number - 1 - i], splines, 0, widths, heights)
                found[i] = min(max(inverse, zero), one)
            for i in range(number):
                values[i] = found[i]
        for i in range(number):
            out[s, i] = values[i]


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


@jit
def _inverse_of(y, parameters, r, widths, heights):
    """Where spline r has the value y; widths and heights (K,) are for its own."""
    bins = widths.shape[0]
    one, two, four, zero = widths.dtype.type(1), widths.dtype.type(2), widths.dtype.type(4), widths.dtype.type(0)
    _sizes(parameters, r, 0, widths)
    _sizes(parameters, r, bins, heights)
    k, bottom = _find(y, heights)
    start = zero
    for j in range(k):
        start += widths[j]
    left, right = _slope(parameters, r, 2 * bins + k), _slope(parameters, r, 2 * bins + k + 1)
    steep = heights[k] / widths[k]
    above = y - bottom
    bend = left + right - two * steep
    a = heights[k] * (steep - left) + above * bend
    b = heights[k] * left - above * bend
    c = -steep * above
    root = np.sqrt(max(b * b - four * a * c, zero))
    place = min(max(two * c / (-b - root), zero), one)
    return start + place * widths[k]


@Kernel
def _spline_inverse(block, arguments):
    y, parameters, out = arguments[0]
    bins = (parameters.shape[1] - 1) // 3
    widths, heights = np.empty(bins, y.dtype), np.empty(bins, y.dtype)
    for r in range(block * NUMBERS_PER_BLOCK, min((block + 1) * NUMBERS_PER_BLOCK, y.shape[0])):
        out[r] = _inverse_of(y[r], parameters, r, widths, heights)


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
