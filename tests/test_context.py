"""Context: what it is, that it is computed as if the simulator had appended it, and what is refused."""

import pickle

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import alleles
from test_training import sha

from definetti_np import Model, ModelFileError, MultisetBatch, Network, SimulatorError, Trainer, load, ops, train
from definetti_np.context import check_context
from definetti_np.engine.context import compute_context
from definetti_np.engine.features import RowFeatures
from definetti_np.layers import Conv, Dense
from definetti_np.specs import function_spec, network_spec

EVERY = [
    ("distinct", 2, 5, 1),
    ("frequency",),
    ("ld", 1, 3),
    ("effective", 5),
    ("four_gametes", 2),
    ("moments", 1, 3, ("channel", 1)),
    ("distinct", 3, ("channel", 1)),
]
LISTS = {"phi_net": [("conv", 3, 8), ("conv", 2, 6)], "g": ("max",), "h_net": [("fc", 5), ("softmax",)]}
SHAPE = (12, 6, 2)


def haplotypes(rng, number=5, rows=12):
    """Datasets of 0 and 1, with distances that are the same for all rows as a second channel."""
    pool = rng.integers(2, size=(number, rows // 2, 6))
    chosen = np.take_along_axis(pool, rng.integers(rows // 2, size=(number, rows, 1)), axis=1)
    distances = np.broadcast_to(rng.random((number, 1, 6)), chosen.shape)
    return np.stack([chosen, distances], axis=-1).astype(np.float32)


def mean_and_spread(rows, counts):
    mean = np.average(rows[..., 0], axis=0, weights=counts)
    return np.stack([mean, np.average((rows[..., 0] - mean) ** 2, axis=0, weights=counts)], axis=1)


def labels(rng, number):
    return np.eye(2, dtype=np.float32)[rng.integers(2, size=number)]


# What it is


@settings(max_examples=40)  # the twin is slow
@given(alleles())
def test_compute_context__is_what_the_documentation_says(drawn):
    rows, counts, offsets = drawn
    rows = np.concatenate([rows, rows[..., :1] + 0.5], axis=2)
    positions = rows.shape[1]
    widths = sorted({1, min(2, positions), positions})
    entries = [
        ("effective", *widths),
        ("distinct", *widths),
        ("ld", 1, positions),
        ("four_gametes", positions, 1),
        ("frequency",),
        ("moments", 2, 1),
    ]
    found = compute_context(check_context(entries, positions, 2), MultisetBatch(rows, counts, offsets))
    distinct, pairs = reference.count_windows(rows[..., 0], counts, offsets, widths)
    within = np.array(
        [[len(range(max(0, p - w // 2), min(positions, p - w // 2 + w))) for w in widths] for p in range(positions)]
    )
    n = np.add.reduceat(counts, offsets[:-1])[:, None, None]
    r2, four_gametes = reference.linkage(rows[..., 0], counts, offsets, [1, positions])
    powers = reference.average_powers(rows[..., 0], counts, offsets, [1, 2])
    expected = [
        np.log(n**2 / pairs / (within + 1)),
        np.log(distinct / (within + 1)),
        r2,
        four_gametes[..., ::-1],
        powers[..., :1],
        powers[..., ::-1],
    ]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=2), rtol=1e-5, atol=1e-6)
    assert found.dtype == rows.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("data", ["haplotypes", "continuous"])
def test_context__as_if_the_simulator_had_appended_it(data, dtype):
    rng = np.random.default_rng(1)
    datasets, context = haplotypes(rng), [*EVERY, mean_and_spread]
    if data == "continuous":
        datasets = rng.standard_normal(datasets.shape).astype(np.float32)
        context = [("moments", 1, 2), ("distinct", 2, ("channel", 1)), mean_and_spread]
    network = Network(SHAPE, (2,), **LISTS, context=context, seed=1, dtype=dtype)
    added = compute_context(network.context, network.as_batch(datasets))
    appended = np.concatenate([datasets.astype(dtype), np.repeat(added[:, None], 12, axis=1)], axis=3)
    twin = Network((12, 6, 2 + network.context.channels), (2,), **LISTS, seed=1, dtype=dtype)
    assert network.flat.weights.tobytes() == twin.flat.weights.tobytes()
    np.testing.assert_allclose(network(datasets), twin(appended), rtol=1e-5)
    target = labels(rng, len(datasets))
    for these, data in ((network, datasets), (twin, appended)):
        Trainer(these).step(data, target)
    np.testing.assert_allclose(network.flat.gradients, twin.flat.gradients, rtol=1e-3, atol=1e-7)


def test_context__distinct_cells_are_held_once():
    rng = np.random.default_rng(1)
    network = Network(SHAPE, (2,), **LISTS, context=EVERY)
    batch = network.as_batch(haplotypes(rng))
    features = RowFeatures.with_context(batch, compute_context(network.context, batch))
    assert features.values.shape[0] <= 2 * 6 * len(batch)
    np.testing.assert_array_equal(features.values.array[features.index][..., :2], batch.rows)


def test_context__order_of_rows_threads_and_company_change_no_bit():
    rng = np.random.default_rng(1)
    datasets, target = haplotypes(rng, 8), labels(rng, 8)

    def network():
        return Network((None, 6, 2), (2,), **LISTS, context=[*EVERY, mean_and_spread], seed=1)

    together = network()(datasets)
    permuted = np.array([rng.permutation(dataset) for dataset in datasets])
    assert network()(permuted).tobytes() == together.tobytes()
    for dataset, prediction in zip(datasets, together, strict=True):
        assert network()([dataset]).tobytes() == prediction.tobytes()
    results = set()
    for threads, data in ((1, datasets), (2, permuted), (4, datasets)):
        trainer = Trainer(network(), threads=threads)
        results.add((*(trainer.step(data, target) for _ in range(3)), trainer.network.flat.weights.tobytes()))
    assert len(results) == 1


def test_context__datasets_of_any_size():
    rng = np.random.default_rng(1)
    network = Network((None, 6, 2), (2,), **LISTS, context=EVERY)
    datasets = [haplotypes(rng, 1, rows)[0] for rows in (2, 200, 31)]
    for dataset, prediction in zip(datasets, network(datasets), strict=True):
        assert network([dataset]).tobytes() == prediction.tobytes()


def test_context__data_without_channels_has_one():
    rng = np.random.default_rng(1)
    data = haplotypes(rng)[..., 0]
    shapes = []

    def function(x):
        shapes.append(x.row_shape)
        return ops.log_softmax(dense(ops.max(conv(x))))

    conv, dense = Conv(2, 3), Dense(2, activation=None)
    network = Network.from_function((12, 6), (2,), function, context=[("distinct", 2, 4), ("frequency",)])
    Trainer(network).step(data, labels(rng, len(data)))
    assert set(shapes) == {(6, 4)}
    assert Network((12, 6), (2,), **LISTS, context=[("distinct", 2)])(data).shape == (5, 2)


def test_context__a_network_function_is_checked_though_made_up_data_are_no_alleles():
    rng, dense = np.random.default_rng(1), Dense(2, activation=None)
    context = [("ld", 2), ("four_gametes", 2)]
    network = Network.from_function(SHAPE, (2,), lambda x: ops.log_softmax(dense(ops.max(x))), context=context)
    Trainer(network).step(haplotypes(rng), labels(rng, 5))

    def mixes_datasets(x):
        pooled = ops.max(x)
        return ops.log_softmax(dense(pooled - ops.mean(pooled, axis=0)))

    network = Network.from_function(SHAPE, (2,), mixes_datasets, context=context)
    with pytest.raises(ValueError, match="mixes the datasets of a batch"):
        Trainer(network).step(haplotypes(rng), labels(rng, 5))


# A function of the user's


def test_context_function__gets_distinct_rows_that_it_cannot_change():
    rng = np.random.default_rng(1)
    datasets, seen = haplotypes(rng), []

    def function(rows, counts):
        seen.append((rows.shape, int(counts.sum())))
        with pytest.raises(ValueError, match="read-only"):
            rows[:] = 0
        return np.ones((6, 1))

    Network(SHAPE, (2,), **LISTS, context=[function])(datasets)
    batch = MultisetBatch.from_datasets(datasets)
    assert seen[-5:] == [((size, 6, 2), 12) for size in np.diff(batch.offsets)]


def test_context_function__must_be_given_again(tmp_path):
    rng = np.random.default_rng(1)
    context, path = [("distinct", 4), mean_and_spread], tmp_path / "model"
    model = Model(Network(SHAPE, (2,), **LISTS, context=context, seed=1), loss="cross-ent", seed=1, batches_trained=0)
    model.save(path)
    datasets = haplotypes(rng)
    assert load(path, context=context).predict(datasets).tobytes() == model.predict(datasets).tobytes()
    with pytest.raises(
        ModelFileError, match=r"model.npz: context: a file holds no functions: give mean_and_spread again"
    ):
        load(path)
    with pytest.raises(
        ModelFileError, match=r"context=\[\('distinct', 4\)\], the model has \[\('distinct', 4\), \('func"
    ):
        load(path, context=context[:1])
    with pytest.raises(ModelFileError, match=r"<lambda>', 1\)\], the model has"):
        load(path, context=[("distinct", 4), lambda rows, counts: np.ones((6, 1))])


FUNCTIONS = {
    "another shape": (lambda rows, counts: rows.mean(axis=0).T, r"must return an array \(W, k\), here \(6, k\), got shape \(2, 6\)"),
    "one axis": (lambda rows, counts: rows[0, :, 0], r"here \(6, k\), got shape \(6,\)"),
    "no array": (lambda rows, counts: 3, r"here \(6, k\), got 3"),
    "no numbers": (lambda rows, counts: np.empty((6, 0)), r"here \(6, k\), got shape \(6, 0\)"),
    "as many as rows": (lambda rows, counts: np.ones((6, len(rows))), r"must return an array of shape \(6, 3\), as it did on made-up"),
    "NaN": (lambda rows, counts: np.full((6, 1), np.nan), "it returned nan at position 0, number 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_context_function__returns_something_else(name):
    function, message = FUNCTIONS[name]
    with pytest.raises(ValueError, match=rf"context.*function <lambda>.* {message}"):
        Network(SHAPE, (2,), **LISTS, context=[function])(haplotypes(np.random.default_rng(1)))


DEPENDENT = {
    "first row": lambda rows, counts: rows[0],
    "distinct rows": lambda rows, counts: rows.mean(axis=0),
    "random": lambda rows, counts: np.random.default_rng().random((6, 1)),
}


@pytest.mark.parametrize("name", DEPENDENT)
@pytest.mark.parametrize("of_lists", [True, False])
def test_context_function__depends_on_the_order_of_rows(name, of_lists):
    rng, dense = np.random.default_rng(1), Dense(2, activation=None)
    context = [("distinct", 2), DEPENDENT[name]]
    if of_lists:
        network = Network(SHAPE, (2,), **LISTS, context=context)
    else:
        network = Network.from_function(SHAPE, (2,), lambda x: ops.log_softmax(dense(ops.max(x))), context=context)
    with pytest.raises(ValueError, match="context, function <lambda>: with the rows of a dataset in another order"):
        Trainer(network).step(haplotypes(rng), labels(rng, 5))


def test_context_function__raises():
    def function(rows, counts):
        raise RuntimeError("no such statistic")

    with pytest.raises(RuntimeError, match="no such statistic") as caught:
        Network(SHAPE, (2,), **LISTS, context=[function])
    assert "was called on made-up data: rows (3, 6, 2) of 0 and 1" in "".join(caught.value.__notes__)


# What is refused

BAD = {
    "no list": ("distinct", TypeError, r"context must be a list of tuples such as \('distinct', width, ...\), got 'distinct'"),
    "a tuple alone": (("distinct", 4), TypeError, r"context\[0\] must be a tuple such as .*, got 'distinct'"),
    "unknown, near": ([("distinkt", 4)], ValueError, r"context\[0\]: unknown context 'distinkt'; did you mean 'distinct'\?"),
    "unknown, far": ([("x", 4)], ValueError, r"context\[0\]: unknown context 'x'; choose from 'distinct', 'effective', 'frequency'"),
    "empty": ([()], ValueError, r"context\[0\]: unknown context None"),
    "no widths": ([("distinct",)], ValueError, r"context\[0\]: \('distinct',\) must be \('distinct', width, ...\)"),
    "frequency of something": ([("frequency", 3)], ValueError, r"\('frequency', 3\) must be \('frequency',\)"),
    "width too large": ([("frequency",), ("distinct", 4, 7)], ValueError, r"context\[1\]: width of 'distinct' must be at most the 6 positions, got 7"),
    "reach too large": ([("ld", 9)], ValueError, r"reach of 'ld' must be at most the 6 positions, got 9"),
    "width zero": ([("effective", 0)], ValueError, r"context\[0\]: width of 'effective' must be at least 1, got 0"),
    "fraction": ([("moments", 0.5)], TypeError, r"context\[0\]: order of 'moments' must be an integer, got 0.5"),
    "channel too large": ([("ld", 2, ("channel", 2))], ValueError, r"context\[0\]: there are 2 channels, from 0 on, got \('channel', 2\)"),
    "too many channels": ([("moments", *range(1, 10_002))], ValueError, "context must add at most 10000 channels, got 10001"),
    "no channel": ([("ld", 2, ("position", 2))], ValueError, r"what comes last may be \('channel', c\), got \('position', 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_context__mistakes(name):
    context, error, message = BAD[name]
    for build in (
        lambda: network_spec(SHAPE, (2,), **LISTS, context=context),
        lambda: function_spec(SHAPE, (2,), len, context),
        lambda: Network(SHAPE, (2,), **LISTS, context=context),
        lambda: train(SHAPE, (2,), simulate, **LISTS, context=context),
    ):
        with pytest.raises(error, match=message):
            build()


def test_context__ld_of_what_is_not_0_and_1():
    datasets = haplotypes(np.random.default_rng(1))
    datasets[3, 4, 5, 0] = -1
    network = Network(SHAPE, (2,), **LISTS, context=[("frequency",), ("ld", 2)])
    message = r"data\[3\]: context \('ld', 2\) takes 0 and 1 alone, channel 0 holds -1"
    with pytest.raises(ValueError, match=message):
        network(datasets)
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0)
    with pytest.raises(ValueError, match=message):
        model.predict(list(datasets))
    with pytest.raises(ValueError, match=message):
        Trainer(network).step(MultisetBatch.from_datasets(datasets), labels(np.random.default_rng(1), 5))
    other = Network(SHAPE, (2,), **LISTS, context=[("four_gametes", 2, ("channel", 1))])
    with pytest.raises(
        ValueError, match=r"data\[0\]: context \('four_gametes', 2, \('channel', 1\)\) .* channel 1 holds 0\."
    ):
        other(haplotypes(np.random.default_rng(1)))


def test_context__overflow():
    data = np.full((2, 12, 6, 2), 1e30, np.float32)
    with pytest.raises(ValueError, match="context: number 0 of position 0 is inf; give data of a size near 1"):
        Network(SHAPE, (2,), **LISTS, context=[("moments", 3)])(data)


# Train, save, load


def simulate(rng):
    data = haplotypes(rng, 1)[0]
    return data, np.eye(2)[int(data[:, :, 0].mean() > 0.5)]


RUN = {**LISTS, "num_batches": 6, "batch_size": 4, "logfile": None, "seed": 3, "context": EVERY}


def test_train__with_context_for_any_number_of_workers(tmp_path):
    models = [train(SHAPE, (2,), simulate, **RUN, sim_threads=n, save_path=tmp_path / str(n)) for n in (0, 2)]
    assert sha(tmp_path / "0.npz") == sha(tmp_path / "2.npz")
    datasets = haplotypes(np.random.default_rng(1))
    loaded = load(tmp_path / "0")
    assert loaded.network.context == models[0].network.context
    assert loaded.network.spec == models[0].network.spec
    assert loaded.predict(datasets).tobytes() == models[1].predict(datasets).tobytes()
    assert load(tmp_path / "0", context=EVERY).network.context.channels == 11
    with pytest.raises(ModelFileError, match="the model has"):
        load(tmp_path / "0", context=EVERY[:2])


def test_train__resumes_with_the_same_context_only(tmp_path):
    path = tmp_path / "model.npz"
    train(SHAPE, (2,), simulate, **RUN, sim_threads=0, save_path=path)
    longer = {**RUN, "num_batches": 8, "sim_threads": 0, "save_path": path, "resume": True}
    with pytest.raises(
        ValueError, match=r"resume: .* is of another run: context=\[\['distinct', 2\]\], the checkpoint has"
    ):
        train(SHAPE, (2,), simulate, **{**longer, "context": [("distinct", 2)]})
    with pytest.raises(ValueError, match="is of another run: context=None"):
        train(SHAPE, (2,), simulate, **{**longer, "context": []})
    train(SHAPE, (2,), simulate, **longer)
    train(SHAPE, (2,), simulate, **{**longer, "save_path": tmp_path / "whole.npz", "resume": False})
    assert sha(path) == sha(tmp_path / "whole.npz")


def test_train__names_the_example_that_does_not_fit():
    def simulator(rng):
        data, label = simulate(rng)
        return data * 2, label

    with pytest.raises(SimulatorError, match=r"example 0 of seed 3.*\n?.*context \('ld', 1, 3\) takes 0 and 1 alone"):
        train(SHAPE, (2,), simulator, **RUN, sim_threads=0)


def test_train__with_a_function_in_the_context_and_one_as_network(tmp_path):
    conv, dense = Conv(2, 3), Dense(2, activation=None)
    settings = {**RUN, "context": [*EVERY, lambda rows, counts: mean_and_spread(rows, counts)]}

    def network(x):
        return ops.log_softmax(dense(ops.max(conv(x))))

    model = train(SHAPE, (2,), simulate, network_function=network, **settings, sim_threads=2, save_path=tmp_path / "a")
    again = load(tmp_path / "a", network_function=network, context=settings["context"])
    datasets = haplotypes(np.random.default_rng(1))
    assert again.predict(datasets).tobytes() == model.predict(datasets).tobytes()


def test_specs__go_to_other_processes_without_functions():
    function = DEPENDENT["first row"]
    name = function.__qualname__
    spec = network_spec(SHAPE, (2,), **LISTS, context=[function, ("ld", 2)])
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.as_dict()["context"] == ((f"function {name}", 2), ("ld", 2))
    with pytest.raises(ValueError, match=f"a file holds no functions: give {name} again"):
        Network(**spec.as_dict())


def test_specs__without_context_files_are_as_before():
    assert "context" not in network_spec(SHAPE, (2,), **LISTS).as_dict()
    assert "context" not in Network(SHAPE, (2,), **LISTS, context=[]).spec.as_dict()


def test_network__says_its_context():
    network = Network(SHAPE, (2,), **LISTS, context=[("distinct", 2, 4), ("ld", 2)])
    assert "context: [('distinct', 2, 4), ('ld', 2)]" in repr(network)
    table = Model(network, loss="cross-ent", seed=1, batches_trained=0).summary()
    assert "context  (('distinct', 2, 4), ('ld', 2))  (12, 6, 5)" in table


# Several symmetric functions


@pytest.mark.parametrize("phi_net", [[("conv", 2, 4)], [("fc", 4)], []])
def test_several_poolings__are_concatenated_in_their_order(phi_net):
    rng = np.random.default_rng(1)
    datasets, h_net = haplotypes(rng), [("conv", 2, 3), ("softmax",)]
    g = [("top_k", 2), ("moments", 1, 2), ("max",)]
    network = Network(SHAPE, (2,), phi_net, g, h_net, seed=1, dtype=np.float64)
    expected = reference.network(network.spec, network.parameters, datasets)
    np.testing.assert_allclose(np.log(network(datasets)), expected, rtol=1e-10)
    assert network.spec.g == tuple(g)
    assert network.spec.fewest_rows == 2


def test_several_poolings__in_files(tmp_path):
    rng = np.random.default_rng(1)
    lists = {**LISTS, "g": [("max",), ("moments", 1)]}
    model = Model(Network(SHAPE, (2,), **lists, seed=1), loss="cross-ent", seed=1, batches_trained=0)
    model.save(tmp_path / "a")
    loaded, datasets = load(tmp_path / "a"), haplotypes(rng)
    assert loaded.network.spec == model.network.spec
    assert loaded.predict(datasets).tobytes() == model.predict(datasets).tobytes()
    assert "g:       [('max',), ('moments', 1.0)]" in repr(loaded)


def test_several_poolings__one_in_a_list_is_one():
    assert network_spec(SHAPE, (2,), **{**LISTS, "g": [("max",)]}) == network_spec(SHAPE, (2,), **LISTS)
    with pytest.raises(ValueError, match=r"g\[1\]: unknown function 'mean'"):
        network_spec(SHAPE, (2,), **{**LISTS, "g": [("max",), ("mean",)]})
    with pytest.raises(ValueError, match="g must have at most 1000 functions, got 1001"):
        network_spec(SHAPE, (2,), **{**LISTS, "g": [("max",)] * 1001})
    with pytest.raises(ValueError, match=r"g\[0\]: top_k needs 1 <= k <= 12"):
        network_spec(SHAPE, (2,), **{**LISTS, "g": [("top_k", 13), ("max",)]})


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_context__does_not_change_where_a_position_is_all_the_same(width, seed):
    """A position that does not vary adds nothing to what is distinct, and takes part in no pair."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(2, size=(10, 6, 1)).astype(np.float32)
    rows[:, 3] = rows[0, 3]
    batch = MultisetBatch.from_datasets([rows, np.where(np.arange(6)[:, None] == 3, 1 - rows, rows)])
    context = check_context([("distinct", width), ("effective", width), ("ld", width), ("four_gametes", width)], 6, 1)
    first, second = compute_context(context, batch)
    assert first.tobytes() == second.tobytes()
