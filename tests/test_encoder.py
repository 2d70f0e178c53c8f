"""From haplotypes to datasets: the encoder, and simulations that look like the data."""

import dataclasses

import hotspots
import msprime
import numpy as np
import pytest
import simulator_example
from hypothesis import given
from hypothesis import strategies as st

from definetti_np import HaplotypeEncoder, Haplotypes
from definetti_np.genomes.encoder import choose_columns

SCALE = 4e-4


def random_haplotypes(rng, sites=30, haplotypes=8, missing=0.0, length=1000, **options):
    """Haplotypes of independent alleles at random positions."""
    alleles = (rng.random((sites, haplotypes)) < rng.random((sites, 1))).astype(np.int8)
    alleles[rng.random(alleles.shape) < missing] = -1
    positions = np.sort(rng.choice(length, sites, replace=False)).astype(float)
    return Haplotypes(alleles, positions, length=length, **options)


def naive(encoder, haplotypes, center):
    """What `HaplotypeEncoder.encode` computes, SNP by SNP and haplotype by haplotype, in float64."""
    columns = choose_columns(encoder, haplotypes)
    used = []
    for alleles, position in zip(haplotypes.alleles.tolist(), haplotypes.positions, strict=True):
        chosen = [alleles[i] for i in columns.ravel()]
        ones, zeros = chosen.count(1), chosen.count(0)
        if min(ones, zeros) < encoder.min_minor_count:
            continue
        one = 1 if encoder.alleles == "derived" or ones < zeros else 0
        major = int(ones > zeros) if encoder.alleles == "derived" else 0
        coded = [major if a == -1 else int(a == one) for a in chosen]
        missing = [int(a == -1) for a in chosen]
        if columns.ndim == 2:
            coded, missing = ([a + b for a, b in zip(c[::2], c[1::2], strict=True)] for c in (coded, missing))
        used.append((position, coded, missing))
    left = [site for site in used if site[0] < center]
    right = [site for site in used if site[0] >= center]
    left_snps = encoder.snps // 2
    right_snps = encoder.snps - left_snps
    if not encoder.pad and (len(left) < left_snps or len(right) < right_snps):
        return None
    window = [None] * max(0, left_snps - len(left)) + left[len(left) - min(left_snps, len(left)) :]
    window += right[:right_snps] + [None] * max(0, right_snps - len(right))
    data = np.zeros((len(columns), encoder.snps, len(encoder.channels)))
    for snp, site in enumerate(window):
        if site is None:
            continue
        following = window[snp + 1] if snp + 1 < encoder.snps else None
        channels = {
            "alleles": site[1],
            "distances": 0 if following is None else (following[0] - site[0]) * (encoder.distance_scale or 0),
            "missing": site[2],
            "present": 1,
        }
        for channel, name in enumerate(encoder.channels):
            data[:, snp, channel] = channels[name]
    return data


@given(
    seed=st.integers(0, 2**32),
    snps=st.integers(1, 9),
    haplotypes=st.sampled_from([None, 2, 3, 4]),
    alleles=st.sampled_from(["minor", "derived", "genotypes"]),
    distances=st.booleans(),
    min_minor_count=st.integers(1, 3),
    missing=st.sampled_from(["major", "channel"]),
    pad=st.booleans(),
    share=st.sampled_from([0, 0.1, 0.5]),
)
def test_encode_many__is_what_the_naive_encoder_computes(seed, distances, share, **options):
    encoder = HaplotypeEncoder(distances=distances, distance_scale=SCALE if distances else None, **options)
    rng = np.random.default_rng(seed)
    haplotypes = random_haplotypes(rng, sites=20, missing=share, is_polarised=True)
    centers = np.concatenate([rng.uniform(0, 1000, 6), haplotypes.positions[:2], [0, 1000]])
    windows, has_window = encoder.encode_many(haplotypes, centers)
    expected = [naive(encoder, haplotypes, center) for center in centers]
    assert [window is not None for window in expected] == has_window.tolist()
    assert windows.dtype == np.float32
    assert windows.shape[1:] == (encoder.haplotypes or len(choose_columns(encoder, haplotypes)), *encoder.shape[1:])
    np.testing.assert_array_equal(
        windows, np.array([w for w in expected if w is not None], np.float32).reshape(windows.shape)
    )
    for center, window in zip(centers, expected, strict=True):
        one = encoder.encode(haplotypes, center)
        assert (one is None) == (window is None)
        if one is not None:
            np.testing.assert_array_equal(one, window.astype(np.float32))


