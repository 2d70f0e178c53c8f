"""Forks after parallel kernels: every process computes the same bits, or none would be known to be wrong."""

import os
from pathlib import Path

import pytest
from sessions import Session, need_openmp

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

FORKS = Path(__file__).parent / "forks.py"
WAYS = 12  # and two that simulate in workers, for one of three tasks


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_fork__in_all_surroundings_gives_the_same_bits(layer):
    if layer == "omp":
        need_openmp()
    # From 3.12 on Python warns of forks of processes with threads, which are what is tested.
    code, output = Session("-W", "ignore::DeprecationWarning", FORKS, NUMBA_THREADING_LAYER=layer).end()
    assert code == 0, output
    results = [line.rsplit(": ", 2) for line in output.splitlines()]
    assert len(results) == 3 * WAYS + 2, output
    expected = {task: digest for way, task, digest in results if way == "here"}
    assert len(expected) == 3
    assert [result for result in results if result[2] != expected[result[1]]] == []


IMPORTED_LATE = """
import multiprocessing, sys
import numba, numpy as np

@numba.njit(parallel=True)
def double(numbers):
    out = np.empty_like(numbers)
    for i in numba.prange(len(numbers)):
        out[i] = 2 * numbers[i]
    return out

def task(number):
    import definetti_np
    network = definetti_np.Network((100, 3), (2,), [("fc", 64)], ("max",), [("softmax",)], seed=1)
    def simulator():
        return double(np.random.rand(300)).reshape(100, 3), np.eye(2)[0]
    data, label = definetti_np.simulate_example(simulator, seed=1, index=number)
    prediction = network(np.random.default_rng(1).random((30, 100, 3)))
    return data.tobytes(), prediction.tobytes()

if __name__ == "__main__":
    double(np.ones(1000))
    results = []
    for method in ("fork", "forkserver", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            results.append(pool.map(task, [1, 2]))
    assert "definetti_np" not in sys.modules
    assert results == 3 * [list(map(task, [1, 2]))]
"""


def test_fork__before_the_package_is_imported(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(IMPORTED_LATE)
    code, output = Session(script).end()
    assert code == 0, output


NESTED = """
import multiprocessing
import numpy as np, numba, definetti_np

@numba.njit(parallel=True)
def double(numbers):
    out = np.empty_like(numbers)
    for i in numba.prange(len(numbers)):
        out[i] = 2 * numbers[i]
    return out

def simulator(rng):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(double, [rng.random(300)]).reshape(100, 3), np.ones(1)

definetti_np.Network((100, 3), (1,), [("fc", 64)], ("max",), [("matmul",)])(np.random.rand(30, 100, 3))
data, label = definetti_np.simulate_example(simulator, seed=1, index=1)
assert (data == definetti_np.simulate_example(simulator, seed=1, index=1)[0]).all() and data.min() > 0
"""


def test_fork__processes_of_a_simulator_may_use_numba_too():
    """It is our kernels that have started the threads, in the process that these were forked from."""
    code, output = Session("-c", NESTED).end()
    assert code == 0, output


COMPILING = """
import os, signal, sys, threading, time
import numba, numpy as np
import definetti_np
from definetti_np.kernels._jit import Kernel

def compile_kernel(number):
    scope = {}
    exec(f"def kernel(block, arguments):\\n    arguments[0][0][block] = {number} + block", scope)
    out = np.zeros(3, np.int64)
    Kernel(scope["kernel"])(3, out)
    return out.tolist()

def compile_for_ever():
    for number in range(10**6):
        if ended.is_set():
            return
        numba.njit(eval(f"lambda x: x + {number}"))(1)

numba.njit(lambda x: x)(1)
ended = threading.Event()
thread = threading.Thread(target=compile_for_ever)
thread.start()
codes = []
for i in range(10):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(compile_kernel(i) != [i, i + 1, i + 2])
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ended.set()
thread.join()
assert codes == [0] * 10, codes
"""


def test_fork__while_another_thread_compiles():
    """The child has no such thread, which held the lock of Numba's compiler and was within LLVM."""
    code, output = Session("-c", COMPILING).end()
    assert code == 0, output
