"""Diagnostics, each on a case whose answer is known: posteriors that are right pass, those that are wrong fail."""

import json
import sys

import numpy as np
import pytest

from definetti_np import Model, Network, diagnostics, load, simulate, train
from definetti_np.diagnostics.bands import _null, uniformity
from definetti_np.diagnostics.classes import reliability, roc
from definetti_np.diagnostics.numbers import _p_of_fraction, tarp_ranks
from definetti_np.heads import LabelBox, MixtureSpec, QuantilesSpec
from definetti_np.posteriors.classes import ClassPosterior
from definetti_np.posteriors.mixture import MixtureHead
from definetti_np.posteriors.quantiles import QuantilesHead, QuantilesPosterior

EXAMPLES = 1000


def gaussians(seed, width=1.0, shift=0.0, examples=EXAMPLES):
    """Exact posteriors of two labels of a standard normal prior given each plus noise 0.5, or wrong ones; labels."""
    rng = np.random.default_rng(seed)
    labels = rng.standard_normal((examples, 2))
    data = labels + 0.5 * rng.standard_normal(labels.shape)
    mean, sd = data / 1.25 + shift, width * np.sqrt(0.2)
    numbers = np.column_stack(
        [mean, np.full(examples, -np.log(sd)), np.zeros(examples), np.full(examples, -np.log(sd))]
    )
    box = LabelBox.checked(None, ("a", "b"), 2)
    return MixtureHead(MixtureSpec((1,), 2), box).posterior(numbers, {}), labels


def probabilities(seed, sharpness=1.0, examples=EXAMPLES):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((examples, 3)) * 1.5
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.eye(3)[(rng.random((examples, 1)) > right.cumsum(axis=1)).sum(axis=1)]
    said = np.exp(sharpness * logits)
    return ClassPosterior(said / said.sum(axis=1, keepdims=True), ("x", "y", "z")), labels


def test_numbers__right_posteriors_pass_95_times_in_100():
    passed = [diagnostics.evaluate(*gaussians(seed, examples=200), seed=seed).passed for seed in range(60)]
    assert 51 <= sum(passed) <= 60


@pytest.mark.parametrize(("width", "shift"), [(0.8, 0), (1.25, 0), (1, 0.1)])
def test_numbers__wrong_posteriors_fail(width, shift):
    for seed in range(3):
        report = diagnostics.evaluate(*gaussians(seed, width, shift), seed=seed)
        assert not report.passed
        assert "FAILED: not calibrated: SBC of a" in str(report)
        for label in report.labels:
            assert not label.sbc.is_inside
        if shift == 0:
            assert report.tarp.p_value < 0.05


def test_numbers__what_a_right_posterior_has():
    report = diagnostics.evaluate(*gaussians(1, examples=4000))
    for label in report.labels:
        for mass, fraction in label.coverage.items():
            assert abs(fraction - mass) < 4 * np.sqrt(mass * (1 - mass) / 4000)
        assert abs(label.z_mean) < 0.07
        assert abs(label.z_std - 1) < 0.05
        assert abs(label.contraction - 0.8) < 0.02
        assert abs(label.r2 - 0.8) < 0.02
        assert abs(label.correlation - np.sqrt(0.8)) < 0.02
        assert abs(label.rmse - np.sqrt(0.2)) < 0.02
    expected = -np.log(2 * np.pi * 0.2) - 1  # minus the entropy of two normals of variance 0.2
    assert abs(report.log_score - expected) < 4 * report.log_score_error
    assert report.tarp.is_inside


def test_coverage__of_narrow_posteriors():
    label = diagnostics.evaluate(*gaussians(1, width=0.8, examples=4000)).labels[0]
    expected = {0.5: 0.4105, 0.8: 0.6948, 0.95: 0.8831}  # of a normal within 0.8 times its quantiles
    for mass, fraction in label.coverage.items():
        assert abs(fraction - expected[mass]) < 0.03
    assert abs(label.z_std - 1.25) < 0.06


