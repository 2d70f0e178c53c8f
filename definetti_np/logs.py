"""Where a run reports to: the package's own logger, a progress bar, and the training summary.

None of these ends a run, or changes its exit code: what cannot be written is lost or comes later.
"""

import contextlib
import contextvars
import errno
import io
import logging
import math
import os
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from .files.whole import remove_temporaries, write_whole
from .process import after_fork, is_ours, owner

logger = logging.getLogger("definetti_np")

LOG_LEVEL = logging.INFO
WORTH_SAYING = 0.5  # of the time that the trainer waits, above which more simulators would help
SECONDS_BETWEEN_LINES = 10.0  # about the progress of simulations without training


@contextlib.contextmanager
def log_to(logfile: str | Path | None) -> Iterator[None]:
    """Inside a block, write the messages of a run in this thread to stderr ("."), to a file, or to no own log (None).

    Only the package's logger is touched; what an application has configured still receives the messages of a run
    with logfile None. Runs in several threads have a log each.
    """
    _occupy_standard_descriptors()
    if logfile is None:
        with _routes.open(None):
            yield
        return
    if logfile == ".":
        log = _Log(Stderr(), logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    else:
        log = _Log(_LogFile(Path(logfile).expanduser().absolute()), logging.Formatter("%(asctime)s %(message)s"))
    with contextlib.closing(log), _routes.open(log):
        yield


def _occupy_standard_descriptors() -> None:
    """Let stdin, stdout and stderr lead nowhere where they are closed, as after ``2>&-``.

    Otherwise the next file that is opened gets the number of one of them, and if it is a model, a library may write
    its complaints into it.
    """
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


_NO_RUN = "no run"  # stands for the log in threads that belong to no run


class _Routes(logging.Filter):
    """Gives each message to the log of its run, and to no other; a filter of the package's logger while there are runs.

    The context of the thread that logs a message tells which run it belongs to. A run without a log of its own has
    None, and its messages go where the application wants them.
    """

    def __init__(self):
        super().__init__()
        self._runs: list[_Log | None] = []
        self._log_here: contextvars.ContextVar[_Log | str | None] = contextvars.ContextVar("log", default=_NO_RUN)
        self._level: int | None = None  # of the logger, before runs have set it to theirs
        self._least = logging.NOTSET  # the level that the application wants
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._changes = threading.Lock()

    @contextlib.contextmanager
    def open(self, log: "_Log | None"):
        """Take the messages of a run in this thread inside a block."""
        with self._changes:
            self._runs.append(log)
            self._adapt()
        here = self._log_here.set(log)
        try:
            yield
        finally:
            self._log_here.reset(here)
            with self._changes:
                self._runs.remove(log)
                self._adapt()

    def _adapt(self) -> None:
        """Set the logger's filter and level to what the runs need, and back when none needs them."""
        if self._runs:
            logger.addFilter(self)
        else:
            logger.removeFilter(self)
        has_log = any(log is not None for log in self._runs)
        if has_log and self._level is None:
            self._level, self._least = logger.level, logger.getEffectiveLevel()
            logger.setLevel(LOG_LEVEL)
        elif not has_log and self._level is not None:
            logger.setLevel(self._level)
            self._level, self._least = None, logging.NOTSET

    def filter(self, record: logging.LogRecord) -> bool:
        """Hand a message on, and say whether the logger has something left to do with it."""
        log, runs = self._log_here.get(), self._runs.copy()
        if isinstance(log, str) and len(runs) == 1:  # a thread that a library has started for the only run
            log = runs[0]
        if isinstance(log, str):
            return record.levelno >= self._least
        with contextlib.suppress(Exception):  # a handler of the application may fail
            if log is not None:
                log.handle(record)
                for handler in logger.handlers:
                    if record.levelno >= handler.level:
                        handler.handle(record)
            elif record.levelno >= self._least:
                if logger.hasHandlers():
                    logger.callHandlers(record)
                elif logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                    _Log(Stderr(), logging.Formatter("%(message)s")).handle(record)
        return False


class _Log(logging.Handler):
    """Writes messages to something that never fails."""

    def __init__(self, out: "Stderr | _LogFile", formatter: logging.Formatter):
        super().__init__()
        self._out = out
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message as a line."""
        self._out.write(f"{self.format(record)}\n")

    def close(self) -> None:
        """Close what it writes to."""
        self._out.close()
        super().close()


class Stderr:
    """A file for text that may get lost: stderr may be full, closed or missing, and writing does not fail.

    Text goes past Python's buffer where there is one, because Python keeps what it could not write, tries again when
    it ends, and then exits with 120.
    """

    def __init__(self):
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(Exception):
            content = text.encode(self.encoding, "backslashreplace")
            self._stream.flush()
            if self._is_descriptor():
                while content:
                    content = content[os.write(self._stream.fileno(), content) :]
            else:
                self._stream.write(content.decode(self.encoding))
                self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written is not held back."""

    def close(self) -> None:
        """Do nothing: stderr is the program's."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with contextlib.suppress(Exception):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor; tqdm asks it for the width of the terminal."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def _is_descriptor(self) -> bool:
        """Whether it is Python's own, and not what a notebook or a test has put in its place."""
        if os.name != "posix" or type(self._stream) is not io.TextIOWrapper:
            return False
        return isinstance(getattr(self._stream.buffer, "raw", self._stream.buffer), io.FileIO)


class _LogFile:
    """A file that lines are appended to. Those that cannot be written are lost; the next one says how many."""

    def __init__(self, path: Path):
        self._path = path
        self._descriptor: int | None = None
        self._lost = 0  # lines
        self._is_torn = False  # whether it ends within a line
        with contextlib.suppress(OSError):
            self._open()

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._descriptor = os.open(self._path, _flags_not_to_wait(self._path, flags), 0o666)
        return self._descriptor

    def write(self, line: str) -> None:
        """Append a line, if that can be done."""
        if self._lost:
            line = f"({self._lost} lines could not be written)\n{line}"
        content = ("\n" * self._is_torn + line).encode("utf-8", "backslashreplace")
        length = len(content)
        try:
            descriptor = self._open()
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError as error:
            if not self._lost:
                Stderr().write(f"the log {self._path} cannot be written now: {error}; training goes on\n")
            self._lost += 1
            self._is_torn = self._is_torn or len(content) < length
            self.close()  # because opening it anew may help where writing on does not
        else:
            self._lost, self._is_torn = 0, False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _flags_not_to_wait(path: str | os.PathLike, flags: int) -> int:
    """Add to the flags for `os.open` that a pipe is not waited for: neither for its reader, nor until that reads on."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.stat(path).st_mode):
            flags |= os.O_NONBLOCK
    return flags


_routes = _Routes()


def progress(
    num_batches: int,
    batch_size: int,
    verbosity: int,
    *,
    to_terminal: bool,
    first: int = 0,
    simulators: int | None = None,
) -> "_Bar | _Lines":
    """A progress bar where tqdm works and stderr is a terminal, otherwise log lines; from batch `first` on.

    `simulators` is how many simulate at a time, None if that is not known, or if it is the process that trains.
    """
    if to_terminal and (Stderr().isatty() or in_notebook()):
        with contextlib.suppress(Exception):  # it is missing, or one of its environment variables is wrong
            return _Bar(num_batches, batch_size, first)
    return _Lines(num_batches, batch_size, verbosity, simulators)


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook, which shows a bar though stderr is no terminal."""
    with contextlib.suppress(Exception):
        shell = sys.modules["IPython"].get_ipython()
        return "IPKernelApp" in shell.config
    return False


class _Clock:
    """Measures how fast a run is, and how much of the time since the last look it waited for simulations."""

    def __init__(self, batch_size: int, simulators: int | None = None):
        self._batch_size, self._simulators = batch_size, simulators
        self._batches, self._since, self._waited = 0, time.monotonic(), 0.0

    def add(self, waited: float) -> None:
        self._batches += 1
        self._waited += waited

    def look(self) -> str:
        """Describe the speed since the last look."""
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        rate, waiting = self._batches * self._batch_size / elapsed, self._waited / elapsed
        self._batches, self._since, self._waited = 0, now, 0.0
        side = "waiting for simulations" if waiting > 0.5 else "training"
        text = f"{rate:.0f} examples/s, {max(waiting, 1 - waiting):.0%} of the time {side}"
        if self._simulators and WORTH_SAYING < waiting < 1:
            more = math.ceil(self._simulators * waiting / (1 - waiting))  # if each simulates as fast as those here
            text += f"; {more} more simulator core{'s' * (more > 1)} would keep the trainer busy"
        return text


def _numbers(loss: float, accuracy: float) -> str:
    """The loss, and the accuracy where it differs: a run without an accuracy has the loss in its place."""
    return f"loss {loss:.4g}" if accuracy == loss else f"loss {loss:.4g}, accuracy {accuracy:.4g}"


class _Lines:
    """A log line every `verbosity` batches."""

    def __init__(self, num_batches: int, batch_size: int, verbosity: int, simulators: int | None = None):
        self._num_batches, self._verbosity = num_batches, verbosity
        self._clock = _Clock(batch_size, simulators)

    def update(self, batch: int, loss: float, accuracy: float, waited: float, more: str = "") -> None:
        self._clock.add(waited)
        if batch % self._verbosity == 0 or batch == self._num_batches - 1:
            speed = self._clock.look()
            logger.info("batch %d of %d: %s; %s", batch, self._num_batches, _numbers(loss, accuracy) + more, speed)

    def close(self) -> None:
        pass


class _Bar:
    """A tqdm bar, its text renewed twice a second."""

    def __init__(self, num_batches: int, batch_size: int, first: int):
        place: dict[str, object] = {"dynamic_ncols": True}
        if in_notebook():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of notebooks without widgets, where the bar is text
                from tqdm.auto import tqdm
        else:
            from tqdm import tqdm

            place["file"] = Stderr()
        self._bar = tqdm(total=num_batches, initial=first, unit="batch", **place)
        self._clock = _Clock(batch_size)
        self._renewed = 0.0

    def update(self, batch: int, loss: float, accuracy: float, waited: float, more: str = "") -> None:
        self._clock.add(waited)
        with contextlib.suppress(Exception):
            if time.monotonic() - self._renewed > 0.5:
                self._renewed = time.monotonic()
                text = f"{_numbers(loss, accuracy)}{more}, {self._clock.look()}"
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._bar.close()


def progress_of_examples(total: int, *, to_terminal: bool) -> "ExampleProgress":
    """The progress of simulations alone, as a bar where tqdm works and stderr is a terminal, otherwise as log lines."""
    if to_terminal and Stderr().isatty():
        with contextlib.suppress(Exception):
            return _ExampleBar(total)
    return ExampleProgress(total)


class ExampleProgress:
    """A log line every ten seconds that says how many examples have been simulated, and one at the end."""

    def __init__(self, total: int):
        self._total, self._done = total, 0
        self._start = self._said = time.monotonic()

    def update(self, number: int) -> None:
        """Count so many more examples."""
        self._done += number
        if time.monotonic() - self._said > SECONDS_BETWEEN_LINES or self._done == self._total:
            self._said = time.monotonic()
            rate = self._done / max(self._said - self._start, 1e-9)
            logger.info("%d of %d examples simulated, %.0f examples/s", self._done, self._total, rate)

    def close(self) -> None:
        """Say no more."""


class _ExampleBar(ExampleProgress):
    """A tqdm bar."""

    def __init__(self, total: int):
        super().__init__(total)
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="example", dynamic_ncols=True, file=Stderr())

    def update(self, number: int) -> None:
        with contextlib.suppress(Exception):
            self._bar.update(number)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._bar.close()


