"""Any executor gives the batches that worker processes give."""

import functools
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import loky
import numpy as np
import pytest
from disasters import SMALL, be_killed, sha_of_training, simulator, with_disaster

from definetti_np import SimulatorError, simulate, train
from definetti_np.interruption import Waiting
from definetti_np.simulation import executors
from definetti_np.simulation.executors import ExecutorStream, number_of_workers
from definetti_np.simulation.parcel import Parcel
from definetti_np.simulation.pool import Pool
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


def test_train__a_pool_that_breaks_leaves_a_checkpoint_that_finishes(tmp_path, processes, caplog):
    expected = sha_of_training(folder(tmp_path, "serial"), simulator, sim_threads=0)
    where = folder(tmp_path, "processes")
    with pytest.raises(SimulatorError, match="takes no more tasks. Call again with a new one; with a function"):
        sha_of_training(where, with_disaster(where, be_killed, [120]), executor=processes)
    assert any("resume=True goes on from there" in message for message in caplog.messages)
    assert (where / "weights.checkpoint.npz").exists()
    assert sha_of_training(where, simulator, executor=None, sim_threads=0, resume=True) == expected


class Breaking:
    """A pool that breaks at the second call, and fails the first one while that is refused."""

    def __init__(self):
        self.future, self._failing = Future(), threading.Thread(target=self._fail)

    def submit(self, function, *arguments):
        if self._failing.ident is not None:
            raise BrokenExecutor("a process was lost")
        self._failing.start()
        return self.future

    def _fail(self):
        time.sleep(0.2)  # what would be cancelled meanwhile makes this an InvalidStateError
        self.future.set_exception(BrokenExecutor("a process was lost"))


def test_pool__lets_an_executor_that_breaks_fail_its_calls():
    executor = Breaking()
    pool = Pool(executor)
    assert pool.submit(int) is executor.future
    with pytest.raises(BrokenExecutor):
        pool.submit(int)
    assert executor.future.done()


def new_process_pool():
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@pytest.mark.parametrize("make", [new_process_pool, functools.partial(loky.get_reusable_executor, 2)])
def test_train__an_executor_that_a_function_makes_is_made_anew_where_it_breaks(tmp_path, make):
    expected = sha_of_training(folder(tmp_path, "serial"), simulator, sim_threads=0)
    where, made = folder(tmp_path, "made"), []

    def make_and_note():
        made.append(make())
        return made[-1]

    assert sha_of_training(where, with_disaster(where, be_killed, [0, 60, 120]), executor=make_and_note) == expected
    assert len(made) > 1
    for executor in made:
        with pytest.raises(RuntimeError):
            executor.submit(int)


def test_train__an_executor_that_is_made_anew_and_always_breaks_ends_it():
    with pytest.raises(SimulatorError, match="the executor failed: BrokenProcessPool.*It was made anew each time"):
        train(simulator=end_process, executor=new_process_pool, **SMALL)


class NoFutures:
    def submit(self, function, *arguments):
        return function(*arguments)


def test_train__an_executor_without_futures():
    with pytest.raises(SimulatorError, match=r"its submit must return a Future of concurrent\.futures, got \('defin"):
        train(simulator=simulator, executor=NoFutures(), **SMALL)


def make_no_executor():
    return 3


def fail_to_make():
    raise OSError("no room")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_no_executor, "executor: the function must return an executor with a method submit, got 3"),
        (fail_to_make, "the function that makes the executor failed: OSError: no room"),
    ],
)
def test_train__a_function_that_makes_no_executor(make, message):
    with pytest.raises(SimulatorError, match=message):
        train(simulator=simulator, executor=make, **SMALL)


def test_train__a_function_that_can_make_no_second_executor_leaves_a_checkpoint(tmp_path):
    makers = [new_process_pool]

    def make_once():
        return makers.pop()() if makers else fail_to_make()

    with pytest.raises(SimulatorError, match="the function that makes the executor failed: OSError: no room"):
        sha_of_training(tmp_path, with_disaster(tmp_path, be_killed, [120]), executor=make_once)
    assert (tmp_path / "weights.checkpoint.npz").exists()


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
    """An executor that begins nothing; but it may answer whether it has the package."""

    def __init__(self, *, answers=False):
        self.futures = []
        self.answers = answers

    def submit(self, function, *arguments):
        if self.answers and function is not executors.simulate:
            return done(function(*arguments))
        self.futures.append(Future())
        return self.futures[-1]


def done(result):
    future = Future()
    future.set_result(result)
    return future


@pytest.mark.parametrize("answers", [False, True])
def test_train__an_executor_that_does_nothing_can_be_interrupted_and_is_said(answers, monkeypatch, caplog):
    import os
    import signal

    monkeypatch.setattr(executors, "QUIET_SECONDS", 0.3)
    executor = Never(answers=answers)
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(simulator=simulator, executor=executor, **SMALL)
    assert time.monotonic() - start < 60
    assert all(future.cancelled() for future in executor.futures)
    assert len(executor.futures) == (SMALL["queue_capacity"] + 1 if answers else 1)  # one is what is simulated twice
    assert "nothing has come back from the executor for 0.3 seconds; it has an unknown number of workers" in caplog.text


