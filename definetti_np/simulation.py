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
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .checks import as_integer
from .errors import SimulatorError
from .losses import check_labels
from .multiset import MultisetBatch, as_floats, as_rows, distinct_rows
from .seeds import example_seed
from .specs import NetworkSpec, shape_fits


@dataclass(frozen=True, eq=False)
class Example:
    """One simulated dataset as a multiset: rows (U, W, C) float32, counts (U,) int64; and its label (N,) float32."""

    rows: np.ndarray
    counts: np.ndarray
    label: np.ndarray


def simulate_example(simulator: Callable, *, seed: int, index: int):
    """Call the simulator as a run of this seed does for example `index`, and return what it returns.

    A simulator that takes an argument receives a `numpy.random.Generator`. For one that takes none, `numpy.random` and
    `random` are seeded, and put back afterwards.
    """
    seed, index = as_integer(seed, "seed", minimum=0), as_integer(index, "index", minimum=0)
    return _simulate(simulator, takes_generator(simulator), seed, index)


def _simulate(simulator: Callable, with_generator: bool, seed: int, index: int):
    if with_generator:
        return simulator(np.random.default_rng(example_seed(seed, index)))
    words = example_seed(seed, index).generate_state(4)
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
    """Simulates the examples of a run and checks every one of them."""

    simulator: Callable
    seed: int
    spec: NetworkSpec
    loss: str

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
        try:
            result = _simulate(self.simulator, self._with_generator, self.seed, index)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
                raise  # it is the user's, not the simulator's
            shown = traceback.format_exception(error)
            raise SimulatorError(self._failure(index, f"failed:\n\n{''.join(shown)}")) from None
        try:
            return self._checked(result)
        except Exception as error:
            raise SimulatorError(self._failure(index, f"returned something unusable: {error}\n")) from None

    def _failure(self, index: int, what: str) -> str:
        return (
            f"example {index} of seed {self.seed}: the simulator {what}\n"
            "To reproduce it in this process:\n"
            f"    definetti_np.simulate_example(simulator, seed={self.seed}, index={index})"
        )

    def _checked(self, result) -> Example:
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
        if self.spec.pooling.kind == "top_k" and len(data) < self.spec.pooling.k:
            raise ValueError(f"data of {len(data)} rows, g={self.spec.g!r} needs {self.spec.pooling.k} at least")
        label = as_floats(label, "label")
        check_labels(label, self.loss, "label")
        return Example(*distinct_rows(as_rows(data, "data")), label)


class SerialStream:
    """Batches of examples ``first``, ``first + 1``, ..., simulated in this process when they are asked for."""

    def __init__(self, source: ExampleSource, *, first: int = 0):
        self._source = source
        self._next = first

    def next_batch(self, size: int) -> tuple[MultisetBatch, np.ndarray]:
        """Return the next `size` examples: their rows, and their labels (size, N)."""
        start, self._next = self._next, self._next + size
        return assemble([self._source.example(index) for index in range(start, self._next)])

    def close(self) -> None:
        """There is nothing to stop."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def assemble(examples: list[Example]) -> tuple[MultisetBatch, np.ndarray]:
    """Put examples together to a batch and labels (B, N)."""
    batch = MultisetBatch.from_distinct([(example.rows, example.counts) for example in examples])
    return batch, np.stack([example.label for example in examples])
