"""Convolutions of height 1 over gathered windows; a dense layer is a window of full width.

V    rows of values, C channels each
D    windows; a window is `width` rows of values, given by their row numbers
N    output channels

The inner loops run over channels, four products at a time, so that one load and store of the sum serves four.
"""

from ._jit import Kernel, blocks_of

WINDOWS = 64  # windows in a block
WEIGHTS = 8  # rows of the weight gradient in a block


def conv_forward(values, windows, weight, bias, floor, out):
    """Write ``max(floor, bias + sum_jc values[windows[d, j], c] * weight[j, c])`` to ``out[d]``.

    values (V, C), windows (D, width) int32, weight (width, C, N), bias (N,), out (D, N). A floor of 0 makes a
    ReLU, a floor of -inf a linear layer. NaN is kept.
    """
    _conv_forward(blocks_of(len(out), WINDOWS), values, windows, weight, bias, float(floor), out)


def mask_gradient(gradient, out, floor, masked, active):
    """Write 0 where ``out <= floor``, else ``gradient``, to ``masked``, and to ``active`` which rows are not all 0.

    gradient, out, masked (D, N), active (D,) uint8. NaN is kept.
    """
    _mask_gradient(blocks_of(len(out), WINDOWS), gradient, out, float(floor), masked, active)


def conv_backward_values(gradient, active, offsets, windows, weight_transposed, out):
    """Add ``sum_n gradient[d, n] * weight[j, c, n]`` to ``out[windows[d, j], c]``.

    gradient (D, N); active (A,) int64, the windows d with a gradient in ascending order; offsets (B + 1,) int64,
    where each dataset begins in ``active``: no two datasets share a row of values; windows (D, width) int32;
    weight_transposed (width, N, C); out (V, C).
    """
    _conv_backward_values(len(offsets) - 1, gradient, active, offsets, windows, weight_transposed, out)


def conv_backward_weight(gradient, active, values, windows, weight_out, bias_out):
    """Write ``sum_d gradient[d, n] * values[windows[d, j], c]`` to ``weight_out[j, c, n]``, sums to ``bias_out``.

    gradient (D, N); active (A,) int64, the windows d with a gradient; values (V, C); windows (D, width) int32;
    weight_out (width, C, N); bias_out (N,).
    """
    width, depth, _ = weight_out.shape
    blocks = blocks_of(width * depth, WEIGHTS) + 1  # the last one is the bias
    _conv_backward_weight(blocks, gradient, active, values, windows, weight_out, bias_out)


@Kernel
def _conv_forward(block, arguments):
    values, windows, weight, bias, floor, out = arguments[0]
    width, depth, channels = weight.shape
    unrolled = depth - depth % 4
    for d in range(block * WINDOWS, min((block + 1) * WINDOWS, windows.shape[0])):
        for n in range(channels):
            out[d, n] = bias[n]
        for j in range(width):
            v = windows[d, j]
            for c in range(0, unrolled, 4):
                x0, x1, x2, x3 = values[v, c], values[v, c + 1], values[v, c + 2], values[v, c + 3]
                for n in range(channels):
                    total = out[d, n] + x0 * weight[j, c, n] + x1 * weight[j, c + 1, n]
                    out[d, n] = total + x2 * weight[j, c + 2, n] + x3 * weight[j, c + 3, n]
            for c in range(unrolled, depth):
                x0 = values[v, c]
                for n in range(channels):
                    out[d, n] += x0 * weight[j, c, n]
        for n in range(channels):
            if out[d, n] < floor:
                out[d, n] = floor


@Kernel
def _mask_gradient(block, arguments):
    gradient, out, floor, masked, active = arguments[0]
    for d in range(block * WINDOWS, min((block + 1) * WINDOWS, out.shape[0])):
        nonzero = 0
        for n in range(out.shape[1]):
            masked[d, n] = 0 if out[d, n] <= floor else gradient[d, n]
            nonzero += masked[d, n] != 0
        active[d] = nonzero > 0


@Kernel
def _conv_backward_values(dataset, arguments):
    gradient, active, offsets, windows, weight_transposed, out = arguments[0]
    width, channels, depth = weight_transposed.shape
    unrolled = channels - channels % 4
    for a in range(offsets[dataset], offsets[dataset + 1]):
        d = active[a]
        for j in range(width):
            v = windows[d, j]
            for n in range(0, unrolled, 4):
                g0, g1, g2, g3 = gradient[d, n], gradient[d, n + 1], gradient[d, n + 2], gradient[d, n + 3]
                for c in range(depth):
                    total = out[v, c] + g0 * weight_transposed[j, n, c] + g1 * weight_transposed[j, n + 1, c]
                    total += g2 * weight_transposed[j, n + 2, c] + g3 * weight_transposed[j, n + 3, c]
                    out[v, c] = total
            for n in range(unrolled, channels):
                g0 = gradient[d, n]
                for c in range(depth):
                    out[v, c] += g0 * weight_transposed[j, n, c]


@Kernel
def _conv_backward_weight(block, arguments):
    gradient, active, values, windows, weight_out, bias_out = arguments[0]
    width, depth, channels = weight_out.shape
    first, last = block * WEIGHTS, min((block + 1) * WEIGHTS, width * depth)
    if first >= width * depth:
        for n in range(channels):
            bias_out[n] = 0
        for d in active:
            for n in range(channels):
                bias_out[n] += gradient[d, n]
        return
    for k in range(first, last):
        for n in range(channels):
            weight_out[k // depth, k % depth, n] = 0
    unrolled = len(active) - len(active) % 4
    for a in range(0, unrolled, 4):
        d0, d1, d2, d3 = active[a], active[a + 1], active[a + 2], active[a + 3]
        for k in range(first, last):
            j, c = k // depth, k % depth
            x0, x1 = values[windows[d0, j], c], values[windows[d1, j], c]
            x2, x3 = values[windows[d2, j], c], values[windows[d3, j], c]
            for n in range(channels):
                total = weight_out[j, c, n] + x0 * gradient[d0, n] + x1 * gradient[d1, n]
                weight_out[j, c, n] = total + x2 * gradient[d2, n] + x3 * gradient[d3, n]
    for a in range(unrolled, len(active)):
        d0 = active[a]
        for k in range(first, last):
            j, c = k // depth, k % depth
            x0 = values[windows[d0, j], c]
            for n in range(channels):
                weight_out[j, c, n] += x0 * gradient[d0, n]
