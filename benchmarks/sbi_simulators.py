"""Simulators of four tasks of the SBI benchmark (Lueckmann et al. 2021), and what their densities are.

A simulator returns data of a few rows and a label. A density returns, up to a constant, the logarithm of the density
of labels theta (S, N) under the true posterior of an observation x (D,), inside of the prior's box.
"""

import numpy as np


def gaussian_linear(rng):
    theta = rng.normal(0, np.sqrt(0.1), 10)
    return rng.normal(theta, np.sqrt(0.1))[None], theta


def gaussian_linear_density(theta, x):
    return -5 * (np.square(x - theta).sum(axis=1) + np.square(theta).sum(axis=1))  # with that of the prior


def gaussian_mixture(rng):
    theta = rng.uniform(-10, 10, 2)
    return (theta + rng.choice([1.0, 0.1]) * rng.standard_normal(2))[None], theta


def gaussian_mixture_density(theta, x):
    d = np.square(x - theta).sum(axis=1)
    return np.logaddexp(-0.5 * d, np.log(100) - 50 * d)


def two_moons(rng):
    theta = rng.uniform(-1, 1, 2)
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2), rng.normal(0.1, 0.01)
    moon = np.array([radius * np.cos(angle) + 0.25, radius * np.sin(angle)])
    return (moon + np.array([-abs(theta.sum()), theta[1] - theta[0]]) / np.sqrt(2))[None], theta


def two_moons_density(theta, x):
    across = x[0] - 0.25 + abs(theta.sum(axis=1)) / np.sqrt(2)
    along = x[1] - (theta[:, 1] - theta[:, 0]) / np.sqrt(2)
    radius = np.hypot(across, along)
    return np.where(across > 0, -0.5 * np.square((radius - 0.1) / 0.01) - np.log(radius), -np.inf)


def slcp(rng):
    theta = rng.uniform(-3, 3, 5)
    s1, s2, rho = theta[2] ** 2, theta[3] ** 2, np.tanh(theta[4])
    z = rng.standard_normal((4, 2))
    noise = np.column_stack([s1 * z[:, 0], s2 * (rho * z[:, 0] + np.sqrt(1 - rho**2) * z[:, 1])])
    return theta[:2] + noise, theta


def slcp_density(theta, x):
    s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    a, b = ((x.reshape(4, 2, 1)[:, i] - theta[:, i]) / s for i, s in ((0, s1), (1, s2)))
    squares = (a * a - 2 * rho * a * b + b * b).sum(axis=0) / (1 - rho**2)
    return -0.5 * squares - 4 * np.log(s1 * s2) - 2 * np.log1p(-(rho**2))