class Client:
    """A client of Dask, as far as it matters: its `submit` has other arguments."""

    def submit(self, function, *arguments, **keywords):
        raise AssertionError

    def get_executor(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": 3}, "method submit, .* or a function without arguments that makes one, got 3"),
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

    def submit(self, function, *arguments):
        if function is not executors.simulate:
            return self._threads.submit(function, *arguments)
        _, indices, attempt = arguments
        self.tasks.append((indices, attempt))
        return self._fault(indices, attempt) or self._threads.submit(function, *arguments)

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


def source_of(function):
    spec = network_spec(SMALL["input_shape"], SMALL["output_shape"], SMALL["phi_net"], ("max",), SMALL["h_net"])
    return ExampleSource(function, 1, spec, "cross-ent")


def stream_of(executor, capacity=None):
    settings = StreamSettings(0, capacity, executor=executor, check_randomness=False)
    return ExecutorStream(source_of(simulator), settings, range(4000))


@pytest.mark.parametrize(
    ("came_back", "is_late"),
    [
        ([(t, t + 0.1) for t in range(-20, 0)], True),  # nothing since long ago: perhaps it is the last one, and lost
        ([(t / 10, t / 10 + 1) for t in range(-30, 200)], True),  # one after another, of those that were sent later
        ([(-5 + t / 10, 4.9) for t in range(20)], False),  # some that were sent earlier, and only now: all are slow
        ([(-5 + t / 10, 29.0) for t in range(20)], False),
        ([(0.1, 29.0)], False),
        ([(-5.0, 29.0)] * 5 + [(0.1, 29.5)] * 3, False),  # those that other workers were at
        ([(-1.0, 0.1)] * 5 + [(0.1, 1.1)] * 4, True),
    ],
)
def test_executor_stream__a_task_is_late_if_others_are_not(came_back, is_late, monkeypatch):
    """It was sent at 0 s to one of 4 workers, and now it is 30 s."""
    executor = Never(answers=True)
    executor.num_workers = 4
    monkeypatch.setattr(executors.time, "monotonic", lambda: 30.0)
    with stream_of(executor) as stream:
        stream._arrivals.extend(came_back)
        task = stream._tasks[0]
        task.sent = 0.0
        assert stream._is_late(task) == is_late


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
    assert 1 <= sum(text in message for message in caplog.messages) <= len(again)


def test_executor_stream__what_is_lost_is_sent_again_before_it_is_needed():
    first = Future()  # of the first task: it comes back when that of example 20 has been sent again

    def fault(indices, attempt):
        if 0 in indices:
            return first
        if 20 not in indices:
            return None
        if attempt == 0:
            return lost()
        first.set_result(executors.simulate(Parcel(source_of(simulator), None), [0]))
        return None

    class Patience(Waiting):
        ticks = 100

        def __call__(self):
            self.ticks -= 1
            assert self.ticks > 0

    with Cluster(8, fault) as executor, stream_of(executor) as stream:
        stream.next_examples(10, Patience())


def test_executor_stream__what_is_lost_at_once_is_said_in_a_line(caplog):
    with (
        Cluster(8, lambda indices, attempt: lost() if attempt == 0 and indices[0] < 24 else None) as executor,
        stream_of(executor) as stream,
    ):
        stream.next_examples(20)
    assert [message for message in caplog.messages if "again" in message] == [
        "examples 0 to 0 and 23 more tasks are sent to the executor again, because it raised "
        "WorkerLostError: the machine is gone"
    ]


def test_executor_stream__what_is_lost_too_often_fails_when_it_is_needed():
    with (
        Cluster(8, lambda indices, attempt: lost() if 20 in indices else None) as executor,
        stream_of(executor) as stream,
    ):
        stream.next_examples(20)
        with pytest.raises(SimulatorError, match="examples 20 to"):
            stream.next_examples(10)


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
    executor = Never(answers=True)
    executor.num_workers = 256
    with stream_of(executor, capacity):
        assert least <= len(executor.futures) <= most


def test_number_of_workers__of_the_executors_there_are(threads, processes, loky_processes):
    assert number_of_workers(threads) == 3
    assert number_of_workers(processes) == number_of_workers(loky_processes) == 2
    assert number_of_workers(Cluster(7)) == 7
    assert number_of_workers(Never()) is None


class Settings:
    def __init__(self):
        self.parts = [1, {"inner": threading.Lock()}]

    def __call__(self, rng):
        return simulator(rng)


def use_lock(lock, rng):
    with lock:
        return simulator(rng)


def in_a_function():
    lock = threading.Lock()

    def closure(rng):
        with lock:
            return simulator(rng)

    return closure


@pytest.fixture(scope="module")
def senders():
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        loky.ProcessPoolExecutor(1) as loky_pool,
    ):
        yield {"process pool": pool, "loky": loky_pool}


