"""Logs, progress bars and summaries: each run has its own, and none of them ends a run."""

import datetime
import errno
import hashlib
import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lives import run, simulator
from sessions import PACKAGES, full_disk

from definetti_np import progress as progress_module
from definetti_np.logs import Stderr, log_to
from definetti_np.progress import Summary, progress

logger = logging.getLogger("definetti_np")


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twin")
    run(folder)
    return folder


@pytest.fixture(autouse=True)
def _logger_is_left_alone():
    before = logger.handlers[:], logger.filters[:], logger.propagate
    yield
    assert (logger.handlers, logger.filters, logger.propagate) == before
    assert logger.level == logging.NOTSET


# Stderr, in this process


class Failing(io.StringIO):
    """A stderr that fails in every way."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def fail(self, *arguments):
        raise self.error

    write = flush = isatty = fileno = fail


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def closed_file(tmp_path):
    stream = open(tmp_path / "closed", "w")
    stream.close()
    return stream


def full(_):
    return open("/dev/full", "w", buffering=1)


def without_reader(_):
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", buffering=1)


STDERR = {
    "missing": lambda _: None,
    "closed": lambda _: closed(),
    "a closed file": closed_file,
    "full": full,
    "without reader": without_reader,
    "fails": lambda _: Failing(OSError(errno.EIO, "Input/output error")),
    "fails in a way of its own": lambda _: Failing(RuntimeError("no")),
    "no stream": lambda _: object(),
    "in another encoding": lambda _: io.TextIOWrapper(io.BytesIO(), "ascii"),
}


@pytest.mark.parametrize("stderr", STDERR)
@pytest.mark.parametrize("logfile", [".", None, "log"])
def test_train__whatever_stderr_is(tmp_path, monkeypatch, twin, stderr, logfile):
    logging_to = tmp_path / "log" if logfile == "log" else logfile
    stream = STDERR[stderr](tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        for _ in range(2):  # the second warns of the first's checkpoint
            run(tmp_path, logfile=logging_to)
    assert sha(tmp_path / "w.npz") == sha(twin / "w.npz")
    if isinstance(stream, io.TextIOWrapper):
        stream.close()  # nothing is left in it that fails now


@pytest.mark.parametrize("stderr", STDERR)
def test_progress__whatever_stderr_is(tmp_path, monkeypatch, stderr):
    """As a bar, also where what is written to is not what was asked whether it is a terminal."""
    pytest.importorskip("tqdm")
    stream = STDERR[stderr](tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(Stderr, "isatty", lambda self: True)
        bar = progress(3, 10, 1, to_terminal=True)
        assert type(bar).__name__ == "_Bar"
        for batch in range(3):
            bar.update({"batch": batch, "loss": 0.5, "accuracy": 0.25}, 0.0)
        bar.close()
    if isinstance(stream, io.TextIOWrapper):
        stream.close()


def test_progress__lines_where_tqdm_does_not_work(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(Stderr, "isatty", lambda self: True)
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: 1 / 0)
    assert type(progress(3, 10, 1, to_terminal=True)).__name__ == "_Lines"


# Stderr, in a process of its own

SCRIPT = """
import os, sys
if sys.argv[1:]:
    os.close(2)
sys.path[:0] = {path!r}
from lives import run, simulator
if __name__ == "__main__":
    for logfile in (".", None, {folder!r} + "/log"):
        run({folder!r}, logfile=logfile, sim_threads=2 if logfile else 0)
