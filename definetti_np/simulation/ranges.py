"""Indices of examples as ranges: which ones there are, and which are missing."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

MOST_EXAMPLES = 2**63 - 1  # because an index has 64 bits, and the length of a Python sequence too
MOST_SHOWN = 10  # ranges in a text


class Ranges(Sequence[int]):
    """The integers of ranges, rising, each once; as small in memory as there are few ranges.

    Attributes
    ----------
    ranges
        Disjoint ranges in steps of 1 that do not touch, in order.
    """

    def __init__(self, ranges: Iterable[range]):
        self.ranges: list[range] = []
        for found in sorted((r for r in ranges if r), key=lambda r: r.start):
            if self.ranges and found.start <= self.ranges[-1].stop:
                last = self.ranges[-1]
                self.ranges[-1] = range(last.start, max(last.stop, found.stop))
            else:
                self.ranges.append(found)
        self._places = [0]  # of the first number of each range
        for found in self.ranges:
            self._places.append(self._places[-1] + len(found))

    def __len__(self) -> int:
        return self._places[-1]

    @overload
    def __getitem__(self, place: int) -> int: ...

    @overload
    def __getitem__(self, place: slice) -> list[int]: ...

    def __getitem__(self, place: int | slice) -> int | list[int]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        i = place + len(self) if place < 0 else place
        if not 0 <= i < len(self):
            raise IndexError(f"place {place} of {len(self)} numbers")
        which = bisect.bisect_right(self._places, i) - 1
        return self.ranges[which][i - self._places[which]]

    def __iter__(self) -> Iterator[int]:
        for found in self.ranges:
            yield from found

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, (int, np.integer)):
            return False
        which = bisect.bisect_right(self.ranges, number, key=lambda found: found.start) - 1
        return which >= 0 and number in self.ranges[which]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.ranges == other.ranges

    def missing(self, within: range) -> Ranges:
        """The numbers of a range that are not in these."""
        gaps, start = [], within.start
        for found in self.ranges:
            gaps.append(range(start, min(found.start, within.stop)))
            start = max(start, found.stop)
        return Ranges([*gaps, range(start, within.stop)])

    def __str__(self) -> str:
        texts = [f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in self.ranges[:MOST_SHOWN]]
        if len(self.ranges) > MOST_SHOWN:
            texts.append(f"{len(self.ranges) - MOST_SHOWN} more ranges")
        return ", ".join(texts) if texts else "none"

    def __repr__(self) -> str:
        return f"Ranges({self})"
