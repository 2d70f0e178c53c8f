"""The one place that knows of forks: what a process owns, and what a forked one makes anew."""

import ctypes
import gc
import os
import pickle
import subprocess
import sys

import pytest

from definetti_np import process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


def in_child(function, fork=os.fork):
    """What a function returns in a forked process, as text."""
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        try:
            os.write(writer, str(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    assert os.waitpid(child, 0) == (child, 0)
    return text


def test_owner__is_another_in_a_forked_process():
    ours = process.owner()
    assert process.is_ours(ours)
    assert process.is_ours(pickle.loads(pickle.dumps(ours)))
    assert in_child(lambda: process.is_ours(ours)) == "False"
    assert in_child(lambda: process.is_ours(process.owner())) == "True"
    assert process.is_ours(ours)


def test_owner__where_the_id_of_a_process_comes_again(monkeypatch):
    ours = process.owner()
    monkeypatch.setattr(os, "getpid", lambda: ours[0])
    assert in_child(lambda: process.is_ours(ours)) == "False"


def test_owner__where_a_library_has_forked_without_python():
    ours = process.owner()
    assert in_child(lambda: process.is_ours(ours), fork=ctypes.PyDLL(None).fork) == "False"


def test_after_fork__in_the_child_in_order_and_only_there():
    calls = []
    process.after_fork(lambda: calls.append(1))
    process.after_fork(lambda: calls.append(2))
    assert in_child(lambda: calls) == "[1, 2]"
    assert in_child(lambda: in_child(lambda: calls)) == "[1, 2, 1, 2]"
    assert calls == []


def test_after_fork__forgets_a_method_with_its_object():
    calls = []

    class Thing:
        def note(self):
            calls.append(self)

    thing = Thing()
    process.after_fork(thing.note)
    assert in_child(lambda: len(calls)) == "1"
    del thing
    gc.collect()
    assert in_child(lambda: len(calls)) == "0"
    process.after_fork(lambda: None)
    assert None not in [reference() for reference in process._callbacks]


def test_pause_for_fork__around_it_in_both_processes(monkeypatch):
    calls = []
    monkeypatch.setattr(process, "_pauses", process._pauses.copy())
    for name in "ab":
        process.pause_for_fork(
            lambda name=name: calls.append(f"{name} begins"), lambda name=name: calls.append(f"{name} ends")
        )
    in_both = ["b begins", "a begins", "a ends", "b ends"]
    assert in_child(lambda: calls) == str(in_both)
    assert calls == in_both


def test_process__imports_neither_numpy_nor_numba():
    program = "import sys, definetti_np.process; print('numpy' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
