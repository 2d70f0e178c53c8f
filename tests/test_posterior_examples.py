"""The examples of posteriors: their simulators, the exact posterior, and a run of a few batches each."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "example"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def gaussian():
    return runpy.run_path(str(EXAMPLE / "gaussian.py"))


@pytest.fixture(scope="module")
def demography():
    return runpy.run_path(str(EXAMPLE / "demography.py"))


def test_gaussian__exact_posterior(gaussian):
    data, _ = gaussian["simulate"](np.random.default_rng(1))
    mu, sigma, density = gaussian["exact_posterior"](data)
    cell = (mu[1] - mu[0]) * (sigma[1] - sigma[0])
    assert abs(density.sum() * cell - 1) < 1e-9
    # Far from its ends the posterior of sigma peaks at the sample's own.
    assert abs(sigma[density.sum(axis=0).argmax()] - np.clip(data.std(), 6, 10)) < 0.2


def test_gaussian__divergence_of_the_exact_posterior_is_zero(gaussian):
    class Exact:
        def posterior(self, data):
            self.data = data[0]
            return self

        def log_prob(self, grid):
            return np.log(np.maximum(gaussian["exact_posterior"](self.data)[2], 1e-300)).reshape(1, -1)

    rng = np.random.default_rng(1)
    ours, prior = gaussian["compare"](Exact(), [gaussian["simulate"](rng)[0]])
    assert abs(ours) < 1e-9
    assert 0.1 < prior < 3


def test_gaussian__levels_hold_their_mass(gaussian):
    assert gaussian["levels"](np.array([[0.16, 0.5], [0.04, 0.3]])) == [0.16, 0.3, 0.5]


def test_demography__data(demography):
    data, label = demography["simulate"](np.random.default_rng(3))
    assert data.shape == (100, 64, 2)
    assert set(np.unique(data[..., 0])) <= {0, 1}
    assert (data[..., 0].mean(axis=0) <= 0.5).all()
    assert (data[:, :, 1] == data[:1, :, 1]).all()
    for value, (low, high) in zip(label, demography["BOX"], strict=True):
        assert low <= value <= high
    history = demography["history"](np.array([4, 1, 3]))
    assert history["A"].initial_size == 10**4
    assert (history.events[0].time, history.events[0].initial_size) == (1000, 10**5)
    few = demography["encode"](np.array([[0] * 90 + [1] * 10]), np.array([100_000.0]))
    assert few[:, 0, 0].sum() == 10
    assert few[:, 1:, 0].sum() == 0
    assert demography["encode"](np.zeros((0, 100)), np.zeros(0))[..., 0].sum() == 0


def test_demography__learns_for_a_few_batches(demography):
    model = demography["learn"](100, 1, sim_threads=0, logfile=None)
    data = [demography["simulate"](np.random.default_rng(i))[0] for i in range(2)]
    samples = model.posterior(data).sample(20, seed=1)
    low, high = np.array(demography["BOX"]).T
    assert ((samples >= low) & (samples <= high)).all()


def test_sbi_tasks__simulators(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name, task in runpy.run_path(str(BENCHMARKS / "sbi_tasks.py"))["TASKS"].items():
        data, labels = task.simulate(400, seed=1)
        data = data / task.scale
        assert data.shape[1:] == task.shape, name
        if task.box is not None:
            assert (labels >= np.array(task.box)[:, 0]).all()
            assert (labels <= np.array(task.box)[:, 1]).all()
        if name in ("gaussian_linear", "gaussian_mixture"):
            assert abs((data[:, 0] - labels).mean()) < 0.1
        if name == "slcp":
            z = (data - labels[:, None, :2]) / labels[
                :, None, 2:4
            ] ** 2  # standard normal, of correlation tanh(theta 5)
            np.testing.assert_allclose(z.std(axis=(0, 1)), 1, atol=0.1)
            correlation = (z[..., 0] * z[..., 1]).mean(axis=1)
            assert np.corrcoef(correlation, np.tanh(labels[:, 4]))[0, 1] > 0.6
