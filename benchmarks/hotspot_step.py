"""Time a training step and a prediction of the hotspot network against PyTorch, JAX and TensorFlow.

    python benchmarks/hotspot_step.py --threads 1 2 --json hotspot.json

Same data (msprime simulations), same initial weights, same number of cores, and in turn; see comparison.py. The
frameworks allocate tens of megabytes in each step, and PyTorch is up to twice as fast if glibc keeps freed memory
instead of returning it to the system; ours gains nothing:

    export GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592
"""

import argparse
from pathlib import Path

from common import BATCH_SIZE, HOTSPOT, hotspot_batches, save, show_machine
from comparison import compare
from peers import ORIGINAL, PEERS, Job

from definetti_np import MultisetBatch


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each candidate (default 10)")
    parser.add_argument("--batches", type=int, default=4, help="batches, and steps in a turn (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulations and weights (default 1)")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()

    show_machine()
    data, labels = hotspot_batches(options.batches, options.seed)
    distinct = sum(len(MultisetBatch.from_datasets(d).rows) for d in data) / (options.batches * BATCH_SIZE)
    print(f"{options.batches} batches of {BATCH_SIZE} x 198 x 24 x 2, {distinct:.1f} distinct rows per dataset")
    job = Job.of(HOTSPOT, data, labels, options.seed)
    results = [
        compare(title, job, threads, options.rounds, method=method, calls=options.batches, peers=PEERS | ORIGINAL)
        for threads in options.threads
        for title, method in (("hotspot training step", "step"), ("hotspot prediction", "predict"))
    ]
    save(options.json, {"comparisons": results})


if __name__ == "__main__":
    main()
