"""How ours and other frameworks are compared on a job.

Each framework computes in a process of its own that may use exactly as many cores as there are threads, from the same
initial weights and data, which it holds in memory in the layout it likes. It tries the forms in which the network can
be written in it, each checked to compute what ours computes, and goes on with the fastest.
"""

import functools
import gc
import importlib.util
import itertools
import sys
import time

import numpy as np
from common import interleave, show, show_ratio, time_calls
from peers import OURS, PEERS, Job, Ours
from processes import in_processes

TRIAL_CALLS = 3  # timed calls of each form when the fastest is looked for
HOPELESS = 3  # a form that takes this many times the best one's time is not tried further


def installed(peers: dict[str, type]) -> dict[str, type]:
    """The frameworks that are installed; says how to install the others, and ends where there is none."""
    found = {name: peer for name, peer in peers.items() if importlib.util.find_spec(peer.package)}
    for name in peers.keys() - found.keys():
        print(f"{name} is not installed and left out: pip install {peers[name].install}")
    if not found:
        sys.exit("no framework to compare with; install at least one of them")
    return found


class Contender:
    """A framework with a job, which goes on with the fastest of its forms."""

    def __init__(self, framework: type, forms: list, job: Job, threads: int):
        self.framework, self.forms, self.job, self.threads = framework, forms, job, threads
        self.fastest = {}

    def trial(self, method: str) -> dict[str, tuple[list, list[float]]]:
        """Of each form the first two results of a method, on the first batch, and the seconds of some calls."""
        trials, best = {}, np.inf
        for form in self.forms:
            candidate = self.framework(self.job, form, self.threads)
            results, seconds = self.try_out(getattr(candidate, method), best)
            trials[form if isinstance(form, str) else ", ".join(form)] = results, seconds
            if np.median(seconds) < best:
                self.fastest[method], best = candidate, np.median(seconds)
            del candidate
            gc.collect()
        return trials

    def try_out(self, function, best: float) -> tuple[list, list[float]]:
        results = [function(0)]  # it may compile
        start = time.perf_counter()
        results.append(function(0))
        seconds = time.perf_counter() - start
        return results, [seconds] if seconds > HOPELESS * best else self.time_calls(function, TRIAL_CALLS)

    def time_calls(self, function, calls: int) -> list[float]:
        """Calls on the batches of the job in turn."""
        return time_calls(lambda i: function(i % len(self.job.data)), calls)

    def turn(self, method: str, calls: int) -> list[float]:
        return self.time_calls(getattr(self.fastest[method], method), calls)


def compare(title: str, job: Job, threads: int, rounds: int, *, method="step", calls=2, peers=PEERS) -> dict:
    """Time ours and every peer on a job in turn, print and return what `show` and `show_ratio` say of them."""
    print(f"\n{title}, {threads} thread(s)", flush=True)
    peers = installed(peers)
    candidates = {name: (Contender, Ours, [form], job, threads) for name, form in OURS.items()}
    candidates |= {name: (Contender, peer, peer.forms(job.spec), job, threads) for name, peer in peers.items()}
    with in_processes(candidates, threads) as processes:
        expected, forms = None, {}
        for name, process in processes.items():
            trial = process.ask("trial", method)
            for form, (results, seconds) in trial.items():
                expected = results if expected is None else expected
                check_equal(results, expected, f"{name}, {form}")
                if name in peers:
                    show(f"trial: {name}, {form}", seconds)
            forms[name] = min(trial, key=lambda form: np.median(trial[form][1]))  # noqa: B023
        turns = {name: functools.partial(process.ask, "turn", method) for name, process in processes.items()}
        seconds = interleave(turns, rounds, calls)
    labels = {name: f"{name}, {forms[name]}" if name in peers else name for name in seconds}
    milliseconds = {name: show(labels[name], seconds[name]) for name in seconds}
    fastest = min(peers, key=lambda name: np.median(seconds[name]))
    print(f"  the fastest of them: {fastest}")
    pairs = itertools.product(OURS, peers)
    ratios = {f"{peer} / {ours}": show_ratio(f"{peer} / {ours}", seconds[peer], seconds[ours]) for ours, peer in pairs}
    return {
        "title": title, "threads": threads, "milliseconds": milliseconds, "ratios": ratios, "fastest": fastest,
        "forms": forms,
    }  # fmt: skip


def check_equal(results: list, expected: list, name: str) -> None:
    """Fail unless the first result is the expected one to float32 rounding, and the second one about it.

    The second loss is that after a step: PyTorch's Adam has its epsilon in another place than TensorFlow 1's.
    """
    for result, wanted, tolerance in zip(results, expected, (2e-5, 2e-3), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=tolerance, err_msg=name)
