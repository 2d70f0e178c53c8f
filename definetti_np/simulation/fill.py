"""`simulate`: fill a folder with simulations, for trainings to come."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path

from ..checks import as_integer, qualified_name
from ..files.paths import check_text_file
from ..files.whole import remove_old_temporaries
from ..genomes.encoder import HaplotypeEncoder, check_encoder, name_with_encoder
from ..genomes.likeness import LikeData
from ..interruption import Interruption, Waiting
from ..logs import log_to
from ..progress import ExampleProgress, progress_of_examples
from ..specs import data_spec
from .folder import Simulations
from .ranges import MOST_EXAMPLES, Ranges
from .source import NO_REDRAWS, ExampleSource, Redraws, check_on_error, describe_redraws, takes_generator
from .store import Store, StoreSettings, check_folder
from .store_stream import STALE_SECONDS, Writer
from .stream import Stream, StreamSettings, open_simulating_stream

logger = logging.getLogger("definetti_np")

EXAMPLES_AT_ONCE = 50  # between two looks at signals and at the progress


def simulate(
    simulator: Callable,
    input_shape: Sequence[int | None],
    output_shape: Sequence[int],
    folder: str | os.PathLike,
    *,
    seed: int,
    start: int = 0,
    stop: int,
    sim_threads: int | None = None,
    queue_capacity: int | None = None,
    simulator_timeout: float | None = None,
    on_simulator_error: str = "raise",
    max_redraw_fraction: float = 0.1,
    worker_max_examples: int | None = None,
    start_method: str | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    check_randomness: bool = True,
    check_versions: bool = True,
    simulations_version: str | int | None = None,
    logfile: str | os.PathLike | None = ".",
    encoder: HaplotypeEncoder | LikeData | None = None,
) -> Simulations:
    """Simulate the examples `start` to ``stop - 1`` of a seed into a folder; those that are there are left alone.

    They are the examples that ``train(..., seed=seed, simulations=folder)`` trains on. Several processes, also on
    several machines with a shared file system, may fill one folder at the same time; see docs/simulations_store.md. A
    call that was stopped, however, goes on when it is repeated.

    Parameters
    ----------
    simulator, input_shape, output_shape
        As of `train`.
    folder
        Where they are written; made if it does not exist.
    seed
        The seed, a non-negative integer.
    start, stop
        The index of the first example, and that behind the last.
    sim_threads, queue_capacity, simulator_timeout, on_simulator_error, max_redraw_fraction, worker_max_examples
        As of `train`.
    start_method, executor, check_randomness, check_versions, simulations_version, logfile, encoder
        As of `train`.

    Returns
    -------
    Simulations
        What the folder holds now.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or the folder holds other simulations, or two different ones of the same example.
    SimulatorError
        If the simulator fails; what was simulated before is in the folder.
    OSError
        If simulations cannot be written; the message says which are missing.
    """
    spec = data_spec(input_shape, output_shape)
    takes_generator(simulator)
    check_encoder(encoder, spec.input_shape)
    seed = as_integer(seed, "seed", minimum=0)
    start = as_integer(start, "start", minimum=0)
    stop = as_integer(stop, "stop", minimum=start + 1)
    if stop > MOST_EXAMPLES:
        raise ValueError(f"stop must be at most {MOST_EXAMPLES}, got {stop}")
    settings = StreamSettings.checked(
        sim_threads=sim_threads,
        queue_capacity=queue_capacity,
        simulator_timeout=simulator_timeout,
        max_redraw_fraction=max_redraw_fraction,
        worker_max_examples=worker_max_examples,
        start_method=start_method,
        executor=executor,
        check_randomness=check_randomness,
        check_versions=check_versions,
    )
    source = ExampleSource(simulator, seed, spec, None, check_on_error(on_simulator_error), encoder)
    settings_of_store = StoreSettings.checked(folder, simulations_version, simulator, "folder")
    name = name_with_encoder(qualified_name(simulator), encoder)
    store = settings_of_store.open(name, seed, spec.row_shape, spec.output_shape)
    if logfile not in (None, "."):
        logfile = Path(logfile).expanduser()
        check_text_file(logfile, "logfile")
    with log_to(logfile), Interruption() as interruption:
        store.check(range(start, stop))
        missing = store.examples.missing(range(start, stop))
        logger.info("%d of %d examples are in %s", stop - start - len(missing), stop - start, store.folder)
        if missing:
            _warn_of_another_range(store, start, stop)
            check_folder(store.folder, "folder")
            remove_old_temporaries(store.folder, STALE_SECONDS)
            waiting = interruption.waiting(lambda: None)  # what was simulated is written when the block ends
            with (
                open_simulating_stream(source, settings, missing, NO_REDRAWS, waiting) as stream,
                contextlib.closing(progress_of_examples(len(missing), to_terminal=logfile == ".")) as progress,
            ):
                _fill(store, stream, missing, Redraws(settings.max_redraw_fraction, NO_REDRAWS), waiting, progress)
            store.look()
            store.compare()  # with what others have written in the meantime
    return Simulations(store.folder)


def _warn_of_another_range(store: Store, start: int, stop: int) -> None:
    """Say so if a file reaches into the range from outside, because a task of an array should have its own range."""
    for file in store.files:
        if file.start < start < file.stop or file.start < stop < file.stop:
            logger.warning(
                "the range %d to %d overlaps another one, of which %s holds examples %d to %d; they are left alone, "
                "and only what is missing is simulated",
                start, stop - 1, file.path, file.start, file.stop - 1,
            )  # fmt: skip


def _fill(
    store: Store, stream: Stream, missing: Ranges, redraws: Redraws, waiting: Waiting, progress: ExampleProgress
) -> None:
    writer = Writer(store)
    try:
        done = 0
        while done < len(missing):
            size = min(EXAMPLES_AT_ONCE, stream.capacity or EXAMPLES_AT_ONCE, len(missing) - done)
            examples = stream.next_examples(size, waiting)
            for place, example in enumerate(examples, done):
                writer.add(missing[place], example)
            done += size
            redraws.count(examples, done)
            progress.update(size)
            if writer.lost:
                break
    finally:
        writer.close()
        if writer.unwritten:
            logger.warning("examples %s could not be written", writer.unwritten)
    if redraws.counts:
        logger.warning(describe_redraws(redraws.counts, done))
    if writer.unwritten:
        raise OSError(
            f"folder: the examples {writer.unwritten} could not be written to {str(store.folder)!r}: {writer.error}; "
            "see that it can be written to, and call simulate again: it simulates what is missing"
        )
