"""A run: batches are taken from a stream and trained on, progress is reported, and checkpoints are written."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from . import process
from .files.checkpoint import Checkpoint, Checkpoints, check_same_run
from .files.lock import Holder
from .genomes.unusual import SIMULATIONS, Collector
from .interruption import Interrupted, Interruption, Waiting
from .multiset import MultisetBatch
from .provenance import describe_model, describe_start, digest_of_source
from .reports import Reports
from .reuse import Memory, augment_batch
from .settings import TrainSettings
from .simulation.source import describe_redraws
from .simulation.store import Store
from .simulation.stream import Stream, take_batches
from .validation import Validation

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("definetti_np")


def find_start(checkpoints: Checkpoints | None, settings: TrainSettings) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None; look after what is there from earlier runs."""
    if checkpoints is None:
        return None
    checkpoints.tidy()
    if not settings.resume:
        if checkpoints.path.exists():
            logger.warning(
                "%s is of an earlier run and will be replaced; resume=True goes on from it", checkpoints.path
            )
        return None
    start = checkpoints.latest()
    if start is None:
        logger.info("there is no checkpoint %s: training starts afresh", checkpoints.path)
        return None
    run = {**settings.describe_run(), "parameters": start.run.get("parameters")}  # those of the network: not known yet
    if not settings.has_own_seed:
        run["seed"] = start.run.get("seed")
    check_same_run(start, run, checkpoints.path)
    if start.batches > settings.num_batches:
        raise ValueError(
            f"num_batches must be at least {start.batches}, the batches that {checkpoints.path} was trained on, "
            f"got {settings.num_batches}"
        )
    digest = digest_of_source(settings.simulator)
    before = start.state.get("started", {}).get("simulator_sha256", digest)
    if digest is not None and digest != before:
        logger.warning(
            "the source of the simulator %s has changed since the run began: if it simulates other data now, the "
            "examples before and after are not of one kind",
            settings.simulator_name,
        )
    logger.info("going on from %s, after %d batches", checkpoints.path, start.batches)
    return start


def remember(
    settings: TrainSettings, start: Checkpoint | None, while_waiting: Waiting, store: Store | None
) -> Memory | None:
    """Return what holds the examples that reuse draws from, or None; a checkpoint's are simulated again."""
    if start is None:
        return settings.memory(0)
    memory = settings.memory(start.state.get("held_from", 0))
    if memory is not None and start.batches:
        past = range(memory.held.start, start.next_example)
        how = "simulating" if store is None else "reading"
        logger.info("%s examples %d to %d again, because reuse draws from them", how, past.start, past.stop - 1)
        source, size = settings.source(), settings.batch_size
        for batch in take_batches(source, settings.streams, past, size, while_waiting, store):
            memory.add(*batch)
    return memory


def collect(
    settings: TrainSettings, start: Checkpoint | None, while_waiting: Waiting, store: Store | None
) -> Collector:
    """Return what holds the first simulations of a run with an encoder; a checkpoint's are simulated again."""
    collector = Collector(settings.encoder)
    if start is None or settings.encoder is None or not start.batches:
        return collector
    past, size = range(min(start.next_example, SIMULATIONS)), settings.batch_size
    logger.info("simulating examples 0 to %d again, because the model keeps how they look", past.stop - 1)
    batches = take_batches(settings.source(), settings.streams, past, size, while_waiting, store)
    for number, (data, _) in enumerate(batches):
        collector.add(augmented(settings, data, number * settings.steps_per_batch))
    return collector


def augmented(settings: TrainSettings, data: MultisetBatch, step: int) -> MultisetBatch:
    """The batch of a step as the run's augmentation changes it, if it has one."""
    if settings.reuse.augment is None:
        return data
    with process.end_forks():
        return augment_batch(settings.reuse.augment, data, seed=settings.seed, step=step)


