"""Numba where it can keep nothing, where several processes keep things at once, and in forked processes."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sessions import LIVES, Session, search_path, start

pytest.importorskip("fcntl")

COLD = """
import sys, numpy as np
from definetti_np import Network, Trainer
rng = np.random.default_rng(1)
for dtype in sys.argv[2:]:  # the variants of each kernel, in another order in every process
    network = Network((4, 3), (2,), [("fc", 2)], ("max",), [("softmax",)], seed=1, dtype=np.dtype(dtype))
    trainer = Trainer(network, threads=1)
    trainer.step(np.arange(60.0).reshape(5, 4, 3) % 7, np.eye(2)[[0, 1, 0, 1, 1]])
    print(dtype, network.flat.weights.tobytes().hex())
"""


def test_cache__several_processes_start_cold_at_once(tmp_path):
    orders = [("float32", "float64"), ("float64", "float32"), ("float32", "float64")]
    sessions = [Session("-c", COLD, "x", *order, NUMBA_CACHE_DIR=str(tmp_path)) for order in orders]
    ends = [session.end() for session in sessions]
    ends.append(Session("-c", COLD, "x", *orders[0], NUMBA_CACHE_DIR=str(tmp_path)).end())
    assert [code for code, _ in ends] == [0] * 4, ends
    assert len({tuple(sorted(output.splitlines())) for _, output in ends}) == 1
    assert not list(tmp_path.rglob("*.tmp.*"))
    variants = {path.name.rpartition(".py")[0] for path in tmp_path.rglob("*.nbi")}
    for name in variants:  # each of them has as many files as an index without a race gives
        assert len(list(tmp_path.rglob(f"{name}*.nbc"))) <= 2


def test_cache__nothing_can_be_written(tmp_path):
    """Neither beside the package nor in the home folder; by paths that are no folders, so that it holds for root."""
    package = tmp_path / "definetti_np"
    shutil.copytree(LIVES.parents[1] / "definetti_np", package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (package, package / "kernels"):
        (folder / "__pycache__").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    environment.update(HOME="/dev/null", XDG_CACHE_HOME="/dev/null/cache", PYTHONPATH=search_path(tmp_path))
    program = (
        "import numpy as np, definetti_np\n"
        f"assert definetti_np.__file__.startswith({str(tmp_path)!r})\n"
        "definetti_np.train((4, 2), (1,), lambda: (np.ones((4, 2)), np.ones(1)), phi_net=[('fc', 2)],\n"
        "    h_net=[('matmul',)], loss='l2', num_batches=1, sim_threads=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("set NUMBA_CACHE_DIR") == 1
    assert not Path(package, "kernels", "__pycache__").is_dir()


def test_cache__a_lock_that_is_never_released_only_delays(tmp_path, monkeypatch):
    import fcntl

    import numba

    from definetti_np.kernels import _jit

    monkeypatch.setattr(_jit, "PATIENCE", 0.1)
    folder = Path(numba.njit(cache=True)(_jit._one_by_one).stats.cache_path)
    with open(folder / "definetti_np.lock", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with _jit._only_process():
            pass
        with pytest.raises(BlockingIOError), open(folder / "definetti_np.lock", "ab") as third:
            fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)


PARALLEL = """
import hashlib, sys
import numpy as np
from definetti_np import Network, train
from lives import SMALL, simulator
Network((None, 3), (2,), [("fc", 8)], ("max",), [("softmax",)], seed=1)(np.random.rand(50, 100, 3))
for i in range(2):
    train(simulator=simulator, **{**SMALL, "sim_threads": 2, "training_threads": 2}, save_path=f"{sys.argv[1]}/w{i}")
"""


def test_fork__after_a_parallel_kernel_and_training_twice(tmp_path):
    code, output = Session("-c", PARALLEL, tmp_path, PYTHONPATH=search_path(LIVES.parents[1], LIVES.parent)).end()
    assert code == 0, output
    end = start(tmp_path).end()
    assert end[0] == 0, end
    assert len({hashlib.sha256((tmp_path / f"{name}.npz").read_bytes()).hexdigest() for name in ("w", "w0", "w1")}) == 1
