"""The slow version of every kernel: float64, one loop per index, written to be obviously right.

Each function has the name of its kernel and the kernel's inputs, and returns what the kernel writes.

B datasets, U distinct rows, P positions, C channels, V rows of values, D windows, N outputs, K pooled values.
"""

import itertools
import math
from collections import Counter

import numpy as np


def pack(matrix, rows, width):
    chosen = matrix[rows].astype(np.float64)
    filled = np.pad(chosen, [(0, 0), (0, -chosen.shape[1] % width)])
    return np.array([filled[:, left : left + width] for left in range(0, filled.shape[1], width)])


def pack_transposed(matrix, width):
    return pack(matrix.T, np.arange(matrix.shape[1]), width)


def conv_forward(values, windows, weight, bias, floor):
    width, depth, channels = weight.shape
    out = np.zeros((len(windows), channels))
    for d in range(len(windows)):
        for n in range(channels):
            total = float(bias[n])
            for j in range(width):
                for c in range(depth):
                    total += float(values[windows[d, j], c]) * float(weight[j, c, n])
            out[d, n] = max(floor, total)
    return out


def mask_gradient(gradient, out, floor):
    return np.where(out <= floor, 0, gradient)


def scatter_windows(gradient, active, windows, out):
    out = np.zeros(out.shape)
    for a, d in enumerate(active):
        for j in range(windows.shape[1]):
            for c in range(out.shape[1]):
                out[windows[d, j], c] += gradient[a, j, c]
    return out


def conv_backward_weight(gradient, values, windows):
    width, depth, channels = windows.shape[1], values.shape[1], gradient.shape[1]
    weight = np.zeros((width, depth, channels))
    for d in range(len(windows)):
        for j in range(width):
            for c in range(depth):
                for n in range(channels):
                    weight[j, c, n] += float(values[windows[d, j], c]) * float(gradient[d, n])
    return weight


def conv_backward_values_of_winners(gradient, winners, windows, weight, out):
    channels, width, depth = weight.shape
    out = np.zeros(out.shape)
    for b, e, n in np.ndindex(gradient.shape):
        for j in range(width):
            for c in range(depth):
                out[windows[winners[b, e, n], j], c] += float(gradient[b, e, n]) * float(weight[n, j, c])
    return out


def conv_backward_weight_of_winners(gradient, winners, windows, values):
    weight = np.zeros((windows.shape[1], values.shape[1], gradient.shape[2]))
    for b, e, n in np.ndindex(gradient.shape):
        for j in range(windows.shape[1]):
            for c in range(values.shape[1]):
                weight[j, c, n] += float(gradient[b, e, n]) * float(values[windows[winners[b, e, n], j], c])
    return weight


def find_windows(words, offsets, length, step):
    """The distinct windows of each dataset, as tuples, position by position."""
    found = []
    for b in range(len(offsets) - 1):
        windows = []
        for begin in range(0, words.shape[1] - length + 1, step):
            for u in range(offsets[b], offsets[b + 1]):
                window = tuple(words[u, begin : begin + length])
                if window not in windows:
                    windows.append(window)
        found.append(windows)
    return found


def gather_windows(index, cells, width):
    return np.array([[index[cell + j] for j in range(width)] for cell in cells])


def gather_rows(words, order):
    return np.array([words[r] for r in order])


def convert_rows(data):
    return data + 0.0, np.isfinite(data).all()


def find_rows(words, starts):
    """The distinct rows of each dataset, as bytes in ascending order, with how often each occurs."""
    found = []
    for b in range(len(starts) - 1):
        rows = [row.tobytes() for row in words[starts[b] : starts[b + 1]]]
        found.append([(row, rows.count(row)) for row in sorted(set(rows))])
    return found


def max_forward(values, index, offsets):
    ones = np.ones(len(index), int)
    return top_k_forward(values, index, ones, offsets, 1)


