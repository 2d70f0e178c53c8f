"""Ensembles and temperatures: averages by hand, files, and what may be wrong."""

import numpy as np
import pytest

from definetti_np import Model, ModelFileError, Network, Trainer, calibrate, diagnostics, ensemble, load, load_ensemble
from definetti_np.cli import main
from definetti_np.diagnostics.calibration import best_of_scores, best_temperature
from definetti_np.heads import LabelBox, MixtureSpec
from definetti_np.posteriors.mixture import MixtureHead
from definetti_np.posteriors.spline import temper, untemper

DATA = np.random.default_rng(4).standard_normal((4, 5, 2)).astype(np.float32)


def model_of(head, seed, **options):
    lists = {"phi_net": [("fc", 6)], "g": ("max",), "h_net": [("fc", 8), head]}
    network = Network((5, 2), (2,), **lists, seed=seed, **options)
    loss = "cross-ent" if network.spec.head is None else network.spec.head.loss
    return Model(network, loss=loss, seed=seed, batches_trained=0)


BOX = {"label_range": [(0, 1), (-3, 5)]}
KINDS = {"spline": (("spline", 4), BOX), "mixture": (("mixture", 2), BOX), "softmax": (("softmax",), {})}


@pytest.mark.parametrize("kind", KINDS)
def test_ensemble__predicts_the_mean_and_keeps_it_in_a_file(kind, tmp_path):
    head, options = KINDS[kind]
    models = [model_of(head, seed, **options) for seed in (1, 2, 3)]
    both = ensemble(models)
    expected = np.mean([model.predict(DATA) for model in models], axis=0)
    np.testing.assert_allclose(both.predict(DATA), expected)
    both.save(tmp_path / "all")
    again = load_ensemble(tmp_path / "all")
    np.testing.assert_array_equal(again.predict(DATA), both.predict(DATA))
    assert again.seeds == (1, 2, 3)
    with pytest.raises(ModelFileError, match="it is an ensemble; read it with definetti_np.load_ensemble"):
        load(tmp_path / "all")
    models[0].save(tmp_path / "one")
    with pytest.raises(ModelFileError, match="one model, and no ensemble"):
        load_ensemble(tmp_path / "one")


def test_command__takes_an_ensemble_as_it_takes_a_model(tmp_path, capsys):
    head, options = KINDS["softmax"]
    both = ensemble([model_of(head, seed, **options) for seed in (1, 2)])
    both.save(tmp_path / "all")
    np.save(tmp_path / "data.npy", DATA)
    assert main(["info", str(tmp_path / "all")]) == 0
    assert "Ensemble of 2 models" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "all")]) == 0
    assert "ensemble of 2, the first one: 0 batches" in capsys.readouterr().out
    assert (
        main(["predict", str(tmp_path / "all"), str(tmp_path / "data.npy"), "--output", str(tmp_path / "p.tsv")]) == 0
    )
    table = np.loadtxt(tmp_path / "p.tsv", skiprows=1)
    np.testing.assert_allclose(table[:, 1:], both.predict(DATA), rtol=1e-6)
    assert main(["scan", str(tmp_path / "all"), "no.vcf", "--output", str(tmp_path / "s.tsv")]) == 2
    assert "the model has no encoder, so it cannot scan" in capsys.readouterr().err


def test_ensemble__posterior_of_numbers():
    models = [model_of(("mixture", 2), seed, **BOX) for seed in (1, 2)]
    models[1].network.flat.weights *= 3
    one, two = (model.posterior(DATA) for model in models)
    both = ensemble(models).posterior(DATA)
    theta = np.full((4, 2), 0.3)
    density = (np.exp(one.log_prob(theta)) + np.exp(two.log_prob(theta))) / 2
    np.testing.assert_allclose(np.exp(both.log_prob(theta)), density)
    samples = both.sample(20_000, seed=1)
    np.testing.assert_allclose(samples.mean(axis=1), both.mean(), atol=0.1)
    np.testing.assert_allclose(samples.std(axis=1), both.std(), rtol=0.05)
    assert (both.std() ** 2 + 1e-9 >= (one.std() ** 2 + two.std() ** 2) / 2).all()
    np.testing.assert_array_equal(ensemble(models).posterior(DATA[2:3]).sample(9, seed=1)[0], both.sample(9, seed=1)[2])
    inside = (samples <= both.quantile(0.8)[:, None]).mean(axis=1)
    np.testing.assert_allclose(inside, 0.8, atol=0.06)


