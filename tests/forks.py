"""Predict, train and simulate in processes that are forked in many ways after kernels have run in parallel.

    python tests/forks.py

It prints a line for each way and task: the names and the digest of what was computed. The line of the way "here" is
from the process itself, before it forked.
"""

import concurrent.futures
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time

import numba
import numpy as np

import definetti_np

FORK = multiprocessing.get_context("fork")
SHAPES = {"input_shape": (100, 3), "output_shape": (2,), "phi_net": [("fc", 64)], "h_net": [("softmax",)]}
DATA = np.random.default_rng(1).standard_normal((30, 100, 3))
MODEL = definetti_np.Model(definetti_np.Network(**SHAPES, g=("max",), seed=1), loss="l2", seed=1, batches_trained=0)


@numba.njit(parallel=True)
def squares(numbers):
    """A parallel function of the user's own."""
    out = np.empty_like(numbers)
    for i in numba.prange(len(numbers)):
        out[i] = numbers[i] ** 2
    return out


def simulator(rng):
    wide = rng.integers(2)
    data = squares(rng.standard_normal(300) * (1 + 3 * wide))
    return data.reshape(100, 3), np.eye(2)[wide]


def digest(*arrays):
    return hashlib.sha256(b"".join([array.tobytes() for array in arrays])).hexdigest()[:16]


def predict():
    return digest(MODEL.predict(DATA))


def train(**options):
    options = {"sim_threads": 0, **options}
    model = definetti_np.train(
        simulator=simulator, **SHAPES, num_batches=3, batch_size=20, seed=1, logfile=None, **options
    )
    return digest(*model.network.parameters.values())


def simulate():
    return digest(*definetti_np.simulate_example(simulator, seed=1, index=3))


TASKS = {"predict": predict, "train": train, "simulate": simulate}


def fork(task, prepare=lambda: None):
    """What a task gives in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            os.write(writer, task().encode())
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        result = pipe.read().decode()
    os.waitpid(child, 0)
    return result


def ignore_signal():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def handle_signal():
    signal.signal(signal.SIGTERM, lambda number, frame: None)


def outlive_the_parent():
    """Go on as the child of a child that has ended."""
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        time.sleep(0.001)


def in_thread(function, *arguments):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def while_kernels_run(task):
    """Fork again and again while another thread is within a kernel, and has its lock."""
    ended = threading.Event()

    def go_on():
        while not ended.is_set():
            predict()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        results = {fork(task) for _ in range(5)}
    finally:
        ended.set()
        thread.join()
    return " and ".join(results)


def in_pool(task):
    with FORK.Pool(2) as pool:
        return " and ".join({pool.apply(task), pool.apply_async(task).get()})


def in_executor(task):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
        return pool.submit(task).result()


def in_pool_of_executor(task):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK) as pool:
        return pool.submit(in_pool, task).result()


WAYS = {
    "here": lambda task: task(),
    "fork": fork,
    "fork, signal ignored": lambda task: fork(task, ignore_signal),
    "fork, signal handled": lambda task: fork(task, handle_signal),
    "fork of a fork": lambda task: fork(lambda: fork(task)),
    "fork that outlives its parent": lambda task: fork(task, outlive_the_parent),
    "fork from a thread": lambda task: in_thread(fork, task),
    "thread of a fork": lambda task: fork(lambda: in_thread(task)),
    "fork while kernels run": while_kernels_run,
    "pool": in_pool,
    "executor": in_executor,
    "pool in an executor": in_pool_of_executor,
}


def main():
    simulate()
    for name, task in TASKS.items():
        for way, run in WAYS.items():
            print(f"{way}: {name}: {run(task)}", flush=True)
    print(f"two workers: train: {train(sim_threads=2)}", flush=True)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK) as pool:
        print(f"the workers of an executor: train: {train(executor=pool, sim_threads=None)}", flush=True)


if __name__ == "__main__":
    main()
