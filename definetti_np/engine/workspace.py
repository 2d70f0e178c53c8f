"""Memory that training steps use again: asking the system for new pages takes longer than many a kernel."""

import contextlib
import math
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT_BYTES = 64  # bytes, of a cache line and of the widest vectors


class Workspace:
    """Gives out uninitialised arrays. They are valid until the workspace is used the next time.

    Inside ``with workspace.use():`` the module's `empty` takes its arrays from it, in the thread that entered.
    """

    def __init__(self):
        self._memory = np.empty(0, np.uint8)
        self._taken = 0  # bytes asked for, also those that did not fit

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Begin anew: arrays given out before may be written over."""
        if self._taken > len(self._memory):
            self._memory = _aligned_memory(self._taken + self._taken // 4)
        self._taken = 0
        outer = getattr(_current, "workspace", None)
        _current.workspace = self
        try:
            yield
        finally:
            _current.workspace = outer


def _aligned_memory(size: int) -> np.ndarray:
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size]


_current = threading.local()


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """An uninitialised array: of the workspace in use, or of new memory where there is none or it is full."""
    workspace = getattr(_current, "workspace", None)
    if workspace is None:
        return np.empty(shape, dtype)
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    start = workspace._taken
    workspace._taken += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    if workspace._taken > len(workspace._memory):
        return np.empty(shape, dtype)
    return workspace._memory[start : start + size].view(dtype).reshape(shape)


def empty_like(array: np.ndarray) -> np.ndarray:
    """An uninitialised array of the same shape and dtype."""
    return empty(array.shape, array.dtype)
