"""Models that know their encoder: training, predictions at centres, and scans."""

import dataclasses
import functools
import io
import itertools
import json
import logging
import re
import sys
import tracemalloc
from pathlib import Path

import msprime
import numpy as np
import pytest

import definetti_np
from definetti_np import (
    GenomeFileError,
    HaplotypeEncoder,
    Haplotypes,
    Model,
    ModelFileError,
    Network,
    Scan,
    SimulatorError,
    ensemble,
    load,
    read_haplotypes,
    train,
)
from definetti_np.genomes.encoder import Sites
from definetti_np.genomes.scan import with_prior
from definetti_np.scanner import layers_to_share, predict_windows

GOLDEN = Path(__file__).parent / "golden"
ENCODER = HaplotypeEncoder(snps=8, haplotypes=10, distance_scale=4e-4)
CONV = {"phi_net": [("conv", 3, 6), ("conv", 2, 5)], "g": ("top_k", 2), "h_net": [("fc", 7), ("softmax",)]}
CLASSES = ("flat", "hotspot")


def simulate(rng, length=20_000, rate=1e-8):
    trees = msprime.sim_ancestry(
        5,
        population_size=1e4,
        sequence_length=length,
        recombination_rate=rate,
        random_seed=rng.integers(1, 2**31),
    )
    return msprime.sim_mutations(trees, rate=3e-8, random_seed=rng.integers(1, 2**31))


def labelled(rng):
    label = rng.integers(2)
    return simulate(rng), np.eye(2)[label]


@pytest.fixture(scope="module")
def haplotypes():
    return Haplotypes.from_tree_sequence(simulate(np.random.default_rng(1), 300_000), contig="chr2")


def model_of(encoder=ENCODER, classes=CLASSES, seed=3, **changes):
    network = Network(encoder.shape, (2,), **(CONV | changes), seed=seed)
    for name, weight in network.parameters.items():
        if name.endswith("weight"):
            weight *= 8  # so that predictions differ
    loss = "cross-ent" if network.spec.ends_in_softmax else "l2"
    return Model(network, loss=loss, seed=seed, batches_trained=0, encoder=encoder, classes=classes)


# Training with an encoder


def train_short(simulator, **options):
    settings = {"num_batches": 3, "batch_size": 4, "logfile": None, "seed": 5, "sim_threads": 0, **CONV}
    return train(ENCODER.shape, (2,), simulator, **(settings | options))


def test_train__what_a_simulator_may_return_is_all_the_same(tmp_path):
    def as_haplotypes(rng):
        trees, label = labelled(rng)
        return Haplotypes.from_tree_sequence(trees), label

    def as_array(rng):
        trees, label = labelled(rng)
        return ENCODER.encode(trees), label

    models = [
        train_short(labelled, encoder=ENCODER, classes=CLASSES, save_path=tmp_path / "m"),
        train_short(labelled, encoder=ENCODER, sim_threads=2),
        train_short(as_haplotypes, encoder=ENCODER),
        train_short(as_array),
    ]
    assert len({model.network.flat.weights.tobytes() for model in models}) == 1
    assert models[0].encoder == ENCODER
    assert models[0].classes == CLASSES
    assert models[3].encoder is None
    loaded = load(tmp_path / "m")
    assert (loaded.encoder, loaded.classes) == (ENCODER, CLASSES)


def test_train__simulations_like_the_data_in_any_process(haplotypes):
    masked = haplotypes.filter(inaccessible=[(i, i + 2000) for i in range(0, 300_000, 5000)])
    like = ENCODER.like(masked)
    models = [
        train_short(labelled, encoder=like, sim_threads=number, on_simulator_error="redraw", max_redraw_fraction=0.9)
        for number in (0, 2)
    ]
    assert models[0].network.flat.weights.tobytes() == models[1].network.flat.weights.tobytes()
    plain = train_short(labelled, encoder=ENCODER)
    assert models[0].network.flat.weights.tobytes() != plain.network.flat.weights.tobytes()
    assert models[0].encoder == ENCODER


def test_train__too_few_snps(tmp_path):
    def simulator(rng):
        return simulate(rng, 3000 if rng.random() < 0.5 else 20_000), np.eye(2)[0]

    with pytest.raises(SimulatorError, match='too few SNPs around its middle.*on_simulator_error="redraw"'):
        train_short(simulator, encoder=ENCODER)
    model = train_short(simulator, encoder=ENCODER, on_simulator_error="redraw", max_redraw_fraction=0.9, batch_size=2)
    assert model.batches_trained == 3


