"""Where a run reports to: the package's own logger, a progress bar, and the training summary."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

logger = logging.getLogger("definetti_np")


@contextlib.contextmanager
def log_to(logfile: str | Path | None) -> Iterator[None]:
    """Send the package's log to stderr ("."), a file, or nowhere of its own (None) inside a block.

    Only the package's logger is touched; what an application has configured still receives the messages of a run
    with logfile None.
    """
    if logfile is None:
        yield
        return
    handler = logging.StreamHandler() if logfile == "." else logging.FileHandler(Path(logfile).expanduser())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S" if logfile == "." else None))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def progress(
    num_batches: int, batch_size: int, verbosity: int, *, to_terminal: bool, first: int = 0
) -> "_Bar | _Lines":
    """A progress bar where tqdm is installed and stderr is a terminal, otherwise log lines; from batch `first` on."""
    if to_terminal and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return _Bar(num_batches, batch_size, first)
    return _Lines(num_batches, batch_size, verbosity)


class _Clock:
    """How fast a run is, and which part of the time since the last look it waited for simulations."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
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
        return f"{rate:.0f} examples/s, {max(waiting, 1 - waiting):.0%} of the time {side}"


def _numbers(loss: float, accuracy: float) -> str:
    """The loss, and the accuracy if it is another number: without one, it is the loss."""
    return f"loss {loss:.4g}" if accuracy == loss else f"loss {loss:.4g}, accuracy {accuracy:.4g}"


class _Lines:
    """A log line every `verbosity` batches."""

    def __init__(self, num_batches: int, batch_size: int, verbosity: int):
        self._num_batches, self._verbosity = num_batches, verbosity
        self._clock = _Clock(batch_size)

    def update(self, batch: int, loss: float, accuracy: float, waited: float) -> None:
        self._clock.add(waited)
        if batch % self._verbosity == 0 or batch == self._num_batches - 1:
            speed = self._clock.look()
            logger.info("batch %d of %d: %s; %s", batch, self._num_batches, _numbers(loss, accuracy), speed)

    def close(self) -> None:
        pass


class _Bar:
    """A tqdm bar, its text renewed twice a second."""

    def __init__(self, num_batches: int, batch_size: int, first: int):
        from tqdm import tqdm

        self._bar = tqdm(total=num_batches, initial=first, unit="batch", dynamic_ncols=True)
        self._clock = _Clock(batch_size)
        self._renewed = 0.0

    def update(self, batch: int, loss: float, accuracy: float, waited: float) -> None:
        self._clock.add(waited)
        if time.monotonic() - self._renewed > 0.5:
            self._renewed = time.monotonic()
            text = f"{_numbers(loss, accuracy)}, {self._clock.look()}"
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class Summary:
    """The training summary: a line ``<batch> <loss> <accuracy>`` every `verbosity` batches, written at once.

    A resumed run starts with the lines of the run before, so that none is missing or there twice. Where a line cannot
    be written, it is with the next one.
    """

    def __init__(self, path: Path | None, verbosity: int, lines: Iterable[str] = ()):
        self.lines = list(lines)
        self._verbosity = verbosity
        self._written = 0  # bytes that are certainly in the file
        self._unwritten = self.lines.copy()
        self._file = None if path is None else open(path, "wb", buffering=0)
        self._write()

    def update(self, batch: int, loss: float, accuracy: float) -> None:
        if batch % self._verbosity == 0:
            line = f"{batch} {loss!r} {accuracy!r}"
            self.lines.append(line)
            self._unwritten.append(line)
            self._write()

    def _write(self) -> None:
        if self._file is None or not self._unwritten:
            return
        text = "".join(f"{line}\n" for line in self._unwritten).encode("ascii")
        try:
            self._file.seek(self._written)
            if self._file.write(text) != len(text):
                raise OSError("the disk is full")
        except OSError as error:
            logger.warning("the training summary cannot be written now: %s; training goes on", error)
            return
        self._written += len(text)
        self._unwritten.clear()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
