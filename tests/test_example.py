"""The example: its simulator keeps the facts of the original's experiment, and the script runs."""

import os
import subprocess
import sys
from pathlib import Path

import hotspots
import msprime
import numpy as np
import pytest
import run_example
import scan_example
import simulator_example

from definetti_np import Model, Network, Scan, read_haplotypes

EXAMPLE = Path(simulator_example.__file__).parent


@pytest.fixture(scope="module")
def prior():
    return simulator_example.read_rates(EXAMPLE / "genetic_map.txt")


@pytest.fixture(scope="module")
def examples(prior):
    rng = np.random.default_rng(1)
    return [simulator_example.simulate_data(*prior, rng) for _ in range(60)]


def test_map__quantiles_of_its_rates(prior):
    rates, probabilities = prior
    assert (rates > 0).all()
    assert probabilities.sum() == pytest.approx(1)
    order = np.argsort(rates)
    wanted = {0.01: 0.26, 0.05: 0.41, 0.1: 0.52, 0.25: 2.1, 0.5: 2.9, 0.75: 3.35, 0.95: 3.4, 0.99: 4.3}
    positions = np.searchsorted(np.cumsum(probabilities[order]), list(wanted))
    np.testing.assert_allclose(rates[order][positions] * 1e8, list(wanted.values()), rtol=0.06)