LOCK = r"<unlocked _thread.lock .*> \(TypeError: cannot pickle '_thread.lock' object\)"


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (Settings(), rf"simulator\.parts\[1\]\['inner'\] is {LOCK}"),
        (functools.partial(use_lock, threading.Lock()), rf"simulator\.args\[0\] is {LOCK}"),
        (functools.partial(use_lock, rng=None, lock=threading.Lock()), rf"simulator\.keywords\['lock'\] is {LOCK}"),
        (Settings().__call__, rf"simulator\.__self__\.parts\[1\]\['inner'\] is {LOCK}"),
        (
            in_a_function(),
            {"process pool": "simulator is <function in_a_func.*>", "loky": f"lock in simulator is {LOCK}"},
        ),
        (lambda rng: simulator(rng), {"process pool": r"simulator is <function <lambda> at .*> \(\w+Error: .*pickle"}),
    ],
)
def test_train__a_simulator_that_cannot_be_sent_says_which_part_of_it(function, part, senders):
    for name, executor in senders.items():
        message = part.get(name) if isinstance(part, dict) else part
        if message is None:
            train(simulator=function, executor=executor, **SMALL)
            continue
        with pytest.raises(SimulatorError, match=f"cannot be sent to another process: {message}") as caught:
            train(simulator=function, executor=executor, **SMALL)
        assert ("takes lambdas and closures" in str(caught.value)) == (name == "process pool")


def test_train__threads_need_send_nothing(threads):
    train(simulator=in_a_function(), executor=threads, **SMALL)


def import_fails(name):
    raise ModuleNotFoundError(f"No module named {name!r}")


class Lacking(Cluster):
    """A cluster whose workers lack a module."""

    def __init__(self, where):
        super().__init__(2)
        self._where = where

    def submit(self, function, *arguments):
        if (function is executors.simulate) == (self._where == "simulator"):
            return self._threads.submit(import_fails, self._where)
        return super().submit(function, *arguments)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("numpy", "cannot import this package: No module named 'numpy'. Install definetti_np, NumPy and msprime where"),
        (
            "simulator",
            "No module named 'simulator'. The simulator must be in a module that the executor's workers can im",
        ),
    ],
)
def test_train__what_workers_lack_is_named(where, message):
    with Lacking(where) as executor, pytest.raises(SimulatorError, match=message):
        train(simulator=simulator, executor=executor, **SMALL)


def test_train__an_executor_that_was_shut_down(threads, processes, loky_processes):
    for executor in (threads, processes, loky_processes):
        executor.shutdown()
        with pytest.raises(SimulatorError, match="the executor failed: .*Error: cannot schedule new futures"):
            train(simulator=simulator, executor=executor, **SMALL)


def with_another_numpy(indices, attempt):
    future = Future()
    versions = tuple("numpy 1.0" if version.startswith("numpy") else version for version in executors.versions_here())
    _, _, messages = executors.simulate(Parcel(source_of(simulator), None), indices)
    future.set_result((0.1, versions, messages))
    return future


class OtherVersions(Cluster):
    def submit(self, function, *arguments):
        if function is executors.simulate:
            return super().submit(function, *arguments)
        return done(("definetti_np 0.0.1", *executors.versions_here()[1:]))


def test_train__a_worker_with_another_version_of_this_package_gets_no_task():
    with OtherVersions(2) as executor:
        with pytest.raises(SimulatorError, match=r"has definetti_np 0\.0\.1, and this process .*check_versions=False"):
            train(simulator=simulator, executor=executor, **SMALL)
        assert executor.tasks == []
        train(simulator=simulator, executor=executor, check_versions=False, **SMALL)


def test_simulate__refuses_workers_with_other_versions_too(tmp_path):
    options = {"seed": 1, "stop": 20, "logfile": None}
    shapes = SMALL["input_shape"], SMALL["output_shape"]
    with OtherVersions(2) as executor:
        with pytest.raises(SimulatorError, match=r"has definetti_np 0\.0\.1"):
            simulate(simulator, *shapes, tmp_path / "folder", executor=executor, **options)
        found = simulate(simulator, *shapes, tmp_path / "folder", executor=executor, check_versions=False, **options)
    assert len(found) == 20


def test_number_of_workers__of_a_client_that_is_out_of_reach():
    class OutOfReach:
        def nthreads(self):
            raise OSError("no scheduler")

    executor = Never()
    executor._client = OutOfReach()
    assert number_of_workers(executor) is None


def test_train__workers_with_other_versions_are_refused_unless_they_are_allowed():
    with Cluster(2, with_another_numpy) as executor:
        with pytest.raises(SimulatorError, match=r"has numpy 1\.0, and this process numpy \d.*check_versions=False"):
            train(simulator=simulator, executor=executor, **SMALL)
        train(simulator=simulator, executor=executor, check_versions=False, **SMALL)


def test_executor_stream__says_how_many_workers_there_are_now():
    executor = Never(answers=True)
    with stream_of(executor) as stream:
        assert stream.simulators is None
        executor.num_workers = 7
        assert stream.simulators == 7
