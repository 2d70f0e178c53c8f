"""Any executor gives the batches that worker processes give."""

import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import loky
import numpy as np
import pytest
from disasters import SMALL, sha_of_training, simulator

from definetti_np import SimulatorError, train
from definetti_np.simulation import executors
from definetti_np.simulation.executors import ExecutorStream, number_of_workers
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import StreamSettings
from definetti_np.specs import network_spec


def simulator_without_argument():
    return np.random.normal(size=SMALL["input_shape"]), np.eye(2)[np.random.randint(2)]


def fail_at_large(rng):
    value = rng.random()
    if value > 0.9:
        raise ValueError("large")
    return np.full(SMALL["input_shape"], value), np.eye(2)[0]


def leave(rng):
    raise SystemExit(3)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture
def processes():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def loky_processes():
    with loky.ProcessPoolExecutor(2) as executor:
        yield executor


def folder(path, name):
    (path / name).mkdir()
    return path / name


def test_train__executors_give_the_same_file(tmp_path, threads, processes, loky_processes):
    expected = sha_of_training(folder(tmp_path, "serial"), simulator, sim_threads=0)
    for name, executor in {"threads": threads, "processes": processes, "loky": loky_processes}.items():
        for capacity in (SMALL["batch_size"], 250):
            where = folder(tmp_path, f"{name} {capacity}")
            assert sha_of_training(where, simulator, executor=executor, queue_capacity=capacity) == expected


def test_train__threads_share_the_global_generators_in_turn(tmp_path, threads):
    serial = sha_of_training(folder(tmp_path, "serial"), simulator_without_argument, sim_threads=0)
    where = folder(tmp_path, "threads")
    assert sha_of_training(where, simulator_without_argument, executor=threads) == serial


def test_train__redraws_of_an_executor_are_those_of_workers(tmp_path, threads, caplog):
    options = {"on_simulator_error": "redraw", "max_redraw_fraction": 0.5}
    serial = sha_of_training(folder(tmp_path, "serial"), fail_at_large, sim_threads=0, **options)
    first = caplog.messages[-1]
    where = folder(tmp_path, "threads")
    assert sha_of_training(where, fail_at_large, executor=threads, **options) == serial
    assert "ValueError: large" in first
    assert caplog.messages[-1] == first


@pytest.mark.parametrize("function", [fail_at_large, leave])
def test_train__a_failing_simulator_stops_at_its_example(threads, function):
    errors = []
    for options in ({"sim_threads": 0}, {"executor": threads}):
        with pytest.raises(SimulatorError) as caught:
            train(simulator=function, **{**SMALL, **options})
        errors.append(str(caught.value).splitlines()[0])
    assert errors[0] == errors[1]


def test_train__a_pool_that_breaks_says_where(processes):
    with pytest.raises(SimulatorError, match=r"examples \d+ to \d+ of seed 1, .*: the executor failed: BrokenP"):
        train(simulator=end_process, executor=processes, **SMALL)


def end_process_or_be_busy(rng):
    if rng.bit_generator.seed_seq.spawn_key[0] == 0:
        time.sleep(600)
    time.sleep(0.5)
    end_process(rng)


def test_train__a_process_that_is_busy_does_not_hold_up_a_pool_that_breaks():
    """The pool ends its processes with SIGTERM, which was handled while they were forked."""
    with (
        pytest.raises(SimulatorError, match="the executor failed: BrokenProcessPool"),
        ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor,
    ):
        train(simulator=end_process_or_be_busy, executor=executor, **{**SMALL, "queue_capacity": 16})


def test_train__an_executor_that_is_shut_down_leaves_a_checkpoint(tmp_path):
    executor = ThreadPoolExecutor(1)

    def shut_down_later(rng):
        if rng.bit_generator.seed_seq.spawn_key[0] == 60:
            executor.shutdown(wait=False)
        return simulator(rng)

    with pytest.raises(SimulatorError, match="the executor failed: RuntimeError: cannot schedule new futures"):
        sha_of_training(tmp_path, shut_down_later, executor=executor)
    assert (tmp_path / "weights.checkpoint.npz").exists()


def end_process(rng):
    import os

    os._exit(1)


def test_train__leaves_the_executor_open_and_nothing_in_it(threads):
    train(simulator=simulator, executor=threads, **SMALL)
    assert threads.submit(int, "7").result(10) == 7


class Never:
    """An executor that begins nothing."""

    def __init__(self):
        self.futures = []

    def submit(self, *call):
        self.futures.append(Future())
        return self.futures[-1]


def test_train__an_executor_that_does_nothing_can_be_interrupted():
    import os
    import signal
    import threading

    executor = Never()
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(simulator=simulator, executor=executor, **SMALL)
    assert time.monotonic() - start < 60
    assert all(future.cancelled() for future in executor.futures)


class Client:
    """A client of Dask, as far as it matters: its `submit` has other arguments."""

    def submit(self, function, *arguments, **keywords):
        raise AssertionError

    def get_executor(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": 3}, "executor must be an object with a method submit, as those of concurrent.futures, got 3"),
        ({"executor": Client()}, "is a client; give its executor, client.get_executor()"),
        ({"executor": ThreadPoolExecutor}, "executor must be an object with a method submit"),
        ({"simulator_timeout": 1}, "simulator_timeout"),
        ({"worker_max_examples": 1}, "worker_max_examples"),
        ({"start_method": "fork"}, "start_method"),
        ({"sim_threads": 2}, "sim_threads"),
    ],
)
def test_train__what_does_not_go_with_an_executor(options, message, threads):
    with pytest.raises((TypeError, ValueError), match=message):
        train(simulator=simulator, **{**SMALL, "sim_threads": None, "executor": threads, **options})


