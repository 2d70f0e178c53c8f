"""What workers share with the trainer and each other (a socket, and nothing else), and that they die with it."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import disasters
import numpy as np
import pytest
from disasters import SMALL, descendants, sha_of_training, simulator, start_script, wait_until

from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
SPEC = network_spec(SMALL["input_shape"], SMALL["output_shape"], SMALL["phi_net"], ("max",), SMALL["h_net"])
METHODS = ["fork", "spawn", "forkserver"]


def open_stream(function=simulator, workers=2, capacity=40, stop=10**9, **options):
    settings = StreamSettings(workers, capacity, check_randomness=False, **options)
    return WorkerStream(ExampleSource(function, 1, SPEC, "cross-ent"), settings, range(stop))


TRAINER = """
import sys, time
import disasters
from disasters import simulator, with_disaster
from test_workers_alone import open_stream

if __name__ == "__main__":
    function = {function}
    stream = open_stream(function, start_method={method!r})
    stream.next_batch(10)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "function", ["simulator", "with_disaster({folder!r}, disasters.hang_with_the_gil, range(15, 1000))"]
)
def test_workers__die_with_the_trainer(tmp_path, method, function):
    program = TRAINER.format(function=function.format(folder=str(tmp_path)), method=method)
    trainer = start_script(tmp_path, program)
    assert trainer.stdout.readline() == "ready\n"
    if function != "simulator":
        assert wait_until(lambda: len(list(tmp_path.glob("*.0"))) == 2, 20)
    children = descendants(trainer.pid)
    assert len(children) >= 2
    trainer.kill()
    assert wait_until(lambda: not any(disasters.alive(pid) for pid in children), 5)
    trainer.communicate()


def started_again(rng):
    if disasters.index_of(rng) > 20:
        disasters.hang_with_the_gil()
    return simulator(rng)


AGAIN = """
import os, signal, time
from test_workers_alone import open_stream, started_again

stream = open_stream(started_again)
stream.next_batch(10)
for pid in [worker.pid for worker in stream._workers]:
    os.kill(pid, signal.SIGKILL)
    while len(pids := [worker.pid for worker in stream._workers]) < 2 or pid in pids:
        time.sleep(0.01)
print("ready", flush=True)
time.sleep(600)
"""


def test_workers__that_were_started_again_die_with_the_trainer_and_not_before(tmp_path):
    """A worker dies with the thread that started it: the receiver, which lives as long as the stream."""
    trainer = start_script(tmp_path, AGAIN)
    assert trainer.stdout.readline() == "ready\n"
    children = descendants(trainer.pid)
    assert len(children) == 2
    assert not wait_until(lambda: descendants(trainer.pid) != children, 1)
    trainer.kill()
    assert wait_until(lambda: not any(disasters.alive(pid) for pid in children), 5)
    trainer.communicate()


def starting_others(folder, rng):
    if index := disasters.index_of(rng):
        new_session = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
        subprocess.Popen(["timeout", "600", "sleep", "600"], stdin=subprocess.DEVNULL)
        child = os.fork()
        if not child:
            time.sleep(600)
        (folder / str(index)).write_text(f"{child} {new_session.pid}")
    return simulator(rng)


@pytest.mark.parametrize("end", ["close", "recycled", "killed"])
def test_workers__take_what_they_started_along(tmp_path, end):
    def started():
        return [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if disasters.alive(pid) and os.getsid(pid) in sessions
        ]

    options = {"worker_max_examples": 4} if end == "recycled" else {}
    with open_stream(functools.partial(starting_others, tmp_path), workers=1, stop=4, **options) as stream:
        sessions = {worker.pid for worker in stream._workers}
        stream.next_batch(4)
        worker = stream._workers[0] if stream._workers else None
        if end == "killed":
            assert wait_until(lambda: len(started()) == 1 + 3 * 3, 10)
            os.kill(worker.pid, signal.SIGKILL)
        if end != "close":
            assert wait_until(lambda: started() == [], 10)
    assert wait_until(lambda: started() == [], 10)
    in_new_sessions = [int((tmp_path / str(index)).read_text().split()[1]) for index in (1, 2, 3)]
    if end == "killed":  # such a process is known as long as its worker lives
        for pid in in_new_sessions:
            os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(map(disasters.alive, in_new_sessions)), 10)


