"""Examples of a run: example i is a function of (seed, i) alone, whoever simulates it and when.

A draw that fails may be repeated with the next seed of its example. Such redraws are counted by reason, in the order of
the examples, and limited.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import multiprocessing
import random
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

# NumPy loads these two when they are first used. A worker that is forked at that moment would wait for their lock for
# ever.
import numpy.ma
import numpy.random

from .. import process
from ..checks import as_integer, check_k
from ..errors import NotFiniteError, SimulatorError
from ..interruption import Interrupted
from ..losses import check_labels
from ..multiset import as_floats, as_rows, distinct_rows
from ..seeds import example_seed, validation_seed
from ..specs import Spec, shape_fits

MOST_DRAWS = 100  # of one example, before it counts as impossible
JUDGED_DRAWS = 200  # so many draws, before the fraction that failed is judged
MOST_REASONS = 50  # that are counted apart, because a simulator may put numbers into its reasons
MOST_CHARACTERS = 20_000  # of the text of an error
OTHER_REASONS = "other reasons"
NO_REDRAWS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Example:
    """One simulated dataset as a multiset: rows (U, W, C) float32, counts (U,) int64; and its label (N,) float32.

    `redraws` says for each draw that failed before this one why it did.
    """

    rows: np.ndarray
    counts: np.ndarray
    label: np.ndarray
    redraws: tuple[str, ...] = ()


def simulate_example(simulator: Callable, *, seed: int, index: int, attempt: int = 0, validation: bool = False) -> Any:
    """Call the simulator as a run of this seed does for example `index`, and return what it returns.

    A simulator that takes an argument receives a `numpy.random.Generator`, by name where it must. For one that takes
    none, `numpy.random` and `random` are seeded, and put back afterwards. `attempt` counts the draws that failed
    before under ``on_simulator_error="redraw"``. `validation` asks for an example that is held for validation.
    """
    seed, index = as_integer(seed, "seed", minimum=0), as_integer(index, "index", minimum=0)
    attempt = as_integer(attempt, "attempt", minimum=0)
    seed_of = validation_seed if validation else example_seed
    return _simulate(simulator, takes_generator(simulator), seed_of(seed, index, attempt))


def _simulate(simulator: Callable, generator: bool | str, seed: np.random.SeedSequence) -> Any:
    if isinstance(generator, str):
        return simulator(**{generator: np.random.default_rng(seed)})
    if generator:
        return simulator(np.random.default_rng(seed))
    words = seed.generate_state(4)
    with _global_generators, _numpy_random(), _python_random():
        np.random.seed(words)
        random.seed(words.tobytes())
        return simulator()


@contextlib.contextmanager
def _numpy_random() -> Iterator[None]:
    """Let `numpy.random` draw from its usual bit generator inside the block, and as before afterwards."""
    generator, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)  # type: ignore[attr-defined]
    is_usual = isinstance(generator, np.random.MT19937)
    if not is_usual:
        np.random.set_bit_generator(np.random.MT19937())  # type: ignore[attr-defined, unused-ignore]
    try:
        yield
    finally:
        if not is_usual:
            np.random.set_bit_generator(generator)  # type: ignore[attr-defined, unused-ignore]
        np.random.set_state(state)


@contextlib.contextmanager
def _python_random() -> Iterator[None]:
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


_global_generators = threading.RLock()


def forget_locks_of_other_threads() -> None:
    """In a forked process: replace locks that another thread may have held at the fork and will never release."""
    global _global_generators
    _global_generators = threading.RLock()
    np.random.set_bit_generator(np.random.MT19937())  # type: ignore[attr-defined, unused-ignore]


def takes_generator(simulator: Callable) -> bool | str:
    """Whether a simulator is to be called with a generator: its one parameter has no default, or is named ``rng``.

    Returns
    -------
    bool or str
        The name of the parameter if it must be given by name, as those of a `functools.partial` often must.

    Raises
    ------
    TypeError
        If it is not callable or requires more than one argument.
    """
    if not callable(simulator):
        raise TypeError(f"simulator must be a function, got {simulator!r}")
    try:
        parameters = inspect.signature(simulator).parameters.values()
    except ValueError:
        raise TypeError(f"simulator: the arguments of {simulator!r} are unknown; wrap it in a lambda") from None
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    required = [p for p in (*by_place, *by_name) if p.default is p.empty]
    if len(required) > 1 or any(p in by_name and p.name != "rng" for p in required):
        names = ", ".join(p.name for p in required)
        raise TypeError(
            f"simulator must take no argument or one, a numpy.random.Generator; it requires {names}: "
            "fix the others with a lambda or functools.partial; one that is given by name must be rng"
        )
    for generator in required or [p for p in (*by_place[:1], *by_name) if p.name == "rng"]:
        return generator.name if generator.kind is generator.KEYWORD_ONLY else True
    return False


@dataclass(frozen=True, eq=False)
class ExampleSource:
    """Simulates the examples of a run and checks every one of them.

    `on_error` is "raise", or "redraw" to draw an example again, with its next seed, where the simulator raises or
    returns NaN or infinite values.
    """

    simulator: Callable
    seed: int
    spec: Spec
    loss: str | None
    on_error: str = "raise"
    is_validation: bool = False

    @functools.cached_property
    def _generator(self) -> bool | str:
        return takes_generator(self.simulator)

    def example(self, index: int) -> Example:
        """Simulate example `index`.

        Raises
        ------
        SimulatorError
            If the simulator raises, or returns anything but data and a label that fit the network.
        """
        redraws: list[str] = []
        while True:
            try:
                return self._draw(index, redraws)
            except SimulatorError as error:
                if self.on_error == "raise" or error.reason is None:
                    raise
                redraws.append(error.reason)
                if len(redraws) == MOST_DRAWS:
                    raise SimulatorError(f"{error}\nAll {MOST_DRAWS} draws of this example failed.") from None

    def _draw(self, index: int, redraws: list[str]) -> Example:
        attempt = len(redraws)
        owner = process.owner()
        try:
            result = _simulate(self.simulator, self._generator, self._seed_of(index, attempt))
            process.end_fork(owner)
        except BaseException as error:
            process.end_fork(owner, error)
            ours = isinstance(error, Interrupted) or multiprocessing.parent_process() is None
            if isinstance(error, KeyboardInterrupt) and ours:
                raise  # it is the user's, not the simulator's
            text = shorten("".join(traceback.format_exception(error)))
            # Another draw is no remedy where memory has run out, nor where the simulator wants to end the process.
            again = isinstance(error, Exception) and not isinstance(error, MemoryError)
            raise self._failure(index, attempt, f"failed:\n\n{text}", _one_line(error) if again else None) from None
        try:
            return Example(*self._check(result), tuple(redraws))
        except Exception as error:
            reason = str(error).split(",")[0] if isinstance(error, NotFiniteError) else None
            what = f"returned something unusable: {shorten(str(error))}\n"
            raise self._failure(index, attempt, what, reason) from None

    def _seed_of(self, index: int, attempt: int) -> np.random.SeedSequence:
        return (validation_seed if self.is_validation else example_seed)(self.seed, index, attempt)

    def _failure(self, index: int, attempt: int, what: str, reason: str | None) -> SimulatorError:
        error = SimulatorError(
            f"{'validation ' * self.is_validation}example {index} of seed {self.seed}: the simulator {what}\n"
            f"To reproduce it in this process:\n    {self.reproducing_line(index, attempt)}"
        )
        error.reason = reason
        return error

    def reproducing_line(self, index: int, attempt: int = 0) -> str:
        """The Python that simulates an example again."""
        return reproducing_line(self.seed, index, attempt, self.is_validation)

    def _check(self, result: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not isinstance(result, tuple) or len(result) != 2:
            what = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"it must return a tuple (data, label), got {what}")
        data, label = result
        for name, array, wanted in (
            ("data", data, self.spec.input_shape),
            ("label", label, self.spec.output_shape),
        ):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name} must be a NumPy array of numbers, got {type(array).__name__}")
            if not shape_fits(array.shape, wanted):
                kind = "input_shape" if name == "data" else "output_shape"
                raise ValueError(f"{name} of shape {array.shape}, {kind} is {wanted}")
        check_k(self.spec.fewest_rows, len(data), f"data of {len(data)} rows")
        label = as_floats(label, "label")
        check_labels(label, self.loss, "label")
        return *distinct_rows(as_rows(data, "data")), label


def shorten(text: str) -> str:
    """Leave the middle of a very long text out: an error may hold all of somebody's data."""
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"