def test_tarp__finds_what_marginals_hide():
    """Labels of correlation 0.9, samples without it: each label alone is calibrated."""
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky([[1, 0.9], [0.9, 1]])
    labels, samples = rng.standard_normal((2000, 2)) @ root.T, rng.standard_normal((2000, 199, 2))
    assert uniformity(tarp_ranks(samples, labels, rng)).p_value < 0.01
    assert uniformity(tarp_ranks(samples @ root.T, labels, rng)).p_value > 0.01


def test_bands__hold_95_of_100_and_the_tails_are_binomial():
    rng = np.random.default_rng(3)
    found = [uniformity(rng.random(300)) for _ in range(400)]
    assert 0.91 < np.mean([f.is_inside for f in found]) < 0.985
    assert abs(np.mean([f.p_value < 0.05 for f in found]) - 0.05) < 0.04
    assert not uniformity(rng.random(300) ** 1.3).is_inside
    null = _null(300)
    counts = rng.binomial(300, null.places[9], 100_000)
    assert abs(null.tails[9, 50] - 2 * min((counts <= 50).mean(), (counts >= 50).mean())) < 0.01


def test_quantiles__coverage_alone():
    z = np.array([-1.6449, -0.6745, 0, 0.6745, 1.6449])
    head = QuantilesHead(QuantilesSpec((0.05, 0.25, 0.5, 0.75, 0.95), 1), LabelBox.checked(None, None, 1))
    for width, passed in ((1, True), (0.7, False)):
        rng = np.random.default_rng(2)
        center = rng.standard_normal((EXAMPLES, 1))
        posterior = QuantilesPosterior((center + width * z)[..., None], head)
        report = diagnostics.evaluate(posterior, center + rng.standard_normal((EXAMPLES, 1)))
        assert report.passed == passed
        assert report.labels[0].coverage[0.95] is None
        assert report.labels[0].sbc is None
        str(report)


def test_quantiles__p_values_are_exact_for_rare_events():
    """1 in 100 of 100 labels: 4 or more come in 1.8 of 100 cases, where the normal distribution says 1 in 800."""
    assert abs(_p_of_fraction(0.04, 0.01, 100) - 2 * 0.01837) < 1e-4
    assert _p_of_fraction(0.5, 0.5, 100) == 1


def test_evaluate__labels_that_no_posterior_can_be_of():
    posterior, labels = gaussians(1, examples=100)
    with pytest.raises(ValueError, match="labels must be finite numbers, got nan"):
        diagnostics.evaluate(posterior, np.where(np.arange(100)[:, None] == 3, np.nan, labels))
    head = MixtureHead(MixtureSpec((1,), 1), LabelBox.checked([(0, 1)], None, 1))
    with pytest.raises(ValueError, match=r"labels\[0\] is outside of label_range: label 0 is 2"):
        diagnostics.evaluate(head.posterior(np.zeros((100, 2)), {}), np.full((100, 1), 2.0))
    classes, truth = probabilities(1, examples=100)
    for wrong in ([0.5, 0.5, 0], [0, 0, 0], [1, 1, 0]):
        with pytest.raises(ValueError, match=r"labels must be one-hot.*labels\[7\] is"):
            diagnostics.evaluate(classes, np.where(np.arange(100)[:, None] == 7, wrong, truth))


def test_classes__right_probabilities_pass_and_sharp_ones_fail():
    passed = [diagnostics.evaluate(*probabilities(seed), seed=seed).passed for seed in range(40)]
    assert 34 <= sum(passed) <= 40
    for seed in range(3):
        for sharpness in (1.8, 0.5):
            assert not diagnostics.evaluate(*probabilities(seed, sharpness), seed=seed).passed