class Summary:
    """The training summary: a line ``<batch> <loss> <accuracy> ...`` every `verbosity` batches, written at once.

    A resumed run starts with the lines of the run before, so that none is missing or there twice. A line that cannot
    be written is kept, and written before the next one.
    """

    def __init__(self, path: Path | None, verbosity: int, lines: Iterable[str] = ()):
        self.lines = list(lines)
        self._verbosity = verbosity
        self._path = path
        self._owner = owner()
        self._file: IO[bytes] | None = None
        self._pending = self._text()  # what is not in the file yet
        self._fails = False
        if path is not None:
            remove_temporaries(path)
        self._write()

    def update(self, batch: int, *numbers: float) -> None:
        if batch % self._verbosity == 0:
            self.add(batch, *numbers)

    def add(self, batch: int, *numbers: float) -> None:
        line = " ".join(map(repr, (batch, *numbers)))
        self.lines.append(line)
        self._pending += f"{line}\n".encode("ascii")
        self._write()

    def _write(self) -> None:
        if self._path is None or not is_ours(self._owner):
            self._pending = b""
            return
        try:
            if self._file is None:
                self._file = self._start(self._path)
            while self._pending:
                written = self._file.write(self._pending)
                if written is None:
                    raise BlockingIOError(errno.EAGAIN, "the reader of the pipe does not read on", str(self._path))
                self._pending = self._pending[written:]
        except OSError as error:
            if not self._fails:
                logger.warning("the training summary cannot be written now: %s; training goes on", error)
            self._fails = True
        else:
            self._fails = False

    def _start(self, path: Path) -> IO[bytes]:
        """Put all lines into a new file, or one after another into what cannot be replaced, such as a pipe."""
        if not os.path.exists(path) or os.path.isfile(path):
            with contextlib.suppress(PermissionError):  # of the folder
                write_whole(path, lambda file: file.write(self._text()))
                file = open(path, "ab", buffering=0)
                self._pending = b""
                return file
        return open(path, "wb", buffering=0, opener=lambda name, flags: os.open(name, _flags_not_to_wait(name, flags)))

    def _text(self) -> bytes:
        return "".join(f"{line}\n" for line in self.lines).encode("ascii")

    def close(self) -> None:
        if self._pending:
            self._write()
        if self._pending:
            missing = self._pending.count(b"\n")
            logger.warning("the last %d lines of the training summary could not be written", missing)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
