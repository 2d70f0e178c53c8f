"""Where the time of a training step of the hotspot network goes, by phase and by kernel.

    python benchmarks/step_profile.py --threads 1 2 --json profile.json

The clock is read around every call of a kernel, and around the phases: a layer's forward or backward, and what
is between them. What a phase takes beyond its kernels is Python.
"""

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path

from common import HOTSPOT, hotspot_batches, save, show_machine
from peers import OURS, Job, Ours
from processes import in_processes

# What a kernel does, by words in its name; the first one that fits.
GROUPS = {
    "loss": ("softmax", "entropy", "squared"),  # before "max"
    "windows": ("find_windows", "gather_windows"),
    "rows": ("row",),
    "products": ("conv", "pack", "weight", "backward_values", "scatter", "add_parts", "transpose"),
    "pooling": ("max", "top_k", "winner", "moments"),
    "Adam": ("adam",),
    "masks": ("mask", "places"),
}


def group_of(kernel: str) -> str:
    return next((group for group, words in GROUPS.items() if any(word in kernel for word in words)), "other")


class Profile:
    """Steps of ours with a clock in every kernel and phase."""

    def __init__(self, job: Job, form: str, threads: int):
        self.job, self.ours = job, Ours(job, form, threads)
        for _ in range(3):
            self.ours.step(0)  # compiles kernels, and makes the workspace large enough
        self.phases = ["step"]  # those that are under way
        self.in_phase, self.in_kernel = Counter(), defaultdict(Counter)
        self.wind_around_everything()

    def wind_around_everything(self):
        from definetti_np import layers, network, ops, trainer
        from definetti_np.kernels._jit import Kernel

        run = Kernel.__call__

        def timed_kernel(kernel, *arguments):
            start = time.perf_counter()
            run(kernel, *arguments)
            self.in_kernel[self.phases[-1]][kernel.function.__name__.strip("_")] += time.perf_counter() - start

        def timed_layer(apply):
            def call(layer, x):
                out = self.timed(f"forward {layer.name}", apply)(layer, x)
                self.wind_around_backward(getattr(out, "values", out), f"backward {layer.name}")
                return out

            return call

        def timed_pooling(pool):
            def call(*arguments):
                pooled = self.timed("forward pooling", pool)(*arguments)
                self.wind_around_backward(pooled, "backward pooling")
                return pooled

            return call

        Kernel.__call__ = timed_kernel
        for kind in (layers.Conv, layers.Dense):
            kind.__call__ = timed_layer(kind.__call__)
        ops.top_k, ops.moments = timed_pooling(ops.top_k), timed_pooling(ops.moments)
        network.Network.as_batch = self.timed("assemble", network.Network.as_batch)
        network.Network.forward = self.timed("forward, between layers", network.Network.forward)
        trainer.backpropagate = self.timed("backward, between layers", trainer.backpropagate)
        trainer.Adam.step = self.timed("Adam", trainer.Adam.step)

    def wind_around_backward(self, tensor, phase: str) -> None:
        if tensor.backward is not None:
            tensor.backward = self.timed(phase, tensor.backward)

    def timed(self, phase: str, function):
        """The function, its time booked for the phase and taken from the phase that calls it."""

        def call(*arguments, **options):
            self.phases.append(phase)
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds = time.perf_counter() - start
                self.phases.pop()
                self.in_phase[phase] += seconds
                self.in_phase[self.phases[-1]] -= seconds

        return call

    def run(self, steps: int) -> tuple[float, dict, dict]:
        """Milliseconds of a step, of each phase, and of each kernel in each phase."""
        self.in_phase.clear()
        self.in_kernel.clear()
        start = time.perf_counter()
        for step in range(steps):
            self.ours.step(step % len(self.job.data))
        total = time.perf_counter() - start
        self.in_phase["step"] += total
        scale = 1e3 / steps
        kernels = {phase: {k: s * scale for k, s in times.items()} for phase, times in self.in_kernel.items()}
        return total * scale, {phase: s * scale for phase, s in self.in_phase.items()}, kernels


def report(total: float, phases: dict, kernels: dict) -> dict:
    """Print the phases with their kernels; return the milliseconds of each group of kernels in each phase."""
    table = {}
    for phase, milliseconds in phases.items():
        times = Counter(kernels.get(phase, {}))
        table[phase] = Counter()
        for kernel, ms in times.items():
            table[phase][group_of(kernel)] += ms
        table[phase]["Python"] = milliseconds - sum(times.values())
        shown = ", ".join(f"{kernel} {ms:.2f}" for kernel, ms in times.most_common())
        share = f"{milliseconds:7.3f} ms {milliseconds / total:6.1%}"
        print(f"  {phase:<26} {share}  Python {table[phase]['Python']:.2f}, {shown}")
    groups = sum(table.values(), Counter())
    print("  by group: " + ", ".join(f"{group} {ms:.2f} ms ({ms / total:.0%})" for group, ms in groups.most_common()))
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--steps", type=int, default=200, help="steps to average over (default 200)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    job, results = Job.of(HOTSPOT, *hotspot_batches(4, seed=1)), []
    for threads in options.threads:
        for name, form in OURS.items():
            with in_processes({name: (Profile, job, form, threads)}, threads) as processes:
                total, phases, kernels = processes[name].ask("run", options.steps)
            print(f"\n{name}, {threads} thread(s): {total:.2f} ms a step")
            table = report(total, phases, kernels)
            results.append({"name": name, "threads": threads, "step": total, "phases": table})
    save(options.json, {"profiles": results})


if __name__ == "__main__":
    main()