def test_classes__another_prior_fails():
    """Probabilities under one prior, labels under another: one class gets too much, the other as much too little."""
    rng = np.random.default_rng(1)
    truth = (rng.random(2000) < 0.5).astype(int)
    odds = np.exp(1.5 * (rng.standard_normal(2000) + truth - 0.5))
    prob = np.column_stack([1 / (1 + odds), odds / (1 + odds)])
    report = diagnostics.evaluate(ClassPosterior(prob, ("flat", "spot")).with_prior((0.35, 0.65)), np.eye(2)[truth])
    assert not report.passed
    assert min(report.p_values_by_class) < 0.01
    assert report.to_dict()["classes"]["spot"]["p_value"] == report.p_values_by_class[1]


def test_classes__numbers_by_hand():
    posterior = ClassPosterior(np.tile([[0.8, 0.2], [0.4, 0.6]], (100, 1)), ("no", "yes"))
    labels = np.tile([[1.0, 0.0], [1.0, 0.0]], (100, 1))
    labels[0] = [0, 1]
    report = diagnostics.evaluate(posterior, labels)
    assert report.confusion.tolist() == [[99, 100], [1, 0]]
    assert report.accuracy == 0.495
    np.testing.assert_allclose(report.brier, (99 * 0.08 + 1.28 + 100 * 0.72) / 200)
    np.testing.assert_allclose(report.log_score, (99 * np.log(0.8) + np.log(0.2) + 100 * np.log(0.4)) / 200)
    np.testing.assert_allclose(report.calibration_error, (abs(0.8 - 0.99) + 0.6) / 2)
    np.testing.assert_allclose(report.by_class[0].calibration_error, (0.19 + 0.6) / 2)


def test_roc__area_is_the_fraction_of_pairs_in_order():
    rng = np.random.default_rng(1)
    scores, hits = rng.integers(0, 6, 80), rng.random(80) < 0.4
    higher = [(a > b) + 0.5 * (a == b) for a in scores[hits] for b in scores[~hits]]
    np.testing.assert_allclose(roc(scores, hits)[2], np.mean(higher))
    assert np.isnan(roc(scores, np.ones(80, bool))[2])


def test_reliability__intervals_hold_the_fraction():
    found = reliability(np.array([0.05, 0.051, 0.95, 1.0]), np.array([False, True, True, True]))
    assert found.count.tolist() == [2, *[0] * 8, 2]
    np.testing.assert_allclose(found.fraction[[0, 9]], [0.5, 1])
    assert found.low[9] < 0.5 < 1 <= found.high[9] + 1e-12


# check


def simulator(rng):
    label = rng.uniform(-1, 1, 1)
    return rng.normal(label, 0.5, (8, 1)), label


NETWORK = {
    "phi_net": [("fc", 8)],
    "g": ("moments", 1, 2),
    "h_net": [("fc", 16), ("spline", 4)],
    "label_range": [(-1, 1)],
}


@pytest.fixture(scope="module")
def model():
    options = {
        "num_batches": 400,
        "batch_size": 50,
        "sim_threads": 0,
        "logfile": None,
        "seed": 1,
        "learning_rate": 0.003,
    }
    return train((8, 1), (1,), simulator, **NETWORK, **options)


def test_check__of_a_trained_model(model, tmp_path):
    report = diagnostics.check(model, simulator, 300, seed=2, sim_threads=0)
    assert report.to_dict() == diagnostics.check(model, simulator, 300, seed=2, sim_threads=2, threads=1).to_dict()
    assert report.labels[0].r2 > 0.6
    assert report.labels[0].coverage[0.8] > 0.6
    json.dumps(report.to_dict(), allow_nan=False)
    assert len(str(report).splitlines()) < 20
    assert model.last_check["examples"] == 300
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.last_check == model.last_check
    assert "posteriors checked on" in repr(again)


def test_check__reads_and_writes_a_store(model, tmp_path):
    one = diagnostics.check(model, simulator, 120, seed=2, sim_threads=0, simulations=tmp_path / "store")
    two = diagnostics.check(model, None, 120, simulations=tmp_path / "store")
    assert one.to_dict() == two.to_dict()


