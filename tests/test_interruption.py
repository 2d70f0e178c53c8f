"""Signals: a run stops or saves where it can be resumed, whatever it is doing."""

import ctypes
import faulthandler
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time

import lives
import pytest
from lives import SMALL, run
from sessions import start, until

import definetti_np.training
from definetti_np import ModelFileError, train
from definetti_np.files.checkpoint import read_checkpoint
from definetti_np.interruption import Interrupted, Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGCHLD)
ENDINGS = {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGXCPU: 152}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """What an undisturbed run writes."""
    folder = tmp_path_factory.mktemp("twin")
    run(folder)
    return results(folder)


def results(folder):
    return [(folder / name).read_bytes() for name in ("w.npz", "s")]


def summary_lines(folder):
    return (folder / "s").read_text().count("\n") if (folder / "s").exists() else 0


@pytest.fixture(autouse=True)
def _handlers_are_restored():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 0), (signal.SIGHUP, 2), (signal.SIGXCPU, 0)]
)
def test_stop__after_the_batch_with_a_checkpoint(tmp_path, twin, number, workers):
    session = start(tmp_path, {"PACE": "0.01"}, sim_threads=workers)
    until(lambda: summary_lines(tmp_path) > 1, "the third batch")
    os.kill(session.process.pid, number)
    code, output = session.end()
    assert code == ENDINGS[number], output
    log = (tmp_path / "log").read_text()
    batches = int(re.search(rf"{number.name}: stopped after (\d) batches", log)[1])
    assert f"w.checkpoint.npz holds {batches}; resume=True goes on from there" in log
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches == batches
    assert sorted(os.listdir(tmp_path)) == ["log", "s", "w.checkpoint.npz"]
    run(tmp_path, resume=True)
    assert results(tmp_path) == twin


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 1), (signal.SIGHUP, 0)])
def test_stop__at_once_while_simulations_stall(tmp_path, twin, number, workers):
    stall = tmp_path / "stall"
    session = start(tmp_path, {"PACE": "0.02", "STALL": str(stall)}, sim_threads=workers)
    until(lambda: summary_lines(tmp_path) > 0, "the first batch")
    stall.touch()
    time.sleep(0.4)  # what was simulated ahead is trained on
    os.kill(session.process.pid, number)
    code, output = session.end()
    assert code == ENDINGS[number], output
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches < SMALL["num_batches"]
    run(tmp_path, resume=True)
    assert results(tmp_path) == twin


@pytest.mark.parametrize("workers", [0, 1])
def test_save__and_carry_on(tmp_path, twin, workers):
    stall, checkpoint = tmp_path / "stall", tmp_path / "w.checkpoint.npz"
    session = start(tmp_path, {"PACE": "0.03", "STALL": str(stall)}, sim_threads=workers)
    until(lambda: summary_lines(tmp_path) > 0, "the first batch")
    os.kill(session.process.pid, signal.SIGUSR1)
    early = until(lambda: batches_of(checkpoint), "the checkpoint")
    until(lambda: 2 * summary_lines(tmp_path) > early + 2, "further batches")
    stall.touch()
    time.sleep(0.4)  # what was simulated ahead is trained on; now it waits
    os.kill(session.process.pid, signal.SIGUSR1)
    until(lambda: batches_of(checkpoint) > early, "another checkpoint")
    stall.unlink()
    code, output = session.end()
    assert code == 0, output
    assert results(tmp_path) == twin


def batches_of(checkpoint):
    """0 while there is none, as for a moment while it is replaced."""
    try:
        return read_checkpoint(checkpoint).batches
    except ModelFileError:
        return 0


