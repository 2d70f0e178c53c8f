"""A small simulator to try a cluster with: rows from a narrow or a wide distribution. Put your own in its place."""

import time

import numpy as np

input_shape, output_shape = (12, 3), (2,)
phi_net, g, h_net = [("fc", 8)], ("max",), [("softmax",)]
num_batches, batch_size, seed = 100, 20, 1


def simulator(rng):
    time.sleep(0.01)
    wide = rng.integers(2)
    return np.round(rng.standard_normal(input_shape) * (1 + 3 * wide)), np.eye(2)[wide]


SETTINGS = {
    "input_shape": input_shape,
    "output_shape": output_shape,
    "simulator": simulator,
    "phi_net": phi_net,
    "g": g,
    "h_net": h_net,
    "num_batches": num_batches,
    "batch_size": batch_size,
    "seed": seed,
}