"""

REDIRECTIONS = {
    "as it is": "2>/dev/null",
    "closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "full": "2>/dev/full",
    "closed by the program": "yes 2>/dev/null",
    "without reader": "2> >(exec true)",
}


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_train__the_exit_code_is_that_of_the_run(tmp_path, twin, redirection):
    """Python exits with 120 if it cannot write at its end what it could not write before."""
    program = SCRIPT.format(path=[str(Path(__file__).parent), str(PACKAGES)], folder=str(tmp_path))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = f'exec "$0" -c "$1" {REDIRECTIONS[redirection]}'
    process = subprocess.run(
        ["bash", "-c", command, sys.executable, program], env=environment, timeout=120, stdout=subprocess.PIPE
    )
    assert process.returncode == 0
    assert process.stdout == b""
    assert sha(tmp_path / "w.npz") == sha(twin / "w.npz")
    assert "saved the model" in (tmp_path / "log").read_text()


def test_train__on_a_terminal_that_is_gone(tmp_path, twin):
    """As with nohup, after the window is closed: what is written to it fails."""
    pty = pytest.importorskip("pty")
    program = SCRIPT.format(path=[str(Path(__file__).parent), str(PACKAGES)], folder=str(tmp_path))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=theirs)
    os.close(theirs)
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert sha(tmp_path / "w.npz") == sha(twin / "w.npz")


def test_log_to__no_file_gets_the_number_of_a_closed_stderr(tmp_path):
    """A library that complains on descriptor 2 would write into it."""
    program = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from definetti_np.logs import log_to\n"
        f"with log_to(None): file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "os.write(2, b'complaint'); os.write(1, b'complaint')\n"
        "file.write(str(file.fileno()))\n"
    )
    subprocess.run(["bash", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, program], check=True, timeout=60)
    assert (tmp_path / "file").read_text() == "3"


# Log files


def test_logfile__on_a_full_disk_says_how_much_is_missing(tmp_path, capsys):
    with log_to(tmp_path / "log"):
        logger.info("one")
        with full_disk((tmp_path / "log").stat().st_size + 5):
            for word in ("two", "three", "four"):
                logger.info(word)
        logger.info("five")
        logger.info("six")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ")[-1] for line in lines] == ["one", lines[1], "written)", "five", "six"]
    assert len(lines[1]) == 5
    assert lines[2] == "(3 lines could not be written)"
    assert capsys.readouterr().err.count("cannot be written now: [Errno 27] File too large; training goes on") == 1


def test_train__a_logfile_that_is_full_or_broken(tmp_path, twin):
    for logfile in ("/dev/full", "/dev/null"):
        run(tmp_path, logfile=logfile)
        assert sha(tmp_path / "w.npz") == sha(twin / "w.npz")


def test_logfile__that_cannot_be_opened_yet(tmp_path, monkeypatch, capsys):
    function, failures = os.open, [errno.ENOSPC, errno.EMFILE]

    def failing(path, *rest, **keywords):
        if str(path).endswith("log") and failures:
            raise OSError(failures[0], os.strerror(failures.pop(0)))
        return function(path, *rest, **keywords)

    monkeypatch.setattr(os, "open", failing)
    with log_to(tmp_path / "log"):
        logger.info("one")
        logger.info("two")
    assert [line.split(" ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["written)", "two"]
    assert "Too many open files; training goes on" in capsys.readouterr().err


def test_logfile__holds_any_text(tmp_path):
    with log_to(tmp_path / "log"):
        logger.info("%s", "Ä\ud800\U0001f600")
    assert (tmp_path / "log").read_text("utf-8").endswith(" Ä\\ud800\U0001f600\n")


# Lines of JSON


def json_lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text("utf-8").splitlines()]


def test_logfile__of_json_has_the_numbers_of_the_run(tmp_path, twin):
    options = {"verbosity": 4, "reuse": 1, "validation": 12, "accuracy": lambda predictions, labels: math.nan}
    run(tmp_path, logfile=tmp_path / "log.jsonl", sim_threads=1, **options)
    lines = json_lines(tmp_path / "log.jsonl")
    for line in lines:
        assert datetime.datetime.fromisoformat(line["time"]).tzinfo is not None
        assert line["level"] == "info"
    batches = [line for line in lines if "batch" in line]
    summary = [line.split() for line in (tmp_path / "s").read_text().splitlines()]
    shown = {int(words[0]): [None if word == "nan" else float(word) for word in words] for words in summary}
    names = "batch loss accuracy fresh_loss reused_loss validation_loss validation_loss_error".split()
    names += "validation_accuracy validation_accuracy_error".split()
    for line in batches[:2]:
        assert [line[name] for name in names] == shown[line["batch"]]
        assert line["message"].startswith(f"batch {line['batch']} of {line['num_batches']}: loss ")
        assert line["examples_per_second"] > 0
        assert 0 <= line["waiting"] <= 1
        assert line["more_simulators"] >= 0


@pytest.mark.parametrize(
    ("waited", "simulators", "text", "more"),
    [
        (7.5, 2, "50 examples/s, 75% of the time waiting for simulations; 6 more simulator cores would", 6),
        (6.0, 1, "50 examples/s, 60% of the time waiting for simulations; 2 more simulator cores would", 2),
        (8.0, None, "50 examples/s, 80% of the time waiting for simulations", 0),
        (1.0, 2, "50 examples/s, 90% of the time training", 0),
    ],
)
def test_progress__advises_in_numbers(tmp_path, monkeypatch, waited, simulators, text, more):
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    lines = progress(2, 500, 1, to_terminal=False, simulators=lambda: simulators)
    now[0] = 110.0
    with log_to(tmp_path / "log.jsonl"):
        lines.update({"batch": 0, "loss": 0.5, "accuracy": 0.5}, waited)
    (line,) = json_lines(tmp_path / "log.jsonl")
    assert line["message"].startswith(f"batch 0 of 2: loss 0.5; {text}")
    assert (line["waiting"], line["more_simulators"]) == (waited / 10, more)


def test_logfile__of_json_holds_any_text_and_says_what_is_lost(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    with log_to(path):
        logger.warning("%s", 'Ä\ud800\n"\\')
        with full_disk(path.stat().st_size):
            logger.info("lost")
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("failed", extra={"numbers": {"many": 2**70, "infinite": math.inf}})
    first, notice, last = json_lines(path)
    assert (first["level"], first["message"]) == ("warning", 'Ä\ud800\n"\\')
    assert (notice["level"], notice["message"]) == ("warning", "(1 lines could not be written)")
    assert last["message"].startswith("failed\nTraceback")
    assert (last["many"], last["infinite"]) == (2**70, None)
    assert "training goes on" in capsys.readouterr().err


# Several runs


def lines_of(path):
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


def test_log_to__runs_in_threads_have_a_log_each_and_may_overlap(tmp_path):
    """Whichever begins and ends first; and the messages of a thread without a run go where they always do."""
    turn = [threading.Event() for _ in range(6)]

    def first():
        with log_to(tmp_path / "first"):
            turn[0].set()
            turn[1].wait(60)
            logger.info("of the first")
        turn[2].set()

    def second():
        turn[0].wait(60)
        with log_to(tmp_path / "second"):
            turn[1].set()
            turn[2].wait(60)
            logger.info("of the second, after the first has ended")
            turn[3].set()
            turn[4].wait(60)

    threads = [threading.Thread(target=function) for function in (first, second)]
    for thread in threads:
        thread.start()
    turn[3].wait(60)
    turn[4].set()
    for thread in threads:
        thread.join()
    assert lines_of(tmp_path / "first") == ["of the first"]
    assert lines_of(tmp_path / "second") == ["of the second, after the first has ended"]


def test_log_to__a_run_in_a_run_has_its_own(tmp_path):
    with log_to(tmp_path / "outer"):
        logger.info("before")
        with log_to(tmp_path / "inner"):
            logger.info("inside")
        logger.info("after")
    assert lines_of(tmp_path / "outer") == ["before", "after"]
    assert lines_of(tmp_path / "inner") == ["inside"]


def test_log_to__a_thread_of_the_only_run_is_of_it_and_of_several_of_none(tmp_path, caplog):
    def say(word):
        thread = threading.Thread(target=logger.warning, args=(word,))
        thread.start()
        thread.join()

    with log_to(tmp_path / "one"):
        say("of one")
        with log_to(tmp_path / "two"):
            say("of nobody knows which")
    assert lines_of(tmp_path / "one") == ["of one"]
    assert lines_of(tmp_path / "two") == []
    assert [record.getMessage() for record in caplog.records] == ["of nobody knows which"]


def test_train__two_threads_have_a_log_each(tmp_path, twin):
    together = threading.Barrier(2)
    errors = []

    def accuracy(prediction, label):
        together.wait(60)  # at every batch
        return 0.5

    def train(name, seed):
        (tmp_path / name).mkdir()
        try:
            run(tmp_path / name, logfile=tmp_path / f"{name}.log", accuracy=accuracy, seed=seed, verbosity=1)
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=train, args=arguments) for arguments in (("a", 11), ("b", 22))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name, seed in (("a", 11), ("b", 22)):
        text = (tmp_path / f"{name}.log").read_text()
        assert text.count(f"with seed {seed}, ") == text.count("with seed ") == 1
        assert text.count(" of 9: loss ") == 9
        assert text.count("saved the model as ") == text.count(f"{name}/w.npz") == 1


def test_train__what_a_runs_own_threads_say_is_in_its_log(tmp_path):
    """The thread that looks after simulator processes reports those that die."""

    def dying(folder):
        def simulator_that_dies_once(rng):
            if not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return simulator(rng)

        return simulator_that_dies_once

    def train(name):
        (tmp_path / name).mkdir()
        options = {"sim_threads": 1, "simulator": dying(tmp_path / name), "seed": len(name)}
        run(tmp_path / name, logfile=tmp_path / f"{name}.log", **options)

    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "bb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("a", "bb"):
        text = (tmp_path / f"{name}.log").read_text()
        assert text.count("was killed by SIGKILL") == text.count(f" of seed {len(name)}") == 1
        assert text.count("saved the model as ") == 1


# What an application has configured


class Raising(logging.Handler):
    def emit(self, record):
        raise RuntimeError("a handler of an application")


def test_log_to__an_applications_handlers(tmp_path, monkeypatch, caplog):
    """They receive what they did before; that one fails is no reason to end a run."""
    received = []
    own = logging.Handler()
    own.emit = lambda record: received.append(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [own, Raising()])
    with log_to(None):
        logger.warning("silent")
        logger.info("below the application's level")
    with log_to(tmp_path / "log"):
        logger.info("logged")
    assert received == ["silent", "logged"]
    assert lines_of(tmp_path / "log") == ["logged"]
    monkeypatch.setattr(logger, "handlers", [])
    with log_to(None):
        logger.warning("for the root")
    assert [record.getMessage() for record in caplog.records] == ["for the root"]


def test_log_to__none_without_any_handler_warns_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    with log_to(None):
        logger.info("for nobody")
        logger.warning("a warning")
    assert capsys.readouterr().err == "a warning\n"
    monkeypatch.setattr(logging, "lastResort", None)
    with log_to(None):
        logger.warning("a warning")
    assert capsys.readouterr().err == ""


def test_log_to__an_applications_level_is_kept(tmp_path, caplog):
    logger.setLevel(logging.ERROR)
    try:
        with log_to(tmp_path / "log"):
            logger.info("logged")
            assert logger.level == logging.INFO
        assert logger.level == logging.ERROR
        with log_to(None):
            logger.warning("not wanted")
    finally:
        logger.setLevel(logging.NOTSET)
    assert lines_of(tmp_path / "log") == ["logged"]
    assert caplog.records == []


# Summaries


def test_summary__of_a_folder_that_may_not_be_written_to_is_written_in_place(tmp_path, monkeypatch):
    (tmp_path / "s").write_text("of an earlier run, and longer than that of this one\n")

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(progress_module, "write_whole", refuse)
    summary = Summary(tmp_path / "s", 1, ["0 0.5 0.25"])
    summary.update(1, 0.5, 0.75)
    summary.close()
    assert (tmp_path / "s").read_text() == "0 0.5 0.25\n1 0.5 0.75\n"


def test_summary__an_earlier_one_is_there_until_the_new_one_is(tmp_path, caplog):
    (tmp_path / "s").write_text("0 0.5 0.25\n2 0.5 0.25\n")
    with full_disk(5):
        summary = Summary(tmp_path / "s", 1, ["0 0.5 0.25"])
        summary.update(1, 0.5, 0.75)
    assert (tmp_path / "s").read_text() == "0 0.5 0.25\n2 0.5 0.25\n"
    summary.update(2, 0.5, 0.5)
    assert (tmp_path / "s").read_text() == "0 0.5 0.25\n1 0.5 0.75\n2 0.5 0.5\n"
    summary.close()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("size", range(40))
def test_summary__on_a_disk_that_is_full_after_any_number_of_bytes(tmp_path, caplog, size):
    summary = Summary(tmp_path / "s", 1)
    whole = "0 0.5 0.25\n1 0.5 0.25\n2 0.5 0.25\n"
    with full_disk(size):
        for batch in range(3):
            summary.update(batch, 0.5, 0.25)
        assert (tmp_path / "s").read_text() == whole[:size]
        if size % 2 == 0:
            summary.close()
    if size % 2:
        summary.close()
    assert (tmp_path / "s").read_text() == (whole if size % 2 else whole[:size])
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == (size < len(whole)) * (2 - size % 2)
    if len(texts) == 2:
        assert texts[1] == f"the last {3 - size // 11} lines of the training summary could not be written"


def test_summary__into_a_pipe_and_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/full")):
        summary = Summary(path, 1, ["0 0.5 0.25"])
        summary.update(1, 0.5, 0.75)
        summary.close()
    assert os.read(reader, 1000) == b"0 0.5 0.25\n1 0.5 0.75\n"
    os.close(reader)


def test_summary__into_a_pipe_that_nobody_reads_waits_for_nothing(tmp_path, caplog):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    summary = Summary(path, 1)
    summary.update(0, 0.5, 0.25)
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "the training summary cannot be written now"
    ]
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    summary.update(1, 0.5, 0.25)
    assert os.read(reader, 1000) == b"0 0.5 0.25\n1 0.5 0.25\n"
    for batch in range(2, 10_000):  # more than a pipe holds
        summary.update(batch, 0.5, 0.25)
    summary.close()
    assert "lines of the training summary could not be written" in caplog.records[-1].getMessage()
    os.close(reader)


def test_log__goes_on_in_a_line_of_its_own_where_a_killed_run_left_half_a_line(tmp_path):
    path = tmp_path / "log.jsonl"
    for content, before in ((b"", []), (b"{}\n", [b"{}"]), (b'{}\n{"lev', [b"{}", b'{"lev'])):
        path.write_bytes(content)
        with log_to(path):
            logger.info("one")
        *found, last = path.read_bytes().splitlines()
        assert found == before
        assert json.loads(last)["message"] == "one"


def test_log__into_a_pipe_that_nobody_reads_waits_for_nothing(tmp_path, capfd):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with log_to(path):
        logger.info("one")
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        logger.info("two")
        for _ in range(2000):  # more than a pipe holds
            logger.info("x" * 100)
    read = os.read(reader, 2**20).decode().splitlines()
    os.close(reader)
    assert read[0] == "(1 lines could not be written)"
    assert [read[1][-3:], read[2][-5:]] == ["two", "xxxxx"]
    assert f"the log {path} cannot be written now" in capfd.readouterr().err


def test_summary__is_written_by_its_own_process_alone(tmp_path):
    summary = Summary(tmp_path / "s", 1)
    child = os.fork()
    if child == 0:
        summary.update(0, 0.5, 0.25)
        summary.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "s").read_text() == ""
    summary.close()