def test_stop__before_the_first_batch(tmp_path):
    stall = tmp_path / "stall"
    stall.touch()
    session = start(tmp_path, {"STALL": str(stall)}, sim_threads=1)
    until(lambda: "training 122 parameters" in log_of(tmp_path), "the start")
    os.kill(session.process.pid, signal.SIGTERM)
    assert session.end()[0] == 143
    assert "SIGTERM: stopped after 0 batches; there is no checkpoint yet" in log_of(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["log", "s", "stall"]


def log_of(folder):
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def interrupted_by(numbers, monkeypatch, **options):
    """Train in this process, which sends itself signals in its third step; return how far it came, and its error."""
    steps = []
    step = definetti_np.Trainer.step

    def sending(self, data, labels):
        result = step(self, data, labels)
        steps.append(len(steps))
        if len(steps) == 3:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(definetti_np.Trainer, "step", sending)
    try:
        train(simulator=lives.simulator, **{**SMALL, **options})
    except BaseException as error:
        return len(steps), error
    return len(steps), None


@pytest.mark.parametrize("workers", [0, 2])
def test_stop__without_a_save_path(monkeypatch, caplog, workers):
    steps, error = interrupted_by([signal.SIGINT], monkeypatch, sim_threads=workers)
    assert (steps, type(error)) == (3, KeyboardInterrupt)
    assert "SIGINT: stopped after 3 batches; nothing is kept, since there is no save_path" in caplog.text
    steps, error = interrupted_by([signal.SIGTERM], monkeypatch, sim_threads=workers)
    assert (type(error), error.code) == (SystemExit, 143)
    assert interrupted_by([signal.SIGUSR1], monkeypatch)[1] is None


def test_stop__a_second_ctrl_c_ends_it_at_once(monkeypatch, tmp_path, caplog):
    steps, error = interrupted_by([signal.SIGINT, signal.SIGINT], monkeypatch, save_path=tmp_path / "w")
    assert (steps, type(error)) == (3, KeyboardInterrupt)
    assert "stopped after" not in caplog.text
    assert os.listdir(tmp_path) == []


def test_stop__a_second_sigterm_changes_nothing(monkeypatch, tmp_path):
    steps, error = interrupted_by([signal.SIGTERM, signal.SIGTERM], monkeypatch, save_path=tmp_path / "w")
    assert (steps, error.code) == (3, 143)
    assert os.listdir(tmp_path) == ["w.checkpoint.npz"]


def test_stop__in_the_last_batch_resumes_to_the_end(monkeypatch, tmp_path, twin):
    _, error = interrupted_by([signal.SIGINT], monkeypatch, save_path=tmp_path / "w", num_batches=3)
    assert type(error) is KeyboardInterrupt
    run(tmp_path, resume=True)
    assert results(tmp_path) == twin


@pytest.mark.parametrize("number", ENDINGS)
def test_interruption__ignored_signals_stay_ignored(monkeypatch, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert interrupted_by([number], monkeypatch) == (SMALL["num_batches"], None)
    finally:
        signal.signal(number, before)


def test_interruption__a_signal_after_the_last_batch_counts():
    with pytest.raises(SystemExit, match="143"), Interruption():
        os.kill(os.getpid(), signal.SIGTERM)


def test_interruption__hides_no_other_error():
    def fail():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("an error of its own")

    with pytest.raises(ValueError, match="an error of its own"), Interruption():
        fail()


def test_interruption__a_forked_process_leaves_it_to_its_parent():
    """There a signal does what it did before: it must neither save nor be swallowed."""
    saved = []
    with Interruption() as interruption, interruption.waiting(lambda: saved.append(1)):
        for fork, number in itertools.product((os.fork, ctypes.PyDLL(None).fork), (signal.SIGTERM, signal.SIGUSR1)):
            process = fork()
            if process == 0:
                os.kill(os.getpid(), number)
                os._exit(100 + len(saved))
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -number
        process = os.fork()
        if process == 0:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as error:
                os._exit(isinstance(error, Interrupted) + len(saved))
            os._exit(100)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert saved == [1]


STORM = """
import os, time
for _ in range(2000):
    os.kill({pid}, {number})
    time.sleep(0.0003)
"""


def test_interruption__a_storm_of_signals_saves_one_at_a_time():
    under_way, saved = [], []

    def save():
        under_way.append(None)
        time.sleep(0.002)
        saved.append(len(under_way))
        under_way.pop()

    program = STORM.format(pid=os.getpid(), number=int(signal.SIGUSR1))
    with Interruption() as interruption, interruption.waiting(save):
        sender = subprocess.Popen([sys.executable, "-c", program])
        while sender.poll() is None:
            sum(range(100))
    assert len(saved) > 3
    assert set(saved) == {1}


def swallow(rng):
    """A simulator that tries again whatever happens."""
    while True:
        try:
            time.sleep(0.01)
            return lives.simulator(rng)
        except:  # noqa: E722
            rng.random()


def turn_into_another_error(rng):
    try:
        time.sleep(0.01)
        return lives.simulator(rng)
    except BaseException as error:
        raise ValueError("something else") from error


@pytest.mark.parametrize("policy", ["raise", "redraw"])
@pytest.mark.parametrize("simulate", [swallow, turn_into_another_error])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop__a_simulator_that_catches_it_changes_nothing(tmp_path, simulate, policy, number):
    options = {"simulator": simulate, "on_simulator_error": policy, "num_batches": 6}
    (tmp_path / "twin").mkdir()
    run(tmp_path / "twin", **options)

    def interrupt():
        until(lambda: summary_lines(tmp_path) > 0, "the first batch")
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, **options)
    sender.join()
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").batches < 6
    run(tmp_path, **options, resume=True)
    assert results(tmp_path) == results(tmp_path / "twin")


def test_stop__an_accuracy_that_catches_a_second_ctrl_c_is_not_saved(monkeypatch, tmp_path):
    def accuracy(prediction, label):
        accuracy.calls += 1
        try:
            if accuracy.calls == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return 0.5
        except KeyboardInterrupt:
            return 0.75

    accuracy.calls = 0
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, accuracy=accuracy)
    assert sorted(os.listdir(tmp_path)) == ["s"]


