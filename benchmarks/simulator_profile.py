"""Where the example's simulator and a worker spend their time, and how much of it inside msprime and tskit.

    python benchmarks/simulator_profile.py --examples 1000 --json simulator.json

The clock is read around the calls that the simulator makes into msprime and tskit; a profiler would slow down Python,
but not msprime. A worker then finds the distinct rows of the data and lays them out as bytes.
"""

import argparse
import functools
import time
from collections import Counter
from pathlib import Path

import msprime
import tskit
from common import HOTSPOT, hotspot_simulator, save, show_machine

from definetti_np.simulation.messages import encode
from definetti_np.simulation.source import ExampleSource
from definetti_np.specs import network_spec

MSPRIME = (msprime, "sim_ancestry"), (msprime, "sim_mutations"), (msprime, "RateMap")
TSKIT = (tskit.TreeSequence, "variants"), (tskit.TreeSequence, "genotype_matrix"), (tskit.TreeSequence, "tables")
SIMULATOR = "the simulator"


class Clock:
    """Seconds by name, of functions that it has been wound around."""

    def __init__(self):
        self.seconds = Counter()

    def timed(self, name, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[name] += time.perf_counter() - start
            return self._timed_items(name, result) if hasattr(result, "__next__") else result

        return call

    def _timed_items(self, name, iterator):
        step = self.timed(name, lambda: next(iterator, None))
        return iter(step, None)

    def wind_around(self, owner, attribute: str) -> None:
        name, original = f"{owner.__name__.split('.')[-1]}.{attribute}", vars(owner)[attribute]
        if isinstance(original, property):
            setattr(owner, attribute, property(self.timed(name, original.fget)))
        else:
            setattr(owner, attribute, self.timed(name, original))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=1000, help="examples to simulate (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations (default 1)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    clock = Clock()
    simulator = hotspot_simulator()
    timed_simulator = clock.timed(SIMULATOR, lambda rng: simulator(rng))
    source = ExampleSource(lambda rng: timed_simulator(rng), options.seed, network_spec(**HOTSPOT), "cross-ent")
    source.example(0)  # the first one loads what is loaded late
    clock.seconds.clear()
    for owner, attribute in MSPRIME + TSKIT:
        clock.wind_around(owner, attribute)
    start = time.perf_counter()
    for index in range(options.examples):
        encode(index, source.example(index))
    total = time.perf_counter() - start

    whole = clock.seconds.pop(SIMULATOR)
    phases = dict(clock.seconds.most_common())
    phases["NumPy and Python of the simulator"] = whole - sum(phases.values())
    phases["checks, distinct rows, bytes (not the simulator)"] = total - whole
    milliseconds = {name: 1e3 * seconds / options.examples for name, seconds in phases.items()}
    for name, value in milliseconds.items():
        share = f"{phases[name] / whole:7.1%} of the simulator's time" if "not the" not in name else ""
        print(f"  {name:<50} {value:8.3f} ms {share}")
    in_msprime = sum(s for name, s in clock.seconds.items() if name.startswith("msprime")) / whole
    in_both = sum(clock.seconds.values()) / whole
    print(
        f"  {1e3 * whole / options.examples:.2f} ms per example: {in_msprime:.1%} in msprime, {in_both:.1%} with tskit"
    )
    save(options.json, {"milliseconds": milliseconds, "in msprime": in_msprime, "in msprime and tskit": in_both})


if __name__ == "__main__":
    main()