def top_k_forward(values, index, counts, offsets, k):
    out = np.zeros((len(offsets) - 1, k, index.shape[1], values.shape[1]))
    winners = np.zeros(out.shape, int)
    for b in range(len(offsets) - 1):
        for p in range(index.shape[1]):
            for c in range(values.shape[1]):
                rows = [u for u in range(offsets[b], offsets[b + 1]) for _ in range(counts[u])]
                rows.sort(key=lambda u: (-values[index[u, p], c], u))
                for place, u in enumerate(rows[:k]):
                    out[b, place, p, c] = values[index[u, p], c]
                    winners[b, place, p, c] = index[u, p]
    return out, winners


def winners_backward(gradient, winners, out):
    out = out.astype(np.float64)
    for b, k, p, c in np.ndindex(winners.shape):
        out[winners[b, k, p, c], c] += gradient[b, k, p, c]
    return out


def moments_forward(values, index, counts, offsets, orders):
    out = np.zeros((len(offsets) - 1, len(orders), index.shape[1], values.shape[1]))
    for b, k, p, c in np.ndindex(out.shape):
        rows = range(offsets[b], offsets[b + 1])
        powers = [counts[u] * _power(float(values[index[u, p], c]), orders[k]) for u in rows]
        out[b, k, p, c] = sum(powers) / sum(counts[u] for u in rows)
    return out


def moments_backward(gradient, values, index, counts, offsets, orders, out):
    out = out.astype(np.float64)
    for b, k, p, c in np.ndindex(gradient.shape):
        rows = range(offsets[b], offsets[b + 1])
        for u in rows:
            x = float(values[index[u, p], c])
            if x != 0:
                share = counts[u] / sum(counts[v] for v in rows)
                out[index[u, p], c] += gradient[b, k, p, c] * share * orders[k] * x ** (orders[k] - 1)
    return out


def var_forward(values, index, counts, offsets):
    """The means, and the means of the squared deviations from them."""
    shape = len(offsets) - 1, index.shape[1], values.shape[1]
    means, out = np.zeros(shape), np.zeros(shape)
    for b, p, c in np.ndindex(shape):
        rows = range(offsets[b], offsets[b + 1])
        size = sum(counts[u] for u in rows)
        means[b, p, c] = sum(counts[u] * float(values[index[u, p], c]) for u in rows) / size
        out[b, p, c] = sum(counts[u] * (float(values[index[u, p], c]) - means[b, p, c]) ** 2 for u in rows) / size
    return means, out


def var_backward(gradient, means, values, index, counts, offsets, out):
    out = out.astype(np.float64)
    for b, p, c in np.ndindex(gradient.shape):
        rows = range(offsets[b], offsets[b + 1])
        for u in rows:
            share = counts[u] / sum(counts[v] for v in rows)
            deviation = float(values[index[u, p], c]) - means[b, p, c]
            out[index[u, p], c] += gradient[b, p, c] * share * 2 * deviation
    return out


def _power(x, order):
    return x**order if x != 0 else 0.0


def log_softmax_forward(logits):
    return np.array([[x - math.log(sum(math.exp(y) for y in row)) for x in row] for row in logits.tolist()])


def log_softmax_backward(gradient, log_probabilities):
    return gradient - np.exp(log_probabilities) * gradient.sum(axis=1, keepdims=True)


def cross_entropy_forward(log_probabilities, labels):
    return -(labels * log_probabilities).sum(axis=1)


def cross_entropy_backward(gradient, labels):
    return -gradient[:, None] * labels


def squared_error_forward(estimates, labels):
    return ((estimates - labels) ** 2).sum(axis=1)


def squared_error_backward(gradient, estimates, labels):
    return 2 * gradient[:, None] * (estimates - labels)


def adam_update(weights, gradients, first_moments, second_moments, average, constants):
    rate, beta1, beta2, epsilon, kept, scale, share = constants
    gradients = scale * gradients
    first = beta1 * first_moments + (1 - beta1) * gradients
    second = beta2 * second_moments + (1 - beta2) * gradients**2
    weights = kept * weights - rate * first / (np.sqrt(second) + epsilon)
    return weights, first, second, average + share * (weights - average) if len(average) else average


