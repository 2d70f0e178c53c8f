"""Workers that die: noticed, reported, replaced, and the model that comes out is the same file."""

import logging
import os
import random
import signal
import socket
import sys
import threading
import time

import disasters
import numpy as np
import pytest
from disasters import SMALL, descendants, sha_of_training, simulator, start_script, with_disaster

from definetti_np import SimulatorError
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
SPEC = network_spec(SMALL["input_shape"], SMALL["output_shape"], SMALL["phi_net"], ("max",), SMALL["h_net"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return sha_of_training(tmp_path_factory.mktemp("undisturbed"), sim_threads=0)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def assert_none_left():
    """Nothing but helpers is left of the processes that this one has started."""
    assert [pid for pid in descendants(os.getpid()) if not is_helper(pid)] == []


def is_helper(pid):
    """Whether multiprocessing, or loky in a test before, keeps this process for itself."""
    return any(name in command_of(pid) for name in (b"multiprocessing", b"loky.backend.resource_tracker"))


def command_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    ("disaster", "how"),
    [
        (disasters.be_killed, "was killed by SIGKILL"),
        (disasters.segfault, "was killed by SIGSEGV"),
        (disasters.exit_0, "ended with exit code 0"),
        (disasters.leave_a_process_that_holds_everything_and_die, "ended with exit code 5"),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_train__workers_that_die_change_nothing(tmp_path, caplog, undisturbed, disaster, how, workers):
    function = with_disaster(tmp_path, disaster, {0, 33, 199}, times=2)
    assert sha_of_training(tmp_path, function, sim_threads=workers) == undisturbed
    for index in (0, 33, 199):
        text = f"{how} while it simulated example {index} of seed 1"
        assert sum(text in message for message in warnings_of(caplog)) == 2
    assert len(warnings_of(caplog)) == 6
    assert_none_left()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_train__workers_that_die_change_nothing_under_other_start_methods(tmp_path, undisturbed, start_method):
    function = with_disaster(tmp_path, disasters.exit_3, {7, 120})
    assert sha_of_training(tmp_path, function, sim_threads=2, start_method=start_method) == undisturbed
    assert_none_left()


def test_train__the_third_death_at_an_example_ends_it(tmp_path, caplog):
    def simulate(rng):
        if disasters.index_of(rng) == 7:
            with_disaster(tmp_path, disasters.exit_0, {7})(rng)
            with_disaster(tmp_path / "second", disasters.exit_3, {7})(rng)
            disasters.be_killed()
        return simulator(rng)

    (tmp_path / "second").mkdir()
    with pytest.raises(SimulatorError) as caught:
        sha_of_training(tmp_path, simulate, sim_threads=2)
    message = str(caught.value)
    assert "was killed by SIGKILL while it simulated example 7 of seed 1; if nobody killed it, it may" in message
    assert "ended with exit code 0; ended with exit code 3; was killed by SIGKILL" in message
    assert "definetti_np.simulate_example(simulator, seed=1, index=7)" in message
    assert_none_left()


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_train__workers_that_die_at_every_example_end_it(workers, tmp_path):
    start = time.monotonic()
    with pytest.raises(SimulatorError, match="ended with exit code 3; ended with exit code 3; ended with exit code 3"):
        sha_of_training(tmp_path, lambda rng: os._exit(3), sim_threads=workers)
    assert time.monotonic() - start < 30
    assert_none_left()


def test_worker_stream__workers_that_cannot_start_again_end_it(monkeypatch, caplog):
    with open_stream(simulator, workers=2) as stream:
        stream.next_batch(10)
        # As if something on the machine had changed: every process that is started from now on ends at once.
        monkeypatch.setattr("definetti_np.simulation.worker.worker_main", lambda *arguments: os._exit(9))
        os.kill(stream._workers[0].pid, signal.SIGKILL)
        with pytest.raises(
            SimulatorError,
            match="before it was ready, ended with exit code 9, as the 9 before: ended with exit code 9; ",
        ):
            [stream.next_batch(10) for _ in range(10**6)]
    assert_none_left()


def open_stream(function, workers=2):
    source = ExampleSource(function, 1, SPEC, "cross-ent")
    return WorkerStream(source, StreamSettings(workers, queue_capacity=40), range(10**9))


def test_worker_stream__a_hundred_deaths_leave_nothing_behind(caplog):
    with open_stream(simulator) as stream:
        stream.next_batch(10)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            victim = random.choice(stream._workers)
            os.kill(victim.pid, signal.SIGKILL)
            while victim in stream._workers:
                stream.next_batch(10)
        assert disasters.wait_until(lambda: len(descendants(os.getpid())) <= 2 + helpers(), 10)
        assert len(os.listdir("/proc/self/fd")) <= before
    assert len(warnings_of(caplog)) == 100
    assert_none_left()


def helpers():
    return sum(map(is_helper, descendants(os.getpid())))


@pytest.mark.parametrize("sent", [0, 10, 39, 40, 41, 100_000, -1])
def test_worker_stream__killed_within_a_message(tmp_path, monkeypatch, caplog, sent):
    """Header and body, cut anywhere: what has arrived of it is forgotten."""
    whole = socket.socket.sendall

    def sendall(self, data):
        if len(data) > 200_000 and not (tmp_path / "cut").exists():
            (tmp_path / "cut").touch()
            whole(self, data[:sent])
            disasters.be_killed()
        whole(self, data)

    def simulate(rng):
        return rng.random((20_000, 3)), np.array([0.0, 1])

    source = ExampleSource(simulate, 1, network_spec((None, 3), (2,), [], ("max",), [("softmax",)]), "cross-ent")
    monkeypatch.setattr(socket.socket, "sendall", sendall)
    with WorkerStream(source, StreamSettings(1, queue_capacity=2), range(2)) as stream:
        data, _ = stream.next_batch(2)
    for i in range(2):
        assert data.slice(i, i + 1).rows.tobytes() == source.example(i).rows.tobytes()
    assert "was killed by SIGKILL while it simulated example 0 of seed 1" in warnings_of(caplog)[0]


STORM = """
import time
from disasters import sha_of_training, simulator

def simulate(rng):
    time.sleep(0.001)
    return simulator(rng)

if __name__ == "__main__":
    print(sha_of_training({folder!r}, simulate, num_batches={batches}, batch_size=50, queue_capacity=100,
                          sim_threads={workers}, logfile="."))
"""


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_train__a_storm_of_kills(tmp_path, seconds):
    program = STORM.format(folder=str(tmp_path), batches=25 * seconds, workers=2)
    twin = start_script(tmp_path, program.replace("sim_threads=2", "sim_threads=0").replace("time.sleep(0.001)", "0"))
    expected, errors = twin.communicate(timeout=120)
    assert twin.returncode == 0, errors

    trainer = start_script(tmp_path, program)
    log = trainer.stderr.readline()
    while "batch 0 of" not in log:
        log = trainer.stderr.readline()
    lines, kills = [], 0
    reading = threading.Thread(target=lines.extend, args=(trainer.stderr,))  # a full pipe would stop the trainer
    reading.start()
    while trainer.poll() is None and kills < 10 * seconds:
        if workers := descendants(trainer.pid):
            os.kill(random.choice(workers), signal.SIGKILL)
            kills += 1
        # A busy machine gives a new process its turn later, and three deaths at one example would end the run.
        time.sleep(0.1 * max(1, os.getloadavg()[0] / os.cpu_count()))
    trainer.wait(timeout=120)
    reading.join()
    result, _ = trainer.communicate()
    errors = "".join(lines)
    assert (trainer.returncode, result) == (0, expected), errors
    assert kills >= seconds, "fewer on a busy machine"
    assert "was killed by SIGKILL" in errors
