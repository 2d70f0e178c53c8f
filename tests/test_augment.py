"""Augmentations: what they change and what they leave, how often, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from definetti_np import augment
from definetti_np.augment import augment_rows
from definetti_np.multiset import distinct_rows, merge_rows

SEEDS = st.integers(0, 2**32 - 1)
CHANNELS = 2


@st.composite
def datasets(draw):
    """Distinct rows (U, W, 2) of alleles and distances, with their counts."""
    rng = np.random.default_rng(draw(SEEDS))
    rows, positions = draw(st.integers(1, 30)), draw(st.integers(1, 8))
    alleles = rng.integers(2, size=(rows, positions))
    distances = np.append(rng.random(positions - 1), 0)
    data = np.stack([alleles, np.broadcast_to(distances, alleles.shape)], axis=2)
    return distinct_rows(data.astype(np.float32))


def expand(rows, counts):
    return np.repeat(rows, counts, axis=0)


AUGMENTATIONS = {
    "genotype_errors": augment.genotype_errors(0.1),
    "range": augment.genotype_errors((0, 0.2)),
    "switch_errors": augment.switch_errors(0.2),
    "mirror": augment.mirror(),
    "subsample": augment.subsample(1),
    "compose": augment.compose(augment.mirror(), augment.genotype_errors(0.2), augment.switch_errors((0.1, 0.3))),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(dataset=datasets(), seed=SEEDS)
def test_augmentations__give_canonical_rows_of_the_same_shape_from_the_generator_alone(name, dataset, seed):
    rows, counts = dataset
    before = rows.tobytes(), counts.tobytes()
    first, second = (augment_rows(AUGMENTATIONS[name], rows, counts, np.random.default_rng(seed)) for _ in range(2))
    assert [array.tobytes() for array in first] == [array.tobytes() for array in second]
    assert before == (rows.tobytes(), counts.tobytes())
    assert first[0].dtype == rows.dtype
    again = distinct_rows(expand(*first))
    assert [array.tobytes() for array in first] == [array.tobytes() for array in again]
    assert first[1].sum() == (1 if name == "subsample" else counts.sum())


@given(datasets(), SEEDS)
def test_merge_rows__is_distinct_rows_of_what_is_counted(dataset, seed):
    rows, counts = dataset
    order = np.random.default_rng(seed).permutation(2 * len(rows))
    twice, of_both = np.concatenate([rows, rows])[order], np.concatenate([counts, counts + 1])[order]
    merged = merge_rows(twice, of_both)
    expected = distinct_rows(expand(twice, of_both))
    assert [array.tobytes() for array in merged] == [array.tobytes() for array in expected]
    assert not np.signbit(merge_rows(-rows, counts)[0][..., 1][..., -1:]).any(), "-0.0 is 0.0"


@given(datasets(), SEEDS)
def test_errors__of_rate_0_change_nothing_and_of_rate_1_everything(dataset, seed):
    rows, counts = dataset
    rng = np.random.default_rng(seed)
    for make in (augment.genotype_errors, augment.switch_errors):
        same = augment_rows(make(0), rows, counts, rng)
        assert [array.tobytes() for array in same] == [rows.tobytes(), counts.tobytes()]
    flipped = augment_rows(augment.genotype_errors(1), rows, counts, rng)
    opposite = np.stack([1 - rows[..., 0], rows[..., 1]], axis=2)
    assert [array.tobytes() for array in flipped] == [array.tobytes() for array in merge_rows(opposite, counts)]


@given(datasets(), SEEDS, st.floats(0, 1))
def test_switch_errors__keep_how_often_each_allele_occurs(dataset, seed, rate):
    rows, counts = dataset
    new_rows, new_counts = augment_rows(augment.switch_errors(rate), rows, counts, np.random.default_rng(seed))
    np.testing.assert_array_equal(
        np.average(new_rows, axis=0, weights=new_counts), np.average(rows, axis=0, weights=counts)
    )
    np.testing.assert_array_equal(new_rows[..., 1], np.broadcast_to(rows[0, :, 1], new_rows.shape[:2]))


def test_switch_errors__of_one_individual_at_every_gap():
    rows = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.float32)[..., np.newaxis]
    new_rows, _ = augment_rows(augment.switch_errors(1), rows, np.array([1, 1]), np.random.default_rng(1))
    assert new_rows[..., 0].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_switch_errors__of_three_rows_leave_one_alone():
    rows = np.arange(3, dtype=np.float32)[:, np.newaxis, np.newaxis] * np.ones((1, 2, 1), np.float32)
    alone = set()
    for seed in range(50):
        new_rows, _ = augment_rows(augment.switch_errors(1), rows, np.ones(3, int), np.random.default_rng(seed))
        (same,) = [row[0] for row in new_rows[..., 0].tolist() if row[0] == row[1]]
        alone.add(same)
    assert alone == {0, 1, 2}


@pytest.mark.parametrize(("rate", "mean"), [(0.01, 0.01), ((0, 0.04), 0.02)])
def test_genotype_errors__come_at_their_rate_in_every_row_and_position(rate, mean):
    rng = np.random.default_rng(1)
    rows, counts = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 0]], np.float32)[..., np.newaxis], np.array([900, 50, 50])
    times = 400
    differ = np.zeros(3)
    for _ in range(times):
        new_rows, new_counts = augment_rows(augment.genotype_errors(rate), rows, counts, rng)
        differ += np.abs(np.average(new_rows[..., 0], axis=0, weights=new_counts) - [0.05, 0, 0.9])
    # A flip of a 0 and one of a 1 cancel out in a mean, so errors are 1 - 2f of it.
    np.testing.assert_allclose(differ / times / np.array([0.9, 1, 0.8]), mean, rtol=0.1)


def test_genotype_errors__leave_missing_alleles_alone():
    rows, counts = np.array([[-1, 0.5, 0]], np.float32)[..., np.newaxis], np.array([10])
    new_rows, new_counts = augment_rows(augment.genotype_errors(1), rows, counts, np.random.default_rng(1))
    assert new_rows[0, :, 0].tolist() == [-1, 0.5, 1]
    assert new_counts.tolist() == [10]


def test_genotype_errors__in_a_channel_of_choice():
    rows, counts = np.zeros((1, 2, 2), np.float32), np.array([3])
    new_rows, _ = augment_rows(augment.genotype_errors(1, channel=1), rows, counts, np.random.default_rng(1))
    assert new_rows.tolist() == [[[0, 1], [0, 1]]]


def test_genotype_errors__of_a_range_differ_from_dataset_to_dataset():
    rows, counts = np.zeros((1, 10, 1), np.float32), np.array([1000])
    rng, shares = np.random.default_rng(1), []
    for _ in range(200):
        new = augment_rows(augment.genotype_errors((0.1, 0.3)), rows, counts, rng)
        shares.append(np.average(new[0], axis=0, weights=new[1]).mean())
    assert 0.095 < min(shares) < 0.12
    assert 0.28 < max(shares) < 0.305


@given(datasets(), SEEDS)
def test_mirror__twice_is_the_identity_and_keeps_distances(dataset, seed):
    rows, counts = dataset
    rng, always = np.random.default_rng(seed), augment.mirror(probability=1)
    once = augment_rows(always, rows, counts, rng)
    np.testing.assert_array_equal(once[0][0, :-1, 1], rows[0, -2::-1, 1][: rows.shape[1] - 1])
    assert once[0][0, -1, 1] == 0
    twice = augment_rows(always, *once, rng)
    assert [array.tobytes() for array in twice] == [rows.tobytes(), counts.tobytes()]


def test_mirror__half_of_the_time_and_without_distances():
    rows, counts = np.array([[[1, 5], [2, 6], [3, 7]]], np.float32), np.array([1])
    rng = np.random.default_rng(1)
    seen = [augment.mirror(distances=None)(rows, counts, rng)[0][0].tolist() for _ in range(100)]
    assert 30 < sum(new == rows[0].tolist() for new in seen) < 70
    assert [[3, 7], [2, 6], [1, 5]] in seen
    both = augment.mirror(distances=(0, 1), probability=1)(rows, counts, rng)[0][0]
    assert both.tolist() == [[2, 6], [1, 5], [0, 0]]


def test_subsample__draws_without_replacement():
    rows, counts = np.arange(3, dtype=np.float32).reshape(3, 1, 1), np.array([1, 5, 94])
    rng, totals = np.random.default_rng(1), np.zeros(3)
    for _ in range(500):
        new_rows, new_counts = augment_rows(augment.subsample(20), rows, counts, rng)
        assert new_counts.sum() == 20
        totals[new_rows[:, 0, 0].astype(int)] += new_counts
        assert (new_counts <= counts[new_rows[:, 0, 0].astype(int)]).all()
    np.testing.assert_allclose(totals / 500, counts * 0.2, atol=0.1)
    everything = augment_rows(augment.subsample(100), rows, counts, rng)
    assert [array.tobytes() for array in everything] == [array.tobytes() for array in merge_rows(rows, counts)]


def test_augmentations__say_how_they_were_made():
    text = "compose(mirror(distances=(1,), probability=0.5), genotype_errors(rate=(0.001, 0.001), channel=0))"
    assert repr(augment.compose(augment.mirror(), augment.genotype_errors(0.001))) == text
    assert repr(augment.switch_errors((0, 0.1))) == "switch_errors(rate=(0.0, 0.1))"
    assert augment.subsample(3) == augment.subsample(3) != augment.subsample(4)


ROWS, COUNTS = np.zeros((2, 3, 2), np.float32) + np.arange(2)[:, None, None].astype(np.float32), np.array([2, 1])
BAD = {
    "no tuple": (lambda rows, counts, rng: rows, TypeError, r"augment must return a tuple \(rows, counts\), got"),
    "fewer channels": (lambda rows, counts, rng: (rows[..., :1], counts), ValueError, r"W and C as they were, \(3, 2\); got shape \(2, 3, 1\)"),
    "text": (lambda rows, counts, rng: (rows.astype(str), counts), ValueError, "of <U"),
    "too few counts": (lambda rows, counts, rng: (rows, counts[:1]), ValueError, r"a count for each of its 2 rows|integer count for each of its 2 rows"),
    "no rows": (lambda rows, counts, rng: (rows[:0], counts[:0]), ValueError, "one row at least"),
    "counts no integers": (lambda rows, counts, rng: (rows, counts / 2), ValueError, "integer count .* of float64"),
    "negative": (lambda rows, counts, rng: (rows, -counts), ValueError, "positive counts, got -2; leave out rows that are gone"),
    "zero": (lambda rows, counts, rng: (rows, counts * 0), ValueError, "positive counts, got 0"),
    "NaN": (lambda rows, counts, rng: (rows * np.nan, counts), ValueError, "finite rows, got nan"),
    "in place": (lambda rows, counts, rng: rows.sort(), ValueError, "read-only"),
    "too many": (augment.subsample(4), ValueError, "subsample: n=4 rows of a dataset of 3"),
    "channel": (augment.genotype_errors(0.1, channel=2), ValueError, "genotype_errors: there are 2 channels, from 0 on, got channel 2"),
    "distances": (augment.mirror(2), ValueError, "mirror: distances: there are 2 channels"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_augmentations__that_return_something_else(name):
    augmentation, error, message = BAD[name]
    with pytest.raises(error, match=message):
        augment_rows(augmentation, ROWS, COUNTS, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: augment.genotype_errors(-0.1), ValueError, r"genotype_errors: rate must lie between 0 and 1, .* got -0.1"),
        (lambda: augment.genotype_errors((0.2, 0.1)), ValueError, r"low before high, got \(0.2, 0.1\)"),
        (lambda: augment.genotype_errors("0.1"), TypeError, r"must be a probability, or \(low, high\), got '0.1'"),
        (lambda: augment.switch_errors(1.5), ValueError, r"switch_errors: rate must lie between 0 and 1"),
        (lambda: augment.switch_errors((0, 0, 1)), TypeError, r"got \(0, 0, 1\)"),
        (lambda: augment.mirror(-1), ValueError, "mirror: distances must be at least 0"),
        (lambda: augment.mirror(probability=2), ValueError, "mirror: probability must lie between 0 and 1"),
        (lambda: augment.subsample(0), ValueError, "subsample: n must be at least 1, got 0"),
        (lambda: augment.compose(augment.mirror(), 3), TypeError, r"compose: argument 1 must be a function .* got 3"),
    ],
)  # fmt: skip
def test_augmentations__mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()