def test_ensemble__quantiles_and_marginals_of_gaussians_have_formulas():
    models = [model_of(("mixture", 2), seed, **BOX) for seed in (1, 2)]
    models[1].network.flat.weights *= 3
    posterior = ensemble(models).posterior(DATA)
    one = posterior.marginal(1)
    levels = np.array([0.001, 0.3, 0.999])
    places = one.quantile(levels)
    np.testing.assert_array_equal(places[..., 0], posterior.quantile(levels)[..., 1])
    np.testing.assert_array_equal(one.std()[:, 0], posterior.std()[:, 1])
    grid = np.linspace(-200, 200, 400_001)
    density = np.exp(one.log_prob(np.tile(grid[:, None], (4, 1, 1))))
    below = np.cumsum(density, axis=1) * (grid[1] - grid[0])
    for b in range(4):
        np.testing.assert_allclose(np.interp(places[b, :, 0], grid, below[b]), levels, atol=1e-3)
        assert (np.diff(places[b, :, 0]) > 0).all()


def test_ensemble__std_of_labels_far_from_zero():
    options = {"label_range": [(1e6, 1e6 + 100)] * 2}
    models = [model_of(("gaussian",), 1, **options) for _ in range(2)]
    models[0].network.flat.weights[:] = 0
    for model in models:
        own = model.network.parameters["h.1.bias"]
        own[:] = 0
        own[[2, 4]] = 11  # the logarithms of the factor: a posterior of width exp(-11)
        model.network.parameters["h.1.weight"][:] = 0
    np.testing.assert_allclose(ensemble(models).posterior(DATA).std(), 50 * np.exp(-11), rtol=1e-6)


