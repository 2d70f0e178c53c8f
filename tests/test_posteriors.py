"""Heads and posteriors: against PyTorch's references, against formulas, and what a user may do wrong."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from definetti_np import Model, ModelFileError, Network, SimulatorError, Trainer, layers, load, ops, train
from definetti_np.engine.tensor import Leaf, Tensor, backpropagate
from definetti_np.files.archive import write_model
from definetti_np.heads import HEADS, LabelBox
from definetti_np.posteriors.classes import ClassPosterior
from definetti_np.posteriors.heads import make_head

REFERENCES = Path(__file__).parent / "references" / "heads"
RANGES = ((-1.0, 2.0), (10.0, 30.0), (0.0, 0.5))
CASES = [("gaussian", ()), ("mixture", (3,)), ("spline", (5,))]
ALL = [("quantiles", 0.1, 0.5, 0.9), ("gaussian",), ("mixture", 2), ("spline", 4), ("spline", 4, 9)]


def head_of(kind, arguments, ranges=RANGES):
    box = LabelBox.checked(ranges, None, len(ranges))
    return make_head(HEADS[kind](arguments, len(ranges)), box)


def reference_of(kind):
    with np.load(REFERENCES / f"{kind}.npz") as stored:
        return dict(stored)


def own_parameters(stored, prefix="own "):
    return {name.removeprefix(prefix): array for name, array in stored.items() if name.startswith(prefix)}


def network_of(head, labels=3, ranges=RANGES, **options):
    lists = {"phi_net": [("fc", 6)], "g": ("max",), "h_net": [("fc", 8), head]}
    return Network((5, 2), (labels,), **lists, label_range=ranges, seed=3, **options)


def model_of(head, **options):
    network = network_of(head, **options)
    return Model(network, loss=network.spec.head.loss, seed=3, batches_trained=0)


DATA = np.random.default_rng(4).standard_normal((6, 5, 2)).astype(np.float32)


# Against PyTorch


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_loss_and_gradients__match_pytorch(kind, arguments):
    stored, head = reference_of(kind), head_of(kind, arguments)
    x = Leaf(stored["x"], np.zeros_like(stored["x"]))
    own = {role: Leaf(array, np.zeros_like(array)) for role, array in own_parameters(stored).items()}
    loss = head.loss(x, stored["labels"], own)
    np.testing.assert_allclose(loss.array, -stored["log_density"].mean(), rtol=1e-10)
    backpropagate(loss, np.ones(()))
    np.testing.assert_allclose(x.gradient, stored["to_x"], rtol=1e-7, atol=1e-10)
    for role, parameter in own.items():
        np.testing.assert_allclose(parameter.gradient, stored[f"to {role}"], rtol=1e-7, atol=1e-10, err_msg=role)


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_log_prob__matches_pytorch(kind, arguments):
    stored = reference_of(kind)
    posterior = head_of(kind, arguments).posterior(stored["x"], own_parameters(stored))
    np.testing.assert_allclose(posterior.log_prob(stored["labels"]), stored["log_density"], rtol=1e-9, atol=1e-9)
    several = np.repeat(stored["labels"][:, None], 2, axis=1)
    assert posterior.log_prob(several).shape == (4, 2)
    if "mean" in stored:
        np.testing.assert_allclose(posterior.mean(), stored["mean"], rtol=1e-9)
        np.testing.assert_allclose(posterior.std(), stored["std"], rtol=1e-9)


def test_spline__samples_of_given_uniforms_match_pytorch():
    stored = reference_of("spline")
    posterior = head_of("spline", (5,)).posterior(stored["x"], own_parameters(stored))
    samples = posterior.from_uniform(stored["uniform"])
    np.testing.assert_allclose(samples, stored["samples"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(posterior.to_uniform(samples[:, 2]), np.tile(stored["uniform"][2], (4, 1)), atol=1e-7)


# Against formulas


@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_density__integrates_to_one(kind, arguments):
    """On a grid over the box, or over much more of it for Gaussians."""
    head = head_of(kind, arguments, RANGES[:1])
    rng = np.random.default_rng(7)
    numbers = 0.3 * rng.standard_normal((2, head.spec.outputs))
    own = {role: head.spec.draw(role, rng, shape) for role, shape in head.spec.parameters.items()}
    posterior = head.posterior(numbers, own)
    low, high = RANGES[0] if kind == "spline" else (-40, 40)
    grid = np.linspace(low, high, 40_001)
    density = np.exp(posterior.log_prob(np.tile(grid[:, None], (2, 1, 1))))
    np.testing.assert_allclose(np.trapezoid(density, grid, axis=1), 1, rtol=1e-4)
    mean = np.trapezoid(density * grid, grid, axis=1)
    np.testing.assert_allclose(posterior.mean()[:, 0], mean, atol=2e-2)
    np.testing.assert_allclose(
        posterior.std()[:, 0] ** 2, np.trapezoid(density * grid**2, grid, axis=1) - mean**2, rtol=2e-2
    )
    below = np.cumsum(density, axis=1) * (grid[1] - grid[0])
    quantiles = posterior.quantile([0.1, 0.5, 0.9])[..., 0]
    for b in range(2):
        np.testing.assert_allclose(np.interp(quantiles[b], grid, below[b]), [0.1, 0.5, 0.9], atol=5e-3)
    samples = posterior.sample(4000, seed=1)[..., 0]
    for b in range(2):
        np.testing.assert_allclose(
            np.interp(np.quantile(samples[b], [0.1, 0.5, 0.9]), grid, below[b]), [0.1, 0.5, 0.9], atol=0.03
        )


def test_mixture__marginal_and_samples():
    posterior = model_of(("mixture", 2)).posterior(DATA)
    one = posterior.marginal(1)
    assert one.names == ("label 1",)
    np.testing.assert_allclose(one.mean()[:, 0], posterior.mean()[:, 1])
    np.testing.assert_allclose(one.quantile(0.3)[:, 0], posterior.quantile(0.3)[:, 1])
    grid = np.linspace(-300, 400, 20_001)
    density = np.exp(one.log_prob(np.tile(grid[:, None], (6, 1, 1))))
    np.testing.assert_allclose(np.trapezoid(density, grid, axis=1), 1, rtol=1e-4)
    samples = posterior.sample(20_000, seed=2)
    np.testing.assert_allclose(samples.std(axis=1), posterior.std(), rtol=0.05)
    within = np.einsum("bk,bkij->bij", posterior.weights, posterior.covariances())
    shift = posterior.means - posterior.mean()[:, None]
    expected = within + np.einsum("bk,bki,bkj->bij", posterior.weights, shift, shift)
    for b in range(6):
        scale = np.outer(posterior.std()[b], posterior.std()[b])
        np.testing.assert_allclose(np.cov(samples[b].T) / scale, expected[b] / scale, atol=0.05)


@pytest.mark.parametrize("head", [("gaussian",), ("mixture", 2), ("spline", 4)])
def test_marginal__samples_are_those_of_all_labels(head):
    posterior = model_of(head).posterior(DATA)
    one = posterior.marginal(2)
    np.testing.assert_array_equal(one.sample(50, seed=3)[..., 0], posterior.sample(50, seed=3)[..., 2])
    np.testing.assert_allclose(one.mean()[:, 0], posterior.mean()[:, 2])
    assert model_of(head).posterior(DATA[:0]).marginal(2).quantile([0.1, 0.9]).shape == (0, 2, 1)


def test_spline__quantiles_of_one_label_are_exact():
    network = network_of(("spline", 4), labels=1, ranges=[(2, 5)])
    posterior = Model(network, loss="nll", seed=3, batches_trained=0).posterior(DATA)
    levels = np.array([0.0005, 0.5, 0.9995])
    places = posterior.quantile(levels)
    for q, level in enumerate(levels):
        np.testing.assert_allclose(posterior.to_uniform(places[:, q]), level, atol=1e-5)


def test_spline__quantiles_of_several_labels():
    head, rng = head_of("spline", (8,), [(0, 1)] * 5), np.random.default_rng(1)
    own = {role: 2 * head.spec.draw(role, rng, shape) for role, shape in head.spec.parameters.items()}
    posterior = head.posterior(rng.standard_normal((2, head.spec.outputs)), own)
    samples = posterior.sample(40_000, seed=1)
    for level in (0.025, 0.1, 0.5, 0.9, 0.975):
        below = (samples <= posterior.quantile(level)[:, None]).mean(axis=1)
        np.testing.assert_allclose(below, level, atol=0.013)


def test_mixture__quantiles_far_in_the_tails():
    posterior = head_of("gaussian", (), RANGES[:1]).posterior(np.zeros((1, 2)), {})
    np.testing.assert_allclose((posterior.quantile([1e-30, 0.5])[0, :, 0] - 0.5) / 1.5, [-11.464024, 0], atol=1e-5)


def test_quantiles__ascend_and_interpolate():
    posterior = model_of(("quantiles", 0.1, 0.5, 0.9)).posterior(DATA)
    three = posterior.quantile([0.1, 0.5, 0.9])
    assert (np.diff(three, axis=1) > 0).all()
    np.testing.assert_allclose(posterior.quantile(0.3), (three[:, 0] + three[:, 1]) / 2)
    np.testing.assert_allclose(posterior.marginal("label 2").quantile(0.5)[:, 0], three[:, 1, 2])
    with pytest.raises(ValueError, match=re.escape("q must be from 0.1 to 0.9")):
        posterior.interval(0.95)
    for method in (lambda: posterior.sample(3, seed=1), posterior.std, lambda: posterior.log_prob(posterior.mean())):
        with pytest.raises(TypeError, match="quantiles do not tell"):
            method()


def test_quantiles__pinball_finds_them():
    """Of a constant dataset the quantiles become those of the labels."""
    network = Network((1, 1), (1,), [], ("max",), [("quantiles", 0.2, 0.5, 0.9)], label_range=[(0, 10)], seed=1)
    trainer, rng = Trainer(network, learning_rate=0.01, threads=1), np.random.default_rng(1)
    for _ in range(600):
        trainer.step(np.ones((200, 1, 1)), 10 * rng.random((200, 1)) ** 2)
    model = Model(network, loss="pinball", seed=1, batches_trained=600)
    found = model.posterior(np.ones((1, 1, 1))).quantile([0.2, 0.5, 0.9])[0, :, 0]
    np.testing.assert_allclose(found, 10 * np.array([0.2, 0.5, 0.9]) ** 2, atol=0.5)


@pytest.mark.parametrize("head", [("gaussian",), ("spline", 6)])
def test_training__finds_the_labels(head):
    rng = np.random.default_rng(2)
    network = Network((1, 2), (2,), [], ("max",), [("fc", 32), head], label_range=[(-1, 1), (0, 4)], seed=1)
    trainer = Trainer(network, learning_rate=0.003, threads=1)
    for _ in range(300):
        labels = np.column_stack([rng.uniform(-1, 1, 100), rng.uniform(0, 4, 100)])
        loss, accuracy = trainer.step(labels[:, None], labels)
    assert accuracy == loss < -1  # the prior has log(8) = 2.1
    model = Model(network, loss="nll", seed=1, batches_trained=300)
    np.testing.assert_allclose(model.predict(labels[:20, None]), labels[:20], atol=0.35)


# The same bits


@pytest.mark.parametrize("head", ALL)
def test_posterior__bits_do_not_depend_on_batch_rows_and_threads(head):
    model = model_of(head)
    order = np.random.default_rng(1).permutation(5)
    whole = model.posterior(DATA, threads=2)
    ask = [lambda p: p.mean(), lambda p: p.quantile([0.2, 0.5])]
    if head[0] != "quantiles":
        ask += [
            lambda p: p.sample(50, seed=9),
            lambda p: p.log_prob(np.full((len(p), 3), [0.5, 20, 0.2])),
            lambda p: p.std(),
        ]
    for question in ask:
        answer = question(whole)
        for b in (0, 3):
            alone = question(model.posterior(DATA[b : b + 1][:, order], threads=1))
            np.testing.assert_array_equal(alone[0], answer[b])
    np.testing.assert_array_equal(model.predict(DATA), whole.mean().astype(np.float32))


def test_sample__seeds_and_datasets_differ():
    posterior = model_of(("gaussian",)).posterior(DATA)
    first = posterior.sample(5, seed=1)
    np.testing.assert_array_equal(first, posterior.sample(5, seed=1))
    assert (first != posterior.sample(5, seed=2)).all()
    standard = (first - posterior.mean()[:, None]) / posterior.std()[:, None]
    assert abs(standard[0] - standard[1]).min() > 1e-6


@pytest.mark.parametrize("head", ALL)
def test_model_file__keeps_the_head(head, tmp_path):
    model = model_of(head, label_names=["a", "b", "c"])
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.network.spec == model.network.spec
    assert again.loss == model.loss
    posterior = again.posterior(DATA)
    assert (posterior.names, posterior.label_range) == (("a", "b", "c"), RANGES)
    np.testing.assert_array_equal(again.predict(DATA), model.predict(DATA))
    again.save(tmp_path / "again")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "model.npz").read_bytes()


def test_train__resumes_to_the_same_bits(tmp_path):
    arguments = {
        "input_shape": (5, 2), "output_shape": (3,), "simulator": simulator, "phi_net": [("fc", 6)], "h_net": [("spline", 4)],
        "label_range": RANGES, "batch_size": 5, "sim_threads": 0, "logfile": None, "seed": 1,
    }  # fmt: skip
    whole = train(**arguments, num_batches=6)
    train(**arguments, num_batches=3, save_path=tmp_path / "model")
    resumed = train(**arguments, num_batches=6, save_path=tmp_path / "model", resume=True)
    np.testing.assert_array_equal(resumed.network.flat.weights, whole.network.flat.weights)
    assert whole.loss == "nll"


def simulator(rng):
    return rng.standard_normal((5, 2)), np.array([rng.uniform(low, high) for low, high in RANGES])


@pytest.mark.parametrize("head", ALL)
def test_labels__of_any_size_without_a_range_or_with_a_huge_one(head):
    ranges = [(1e9, 3e9), (-2e-7, 1e-7), (0, 1)]
    network = network_of(head, ranges=ranges)
    trainer = Trainer(network, threads=1)
    labels = np.tile([[1.5e9, 0, 0.5]], (6, 1))
    before = trainer.step(DATA, labels)[0]
    for _ in range(30):
        after = trainer.step(DATA, labels)[0]
    assert after < before
    assert network(DATA).shape == (6, 3)


def test_log_prob__outside_of_the_box_and_at_its_ends():
    posterior = model_of(("spline", 4)).posterior(DATA[:1])
    ends = np.array(RANGES).T
    assert np.isfinite(posterior.log_prob(ends[None])).all()
    assert posterior.log_prob([[2.1, 20, 0.2]]) == -math.inf
    samples = posterior.sample(2000, seed=1)[0]
    assert (samples >= ends[0]).all()
    assert (samples <= ends[1]).all()


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1.0, 30.0, 1e4]))
def test_mixture__extreme_numbers_give_no_nan(seed, size):
    head, rng = head_of("mixture", (3,)), np.random.default_rng(seed)
    numbers = (size * rng.standard_normal((2, head.spec.outputs))).astype(np.float32)
    posterior = head.posterior(numbers, {})
    theta = np.array([[0.0, 20.0, 0.1], [1e30, -1e30, 0]])
    assert not np.isnan(posterior.log_prob(theta)).any()
    assert not np.isnan(posterior.sample(10, seed=1)).any()
    assert not np.isnan(posterior.mean()).any()


# Classes


def test_class_posterior():
    posterior = ClassPosterior(np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0]], np.float32), ("a", "b", "c"))
    assert posterior.most_likely.tolist() == [1, 0]
    changed = posterior.with_prior((0.8, 0.1, 0.1), (0.5, 0.25, 0.25))
    weights = np.array([0.2 * 1.6, 0.5 * 0.4, 0.3 * 0.4])
    np.testing.assert_allclose(changed.prob[0], weights / weights.sum(), rtol=1e-6)
    for prior, message in [
        ((0.5, 0.4, 0.2), "of sum 1"),
        ((1, 0), "3 probabilities"),
        ((0.5, 0.5, 0), "prior must be positive for"),
    ]:
        with pytest.raises(ValueError, match=message):
            posterior.with_prior(prior)
    never = ClassPosterior(np.array([[0.5, 0.5, 0], [0, 0, 1]], np.float32), ("a", "b", "c"))
    with pytest.raises(ValueError, match="prior leaves dataset 1 without a class that has a probability"):
        never.with_prior((0.9, 0.1, 0), (0.5, 0.5, 0))
    unknown = ClassPosterior(np.full((1, 2), np.nan, np.float32), ("a", "b"))
    assert np.isnan(unknown.with_prior((0.9, 0.1)).prob).all()


def test_model_posterior__of_classes_and_of_none():
    lists = {"phi_net": [("fc", 3)], "g": ("max",)}
    model = Model(
        Network((5, 2), (2,), **lists, h_net=[("softmax",)], seed=1), loss="cross-ent", seed=1, batches_trained=0
    )
    np.testing.assert_array_equal(model.posterior(DATA).prob, model.predict(DATA))
    model = Model(Network((5, 2), (2,), **lists, h_net=[("matmul",)], seed=1), loss="l2", seed=1, batches_trained=0)
    with pytest.raises(ValueError, match="gives estimates, and no posterior"):
        model.posterior(DATA)


# What may be wrong

LISTS = {"phi_net": [("fc", 3)], "g": ("max",)}
BAD = {
    "no box": ({"h_net": [("spline", 8)]}, "needs label_range"),
    "low above high": ({"h_net": [("gaussian",)], "label_range": [(0, 1), (2, 2)]}, r"label_range\[1\] must be finite with low < high"),
    "one pair": ({"h_net": [("gaussian",)], "label_range": [(0, 1)]}, "label_range must be 2 pairs"),
    "no pair": ({"h_net": [("gaussian",)], "label_range": [(0, 1), 3]}, r"label_range\[1\] must be a pair"),
    "no room": ({"h_net": [("gaussian",)], "label_range": [(0, 1), (1e6, 1e6 + 1)]}, r"label_range\[1\] must hold 1,000 numbers of float32"),
    "too small": ({"h_net": [("gaussian",)], "label_range": [(0, 1), (0, 1e-44)]}, r"label_range\[1\] must hold"),
    "too large": ({"h_net": [("gaussian",)], "label_range": [(0, 1), (0, 1e39)]}, r"label_range\[1\] must hold"),
    "names": ({"h_net": [("gaussian",)], "label_names": ("a", "a")}, "label_names must be 2 different texts"),
    "descending": ({"h_net": [("quantiles", 0.5, 0.1)]}, "quantiles must be ascending"),
    "not within": ({"h_net": [("quantiles", 0.5, 1)]}, "quantiles must be ascending"),
    "no components": ({"h_net": [("mixture",)]}, r"must be \('mixture', components\)"),
    "gaussian of 3": ({"h_net": [("gaussian", 3)]}, r"must be \('gaussian',\)"),
    "one bin": ({"h_net": [("spline", 1)], "label_range": [(0, 1)] * 2}, "bins of .* must be at least 2"),
    "no nodes": ({"h_net": [("spline", 8, 0)], "label_range": [(0, 1)] * 2}, "nodes of .* must be at least 1"),
    "too many nodes": ({"h_net": [("spline", 8, 2000)], "label_range": [(0, 1)] * 2}, "nodes of .* must be at most"),
    "more numbers": ({"h_net": [("spline", 8, 48, 2)], "label_range": [(0, 1)] * 2}, r"or \('spline', bins, nodes\)"),
    "in between": ({"h_net": [("gaussian",), ("softmax",)]}, "can only be the last layer"),
    "range of softmax": ({"h_net": [("softmax",)], "label_range": [(0, 1)] * 2}, "label_range is for an h_net"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_network__bad_heads(case):
    arguments, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        Network((5, 2), (2,), **LISTS, **arguments)


def test_spline__nodes_of_the_conditioners():
    usual, given, wide = (network_of(("spline", 4, *nodes)) for nodes in ((), (48,), (60,)))
    np.testing.assert_array_equal(usual(DATA), given(DATA))  # 48 is what a spline has
    assert wide.parameters["h.1.weight.0.0"].shape == (60, 60)


def test_loss__of_heads():
    gaussian = network_of(("gaussian",))
    assert Trainer(gaussian).loss == "nll"
    assert Trainer(network_of(ALL[0])).loss == "pinball"
    for loss in ("l2", "pinball", lambda prediction, label: prediction):
        with pytest.raises(ValueError, match="has its own loss, 'nll'"):
            Trainer(gaussian, loss=loss)
    softmax = Network((5, 2), (2,), **LISTS, h_net=[("softmax",)])
    with pytest.raises(
        ValueError, match="loss 'nll' needs an h_net that ends in one of 'gaussian', 'mixture', 'spline'"
    ):
        Trainer(softmax, loss="nll")


def test_labels__outside_of_the_box():
    with pytest.raises(
        ValueError, match=r"labels\[1\] is outside of label_range: b is 31, its range is \(10.0, 30.0\)"
    ):
        Trainer(network_of(("gaussian",), label_names=("a", "b", "c"))).step(
            DATA[:2], np.array([[0, 20, 0.1], [0, 31, 0.1]])
        )
    arguments = {**LISTS, "h_net": [("gaussian",)], "label_range": [(0, 1)], "sim_threads": 0, "logfile": None}
    with pytest.raises(SimulatorError, match="label is outside of label_range: label 0 is 2"):
        train((5, 2), (1,), lambda rng: (rng.random((5, 2)), np.array([2.0])), **arguments, num_batches=1, seed=1)


def test_labels__rounded_at_the_end_of_the_box():
    network = network_of(("spline", 4), labels=1, ranges=[(0, 0.1)])
    loss, _ = Trainer(network).step(DATA, np.full((6, 1), 0.1))  # float32 rounds it up
    assert math.isfinite(loss)


def test_labels__rounded_far_from_zero():
    """Next to 1,000,000 float32 has steps of 0.0625, so that a label may be rounded beyond the end of its range."""
    ends = (1e6 + 0.04, 1e6 + 100)
    network = network_of(("spline", 4), labels=1, ranges=[ends])
    loss, _ = Trainer(network).step(DATA, np.full((6, 1), np.float32(1e6)))
    assert math.isfinite(loss)
    with pytest.raises(ValueError, match="outside of label_range"):
        Trainer(network).step(DATA, np.full((6, 1), 1e6 - 0.2))


def test_posterior__bad_arguments():
    posterior = model_of(("gaussian",)).posterior(DATA)
    for call, message in [
        (lambda: posterior.log_prob(np.zeros((6, 2))), "theta must have shape"),
        (lambda: posterior.log_prob(np.full((6, 3), np.nan)), "got NaN"),
        (lambda: posterior.quantile(1.0), "q must be numbers between 0 and 1"),
        (lambda: posterior.interval(1.5), "mass must be a number between 0 and 1"),
        (lambda: posterior.marginal("d"), "label must be one of"),
        (lambda: posterior.marginal(3), "label must be below 3"),
        (lambda: posterior.sample(0, seed=1), "n must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert len(model_of(("gaussian",)).posterior(DATA[:0])) == 0
    assert model_of(("spline", 4)).predict(DATA[:0]).shape == (0, 3)


def test_head_loss__is_a_tensor_operation_of_the_prediction():
    """What is printed is what is differentiated: a step along the gradient lowers it."""
    head = head_of("gaussian", ())
    x = Tensor(np.zeros((2, head.spec.outputs)))
    labels = np.array([[0.5, 20, 0.25]] * 2)  # the middle of the box, where a standard normal of the box is
    expected = 1.5 * math.log(2 * math.pi) + np.log(np.diff(RANGES) / 2).sum()
    np.testing.assert_allclose(head.loss(x, labels, {}).array, expected)


def test_model_file__a_damaged_head_is_refused(tmp_path):
    """A header that asks for millions of labels, or for a box of another size, takes no memory and is refused."""
    model = model_of(("spline", 4))
    for change in (
        {"output_shape": [10**9]},
        {"label_range": [[0, 1]]},
        {"label_range": 3},
        {"label_names": ["a"]},
        {"h_net": [["mixture", 10**6]]},
    ):
        description = model.describe()
        description["network"] = {**description["network"], **change}
        write_model(tmp_path / "bad.npz", description, dict(model.network.parameters))
        with pytest.raises(ModelFileError, match="the header describes no network"):
            load(tmp_path / "bad")


# Behind a network function


PHI, H = layers.Dense(6), layers.Dense(8)


def function(x):
    return H(ops.max(PHI(x)))


def labelled(rng):
    label = rng.uniform([0, -3], [1, 5])
    return rng.normal(label, 1, (5, 2)), label


BEHIND = {"label_range": [(0, 1), (-3, 5)], "label_names": ("a", "b")}


@pytest.mark.parametrize("head", [("spline", 4), ("mixture", 2), ("quantiles", 0.1, 0.5, 0.9)])
def test_head__behind_a_function_is_that_of_layer_lists(head):
    lists = Network((5, 2), (2,), [("fc", 6)], ("max",), [("fc", 8), head], **BEHIND, seed=1)
    own = Network.from_function((5, 2), (2,), function, head=head, **BEHIND, seed=2)
    assert list(own.parameters)[-len(lists.head_parameters()) - 2] == "head.weight"
    own.flat.weights[:] = lists.flat.weights
    data = np.random.default_rng(1).standard_normal((3, 5, 2))
    np.testing.assert_array_equal(own(data), lists(data))
    labels = np.array([[0.5, 1], [0.2, 4], [1, -3]])
    assert Trainer(own, threads=1).step(data, labels) == Trainer(lists, threads=1).step(data, labels)
    np.testing.assert_array_equal(own.with_rows(None)(data), lists(data))


def test_head__behind_a_function_is_trained_saved_and_read(tmp_path):
    options = {"num_batches": 3, "sim_threads": 0, "logfile": None, "seed": 1, "save_path": tmp_path / "model"}
    model = train((5, 2), (2,), labelled, network_function=function, head=("spline", 4), **BEHIND, **options)
    data = np.random.default_rng(1).standard_normal((3, 5, 2))
    again = load(tmp_path / "model", network_function=function)
    np.testing.assert_array_equal(again.posterior(data).sample(9, seed=1), model.posterior(data).sample(9, seed=1))
    assert again.posterior(data).names == ("a", "b")
    assert model.predict(data).shape == (3, 2)
    assert "('spline', 4)" in repr(again)
    train((5, 2), (2,), labelled, network_function=function, head=("spline", 4), **BEHIND, **options, initial=again)


def test_head__behind_a_function_has_bad_arguments():
    for options, message in [
        ({"head": ("spline", 4)}, r"head: \('spline', 4\) needs label_range"),
        ({"head": ("softmax",)}, "head: 'softmax' can only be the last layer of h_net"),
        ({"head": ("spline",), **BEHIND}, r"head: \('spline',\) must be \('spline', bins\)"),
        (BEHIND, "label_range is for a network_function with a head, one of 'quantiles'"),
        ({"head": ("gaussian",), "loss": "l2"}, "a network that ends in 'gaussian' has its own loss"),
        ({"head": ("gaussian",), "network_function": None}, r"head is for a network_function; let h_net end in"),
    ]:
        with pytest.raises(ValueError, match=message):
            train((5, 2), (2,), labelled, **{"network_function": function, **options})