def test_map__zero_and_unknown_rates_are_dropped(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text(
        "Chromosome Position(bp) Rate(cM/Mb) Map(cM)\n1 1000 2 0\n1 2000 0 0.002\n1 5000 4 0.002\n1 6000 0 0.006\n"
    )
    rates, probabilities = simulator_example.read_rates(path)
    np.testing.assert_allclose(rates, [2e-8, 4e-8])
    np.testing.assert_allclose(probabilities, [0.5, 0.5])


def test_map__is_what_its_script_makes(tmp_path):
    script = tmp_path / "make_genetic_map.py"
    script.write_text((EXAMPLE / "make_genetic_map.py").read_text())
    subprocess.run([sys.executable, script], check=True, timeout=60)
    assert (tmp_path / "genetic_map.txt").read_text() == (EXAMPLE / "genetic_map.txt").read_text()


def test_simulator__shapes_channels_and_labels(examples):
    for data, label in examples:
        assert data.shape == (198, 24, 2)
        assert label.tolist() in ([1, 0], [0, 1])
        genotypes, distances = data[:, :, 0], data[:, :, 1]
        assert set(np.unique(genotypes)) == {0, 1}
        minor = genotypes.sum(axis=0)
        assert ((minor >= 1) & (minor <= 99)).all(), "folded to the minor allele"
        assert (distances == distances[0]).all(), "the same in every row"
        assert (distances[0, :-1] > 0).all()
        assert distances[0, -1] == 0
        span = distances[0].sum() / (4 * 1e4 * 1.1e-8)
        assert 1000 < span < 52_000, "in bp"
    labels = np.array([label for _, label in examples])
    assert 15 < labels[:, 1].sum() < 45


def test_simulator__is_a_function_of_its_generator(prior):
    twins = [simulator_example.simulate_data(*prior, np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(twins[0][0], twins[1][0])


def test_simulator__two_different_seeds_for_ancestry_and_mutations(prior, monkeypatch):
    seeds = []
    for name in ("sim_ancestry", "sim_mutations"):
        function = getattr(msprime, name)
        monkeypatch.setattr(msprime, name, lambda *a, f=function, **k: (seeds.append(k["random_seed"]), f(*a, **k))[1])
    rng = np.random.default_rng(1)
    for _ in range(5):
        simulator_example.simulate_data(*prior, rng)
    assert len(set(seeds)) == len(seeds) >= 10
    assert all(1 <= seed < 2**31 for seed in seeds)


def tree_sequence_with_sites(positions):
    tables = msprime.sim_ancestry(
        198, ploidy=1, population_size=2e4, sequence_length=52_000, discrete_genome=False, random_seed=1
    ).dump_tables()
    for node, position in enumerate(positions):
        site = tables.sites.add_row(position=position, ancestral_state="0")
        tables.mutations.add_row(site=site, node=node % 198, derived_state="1")
    return tables.tree_sequence()


@pytest.mark.parametrize(
    ("left", "right", "kept"), [(12, 12, True), (11, 30, False), (30, 11, False), (12, 13, True), (200, 200, True)]
)
def test_simulator__needs_twelve_snps_on_each_side(left, right, kept):
    positions = [*np.linspace(100, 24_000, left), *np.linspace(28_000, 51_000, right)]
    data = simulator_example.haplotypes_around_the_middle(tree_sequence_with_sites(positions))
    assert (data is not None) == kept
    if kept:
        chosen = positions[left - 12 : left + 12]
        np.testing.assert_allclose(data[0, :-1, 1], np.diff(chosen) * 4 * 1e4 * 1.1e-8)
        np.testing.assert_array_equal(data[:, :, 0].argmax(axis=0), np.arange(left - 12, left + 12) % 198)


@pytest.mark.parametrize(("in_hotspot", "kept"), [(23, True), (24, False), (40, False)])
def test_simulator__redraws_where_the_hotspot_holds_all_snps(in_hotspot, kept):
    positions = [
        *np.linspace(100, 24_000, 20),
        *np.linspace(25_100, 26_900, in_hotspot),
        *np.linspace(28_000, 51_000, 20),
    ]
    assert (simulator_example.haplotypes_around_the_middle(tree_sequence_with_sites(positions)) is not None) == kept


def test_networks__fit_the_simulators(examples):
    published = Network(simulator_example.INPUT_SHAPE, simulator_example.OUTPUT_SHAPE, **run_example.PUBLISHED)
    assert published.flat.weights.size == 158_626, "as in the original"
    ours = Network(hotspots.encoder.shape, simulator_example.OUTPUT_SHAPE, **run_example.NETWORK)
    for network, data in ((published, examples[0][0]), (ours, hotspots.simulator(np.random.default_rng(1))[0])):
        np.testing.assert_allclose(network(data[np.newaxis]).sum(axis=1), 1, rtol=1e-5)


def test_simulator__parameters_are_those_of_the_example(prior):
    """What a benchmark draws again of an example's seed is what the example was simulated with."""
    rng = np.random.default_rng(5)
    hotspot, background, heat = simulator_example.draw_parameters(*prior, np.random.default_rng(5))
    assert simulator_example.simulate_data(*prior, rng)[1].argmax() == hotspot
    assert background in prior[0]
    assert 10 <= heat < 100


def test_simulator__hotspots_lie_anywhere_around_the_middle(prior, monkeypatch):
    maps = []
    simulate = simulator_example.simulate_haplotypes
    monkeypatch.setattr(simulator_example, "simulate_haplotypes", lambda m, rng: maps.append(m) or simulate(m, rng))
    for seed in range(10):
        simulator_example.simulate_data(*prior, np.random.default_rng(seed), max_offset=1000)
    middles = np.array([(m.left[1] + m.right[1]) / 2 for m in maps])
    assert (abs(middles - simulator_example.REGION / 2) < 1000).all()
    assert middles.std() > 300


def test_simulator__flat_regions_may_have_a_hotspot_elsewhere():
    rng, draw = np.random.default_rng(1), simulator_example.draw_offset
    assert [draw(False, rng, 1000, 0) for _ in range(5)] == [None] * 5
    assert all(abs(draw(True, rng, 1000, 1)) <= 1000 for _ in range(100))
    offsets = [draw(False, rng, 1000, 0.5) for _ in range(400)]
    there = np.array([offset for offset in offsets if offset is not None])
    assert 150 < len(there) < 250
    assert 70 < np.count_nonzero(there > 0) < 130
    assert ((abs(there) >= simulator_example.NEAREST) & (abs(there) <= 25_000)).all()
    assert abs(there).min() < 5_000
    assert abs(there).max() > 24_000


def test_run_example__from_training_to_predictions(tmp_path):
    command = [sys.executable, EXAMPLE / "run_example.py", "--num-batches", "3", "--output", tmp_path / "out"]
    done = subprocess.run(
        [*command, "--seed", "1", "--map", EXAMPLE / "genetic_map.txt", "--sim-threads", "2"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "Accuracy on 500 fresh simulations: 0." in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"weights.npz", "summary.txt", "test_predictions.txt"} <= files
    assert ("roc.png" in files) != ('pip install "definetti_np[plot]"' in done.stdout)
    predictions = np.loadtxt(tmp_path / "out" / "test_predictions.txt")
    assert predictions.shape == (500, 2)
    np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-5)


def test_scan_example__hotspots_are_planted_where_it_says():
    rng = np.random.default_rng(1)
    recombination_map, hotspots = scan_example.plant_hotspots(450_000, EXAMPLE / "genetic_map.txt", rng)
    assert recombination_map.sequence_length == 450_000
    assert len(hotspots) == 5
    rate = recombination_map.get_rate
    for middle in hotspots:
        ratio = rate(middle) / rate(middle + 1500)
        assert rate(middle - 999) == rate(middle + 999) == rate(middle)
        assert rate(middle - 1001) == rate(middle + 1001)
        assert 10 <= ratio < 100 * max(1, 1.25e-8 / rate(middle + 1500))


def test_scan_example__errors_as_often_as_asked_and_in_pairs():
    rng = np.random.default_rng(1)
    alleles = rng.integers(2, size=(500, 40)).astype(np.int8)
    np.testing.assert_array_equal(scan_example.add_errors(alleles, 0, 0, rng), alleles)
    assert np.mean(scan_example.add_errors(alleles, 0.01, 0, rng) != alleles) == pytest.approx(0.01, abs=0.003)
    switched = scan_example.add_errors(alleles, 0, 0.02, rng)
    np.testing.assert_array_equal(switched[:, ::2] + switched[:, 1::2], alleles[:, ::2] + alleles[:, 1::2])
    differ = alleles[:, ::2] != alleles[:, 1::2]
    numbers = [
        np.count_nonzero(np.diff((a != b)[d]))
        for a, b, d in zip(switched.T[::2], alleles.T[::2], differ.T, strict=True)
    ]
    assert np.mean(numbers) == pytest.approx(10, rel=0.3)


def made_scan(posterior):
    number = len(posterior)
    start = np.arange(number) * 500
    values = np.stack([1 - np.array(posterior), posterior], axis=1).astype(np.float32)
    ok, names = np.full(number, "ok"), ("p_flat", "p_hotspot")
    return Scan("1", start, start + 500, start + 250.0, np.full(number, 24), values, ok, names)


def test_scan_example__area_and_power_of_a_scan_that_is_known():
    hotspots = np.array([100_000, 300_000.0, 700_000])
    posterior = np.full(2000, 0.01)
    posterior[[199, 200, 601, 1000]] = 0.99, 0.999, 0.98, 0.9  # the last one is false
    threshold, power, false_calls = scan_example.power_of_calls(made_scan(posterior), hotspots)
    assert 0.9 <= threshold < 0.98
    assert (power, false_calls) == (pytest.approx(2 / 3), 0)
    hot = np.repeat([198, 598, 1398], 4) + np.tile(np.arange(4), 3)
    posterior[hot] = 0.95
    assert scan_example.area_under_the_curve(made_scan(posterior), hotspots) == 1
    posterior[hot[:6]] = 0.01
    flat = np.count_nonzero(scan_example.distances(made_scan(posterior).center, hotspots) > 10_000)
    assert scan_example.area_under_the_curve(made_scan(posterior), hotspots) == pytest.approx(
        (6 + 6 * (flat - 1) / (2 * flat)) / 12
    )


def test_scan_example__from_a_model_to_calls(tmp_path):
    network = Network(hotspots.encoder.shape, simulator_example.OUTPUT_SHAPE, **run_example.NETWORK, seed=1)
    told = {"encoder": hotspots.encoder, "classes": hotspots.classes}
    Model(network, loss="cross-ent", seed=1, batches_trained=0, **told).save(tmp_path / "m")
    done = subprocess.run(
        [
            *(sys.executable, EXAMPLE / "scan_example.py", "--model", tmp_path / "m", "--output", tmp_path / "out"),
            *("--length", "250000", "--genotype-errors", "0.001", "--switch-errors", "0.01"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "3 hotspots on 0.25 Mb" in done.stdout
    assert "Area under the ROC curve: 0." in done.stdout
    assert "Power: " in done.stdout
    haplotypes = read_haplotypes(tmp_path / "out" / "chromosome.vcf")
    assert haplotypes.num_haplotypes == 198
    assert 300 < haplotypes.num_sites < 1200
    scan = Scan.read(tmp_path / "out" / "scan.tsv")
    assert len(scan) == 500
    assert scan.notes["prior"] == "flat=0.98, hotspot=0.02"
    assert np.count_nonzero(scan.status == "ok") > 400
    assert (tmp_path / "out" / "hotspots.bed").exists()
    assert (tmp_path / "out" / "scan.png").exists() != ('pip install "definetti_np[plot]"' in done.stdout)
