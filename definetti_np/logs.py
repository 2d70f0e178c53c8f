"""Where messages go: to the log of their run, stderr or a file, and to what an application has set up.

None of these ends a run, or changes its exit code: what cannot be written is lost.
"""

import contextlib
import contextvars
import datetime
import io
import json
import logging
import math
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from .process import after_fork

logger = logging.getLogger("definetti_np")

LOG_LEVEL = logging.INFO
JSON_ENDING = ".jsonl"  # of a log whose lines are JSON


@contextlib.contextmanager
def log_to(logfile: str | Path | None) -> Iterator[None]:
    """Inside a block, write the messages of a run in this thread to stderr ("."), to a file, or to no own log (None).

    The lines of a file whose name ends in .jsonl are JSON.

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
        path = Path(logfile).expanduser().absolute()
        formatter = _JsonFormatter() if path.suffix == JSON_ENDING else logging.Formatter("%(asctime)s %(message)s")
        log = _Log(_LogFile(path, formatter), formatter)
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


class _JsonFormatter(logging.Formatter):
    """Writes a message as a line of JSON: its time, level and text, and the `numbers` that it was logged with."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        time = datetime.datetime.fromtimestamp(record.created).astimezone()
        line: dict[str, str | float | None] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": super().format(record),
        }
        for name, number in getattr(record, "numbers", {}).items():
            number = number if isinstance(number, int) else float(number)
            line[name] = number if math.isfinite(number) else None  # because JSON has no NaN
        return json.dumps(line)


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

    def __init__(self, path: Path, formatter: logging.Formatter):
        self._path, self._formatter = path, formatter
        self._descriptor: int | None = None
        self._lost = 0  # lines
        self._is_torn = _ends_within_a_line(path)
        with contextlib.suppress(OSError):
            self._open()

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._descriptor = os.open(self._path, flags_not_to_wait(self._path, flags), 0o666)
        return self._descriptor

    def write(self, line: str) -> None:
        """Append a line, if that can be done."""
        if self._lost:
            text = f"({self._lost} lines could not be written)"
            if isinstance(self._formatter, _JsonFormatter):
                notice = logging.LogRecord(logger.name, logging.WARNING, __file__, 0, text, None, None)
                text = self._formatter.format(notice)
            line = f"{text}\n{line}"
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


def _ends_within_a_line(path: Path) -> bool:
    """Whether a file has a last line without an end, as a run may leave it that was killed, or whose disk was full."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read() != b"\n"
    return False


def flags_not_to_wait(path: str | os.PathLike, flags: int) -> int:
    """Add to the flags for `os.open` that a pipe is not waited for: neither for its reader, nor until that reads on."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.stat(path).st_mode):
            flags |= os.O_NONBLOCK
    return flags


_routes = _Routes()
