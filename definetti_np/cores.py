"""How many cores this process may use."""

import os


def available_cores() -> int:
    """Count the cores in this process's CPU affinity, or of the machine where there is no such thing."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
