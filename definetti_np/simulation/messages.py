"""What a simulator process says, as bytes: a header of fixed size, then arrays or text. Nothing is unpickled."""

from __future__ import annotations

import struct

import numpy as np

from ..errors import SimulatorError
from .source import Example, ExampleSource

READY, EXAMPLE, FAILURE = range(3)
HEADER = struct.Struct("<5q")  # bytes after the header, kind, index of the example, distinct rows, bytes of text
TASK = struct.Struct("<q")  # what the trainer says: the index of an example to simulate


def ready() -> bytes:
    """Say that the process has started and waits for examples."""
    return HEADER.pack(0, READY, 0, 0, 0)


def failure(index: int, text: str) -> bytes:
    """Say why there is no example `index`."""
    data = text.encode(errors="backslashreplace")
    return HEADER.pack(len(data), FAILURE, index, 0, len(data)) + data


def encode(index: int, example: Example) -> bytes:
    """Lay an example out as bytes: header, rows, counts, label, and a line for each draw that failed before it."""
    text = "\n".join(example.redraws).encode()
    parts = [example.rows.tobytes(), example.counts.tobytes(), example.label.tobytes(), text]
    return b"".join([HEADER.pack(sum(map(len, parts)), EXAMPLE, index, len(example.counts), len(text)), *parts])


def decode(message: bytes, source: ExampleSource) -> Example:
    """Read a message of `encode`; raise SimulatorError for one of `failure`."""
    _, kind, _, rows, text_size = HEADER.unpack_from(message)
    if kind == FAILURE:
        raise SimulatorError(text_of(message))
    text_start = len(message) - text_size
    shape = (rows, *source.spec.row_shape)
    size = int(np.prod(shape))
    counts_start = HEADER.size + 4 * size
    label_start = counts_start + 8 * rows
    return Example(
        np.frombuffer(message, np.float32, size, HEADER.size).reshape(shape),
        np.frombuffer(message, np.int64, rows, counts_start),
        np.frombuffer(message, np.float32, (text_start - label_start) // 4, label_start),
        tuple(text_of(message).splitlines()),
    )


def text_of(message: bytes) -> str:
    """The text at the end of a message."""
    *_, size = HEADER.unpack_from(message)
    return message[len(message) - size :].decode()


class Inbox:
    """Puts bytes together to messages, however they were cut on the way."""

    def __init__(self):
        self._bytes = bytearray()

    def add(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Return (kind, index, message) of the messages that are complete now."""
        self._bytes += data
        complete, start = [], 0
        with memoryview(self._bytes) as view:
            while len(view) - start >= HEADER.size:
                size, kind, index, *_ = HEADER.unpack_from(view, start)
                end = start + HEADER.size + size
                if end > len(view):
                    break
                complete.append((kind, index, bytes(view[start:end])))
                start = end
        del self._bytes[:start]
        return complete
