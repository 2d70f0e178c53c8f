"""A shard: a file of consecutive examples, compressed, with checksums; as bytes, and read again. Nothing is unpickled.

It begins with a line, then come the length of the header, the header as JSON, its SHA-256, and the compressed examples,
whose length and SHA-256 the header holds. Nothing else is in the file.

N    examples
U    distinct rows of all of them, one dataset after another
D    numbers of a row, positions times channels
L    numbers of a label
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from ..multiset import MultisetBatch
from .source import Example

FIRST_LINE = b"definetti_np simulations 1\n"
LARGEST_HEADER = 2**16  # bytes
DEFLATE_LIMIT = 1040  # so many times smaller zlib makes bytes, and no more
TWO_VALUES, DIFFERENCES = "two values", "differences"

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Key:
    """Which simulations these are: what has to be the same for two of them with one index to be equal.

    Attributes
    ----------
    simulator
        Name of the simulator.
    version
        What the user calls the version of the simulator, None for no version.
    seed
        Seed of the run.
    row_shape
        Positions and channels (W, C) of a row.
    output_shape
        Shape of the label.
    """

    simulator: str
    version: str | None
    seed: int
    row_shape: tuple[int, int]
    output_shape: tuple[int]

    @property
    def digest(self) -> str:
        """Some letters that differ for other simulations; names of files hold them."""
        return hashlib.sha256(_canonical(self.as_dict())).hexdigest()[:12]

    def as_dict(self) -> dict:
        """What the header of a shard says of it."""
        return {
            "simulator": self.simulator,
            "simulations_version": self.version,
            "seed": self.seed,
            "row_shape": list(self.row_shape),
            "output_shape": list(self.output_shape),
        }

    @classmethod
    def from_dict(cls, header: Mapping) -> Key:
        """Read a header; raise a ValueError if it does not say which simulations these are."""
        simulator, version, seed = header.get("simulator"), header.get("simulations_version"), header.get("seed")
        if not isinstance(simulator, str) or not isinstance(version, (str, type(None))) or not _is_count(seed):
            raise ValueError("its header does not name the simulator, the version and the seed")
        width, channels = _shape(header, "row_shape", 2)
        (numbers,) = _shape(header, "output_shape", 1)
        return cls(simulator, version, seed, (width, channels), (numbers,))

    def __str__(self) -> str:
        version = "" if self.version is None else f" version {self.version}"
        return (
            f"simulator {self.simulator}{version}, seed {self.seed}, rows of shape {self.row_shape} and labels of "
            f"shape {self.output_shape}"
        )


def encode_shard(key: Key, start: int, examples: Sequence[Example]) -> bytes:
    """Lay consecutive examples from index `start` on out as the content of a file."""
    lengths = np.array([len(example.counts) for example in examples], "<u4")
    counts = np.concatenate([example.counts for example in examples])
    counts = counts.astype(np.min_scalar_type(counts.max()).newbyteorder("<"))
    rows = np.concatenate([example.rows for example in examples]).astype("<f4", copy=False)
    redraws = {str(i): list(example.redraws) for i, example in enumerate(examples) if example.redraws}
    text = _canonical(redraws) if redraws else b""
    encoding, parts = _encode_rows(rows.view("<u4").reshape(len(rows), -1), lengths)
    content = b"".join(
        [
            lengths.tobytes(),
            counts.tobytes(),
            _bytes_apart(np.stack([example.label for example in examples]).astype("<f4", copy=False)),
            *parts,
            text,
        ]
    )
    data = zlib.compress(content, 6)
    header = _canonical(
        {
            **key.as_dict(),
            "start": start,
            "stop": start + len(examples),
            "rows": len(rows),
            "counts": counts.dtype.str,
            "encoding": encoding,
            "text": len(text),
            "content": len(content),
            "data": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    )
    return b"".join([FIRST_LINE, _LENGTH.pack(len(header)), header, hashlib.sha256(header).digest(), data])


def _encode_rows(rows: np.ndarray, lengths: np.ndarray) -> tuple[str, list[bytes]]:
    """Rows (U, D) as bits of their numbers, where each column of each dataset has at most two values, or differences.

    So are alleles, and what is the same for all haplotypes: a first row, the bits in which the second value of each
    column differs from it, and for each number one bit that says which of both it is.
    """
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    first = rows[starts]
    others = rows ^ np.repeat(first, lengths, axis=0)
    difference = np.maximum.reduceat(others, starts, axis=0)
    is_other = others != 0
    if (others == is_other * np.repeat(difference, lengths, axis=0)).all():
        return TWO_VALUES, [_bytes_apart(first), _bytes_apart(difference), np.packbits(is_other, axis=1).tobytes()]
    others = rows.copy()
    others[1:] ^= rows[:-1]
    return DIFFERENCES, [_bytes_apart(others)]


def _bytes_apart(array: np.ndarray) -> bytes:
    """All first bytes, then all second ones, ...: the ones that are alike stand together and compress well."""
    return array.reshape(-1, 1).view(np.uint8).T.tobytes()


def _bytes_together(content: memoryview, shape: tuple[int, ...]) -> np.ndarray:
    planes = np.frombuffer(content, np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<u4").reshape(shape)


def read_header(content: bytes) -> tuple[dict, memoryview]:
    """Return the header of a shard and the compressed data, or raise a ValueError that says what is wrong with it."""
    view = memoryview(content)
    position = len(FIRST_LINE) + _LENGTH.size
    if not content.startswith(FIRST_LINE):
        raise ValueError("it is cut off, or no file of simulations of this version")
    if len(content) < position:
        raise ValueError("it is cut off")
    (length,) = _LENGTH.unpack_from(content, len(FIRST_LINE))
    text, digest = view[position : position + length], view[position + length : position + length + 32]
    if length > LARGEST_HEADER or hashlib.sha256(text).digest() != digest:
        raise ValueError("it is cut off or damaged: its header differs from its checksum")
    header = json.loads(bytes(text))
    Key.from_dict(header)
    for name in ("start", "stop", "rows", "text", "content", "data"):
        if not _is_count(header.get(name)):
            raise ValueError(f"its header has no number {name}")
    return header, view[position + length + 32 :]


def check_shard(content: bytes) -> None:
    """Raise a ValueError if a shard is not as it was written."""
    header, data = read_header(content)
    _check_data(header, data)


def _check_data(header: dict, data: memoryview) -> None:
    if len(data) != header["data"] or hashlib.sha256(data).hexdigest() != header.get("sha256"):
        raise ValueError("it is cut off or damaged: its examples differ from their checksum")


class Shard:
    """The examples of a shard, in memory nearly as small as on disk; batches of them are made when they are wanted.

    Attributes
    ----------
    start, stop
        The index of the first example, and that behind the last.
    labels
        (N, L) float32.
    redraws
        Why draws failed before an example, by its place in the shard.
    """

    def __init__(self, content: bytes):
        header, data = read_header(content)
        _check_data(header, data)
        self.key = Key.from_dict(header)
        self.start, self.stop = header["start"], header["stop"]
        examples, rows, size = self.stop - self.start, header["rows"], header["content"]
        counts_type = np.dtype(str(header.get("counts")))
        if not 0 < examples <= rows or size > DEFLATE_LIMIT * len(data) or counts_type.kind != "u":
            raise ValueError("its header contradicts itself")
        unpacked = memoryview(_decompress(data, size))
        parts = _Parts(unpacked)
        lengths = np.frombuffer(parts.take(4 * examples), "<u4").astype(np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self._counts = np.frombuffer(parts.take(counts_type.itemsize * rows), counts_type).astype(np.int64)
        self.labels = _floats(parts, (examples, *self.key.output_shape))
        if self._offsets[-1] != rows or (lengths < 1).any() or (self._counts < 1).any():
            raise ValueError("its numbers of rows contradict each other")
        columns = math.prod(self.key.row_shape)
        self._rows: _TwoValues | _Plain
        if header.get("encoding") == TWO_VALUES:
            self._rows = _TwoValues(parts, self._offsets, columns)
        elif header.get("encoding") == DIFFERENCES:
            self._rows = _Plain(parts, self._offsets, columns)
        else:
            raise ValueError(f"its rows are in the encoding {header.get('encoding')!r}, which is unknown")
        self.redraws = _redraws(bytes(parts.take(header["text"])), examples)
        parts.check_end()

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, start: int, stop: int) -> MultisetBatch:
        """The examples of these indices."""
        first, last = start - self.start, stop - self.start
        offsets = self._offsets[first : last + 1]
        rows = self._rows.take(first, last).reshape(-1, *self.key.row_shape)
        return MultisetBatch(rows, self._counts[offsets[0] : offsets[-1]], offsets - offsets[0])

    def dataset_sizes(self) -> np.ndarray:
        """(N,) the number of rows of each dataset, repeats counted."""
        return np.add.reduceat(self._counts, self._offsets[:-1])

    def reasons(self, start: int, stop: int) -> Iterator[str]:
        """Why draws failed before the examples of these indices."""
        for place in sorted(self.redraws):
            if start <= self.start + place < stop:
                yield from self.redraws[place]


class _TwoValues:
    """Rows of which each column of each dataset has at most two values; see `_encode_rows`."""

    def __init__(self, parts: _Parts, offsets: np.ndarray, columns: int):
        datasets, rows = len(offsets) - 1, int(offsets[-1])
        self._offsets, self._columns = offsets, columns
        self._first = _bytes_together(parts.take(4 * datasets * columns), (datasets, columns))
        self._difference = _bytes_together(parts.take(4 * datasets * columns), (datasets, columns))
        width = -(-columns // 8)
        self._is_other = np.frombuffer(parts.take(rows * width), np.uint8).reshape(rows, width)

    def take(self, first: int, last: int) -> np.ndarray:
        """The rows of the datasets `first` to ``last - 1``, float32 (U, D)."""
        offsets = self._offsets[first : last + 1]
        lengths = np.diff(offsets)
        is_other = np.unpackbits(self._is_other[offsets[0] : offsets[-1]], axis=1, count=self._columns)
        rows = np.repeat(self._difference[first:last], lengths, axis=0)
        rows *= is_other
        rows ^= np.repeat(self._first[first:last], lengths, axis=0)
        return rows.view("<f4")


class _Plain:
    """Rows of any numbers."""

    def __init__(self, parts: _Parts, offsets: np.ndarray, columns: int):
        rows = int(offsets[-1])
        self._offsets = offsets
        self._rows = np.bitwise_xor.accumulate(_bytes_together(parts.take(4 * rows * columns), (rows, columns)), axis=0)

    def take(self, first: int, last: int) -> np.ndarray:
        """The rows of the datasets `first` to ``last - 1``, float32 (U, D)."""
        return self._rows[self._offsets[first] : self._offsets[last]].view("<f4")


class _Parts:
    """The content of a shard, which is taken piece by piece."""

    def __init__(self, content: memoryview):
        self._content, self._position = content, 0

    def take(self, size: int) -> memoryview:
        """The next so many bytes."""
        start, self._position = self._position, self._position + size
        if self._position > len(self._content):
            raise ValueError("it holds fewer numbers than its header says")
        return self._content[start : self._position]

    def check_end(self) -> None:
        """Raise a ValueError if something is left."""
        if self._position != len(self._content):
            raise ValueError("it holds more numbers than its header says")


def _floats(parts: _Parts, shape: tuple[int, ...]) -> np.ndarray:
    return _bytes_together(parts.take(4 * math.prod(shape)), shape).view("<f4")


def _decompress(data: memoryview, size: int) -> bytes:
    unzip = zlib.decompressobj()
    try:
        content = unzip.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"its examples cannot be decompressed: {error}") from None
    if len(content) != size or not unzip.eof or unzip.unused_data:
        raise ValueError("its examples are not as long as its header says")
    return content


def _redraws(text: bytes, examples: int) -> dict[int, tuple[str, ...]]:
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("its list of draws that failed is none")
    redraws = {}
    for place, reasons in found.items():
        if not place.isdecimal() or int(place) >= examples or not isinstance(reasons, list):
            raise ValueError("its list of draws that failed is none")
        redraws[int(place)] = tuple(map(str, reasons))
    return redraws


def _shape(header: Mapping, name: str, length: int) -> list[int]:
    shape = header.get(name)
    if not isinstance(shape, list) or len(shape) != length or not all(map(_is_count, shape)) or 0 in shape:
        raise ValueError(f"its header has no {name}")
    return shape


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _canonical(header: dict) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