def test_train__arguments_that_are_wrong():
    for options, message in (
        (
            {"encoder": dataclasses.replace(ENCODER, snps=9)},
            r"datasets of shape \(10, 9, 2\), input_shape is \(10, 8, 2",
        ),
        ({"encoder": {"snps": 8}}, "encoder must be a HaplotypeEncoder"),
        ({"classes": ("a", "b", "c")}, r"classes has 3 names, output_shape is \(2,\)"),
        ({"classes": ("a", "a")}, "classes must be different names"),
        ({"classes": ("a", "b\tc")}, "classes must be different names"),
        ({"classes": "ab"}, "classes must be different names"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            train_short(labelled, **options)


def test_train__resume_needs_the_same_encoder(tmp_path, haplotypes):
    options = {"save_path": tmp_path / "m", "encoder": ENCODER}
    train_short(labelled, **options, num_batches=2)
    for other in (ENCODER.like(haplotypes), None):
        with pytest.raises(ValueError, match="encoder"):
            train_short(labelled, **(options | {"encoder": other}), resume=True)
    resumed = train_short(labelled, **options, resume=True)
    assert (
        resumed.network.flat.weights.tobytes() == train_short(labelled, encoder=ENCODER).network.flat.weights.tobytes()
    )


# Model files


def test_file__of_the_first_version_of_encoders_loads_for_ever():
    """It was written by the code of that time: see make_golden.py."""
    model = load(GOLDEN / "encoder_1.npz")
    assert model.classes == CLASSES
    assert model.encoder == HaplotypeEncoder(snps=4, haplotypes=None, distance_scale=0.001, missing="channel")
    with np.load(GOLDEN / "encoder_1_predictions.npz") as file:
        data = Haplotypes(file["alleles"], file["positions"], length=1000)
        np.testing.assert_allclose(model.predict(data, centers=file["centers"]), file["predictions"], rtol=1e-5)


def test_file__encoders_that_it_cannot_hold(tmp_path):
    from test_modelfile import rewrite

    path = tmp_path / "m.npz"
    for change, message in (
        ({"version": 2}, "encoder: version 2, this definetti_np reads versions up to 1; it needs a newer definetti_np"),
        ({"snps": 9}, "encoder makes datasets of shape"),
        ({"alleles": "folded"}, "alleles must be one of"),
    ):
        model_of().save(path)
        rewrite(path, lambda header, arrays, change=change: header["encoder"].update(change))
        with pytest.raises(ModelFileError, match=message):
            load(path)
    model_of().save(path)
    rewrite(path, lambda header, arrays: header.update(classes=["a"]))
    with pytest.raises(ModelFileError, match="classes has 1 names"):
        load(path)


def test_file__without_an_encoder_has_none(tmp_path):
    model_of().save(tmp_path / "with")
    model = model_of()
    model.encoder = model.classes = None
    model.save(tmp_path / "without")
    assert load(tmp_path / "without").encoder is None
    with np.load(tmp_path / "without.npz") as file:
        assert not {"encoder", "classes"} & set(json.loads(file["header"].tobytes()))


# Predictions


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"g": ("max",)},
        {"g": ("sort",)},
        {"phi_net": [("conv", 7, 4)]},
        {"phi_net": []},
        {"h_net": [("conv", 2, 3), ("matmul",)]},
        {"encoder": HaplotypeEncoder(snps=8, haplotypes=10, distances=False)},
        {"encoder": HaplotypeEncoder(snps=7, haplotypes=10, distance_scale=4e-4, missing="channel", min_minor_count=2)},
    ],
    ids=str,
)
def test_windows__shared_work_changes_no_bit(haplotypes, changes):
    model = model_of(**changes)
    sites = Sites.of(model.encoder, haplotypes)
    first, has_window = sites.windows(np.arange(100, 300_000, 60.0))
    assert layers_to_share(model.network, model.encoder) is not None
    shared, _ = predict_windows(model.network, sites, first[has_window])
    apart, _ = predict_windows(model.network, sites, first[has_window], shares=False)
    assert shared.tobytes() == apart.tobytes()
    assert len(np.unique(shared, axis=0)) > 300
    alone = np.concatenate([model.predict(sites.encode(first[has_window][[i]])) for i in (0, 1000, -1)])
    assert alone.tobytes() == shared[[0, 1000, -1]].tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"g": ("moments", 1)},
        {"phi_net": [("fc", 4)]},
        {"context": [("distinct", 2, 4)]},
        {"phi_net": [("conv", 8, 4)]},
        {"encoder": dataclasses.replace(ENCODER, pad=True)},
    ],
    ids=str,
)
def test_windows__share_nothing_where_it_is_not_exact(haplotypes, changes):
    model = model_of(**changes)
    assert layers_to_share(model.network, model.encoder) is None
    centers = np.arange(100, 300_000, 997.0)
    windows, has_window = model.encoder.encode_many(haplotypes, centers)
    predicted = model.predict(haplotypes, centers=centers)
    assert predicted[has_window].tobytes() == model.predict(windows).tobytes()
    assert np.isnan(predicted[~has_window]).all()