def test_encode_many__far_and_unordered_centers():
    rng = np.random.default_rng(3)
    haplotypes = random_haplotypes(rng, sites=5000, haplotypes=4, length=10**6)
    encoder = HaplotypeEncoder(snps=4, haplotypes=4, distance_scale=SCALE)
    centers = rng.permutation(np.append(np.linspace(0, 10**6, 700), rng.uniform(4e5, 4.1e5, 1500)))
    windows, has_window = encoder.encode_many(haplotypes, centers)
    kept = centers[has_window]
    for i in rng.choice(len(kept), 12, replace=False):
        np.testing.assert_array_equal(windows[i], naive(encoder, haplotypes, kept[i]).astype(np.float32))


@pytest.mark.parametrize("snps", [simulator_example.SNPS, hotspots.REGIONS["snps"]])
def test_encoder__gives_the_arrays_of_the_example(snps):
    encoder = simulator_example.encoder_of(snps)
    rng, encoded = np.random.default_rng(5), 0
    recombination = msprime.RateMap(position=[0, 25_000, 27_000, 52_000], rate=[1e-8, 3e-7, 1e-8])
    for _ in range(40):
        trees = simulator_example.simulate_haplotypes(recombination, rng)
        data = simulator_example.haplotypes_around_the_middle(trees, snps)
        window = encoder.encode(trees)
        if data is None:  # too few SNPs, or all of them in the hotspot
            positions = trees.sites_position
            in_hotspot = np.count_nonzero(abs(positions - 26_000) < 1000)
            assert window is None or in_hotspot >= snps
            continue
        np.testing.assert_array_equal(window, data.astype(np.float32))
        whole = encoder.encode(Haplotypes.from_tree_sequence(trees), 26_000)
        np.testing.assert_array_equal(whole, window)
        encoded += 1
    assert encoded > 30


def test_encode__of_a_tree_sequence_goes_on_until_there_are_snps_enough():
    trees = msprime.sim_ancestry(5, population_size=1e4, sequence_length=2e5, recombination_rate=1e-8, random_seed=3)
    trees = msprime.sim_mutations(trees, rate=2e-8, random_seed=4)
    haplotypes = Haplotypes.from_tree_sequence(trees)
    for options in ({"min_minor_count": 4}, {"min_minor_count": 4, "pad": True}, {"snps": 500, "pad": True}):
        encoder = HaplotypeEncoder(**({"snps": 20, "haplotypes": 10, "distance_scale": SCALE} | options))
        for center in (100, 90_000, 199_900.5, None):
            one, other = encoder.encode(trees, center), encoder.encode(haplotypes, center)
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)


def test_encode__rows_that_are_chosen():
    rng = np.random.default_rng(1)
    haplotypes = random_haplotypes(rng, haplotypes=20)
    encoder = HaplotypeEncoder(snps=4, haplotypes=6, distance_scale=SCALE, choice_seed=1)
    columns = choose_columns(encoder, haplotypes)
    assert len(set(columns.tolist())) == 6
    np.testing.assert_array_equal(
        encoder.encode(haplotypes, 500), encoder.encode(haplotypes.take_haplotypes(columns), 500)
    )
    others = [choose_columns(encoder, haplotypes, choice) for choice in range(3)]
    assert len({tuple(c) for c in others}) == 3
    np.testing.assert_array_equal(others[0], columns)
    pairs = choose_columns(dataclasses.replace(encoder, alleles="genotypes"), haplotypes)
    assert pairs.shape == (6, 2)
    assert (pairs[:, 0] % 2 == 0).all()
    assert (pairs[:, 1] == pairs[:, 0] + 1).all()


