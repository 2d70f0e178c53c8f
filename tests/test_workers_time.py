"""Simulators that hang, and processes that are stopped: time is counted only while the trainer runs."""

import logging
import os
import signal
import subprocess
import sys
import time

import disasters
import numpy as np
import pytest
from disasters import descendants, sha_of_training, simulator, start_script, wait_until, with_disaster

from definetti_np import SimulatorError, train
from definetti_np.simulation import workers
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import StreamSettings
from definetti_np.simulation.worker import Worker
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return sha_of_training(tmp_path_factory.mktemp("undisturbed"), sim_threads=0)


@pytest.mark.parametrize("disaster", [disasters.hang, disasters.hang_with_the_gil])
def test_train__a_simulator_that_hangs_is_killed_and_its_example_simulated_again(
    tmp_path, caplog, undisturbed, disaster
):
    function = with_disaster(tmp_path, disaster, {7, 120}, times=2)
    assert sha_of_training(tmp_path, function, sim_threads=2, simulator_timeout=0.5) == undisturbed
    messages = [record.getMessage() for record in caplog.records]
    for index in (7, 120):
        text = f"took longer than simulator_timeout=0.5 seconds and was killed while it simulated example {index} of"
        assert sum(text in message for message in messages) == 2


def test_train__the_third_hang_at_an_example_ends_it(tmp_path):
    function = with_disaster(tmp_path, disasters.hang, {7}, times=3)
    with pytest.raises(
        SimulatorError, match=r"example 7 of seed 1\nIt is the third process .* simulator_timeout=0\.3"
    ) as caught:
        sha_of_training(tmp_path, function, sim_threads=2, simulator_timeout=0.3)
    assert "definetti_np.simulate_example(simulator, seed=1, index=7)" in str(caught.value)


def test_train__slow_examples_in_a_row_are_not_one_that_hangs(tmp_path, undisturbed, caplog):
    """The clock of an example starts when the worker begins it, not when it is told to simulate it."""

    def simulate(rng):
        time.sleep(0.02)
        return simulator(rng)

    assert sha_of_training(tmp_path, simulate, sim_threads=1, simulator_timeout=1) == undisturbed
    assert caplog.records == []


COMMANDS = {
    "in the same process group": {"args": ["sh", "-c", "sleep 600 & echo $! >> pids; wait"]},
    "in another process group": {"args": ["timeout", "600", "sh", "-c", "echo $$ >> pids; exec sleep 600"]},
    "in another session": {"args": ["sh", "-c", "echo $$ >> pids; exec sleep 600"], "start_new_session": True},
    "in the background of another session": {"args": ["setsid", "sh", "-c", "sleep 600 & echo $! >> pids; wait"]},
}


@pytest.mark.parametrize("how", COMMANDS)
def test_train__what_a_simulator_that_hangs_has_started_is_killed_too(tmp_path, how):
    def simulate(rng):
        subprocess.run(**COMMANDS[how], cwd=tmp_path)

    with pytest.raises(SimulatorError, match="simulator_timeout=0.5"):
        sha_of_training(tmp_path, simulate, sim_threads=1, simulator_timeout=0.5)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert wait_until(lambda: not any(disasters.alive(pid) for pid in pids), 5)


def test_train__silence_is_reported(tmp_path, monkeypatch, caplog, undisturbed):
    monkeypatch.setattr(workers, "QUIET_SECONDS", 0.3)
    function = with_disaster(tmp_path, lambda: time.sleep(1), {7})
    assert sha_of_training(tmp_path, function, sim_threads=1) == undisturbed
    [first, *_] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        "no example has arrived for 0.3 seconds (simulator processes and their examples: 0 at 7)" in first.getMessage()
    )


def test_train__timeout_needs_processes():
    with pytest.raises(ValueError, match="simulator_timeout needs simulator processes to kill: sim_threads must be 1"):
        train(simulator=simulator, **disasters.SMALL, sim_threads=0, simulator_timeout=1)


STOPPED = """
import time
from disasters import sha_of_training, simulator

def simulate(rng):
    time.sleep(0.01)
    return simulator(rng)

simulate.__qualname__ = simulator.__qualname__  # which is in the model file

if __name__ == "__main__":
    print(sha_of_training({folder!r}, simulate, sim_threads=2, logfile=".", simulator_timeout=1.5))
"""


@pytest.mark.parametrize("who", ["a worker", "the workers", "the trainer", "all"])
def test_train__processes_that_are_stopped_and_continue(tmp_path, undisturbed, who):
    trainer = start_script(tmp_path, STOPPED.format(folder=str(tmp_path)))
    while "batch 0 " not in trainer.stderr.readline():
        assert trainer.poll() is None
    children = descendants(trainer.pid)
    stopped = {"a worker": children[:1], "the workers": children, "the trainer": [trainer.pid]}
    stopped["all"] = [trainer.pid, *children]
    for pid in stopped[who]:
        os.kill(pid, signal.SIGSTOP)
    # A worker that is stopped while the trainer runs cannot be told from one that hangs.
    time.sleep(0.5 if who.endswith(("worker", "workers")) else 3)
    for pid in stopped[who]:
        os.kill(pid, signal.SIGCONT)
    result, errors = trainer.communicate(timeout=60)
    assert (trainer.returncode, result.strip()) == (0, undisturbed), errors
    assert "simulator_timeout" not in errors


def test_workers__the_time_to_send_does_not_count(monkeypatch):
    """The trainer takes 3 s at least to receive these 64 MB, a part at a time."""
    receive = Worker.receive

    def receive_slowly(worker):
        time.sleep(0.012)
        return receive(worker)

    monkeypatch.setattr(Worker, "receive", receive_slowly)
    spec = network_spec((4, 2**22), (2,), [("conv", 1, 1)], ("max",), [("softmax",)])
    source = ExampleSource(lambda rng: (rng.random(spec.input_shape, np.float32), np.eye(2)[0]), 1, spec, "cross-ent")
    settings = StreamSettings(1, simulator_timeout=1.5, check_randomness=False)
    with WorkerStream(source, settings, range(1)) as stream:
        assert stream.next_batch(1)[0].rows.shape == (4, 2**22, 1)
