"""Simulator processes: the same examples as in process, and an end to everything that goes wrong."""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from definetti_np import SimulatorError
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import SerialStream, StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

SPEC = network_spec((None, 3), (2,), [("fc", 5)], ("max",), [("softmax",)])
LABEL = np.array([0.0, 1])


def simulator(rng):
    return rng.integers(0, 2, (rng.integers(1, 30), 3)), rng.permutation(LABEL)


def open_stream(function, *, workers=2, capacity=20, first=0, stop=10**9, **options):
    settings = StreamSettings(workers, capacity, check_randomness=False, **options)
    return WorkerStream(ExampleSource(function, 1, SPEC, "cross-ent"), settings, range(first, stop))


def open_serial_stream(function, first=0):
    return SerialStream(
        ExampleSource(function, 1, SPEC, "cross-ent"), StreamSettings(0, check_randomness=False), range(first, 10**9)
    )


def bits(batch):
    data, labels = batch
    return b"".join(array.tobytes() for array in (data.rows, data.counts, data.offsets, labels))


def failing_at(index, function):
    """A simulator that calls `function` instead of simulating example `index`."""
    seeded = np.random.default_rng(np.random.SeedSequence(1, spawn_key=(index,))).integers(2**60)

    def failing(rng):
        if rng.integers(2**60) == seeded:
            function()
        return simulator(rng)

    return failing


@pytest.fixture(autouse=True)
def _no_process_survives():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("capacity", [5, 64])
def test_worker_stream__same_examples_as_in_process(workers, capacity):
    with open_serial_stream(simulator, first=3) as serial:
        expected = [bits(serial.next_batch(5)) for _ in range(12)]
    with open_stream(simulator, workers=workers, capacity=capacity, stop=63, first=3) as stream:
        assert [bits(stream.next_batch(5)) for _ in range(12)] == expected


def test_worker_stream__start_methods_give_the_same_examples():
    results = set()
    for method in ("fork", "spawn", "forkserver"):
        with open_stream(simulator, stop=10, start_method=method) as stream:
            results.add(bits(stream.next_batch(10)))
    assert len(results) == 1


def test_worker_stream__spawn_refuses_a_lambda():
    with pytest.raises(TypeError, match="with start method 'spawn' it must be a function that can be imported"):
        open_stream(lambda rng: simulator(rng), start_method="spawn")


def test_worker_stream__lambdas_and_closures():
    scale = 3.0
    with open_stream(lambda: (np.full((2, 3), scale), LABEL), stop=4) as stream:
        assert stream.next_batch(4)[0].rows.max() == 3


def test_worker_stream__each_example_once_and_at_most_capacity_ahead(tmp_path):
    def recording(rng):
        with open(tmp_path / "calls", "ab", buffering=0) as file:
            file.write(b".")
        return simulator(rng)

    def calls():
        return os.path.getsize(tmp_path / "calls")

    with open_stream(recording, capacity=20, stop=50) as stream:
        stream.next_batch(5)
        deadline = time.monotonic() + 20
        while calls() < 25 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert calls() == 25, "5 taken and 20 ahead"
        for _ in range(9):
            stream.next_batch(5)
    assert calls() == 50


def test_worker_stream__large_examples():
    with open_stream(lambda rng: (rng.random((300_000, 3)), LABEL), capacity=2, stop=4) as stream:
        assert all(stream.next_batch(1)[0].rows.shape == (300_000, 3, 1) for _ in range(4))


def fail():
    raise RuntimeError("no luck")


def test_worker_stream__a_failing_simulator_stops_at_its_example():
    with open_stream(failing_at(12, fail)) as stream:
        stream.next_batch(5)
        stream.next_batch(5)
        with pytest.raises(SimulatorError) as caught:
            stream.next_batch(5)
    message = str(caught.value)
    assert "example 12 of seed 1: the simulator failed" in message
    assert "in fail\n" in message
    assert "RuntimeError: no luck" in message
    assert "definetti_np.simulate_example(simulator, seed=1, index=12)" in message


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL {}; if nobody killed it, it may have"),
        (lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)), "was killed by SIGSEGV {}"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1} {{}}"),
        (lambda: os._exit(0), "ended with exit code 0 {}"),
        (lambda: os._exit(3), "ended with exit code 3 {}"),
    ],
    ids=["SIGKILL", "SIGSEGV", "real-time signal", "exit 0", "exit 3"],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_worker_stream__a_dying_worker_is_named(function, how, workers):
    start = time.monotonic()
    with open_stream(failing_at(12, function), workers=workers, capacity=20) as stream:
        with pytest.raises(SimulatorError) as caught:
            stream.next_batch(20)
    assert how.format("while it simulated example 12 of seed 1") in str(caught.value)
    assert "pid" in str(caught.value)
    assert "definetti_np.simulate_example(simulator, seed=1, index=12)" in str(caught.value)
    assert time.monotonic() - start < 30, "it does not hang"