def test_encode__haplotypes_that_do_not_fit():
    rng = np.random.default_rng(1)
    haplotypes = random_haplotypes(rng, haplotypes=5)
    for options, changes, message in (
        ({"haplotypes": 6}, {}, "the encoder takes 6 haplotypes, and there are 5; train for that many"),
        ({"alleles": "derived"}, {}, "not polarised; read them with ancestral="),
        ({"alleles": "minor"}, {"is_phased": False}, "not phased; phase them, or train with alleles"),
        ({"alleles": "genotypes"}, {}, "5 haplotypes of samples of other or mixed ploidy"),
        ({"alleles": "genotypes"}, {"samples": "abc", "ploidy": [2, 2, 1]}, "of other or mixed ploidy"),
    ):
        encoder = HaplotypeEncoder(**({"snps": 4, "haplotypes": None, "distance_scale": SCALE} | options))
        with pytest.raises(ValueError, match=message):
            encoder.encode(dataclasses.replace(haplotypes, **changes), 500)
    encoder = HaplotypeEncoder(snps=4, haplotypes=5, distance_scale=SCALE)
    for center in (-1, 1001, np.nan):
        with pytest.raises(ValueError, match=r"centers: \S+ lies outside of 1:0-1,000"):
            encoder.encode_many(haplotypes, [500, center])
    trees = msprime.sim_ancestry(3, population_size=100, sequence_length=500, ploidy=1, random_seed=1)
    for center in (-1, 501, np.nan):
        with pytest.raises(ValueError, match=r"center: \S+ lies outside of 0-500"):
            HaplotypeEncoder(snps=4, haplotypes=3, distance_scale=SCALE).encode(trees, center)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "distances need a distance_scale"),
        ({"distances": False, "distance_scale": 1.0}, "distance_scale is for distances=True"),
        ({"snps": 0, "distance_scale": 1}, "HaplotypeEncoder: snps must be at least 1, got 0"),
        ({"haplotypes": 0, "distance_scale": 1}, "HaplotypeEncoder: haplotypes must be at least 1, got 0"),
        ({"min_minor_count": 0, "distance_scale": 1}, "min_minor_count must be at least 1"),
        ({"distance_scale": -1}, "distance_scale must be positive"),
        ({"alleles": "folded", "distance_scale": 1}, "alleles must be one of .*, got 'folded'"),
        ({"missing": 0.5, "distance_scale": 1}, "missing must be one of 'major', 'channel', got 0.5"),
    ],
)
def test_encoder__arguments_that_are_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        HaplotypeEncoder(**options)


