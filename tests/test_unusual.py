"""How unusual windows are among the simulations of a training: the numbers, the sample, and what a scan says."""

import dataclasses
import json
import logging
import math
from pathlib import Path

import msprime
import numpy as np
import pytest
from test_modelfile import rewrite

from definetti_np import (
    HaplotypeEncoder,
    Haplotypes,
    Model,
    ModelFileError,
    MultisetBatch,
    Network,
    Scan,
    ensemble,
    layers,
    load,
    load_ensemble,
    ops,
    train,
)
from definetti_np.cli import main
from definetti_np.genomes.descriptions import describe_datasets, describe_windows, names_of
from definetti_np.genomes.encoder import Sites
from definetti_np.genomes.unusual import FEWEST, SIMULATIONS, Collector, Features, Sample, most_outside

GOLDEN = Path(__file__).parent / "golden"
ENCODER = HaplotypeEncoder(snps=8, haplotypes=10, distance_scale=4e-4, missing="channel")
LISTS = {"phi_net": [("conv", 3, 6)], "g": ("max",), "h_net": [("softmax",)]}
CLASSES = ("slow", "fast")


def simulate(rng, length=20_000, size=1e4):
    seeds = rng.integers(1, 2**31, size=2)
    trees = msprime.sim_ancestry(
        5, population_size=size, sequence_length=length, recombination_rate=1e-8, random_seed=seeds[0]
    )
    return msprime.sim_mutations(trees, rate=3e-8, random_seed=seeds[1])


SIMULATED = Haplotypes.from_tree_sequence(simulate(np.random.default_rng(0), 10_000_000))


def simulator(rng):
    """A random stretch of a genome, because that takes less time than simulating one."""
    start = rng.uniform(0, 9_980_000)
    return SIMULATED.slice(start, start + 20_000), np.eye(2)[rng.integers(2)]


def haplotypes_of(seed, missing=0.0, **options):
    rng = np.random.default_rng(seed)
    haplotypes = Haplotypes.from_tree_sequence(simulate(rng, 300_000, **options), contig="chr2")
    alleles = np.where(rng.random(haplotypes.alleles.shape) < missing, -1, haplotypes.alleles).astype(np.int8)
    return dataclasses.replace(haplotypes, alleles=alleles)


def train_short(**options):
    settings = {"num_batches": 10, "batch_size": 50, "logfile": None, "seed": 5, "sim_threads": 0, "encoder": ENCODER}
    settings |= {"classes": CLASSES, "on_simulator_error": "redraw", "max_redraw_fraction": 0.5, **LISTS}
    return train(ENCODER.shape, (2,), simulator, **(settings | options))


@pytest.fixture(scope="module")
def model():
    return train_short()


# The numbers of a window


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"missing": "major"},
        {"alleles": "derived"},
        {"alleles": "genotypes", "haplotypes": 5},
        {"pad": True},
        {"distances": False, "distance_scale": None},
        {"snps": 1},
        {"haplotypes": 7},
    ],
    ids=str,
)
def test_numbers__of_windows_are_those_of_their_datasets(changes):
    encoder = dataclasses.replace(ENCODER, **changes)
    haplotypes = haplotypes_of(1, missing=0.02)
    sites = Sites.of(encoder, haplotypes)
    first, has_window = sites.windows(np.arange(0, 300_000, 301.0))
    first = first[has_window]
    numbers = describe_windows(sites, first)
    assert numbers.shape == (len(first), len(names_of(encoder)))
    datasets = MultisetBatch.from_datasets(list(sites.encode(first)))
    np.testing.assert_array_equal(numbers, describe_datasets(encoder, datasets))


def test_numbers__what_they_are():
    alleles = np.array([[0, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]], np.float32)
    distances = np.broadcast_to(np.array([0.5, 1.0, 0.25, 2.0, 0.0], np.float32), alleles.shape)
    encoder = HaplotypeEncoder(snps=5, haplotypes=4, distance_scale=1)
    numbers = describe_datasets(encoder, MultisetBatch.from_datasets([np.stack([alleles, distances], axis=-1)]))
    found = dict(zip(names_of(encoder), numbers[0].tolist(), strict=True))
    assert (found["distinct rows"], found["singletons"], found["monomorphic SNPs"]) == (3, 0, 2)
    assert found["alleles, mean"] == 0.35
    assert (found["alleles, least"], found["alleles, median"], found["alleles, most"]) == (0, 0.5, 0.75)
    assert found["distances, mean"] == 0.9375
    assert (found["distances, least"], found["distances, most"]) == (0.25, 2)