def test_workers__have_a_process_group_and_signals_of_their_own(tmp_path):
    """Those that a trainer handles; a handler of another one may be that of the simulator's module, and stays."""

    def simulate(rng):
        kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM)
        lines = [str(signal.getsignal(kind)) for kind in kinds] + [str(signal.pthread_sigmask(signal.SIG_BLOCK, []))]
        (tmp_path / "seen").write_text("\n".join([*lines, str(os.getpgid(0) == os.getpid() == os.getsid(0))]))
        return simulator(rng)

    def handler(*arguments):
        raise RuntimeError

    kinds = (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    before = {kind: signal.signal(kind, handler) for kind in kinds}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with open_stream(simulate, workers=1, stop=1) as stream:
            stream.next_batch(1)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        for kind, old in before.items():
            signal.signal(kind, old)
    expected = [str(signal.SIG_IGN), *[str(signal.SIG_DFL)] * 4, str(handler), "set()", "True"]
    assert (tmp_path / "seen").read_text().splitlines() == expected


@pytest.mark.parametrize("method", METHODS)
def test_workers__share_no_lock_and_no_memory(method):
    before = Path("/proc/self/maps").read_text().splitlines()  # what others have put into this process
    inherited = {line.split()[4] for line in before if line.split()[4] != "0"}
    inherited_sockets = sockets_of("self")
    with open_stream(workers=3, start_method=method) as stream:
        stream.next_batch(10)
        sockets = []
        for worker in stream._workers:
            links = links_of(worker.pid)
            sockets.append(sockets_of(worker.pid))
            mapped = Path(f"/proc/{worker.pid}/maps").read_text().splitlines()
            mapped = [line for line in mapped if line.split()[4] not in inherited]
            assert not [line for line in [*links, *mapped] if "/dev/shm" in line or "/sem." in line]
            assert not [line for line in mapped if re.search(r"^\S+ rw.s ", line)], "pages that several processes write"
    for i, mine in enumerate(sockets):
        for others in sockets[:i]:
            assert not (mine & others) - inherited_sockets


def links_of(pid):
    """What the open files of a process are."""
    links = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that with which this process looks
            links.append(os.readlink(path))
    return links


def sockets_of(pid):
    return {link for link in links_of(pid) if link.startswith("socket:")}


@pytest.mark.parametrize("method", METHODS)
def test_workers__few_files_in_the_trainer(method):
    def count():
        return len(os.listdir("/proc/self/fd"))

    with open_stream(start_method=method) as stream:  # starts what multiprocessing keeps
        stream.next_batch(10)
    before = count()
    with open_stream(workers=5, start_method=method) as stream:
        stream.next_batch(10)
        assert count() <= before + 4 * 5
        for _ in range(1000):
            stream.next_batch(1)
        assert count() <= before + 4 * 5
    assert count() == before


def multiply(folder, rng):
    matrix = np.ones((1500, 1500))
    for _ in range(4):
        matrix @ matrix
    threads = Path("/proc/self/task").iterdir()
    ticks = [sum(map(int, (t / "stat").read_text().rsplit(")", 1)[1].split()[11:13])) for t in threads]
    (folder / "ticks").write_text(" ".join(map(str, sorted(ticks))))
    return simulator(rng)


@pytest.mark.parametrize("method", METHODS)
def test_workers__multiply_matrices_with_one_thread(tmp_path, method):
    np.ones((500, 500)) @ np.ones((500, 500))  # the trainer's threads run
    with open_stream(functools.partial(multiply, tmp_path), workers=1, stop=1, start_method=method) as stream:
        stream.next_batch(1)
    *others, most = map(int, (tmp_path / "ticks").read_text().split())
    assert sum(others) <= 0.25 * most, "others may exist, but do not multiply"


BLOCKED = """
import multiprocessing.util, os, sys, threading, time, signal
from disasters import simulator
from test_workers_alone import open_stream

def simulate(rng):
    sys.stdout.flush()
    return simulator(rng)

multiprocessing.util._flush_std_streams = lambda: None  # it would wait for the other thread
threading.Thread(target=lambda: print("x" * 10**6), daemon=True).start()  # nobody reads
time.sleep(0.5)
stream = open_stream(simulate)
stream.next_batch(10)
for _ in range(3):
    os.kill(stream._workers[0].pid, signal.SIGKILL)
    for _ in range(20):
        stream.next_batch(10)
stream.close()
print("done", file=sys.stderr, flush=True)
os._exit(0)
"""


def test_workers__are_forked_while_another_thread_writes(tmp_path):
    trainer = start_script(tmp_path, BLOCKED)
    killer = threading.Timer(60, trainer.kill)
    killer.start()
    assert "done" in trainer.stderr.read()
    killer.cancel()
    trainer.communicate()


@pytest.mark.parametrize("method", METHODS)
def test_train__recycled_workers_give_the_same_file(tmp_path, method, caplog):
    options = {"sim_threads": 2, "start_method": method}
    (tmp_path / "recycled").mkdir()
    recycled = sha_of_training(tmp_path / "recycled", **options, worker_max_examples=7 if method == "fork" else 60)
    assert recycled == sha_of_training(tmp_path, sim_threads=0)
    assert caplog.records == []


def say_who(rng):
    return np.full(SMALL["input_shape"], os.getpid()), np.eye(2)[0]


def test_worker_stream__recycled_workers_simulate_so_many_examples():
    with open_stream(say_who, workers=1, worker_max_examples=3, stop=10, capacity=10) as stream:
        batch, _ = stream.next_batch(10)
    pids = batch.rows[:, 0, 0].tolist()
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3, 1]
