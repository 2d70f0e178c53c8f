"""Examples are functions of (seed, index), and every one is checked."""

import functools
import random

import numpy as np
import pytest

from definetti_np import SimulatorError, simulate_example
from definetti_np.simulation.source import ExampleSource, takes_generator
from definetti_np.simulation.stream import SerialStream, StreamSettings
from definetti_np.specs import network_spec

SPEC = network_spec((4, 3), (2,), [("fc", 5)], ("max",), [("softmax",)])
LABEL = np.array([0.0, 1])


def with_generator(rng):
    return rng.integers(0, 2, (4, 3)), rng.permutation(LABEL)


def without_generator():
    return np.random.randint(0, 2, (4, 3)), np.array([random.random() < 0.5, 0]) @ [[1, -1], [0, 0]] + [0, 1]


def source_of(simulator, seed=1, spec=SPEC, loss="cross-ent"):
    return ExampleSource(simulator, seed, spec, loss)


@pytest.mark.parametrize("simulator", [with_generator, without_generator, lambda: without_generator()])
def test_simulate_example__is_a_function_of_seed_and_index(simulator):
    first, again = (simulate_example(simulator, seed=3, index=17) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    shown = {simulate_example(simulator, seed=s, index=i)[0].tobytes() for s in (3, 4) for i in range(20)}
    assert len(shown) > 35


def test_simulate_example__leaves_the_global_generators_alone():
    np.random.seed(1)
    random.seed(1)
    expected = np.random.random(), random.random()
    np.random.seed(1)
    random.seed(1)
    simulate_example(without_generator, seed=1, index=0)
    assert (np.random.random(), random.random()) == expected


def test_takes_generator__by_the_parameters():
    assert takes_generator(with_generator)
    assert takes_generator(lambda rng=None: None)
    assert takes_generator(functools.partial(lambda scale, rng: None, 3))
    assert takes_generator(functools.partial(lambda theta, rng: None, theta=0.5)) == "rng"
    assert takes_generator(functools.partial(lambda theta, rng, n=3: None, theta=0.5, n=4)) == "rng"
    assert takes_generator(functools.partial(lambda rng, theta: None, theta=0.5)) is True
    assert takes_generator(lambda scale=3, *, rng=None: None) == "rng"
    assert not takes_generator(without_generator)
    assert not takes_generator(lambda scale=3: None)
    assert not takes_generator(lambda *arguments: None)
    by_name = functools.partial(lambda theta, generator: None, theta=0.5)
    for bad in (lambda a, b: None, lambda *, scale: None, lambda a, *, rng: None, by_name):
        with pytest.raises(TypeError, match="simulator must take no argument or one"):
            takes_generator(bad)


def test_simulate_example__gives_the_generator_by_name():
    by_name = functools.partial(lambda scale, rng: scale * rng.random(), scale=2)
    assert simulate_example(by_name, seed=1, index=2) == 2 * simulate_example(lambda rng: rng.random(), seed=1, index=2)


def test_source__the_generator_is_the_documented_one():
    seeds = []
    source_of(lambda rng: (seeds.append(rng.random()), with_generator(rng))[1], seed=5).example(9)
    assert seeds == [np.random.default_rng(np.random.SeedSequence(5, spawn_key=(9,))).random()]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, r"it must return a tuple \(data, label\), got NoneType"),
        ([np.zeros((4, 3)), LABEL], "got list"),
        ((np.zeros((4, 3)), LABEL, 1), "got a tuple of 3"),
        (([[0.0] * 3] * 4, LABEL), "data must be a NumPy array of numbers, got list"),
        ((np.zeros((4, 3)), [0, 1]), "label must be a NumPy array of numbers, got list"),
        ((np.zeros((4, 3), object), LABEL), "data must be a NumPy array of numbers, got an array of object"),
        ((np.zeros((4, 3), complex), LABEL), "data must be a NumPy array of numbers, got an array of complex128"),
        ((np.zeros((4, 3, 2)), LABEL), r"data of shape \(4, 3, 2\), input_shape is \(4, 3\)"),
        ((np.zeros((5, 3)), LABEL), r"data of shape \(5, 3\), input_shape is \(4, 3\)"),
        ((np.zeros((4, 3)), np.ones(3)), r"label of shape \(3,\), output_shape is \(2,\)"),
        ((np.full((4, 3), np.nan), LABEL), r"data must be finite in float32, got nan at index \[0, 0\]"),
        ((np.full((4, 3), 1e39), LABEL), r"data must be finite in float32, got 1e\+39"),
        ((np.zeros((4, 3)), np.array([np.inf, 0])), r"label must be finite in float32, got inf at index \[0\]"),
        ((np.zeros((4, 3)), np.array([1.0, 1])), r"label must be a probability distribution .*, got \[1. 1.\]"),
        ((np.zeros((4, 3)), np.array([2.0, -1])), "label must be a probability distribution"),
    ],
)
def test_source__what_a_simulator_must_not_return(result, message):
    with pytest.raises(SimulatorError, match=message) as caught:
        source_of(lambda: result, seed=7).example(3)
    assert "example 3 of seed 7: the simulator returned something unusable" in str(caught.value)
    assert "definetti_np.simulate_example(simulator, seed=7, index=3)" in str(caught.value)


