"""Help for simulators that are written with msprime."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger("definetti_np")

__all__ = ["small_blocks"]

OBJECTS_PER_BLOCK = 8192  # msprime's own number is 65,536
BLOCKS = ("segment", "avl_node", "node_mapping")
TRIES = 20  # simulations, before it is judged whether small blocks are large enough
MOST_REPEATS = 0.1  # fraction of simulations that may need larger blocks


@functools.cache  # once a process
def small_blocks() -> bool:
    """Let msprime take less memory for each simulation in this process, which makes short ones faster; no bit changes.

    For each call, `msprime.sim_ancestry` prepares memory for 65,536 segments and as many other objects, of which the
    ancestry of a short region needs few, and to prepare it takes longer than to simulate. Afterwards it is memory for
    8,192. A simulation that needs more is done again with as much as before, and where that is frequent, all are.

    Call it once in the module of the simulator. What it replaces is private to msprime, so it compares the tree
    sequences of some simulations first. Where they differ or anything is not as expected, all stays as it was, and the
    log has a line of level DEBUG.

    Returns
    -------
    bool
        Whether msprime was changed.
    """
    try:
        from msprime import ancestry

        before = ancestry.Simulator
        changed = _with_small_blocks(before)
        simulations = _simulations_to_compare()
        wanted = [simulate() for simulate in simulations]
        ancestry.Simulator = changed
        try:
            found = [simulate() for simulate in simulations]
        except BaseException:
            ancestry.Simulator = before
            raise
        if changed.small < len(simulations) or not all(map(_are_equal, wanted, found)):
            ancestry.Simulator = before
            raise RuntimeError("tree sequences differ, or are not made with small blocks")
    except Exception as error:
        logger.debug("msprime stays as it is, small blocks cannot be used: %s: %s", type(error).__name__, error)
        return False
    return True


def _with_small_blocks(simulator: Any) -> Any:
    """A subclass of msprime's `Simulator` that asks for small blocks."""
    compiled: Any = simulator.__base__

    class SmallBlocks(compiled):
        """Stands between msprime's Python class and its class in C, and changes what the one asks of the other."""

        def __init__(self, **arguments: Any):
            for block in BLOCKS:
                name = f"{block}_block_size"
                arguments[name] = min(arguments[name], OBJECTS_PER_BLOCK)
            super().__init__(**arguments)

    class Simulator(simulator, SmallBlocks):
        """msprime's `Simulator`, which begins with small blocks where a call simulates once."""

        small = 0  # simulations with small blocks
        repeats = 0  # that were done again

        def __init__(self, **arguments: Any):
            self._arguments = arguments
            super().__init__(**arguments)

        def run_replicates(self, num_replicates: int, **arguments: Any) -> Iterator:
            """Simulate; with large blocks where a second block was needed, as its order in memory changes results."""
            if num_replicates == 1 and Simulator.repeats <= max(TRIES, Simulator.small) * MOST_REPEATS:
                Simulator.small += 1
                [tree_sequence] = super().run_replicates(1, **arguments)
                if all(getattr(self, f"num_{block}_blocks") == 1 for block in BLOCKS):
                    yield tree_sequence
                    return
                Simulator.repeats += 1
            yield from self._with_large_blocks().run_replicates(num_replicates, **arguments)

        def _with_large_blocks(self) -> Any:
            generator = self._arguments["random_generator"]
            return simulator(**self._arguments | {"random_generator": type(generator)(generator.seed)})

    return Simulator


def _simulations_to_compare() -> list:
    import msprime

    hot = msprime.RateMap(position=[0, 2e4, 2.2e4, 5e4], rate=[1e-8, 1e-6, 1e-8])
    kinds: list[dict[str, Any]] = [
        {"samples": 50, "population_size": 1e4, "recombination_rate": hot, "discrete_genome": False},
        {"samples": 3, "population_size": 1e4, "recombination_rate": 1e-8, "sequence_length": 2e4},
    ]
    return [functools.partial(msprime.sim_ancestry, **kind, random_seed=seed) for kind in kinds for seed in (1, 2, 3)]


def _are_equal(one: Any, other: Any) -> bool:
    return one.tables.equals(other.tables, ignore_provenance=True)
