"""Context: numbers of a whole dataset at each position, which every row gets as further channels.

A context is a list of entries such as ``("distinct", 4, 8)``, ``("frequency",)``, or a function of the user's. Here it
is checked, and its channels are counted; engine/context.py computes it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .checks import as_integer, name_of

# What the numbers after the name are. The windows of a width lie around each position; a reach is of positions before
# it, and of as many from it on.
KINDS = {
    "distinct": "width",
    "effective": "width",
    "frequency": None,
    "ld": "reach",
    "four_gametes": "reach",
    "moments": "order",
}
OF_ALLELES = ("ld", "four_gametes")  # they take 0 and 1 alone
MOST_CHANNELS = 10_000  # that it adds, because a file may ask for more
FORMS = {kind: f"({kind!r}{f', {number}, ...' if number else ','})" for kind, number in KINDS.items()}


@dataclass(frozen=True)
class Entry:
    """One entry: a kind with its widths, reaches or orders, or a function of the user's with its number of channels.

    `function` is None where only its name is known, as it is in a model file.
    """

    kind: str
    numbers: tuple[int, ...]
    channel: int = 0
    function: Callable | None = field(default=None, compare=False)

    @property
    def is_function(self) -> bool:
        """Whether it is a function of the user's."""
        return self.kind not in KINDS

    @property
    def channels(self) -> int:
        """How many channels it adds."""
        return self.numbers[0] if self.is_function else max(1, len(self.numbers))

    def as_tuple(self) -> tuple:
        """The way the user writes it; ``("function <name>", channels)`` for a function."""
        return (self.kind, *self.numbers, *([("channel", self.channel)] if self.channel else []))


