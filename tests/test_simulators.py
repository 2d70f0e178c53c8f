"""Help for simulators with msprime: it makes them faster, and changes no bit."""

import logging
import subprocess
import sys

import msprime
import pytest
from msprime import ancestry

from definetti_np import simulators

BEFORE = ancestry.Simulator


@pytest.fixture
def changed(monkeypatch):
    """msprime with small blocks, for one test."""
    monkeypatch.setattr(ancestry, "Simulator", simulators._with_small_blocks(msprime_as_it_comes()))
    return ancestry.Simulator


def msprime_as_it_comes():
    return next(kind for kind in BEFORE.__mro__ if kind.__module__ == "msprime.ancestry")


@pytest.fixture
def not_yet(monkeypatch):
    """msprime as it comes, and a `small_blocks` that was not called."""
    monkeypatch.setattr(ancestry, "Simulator", msprime_as_it_comes())
    return simulators.small_blocks.__wrapped__


def simulate(**options):
    return msprime.sim_ancestry(**{"population_size": 1e4, "recombination_rate": 1e-8, **options})


SWEEP = msprime.SweepGenicSelection(position=5e4, start_frequency=1e-4, end_frequency=0.9999, s=0.2, dt=1e-6)
SMC = msprime.SmcApproxCoalescent(duration=100)
KINDS = {
    "the example": {"samples": 198, "ploidy": 1, "sequence_length": 52_000, "discrete_genome": False},
    "many samples": {"samples": 6000, "sequence_length": 1000},
    "a long region": {"samples": 200, "sequence_length": 3_000_000},
    "two models": {
        "samples": 20,
        "sequence_length": 1e5,
        "model": [msprime.SmcApproxCoalescent(duration=100), "hudson"],
    },
    "a sweep": {"samples": 20, "sequence_length": 1e5, "model": [SWEEP, "hudson"]},  # which needs two blocks anyway
}
NEED_MORE = {"many samples", "a long region", "a sweep"}


def all_equal(one, other):
    return all(a.tables.equals(b.tables, ignore_timestamps=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_small_blocks__change_no_bit(kind, changed, monkeypatch):
    seeds = range(1, 4)
    found = [simulate(**KINDS[kind], random_seed=seed) for seed in seeds]
    assert (changed.small, changed.repeats > 0) == (3, kind in NEED_MORE)
    monkeypatch.setattr(ancestry, "Simulator", msprime_as_it_comes())
    assert all_equal(found, [simulate(**KINDS[kind], random_seed=seed) for seed in seeds])


def test_small_blocks__leave_replicates_alone(changed, monkeypatch):
    options = {**KINDS["the example"], "num_replicates": 3, "random_seed": 5}
    found = list(simulate(**options))
    assert changed.small == 0
    monkeypatch.setattr(ancestry, "Simulator", msprime_as_it_comes())
    assert all_equal(found, list(simulate(**options)))


def test_small_blocks__are_given_up_where_they_are_too_small(changed):
    for seed in range(1, 9):
        simulate(samples=6000, sequence_length=100, random_seed=seed)
    assert (changed.small, changed.repeats) == (3, 3), "then they are not tried any more"


def test_small_blocks__are_tested_before_they_are_used(not_yet, caplog):
    caplog.set_level(logging.DEBUG, "definetti_np")
    assert not_yet() is True
    assert ancestry.Simulator is not msprime_as_it_comes()
    assert not caplog.records


class Renamed(msprime_as_it_comes()):
    """Another msprime: its `Simulator` stands on a class that knows no blocks."""


@pytest.mark.parametrize("change", ["another class", "other results", "no module"])
def test_small_blocks__where_anything_is_unexpected_all_stays_as_it_was(change, not_yet, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "definetti_np")
    if change == "another class":
        monkeypatch.setattr(ancestry, "Simulator", Renamed)
    elif change == "other results":
        seeds = iter(range(1, 100))
        kinds = [lambda: simulate(**KINDS["the example"], random_seed=next(seeds))]
        monkeypatch.setattr(simulators, "_simulations_to_compare", lambda: kinds)
    else:
        monkeypatch.delattr(ancestry, "Simulator")
    before = getattr(ancestry, "Simulator", None)
    assert not_yet() is False
    assert getattr(ancestry, "Simulator", None) is before
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "msprime stays as it is" in caplog.text


def test_small_blocks__is_called_once_a_process():
    program = """
from msprime import ancestry
from definetti_np.simulators import small_blocks
before = ancestry.Simulator
assert small_blocks() and small_blocks()
assert ancestry.Simulator.__bases__[0] is before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
