"""Where a model comes from: the date of its run, its simulator's source, and what the user says of it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

LARGEST_METADATA = 2**20  # bytes, as JSON; a model file holds little more beside its weights
MOST_VALUES = 2**16  # in it


def date_now() -> str:
    """Today in UTC, as 2026-11-25; the day of SOURCE_DATE_EPOCH where that is set, for files that can be made again.

    It is the day alone, because equal runs of a day are to end in equal files.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%d", time.gmtime(int(epoch) if epoch.isdecimal() else None))


def digest_of_source(simulator: Callable | None) -> str | None:
    """The SHA-256 of the source of a function, of the one in a partial, or of an object's methods; None without it.

    An object's class is read by its methods, with those it inherits: for the source of a class as a whole Python before
    3.13 parses the file, and parsing in two threads at a time may end in a SystemError (python/cpython#106905).
    """
    while isinstance(simulator, functools.partial):
        simulator = simulator.func
    sources = [source for function in _functions_of(simulator) if (source := _source_of(function)) is not None]
    return hashlib.sha256("".join(sources).encode("utf-8", "replace")).hexdigest() if sources else None


def _functions_of(simulator: Any) -> list[Any]:
    """A function itself, or the methods of a class or of an object's class, in the order of their definition."""
    if hasattr(simulator, "__qualname__") and not isinstance(simulator, type):
        return [simulator]
    kind = simulator if isinstance(simulator, type) else type(simulator)
    members = [member for one in kind.__mro__ for member in vars(one).values()]
    functions = [getattr(member, "__func__", member) for member in members]  # class and static methods hold one
    return [function for function in functions if inspect.isfunction(function)]


def _source_of(function: Any) -> str | None:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, made by a decorator such as dataclass, or not written in Python
        return None


def describe_start(simulator: Callable | None) -> dict[str, str]:
    """What is to be known when a run goes on: the date when it began, and the digest of its simulator's source."""
    digest = digest_of_source(simulator)
    return {"date": date_now()} | ({} if digest is None else {"simulator_sha256": digest})


def describe_model(run: Mapping[str, Any], started: Mapping[str, str]) -> dict[str, Any]:
    """What a model says of its training beside network, loss and seed: arguments, the simulator's name, the date."""
    elsewhere = ("network", "parameters", "loss", "seed")
    described = {name: value for name, value in run.items() if name not in elsewhere}
    return described | ({"date": started["date"]} if "date" in started else {})


def seeds_of(seed: int, info: Any) -> tuple[int, ...]:
    """The seeds of a run and of those before it, from which its weights come, of what is known of it."""
    before = info.get("initial_seeds", ()) if isinstance(info, Mapping) else ()
    is_list = isinstance(before, (list, tuple)) and all(isinstance(other, int) for other in before)
    return (seed, *before) if is_list else (seed,)


def check_metadata(metadata: Any) -> dict[str, Any]:
    """Return metadata as plain JSON holds them, or {} for None.

    Raises
    ------
    TypeError, ValueError
        If they are no dict of what JSON can hold, or are too large for a model file.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a dict of plain JSON, got {type(metadata).__name__}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"metadata must be plain JSON (dict, list, str, finite numbers, True, False, None): {error}"
        ) from None
    plain = json.loads(text)
    if any(not isinstance(key, str) for key in metadata):  # JSON would make text of them
        raise TypeError(f"metadata must have keys of text, got {[k for k in metadata if not isinstance(k, str)][0]!r}")
    if len(text) > LARGEST_METADATA or sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(
            f"metadata must take at most {LARGEST_METADATA} bytes and {MOST_VALUES} values as JSON; it takes "
            f"{len(text)} bytes"
        )
    return plain
