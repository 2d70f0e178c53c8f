"""How many cores this process may use: the smallest number that the system, a container, Slurm or the user gives."""

import functools
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def available_cores() -> int:
    """Count the cores that this process may use."""
    return min(_limits().values())


def describe_cores() -> str:
    """Say how many cores this process may use, and what sets this limit."""
    limits = _limits()
    lowest = min(limits, key=limits.__getitem__)
    return f"{limits[lowest]} core{'s' * (limits[lowest] > 1)} ({lowest})"


def _limits() -> dict[str, int]:
    """The limits on the number of cores, by what sets them."""
    if hasattr(os, "sched_getaffinity"):
        limits = {"the CPU affinity of this process": len(os.sched_getaffinity(0))}
    else:
        limits = {"the machine": os.cpu_count() or 1}
    if (quota := _smallest_quota()) is not None:
        limits["the CPU quota of its cgroup"] = math.ceil(quota)
    for name, text in (
        ("SLURM_CPUS_PER_TASK", os.environ.get("SLURM_CPUS_PER_TASK")),
        ("PYTHON_CPU_COUNT", sys._xoptions.get("cpu_count", os.environ.get("PYTHON_CPU_COUNT"))),
    ):
        if isinstance(text, str) and text.strip().isdecimal() and int(text) > 0:
            limits[name] = int(text)
    return limits


@functools.cache  # because a prediction takes less time than to read the files of a system with many mounts
def _smallest_quota() -> float | None:
    return min(_cgroup_quotas(Path("/")), default=None)


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """The cores that the cgroups of this process may use, version 1 or 2, of each that has a quota.

    A quota of a group holds for the groups below it. Containers see their own group as the uppermost one.
    """
    groups = _groups(root)
    for mount in _lines(root / "proc/self/mountinfo"):
        # For example: 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
        before, _, after = mount.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 3:
            continue
        group = None
        if kind[0] == "cgroup2":
            group = groups.get("")
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            group = groups.get("cpu")
        if group is not None:
            path = Path(group.removeprefix(place[3]).lstrip("/"))
            for part in (path, *path.parents):
                yield from _quota(root / place[4].lstrip("/") / part)


def _groups(root: Path) -> dict[str, str]:
    """The cgroup of this process by controller; that of version 2 has the name ""."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), group)
    return groups


def _quota(folder: Path) -> Iterator[float]:
    """The quota of a group, as a number of cores, if it has one."""
    text = " ".join(_lines(folder / "cpu.max"))  # version 2: "200000 100000", or "max 100000"
    if not text:
        text = " ".join(_lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us"))  # -1 is no quota
    numbers = text.split()
    if len(numbers) == 2 and all(number.isdecimal() and int(number) > 0 for number in numbers):
        yield int(numbers[0]) / int(numbers[1])


def _lines(path: Path) -> list[str]:
    """The lines of a file of the system, none where it is missing."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