def test_encoder__is_plain_data():
    encoder = HaplotypeEncoder(
        snps=10, haplotypes=None, alleles="genotypes", distances=False, missing="channel", pad=True
    )
    assert encoder.channels == ("alleles", "missing", "present")
    assert encoder.shape == (None, 10, 3)
    assert HaplotypeEncoder.from_dict(encoder.as_dict()) == encoder
    assert encoder.as_dict()["version"] == 1
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in encoder.as_dict().values())
    for changes, message in (
        ({"version": 2}, "encoder: version 2, this definetti_np reads versions up to 1; it needs a newer"),
        ({"version": None}, "version must be a positive integer"),
        ({"other": 1}, "where .* are needed"),
        ({"snps": "24"}, "snps must be an integer"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            HaplotypeEncoder.from_dict(encoder.as_dict() | changes)


# Simulations that look like the data


@pytest.fixture(scope="module")
def data():
    """Haplotypes with a mask, and alleles missing in the second half."""
    rng = np.random.default_rng(7)
    haplotypes = random_haplotypes(rng, sites=2000, haplotypes=8, length=100_000)
    alleles = haplotypes.alleles.copy()
    alleles[1000:][rng.random((1000, 8)) < 0.3] = -1
    masked = dataclasses.replace(haplotypes, alleles=alleles)
    return masked.filter(inaccessible=[(i, i + 1000) for i in range(0, 100_000, 3000)])


@pytest.fixture(scope="module")
def simulation():
    rng = np.random.default_rng(8)
    haplotypes = random_haplotypes(rng, sites=400, haplotypes=8, length=10_000)
    return dataclasses.replace(haplotypes, positions=np.sort(rng.uniform(0, 10_000, 400)))


def test_like__masks_as_the_data_are(data, simulation):
    like = HaplotypeEncoder(snps=10, haplotypes=8, distance_scale=SCALE).like(data)
    rng = np.random.default_rng(1)
    shares, missing = [], []
    for _ in range(60):
        masked = like.mask(simulation, 5000, rng)
        assert (masked.positions == np.floor(masked.positions)).all()
        assert (np.diff(masked.positions) > 0).all()
        assert (masked.accessible[:, 0] <= 5000).any()
        inside = [low <= 5000 < high for low, high in masked.accessible]
        assert sum(inside) == 1, "the centre is accessible"
        lengths = np.diff(masked.accessible, axis=1)
        assert set(lengths[1:-1].ravel()) == {2000}
        shares.append(lengths.sum() / 10_000)
        missing.append(np.mean(masked.alleles == -1))
        kept = np.isin(np.floor(simulation.positions), masked.positions)
        first = np.append(True, np.diff(np.floor(simulation.positions)) > 0)
        original = simulation.alleles[kept & first]
        known = masked.alleles >= 0
        np.testing.assert_array_equal(masked.alleles[known], original[known])
    assert np.mean(shares) == pytest.approx(2 / 3, abs=0.02)
    assert np.mean(missing) == pytest.approx(0.15, abs=0.03)
    assert min(missing) == 0
    assert max(missing) > 0.2


def test_like__misses_alleles_where_the_nearest_site_does(data):
    whole = dataclasses.replace(data, accessible=None)
    like = HaplotypeEncoder(snps=10, haplotypes=8, distance_scale=SCALE).like(whole)
    simulation = dataclasses.replace(whole, alleles=np.abs(whole.alleles))
    masked = like.mask(simulation, 50_000, np.random.default_rng(1))  # as long as the data: it fits in one place
    np.testing.assert_array_equal(masked.alleles == -1, whole.alleles == -1)


def test_like__is_a_function_of_its_generator_and_leaves_the_encoder_as_it_is(data, simulation):
    encoder = HaplotypeEncoder(snps=10, haplotypes=8, distance_scale=SCALE)
    like = encoder.like(data)
    one, other = (like.encode(simulation, rng=np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (one != encoder.encode(simulation)).any()
    assert like.as_dict() == encoder.as_dict()
    assert like.shape == encoder.shape
    assert like.digest() == encoder.like(data).digest() != encoder.like(data.slice(0, 50_000)).digest()
    with pytest.raises(ValueError, match="needs rng"):
        like.encode(simulation)
    with pytest.raises(ValueError, match="no accessible place of the data has 5,000 bp before"):
        encoder.like(data.slice(0, 9_000)).encode(simulation, rng=np.random.default_rng(4))


def test_like__data_of_more_and_of_fewer_haplotypes(data, simulation):
    encoder = HaplotypeEncoder(snps=10, haplotypes=4, distance_scale=SCALE)
    for like in (encoder.like(data), encoder.like(data.take_haplotypes([0, 1, 2]))):
        small = simulation.take_haplotypes(range(4))
        masks = [like.mask(small, 5000, np.random.default_rng(seed)).alleles == -1 for seed in range(30)]
        assert 0.05 < np.mean(np.concatenate(masks)) < 0.25


def test_example__is_told_by_its_encoder():
    assert simulator_example.encoder_of(simulator_example.SNPS).shape == simulator_example.INPUT_SHAPE
    data, label = hotspots.simulator(np.random.default_rng(1))
    assert data.shape == hotspots.encoder.shape
    assert label.shape == simulator_example.OUTPUT_SHAPE == (len(hotspots.classes),)
