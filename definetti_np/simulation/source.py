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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

# NumPy loads these two when they are first used. A worker that is forked at that moment would wait for their lock for
# ever.
import numpy.ma
import numpy.random

from .. import process
from ..checks import as_integer, check_k, leave_out_middle
from ..errors import NoDatasetError, NotFiniteError, SimulatorError
from ..interruption import Interrupted
from ..losses import check_labels
from ..multiset import as_floats, as_rows, distinct_rows
from ..seeds import encoder_rng, example_seed, validation_seed
from ..specs import DataSpec, Spec, shape_fits

ON_SIMULATOR_ERROR = ("raise", "redraw")
MOST_DRAWS = 100  # of one example, before it counts as impossible
JUDGED_DRAWS = 200  # so many draws, before the fraction that failed is judged
MOST_REASONS = 50  # that are counted apart, because a simulator may put numbers into its reasons
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
    returns NaN or infinite values, or where what it returns has too few SNPs for the `encoder`. The simulator is None
    where all examples are in a store.
    """

    simulator: Callable | None
    seed: int
    spec: Spec | DataSpec
    loss: str | None
    on_error: str = "raise"
    encoder: Any = None
    is_validation: bool = False

    @functools.cached_property
    def _generator(self) -> bool | str:
        return self.simulator is not None and takes_generator(self.simulator)

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
        if self.simulator is None:
            raise RuntimeError(f"there is no simulator for example {index}")
        attempt = len(redraws)
        seed = self._seed_of(index, attempt)
        owner = process.owner()
        try:
            result = _simulate(self.simulator, self._generator, seed)
            process.end_fork(owner)
        except BaseException as error:
            process.end_fork(owner, error)
            ours = isinstance(error, Interrupted) or multiprocessing.parent_process() is None
            if isinstance(error, KeyboardInterrupt) and ours:
                raise  # it is the user's, not the simulator's
            text = leave_out_middle("".join(traceback.format_exception(error)))
            # Another draw is no remedy where memory has run out, nor where the simulator wants to end the process.
            again = isinstance(error, Exception) and not isinstance(error, MemoryError)
            raise self._failure(index, attempt, f"failed:\n\n{text}", _one_line(error) if again else None) from None
        try:
            return Example(*self._check(result, seed), tuple(redraws))
        except Exception as error:
            again = isinstance(error, (NotFiniteError, NoDatasetError))
            reason = str(error).split(",")[0] if again else None
            what = f"returned something unusable: {leave_out_middle(str(error))}\n"
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

    def _encode(self, data: Any, seed: np.random.SeedSequence) -> np.ndarray:
        """What the encoder makes of a tree sequence or Haplotypes, around its middle."""
        encoded = self.encoder.encode(data, rng=encoder_rng(seed))
        if encoded is None:
            raise NoDatasetError(
                "it has too few SNPs around its middle for the encoder, so simulate a longer region, or train with "
                'on_simulator_error="redraw"'
            )
        return encoded

    def _check(self, result: Any, seed: np.random.SeedSequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not isinstance(result, tuple) or len(result) != 2:
            what = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"it must return a tuple (data, label), got {what}")
        data, label = result
        if self.encoder is not None and not isinstance(data, np.ndarray):
            data = self._encode(data, seed)
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
        rows, counts = distinct_rows(as_rows(data, "data"))
        self.spec.context.check_rows(rows, lambda u: "data")
        return rows, counts, label


def check_on_error(choice: str) -> str:
    """Return what is to be done where a simulator fails, or raise an error that names the argument."""
    if not isinstance(choice, str) or choice not in ON_SIMULATOR_ERROR:
        choices = ", ".join(map(repr, ON_SIMULATOR_ERROR))
        raise ValueError(f"on_simulator_error: unknown choice {choice!r}; choose from {choices}")
    return choice


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
        self.count_reasons((reason for example in examples for reason in example.redraws), total)

    def count_reasons(self, reasons: Iterable[str], total: int) -> None:
        """Count the reasons of draws that failed; see `count`."""
        for reason in reasons:
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
