"""Simulators whose randomness is not that of the seed are found before training."""

import itertools
import random
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import msprime
import numba
import numpy as np
import pytest

from definetti_np import SimulatorError, train

SMALL = {
    "input_shape": (6, 3),
    "output_shape": (2,),
    "phi_net": [("fc", 4)],
    "h_net": [("softmax",)],
    "num_batches": 2,
    "batch_size": 24,
    "training_threads": 1,
    "logfile": None,
    "seed": 1,
}


def example(rng):
    return rng.standard_normal((6, 3)), np.eye(2)[rng.integers(2)]


def with_a_generator_of_its_own():
    own = np.random.default_rng(3)
    return lambda rng: example(own)


def with_a_legacy_generator_of_its_own():
    own = np.random.RandomState(3)
    return lambda rng: (own.standard_normal((6, 3)), np.eye(2)[own.randint(2)])


def with_numpy_random():
    return lambda rng: (np.random.standard_normal((6, 3)), np.eye(2)[rng.integers(2)])


def with_pythons_random():
    return lambda rng: (np.array([[random.gauss(0, 1)] * 3] * 6), np.eye(2)[rng.integers(2)])


def with_numbas_random():
    draw = numba.njit(lambda: np.random.standard_normal((6, 3)))
    draw()
    return lambda rng: (draw(), np.eye(2)[rng.integers(2)])


def with_msprime_that_has_no_seed():
    def simulate(rng):
        tree = msprime.sim_ancestry(3, population_size=1).first()
        return np.array([[tree.time(tree.parent(sample))] * 3 for sample in range(6)]), np.eye(2)[rng.integers(2)]

    return simulate


def with_the_time():
    return lambda rng: (np.full((6, 3), time.perf_counter() % 1), np.eye(2)[rng.integers(2)])


def with_memory():
    calls = itertools.count()
    return lambda rng: (rng.standard_normal((6, 3)) + next(calls), np.eye(2)[rng.integers(2)])


def with_a_failure_now_and_then():
    calls = itertools.count()

    def simulate(rng):
        if next(calls) % 25 == 24:
            raise ValueError("now and then")
        return example(rng)

    return simulate


FORK = get_context("fork")
SIMULATORS = [
    with_a_generator_of_its_own,
    with_a_legacy_generator_of_its_own,
    with_numpy_random,
    with_pythons_random,
    with_numbas_random,
    with_msprime_that_has_no_seed,
    with_the_time,
    with_memory,
]
WAYS = {"0": 0, "1": 1, "2": 2, "4": 4, "threads": lambda: ThreadPoolExecutor(2)}


def train_in(way, simulator, **options):
    if isinstance(way, int):
        return train(simulator=simulator, sim_threads=way, **{**SMALL, **options})
    with way() as executor:
        return train(simulator=simulator, executor=executor, **{**SMALL, **options})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_train__says_that_randomness_is_not_the_seeds(simulator, way):
    """Where processes draw the same numbers it does not even begin."""
    with (
        pytest.raises(SimulatorError, match=r"another one when it is simulated again.*generator that was made outside")
        if simulator is with_a_generator_of_its_own and way in ("2", "4")
        else pytest.warns(
            UserWarning, match=r"^example 0 of seed 1 is another one(.|\n)*generator that was made outside"
        )
        if simulator not in (with_a_legacy_generator_of_its_own, with_numpy_random, with_pythons_random)
        else pytest.raises((SimulatorError, UserWarning), match="another one when it is simulated again")
    ):
        train_in(WAYS[way], simulator())


def test_train__a_failure_that_does_not_repeat_is_randomness_too():
    with pytest.warns(UserWarning, match="example 0 of seed 1 is another one"):
        train_in(0, with_a_failure_now_and_then(), num_batches=1)


def own(rng, generator=np.random.default_rng(3)):  # noqa: B008, it is the mistake
    return example(generator)


def test_train__says_so_with_processes_of_an_executor():
    with pytest.raises((SimulatorError, UserWarning), match="another one when it is simulated again"):
        train_in(lambda: ProcessPoolExecutor(2, mp_context=FORK), own)


@pytest.mark.parametrize("way", WAYS)
def test_train__ends_if_all_examples_are_equal(way):
    with pytest.raises(SimulatorError, match=r"examples 0 to 23 of seed 1 are all equal.*check_randomness=False"):
        train_in(WAYS[way], lambda rng: example(np.random.default_rng(1)))


def test_train__warns_of_a_constant():
    with pytest.warns(UserWarning, match=r"examples 0 to 23 of seed 1 are all equal.*check_randomness=False"):
        train_in(0, lambda: (np.ones((6, 3)), np.eye(2)[0]))


@pytest.mark.parametrize("way", WAYS)
def test_train__is_silent_about_good_simulators_and_when_told_to_be(way):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_in(WAYS[way], example)
        train_in(WAYS[way], lambda rng: (np.round(rng.random((6, 3))), np.eye(2)[rng.integers(2)]))  # a few are equal
        train_in(WAYS[way], with_the_time(), check_randomness=False)
        train_in(WAYS[way], lambda rng: example(np.random.default_rng(1)), check_randomness=False)
        warnings.filterwarnings("ignore", "example .* is another one")
        train_in(WAYS[way], with_the_time())


def test_train__costs_two_examples():
    calls = []

    def simulate(rng):
        calls.append(rng.bit_generator.seed_seq.spawn_key[0])
        return example(rng)

    train_in(0, simulate, num_batches=1)
    assert calls == [*range(24), 0, 1]
    train_in(0, simulate, num_batches=3, batch_size=1)
    assert calls[26:] == [0, 0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_train__looks_at_workers_that_simulate_one_example_each(workers):
    train_in(workers, example, worker_max_examples=1, batch_size=4, num_batches=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_train__gives_no_argument_the_same_numbers_whatever_bit_generator_numpy_has(workers):
    def simulate():
        return np.random.standard_normal((6, 3)), np.eye(2)[np.random.randint(2)]

    expected = train_in(0, simulate).network.flat.weights
    before, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
    other = np.random.PCG64(5)
    np.random.set_bit_generator(other)
    try:
        np.random.standard_normal()
        then = other.state
        model = train_in(workers, simulate)
        assert np.random.get_bit_generator() is other
        assert other.state == then
    finally:
        np.random.set_bit_generator(before)
        np.random.set_state(state)
    np.testing.assert_array_equal(model.network.flat.weights, expected)
