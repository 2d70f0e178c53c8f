"""A run: batches are taken from a stream and trained on, progress is reported, and checkpoints are written."""

import logging
import time

from .errors import SimulatorError
from .files.checkpoint import Checkpoint, Checkpoints, check_same_run
from .interruption import Interrupted, Interruption
from .simulation.source import SerialStream

logger = logging.getLogger("definetti_np")


def find_start(checkpoints: Checkpoints | None, run: dict, num_batches: int, *, resume: bool, drawn: bool):
    """Return the checkpoint to go on from, or None; look after what is there from earlier runs."""
    if checkpoints is None:
        return None
    checkpoints.tidy()
    if not resume:
        if checkpoints.path.exists():
            logger.warning(
                "%s is of an earlier run and will be replaced; resume=True goes on from it", checkpoints.path
            )
        return None
    start = checkpoints.latest()
    if start is None:
        logger.info("there is no checkpoint %s: training starts afresh", checkpoints.path)
        return None
    if drawn:
        run = {**run, "seed": start.run.get("seed")}
    check_same_run(start, {**run, "parameters": start.run.get("parameters")}, checkpoints.path)  # not known yet
    if start.batches > num_batches:
        raise ValueError(
            f"num_batches must be at least {start.batches}, the batches that {checkpoints.path} was trained on, "
            f"got {num_batches}"
        )
    logger.info("going on from %s, after %d batches", checkpoints.path, start.batches)
    return start


class Run:
    """Takes batches from a stream, trains on them, reports, and writes checkpoints."""

    def __init__(self, trainer, stream, run: dict, checkpoints: Checkpoints | None, summary, report, *, batches: int):
        self._trainer = trainer
        self._stream = stream
        self._run = run
        self._checkpoints = checkpoints
        self._summary = summary
        self._report = report
        self._batches = batches  # trained on so far
        self._redraws = dict(stream.redraws)  # of their examples

    def run_to(self, num_batches: int, interruption: Interruption) -> None:
        """Train until there were so many batches; a signal may end it before."""
        try:
            while self._batches < num_batches:
                self._take_batch(interruption)
                if self._checkpoints is not None and self._checkpoints.is_due(self._batches):
                    self._checkpoint()
                interruption.act(self._checkpoint)
            self._checkpoint()
        except Interrupted as stop:
            self._checkpoint(last=True)
            self._say_how_to_resume(stop)
            raise
        except SimulatorError:
            self._checkpoint(last=True)
            if kept := self._what_is_kept():
                logger.warning("the simulator failed%s; when it is repaired, resume=True goes on from there", kept)
            raise

    def _take_batch(self, interruption: Interruption) -> None:
        batch, size = self._batches, self._run["batch_size"]
        start = time.monotonic()
        if isinstance(self._stream, SerialStream):
            with interruption.waiting(self._checkpoint):  # an exception may end a simulation at any point
                data, labels = self._stream.next_batch(size)
        else:
            data, labels = self._stream.next_batch(size, lambda: interruption.act(self._checkpoint))
        waited = time.monotonic() - start
        examples = f"examples {batch * size} to {(batch + 1) * size - 1} of seed {self._run['seed']}"
        try:
            loss, accuracy = self._trainer.step(data, labels)
        except FloatingPointError as error:
            raise FloatingPointError(f"batch {batch} ({examples}): {error}{self._what_is_kept()}") from None
        except Exception as error:  # of a function of the user's; the network is as it was before
            self._checkpoint(last=True)
            error.add_note(f"This was batch {batch} ({examples}){self._what_is_kept()}")
            raise
        self._summary.update(batch, loss, accuracy)
        self._report.update(batch, loss, accuracy, waited)
        self._batches += 1
        self._redraws = dict(self._stream.redraws)

    def _checkpoint(self, *, last: bool = False) -> None:
        if self._checkpoints is not None and self._batches:
            state = Checkpoint.of(
                self._trainer,
                self._run,
                batches=self._batches,
                summary=self._summary.lines,
                redraws=self._redraws,
            )
            self._checkpoints.write(state, last=last)

    def _what_is_kept(self) -> str:
        if self._checkpoints is None or self._checkpoints.batches is None:
            return ""
        return f". {self._checkpoints.path} holds the run after {self._checkpoints.batches} batches"

    def _say_how_to_resume(self, stop: Interrupted) -> None:
        if self._checkpoints is None:
            how = "nothing is kept, since there is no save_path"
        elif self._checkpoints.batches is None:
            how = "there is no checkpoint yet"
        else:
            how = f"{self._checkpoints.path} holds {self._checkpoints.batches}; resume=True goes on from there"
        logger.warning("%s: stopped after %d batches; %s", stop.signal.name, self._batches, how)
