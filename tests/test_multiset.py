"""Multisets: distinct rows in canonical order with their counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from definetti_np import MultisetBatch, Network
from definetti_np.multiset import as_rows, distinct_rows

DATASETS = arrays(
    np.float32,
    array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.one_of(st.integers(-2, 2), st.floats(-1, 1, width=32)),
)


@given(DATASETS)
def test_distinct_rows__with_their_counts_are_the_dataset(data):
    rows, counts = distinct_rows(data)
    assert sorted(row.tobytes() for row in np.repeat(rows, counts, axis=0)) == sorted(row.tobytes() for row in data)
    as_bytes = [row.tobytes() for row in rows]
    assert as_bytes == sorted(set(as_bytes)), "canonical order: distinct, sorted by their bytes"


@given(DATASETS, st.randoms(use_true_random=False))
def test_distinct_rows__do_not_depend_on_the_order(data, random):
    order = list(range(len(data)))
    random.shuffle(order)
    for array, permuted in zip(distinct_rows(data), distinct_rows(data[order]), strict=True):
        np.testing.assert_array_equal(array, permuted)


def test_as_rows__zeros_of_both_signs_are_equal():
    rows = as_rows(np.array([[0.0, 1], [-0.0, 1]]), "data")
    assert len(distinct_rows(rows)[0]) == 1


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float64, ">f4", ">i8"])
def test_as_rows__any_numbers_become_native_float32(dtype):
    data = np.array([[0, 1], [1, 0]], dtype)[::-1]
    rows = as_rows(data, "data")
    assert rows.dtype == np.float32
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows[:, :, 0], [[1, 0], [0, 1]])


def test_as_rows__copies():
    data = np.zeros((2, 3), np.float32)
    rows = as_rows(data, "data")
    data[:] = 7
    assert not rows.any()


def test_from_datasets__variable_numbers_of_rows():
    batch = MultisetBatch.from_datasets([np.ones((3, 2)), np.array([[1.0, 2], [0, 2], [1, 2]]), np.zeros((1, 2))])
    assert len(batch) == 3
    assert batch.rows.shape == (4, 2, 1)
    assert batch.offsets.tolist() == [0, 1, 3, 4]
    assert batch.dataset_sizes().tolist() == [3, 3, 1]
    part = batch.slice(1, 3)
    assert part.dataset_sizes().tolist() == [3, 1]
    np.testing.assert_array_equal(part.rows, batch.rows[1:])


def test_multiset_batch__inconsistent_arrays():
    rows, ones = np.zeros((2, 3, 1), np.float32), np.ones(2, np.int64)
    with pytest.raises(ValueError, match=r"takes rows \(U, W, C\)"):
        MultisetBatch(rows[0], ones, np.array([0, 2]))
    with pytest.raises(ValueError, match="offsets must rise from 0 to the 2 rows"):
        MultisetBatch(rows, ones, np.array([0, 2, 2]))
    with pytest.raises(ValueError, match="every count must be at least 1"):
        MultisetBatch(rows, ones * 0, np.array([0, 2]))


COUNTS = {
    "one too many": ([2**63 - 1, 1], "must add up to at most 9223372036854775807"),
    "twice 2**62": ([2**62, 2**62], "must add up to at most 9223372036854775807"),
    "many times over": ([2**63 - 1] * 2, "must add up to at most 9223372036854775807"),
    "beyond int64": (
        np.array([1, 2**63], np.uint64),
        r"counts must be integers below 2\*\*63, got 9223372036854775808",
    ),
    "beyond int64, as floats": ([1, 2.0**63], r"counts must be integers below 2\*\*63, got 9.2"),
    "a fraction": ([1, 1.5], r"counts must be integers below 2\*\*63, got 1.5"),
    "not a number": ([1, np.nan], r"counts must be integers below 2\*\*63, got nan"),
    "infinite": ([1, -np.inf], r"counts must be integers below 2\*\*63, got -inf"),
    "negative": ([1, -1], "every count must be at least 1"),
    "text": (["1", "2"], "counts must be integers, got an array of <U1"),
    "objects": ([1, 2**64], "counts must be integers, got an array of object"),
}


@pytest.mark.parametrize("case", COUNTS)
def test_multiset_batch__counts_that_are_none(case):
    counts, message = COUNTS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        MultisetBatch(np.zeros((2, 3, 1), np.float32), counts, [0, 2])


@pytest.mark.parametrize(
    "counts",
    [[2**63 - 2, 1], [2**62, 2**62 - 1], np.array([1, 2**63 - 2], np.uint64), [3.0, 1.0], np.ones(2, np.int8)],
    ids=str,
)
def test_multiset_batch__counts_that_can_be_held(counts):
    batch = MultisetBatch(np.zeros((2, 3, 1), np.float32), counts, np.array([0, 2], np.uint8))
    assert batch.counts.tolist() == [int(count) for count in counts]
    assert batch.dataset_sizes().tolist() == [sum(batch.counts.tolist())]


EXACT = {
    np.float32: [0, 1, -1, 2**24, -(2**24), 2**24 + 2, 3 * 2**40, -(2**63), 2**62],
    np.float64: [2**24 + 1, 2**53, -(2**53), 2**53 + 2, -(2**63), 2**62 + 2**20],
}
ROUNDED = {
    np.float32: [2**24 + 1, -(2**24) - 1, 2**53 + 1, 2**63 - 1, -(2**63) + 1, 2**62 + 1],
    np.float64: [2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63 - 512, -(2**63) + 1, 2**62 + 1],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_rows__integers_exactly_or_not_at_all(dtype):
    for integer in EXACT[dtype]:
        assert int(as_rows(np.array([[integer, 0]]), "data", dtype)[0, 0, 0]) == integer
    for integer in ROUNDED[dtype]:
        with pytest.raises(ValueError, match=rf"cannot represent exactly, such as {integer} at index \[0, 1\]"):
            as_rows(np.array([[0, integer]]), "data", dtype)
    for integer in (2**64 - 1, 2**63 + 1):
        with pytest.raises(ValueError, match="cannot represent exactly"):
            as_rows(np.array([[integer]], np.uint64), "data", dtype)
    assert as_rows(np.array([[2**63]], np.uint64), "data", dtype)[0, 0, 0] == 2**63


def test_network__integer_rows_exactly_or_not_at_all():
    network = Network((None, 1), (1,), [], ("max",), [("matmul",)], seed=1)
    batch = MultisetBatch(np.full((1, 1, 1), 2**24), [1], [0, 1])
    assert network(batch).tobytes() == network(np.full((1, 1, 1), 2.0**24)).tobytes()
    with pytest.raises(ValueError, match="data: rows holds integers that float32 cannot represent exactly"):
        network(MultisetBatch(np.full((1, 1, 1), 2**24 + 1), [1], [0, 1]))


def test_from_datasets__nothing():
    with pytest.raises(ValueError, match="at least one dataset"):
        MultisetBatch.from_datasets([])