def test_interruption__gives_back_what_it_took_and_nothing_else(tmp_path):
    """A handler that was set meanwhile stays, and what that passes on arrives where it did before."""
    seen = []

    def mine(number, frame):
        seen.append("mine")

    before = signal.signal(signal.SIGTERM, mine)
    stacks = open(tmp_path / "stacks", "w")
    faulthandler.register(signal.SIGUSR1, file=stacks)  # a handler that Python does not know
    try:
        with Interruption() as interruption, interruption.waiting(lambda: seen.append("saved")):
            os.kill(os.getpid(), signal.SIGUSR1)
            ours = signal.signal(signal.SIGTERM, lambda *arguments: (seen.append("theirs"), ours(*arguments)))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)  # would end this process, were its handler lost
        assert seen == ["theirs", "mine"]
        assert (tmp_path / "stacks").read_text().count("Current thread") == 2
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        stacks.close()
        signal.signal(signal.SIGTERM, before)


def test_train__in_another_thread_leaves_signals_alone():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen, models = set(), []

    def simulator(rng):
        seen.add(tuple(signal.getsignal(number) for number in SIGNALS))
        return lives.simulator(rng)

    for _ in range(2):
        thread = threading.Thread(target=lambda: models.append(train(simulator=simulator, **SMALL)))
        thread.start()
        thread.join()
    assert seen == {tuple(before)}
    assert len(models) == 2


def test_ctrl_c__on_a_terminal_goes_to_all_and_leaves_no_noise(tmp_path):
    """The whole process group gets it, workers included."""
    session = start(tmp_path, {"PACE": "0.01"}, sim_threads=2)
    until(lambda: summary_lines(tmp_path) > 0, "the first batch")
    os.killpg(session.process.pid, signal.SIGINT)
    code, output = session.end()
    assert code == -signal.SIGINT
    assert output.count("Traceback") == 1
    assert output.strip().endswith("KeyboardInterrupt")