def reproducing_line(seed: int, index: int, attempt: int = 0, is_validation: bool = False) -> str:
    """The Python that simulates an example again."""
    more = f", {attempt=}" * bool(attempt) + ", validation=True" * is_validation
    return f"definetti_np.simulate_example(simulator, seed={seed}, index={index}{more})"


def _one_line(error: BaseException) -> str:
    """Class and message of an error in at most 200 characters that any file can hold."""
    lines = "".join(traceback.format_exception_only(error)).split("\n")
    return " ".join(lines[0].split())[:200].encode(errors="backslashreplace").decode()


class Redraws:
    """Counts the draws that failed among the examples of a run.

    Parameters
    ----------
    max_fraction
        The largest fraction of failed draws that is accepted.
    counts
        Failed draws by reason, of the part of the run before this.
    """

    def __init__(self, max_fraction: float, counts: Mapping[str, int]):
        self._max_fraction = max_fraction
        self.counts = dict(counts)

    def count(self, examples: Sequence[Example], total: int) -> None:
        """Count the draws that failed for a batch of examples; `total` is how many examples there are up to its end.

        Raises
        ------
        SimulatorError
            If they are too many now.
        """
        for reason in (reason for example in examples for reason in example.redraws):
            known = reason in self.counts or len(self.counts) < MOST_REASONS
            key = reason if known else OTHER_REASONS
            self.counts[key] = self.counts.get(key, 0) + 1
        failed = sum(self.counts.values())
        if total + failed >= JUDGED_DRAWS and failed > self._max_fraction * (total + failed):
            raise SimulatorError(
                f"{describe_redraws(self.counts, total)}, more than max_redraw_fraction={self._max_fraction:g}; repair "
                "the simulator, or raise max_redraw_fraction if the prior may lose the parameters that it fails at"
            )


def describe_redraws(counts: Mapping[str, int], total: int) -> str:
    """Say how many draws failed for `total` examples, and why."""
    failed = sum(counts.values())
    most = sorted(counts.items(), key=lambda item: -item[1])[:5]
    reasons = "; ".join(f"{number} times {reason}" for reason, number in most)
    return f"{failed} of {total + failed} draws failed and were repeated ({reasons})"
