"""Workers that do not start: training ends before its first step, says why, and starts no more of them."""

import sys

import disasters
import pytest
from disasters import SMALL, descendants, sha_of_training, simulator, start_script

from definetti_np import SimulatorError, train

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_train__start_methods_give_the_same_file(tmp_path):
    methods = (None, "fork", "spawn", "forkserver")
    assert len({sha_of_training(tmp_path, sim_threads=2, start_method=method) for method in methods}) == 1


def test_train__start_method_is_checked():
    with pytest.raises(ValueError, match="start_method: unknown method 'thread'; choose from 'fork', "):
        train(simulator=simulator, **SMALL, start_method="thread")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_train__a_closure_cannot_be_sent(method):
    with pytest.raises(TypeError, match=f"with start method '{method}' it must be a function that can be imported"):
        train(simulator=lambda rng: simulator(rng), **SMALL, sim_threads=2, start_method=method)


class BrokenElsewhere:
    """A simulator that can be sent, but not received."""

    def __reduce__(self):
        return fail_to_load, ()

    def __call__(self, rng):
        return simulator(rng)


def fail_to_load():
    raise ImportError("no module of that name here")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_train__a_simulator_that_cannot_be_loaded(method):
    with pytest.raises(SimulatorError) as caught:
        train(simulator=BrokenElsewhere(), **SMALL, sim_threads=2, start_method=method)
    message = str(caught.value)
    assert "could not load the simulator" in message
    assert "ImportError: no module of that name here" in message
    assert "in fail_to_load" in message
    assert f"Under start method '{method}' a simulator process imports the script" in message


RAISING = """
from disasters import sha_of_training, simulator

if __name__ == "__mp_main__":
    raise ImportError("only here")

if __name__ == "__main__":
    sha_of_training({folder!r}, sim_threads=3, start_method={method!r})
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_train__a_script_that_cannot_be_imported(tmp_path, method):
    trainer = start_script(tmp_path, RAISING.format(folder=str(tmp_path), method=method))
    _, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 1
    assert "ImportError: only here" in errors
    assert errors.count("SimulatorError: simulator process") == 1
    assert "before it was ready, ended with exit code 1\n" in errors
    assert "another one takes its place" not in errors


UNGUARDED = """
import os
from disasters import simulator, SMALL
from definetti_np import train

with open({folder!r} + "/starts", "a") as file:
    print(os.getpid(), file=file)
train(simulator=simulator, **SMALL, sim_threads=3, start_method={method!r}, save_path={save_path!r})
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("save_path", [None, "model"])
def test_train__a_script_without_guard(tmp_path, method, save_path):
    save_path = save_path and str(tmp_path / save_path)
    trainer = start_script(tmp_path, UNGUARDED.format(folder=str(tmp_path), method=method, save_path=save_path))
    _, errors = trainer.communicate(timeout=60)
    assert trainer.returncode == 1
    assert 'call train under if __name__ == "__main__"' in errors
    assert "bootstrapping" not in errors
    assert "another run" not in errors
    assert errors.count("Traceback") <= 2, "one, or one with its cause"
    assert len((tmp_path / "starts").read_text().split()) <= 4, "no process starts others"
    assert not descendants(trainer.pid)


def test_train__from_a_program_that_ends_without_closing(tmp_path):
    program = (
        "from disasters import simulator\n"
        "from test_workers_alone import open_stream\n"
        "stream = open_stream(simulator)\n"
        "stream.next_batch(10)\n"
        "print(*[worker.pid for worker in stream._workers])\n"
    )
    trainer = start_script(tmp_path, program)
    output, errors = trainer.communicate(timeout=60)
    assert (trainer.returncode, errors) == (0, "")
    assert not [pid for pid in map(int, output.split()) if disasters.alive(pid)]


