"""Trainings in strange surroundings: a script that runs one of them and prints the digest of what was trained.

    python tests/surroundings.py FOLDER train WAY               WAY: where `train` is called, see WAYS
    python tests/surroundings.py FOLDER simulate WAY WORKERS    WAY: what the simulator does, see SIMULATORS

Every way and every number of workers, or "executor", gives the same digest.
"""

import concurrent.futures
import ctypes
import functools
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np

import definetti_np

SMALL = {
    "input_shape": (12, 3),
    "output_shape": (2,),
    "phi_net": [("fc", 8)],
    "h_net": [("fc", 8), ("softmax",)],
    "num_batches": 3,
    "batch_size": 6,
    "training_threads": 1,
    "logfile": None,
    "seed": 1,
}
RANG = []


def base(rng):
    wide = rng.integers(2)
    return np.round(rng.standard_normal((12, 3)) * (1 + 3 * wide)), np.eye(2)[wide]


def train(simulator=base, **options):
    model = definetti_np.train(simulator=simulator, **{**SMALL, **options})
    return hashlib.sha256(model.network.flat.weights.tobytes()).hexdigest()


# Where train is called


def in_a_pool(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply(train, kwds={"sim_threads": 2})


def in_an_executor(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(train, sim_threads=2).result()


def in_a_daemon():
    def send():
        end.send(train(sim_threads=2))

    context = multiprocessing.get_context("fork")
    mine, end = context.Pipe()
    process = context.Process(target=send, daemon=True)
    process.start()
    digest = mine.recv()
    process.join()
    return digest


def in_threads():
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        [digest] = set(executor.map(lambda _: train(sim_threads=2), range(2)))
    return digest


def with_an_accuracy_that_forks(end):
    def accuracy(prediction, label):
        if (child := os.fork()) == 0:
            return end()
        os.waitpid(child, 0)
        return 0.5

    return train(accuracy=accuracy, sim_threads=2, save_path="w", checkpoint_every=1)


def in_a_fork():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, train(sim_threads=2).encode())
        os._exit(0)
    os.wait()
    return os.read(read, 100).decode()


def in_joblib(backend):
    import joblib

    [digest] = joblib.Parallel(n_jobs=2, backend=backend)([joblib.delayed(train)(sim_threads=2)])
    return digest


def without_sigchld():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    digest = train(worker_killer, sim_threads=2, worker_max_examples=5)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    return digest


def with_sigchld_blocked(method):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    digest = train(worker_killer, sim_threads=2, worker_max_examples=5, start_method=method)
    assert signal.SIGCHLD in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return digest


def without_sigchld_in_a_thread():
    """Where nobody can change it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(train, worker_killer, sim_threads=2, worker_max_examples=5).result()


def with_a_handler_that_waits_for_any_child():
    def reap(*arguments):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    signal.signal(signal.SIGCHLD, reap)
    return train(worker_killer, sim_threads=2, worker_max_examples=5)


WAYS = {
    "here": lambda: train(sim_threads=0),
    "here, with workers": lambda: train(sim_threads=2),
    **{f"in a {method}ed pool": functools.partial(in_a_pool, method) for method in ("fork", "spawn", "forkserver")},
    **{f"in a {method}ed executor": functools.partial(in_an_executor, method) for method in ("fork", "spawn")},
    "in a daemon": in_a_daemon,
    "in threads": in_threads,
    "in a fork": in_a_fork,
    "in joblib's processes": functools.partial(in_joblib, "loky"),
    "in joblib's pool": functools.partial(in_joblib, "multiprocessing"),
    "an accuracy whose child fails": lambda: with_an_accuracy_that_forks(fail),
    "an accuracy whose child comes back": lambda: with_an_accuracy_that_forks(lambda: 0.25),
    "SIGCHLD ignored": without_sigchld,
    "SIGCHLD ignored, in a thread": without_sigchld_in_a_thread,
    "SIGCHLD blocked": functools.partial(with_sigchld_blocked, "fork"),
    "SIGCHLD blocked, with a fork server": functools.partial(with_sigchld_blocked, "forkserver"),
    "SIGCHLD handled by others": with_a_handler_that_waits_for_any_child,
}


# What simulators do. They leave their random numbers alone, so that every way gives the same.


def index_of(rng):
    return rng.bit_generator.seed_seq.spawn_key[0]


def worker_killer(rng):
    """Kills its process once in a run, if that is a worker."""
    if index_of(rng) == 8 and multiprocessing.parent_process() is not None:
        try:
            os.close(os.open("killed", os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
    return base(rng)


def with_a_pool(method, rng):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
    return base(rng)


def with_an_executor(rng):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
    return base(rng)


def with_a_manager(rng):
    with multiprocessing.get_context("fork").Manager() as manager:
        assert list(manager.list([1])) == [1]
    return base(rng)


def with_a_process_that_is_ended(rng):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    process.start()
    process.terminate()
    process.join()
    assert process.exitcode == -signal.SIGTERM
    return base(rng)


def with_joblib(backend, rng):
    import joblib

    assert joblib.Parallel(n_jobs=2, backend=backend)([joblib.delayed(abs)(-1)] * 2) == [1, 1]
    return base(rng)


def with_a_subprocess(rng):
    assert subprocess.run(["true"], preexec_fn=os.setpgrp).returncode == 0
    process = subprocess.Popen(["sleep", "600"], preexec_fn=os.setpgrp)
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    return base(rng)


def ring(number, frame):
    RANG.append(number)


def with_an_alarm(rng):
    """The handler is set when the module is loaded, see below."""
    RANG.clear()
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not RANG:
        time.sleep(0.005)
    return base(rng)


def forking(how, end, rng):
    """Forks a process that does not know when to end."""
    child = how()
    if child == 0:
        return end()
    os.waitpid(child, 0)
    return base(rng)


def fail():
    raise RuntimeError("a child fails")


def leave():
    sys.exit(3)


def come_back():
    return base(np.random.default_rng(1))


def c_fork():
    """Fork as C code does: no function that was registered with Python is called."""
    return ctypes.PyDLL(None).fork()


SIMULATORS = {
    "nothing": base,
    **{f"a {method}ed pool": functools.partial(with_a_pool, method) for method in ("fork", "spawn", "forkserver")},
    "an executor": with_an_executor,
    "a manager": with_a_manager,
    "a process that is ended": with_a_process_that_is_ended,
    "joblib's processes": functools.partial(with_joblib, "loky"),
    "joblib's pool": functools.partial(with_joblib, "multiprocessing"),
    "a subprocess": with_a_subprocess,
    "an alarm": with_an_alarm,
    "a child that fails": functools.partial(forking, os.fork, fail),
    "a child that leaves": functools.partial(forking, os.fork, leave),
    "a child that comes back": functools.partial(forking, os.fork, come_back),
    "a child of C code that fails": functools.partial(forking, c_fork, fail),
    "a child of C code that comes back": functools.partial(forking, c_fork, come_back),
}


signal.signal(signal.SIGALRM, ring)

if __name__ == "__main__":
    folder, what, way, *rest = sys.argv[1:]
    os.chdir(folder)
    options = {"save_path": "w", "checkpoint_every": 1}
    if what == "train":
        print(WAYS[way]())
    elif what == "simulate" and rest == ["executor"]:
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
            print(train(SIMULATORS[way], executor=executor, **options))
    elif what == "simulate":
        print(train(SIMULATORS[way], sim_threads=int(rest[0]), **options))