def test_predict__haplotypes_need_centers_and_an_encoder(haplotypes):
    model = model_of()
    with pytest.raises(ValueError, match="centers are needed for Haplotypes"):
        model.predict(haplotypes)
    with pytest.raises(ValueError, match="centers are for Haplotypes, got data of ndarray"):
        model.predict(np.zeros((1, 10, 8, 2)), centers=[5])
    with pytest.raises(ValueError, match="lies outside of chr2:0-300,000"):
        model.predict(haplotypes, centers=[5, 300_001])
    model.encoder = None
    with pytest.raises(ValueError, match="the model has no encoder"):
        model.scan(haplotypes)


def test_predict__the_mean_over_choices_of_haplotypes(haplotypes):
    encoder = dataclasses.replace(ENCODER, haplotypes=6, choices=3)
    model = model_of(encoder)
    centers = [100_000.0, 200_000.0]
    each = []
    for choice in range(3):
        sites = Sites.of(encoder, haplotypes, choice=choice)
        each.append(model.predict(sites.encode(sites.windows(centers)[0])))
    assert len({array.tobytes() for array in each}) > 1
    np.testing.assert_allclose(model.predict(haplotypes, centers=centers), np.mean(each, axis=0), rtol=1e-6)


def test_predict__a_generator_is_taken_part_by_part():
    model = model_of()
    datasets = np.random.default_rng(1).random((150, 10, 8, 2))
    taken = []

    def generate():
        for i, dataset in enumerate(datasets):
            taken.append(i)
            yield dataset

    assert model.predict(generate()).tobytes() == model.predict(datasets).tobytes()
    assert len(taken) == 150
    assert model.predict(iter([])).shape == (0, 2)
    with pytest.raises(ValueError, match=r"data\[70\] has shape \(10, 7, 2\)"):
        model.predict(itertools.chain(datasets[:70], [np.zeros((10, 7, 2))]))


