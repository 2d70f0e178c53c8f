"""Processes that simulator processes have started, so that they end with them.

Each worker is the leader of a session. What its simulator starts belongs to that session, in whatever process group,
unless it begins one of its own (``setsid``, ``start_new_session=True``, a daemon). Then it is known as a descendant
as long as its worker lives. Only Linux tells; elsewhere it is the worker's process group that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

MOST_ROUNDS = 20  # of killing what was started while others were killed
ROUND_SECONDS = 0.002


@dataclass(frozen=True)
class Relative:
    """A process: its id, and when it started, because the system reuses ids."""

    pid: int
    start: bytes


def relatives(leaders: Collection[int]) -> set[Relative]:
    """The living processes that these workers have started, found by session and by descent."""
    found: set[Relative] = set()
    if not leaders or not sys.platform.startswith("linux"):
        return found
    children: dict[int, list[tuple[Relative, bool]]] = {}
    todo = list(leaders)
    for relative, parent, session, lives in _processes():
        children.setdefault(parent, []).append((relative, lives))
        if session in leaders and relative.pid not in leaders:
            todo.append(relative.pid)
            if lives:
                found.add(relative)
    for pid in todo:
        for child, lives in children.pop(pid, ()):
            todo.append(child.pid)
            if lives and child.pid not in leaders:
                found.add(child)
    return found


def kill(leaders: Collection[int], known: Collection[Relative] = ()) -> None:
    """Kill the processes that these workers have started, and those that `relatives` found before, until none lives."""
    if not sys.platform.startswith("linux"):
        for pid in leaders:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        return
    for _ in range(MOST_ROUNDS):
        rest = relatives(leaders)
        if missing := set(known) - rest:
            rest |= missing & {relative for relative, _, _, lives in _processes() if lives}
        if not rest:
            return
        for relative in rest:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(relative.pid, signal.SIGKILL)
        time.sleep(ROUND_SECONDS)


def end_mine() -> None:
    """In a simulator process that ends: kill what it has started, where that is known."""
    if sys.platform.startswith("linux"):
        kill({os.getpid()})


def _processes() -> Iterator[tuple[Relative, int, int, bool]]:
    """(process, parent's id, session, whether it lives) of all processes."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        yield Relative(int(name), fields[19]), int(fields[1]), int(fields[3]), fields[0] not in (b"Z", b"X")
