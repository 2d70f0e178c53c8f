"""Peak resident memory of a process that takes 20 training steps of the hotspot network, ours and each framework.

    python benchmarks/memory.py --threads 2 --json memory.json

Each form of the network runs in a new process; "imported" is that of a process that does nothing but import.
"""

import argparse
import importlib
import resource
from pathlib import Path

from common import HOTSPOT, hotspot_batches, save, show_machine
from comparison import installed
from peers import PEERS, Job, Ours
from processes import in_processes

STATUS = Path("/proc/self/status")


class Subject:
    """What is measured in a new process."""

    def import_only(self, package: str) -> float:
        importlib.import_module(package)
        return peak_megabytes()

    def train(self, framework: type, job: Job, form, threads: int, steps: int) -> float:
        candidate = framework(job, form, threads)
        for step in range(steps):
            candidate.step(step % len(job.data))
        return peak_megabytes()


def peak_megabytes() -> float:
    """This process's peak resident memory; not getrusage's where it can be helped, which counts the parent's too."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(threads: int, method: str, *arguments) -> float:
    with in_processes({method: (Subject,)}, threads) as processes:
        return processes[method].ask(method, *arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="number of threads (default 2)")
    parser.add_argument("--steps", type=int, default=20, help="training steps (default 20)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    job = Job.of(HOTSPOT, *hotspot_batches(4, seed=1))
    subjects = {"ours": (Ours, ["dense arrays"])}
    subjects |= {name: (peer, peer.forms(job.spec)) for name, peer in installed(PEERS).items()}
    results = {}
    for name, (framework, forms) in subjects.items():
        imported = measure(options.threads, "import_only", framework.package)
        peaks = {}
        for form in forms:
            shown = form if isinstance(form, str) else ", ".join(form)
            peaks[shown] = measure(options.threads, "train", framework, job, form, options.threads, options.steps)
            print(f"  {name + ', ' + shown:<50} {peaks[shown]:6.0f} MB  (imported: {imported:.0f} MB)", flush=True)
        results[name] = {"imported": imported, "peaks": peaks}
    (ours,) = results["ours"]["peaks"].values()
    for name in list(results)[1:]:
        least, most = min(results[name]["peaks"].values()), max(results[name]["peaks"].values())
        print(f"  {name} / ours {least / ours:.1f} to {most / ours:.1f} times, by the form")
    save(options.json, results)


if __name__ == "__main__":
    main()
