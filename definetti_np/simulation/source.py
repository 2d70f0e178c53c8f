"""Examples of a run: example i is a function of (seed, i) alone, whoever simulates it and when.

A stream gives batches of consecutive examples, in order. `SerialStream` simulates them in this process;
`definetti_np.workers.WorkerStream` has the same interface and simulates them ahead in processes of their own.
"""

import functools
import inspect
import multiprocessing
import random
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# NumPy loads these two when they are first used: not while a worker is forked, which would wait for ever for the lock.
import numpy.ma
import numpy.random

from ..checks import as_integer, check_k
from ..errors import NotFiniteError, SimulatorError
from ..interruption import Interrupted
from ..losses import check_labels
from ..multiset import MultisetBatch, as_floats, as_rows, distinct_rows
from ..seeds import example_seed
from ..specs import Spec, shape_fits
from .redraws import NO_REDRAWS, Redraws

MOST_DRAWS = 100  # of one example, before it counts as impossible


@dataclass(frozen=True, eq=False)
class Example:
    """One simulated dataset as a multiset: rows (U, W, C) float32, counts (U,) int64; and its label (N,) float32.

    `redraws` says for each draw that failed before this one why it did.
    """

    rows: np.ndarray
    counts: np.ndarray
    label: np.ndarray
    redraws: tuple[str, ...] = ()


def simulate_example(simulator: Callable, *, seed: int, index: int, attempt: int = 0):
    """Call the simulator as a run of this seed does for example `index`, and return what it returns.

    A simulator that takes an argument receives a `numpy.random.Generator`. For one that takes none, `numpy.random` and
    `random` are seeded, and put back afterwards. `attempt` counts the draws that failed before under
    ``on_simulator_error="redraw"``.
    """
    seed, index = as_integer(seed, "seed", minimum=0), as_integer(index, "index", minimum=0)
    attempt = as_integer(attempt, "attempt", minimum=0)
    return _simulate(simulator, takes_generator(simulator), example_seed(seed, index, attempt))


def _simulate(simulator: Callable, with_generator: bool, seed: np.random.SeedSequence):
    if with_generator:
        return simulator(np.random.default_rng(seed))
    words = seed.generate_state(4)
    with _global_generators:
        numpy_state, python_state = np.random.get_state(), random.getstate()
        np.random.seed(words)
        random.seed(words.tobytes())
        try:
            return simulator()
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


_global_generators = threading.RLock()


def forget_locks_of_other_threads() -> None:
    """In a forked process: replace locks that another thread may have held at the fork and will never release."""
    global _global_generators
    _global_generators = threading.RLock()
    np.random.set_bit_generator(np.random.MT19937())


def takes_generator(simulator: Callable) -> bool:
    """Whether a simulator is to be called with a generator: its one parameter has no default, or is named ``rng``.

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
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    required += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) > 1 or required and not positional:
        raise TypeError(
            f"simulator must take no argument or one, a numpy.random.Generator; it requires {', '.join(required)}: "
            "fix the others with a lambda or functools.partial"
        )
    return bool(required) or bool(positional) and positional[0].name == "rng"


@dataclass(frozen=True, eq=False)
class ExampleSource:
    """Simulates the examples of a run and checks every one of them.

    `on_error` is "raise", or "redraw" to draw an example again, with its next seed, where the simulator raises or
    returns NaN or infinite values.
    """

    simulator: Callable
    seed: int
    spec: Spec
    loss: str
    on_error: str = "raise"

    @functools.cached_property
    def _with_generator(self) -> bool:
        return takes_generator(self.simulator)

    def example(self, index: int) -> Example:
        """Simulate example `index`.

        Raises
        ------
        SimulatorError
            If the simulator raises, or returns anything but data and a label that fit the network.
        """
        redraws = []
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
        try:
            result = _simulate(self.simulator, self._with_generator, example_seed(self.seed, index, attempt))
        except BaseException as error:
            ours = isinstance(error, Interrupted) or multiprocessing.parent_process() is None
            if isinstance(error, KeyboardInterrupt) and ours:
                raise  # it is the user's, not the simulator's
            shown = "".join(traceback.format_exception(error))
            # Whether memory runs out is no function of the seed, and who exits wants to end.
            again = isinstance(error, Exception) and not isinstance(error, MemoryError)
            raise self._failure(index, attempt, f"failed:\n\n{shown}", _one_line(error) if again else None) from None
        try:
            return Example(*self._checked(result), tuple(redraws))
        except Exception as error:
            reason = str(error).split(",")[0] if isinstance(error, NotFiniteError) else None
            raise self._failure(index, attempt, f"returned something unusable: {error}\n", reason) from None

    def _failure(self, index: int, attempt: int, what: str, reason: str | None) -> SimulatorError:
        error = SimulatorError(
            f"example {index} of seed {self.seed}: the simulator {what}\n"
            f"To reproduce it in this process:\n    {reproducing_line(self.seed, index, attempt)}"
        )
        error.reason = reason
        return error

    def _checked(self, result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not isinstance(result, tuple) or len(result) != 2:
            shown = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise TypeError(f"it must return a tuple (data, label), got {shown}")
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


def reproducing_line(seed: int, index: int, attempt: int = 0) -> str:
    """The Python that simulates an example again."""
    return f"definetti_np.simulate_example(simulator, seed={seed}, index={index}{f', {attempt=}' if attempt else ''})"


def _one_line(error: Exception) -> str:
    """Class and message of an error in at most 200 characters that any file can hold."""
    lines = "".join(traceback.format_exception_only(error)).split("\n")
    return " ".join(lines[0].split())[:200].encode(errors="backslashreplace").decode()


class Stream:
    """What all streams of batches have: a count of redraws, and a context at whose end they are closed."""

    _redraws: Redraws

    @property
    def redraws(self) -> Mapping[str, int]:
        """How many draws failed for the examples that were taken, by reason."""
        return self._redraws.counts

    def close(self) -> None:
        """Stop what has been started."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class SerialStream(Stream):
    """Batches of examples ``first``, ``first + 1``, ..., simulated in this process when they are asked for.

    `max_redraw_fraction` limits how many draws may fail; `redraws` counts those that did, by reason, and starts with
    those of the part of the run before `first`.
    """

    def __init__(
        self,
        source: ExampleSource,
        *,
        first: int = 0,
        max_redraw_fraction: float = 0.1,
        redraws: Mapping[str, int] = NO_REDRAWS,
    ):
        self._source = source
        self._next = first
        self._redraws = Redraws(max_redraw_fraction, redraws)

    def next_batch(self, size: int) -> tuple[MultisetBatch, np.ndarray]:
        """Return the next `size` examples: their rows, and their labels (size, N)."""
        start, self._next = self._next, self._next + size
        examples = [self._source.example(index) for index in range(start, self._next)]
        self._redraws.take(examples, self._next)
        return assemble(examples)


def assemble(examples: list[Example]) -> tuple[MultisetBatch, np.ndarray]:
    """Put examples together to a batch and labels (B, N)."""
    batch = MultisetBatch.from_distinct([(example.rows, example.counts) for example in examples])
    return batch, np.stack([example.label for example in examples])