def hold_validation(settings: TrainSettings, while_waiting: Waiting) -> Validation | None:
    """Simulate the examples that training never sees, or return None if there are to be none."""
    number = settings.validation.examples
    if not number:
        return None
    logger.info("simulating %d examples for validation", number)
    source, size = settings.validation_source(), settings.batch_size
    return Validation(settings.validation, take_batches(source, settings.streams, range(number), size, while_waiting))


class Run:
    """Takes batches from a stream, trains on them, reports, and writes checkpoints.

    Parameters
    ----------
    settings
        How to train.
    trainer
        What takes the steps.
    stream
        The batches that are left.
    memory
        The examples that reuse draws from, or None.
    collector
        What holds the first simulations, of which it has those before `start`.
    validation
        What the run is evaluated on, or None.
    checkpoints
        Where to write the state of the run, or None.
    start
        The checkpoint to go on from, or None.
    holder
        What others can read of the run while it goes on.

    Attributes
    ----------
    batches
        How many batches it has trained on.

    Raises
    ------
    ValueError
        If the checkpoint is of a network with other parameters.
    """

    def __init__(
        self,
        settings: TrainSettings,
        trainer: Trainer,
        stream: Stream,
        memory: Memory | None,
        collector: Collector,
        validation: Validation | None,
        checkpoints: Checkpoints | None,
        start: Checkpoint | None,
        holder: Holder,
    ):
        self._settings = settings
        self._trainer = trainer
        self._stream = stream
        self._memory = memory
        self._checkpoints = checkpoints
        shapes = {name: list(array.shape) for name, array in trainer.network.parameters.items()}
        self._description = settings.describe_run() | {"parameters": shapes}
        self.batches = 0  # trained on so far
        self._redraws = dict(stream.redraws)  # of their examples
        self._best = np.zeros_like(trainer.optimizer.weights[:0])  # weights, or none where the last ones are kept
        if start is not None and checkpoints is not None:
            check_same_run(start, self._description, checkpoints.path)
            start.restore(trainer)
            self.batches, self._best = start.batches, start.best
        self._started = {} if start is None else start.state.get("started", {})
        self._started = self._started or describe_start(settings.simulator)
        self._collector = collector
        self._validation = validation
        self._reports = Reports(settings, validation, start, lambda: stream.simulators)
        self._holder, self._since, self._first = holder, time.monotonic(), self.batches
        self._loss = np.nan  # of the last batch

    def history(self) -> dict[str, np.ndarray]:
        """The columns of the summary by name."""
        return self._reports.history()

    def info(self) -> dict[str, Any]:
        """How the model was trained."""
        return describe_model(self._description, self._started)

    def train(self, interruption: Interruption) -> None:
        """Train to the end; a signal may end it before."""
        with contextlib.closing(self._reports):
            try:
                self._train(interruption)
                self._choose_weights()
            except Interrupted as stop:
                self._checkpoint(last=True)
                self._say_how_to_resume(stop)
                raise

    def _train(self, interruption: Interruption) -> None:
        waiting = interruption.waiting(self._checkpoint_for_a_signal, self._tell)
        while not self._is_over():
            self._take_batch(waiting)
            if self._checkpoints is not None and self._checkpoints.is_due(self.batches):
                self._checkpoint()
            waiting()
        self._checkpoint()
        if self._redraws:
            logger.warning(describe_redraws(self._redraws, self.batches * self._settings.batch_size))

    def _is_over(self) -> bool:
        if self.batches == self._settings.num_batches:
            return True
        if self._validation is None or not self._validation.is_over:
            return False
        patience = self._settings.validation.patience
        logger.info("ending after %d batches: %d evaluations were not better", self.batches, patience)
        return True

    def _choose_weights(self) -> None:
        """Give the network the weights that the model is to have."""
        is_best = self._reports.finish(self.batches, self._trainer)
        self._trainer.use_average()
        if self._best.size and not is_best:
            self._trainer.optimizer.weights[:] = self._best

    def _take_batch(self, waiting: Waiting) -> None:
        size = self._settings.batch_size
        start = time.monotonic()
        try:
            data, labels = self._stream.next_batch(size, waiting)
        except Exception:
            self._checkpoint(last=True)
            if kept := self._what_is_kept():
                logger.warning("no more simulations%s; when the reason is mended, resume=True goes on from there", kept)
            raise
        waited = time.monotonic() - start
        if self._memory is not None:
            self._memory.add(data, labels)
        results = self._train_on(data, labels)
        reused = [loss for loss, _ in results[1:]]
        is_best = self._reports.add(self.batches, *results[0], reused, waited, self._trainer)
        if is_best and self._settings.validation.keep == "best":
            with self._trainer.with_average():
                self._best = self._trainer.optimizer.weights.copy()
        self.batches += 1
        self._loss = results[0][0]
        self._tell(at_once=self.batches == self._first + 1)
        self._redraws = dict(self._stream.redraws)

    def _tell(self, *, at_once: bool = False) -> None:
        """Let others know how far the run is, also while it waits; see `describe_status`."""
        text = f"batch {self.batches} of {self._settings.num_batches}"
        if self.batches == self._first:
            self._holder.tell(f"{text}, waiting for simulations")
            return
        rate = (self.batches - self._first) / max(time.monotonic() - self._since, 1e-9)
        self._holder.tell(
            f"{text}, loss {self._loss:.4g}, {rate * self._settings.batch_size:.0f} examples/s, "
            f"{(self._settings.num_batches - self.batches) / rate:.0f} s left",
            at_once=at_once,
        )

    def _train_on(self, data: MultisetBatch, labels: np.ndarray) -> list[tuple[float, float]]:
        """Take the steps that come with a batch of new examples; return loss and accuracy before each of them."""
        batch, size = self.batches, self._settings.batch_size
        examples = f"examples {batch * size} to {(batch + 1) * size - 1} of seed {self._settings.seed}"
        first = batch * self._settings.steps_per_batch
        step = first
        try:
            data = augmented(self._settings, data, step)
            self._collector.add(data)
            results = [self._step(data, labels, step)]
            for step in range(first + 1, first + self._settings.steps_per_batch):
                data, labels = self._drawn(step)
                results.append(self._step(data, labels, step))
            if step + 1 == self._settings.num_steps:
                self._trainer.check_last_step(data, labels)
        except FloatingPointError as error:
            raise FloatingPointError(f"batch {batch} ({examples}): {error}{self._what_is_kept()}") from None
        except Exception as error:  # a function of the user's failed; the network is as it was before
            if step == first:
                self._checkpoint(last=True)
            error.add_note(f"This was batch {batch} ({examples}){self._what_is_kept()}")
            raise
        return results

    def _drawn(self, step: int) -> tuple[MultisetBatch, np.ndarray]:
        """The batch of earlier examples that a step trains on."""
        if self._memory is None:
            raise RuntimeError("a run without reuse draws nothing")
        data, labels = self._memory.draw(step)
        return augmented(self._settings, data, step), labels

    def _step(self, data: MultisetBatch, labels: np.ndarray, step: int) -> tuple[float, float]:
        self._trainer.optimizer.learning_rate = self._settings.steps.rate_at(step, self._settings.num_steps)
        with process.end_forks():  # a loss or an accuracy may fork, as a simulator may
            return self._trainer.step(data, labels)

    def _checkpoint(self, *, last: bool = False) -> None:
        if self._checkpoints is not None and self.batches:
            state = Checkpoint.of(
                self._trainer,
                self._description,
                batches=self.batches,
                summary=self._reports.lines,
                redraws=self._redraws,
                best=self._best,
                state=self._state(),
            )
            self._checkpoints.write(state, last=last)

    def _state(self) -> dict[str, Any]:
        memory = {} if self._memory is None else {"held_from": self._memory.first}
        return {"started": self._started, **self._reports.state(), **memory}

    def _checkpoint_for_a_signal(self) -> None:
        if self._checkpoints is not None and self.batches not in (0, self._checkpoints.batches):
            logger.info("a signal asks for a checkpoint: writing that of %d batches", self.batches)
            self._checkpoint()

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
        logger.warning("%s: stopped after %d batches; %s", stop.signal.name, self.batches, how)