class Cluster(Executor):
    """Threads that stand for the workers of a cluster; `fault` may take a task of an attempt out of their hands."""

    def __init__(self, workers, fault=lambda indices, attempt: None):
        self.num_workers = workers
        self.tasks = []  # (indices, attempt)
        self._fault = fault
        self._threads = ThreadPoolExecutor(2)

    def submit(self, function, source, indices, attempt):
        self.tasks.append((indices, attempt))
        return self._fault(indices, attempt) or self._threads.submit(function, source, indices, attempt)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


class WorkerLostError(RuntimeError):
    pass


def lost():
    future = Future()
    future.set_exception(WorkerLostError("the machine is gone"))
    return future


FAULTS = {
    "lost once": lambda indices, attempt: lost() if attempt == 0 and 20 in indices else None,
    "lost twice": lambda indices, attempt: lost() if attempt < 2 and 20 in indices else None,
    "many lost": lambda indices, attempt: lost() if attempt == 0 and indices[0] % 3 == 0 else None,
    "first lost": lambda indices, attempt: lost() if attempt == 0 and 0 in indices else None,
    "silent": lambda indices, attempt: Future() if attempt == 0 and 60 in indices else None,
    "silent twice": lambda indices, attempt: Future() if attempt < 2 and 60 in indices else None,
    "two silent": lambda indices, attempt: Future() if attempt == 0 and {60, 61} & set(indices) else None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_train__what_a_cluster_loses_is_sent_again(tmp_path, fault, monkeypatch, caplog):
    monkeypatch.setattr(executors, "LEAST_LATE_SECONDS", 0.2)
    expected = sha_of_training(folder(tmp_path, "serial"), simulator, sim_threads=0)
    with Cluster(2, FAULTS[fault]) as executor:
        where = folder(tmp_path, "cluster")
        assert sha_of_training(where, simulator, executor=executor, queue_capacity=None) == expected
    again = [indices for indices, attempt in executor.tasks if attempt > 0]
    assert again
    text = "come back" if "silent" in fault else "because it raised WorkerLostError: the machine is gone"
    assert sum(text in message for message in caplog.messages) == len(again)


def test_train__what_a_cluster_always_loses_ends_it():
    with (
        Cluster(2, lambda indices, attempt: lost() if 20 in indices else None) as executor,
        pytest.raises(
            SimulatorError, match="examples .* of seed 1, .* the executor failed: WorkerLostError: the machine is"
        ),
    ):
        train(simulator=simulator, executor=executor, **SMALL)
    assert sorted(attempt for indices, attempt in executor.tasks if 20 in indices) == [0, 1, 2]


def simulate_slowly(rng):
    time.sleep(0.3)
    return simulator(rng)


def test_train__tasks_are_few_examples_if_these_take_long_and_many_if_not(caplog):
    caplog.set_level("INFO", "definetti_np")
    with Cluster(2) as executor:
        train(simulator=simulate_slowly, executor=executor, **{**SMALL, "num_batches": 1, "queue_capacity": None})
    assert {len(indices) for indices, _ in executor.tasks} <= {1, 2}  # two are what is simulated twice
    with Cluster(2) as executor:
        many = {"num_batches": 200, "batch_size": 20, "queue_capacity": None}
        train(simulator=simulator, executor=executor, **{**SMALL, **many})
    sizes = [len(indices) for indices, _ in executor.tasks]
    assert max(sizes) > 50
    assert sizes[0] == 1
    assert any("the executor has 2 workers; tasks of" in message for message in caplog.messages)


@pytest.mark.parametrize(("capacity", "least", "most"), [(None, 2 * 256, 4 * 256), (250, 250 / 8, 250)])
def test_executor_stream__many_workers_have_something_to_do(capacity, least, most):
    """Each has a task at hand and another one that comes, unless `queue_capacity` keeps them short."""
    executor = Never()
    executor.num_workers = 256
    spec = network_spec(SMALL["input_shape"], SMALL["output_shape"], SMALL["phi_net"], ("max",), SMALL["h_net"])
    settings = StreamSettings(0, capacity, executor=executor, check_randomness=False)
    with ExecutorStream(ExampleSource(simulator, 1, spec, "cross-ent"), settings, range(4000)):
        assert least <= len(executor.futures) <= most


def test_number_of_workers__of_the_executors_there_are(threads, processes, loky_processes):
    assert number_of_workers(threads) == 3
    assert number_of_workers(processes) == number_of_workers(loky_processes) == 2
    assert number_of_workers(Cluster(7)) == 7
    assert number_of_workers(Never()) is None


def with_another_numpy(indices, attempt):
    future = Future()
    versions = tuple("numpy 1.0" if version.startswith("numpy") else version for version in executors.versions_here())
    spec = network_spec(SMALL["input_shape"], SMALL["output_shape"], SMALL["phi_net"], ("max",), SMALL["h_net"])
    _, _, messages = executors.simulate(ExampleSource(simulator, 1, spec, "cross-ent"), indices)
    future.set_result((0.1, versions, messages))
    return future


def test_train__workers_with_other_versions_are_refused_unless_they_are_allowed():
    with Cluster(2, with_another_numpy) as executor:
        with pytest.raises(SimulatorError, match=r"has numpy 1\.0, and this process numpy \d.*check_versions=False"):
            train(simulator=simulator, executor=executor, **SMALL)
        train(simulator=simulator, executor=executor, check_versions=False, **SMALL)