def network(spec, parameters, data):
    """Log-probabilities or estimates (B, N) of a list of dense datasets (n, W[, C]), in float64."""
    return np.array([_network_of_dataset(spec, parameters, dataset.astype(np.float64)) for dataset in data])


def _network_of_dataset(spec, parameters, dataset):
    rows = dataset.reshape(len(dataset), *spec.row_shape)
    for layer in spec.phi_layers:
        rows = np.array([_layer(layer, parameters, row) for row in rows])
    features = np.concatenate([_pool(pooling, rows) for pooling in spec.poolings], axis=1)
    for layer in spec.h_layers:
        features = _layer(layer, parameters, features)
    out = features.reshape(-1)
    return out - np.log(np.exp(out).sum()) if spec.ends_in_softmax else out


def _layer(layer, parameters, features):
    """Apply a layer to the features (P, C) of one row."""
    weight, bias = parameters[f"{layer.name}.weight"], parameters[f"{layer.name}.bias"]
    if layer.kind == "conv":
        width = len(weight)
        windows = [features[p : p + width] for p in range(len(features) - width + 1)]
        return np.maximum([np.tensordot(window, weight, axes=2) + bias for window in windows], 0)
    out = features.reshape(-1) @ weight + bias
    return np.maximum(out, 0)[:, None] if layer.kind == "fc" else out


def _pool(pooling, rows):
    """Pool the features (n, P, C) of the rows of a dataset to (P, K * C)."""
    if pooling.kind == "moments":
        nonzero = np.where(rows == 0, 1, rows)
        pooled = np.array([np.where(rows == 0, 0, nonzero**m).mean(axis=0) for m in pooling.orders])
    else:
        pooled = -np.sort(-rows, axis=0)[: pooling.k]
    return np.array([pooled[:, p].reshape(-1) for p in range(rows.shape[1])])


def count_windows(rows, counts, offsets, widths):
    """How many distinct windows there are around each position, and how many ordered pairs of rows agree in one."""
    distinct = np.zeros((len(offsets) - 1, rows.shape[1], len(widths)), int)
    pairs = np.zeros_like(distinct)
    for b, p, k in np.ndindex(distinct.shape):
        begin, end = p - widths[k] // 2, p - widths[k] // 2 + widths[k]
        of_dataset = np.repeat(np.arange(offsets[b], offsets[b + 1]), counts[offsets[b] : offsets[b + 1]])
        windows = [tuple(rows[u, max(begin, 0) : end]) for u in of_dataset]
        distinct[b, p, k] = len(set(windows))
        pairs[b, p, k] = sum(number**2 for number in Counter(windows).values())
    return distinct, pairs


def linkage(rows, counts, offsets, reaches):
    """Mean r2 and share of four gametes of the pairs of positions before and from each position on."""
    r2 = np.zeros((len(offsets) - 1, rows.shape[1], len(reaches)))
    four_gametes = np.zeros_like(r2)
    for b in range(len(r2)):
        of_dataset = slice(offsets[b], offsets[b + 1])
        alleles = np.repeat(rows[of_dataset], counts[of_dataset], axis=0).astype(np.float64)
        varying = [p for p in range(rows.shape[1]) if alleles[:, p].std() > 0]
        r2_of, four_of = {}, {}
        for i, j in itertools.combinations(varying, 2):
            r2_of[i, j] = np.corrcoef(alleles[:, i], alleles[:, j])[0, 1] ** 2
            four_of[i, j] = len(set(zip(alleles[:, i], alleles[:, j], strict=True))) == 4
        for p, k in np.ndindex(r2.shape[1:]):
            pairs = [(i, j) for i, j in r2_of if p - reaches[k] <= i < p <= j < p + reaches[k]]
            if pairs:
                r2[b, p, k] = np.mean([r2_of[pair] for pair in pairs])
                four_gametes[b, p, k] = np.mean([four_of[pair] for pair in pairs])
    return r2, four_gametes


def average_powers(rows, counts, offsets, orders):
    out = np.zeros((len(offsets) - 1, rows.shape[1], len(orders)))
    for b, p, k in np.ndindex(out.shape):
        of_dataset = range(offsets[b], offsets[b + 1])
        total = sum(counts[u] * float(rows[u, p]) ** orders[k] for u in of_dataset)
        out[b, p, k] = total / sum(counts[u] for u in of_dataset)
    return out