FORKED_WHILE_IMPORTING = """
import os, sys, time
import numpy as np
from definetti_np import train

def simulate(rng):
    if not os.path.exists("flag"):
        open("flag", "w").close()
        time.sleep(0.1)  # now the trainer imports Numba
        os.kill(os.getpid(), 9)
    import numba
    return rng.normal(size=(6, 4)), np.eye(2)[0]

train((6, 4), (2,), simulate, [("fc", 4)], ("max",), [("softmax",)], num_batches=2, batch_size=8, sim_threads=1, seed=1)
print("done")
"""


def test_train__a_worker_is_replaced_while_the_trainer_imports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = start_script(tmp_path, FORKED_WHILE_IMPORTING)
    output, log = program.communicate(timeout=100)
    assert output == "done\n", log


SLOW_MODULE = """
open("imports", "a").write("x")
import time
time.sleep(1)
value = 1
"""
IMPORTING = """
import os, time
import numpy as np
from definetti_np import train

def simulate(rng):
    while rng.bit_generator.seed_seq.spawn_key[0] >= 8 and not os.path.exists("imports"):
        time.sleep(0.01)
    if os.path.exists("imports"):  # the trainer is at it now
        try:
            os.close(os.open("killed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            import slow
        else:
            os.kill(os.getpid(), 9)
    return rng.normal(size=(6, 4)), np.eye(2)[0]

def accuracy(prediction, label):
    import slow
    return slow.value

train((6, 4), (2,), simulate, [("fc", 4)], ("max",), [("softmax",)], accuracy=accuracy, num_batches=4, batch_size=8,
      queue_capacity=8, sim_threads=1, seed=1, logfile="log")
print("done")
"""
TRAINING = "import importing\n"
COMPILING = IMPORTING.replace(
    "    import slow\n    return slow.value",
    """    from numba.core.compiler_lock import global_compiler_lock
    with global_compiler_lock:  # as Numba does, which imports while it compiles
        open("imports", "a").close()
        time.sleep(0.5)
        import slow
    return slow.value""",
)


@pytest.mark.parametrize("program", [IMPORTING, TRAINING, COMPILING], ids=["script", "import", "compile"])
def test_train__a_worker_is_replaced_while_a_function_of_the_users_imports(tmp_path, monkeypatch, program):
    """Its locks would be those of a thread that is not there. A module may train while it is imported itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW_MODULE)
    (tmp_path / "importing.py").write_text(IMPORTING)
    output, log = start_script(tmp_path, program).communicate(timeout=100)
    assert output == "done\n", log
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "imports").read_text() == "x", "once: the worker has what the trainer imported"


SLOW_TO_LOAD = """
import time
from definetti_np import train
from disasters import SMALL, simulator

if __name__ == "__mp_main__":  # in the worker
    print("the worker loads", flush=True)
    time.sleep(100)

if __name__ == "__main__":
    train(simulator=simulator, start_method="spawn", sim_threads=1, **SMALL)
"""


def test_train__can_be_stopped_while_workers_start(tmp_path):
    program = start_script(tmp_path, SLOW_TO_LOAD)
    assert program.stdout.readline() == "the worker loads\n"
    program.terminate()
    assert program.wait(timeout=30) == 143
    program.communicate()


IMPORTS = """
import sys
import definetti_np.simulation.workers
from definetti_np.simulation.messages import encode
from definetti_np.simulation.source import ExampleSource
from definetti_np.specs import network_spec
from definetti_np.simulation.worker_process import worker_main

def simulate(rng):
    if rng is None or rng.random() < 0.5:
        raise ValueError("half of them")
    return rng.normal(size=(6, 4)), [1.0, 0.0] @ np.eye(2)

import numpy as np
spec = network_spec((6, 4), (2,), [("fc", 4)], ("max",), [("softmax",)])
before = set(sys.modules)
for index in range(10):
    encode(index, ExampleSource(simulate, 1, spec, "cross-ent", "redraw").example(index))
print(sorted(set(sys.modules) - before))
"""


def test_workers__import_nothing_while_they_simulate(tmp_path):
    """A module that the trainer is importing when a worker is forked is locked there for ever."""
    output, log = start_script(tmp_path, IMPORTS).communicate(timeout=60)
    assert output == "[]\n", log
