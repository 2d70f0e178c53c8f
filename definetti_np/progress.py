"""How far a run, a reader or a scan is: a progress bar or lines of the log; and the training summary.

None of these ends a run: what cannot be shown or written is lost or comes later.
"""

import contextlib
import errno
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .files.whole import remove_temporaries, write_whole
from .logs import Stderr, flags_not_to_wait
from .process import is_ours, owner

logger = logging.getLogger("definetti_np")

WORTH_SAYING = 0.5  # of the time that the trainer waits, above which more simulators would help
SECONDS_BETWEEN_LINES = 10.0  # about the progress of what is no training
SECONDS_BEFORE_A_BAR = 1.0  # because what is done sooner needs none


def progress(
    num_batches: int,
    batch_size: int,
    verbosity: int,
    *,
    to_terminal: bool,
    first: int = 0,
    simulators: Callable[[], int | None] = lambda: None,
) -> "_Bar | _Lines":
    """A progress bar where tqdm works and stderr is a terminal, otherwise log lines; from batch `first` on.

    `simulators` says how many simulate at a time, None if that is not known, or if it is the process that trains.
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

    def __init__(self, batch_size: int, simulators: Callable[[], int | None] = lambda: None):
        self._batch_size, self._simulators = batch_size, simulators
        self._batches, self._since, self._waited = 0, time.monotonic(), 0.0

    def add(self, waited: float) -> None:
        self._batches += 1
        self._waited += waited

    def look(self) -> "_Speed":
        """Return the speed since the last look."""
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        rate, waiting = self._batches * self._batch_size / elapsed, self._waited / elapsed
        self._batches, self._since, self._waited = 0, now, 0.0
        more = 0
        if WORTH_SAYING < waiting < 1 and (simulators := self._simulators()):
            more = math.ceil(simulators * waiting / (1 - waiting))  # if each simulates as fast as those here
        return _Speed(rate, waiting, more)


@dataclass(frozen=True)
class _Speed:
    """Examples a second, the fraction of the time that the trainer waited, and how many simulators more it could use.

    The last is 0 where it waited little.
    """

    rate: float
    waiting: float
    more: int

    def __str__(self) -> str:
        side = "waiting for simulations" if self.waiting > 0.5 else "training"
        text = f"{self.rate:.0f} examples/s, {max(self.waiting, 1 - self.waiting):.0%} of the time {side}"
        if self.more:
            text += f"; {self.more} more simulator core{'s' * (self.more > 1)} would keep the trainer busy"
        return text

    @property
    def numbers(self) -> dict[str, float]:
        """The same for a log that programs read."""
        return {"examples_per_second": self.rate, "waiting": self.waiting, "more_simulators": self.more}


def _describe(numbers: Mapping[str, float]) -> str:
    """The loss, and the accuracy where it differs: a run without an accuracy has the loss in its place."""
    loss, accuracy = numbers["loss"], numbers["accuracy"]
    return f"loss {loss:.4g}" if accuracy == loss else f"loss {loss:.4g}, accuracy {accuracy:.4g}"


class _Lines:
    """A log line every `verbosity` batches."""

    def __init__(self, num_batches: int, batch_size: int, verbosity: int, simulators: Callable[[], int | None]):
        self._num_batches, self._verbosity = num_batches, verbosity
        self._clock = _Clock(batch_size, simulators)

    def update(self, numbers: Mapping[str, float], waited: float, more: str = "") -> None:
        self._clock.add(waited)
        batch = int(numbers["batch"])
        if batch % self._verbosity == 0 or batch == self._num_batches - 1:
            speed = self._clock.look()
            logger.info(
                "batch %d of %d: %s; %s", batch, self._num_batches, _describe(numbers) + more, speed,
                extra={"numbers": {**numbers, "num_batches": self._num_batches, **speed.numbers}},
            )  # fmt: skip

    def close(self) -> None:
        pass


class _Bar:
    """A tqdm bar, its text renewed twice a second."""

    def __init__(self, num_batches: int, batch_size: int, first: int):
        self._bar = _tqdm(total=num_batches, initial=first, unit="batch")
        self._clock = _Clock(batch_size)
        self._renewed = 0.0

    def update(self, numbers: Mapping[str, float], waited: float, more: str = "") -> None:
        self._clock.add(waited)
        with contextlib.suppress(Exception):
            if time.monotonic() - self._renewed > 0.5:
                self._renewed = time.monotonic()
                text = f"{_describe(numbers)}{more}, {self._clock.look()}"
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._bar.close()


def _tqdm(**options: Any) -> Any:
    """A bar of tqdm, in a notebook one of its widgets."""
    if in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of notebooks without widgets, where the bar is text
            from tqdm.auto import tqdm
    else:
        from tqdm import tqdm

        options["file"] = Stderr()
    return tqdm(dynamic_ncols=True, **options)


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
            logger.info(
                "%d of %d examples simulated, %.0f examples/s", self._done, self._total, rate,
                extra={"numbers": {"examples": self._done, "of": self._total, "examples_per_second": rate}},
            )  # fmt: skip

    def close(self) -> None:
        """Say no more."""


class _ExampleBar(ExampleProgress):
    """A tqdm bar."""

    def __init__(self, total: int):
        super().__init__(total)
        self._bar = _tqdm(total=total, unit="example")

    def update(self, number: int) -> None:
        with contextlib.suppress(Exception):
            self._bar.update(number)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._bar.close()


def progress_of_share(what: str, *, is_wanted: bool = True) -> "ShareProgress":
    """The progress of what takes a while, as a bar where tqdm works and somebody looks, otherwise as log lines.

    `what` says what is done, such as "reading calls.vcf.gz"; where `is_wanted` is False nothing is shown.
    """
    if is_wanted and (Stderr().isatty() or in_notebook()):
        with contextlib.suppress(Exception):
            return _ShareBar(what)
    return ShareProgress(what, is_wanted=is_wanted)


class ShareProgress:
    """A log line every ten seconds that says what share is done. Nothing is said at the end, when the result is."""

    def __init__(self, what: str, *, is_wanted: bool = True):
        self._what, self._is_wanted = what, is_wanted
        self._said = time.monotonic()

    def reach(self, share: float, place: str = "") -> None:
        """Say that a share, between 0 and 1, is done, up to a place."""
        if self._is_wanted and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            logger.info("%s: %.0f %%%s", self._what, 100 * share, place and f", up to {place}")

    def close(self) -> None:
        """Say no more."""


class _ShareBar(ShareProgress):
    """A tqdm bar."""

    def __init__(self, what: str):
        super().__init__(what)
        self._bar = _tqdm(
            total=1.0,
            desc=what,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            delay=SECONDS_BEFORE_A_BAR,
            leave=False,
        )

    def reach(self, share: float, place: str = "") -> None:
        with contextlib.suppress(Exception):
            self._bar.update(share - self._bar.n)

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
        return open(path, "wb", buffering=0, opener=lambda name, flags: os.open(name, flags_not_to_wait(name, flags)))

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