def test_source__labels_of_l2_are_any_numbers():
    spec = network_spec((4, 3), (2,), [], ("max",), [("matmul",)])
    example = source_of(lambda: (np.zeros((4, 3)), np.array([5.0, -1])), spec=spec, loss="l2").example(0)
    assert example.label.tolist() == [5, -1]


def test_source__any_number_of_rows_but_enough_for_top_k():
    spec = network_spec((None, 3), (2,), [], ("top_k", 2), [("softmax",)])
    assert source_of(lambda: (np.zeros((7, 3)), LABEL), spec=spec).example(0).counts.tolist() == [7]
    with pytest.raises(
        SimulatorError, match=r"data of 1 rows: top_k needs 1 <= k <= 1 \(the number of rows\), got k=2"
    ):
        source_of(lambda: (np.zeros((1, 3)), LABEL), spec=spec).example(0)
    with pytest.raises(SimulatorError, match=r"data of shape \(0, 3\), input_shape is \(None, 3\)"):
        source_of(lambda: (np.zeros((0, 3)), LABEL), spec=spec).example(0)


def test_source__a_simulator_that_raises_or_exits():
    def failing(rng):
        raise RuntimeError(f"no luck with {rng.integers(1)}")

    with pytest.raises(SimulatorError) as caught:
        source_of(failing, seed=7).example(3)
    assert "example 3 of seed 7: the simulator failed" in str(caught.value)
    assert "in failing" in str(caught.value), "the traceback"
    assert "RuntimeError: no luck with 0" in str(caught.value)
    assert "definetti_np.simulate_example(simulator, seed=7, index=3)" in str(caught.value)
    with pytest.raises(SimulatorError, match="SystemExit: 3"):
        source_of(lambda: exit(3)).example(0)


def test_source__an_array_that_the_simulator_uses_again_is_copied():
    buffer = np.zeros((4, 3), np.float32)

    def reusing(rng):
        buffer[:] = rng.random()
        return buffer, LABEL

    source = source_of(reusing)
    first = source.example(0)
    kept = first.rows.copy()
    source.example(1)
    np.testing.assert_array_equal(first.rows, kept)


def test_serial_stream__consecutive_examples():
    source = source_of(with_generator)
    with SerialStream(source, StreamSettings(0), range(4, 10)) as stream:
        batches = [stream.next_batch(3) for _ in range(2)]
    for i, (data, labels) in enumerate(batches):
        for j in range(3):
            example = source.example(4 + 3 * i + j)
            np.testing.assert_array_equal(data.slice(j, j + 1).rows, example.rows)
            np.testing.assert_array_equal(labels[j], example.label)
