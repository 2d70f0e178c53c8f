"""Count what Python does in one training step of the hotspot network, between the kernels.

    python benchmarks/step_calls.py --threads 2

Calls of Python functions in our files, how often a call is in another file than the call before, Tensors that are
made and those that only reshape, calls of kernels, and the least time of a step outside of the compiled loops.
"""

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

from common import HOTSPOT, hotspot_batches, save, show_machine

import definetti_np
from definetti_np import MultisetBatch, Network, Trainer
from definetti_np.engine import tensor
from definetti_np.kernels import _jit

PACKAGE = Path(definetti_np.__file__).parent
FOLDERS = tuple(f"{folder}{os.sep}" for folder in (PACKAGE, (PACKAGE / "kernels").resolve()))  # a link in a checkout


def count_calls(step) -> dict:
    """Calls in our files, and changes of file from one to the next; kernels are a folder of ours."""
    counts, last = Counter(), None

    def notice(frame, event, argument):
        nonlocal last
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(FOLDERS):
            counts["calls"] += 1
            counts["changes of file"] += file != last
            last = file

    sys.setprofile(notice)
    try:
        step()
    finally:
        sys.setprofile(None)
    return dict(counts)


def count_tensors(step) -> dict:
    """Tensors that a step makes, and those that hold the numbers of their only parent in another shape."""
    made, initialise = [], tensor.Tensor.__init__

    def notice(self, array, parents=(), *arguments, **options):
        initialise(self, array, parents, *arguments, **options)
        made.append(len(parents) == 1 and parents[0].array.size == array.size and array.base is not None)

    tensor.Tensor.__init__ = notice
    try:
        step()
    finally:
        tensor.Tensor.__init__ = initialise
    return {"Tensors": len(made), "Tensors that only reshape": sum(made)}


def time_python(step, steps: int) -> dict:
    """The least milliseconds of a step, and of a step outside of the compiled loops."""
    loops = {parallel: _jit._loop(parallel) for parallel in (False, True)}
    inside, kernels = 0.0, 0

    def timed(parallel):
        def loop(*arguments):
            nonlocal inside, kernels
            start = time.perf_counter()
            loops[parallel](*arguments)
            inside += time.perf_counter() - start
            kernels += 1

        return loop

    find, timed_loops = _jit._loop, {parallel: timed(parallel) for parallel in loops}
    _jit._loop = timed_loops.get
    totals, outside = [], []
    try:
        for _ in range(steps):
            inside, kernels = 0.0, 0
            start = time.perf_counter()
            step()
            totals.append(time.perf_counter() - start)
            outside.append(totals[-1] - inside)
    finally:
        _jit._loop = find
    return {"kernels": kernels, "step, ms": 1e3 * min(totals), "Python, ms": 1e3 * min(outside)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of the step (default 2)")
    parser.add_argument("--steps", type=int, default=300, help="steps to take the least time of (default 300)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    (data,), (labels,) = hotspot_batches(1, seed=1)
    batch, trainer = MultisetBatch.from_datasets(data), Trainer(Network(**HOTSPOT, seed=1), threads=options.threads)

    def step():
        trainer.step(batch, labels)

    for _ in range(5):
        step()  # compiles kernels, and makes the workspace large enough
    results = count_calls(step) | count_tensors(step) | time_python(step, options.steps)
    for name, value in results.items():
        print(f"{name:<28} {value:.3f}" if isinstance(value, float) else f"{name:<28} {value}")
    save(options.json, results)


if __name__ == "__main__":
    main()
