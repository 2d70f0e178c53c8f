"""Steps with weight decay, a bound on the gradient, averages and schedules."""

from pathlib import Path

import numpy as np
import pytest

from definetti_np import Network, Trainer
from definetti_np.schedules import StepSettings

REFERENCE = Path(__file__).parent / "references" / "steps" / "thirty_steps.npz"
VARIANTS = {
    "decay": {"weight_decay": 0.3},
    "norm": {"max_gradient_norm": 0.05},
    "average": {"averaging": 0.9},
    "cosine": {"schedule": "cosine"},
    "all": {"weight_decay": 0.3, "max_gradient_norm": 0.05, "averaging": 0.9, "schedule": "cosine"},
}
LISTS = {"phi_net": [("fc", 7)], "g": ("moments", 1), "h_net": [("matmul",)]}


def small_trainer(dtype=np.float64, **options):
    network = Network((5, 4), (3,), **LISTS, seed=1, dtype=dtype)
    return Trainer(network, loss="l2", accuracy=None, threads=1, **options)


@pytest.mark.parametrize("name", VARIANTS)
def test_thirty_steps__as_in_pytorch(name):
    options = dict(VARIANTS[name])
    schedule = options.pop("schedule", "constant")
    trainer = small_trainer(learning_rate=0.01, **options)
    none = {"averaging": None, "weight_decay": 0, "max_gradient_norm": None}
    settings = StepSettings.checked(learning_rate=0.01, schedule=schedule, **none)
    with np.load(REFERENCE) as reference:
        for key, array in trainer.network.parameters.items():
            array[...] = reference[f"initial.{key}"]
        for step, (data, labels) in enumerate(zip(reference["data"], reference["labels"], strict=True)):
            trainer.optimizer.learning_rate = settings.rate_at(step, 30)
            trainer.step(data, labels)
        with trainer.with_average():
            for key, array in trainer.network.parameters.items():
                np.testing.assert_allclose(array, reference[f"{name}.{key}"], rtol=1e-9, atol=1e-12)
                assert np.abs(array - reference[f"initial.{key}"]).max() > 1e-3


def batches(number):
    rng = np.random.default_rng(2)
    return [(rng.normal(size=(6, 5, 4)), rng.normal(size=(6, 3))) for _ in range(number)]


def test_with_average__is_the_mean_in_which_old_weights_count_less():
    trainer, seen = small_trainer(averaging=0.8), []
    with trainer.with_average():
        assert not trainer.optimizer.average.any(), "before the first step the weights are used"
        assert trainer.network.flat.weights.any()
    for data, labels in batches(6):
        trainer.step(data, labels)
        seen.append(trainer.network.flat.weights.copy())
        own = trainer.network.flat.weights.copy()
        with trainer.with_average():
            factors = 0.8 ** np.arange(len(seen))[::-1]
            expected = np.average(seen, axis=0, weights=factors)
            np.testing.assert_allclose(trainer.network.flat.weights, expected, rtol=1e-12)
        np.testing.assert_array_equal(trainer.network.flat.weights, own)


def test_with_average__gives_the_weights_back_after_an_error():
    trainer = small_trainer(averaging=0.8)
    for data, labels in batches(2):
        trainer.step(data, labels)
    own = trainer.network.flat.weights.copy()
    with pytest.raises(RuntimeError), trainer.with_average():
        raise RuntimeError
    np.testing.assert_array_equal(trainer.network.flat.weights, own)
    trainer.use_average()
    np.testing.assert_array_equal(trainer.network.flat.weights, trainer.optimizer.average)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options__that_change_nothing_change_no_bit(dtype):
    plain, other = small_trainer(dtype), small_trainer(dtype, averaging=0.5, weight_decay=0, max_gradient_norm=1e9)
    for data, labels in batches(5):
        assert plain.step(data, labels) == other.step(data, labels)
    assert plain.network.flat.weights.tobytes() == other.network.flat.weights.tobytes()
    assert plain.optimizer.average.size == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"averaging": 1}, ValueError, "averaging must be None, or a decay between 0 and 1 such as 0.999, .* got 1.0"),
        ({"averaging": 0}, ValueError, "averaging must be positive and finite, got 0"),
        ({"averaging": True}, TypeError, "averaging must be a number, got True"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be 0 or more, and finite, got -0.1"),
        ({"weight_decay": "1"}, TypeError, "weight_decay must be a number, got '1'"),
        ({"weight_decay": 2000}, ValueError, r"weight_decay must be below 1 / learning_rate = 1000, .* got 2000"),
        ({"max_gradient_norm": 0}, ValueError, "max_gradient_norm must be positive and finite, got 0"),
    ],
)
def test_trainer__arguments(options, error, message):
    with pytest.raises(error, match=message):
        small_trainer(**options)
