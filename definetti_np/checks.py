"""Checks of arguments that several public functions share: each rule has one function and one wording."""

from __future__ import annotations

import functools
import numbers
import operator
from typing import Any

import numpy as np


def as_integer(value: Any, name: str, *, minimum: int) -> int:
    """Return `value` as an int, or raise an error that names the argument."""
    try:
        integer = operator.index(value)
    except TypeError:
        integer = None
    if integer is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if integer < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {integer}")
    return integer


def as_bool(value: Any, name: str) -> bool:
    """Return `value`, Python's or NumPy's, as a bool, or raise an error that names the argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_positive_number(value: Any, name: str) -> float:
    """Return `value` as a positive, finite float, or raise an error that names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = float("inf")
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def as_nonnegative_number(value: Any, name: str) -> float:
    """Return `value` as a finite float that is 0 or more, or raise an error that names the argument."""
    try:
        return 0.0 if not isinstance(value, (bool, np.bool_)) and value == 0 else as_positive_number(value, name)
    except ValueError:
        raise ValueError(f"{name} must be 0 or more, and finite, got {value!r}") from None


def check_width(width: int, positions: int, where: str) -> None:
    """Raise a ValueError if the window of a convolution has more positions than there are."""
    if width > positions:
        raise ValueError(f"{where}: the width is larger than the {positions} positions it slides over, got {width}")


def check_k(k: int, rows: int, where: str) -> None:
    """Raise a ValueError if the k largest of fewer than k rows are asked for."""
    if k > rows:
        raise ValueError(f"{where}: top_k needs 1 <= k <= {rows} (the number of rows), got k={k}")


def name_of(function: Any) -> str | None:
    """What files say of a choice that may be a function: the choice itself, or "function " and the function's name."""
    return f"function {qualified_name(function)}" if callable(function) else function


def qualified_name(function: Any) -> str:
    """The name of a function, of the one in a partial, or of an object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__qualname__)


def leave_out_middle(text: str, most: int = 20_000) -> str:
    """The beginning and the end of a very long text: an error may hold all of somebody's data."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters ...\n{text[-half:]}"


def shorten(text: str, most: int) -> str:
    """The first characters of a text, and how many more there are; messages may quote what is as long as a file."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most} more characters)"
