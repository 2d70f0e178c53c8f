"""What is sent to simulate with: a source, pickled once for all its tasks; and which part of it cannot be pickled."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from typing import Any

from ..checks import shorten
from .source import ExampleSource

DEEPEST = 20  # parts of parts that are looked into
LONGEST_REPR = 200  # characters

Dumps = Callable[[Any], bytes]


class Parcel:
    """A source for an executor: pickled when the executor pickles it, as bytes that `open` reads where they arrive.

    So the simulator's module is imported inside a task, where it can fail with an error of its own. Otherwise a worker
    that lacks the module would fail at the message, and Dask's would wait for ever. An executor of threads gets the
    source itself.

    Parameters
    ----------
    source
        What simulates an example.
    executor
        Where it is sent.

    Attributes
    ----------
    error
        Why it could not be pickled, None if it could be, or has not been.
    """

    def __init__(self, source: ExampleSource, executor: Any):
        self._source: ExampleSource | None = source
        self._content = b""
        self._dumps, self._sends_functions = pickler_for(executor)
        self.error: TypeError | None = None

    def __getstate__(self) -> bytes:
        if not self._content:
            try:
                self._content = self._dumps(self._source)
            except Exception as error:  # pickling raises errors of many classes
                self.error = TypeError(
                    f"the simulator cannot be sent to another process: {self._describe(error)}. Make it where it is "
                    "used, or at the top of a module"
                    + ("" if self._sends_functions else "; an executor of loky or Dask takes lambdas and closures too")
                )
                raise self.error from error
        return self._content

    def __setstate__(self, content: bytes) -> None:
        self._source, self._content = None, content

    def _describe(self, error: Exception) -> str:
        for name in ("simulator", "encoder"):
            part = getattr(self._source, name)
            if _why_not(part, self._dumps):
                return describe_unpicklable(part, name, self._dumps, self._sends_functions)
        return f"{type(error).__name__}: {error}"

    def open(self) -> ExampleSource:
        """Return the source; it is another one for each task, as if it had been sent without a parcel."""
        return ForkingPickler.loads(self._content) if self._source is None else self._source


def pickler_for(executor: Any) -> tuple[Dumps, bool]:
    """What pickles for an executor, and whether that takes functions which are in no module.

    It is cloudpickle where that is loaded, because the engines that load it send such functions. A process pool of
    Python does not, and its processes may lack cloudpickle.
    """
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None or isinstance(executor, ProcessPoolExecutor):
        return lambda thing: bytes(ForkingPickler.dumps(thing)), False
    return cloudpickle.dumps, True


def describe_unpicklable(thing: Any, name: str, dumps: Dumps, sends_functions: bool) -> str:
    """Say which part of something that cannot be pickled is why."""
    for _ in range(DEEPEST):
        wrong = next((found for found in _parts(thing, name, sends_functions) if _why_not(found[1], dumps)), None)
        if wrong is None:
            break
        name, thing = wrong
    return f"{name} is {shorten(repr(thing), LONGEST_REPR)} ({_why_not(thing, dumps)})"


def _why_not(thing: Any, dumps: Dumps) -> str:
    """Why something cannot be pickled, or nothing."""
    try:
        dumps(thing)
    except Exception as error:
        return shorten(f"{type(error).__name__}: {error}", LONGEST_REPR)
    return ""


def _parts(thing: Any, name: str, of_functions: bool) -> Iterator[tuple[str, Any]]:
    """What something consists of, by names as in Python; `of_functions` is whether what they refer to is sent."""
    if isinstance(thing, functools.partial):
        yield f"{name}.func", thing.func
        yield from _parts(thing.args, f"{name}.args", of_functions)
        yield from _parts(thing.keywords, f"{name}.keywords", of_functions)
    elif inspect.ismethod(thing):
        yield f"{name}.__self__", thing.__self__
    elif inspect.isfunction(thing) and of_functions:
        variables = inspect.getclosurevars(thing)
        for variable, value in {**variables.nonlocals, **variables.globals}.items():
            yield f"{variable} in {name}", value
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            yield f"{name}[{key!r}]", value
    elif isinstance(thing, (list, tuple)):
        for place, value in enumerate(thing):
            yield f"{name}[{place}]", value
    else:
        for attribute, value in getattr(thing, "__dict__", {}).items():
            yield f"{name}.{attribute}", value