def test_predict__memory_does_not_grow_with_a_generator():
    model = model_of()
    dataset = np.random.default_rng(1).random((10, 8, 2))
    model.predict(dataset.copy() for _ in range(100))
    peaks = []
    for number in (1000, 4000):
        tracemalloc.start()
        model.predict(dataset.copy() for _ in range(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 3000 * dataset.nbytes / 4


# Scans


def test_scan__is_what_predict_says_of_each_place(haplotypes):
    model = model_of()
    scan = model.scan(haplotypes, step=701)
    assert scan.start[0] == 0
    assert scan.end[-1] == 300_000
    np.testing.assert_array_equal(scan.start[1:], scan.end[:-1])
    np.testing.assert_array_equal(scan.center, (scan.start + scan.end) / 2)
    np.testing.assert_array_equal(scan.values, model.predict(haplotypes, centers=scan.center))
    assert set(scan.status) == {"ok", "too_few_snps"}
    assert (np.isnan(scan.values[:, 0]) == (scan.status != "ok")).all()
    assert (scan.snps[scan.status == "ok"] == 8).all()
    assert (scan.snps[scan.status != "ok"] < 8).all()
    assert scan.names == ("p_flat", "p_hotspot")
    part = model.scan(haplotypes, step=701, start=7010, stop=70_100)
    np.testing.assert_array_equal(part.values, scan.values[10:100])
    assert repr(part).startswith("Scan of chr2:7,010-70,100 at 90 places (90 ok, ")
    assert model.scan(haplotypes, step=701, threads=1).values.tobytes() == scan.values.tobytes()


def test_scan__at_snps_has_each_distinct_window_once(haplotypes):
    model = model_of()
    scan = model.scan(haplotypes, at="snps")
    sites = Sites.of(model.encoder, haplotypes)
    assert len(scan) == len(sites.positions) + 1
    assert ((scan.start <= scan.center) & (scan.center < scan.end)).all()
    first, _ = sites.windows(scan.center)
    np.testing.assert_array_equal(np.diff(first), 1)
    every = model.predict(haplotypes, centers=np.arange(0, 300_000, 97.0) + 0.5)
    at = np.searchsorted(scan.end, np.arange(0, 300_000, 97.0) + 0.5)
    np.testing.assert_array_equal(scan.values[at], every)


def test_scan__inaccessible_places_say_so(haplotypes):
    masked = haplotypes.filter(inaccessible=[(100_000, 150_000)])
    scan = model_of().scan(masked, step=1000)
    inside = (scan.center >= 100_000) & (scan.center < 150_000)
    np.testing.assert_array_equal(scan.status == "inaccessible", inside)
    assert np.isnan(scan.values[inside]).all()
    assert (scan.status[~inside][20:-20] == "ok").all()


def test_scan__prior_by_the_rule_of_bayes(haplotypes):
    model = model_of()
    before = model.scan(haplotypes)
    after = model.scan(haplotypes, prior=(0.97, 0.03), training_prior=(0.6, 0.4))
    ok = before.status == "ok"
    odds = before.values[ok, 1].astype(float) / before.values[ok, 0] * (0.03 / 0.4) / (0.97 / 0.6)
    np.testing.assert_allclose(after.values[ok, 1], odds / (1 + odds), rtol=1e-5)
    assert after.notes["prior"] == "flat=0.97, hotspot=0.03"
    assert before.notes["prior"] == "that of the training"
    half = model.scan(haplotypes, prior=(0.5, 0.5))
    np.testing.assert_allclose(half.values[ok], before.values[ok], rtol=1e-6)


def test_ensemble__scans_with_the_mean_of_its_members(haplotypes):
    members = [model_of(seed=seed) for seed in (1, 2, 3)]
    both, centers = ensemble(members), np.arange(20_000, 60_000, 700.0)
    expected = np.mean([member.predict(haplotypes, centers=centers) for member in members], axis=0)
    np.testing.assert_array_equal(both.predict(haplotypes, centers=centers), expected)
    scans = [member.scan(haplotypes, step=700) for member in members]
    scan = both.scan(haplotypes, step=700)
    np.testing.assert_array_equal(scan.values, np.mean([member.values for member in scans], axis=0))
    np.testing.assert_array_equal(scan.status, scans[0].status)
    assert scan.notes["model"] == "ensemble of seeds 1, 2, 3"
    weighed = both.scan(haplotypes, step=700, prior=(0.9, 0.1)).values
    np.testing.assert_allclose(weighed, with_prior(scan.values, np.array([0.9, 0.1]), np.array([0.5, 0.5])), rtol=1e-6)
    with pytest.raises(ValueError, match=r"models\[1\] has another encoder than models\[0\]"):
        ensemble([members[0], model_of(encoder=dataclasses.replace(ENCODER, distance_scale=1.0))])


def test_ensemble__takes_a_generator_part_by_part():
    members = [model_of(seed=seed) for seed in (1, 2)]
    windows = np.random.default_rng(1).integers(2, size=(150, *ENCODER.shape)).astype(np.float32)
    taken = []

    def generate():
        for i, window in enumerate(windows):
            taken.append(i)
            yield window

    np.testing.assert_array_equal(ensemble(members).predict(generate()), ensemble(members).predict(windows))
    assert taken == list(range(150))


def test_posterior__takes_no_haplotypes(haplotypes):
    with pytest.raises(TypeError, match="posterior takes datasets, got Haplotypes; make datasets of them with encoder"):
        model_of().posterior(haplotypes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": (0.5, 0.6)}, "prior must be 2 positive probabilities that add up to 1"),
        ({"prior": (0.5, 0.3, 0.2)}, "prior must be 2 positive"),
        ({"prior": "half"}, "prior must be 2 positive"),
        ({"training_prior": (0.5, 0.5)}, "give prior too"),
        ({"step": 0}, "step must be positive"),
        ({"step": 0.5}, "step must be at least 1 bp"),
        ({"at": "genes"}, 'at must be "snps" or None'),
        ({"start": 5, "stop": 2}, "start and stop must lie within chr2:0-300,000 and ascend"),
        ({"stop": 300_001}, "start and stop must lie within"),
    ],
)
def test_scan__arguments_that_are_wrong(haplotypes, options, message):
    with pytest.raises(ValueError, match=message):
        model_of().scan(haplotypes, **options)


def test_scan__estimates_of_a_network_without_softmax(haplotypes):
    model = model_of(h_net=[("matmul",)], classes=None)
    scan = model.scan(haplotypes, step=5000)
    assert scan.names == ("estimate_0", "estimate_1")
    with pytest.raises(ValueError, match="prior is for a network that ends in softmax"):
        model.scan(haplotypes, prior=(0.5, 0.5))


def made_scan(values, status=None):
    number = len(values)
    start = np.arange(number) * 10
    values = np.array(values, np.float32)
    return Scan(
        contig="chr7",
        start=start,
        end=start + 10,
        center=start + 5.0,
        snps=np.full(number, 8),
        values=np.stack([1 - values, values], axis=1),
        status=np.array(status or ["ok"] * number),
        names=("p_flat", "p_hotspot"),
        notes={"prior": "that of the training"},
    )


def test_calls__neighbours_are_joined_and_the_highest_is_kept():
    nan = np.nan
    status = ["ok"] * 5 + ["inaccessible", "ok", "ok"]
    scan = made_scan([0.9, 0.1, 0.6, 0.8, 0.5, nan, 0.7, 0.75], status)
    calls = scan.calls(0.5)
    assert [(c.start, c.end, c.peak) for c in calls] == [(0, 10, 5), (20, 40, 35), (60, 80, 75)]
    assert [c.posterior for c in calls] == pytest.approx([0.9, 0.8, 0.75])
    assert [(c.start, c.end) for c in scan.calls(0.85, "flat")] == [(10, 20)]
    assert scan.calls(0.95) == []
    with pytest.raises(ValueError, match="there is no column 'cold'; choose from p_flat, p_hotspot"):
        scan.calls(0.5, "cold")
    gap = dataclasses.replace(scan, start=scan.start + np.array([0, 0, 0, 1, 0, 0, 0, 0]))
    assert len(gap.calls(0.5)) == 4


def test_files__of_a_scan(tmp_path, haplotypes):
    scan = model_of().scan(haplotypes.filter(inaccessible=[(0, 50_000)]), step=999, prior=(0.9, 0.1))
    path = tmp_path / "scan.tsv"
    scan.to_tsv(path)
    lines = path.read_text().splitlines()
    table = [line for line in lines if not line.startswith("##")]
    assert table[0].split("\t") == ["#chrom", "start", "end", "center", "snps", "p_flat", "p_hotspot", "status"]
    assert "##prior=flat=0.9, hotspot=0.1" in lines
    again = Scan.read(path)
    for name in ("start", "end", "center", "snps", "values", "status"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scan, name))
    assert (again.contig, again.names, again.notes) == (scan.contig, scan.names, scan.notes)
    assert repr(again) == repr(scan)
    assert "chr2:0-300,000 at 301 places" in repr(scan)

    made = made_scan([0.9, 0.1, 0.6, 0.8])
    made.to_bed(tmp_path / "calls.bed", threshold=0.5)
    assert (tmp_path / "calls.bed").read_text() == "chr7\t0\t10\thotspot\t900\t.\nchr7\t20\t40\thotspot\t800\t.\n"
    made = made_scan([0.25, np.nan, 0.5], ["ok", "too_few_snps", "ok"])
    made.to_bedgraph(tmp_path / "scan.bedgraph")
    assert (tmp_path / "scan.bedgraph").read_text() == "chr7\t0\t10\t0.25\nchr7\t20\t30\t0.5\n"
    with pytest.raises(ValueError, match="does not exist"):
        made.to_tsv(tmp_path / "none" / "scan.tsv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["#chrom", *lines], "line 1: not a scan of this version"),
        (lambda lines: lines[:2], "line 3: the line of columns, #chrom ..., is missing"),
        (lambda lines: [*lines[:4], "chr7\t1\t2"], "line 5: not a row of a scan: 'chr7 1 2'"),
        (lambda lines: [*lines[:4], lines[4].replace("ok", "fine")], "line 5: not a row"),
        (lambda lines: [*lines, lines[-1].replace("chr7", "chr8")], "a scan of one contig is needed"),
    ],
)
def test_read__files_that_are_wrong(tmp_path, change, message):
    path = tmp_path / "scan.tsv"
    made_scan([0.5, 0.25]).to_tsv(path)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(GenomeFileError, match=message):
        Scan.read(path)
    with pytest.raises(GenomeFileError, match="cannot be read"):
        Scan.read(tmp_path / "none.tsv")