def test_check__refuses_what_training_used(model, tmp_path):
    with pytest.raises(ValueError, match="seed must be another one than that of the model's training, 1"):
        diagnostics.check(model, simulator, 100, seed=1)
    simulate(simulator, (8, 1), (1,), tmp_path / "store", seed=1, stop=100, sim_threads=0, logfile=None)
    with pytest.raises(ValueError, match="as in the store .* the training used its examples"):
        diagnostics.check(model, None, 100, simulations=tmp_path / "store")


def test_check__refuses_what_the_initial_weights_were_trained_on(model, tmp_path):
    options = {"num_batches": 1, "sim_threads": 0, "logfile": None}
    model.save(tmp_path / "first")
    second = train((8, 1), (1,), simulator, **NETWORK, **options, seed=5, initial=model)
    third = train((8, 1), (1,), simulator, **NETWORK, **options, seed=6, initial=second, save_path=tmp_path / "third")
    fourth = train((8, 1), (1,), simulator, **NETWORK, **options, seed=7, initial=tmp_path / "third")
    from_file = train((8, 1), (1,), simulator, **NETWORK, **options, seed=8, initial=tmp_path / "first")
    assert load(tmp_path / "third").seeds == third.seeds == (6, 5, 1)
    assert fourth.seeds == (7, 6, 5, 1)
    assert from_file.seeds == (8, 1)
    with pytest.raises(ValueError, match="seed must be another one than that of the model's training, 1"):
        diagnostics.check(fourth, simulator, 100, seed=1)


def test_check__bad_arguments(model):
    with pytest.raises(ValueError, match="bands need 100 examples at least"):
        diagnostics.check(model, simulator, 99, seed=2)
    for wrong, message in [(None, "must be a Model or an Ensemble, got None"), ("a", "read it with definetti_np.load")]:
        with pytest.raises(TypeError, match=message):
            diagnostics.check(wrong, simulator, 100, seed=2)
    posterior, labels = gaussians(1)
    with pytest.raises(ValueError, match=r"labels must have shape \(1000, 2\), got \(999, 2\)"):
        diagnostics.evaluate(posterior, labels[1:])
    estimates = Network((8, 1), (1,), [("fc", 2)], ("max",), [("matmul",)])
    with pytest.raises(ValueError, match="gives estimates, and no posterior"):
        diagnostics.check(Model(estimates, loss="l2", seed=1, batches_trained=0), simulator, 100, seed=2, sim_threads=0)


def test_classes__many_fit_a_screen_and_a_figure(tmp_path):
    rng = np.random.default_rng(1)
    names = [f"population number {i}" for i in range(30)]
    report = diagnostics.evaluate(
        ClassPosterior(np.full((200, 30), 1 / 30), names), np.eye(30)[rng.integers(30, size=200)]
    )
    assert max(map(len, str(report).splitlines())) < 120
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    height, width = imread(report.plot(tmp_path)[0]).shape[:2]
    assert max(height, width) < 3000


@pytest.mark.parametrize(
    "case", [gaussians(1, examples=100), probabilities(1, examples=100)], ids=["numbers", "classes"]
)
def test_plot__writes_figures(case, tmp_path):
    pytest.importorskip("matplotlib")
    report = diagnostics.evaluate(*case)
    paths = report.plot(tmp_path / "figures")
    assert len(paths) in (2, 4)
    assert all(path.stat().st_size > 5000 for path in paths)


def test_to_arviz__posterior_and_ranks():
    pytest.importorskip("arviz_base")
    posterior, labels = gaussians(1, examples=100)
    draws = posterior.to_arviz(samples=30, dataset=2)["posterior"]
    assert draws["b"].shape == (1, 30)
    ranks = diagnostics.evaluate(posterior, labels).to_arviz()["prior_sbc"]
    assert ranks["a"].shape == (1, 100)
    assert 0 <= ranks["a"].min() <= ranks["a"].max() <= 1


def test_to_arviz__says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match="pip install arviz-base"):
        gaussians(1, examples=100)[0].to_arviz()