def test_ensemble__what_does_not_go_together():
    spline = model_of(("spline", 4), 1, **BOX)
    quantiles = [model_of(("quantiles", 0.1, 0.9), seed) for seed in (1, 2)]
    for models, message in [
        ([spline], "two models or more"),
        ([spline, 3], "two models or more"),
        ([spline, model_of(("softmax",), 2)], r"models\[1\] has other data or labels than models\[0\]"),
        (quantiles, "gives quantiles, whose average is not known"),
        ([model_of(("gaussian",), 1, label_range=[(0, 1), (0, 1)]), spline], r"models\[1\] has other data or labels"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            ensemble(models)


# Temperature


def test_best_temperature__is_the_one_that_was_put_in():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((20_000, 3))
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.eye(3)[(rng.random((20_000, 1)) > right.cumsum(axis=1)).sum(axis=1)]
    for temperature in (0.5, 1.0, 2.5):
        logs = np.log(right) * temperature
        assert abs(best_temperature(logs - logs.max(), labels) / temperature - 1) < 0.05


def simulator(rng):
    label = rng.integers(2)
    return rng.normal(label, 2, (5, 2)), np.eye(2)[label]


def test_calibrate__lowers_the_cross_entropy_and_is_undone(tmp_path):
    model = model_of(("softmax",), 1)
    model.network.flat.weights *= 6  # it is sure of what it does not know
    before = model.predict(DATA)
    temperature = calibrate(model, simulator, 500, seed=2, sim_threads=0)
    assert temperature == model.temperature > 2
    tempered = before.astype(float) ** (1 / temperature)
    np.testing.assert_allclose(model.predict(DATA), tempered / tempered.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(model.posterior(DATA).prob, model.predict(DATA))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(DATA), model.predict(DATA))
    np.testing.assert_array_equal(again.with_rows(None).predict(DATA), model.predict(DATA))
    assert "temperature" in repr(again)
    again.temperature = None
    np.testing.assert_array_equal(again.predict(DATA), before)
    again.save(tmp_path / "undone")
    assert load(tmp_path / "undone").temperature is None


@pytest.mark.parametrize("kind", ["spline", "mixture"])
def test_temperature__of_a_head(kind, tmp_path):
    head, options = KINDS[kind]
    model = model_of(head, 1, **options)
    theta = np.random.default_rng(1).uniform([0, -3], [1, 5], (4, 200, 2))
    sure = model.posterior(DATA)
    model.temperature = 1.3
    wide = model.posterior(DATA)
    assert (wide.std() > 1.1 * sure.std()).all()
    samples = wide.sample(20_000, seed=1)
    np.testing.assert_allclose(samples.std(axis=1), wide.std(), rtol=0.03)
    if kind == "spline":  # its box is known
        across, along = np.meshgrid((np.arange(60) + 0.5) / 60, (np.arange(60) + 0.5) * 8 / 60 - 3)
        grid = np.tile(np.stack([across.ravel(), along.ravel()], axis=-1), (4, 1, 1))
        np.testing.assert_allclose(np.exp(wide.log_prob(grid)).sum(axis=1) * 8 / 3600, 1, atol=0.02)
        uniform = np.array([[0.2, 0.7]])
        np.testing.assert_allclose(wide.to_uniform(wide.from_uniform(uniform)[:, 0])[0], uniform[0], atol=1e-4)
    own = {role: tensor.array for role, tensor in model.network.head_parameters().items()}
    for b in range(4):
        numbers = np.repeat(sure._numbers[b : b + 1], 200, axis=0)
        logs = model.network.head.log_densities(numbers, theta[b].astype(np.float32), own, 1.3)
        np.testing.assert_allclose(logs, wide.log_prob(theta)[b], atol=1e-3)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").posterior(DATA).sample(9, seed=1), wide.sample(9, seed=1))
    model.temperature = None
    np.testing.assert_array_equal(model.posterior(DATA).log_prob(theta), sure.log_prob(theta))


def test_best_of_scores__finds_the_width_of_gaussians():
    rng = np.random.default_rng(1)
    labels = rng.standard_normal((20_000, 2))
    head = MixtureHead(MixtureSpec((1,), 2), LabelBox.checked(None, None, 2))
    narrow = np.tile([0.0, 0.0, np.log(1.25), 0.0, np.log(1.25)], (20_000, 1))  # 20 % too narrow
    assert abs(best_of_scores(lambda t: head.log_densities(narrow, labels, {}, t).mean()) - 1.25) < 0.02


def test_calibrate__a_head_that_is_too_sure():
    def continuous(rng):
        label = rng.uniform([0, -3], [1, 5])
        return rng.normal(label, 2, (5, 2)), label

    model = model_of(("spline", 4), 1, **BOX)
    model.network.flat.weights *= 3
    before = diagnostics.check(model, continuous, 300, seed=3, sim_threads=0)
    temperature = calibrate(model, continuous, 300, seed=2, sim_threads=0)
    assert temperature == model.temperature > 1.1
    assert diagnostics.check(model, continuous, 300, seed=3, sim_threads=0).log_score > before.log_score + 0.1
    assert model.last_check is not None


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.3, 5.0, 20.0])
def test_temper__slopes_are_a_density_and_there_is_an_inverse(temperature):
    """At all temperatures that `calibrate` may find: what lies between two numbers is what they become apart."""
    ends = np.concatenate([np.geomspace(1e-12, 0.5, 20_001), 1 - np.geomspace(0.5, 1e-12, 20_001)[1:]])
    after, _ = temper(ends, temperature)
    middle = (ends[1:] + ends[:-1]) / 2
    slope = np.exp(temper(middle, temperature)[1])
    np.testing.assert_allclose((slope * np.diff(ends)).sum(), 1, rtol=1e-3)
    assert (np.diff(after) >= 0).all()
    np.testing.assert_array_equal(temper(np.array([0.0, 0.5, 1.0]), temperature)[0], [0, 0.5, 1])
    np.testing.assert_allclose(temper(untemper(ends, temperature), temperature)[0], ends, atol=1e-4)


def test_calibrate__classes_that_are_told_apart_without_an_error(caplog):
    """The lowest temperature fits best and would make a later error infinitely bad."""

    def apart(rng):
        label = rng.integers(2)
        return np.full((5, 2), 2.0 * label - 1), np.eye(2)[label]

    model = model_of(("softmax",), 1)
    trainer = Trainer(model.network, threads=1)
    data = np.stack([np.full((5, 2), -1.0), np.full((5, 2), 1.0)])
    for _ in range(200):
        trainer.step(data, np.eye(2))
    before = model.predict(DATA)
    assert calibrate(model, apart, 100, seed=2, sim_threads=0) == 1
    assert "the lowest temperature, 0.05, fits best, so the model has none" in caplog.text
    np.testing.assert_array_equal(model.predict(DATA), before)


def test_temperature__bad_values():
    quantiles = model_of(("quantiles", 0.1, 0.9), 1, **BOX)
    with pytest.raises(ValueError, match="calibrate takes a Model that ends in softmax"):
        calibrate(quantiles, simulator, 100)
    with pytest.raises(ValueError, match="temperature must be positive"):
        model_of(("softmax",), 1).temperature = 0
    with pytest.raises(ValueError, match="temperature is for a network that ends in softmax"):
        quantiles.temperature = 2
