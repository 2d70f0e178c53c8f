"""Intervals of a contig, 0-based and half open as in BED: read them, join them, ask what lies in them."""

from __future__ import annotations

import gzip
import logging
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GenomeFileError
from .bgzip import check_ends

logger = logging.getLogger("definetti_np")

SHOWN_NAMES = 30
FARTHEST = 2**53  # bp, where a contig's length is not known


def as_intervals(value: Any, name: str, contig: str) -> np.ndarray:
    """Return intervals (K, 2) float64, ascending and apart from each other, of a BED file or of pairs (start, end).

    Parameters
    ----------
    value
        The path of a BED file, of which the intervals of the contig are taken, or a sequence of pairs or array (K, 2).
    name
        The argument, for messages.
    contig
        The contig's name.

    Raises
    ------
    GenomeFileError
        If the file is no BED file, or has no interval of this contig.
    ValueError
        If the pairs are no intervals.
    """
    if isinstance(value, (str, os.PathLike)):
        return read_bed(value, contig)
    try:
        intervals = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be the path of a BED file, or pairs (start, end), got {value!r}") from None
    if intervals.shape == (0,):
        intervals = intervals.reshape(0, 2)
    if intervals.ndim != 2 or intervals.shape[1] != 2:
        got = f"numbers of shape {intervals.shape}" if intervals.ndim else repr(value)
        raise ValueError(f"{name} must be the path of a BED file, or pairs (start, end), got {got}")
    bad = ~(intervals[:, 0] <= intervals[:, 1])
    if bad.any() or not np.isfinite(intervals).all():
        shown = tuple(intervals[bad.argmax()].tolist())
        raise ValueError(f"{name}: an interval must have start <= end, both finite, got {shown}")
    return union(intervals)


def read_bed(path: str | os.PathLike, contig: str) -> np.ndarray:
    """The intervals (K, 2) of a contig in a BED file, plain or gzip, ascending and apart from each other."""
    path = Path(path).expanduser()
    found: list[tuple[int, int]] = []
    others: dict[str, None] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#") or line.split()[0] in ("track", "browser"):
            continue
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        where = f"{path}, line {number}"
        if len(fields) < 3 or not all(re.fullmatch(r"-?[0-9]{1,15}", field) for field in fields[1:3]):
            raise GenomeFileError(f"{where}: not a line of BED, contig, start and end: {line.strip()[:80]!r}")
        name, start, end = fields[0], int(fields[1]), int(fields[2])
        if not 0 <= start <= end:
            raise GenomeFileError(f"{where}: an interval must have 0 <= start <= end, got start {start}, end {end}")
        if name == contig:
            found.append((start, end))
        else:
            others[name] = None
    if not found:
        what = f"it has {list_names(others)}" if others else "it has no interval at all"
        raise GenomeFileError(f"{path}: no interval of contig {contig!r}; {what}")
    intervals = np.array(found, np.float64)
    if empty := int(np.count_nonzero(intervals[:, 0] == intervals[:, 1])):
        logger.warning(
            "%s: %s of the %s intervals of %s have start = end, so they are empty; BED counts starts from 0 and ends "
            "from 1: if this file counts both from 1, subtract 1 from its starts",
            path, f"{empty:,}", f"{len(intervals):,}", contig,
        )  # fmt: skip
    return union(intervals)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()  # at once, because it may be a pipe
        check_ends(path, content[:18], content)
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").split("\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise GenomeFileError(f"{path}: damaged or cut short: {error}") from None
    except UnicodeDecodeError:
        raise GenomeFileError(f"{path}: not a BED file, because it is no text") from None
    except OSError as error:
        raise GenomeFileError(f"{path}: cannot be read: {error.strerror or error}") from None


def list_names(names: Sequence[str] | dict[str, None]) -> str:
    """Names in a message, the first of them where they are many."""
    shown = ", ".join(list(names)[:SHOWN_NAMES])
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES} more"


def union(intervals: np.ndarray) -> np.ndarray:
    """The same places as ascending intervals that neither touch nor are empty, (K', 2)."""
    intervals = intervals[intervals[:, 0] < intervals[:, 1]]
    if not len(intervals):
        return intervals
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    ends = np.maximum.accumulate(intervals[:, 1])
    is_first = np.append(True, intervals[1:, 0] > ends[:-1])
    is_last = np.append(is_first[1:], True)
    return np.stack([intervals[is_first, 0], ends[is_last]], axis=1)


def clip(intervals: np.ndarray, start: float, stop: float) -> np.ndarray:
    """The parts of ascending intervals between start and stop."""
    clipped = np.clip(intervals, start, stop)
    return clipped[clipped[:, 0] < clipped[:, 1]]


def complement(intervals: np.ndarray, start: float, stop: float) -> np.ndarray:
    """The intervals between ascending intervals, from start to stop."""
    inside = clip(intervals, start, stop)
    edges = np.concatenate([[start], inside.ravel(), [stop]]).reshape(-1, 2)
    return edges[edges[:, 0] < edges[:, 1]]


def intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What lies in both of two sets of ascending intervals."""
    edges = np.concatenate([one.ravel(), other.ravel()])
    if not len(one) or not len(other):
        return np.empty((0, 2))
    start, stop = edges.min(), edges.max()
    outside = np.concatenate([complement(one, start, stop), complement(other, start, stop)])
    return complement(union(outside), start, stop)


def contains(intervals: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Whether positions lie in ascending intervals."""
    number = np.searchsorted(intervals[:, 0], positions, side="right") - 1
    ends = np.append(intervals[:, 1], -np.inf)  # number -1, before all of them, takes the last entry
    return np.asarray(positions) < ends[number]