def test_plot__is_drawn_or_says_what_to_install(tmp_path, monkeypatch):
    scan = made_scan([0.9, 0.1, 0.6, 0.8])
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        pass
    else:
        axes = scan.plot(tmp_path / "scan.png", threshold=0.5)
        assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")
        assert len(axes.patches) == 2
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "definetti_np\[plot\]"'):
        scan.plot()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def small_pieces(monkeypatch):
    """Files and scans that take many turns, and progress that is shown at once."""
    monkeypatch.setattr("definetti_np.genomes.vcf.BYTES_AT_ONCE", 1000)
    monkeypatch.setattr("definetti_np.genomes.htslib.SITES_AT_ONCE", 50)
    monkeypatch.setattr("definetti_np.scanner.WINDOWS_AT_ONCE", 50)
    monkeypatch.setattr("definetti_np.progress.SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr("definetti_np.progress.SECONDS_BEFORE_A_BAR", 0)


@pytest.mark.parametrize("reader", ["stream", "cyvcf2"])
def test_progress__of_long_files_and_scans(tmp_path, small_pieces, monkeypatch, caplog, reader):
    caplog.set_level(logging.INFO, "definetti_np")
    with open(tmp_path / "data.vcf", "w") as file:
        trees = simulate(np.random.default_rng(1), 100_000)
        trees.write_vcf(file, contig_id="chr2", position_transform=lambda x: np.array(x) + 1)
    model = model_of()
    model.scan(read_haplotypes(tmp_path / "data.vcf", reader=reader), step=100)
    for what in ("reading data.vcf", "scanning chr2"):
        lines = [m for m in caplog.messages if m.startswith(f"{what}: ")]
        shares = [int(line.split(": ")[1].split()[0]) for line in lines]
        assert len(shares) > 3
        assert shares == sorted(shares)
        assert shares[-1] <= 100
    assert re.search(r"reading data.vcf: \d+ %, up to position [\d,]+$", "\n".join(caplog.messages), re.MULTILINE)
    caplog.clear()
    model.scan(read_haplotypes(tmp_path / "data.vcf", reader=reader, progress=False), step=100, progress=False)
    assert not any("%, up to" in message or message.startswith("scanning") for message in caplog.messages)

    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))  # it writes ten times a second
    monkeypatch.setattr(sys, "stderr", Terminal())
    model.scan(read_haplotypes(tmp_path / "data.vcf", reader=reader), step=100)
    assert re.search(r"reading data.vcf: +\d+%\|", sys.stderr.getvalue())
    assert re.search(r"scanning chr2: +100%\|", sys.stderr.getvalue())


def test_import__of_genomes_loads_no_numba_and_no_cyvcf2():
    from test_package import modules_after

    statement = "from definetti_np import read_haplotypes, HaplotypeEncoder, Scan, Haplotypes"
    assert not {"numba", "llvmlite", "cyvcf2", "tskit", "msprime", "matplotlib"} & modules_after(statement)
    assert definetti_np.Scan is Scan


def test_store__simulations_are_those_of_one_encoder(tmp_path):
    folder, other = tmp_path / "sims", dataclasses.replace(ENCODER, distance_scale=1e-3)
    definetti_np.simulate(
        labelled, ENCODER.shape, (2,), folder, seed=5, stop=12, sim_threads=0, logfile=None, encoder=ENCODER
    )
    stored = train_short(labelled, encoder=ENCODER, simulations=folder)
    assert (
        stored.network.flat.weights.tobytes() == train_short(labelled, encoder=ENCODER).network.flat.weights.tobytes()
    )
    read = train_short(None, encoder=ENCODER, simulations=folder)
    assert read.network.flat.weights.tobytes() == stored.network.flat.weights.tobytes()
    with pytest.raises(ValueError, match="with encoder"):
        train_short(labelled, encoder=other, simulations=folder)
