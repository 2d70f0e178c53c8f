"""Numba where it can keep nothing, where several processes keep things at once, and in forked processes."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.caching import UserProvidedCacheLocator
from numba.core.ccallback import CFunc
from sessions import LIVES, PACKAGES, Session, search_path, start

from definetti_np.kernels import _cache
from definetti_np.kernels._jit import Kernel, _loop

fcntl = pytest.importorskip("fcntl")

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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder for the cache of `run_kernel`, in a process that has not warned or waited yet."""
    _loop(False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_cache, "_warned", set())
    monkeypatch.setattr(_cache, "_patience", 0.05)
    return tmp_path


def run_kernel(monkeypatch, *, compile=CFunc._compile_uncached) -> bool:
    """Run a kernel as a new process does, by `compile` if it is not in the cache; return whether it was loaded."""
    monkeypatch.setattr(CFunc, "_compile_uncached", compile)

    def count_up(block, arguments):
        arguments[0][0][block] = block + 1

    kernel, out = Kernel(count_up), np.zeros(3, np.int64)
    kernel(3, out)
    assert out.tolist() == [1, 2, 3]
    (callback,) = kernel._callbacks
    return callback.cache_hits == 1


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def put_a_folder_there(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros, as after a power failure": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)),
    "text": lambda path: path.write_text("cos\nsystem\n(S'true'\ntR."),
    "a bit flipped": flip_a_bit,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("files", ["*.nbi", "*.nbc", "*.nb[ic]"])
def test_cache__damaged_files_are_written_anew(cache, monkeypatch, caplog, damage, files):
    assert not run_kernel(monkeypatch)
    assert run_kernel(monkeypatch)
    assert caplog.messages == []
    for path in cache.rglob(files):
        DAMAGE[damage](path)
    assert not run_kernel(monkeypatch)
    assert len(caplog.messages) == 1
    assert "was damaged and is written anew" in caplog.text
    assert run_kernel(monkeypatch)


@pytest.mark.parametrize("files", ["*.nbi", "*.nbc"])
def test_cache__files_that_cannot_be_read_or_written_anew(cache, monkeypatch, caplog, files):
    run_kernel(monkeypatch)
    for path in cache.rglob(files):
        put_a_folder_there(path)
    for _ in range(2):
        assert not run_kernel(monkeypatch)
    assert len(caplog.messages) == 1
    assert "set NUMBA_CACHE_DIR" in caplog.text


def test_cache__data_that_is_missing_is_written_anew(cache, monkeypatch, caplog):
    run_kernel(monkeypatch)
    for path in cache.rglob("*.nbc"):
        path.unlink()
    assert not run_kernel(monkeypatch)
    assert run_kernel(monkeypatch)
    assert caplog.messages == []


def test_cache__an_entry_of_other_types_is_not_run(cache, monkeypatch, caplog):
    """Two processes without a lock may give two variants of a kernel one file name."""

    def in_new_process(dtype):
        def double(block, arguments):
            arguments[0][0][block] *= 2

        out = np.ones(1, dtype)
        Kernel(double)(1, out)
        assert out.tolist() == [2]

    in_new_process(np.float32)
    in_new_process(np.float64)
    first, second = sorted(cache.rglob("*double*.nbc"))
    second.write_bytes(first.read_bytes())
    in_new_process(np.float64)
    assert "of other types than its name says" in caplog.text


@pytest.mark.parametrize("call", ["index", "data", "replace", "folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
def test_cache__what_cannot_be_written_is_not_kept(cache, monkeypatch, caplog, call, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    if call == "replace":
        monkeypatch.setattr(os, "replace", fail)
    elif call == "folder":
        monkeypatch.setattr(UserProvidedCacheLocator, "ensure_cache_path", lambda self: None)
        monkeypatch.setattr(_cache.FunctionCache, "save_overload", fail)
    else:
        monkeypatch.setattr(_cache.IndexDataCacheFile, f"_save_{call}", fail)
    for _ in range(2):
        assert not run_kernel(monkeypatch)
    assert len(caplog.messages) == 1
    assert os.strerror(number) in caplog.text
    assert "set NUMBA_CACHE_DIR" in caplog.text
    assert not list(cache.rglob("*.tmp.*"))


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
import numpy as np, definetti_np
network = definetti_np.Network((4, 3), (2,), [("fc", 2)], ("max",), [("softmax",)], seed=1)
print(network(np.ones((5, 4, 3))).shape)
"""


def test_cache__a_disk_that_is_full_within_a_file(tmp_path):
    caches = {size: tmp_path / str(size) for size in (0, 1000)}
    for cache in caches.values():
        cache.mkdir()
    full = [Session("-c", FULL, size, NUMBA_CACHE_DIR=cache) for size, cache in caches.items()]
    for code, output in [session.end() for session in full]:
        assert code == 0, output
        assert "(5, 2)" in output
        assert output.count("cannot be written to") == 1
    assert not list(tmp_path.rglob("*.tmp.*"))
    with_space = [Session("-c", FULL, 2**30, NUMBA_CACHE_DIR=cache) for cache in caches.values()]
    assert [session.end() for session in with_space] == [(0, "(5, 2)\n")] * 2


@pytest.fixture
def other_process(cache, monkeypatch):
    """A file that holds the lock, as a process does that was stopped while it compiled."""
    run_kernel(monkeypatch)
    (path,) = cache.rglob("definetti_np.lock")
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_lock__is_taken_to_compile_and_not_to_load(other_process, monkeypatch, caplog):
    assert run_kernel(monkeypatch)
    assert _cache._patience == 0.05, "nobody has waited"
    assert caplog.messages == []


def test_lock__is_waited_for_once_in_a_process(other_process, cache, monkeypatch, caplog):
    files = list(cache.rglob("*.nb*"))
    for path in files:
        path.unlink()
    naps = []
    monkeypatch.setattr(_cache.time, "sleep", naps.append)
    for _ in range(3):
        assert not run_kernel(monkeypatch)
    assert sum(naps) == pytest.approx(0.05)
    assert len(caplog.messages) == 1
    assert f"another process holds {other_process.name}" in caplog.text
    assert not any(path.exists() for path in files), "what was compiled without the lock is not kept"


def test_lock__is_held_while_a_kernel_is_compiled(cache, monkeypatch):
    def compile(callback):
        (path,) = cache.rglob("definetti_np.lock")
        with open(path, "ab") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return compile_uncached(callback)

    compile_uncached = CFunc._compile_uncached
    assert not run_kernel(monkeypatch, compile=compile)
    (path,) = cache.rglob("definetti_np.lock")
    with open(path, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock__finds_what_another_process_has_compiled_meanwhile(other_process, cache, monkeypatch):
    (index,) = cache.rglob("*.nbi")
    hidden = index.rename(index.with_suffix(".hidden"))

    def end_of_other_process(seconds):
        hidden.rename(index)
        fcntl.flock(other_process, fcntl.LOCK_UN)

    monkeypatch.setattr(_cache.time, "sleep", end_of_other_process)
    assert run_kernel(monkeypatch)


def test_lock__of_another_user(cache, monkeypatch, caplog):
    """The usual advice for clusters: a folder that all may write to; a file in it can only be read by others."""
    run_kernel(monkeypatch)
    for path in cache.rglob("*.nb*"):
        path.unlink()
    (path,) = cache.rglob("definetti_np.lock")
    opened = []

    def open_for_another_user(name, flags, *mode, **options):
        opened.append(name)
        if Path(name) == path and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return os_open(name, flags, *mode, **options)

    os_open = os.open
    monkeypatch.setattr(os, "open", open_for_another_user)
    assert not run_kernel(monkeypatch)
    assert opened.count(path) == 2
    assert run_kernel(monkeypatch)
    assert caplog.messages == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_lock__on_a_file_system_without(cache, monkeypatch, caplog, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert not run_kernel(monkeypatch)
    assert run_kernel(monkeypatch)
    assert caplog.messages == []


def test_lock__that_cannot_be_made(cache, monkeypatch, caplog):
    run_kernel(monkeypatch)
    (path,) = cache.rglob("definetti_np.lock")
    put_a_folder_there(path)
    for file in cache.rglob("*.nb*"):
        file.unlink()
    assert not run_kernel(monkeypatch)
    assert run_kernel(monkeypatch)
    assert caplog.messages == []


AS_USER = """
import os, sys
import numba
import numpy as np
from definetti_np.kernels._jit import Kernel

def run(folder, dtype):
    def double(block, arguments):
        arguments[0][0][block] *= 2
    numba.config.CACHE_DIR = folder
    kernel, out = Kernel(double), np.ones(1, dtype)
    kernel(1, out)
    print(dtype, out[0], *[callback.cache_hits for callback in kernel._callbacks])

run(f"{sys.argv[1]}/warm{os.getpid()}", "uint8")  # compiling imports what another user may not be able to read
os.umask(0o022)
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
for dtype in sys.argv[3:]:
    run(sys.argv[1] + "/cache", dtype)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize(
    ("mode", "loads", "warns"),
    [
        pytest.param(0o777, "1", 0, id="all may change all"),
        pytest.param(0o1777, "1", 1, id="each may change their own files"),
        pytest.param(0o755, "0", 1, id="others may read"),
    ],
)
def test_cache__of_another_user(tmp_path, mode, loads, warns):
    script = tmp_path / "script.py"
    script.write_text(AS_USER)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o555)
    folder = tmp_path / "cache"
    folder.mkdir()

    def run(user, *dtypes):
        for inside in folder.rglob("**/"):
            inside.chmod(mode)
        code, output = Session(script, tmp_path, user, *dtypes).end()
        assert code == 0, output
        return output.splitlines()[1:]

    assert run(0, "float32") == ["float32 2.0 0"]
    for _ in range(2):
        output = run(65534, "float32", "float64", "int64")
        assert [line for line in output if line.startswith("float32")] == [f"float32 2.0 {loads}"]
        assert [line.split()[:2] for line in output[1:3]] == [["float64", "2.0"], ["int64", "2"]]
        assert len(output) == 3 + warns, output


def test_disabled_jit__computes_the_same():
    """Somebody sets it to step through a simulator; the kernels are no part of that."""
    ends = [Session("-c", COLD, "x", "float32", NUMBA_DISABLE_JIT=value).end() for value in ("0", "1")]
    assert ends[0][0] == 0, ends
    assert ends[0] == ends[1]


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
    code, output = Session("-c", PARALLEL, tmp_path, PYTHONPATH=search_path(PACKAGES, LIVES.parent)).end()
    assert code == 0, output
    end = start(tmp_path).end()
    assert end[0] == 0, end
    assert len({hashlib.sha256((tmp_path / f"{name}.npz").read_bytes()).hexdigest() for name in ("w", "w0", "w1")}) == 1