# The sample


def test_sample__is_of_the_first_simulations_whoever_makes_them(model, tmp_path):
    assert model.sample.numbers.shape == (500, len(names_of(ENCODER)) + 1)
    assert model.sample.names == (*names_of(ENCODER), "features of the last hidden layer")
    np.testing.assert_array_equal(train_short(sim_threads=2).sample.numbers, model.sample.numbers)
    longer = train_short(num_batches=SIMULATIONS // 50 + 2).sample.numbers
    assert len(longer) == SIMULATIONS
    np.testing.assert_array_equal(longer[:500, :-1], model.sample.numbers[:, :-1])  # the last is of the network
    assert train_short(num_batches=(FEWEST - 1) // 50).sample is None


def test_sample__is_in_the_file_and_in_checkpoints(model, tmp_path):
    train_short(num_batches=3, save_path=tmp_path / "m")
    train_short(save_path=tmp_path / "m", resume=True)
    np.testing.assert_array_equal(load(tmp_path / "m").sample.numbers, model.sample.numbers)
    train_short(save_path=tmp_path / "straight")
    weights = (tmp_path / "straight.npz").read_bytes()
    loaded = load(tmp_path / "straight")
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again.npz").read_bytes() == weights


def test_sample__of_a_file_that_does_not_add_up(model, tmp_path):
    for change in ({"numbers": [[1, 2]]}, {"numbers": []}, {"names": ["a"] * 21}, {"numbers": [[None] * 21]}):
        model.save(tmp_path / "m")
        rewrite(tmp_path / "m.npz", lambda header, arrays, change=change: header["sample"].update(change))
        with pytest.raises(ModelFileError, match="describes no network"):
            load(tmp_path / "m")
    with pytest.raises(ValueError, match="sample must be one of what the encoder makes"):
        Model(model.network, loss="cross-ent", seed=1, batches_trained=0, sample=model.sample)


def test_sample__models_without_an_encoder_and_of_earlier_have_none(tmp_path):
    network = Network(ENCODER.shape, (2,), **LISTS, seed=1)
    Model(network, loss="cross-ent", seed=1, batches_trained=0).save(tmp_path / "m")
    with np.load(tmp_path / "m.npz") as file:
        assert "sample" not in json.loads(file["header"].tobytes())
    assert load(GOLDEN / "encoder_1").sample is None
    collector = Collector(None)
    collector.add(MultisetBatch.from_datasets([np.zeros((10, 8, 3))]))
    assert collector.sample() is None
    early = Model(network, loss="cross-ent", seed=1, batches_trained=0, encoder=ENCODER)
    scan = early.scan(haplotypes_of(1))
    assert scan.unusual is None
    scan.to_tsv(tmp_path / "scan.tsv")
    assert Scan.read(tmp_path / "scan.tsv").unusual is None


@pytest.mark.parametrize("version", [1, 2])
def test_sample__of_every_version_loads_for_ever(version):
    """They were written by the code of that time: see make_golden.py."""
    model = load(GOLDEN / f"sample_{version}")
    assert (model.sample.features is None) == (version == 1)
    with np.load(GOLDEN / f"sample_{version}_unusual.npz") as file:
        np.testing.assert_allclose(model.unusual(file["data"]), file["unusual"], atol=0.011)
        assert file["unusual"].min() < 0.1
        assert file["unusual"].max() == 1


def test_sample__of_an_ensemble_is_that_of_its_first_model(model, tmp_path):
    rows = np.tile(model.sample.numbers, (2, 1))
    sample = dataclasses.replace(model.sample, numbers=rows)
    options = {"loss": "cross-ent", "seed": 1, "batches_trained": 0, "encoder": ENCODER, "sample": sample}
    ensemble([Model(model.network, **options) for _ in range(10)]).save(tmp_path / "all")
    first, *others = load_ensemble(tmp_path / "all").models
    np.testing.assert_array_equal(first.sample.numbers, rows)
    assert {other.sample for other in others} == {None}


def test_unusual__is_the_share_of_simulations_that_are_less_so():
    rng = np.random.default_rng(1)
    names = ("a", "b", "never")
    draw = np.stack([rng.gamma(5, size=2000), rng.exponential(size=2000), np.zeros(2000)], axis=1)
    sample = Sample(names, draw[:1000])
    unusual = sample.unusual(draw[1000:])
    np.testing.assert_allclose(np.quantile(unusual, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.05)
    middle = np.median(draw[:1000], axis=0)
    assert sample.unusual(middle[np.newaxis])[0] < 0.01
    for far in ([40, middle[1], 0], [0.1, middle[1], 0], [middle[0], 30, 0], [middle[0], middle[1], 0.01]):
        assert sample.unusual(np.array([far]))[0] == 1


# Predictions


def test_predict__says_how_unusual_data_are(model, caplog):
    """Of datasets, of parts of them, and of Haplotypes alike; and says once if they are of another kind."""
    usual, other = haplotypes_of(30), haplotypes_of(31, size=1e5)
    centers = np.arange(0, 300_000, 1000.0)
    with caplog.at_level(logging.WARNING, "definetti_np"):
        unusual = model.unusual(usual, centers=centers)
        windows, has_window = ENCODER.encode_many(usual, centers)
        np.testing.assert_array_equal(unusual[has_window], model.unusual(windows))
        assert np.isnan(unusual[~has_window]).all()
        np.testing.assert_array_equal(model.unusual(iter(windows), threads=1), model.unusual(list(windows)))
        scan = model.scan(usual, step=1000)
        np.testing.assert_array_equal(scan.unusual, model.unusual(usual, centers=scan.center))
        assert len(model.unusual(windows[:0])) == 0
        model.predict(windows)
        model.predict(usual, centers=centers)
        assert np.mean(model.unusual(other, centers=centers) > 0.99) > 0.5
        assert caplog.messages == []
        model.predict(other, centers=centers)
        model.predict(iter(ENCODER.encode_many(other, centers)[0]))
        model.posterior(ENCODER.encode_many(other, centers)[0])
    of_haplotypes, *of_arrays = caplog.messages
    assert of_haplotypes.startswith("chr2: ")
    assert of_arrays == 2 * [of_haplotypes.replace("chr2: ", "data: ")]


@pytest.mark.parametrize("windows", [1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000])
def test_warning__seldom_by_chance(windows):
    usual = math.floor(most_outside(windows))
    assert usual >= 0.05 * windows - 1
    by_chance = (math.comb(windows, k) * 0.025**k * 0.975 ** (windows - k) for k in range(min(usual, windows) + 1))
    assert 1 - sum(by_chance) < 1 / 300


def test_predict__one_unusual_window_is_no_reason_to_warn(model, caplog):
    windows, _ = ENCODER.encode_many(haplotypes_of(31, size=1e5), np.arange(100_000, 200_000, 1000.0))
    outside = windows[model.unusual(windows) > 0.99][:2]
    with caplog.at_level(logging.WARNING, "definetti_np"):
        model.predict(outside[:1])
        assert caplog.messages == []
        model.predict(outside)
    assert len(caplog.messages) == 1


def test_command__predict_writes_how_unusual_datasets_are(model, tmp_path, capsys):
    windows, _ = ENCODER.encode_many(haplotypes_of(31, size=1e5), np.arange(100_000, 200_000, 1000.0))
    model.save(tmp_path / "m")
    np.save(tmp_path / "data.npy", windows)
    assert main(["predict", *map(str, (tmp_path / "m", tmp_path / "data.npy", "--output", tmp_path / "p.tsv"))]) == 0
    assert capsys.readouterr().err.count("of the windows lie outside 99 %") == 1
    assert (tmp_path / "p.tsv").read_text().startswith("#dataset\tp_slow\tp_fast\tunusual\n")
    assert main(["info", str(tmp_path / "m")]) == 0
    assert "simulations by which it tells what is unusual: 500" in capsys.readouterr().out
    table = np.loadtxt(tmp_path / "p.tsv", skiprows=1)
    np.testing.assert_allclose(table[:, 3], model.unusual(windows), rtol=1e-6)


def test_command__predict_computes_each_dataset_once(model, tmp_path, monkeypatch):
    windows, _ = ENCODER.encode_many(haplotypes_of(31), np.arange(100_000, 200_000, 1000.0))
    model.save(tmp_path / "m")
    np.save(tmp_path / "data.npy", windows)
    computed, compute = [], Network.compute_with_hidden
    monkeypatch.setattr(Network, "compute_with_hidden", lambda self, x: computed.append(len(x)) or compute(self, x))
    assert main(["predict", *map(str, (tmp_path / "m", tmp_path / "data.npy", "--output", tmp_path / "p.tsv"))]) == 0
    assert sum(computed) == len(windows)


def test_unusual__of_a_model_that_cannot_tell(model):
    other = Model(model.network, loss="cross-ent", seed=1, batches_trained=0, encoder=ENCODER)
    with pytest.raises(ValueError, match="the model has no sample of its simulations"):
        other.unusual(np.zeros((1, *ENCODER.shape)))
    with pytest.raises(ValueError, match="centers are needed"):
        model.unusual(haplotypes_of(1))
    with pytest.raises(ValueError, match="centers are for Haplotypes"):
        model.unusual(np.zeros((1, *ENCODER.shape)), centers=[1])


# Features of the last hidden layer

PAIRS = HaplotypeEncoder(snps=4, haplotypes=10, distances=False)


def of_patterns(*patterns, number=400, seed=1):
    """Datasets (number, 10, 4, 1) of half a pattern and half its opposite: alike but for how SNPs go together."""
    rng = np.random.default_rng(seed)
    patterns = np.array(patterns, np.float32)[rng.integers(len(patterns), size=number)]
    half = rng.permuted(np.tile([0, 1], (number, 5)), axis=1)
    return np.abs(patterns[:, np.newaxis] - half[:, :, np.newaxis])[..., np.newaxis]


def test_features__see_how_snps_go_together():
    network = Network(PAIRS.shape, (2,), [("conv", 2, 8)], ("max",), [("fc", 8), ("softmax",)], seed=1)
    simulated, other = of_patterns([0, 0, 0, 0], [0, 0, 1, 1]), of_patterns([0, 1, 1, 0], [0, 1, 0, 1], seed=2)
    collector = Collector(PAIRS)
    collector.add(MultisetBatch.from_datasets(list(simulated)))
    options = {"loss": "cross-ent", "seed": 1, "batches_trained": 0, "encoder": PAIRS}
    with_features = Model(network, sample=collector.sample(network.hidden), **options)
    without = Model(network, sample=collector.sample(), **options)
    for model, share in ((with_features, 1), (without, 0)):
        assert np.mean(model.unusual(other) > 0.99) == share
        assert np.mean(model.unusual(of_patterns([0, 0, 0, 0], [0, 0, 1, 1], seed=3)) > 0.99) == 0


def test_features__of_networks_that_have_none_or_too_many():
    data = MultisetBatch.from_datasets(list(of_patterns([0, 0, 0, 0], [0, 0, 1, 1])))
    collector = Collector(PAIRS)
    collector.add(data)
    for hidden_of in (None, lambda data: None, lambda data: np.ones((len(data), 3)), lambda data: np.eye(400, 2000)):
        sample = collector.sample(hidden_of)
        assert (sample.features, sample.names) == (None, names_of(PAIRS))
    last = layers.Dense(2)
    network = Network.from_function(PAIRS.shape, (2,), lambda x: ops.log_softmax(last(ops.max(x))), seed=1)
    assert network.hidden(data) is None
    sample = collector.sample(network.hidden)
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0, encoder=PAIRS, sample=sample)
    assert (model.unusual(data) < 0.99).all()


def test_features__simulations_that_take_too_much_memory_are_not_held(monkeypatch):
    collector = Collector(PAIRS)
    data = MultisetBatch.from_datasets(list(of_patterns([0, 0, 0, 0], [0, 0, 1, 1], number=50)))
    monkeypatch.setattr("definetti_np.genomes.unusual.MOST_BYTES", 5 * data.rows.nbytes)
    hidden = np.random.default_rng(1).random((250, 3))
    for number in range(6):
        collector.add(data)
        sample = collector.sample(lambda data: hidden[: len(data)])
        if number == 4:
            assert sample.features is not None
    assert (len(sample.numbers), sample.features is None) == (250, False)


def test_features__distances_of_known_numbers():
    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(4000, 12)) * [5, 4, 3, 2, 1, 1, 1, 1, 1, 1, 0, 0] + 7
    features = Features.of(hidden)
    assert features.axes.shape == (10, 12)
    distances = features.distances(hidden)
    np.testing.assert_allclose(distances.mean(), 10, rtol=0.01)
    assert features.distances(np.full((1, 12), 7.0))[0] < 0.1
    beside = np.full((1, 12), 7.0)
    beside[0, 11] = 2  # where no simulation differs from another
    assert features.distances(beside)[0] > 1000
    np.testing.assert_array_equal(features.distances(hidden[5:6]), distances[5:6])


def test_features__samples_of_files(model, tmp_path):
    """Files of the first version have none; what does not add up is refused."""
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(load(tmp_path / "m").sample.features.axes, model.sample.features.axes)

    def first_version(header, arrays):
        sample = header["sample"]
        header["sample"] = {"names": sample["names"][:-1], "numbers": [row[:-1] for row in sample["numbers"]]}

    rewrite(tmp_path / "m.npz", first_version)
    old = load(tmp_path / "m")
    assert old.sample.features is None
    windows, _ = ENCODER.encode_many(haplotypes_of(1), np.arange(100_000, 200_000, 1000.0))
    assert (old.unusual(windows) <= 1).all()
    changes = [{"version": 3}, {"version": "2"}, {"features": {}}, {"names": [*names_of(ENCODER), "other"]}]
    good = model.sample.as_dict()["features"]
    wrong = {"rest": 0}, {"axes": []}, {"middle": [1.0]}, {"rest": "x"}, {"middle": [0.0], "axes": [[1.0]]}
    changes += [{"features": good | change} for change in wrong]
    for change in changes:
        model.save(tmp_path / "m")
        rewrite(tmp_path / "m.npz", lambda header, arrays, change=change: header["sample"].update(change))
        with pytest.raises(ModelFileError, match="describes no network"):
            load(tmp_path / "m")


# Scans


def test_scan__data_like_the_simulations_are_not_unusual(model, caplog, tmp_path):
    with caplog.at_level(logging.WARNING, "definetti_np"):
        scans = [model.scan(haplotypes_of(seed), step=1000) for seed in range(10, 14)]
    assert caplog.messages == []
    unusual = np.concatenate([scan.unusual[scan.status == "ok"] for scan in scans])
    assert np.mean(unusual > 0.99) < 0.03
    assert 0.4 < np.median(unusual) < 0.6
    scan = scans[0]
    assert (np.isnan(scan.unusual) == (scan.status != "ok")).all()
    scan.to_tsv(tmp_path / "scan.tsv")
    again = Scan.read(tmp_path / "scan.tsv")
    np.testing.assert_array_equal(again.unusual, scan.unusual)
    np.testing.assert_array_equal(again.values, scan.values)
    assert again.names == scan.names
    lines = (tmp_path / "scan.tsv").read_text().splitlines()
    header = next(line for line in lines if line.startswith("#chrom"))
    assert header.split("\t")[5:] == ["p_slow", "p_fast", "unusual", "status"]


@pytest.mark.parametrize(
    ("options", "number"),
    [({"size": 1e5}, "distances"), ({"size": 2e3}, "distances"), ({"missing": 0.05}, "missing")],
    ids=str,
)
def test_scan__data_of_another_kind_are(model, caplog, options, number):
    with caplog.at_level(logging.WARNING, "definetti_np"):
        scan = model.scan(haplotypes_of(20, **options), step=1000)
    (message,) = caplog.messages
    assert message.startswith("chr2: ")
    assert f"most in {number}, " in message
    assert np.nanmean(scan.unusual > 0.99) > 0.05
    assert scan.notes["warning"] in message


def test_scan__data_without_the_monomorphic_snps_of_the_simulations(caplog):
    """The mistake of a simulator that does not leave out what the reader does."""
    rng = np.random.default_rng(3)
    haplotypes = haplotypes_of(1)
    windows, _ = ENCODER.encode_many(haplotypes, np.arange(20_000, 280_000, 500.0))
    windows[..., 0] *= rng.random((len(windows), 1, 8)) > 0.4
    collector = Collector(ENCODER)
    collector.add(MultisetBatch.from_datasets(list(windows)))
    network = Network(ENCODER.shape, (2,), **LISTS, seed=1)
    options = {"encoder": ENCODER, "sample": collector.sample()}
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0, **options)
    with caplog.at_level(logging.WARNING, "definetti_np"):
        model.scan(haplotypes, step=1000)
    (message,) = caplog.messages
    assert "% of the windows lie outside 99 %" in message


@pytest.mark.parametrize(("missing", "coding"), [(0.05, "major"), (0.001, "major"), (0.05, "channel")])
def test_scan__missing_alleles_that_datasets_do_not_show(caplog, missing, coding):
    encoder = dataclasses.replace(ENCODER, missing=coding)
    network = Network(encoder.shape, (2,), **LISTS, seed=1)
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0, encoder=encoder)
    with caplog.at_level(logging.WARNING, "definetti_np"):
        model.scan(haplotypes_of(1, missing=missing), step=1000)
    is_said = [
        "% of the alleles are missing, and the encoder takes the commoner" in message for message in caplog.messages
    ]
    assert is_said == ([True] if (missing, coding) == (0.05, "major") else [])