@dataclass(frozen=True)
class Context:
    """The checked entries of a context; without any it adds nothing. Build it with `check_context`."""

    entries: tuple[Entry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    @property
    def channels(self) -> int:
        """How many channels it adds to a row."""
        return sum(entry.channels for entry in self.entries)

    @property
    def functions(self) -> list[Entry]:
        """The entries that are functions of the user's."""
        return [entry for entry in self.entries if entry.is_function]

    @property
    def written(self) -> dict[str, str]:
        """The context as the user wrote it, by argument; nothing without one."""
        return {"context": str(list(self.as_tuple()))} if self.entries else {}

    def as_tuple(self) -> tuple:
        """What a model file stores of it."""
        return tuple(entry.as_tuple() for entry in self.entries)

    def without_functions(self) -> Context:
        """The same, with the functions' names alone: what goes to other processes and into files."""
        return Context(tuple(replace(entry, function=None) for entry in self.entries))

    def check_functions(self) -> None:
        """Raise a ValueError if only the name of a function is known."""
        if missing := [entry.kind.removeprefix("function ") for entry in self.functions if entry.function is None]:
            raise ValueError(
                f"context: a file holds no functions: give {', '.join(missing)} again, in the list that was given to "
                "train, as context="
            )

    def check_rows(self, rows: np.ndarray, name_of_row: Callable[[int], str]) -> None:
        """Raise a ValueError where an entry takes 0 and 1 alone, and rows (U, W, C) hold something else."""
        for entry in self.entries:
            if entry.kind in OF_ALLELES:
                values = rows[..., entry.channel]
                others = values * values != values
                if others.any():
                    u, p = np.argwhere(others)[0].tolist()
                    raise ValueError(
                        f"{name_of_row(u)}: context {entry.as_tuple()!r} takes 0 and 1 alone, channel {entry.channel} "
                        f"holds {values[u, p]:g}; for other data there are ('distinct', ...) and ('moments', ...)"
                    )


def check_context(context: Any, positions: int, channels: int) -> Context:
    """Return the entries of a context for rows of so many positions and channels, or raise an error.

    A function of the user's is called on made-up data to find its number of channels. Of one that a model file names
    only the name and this number are known.

    Raises
    ------
    ValueError, TypeError
        Naming the entry, what it was and what is allowed.
    """
    if isinstance(context, Context):
        return context
    if not isinstance(context, (list, tuple)):
        raise TypeError(f"context must be a list of tuples such as {FORMS['distinct']}, got {context!r}")
    checked = Context(tuple(_entry(e, f"context[{i}]", positions, channels) for i, e in enumerate(context)))
    if checked.channels > MOST_CHANNELS:
        raise ValueError(f"context must add at most {MOST_CHANNELS} channels, got {checked.channels}")
    return checked


def _entry(entry: Any, where: str, positions: int, channels: int) -> Entry:
    if callable(entry):
        name = str(name_of(entry))
        return Entry(name, (_channels_of(entry, f"{where}, {name}", positions, channels),), function=entry)
    if isinstance(entry, str) or not isinstance(entry, (list, tuple)):
        raise TypeError(f"{where} must be a tuple such as {FORMS['distinct']}, or a function, got {entry!r}")
    kind, *numbers = entry or (None,)
    if isinstance(kind, str) and kind.startswith("function ") and len(numbers) == 1:  # a model file's
        return Entry(kind, (as_integer(numbers[0], f"{where}: channels of {kind}", minimum=1),))
    if not isinstance(kind, str) or kind not in KINDS:
        nearest = difflib.get_close_matches(str(kind), KINDS, n=1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(map(repr, KINDS))}"
        raise ValueError(f"{where}: unknown context {kind!r}; {advice}")
    channel = 0
    if numbers and isinstance(numbers[-1], (list, tuple)):
        channel = _channel(numbers.pop(), where, channels)
    number = KINDS[kind]
    if (number is None) != (not numbers):
        raise ValueError(f"{where}: {tuple(entry)!r} must be {FORMS[kind]}")
    checked = tuple(as_integer(n, f"{where}: {number} of {kind!r}", minimum=1) for n in numbers)
    if number in ("width", "reach") and (largest := max(checked)) > positions:
        raise ValueError(f"{where}: {number} of {kind!r} must be at most the {positions} positions, got {largest}")
    return Entry(kind, checked, channel)


def _channel(choice: Sequence, where: str, channels: int) -> int:
    if len(choice) != 2 or choice[0] != "channel":
        raise ValueError(f"{where}: what comes last may be ('channel', c), got {choice!r}")
    channel = as_integer(choice[1], f"{where}: the channel", minimum=0)
    if channel >= channels:
        raise ValueError(f"{where}: there are {channels} channels, from 0 on, got ('channel', {channel})")
    return channel


def _channels_of(function: Callable, where: str, positions: int, channels: int) -> int:
    """How many channels a function of the user's adds."""
    rng = np.random.default_rng(0)
    rows, counts = rng.integers(2, size=(3, positions, channels)).astype(np.float32), np.array([4, 1, 3])
    rows.flags.writeable = counts.flags.writeable = False
    try:
        with np.errstate(all="ignore"):
            result = function(rows, counts)
    except Exception as error:
        error.add_note(f"{where} was called on made-up data: rows {rows.shape} of 0 and 1, counts {counts}")
        raise
    if np.ndim(result) != 2 or np.shape(result)[0] != positions or np.shape(result)[1] == 0:
        raise ValueError(f"{where} must return an array (W, k), here ({positions}, k), got {_shown(result)}")
    return np.shape(result)[1]


def check_result(result: Any, entry: Entry, positions: int) -> np.ndarray:
    """Return what a function of the user's computed of a dataset, (W, k), or raise an error."""
    if np.shape(result) != (positions, entry.channels):
        raise ValueError(
            f"context, {entry.kind}: it must return an array of shape {(positions, entry.channels)}, as it did on "
            f"made-up data, got {_shown(result)}"
        )
    array = np.asarray(result, np.float64)
    if not np.isfinite(array).all():
        p, k = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"context, {entry.kind}: it returned {array[p, k]} at position {p}, number {k}")
    return array


def _shown(result: Any) -> str:
    return f"shape {np.shape(result)}" if isinstance(result, np.ndarray) else repr(result)