def test_worker_stream__killed_in_the_middle_of_a_message():
    def simulate(rng):
        return rng.random((100_000, 3)), LABEL

    with open_serial_stream(simulate) as serial:
        expected = bits(serial.next_batch(4))
    with open_stream(simulate, workers=1, capacity=4) as stream:
        os.kill(stream._workers[0].pid, signal.SIGKILL)
        assert bits(stream.next_batch(4)) == expected


def fork_and_die():
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    os._exit(5)


def test_worker_stream__a_dead_worker_whose_child_lives_on():
    start = time.monotonic()
    with (
        open_stream(failing_at(2, fork_and_die), workers=1) as stream,
        pytest.raises(SimulatorError, match="ended with exit code 5"),
    ):
        stream.next_batch(5)
    assert time.monotonic() - start < 20


def test_worker_stream__killed_in_the_middle_of_a_message_while_its_child_lives_on():
    def simulate(rng):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        return rng.random((100_000, 3)), LABEL

    start = time.monotonic()
    with open_stream(simulate, workers=1, capacity=8) as stream:
        stream.next_batch(1)
        os.kill(stream._workers[0].pid, signal.SIGKILL)
        stream.next_batch(8)
    assert time.monotonic() - start < 20


def test_worker_stream__a_fork_while_another_thread_draws_random_numbers():
    stop = threading.Event()

    def draw():
        while not stop.is_set():
            np.random.standard_normal(300_000)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(3):
            with open_stream(lambda: (np.random.random((2, 3)), LABEL)) as stream:
                stream.next_batch(5)
    finally:
        stop.set()
        thread.join()


def raise_text_that_is_no_unicode():
    raise ValueError("no file \udcff")


def raise_keyboard_interrupt():
    raise KeyboardInterrupt("not by the user")


@pytest.mark.parametrize(
    ("function", "message"),
    [(raise_text_that_is_no_unicode, r"ValueError: no file \\udcff"), (raise_keyboard_interrupt, "not by the user")],
)
def test_worker_stream__any_error_arrives_with_its_traceback(function, message):
    with open_stream(failing_at(2, function)) as stream, pytest.raises(SimulatorError, match=message) as caught:
        stream.next_batch(5)
    assert f"in {function.__name__}" in str(caught.value)


def test_worker_stream__an_error_of_the_receiver_is_raised(monkeypatch):
    def fail(self, worker):
        raise MemoryError("out of it")

    with open_stream(simulator) as stream:
        monkeypatch.setattr(WorkerStream, "_receive_from", fail)
        with pytest.raises(SimulatorError, match=r"receiver .* MemoryError\('out of it'\)"):
            [stream.next_batch(5) for _ in range(20)]


def test_worker_stream__no_more_examples_than_there_are():
    stream = open_stream(simulator, capacity=20, stop=30)
    with stream:
        with pytest.raises(ValueError, match="no examples 0 to 20: the queue holds 20"):
            stream.next_batch(21)
        stream.next_batch(20)
        with pytest.raises(ValueError, match="no examples 20 to 30: .* the last example is 29"):
            stream.next_batch(11)
    with pytest.raises(ValueError, match="the stream is closed"):
        stream.next_batch(1)


def test_worker_stream__closes_at_once_while_workers_simulate_or_send():
    for function in (lambda rng: time.sleep(60), lambda rng: (rng.random((1_000_000, 3)), LABEL)):
        stream = open_stream(function, capacity=4)
        time.sleep(0.2)
        start = time.monotonic()
        stream.close()
        assert time.monotonic() - start < 10


def test_worker_stream__leaves_no_file_descriptor_open():
    def count():
        return len(os.listdir("/proc/self/fd"))

    with open_stream(simulator, stop=5) as stream:
        stream.next_batch(5)
    before = count()
    for _ in range(5):
        with open_stream(simulator, workers=4, stop=5) as stream:
            stream.next_batch(5)
            assert count() <= before + 4 * 4
    assert count() == before


def test_worker_stream__workers_leave_signals_to_the_trainer(tmp_path):
    def simulate(rng):
        (tmp_path / "state").write_text(f"{signal.getsignal(signal.SIGINT)!r} {signal.getsignal(signal.SIGTERM)!r}")
        return simulator(rng)

    with open_stream(simulate, stop=1) as stream:
        stream.next_batch(1)
    assert (tmp_path / "state").read_text() == f"{signal.SIG_IGN!r} {signal.SIG_DFL!r}"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_worker_stream__workers_end_when_the_trainer_is_killed(tmp_path):
    program = tmp_path / "trainer.py"
    program.write_text(
        "import os, signal, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from test_workers import open_stream, simulator\n"
        "stream = open_stream(simulator, workers=3)\n"
        "stream.next_batch(5)\n"
        "print(*[worker.process.pid for worker in stream._workers], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3, done.stderr
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("workers", [0, 1])
def test_stream__an_error_is_short(workers):
    def fail(rng):
        raise ValueError("x" * 10**7 + " the end")

    stream = open_stream(fail, workers=1) if workers else open_serial_stream(fail)
    with stream, pytest.raises(SimulatorError, match="(?s)example 0 of seed 1.*xxx.*characters.*the end") as caught:
        stream.next_batch(1)
    assert len(str(caught.value)) < 30_000