def find_cells(words, offsets):
    """The distinct cells of each dataset and position, as tuples, in the order in which they appear."""
    found = []
    for b in range(len(offsets) - 1):
        cells = []
        for p in range(words.shape[1]):
            cells += dict.fromkeys((p, *words[u, p]) for u in range(offsets[b], offsets[b + 1]))
        found.append(cells)
    return found


def gather_cells(rows, context, offsets, cells):
    """Cells ``u * P + p`` with the context of their dataset and position behind them."""
    out = []
    for cell in cells:
        u, p = divmod(cell, rows.shape[1])
        b = next(b for b in range(len(context)) if offsets[b] <= u < offsets[b + 1])
        out.append([*rows[u, p], *context[b, p]])
    return np.array(out)


def _spline_knots(parameters):
    """Where the bins of one spline begin and end, in x and in y, and the slopes there."""
    bins = (len(parameters) - 1) // 3
    knots = []
    for raw in (parameters[:bins], parameters[bins : 2 * bins]):
        shares = np.exp(raw - raw.max()) / np.exp(raw - raw.max()).sum()
        knots.append(np.concatenate([[0.0], np.cumsum(1e-3 + (1 - 1e-3 * bins) * shares)]))
    slopes = 1e-3 + np.logaddexp(0, parameters[2 * bins :] + math.log(math.expm1(1 - 1e-3)))
    return *knots, slopes


def _spline(x, parameters):
    across, up, slopes = _spline_knots(parameters)
    k = min(max(int(np.searchsorted(across, x, side="right")) - 1, 0), len(across) - 2)
    width, height = across[k + 1] - across[k], up[k + 1] - up[k]
    s, z = height / width, (x - across[k]) / width
    below = s + (slopes[k + 1] + slopes[k] - 2 * s) * z * (1 - z)
    value = up[k] + height * (s * z * z + slopes[k] * z * (1 - z)) / below
    rise = slopes[k + 1] * z * z + 2 * s * z * (1 - z) + slopes[k] * (1 - z) ** 2
    return value, math.log(s * s * rise / below**2)


def spline_forward(x, parameters):
    return np.array([_spline(*pair) for pair in zip(x.astype(float), parameters.astype(float), strict=True)])


def spline_inverse(y, parameters):
    found = []
    for value, row in zip(y.astype(float), parameters.astype(float), strict=True):
        low, high = 0.0, 1.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if _spline(middle, row)[0] < value else (low, middle)
        found.append((low + high) / 2)
    return np.array(found)


def spline_backward(gradient, x, parameters):
    """By differences, so it is exact to about 1e-7."""
    x, parameters, step = x.astype(float), parameters.astype(float), 1e-6
    to_x = (spline_forward(x + step, parameters) - spline_forward(x - step, parameters)) / (2 * step)
    to_parameters = np.zeros_like(parameters)
    for j in range(parameters.shape[1]):
        shift = np.zeros_like(parameters)
        shift[:, j] = step
        difference = spline_forward(x, parameters + shift) - spline_forward(x, parameters - shift)
        to_parameters[:, j] = (gradient * difference).sum(axis=1) / (2 * step)
    return (gradient * to_x).sum(axis=1), to_parameters


def flow_inverse(starts, labels, weight0, bias0, weight1, bias1, uniform):
    values = uniform.astype(float)
    for layer in reversed(range(len(starts))):
        values, found = values[:, ::-1], np.zeros(values.shape)
        for s, i in np.ndindex(values.shape):
            first = starts[layer, i] + sum((2 * found[s, j] - 1) * labels[layer, j, i] for j in range(i))
            hidden = np.maximum(np.maximum(first, 0) @ weight0[layer] + bias0[layer], 0)
            found[s, i] = spline_inverse(values[s, i : i + 1], (hidden @ weight1[layer] + bias1[layer])[None])[0]
        values = found
    return values
