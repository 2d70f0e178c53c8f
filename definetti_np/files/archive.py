"""The file of models and checkpoints: one .npz of a canonical JSON header and arrays, whole or refused; no pickle.

The header lists each array with its shape, dtype, bytes and SHA-256, and ends in its own SHA-256. A file is a zip of
stored members, one after another from the first byte to the last; nothing else is read.

To read a file takes the memory of its arrays and little more, whoever wrote it: a size is checked before anything
of that size is read or built, and the numbers of an array are read piece by piece into their place.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from ..checks import shorten
from ..errors import ModelFileError
from .whole import write_whole

MODEL = "definetti_np model"
CHECKPOINT = "definetti_np checkpoint"
FORMAT_VERSION = 2  # version 1 has no "bytes" in its list of arrays, and no SHA-256 of the header
FIRST_VERSION = {MODEL: 1, CHECKPOINT: 2}
HEADER_NAME = "header"
DTYPE = "<f4"  # of every array
_PACKAGES = ("definetti_np", "numpy", "numba")

# A network of 10,000 arrays needs about half of each of these.
LARGEST_HEADER = 2**22  # bytes, without the lines of a summary
MOST_VALUES = 2**17  # in a header, because a value of three bytes, such as `[],`, takes Python up to 200 bytes
LARGEST_DIRECTORY = 2**22  # bytes of a zip's list of members, because zipfile takes ten times as many for it
BYTES_AT_ONCE = 2**20
REASON_LENGTH = 1000  # characters, at most

_LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of a member's name and of its extra field
_LONGEST_EXTRA = 20  # the sizes in 64 bits
# The end of a zip: in a large one the size of its directory in 64 bits and where that stands; then, in every one, the
# same size in 32 bits, and the length of a comment.
_END = struct.Struct("<4s36xQ8x4s4xQ4x4s8xI4xH")

_SUMMARY, _SUMMARY_END = b'"summary":[', b"]}"
_LINE = re.compile(rb'"((0|[1-9][0-9]{0,18})(?: -?(?:[0-9][-+.0-9e]{0,29}|inf|nan)){2,12})"(?:,(?=")|\Z)')


def write_model(path: Path, description: dict, weights: dict[str, np.ndarray]) -> None:
    """Write a model: what describes it, and its weights by name."""
    write_file(path, MODEL, description, weights)


def read_model(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the header and the weights of a model file, or raise ModelFileError."""
    return read_file(path, MODEL)


def write_file(
    path: Path, kind: str, description: dict, arrays: dict[str, np.ndarray], *, previous: Path | None = None
) -> None:
    """Write a file whole or not at all; a file that is there becomes `previous`, or is replaced.

    Raises
    ------
    OSError
        If it cannot be written, or its header is larger than `open_file` accepts.
    """
    header = {
        "format": kind,
        "format_version": FORMAT_VERSION,
        "packages": {name: _version(name) for name in _PACKAGES},
        **description,
        "arrays": {name: _fingerprint(array) for name, array in arrays.items()},
    }
    header["sha256"] = _digest(_canonical(header))
    text = _canonical(header)
    try:
        _divide(text, kind)
    except ValueError as error:
        raise OSError(errno.EFBIG, str(error), str(path)) from None
    members: dict[str, Any] = {HEADER_NAME: np.frombuffer(text, np.uint8), **arrays}
    write_whole(path, lambda file: np.savez(file, **members), previous=previous)


def read_file(path: Path, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the header and the arrays, float32 and read-only, of a file; see `open_file`."""
    with open_file(path, kind) as stored:
        arrays = {name: stored.read(name) for name in stored.shapes}
    for array in arrays.values():
        array.flags.writeable = False
    return stored.header, arrays


def open_file(path: Path, kind: str) -> "StoredFile":
    """Open a model or checkpoint file of any known version, to read its header now and its arrays later.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, or of another kind; the message names file and reason.
    """
    return StoredFile(path, kind)


def list_members(path: Path) -> list[str]:
    """The names of what a file holds, without a look at it; none if that cannot be told."""
    with contextlib.suppress(Exception):
        if os.path.isfile(path):  # a pipe would be waited for
            with open(path, "rb") as file:
                _check_directory(file)
                with zipfile.ZipFile(file) as archive:
                    return archive.namelist()
    return []


class StoredFile:
    """A model or checkpoint file that is open until the end of a ``with`` block; see `open_file`.

    Attributes
    ----------
    header
        What describes it.
    shapes
        The shapes of its arrays by name. They agree with the sizes of its members, so no array is larger than the file.
    """

    def __init__(self, path: Path, kind: str):
        self._path, self._what = path, f"not a readable {kind}"
        with contextlib.ExitStack() as stack, refuse_on_error(path, self._what):
            try:
                is_file = stat.S_ISREG(os.stat(path).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                is_file = False
            if not is_file:
                raise ModelFileError(f"{path}: there is no such {kind.split()[-1]} file")
            file = stack.enter_context(open(path, "rb"))
            _check_directory(file)
            self._archive = stack.enter_context(zipfile.ZipFile(file))
            names = _check_members(file, self._archive)
            self.header = self._read_header(kind)
            self._listed = self.header["arrays" if self.header["format_version"] > 1 else "weights"]
            if sorted(names) != sorted(f"{name}.npy" for name in (HEADER_NAME, *self._listed)):
                raise ValueError(f"it holds {names}, its header lists {list(self._listed)}")
            self.shapes = {name: self._check_array(name, entry) for name, entry in self._listed.items()}
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._open.close()

    def _read_header(self, kind: str) -> dict:
        with self._archive.open(f"{HEADER_NAME}.npy") as member:
            shape, _ = _read_array_header(member)
            size = self._archive.getinfo(f"{HEADER_NAME}.npy").file_size - member.tell()
            if shape != (size,):
                raise ValueError("the header's length is not the one it declares")
            if size > LARGEST_HEADER and kind != CHECKPOINT:
                raise ValueError(f"its header of {size} bytes is larger than any that definetti_np writes")
            text = bytearray(size)  # zipfile would take its memory twice
            start = 0
            while content := member.read(BYTES_AT_ONCE):
                text[start : start + len(content)] = content
                start += len(content)
            return _checked_header(text, kind)

    def _check_array(self, name: str, entry: dict) -> tuple[int, ...]:
        """Return the shape of an array if it is as the header lists it."""
        with self._archive.open(f"{name}.npy") as member:
            shape, dtype = _read_array_header(member)
            size = self._archive.getinfo(f"{name}.npy").file_size - member.tell()
        wanted = 4 * math.prod(shape)
        if (dtype, list(shape), wanted) != (DTYPE, entry["shape"], entry.get("bytes", wanted)) or size != wanted:
            raise ValueError(f"{name} is not as its header lists it: finite float32 numbers of shape {entry['shape']}")
        return shape

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """Read an array into `out`, a contiguous array of its shape, or a new one.

        Raises
        ------
        ModelFileError
            If it is damaged or not finite; then `out` holds nothing of use.
        """
        with refuse_on_error(self._path, self._what):
            if out is None:
                out = np.empty(self.shapes[name], DTYPE)
            entry, place = self._listed[name], out.reshape(-1)
            digest, start, finite = hashlib.sha256(), 0, True
            with self._archive.open(f"{name}.npy") as member:
                _read_array_header(member)
                while content := member.read(BYTES_AT_ONCE):
                    numbers = np.frombuffer(content, DTYPE)
                    digest.update(content)
                    finite = finite and np.isfinite(numbers).all()
                    place[start : start + len(numbers)] = numbers
                    start += len(numbers)
            if entry["dtype"] != DTYPE or digest.hexdigest() != entry["sha256"]:
                raise ValueError(f"{name} is damaged: it differs from its checksum")
            if not finite:
                raise ValueError(f"{name} holds values that are not finite")
            return out


@contextlib.contextmanager
def refuse_on_error(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in a block into a ModelFileError that says `what` is wrong with a file, and why.

    A damaged file makes zipfile, json and NumPy raise nine classes of errors, and their messages may be as long as the
    file.
    """
    try:
        yield
    except ModelFileError:
        raise
    except Exception as error:
        text = str(error)
        cause = error if len(text) <= REASON_LENGTH else None
        try:
            # A name for it would make a circle, which keeps what was read in memory until Python looks for circles.
            raise ModelFileError(f"{path}: {what}: {shorten(text, REASON_LENGTH)}") from cause
        finally:
            del cause


def _check_directory(file: BinaryIO) -> None:
    """Refuse a zip whose list of members is larger than any of ours, before zipfile reads it."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(length - _END.size, 0))
    large, size, locator, place, end, small_size, comment = _END.unpack(file.read().rjust(_END.size, b"\0"))
    if (end, comment) != (b"PK\5\6", 0):
        raise ValueError("it does not end as a zip does: it is cut short, or no such file")
    if locator != b"PK\6\7":
        size = small_size
    elif (large, place) != (b"PK\6\6", length - _END.size):
        raise ValueError("the end of the zip is not where it should be")
    if max(size, small_size) > LARGEST_DIRECTORY:
        raise ValueError(f"it lists its members in {max(size, small_size)} bytes, more than definetti_np writes")


def _check_members(file: BinaryIO, archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the members, in order, if they are stored one after another and nothing else is there.

    So no member is larger than the file, and reading one allocates no more.
    """
    position = 0
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits or member.comment:
            raise ValueError(f"{member.filename} is compressed, encrypted or commented on")
        if member.header_offset != position or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} is not where it should be")
        file.seek(position)
        name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if name_length != len(member.filename) or extra_length > _LONGEST_EXTRA:
            raise ValueError(f"{member.filename} has another header of its own")
        position += _LOCAL_HEADER.size + name_length + extra_length + member.file_size
    if position != archive.start_dir:
        raise ValueError("something stands between, before or after its members")
    names = archive.namelist()
    if names[:1] != [f"{HEADER_NAME}.npy"] or len(set(names)) != len(names):
        raise ValueError("it has no header, or a name twice")
    return names


def _checked_header(text: bytearray, kind: str) -> dict:
    own, lines = _divide(text, kind)
    header = json.loads(own)
    if not isinstance(header, dict) or header.get("format") != kind:
        found = header.get("format") if isinstance(header, dict) else header
        raise ValueError(f"its header is that of another kind of file, {found!r}")
    version = header.get("format_version")
    if type(version) is not int or version < FIRST_VERSION[kind]:
        raise ValueError(f"format version {version}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"format version {version}, this definetti_np reads versions up to {FORMAT_VERSION}; "
            "it needs a newer definetti_np"
        )
    if version > 1:
        if _canonical(header) != own:
            raise ValueError("its header is not in the canonical form")
        described = _canonical({key: value for key, value in header.items() if key != "sha256"})
        if header.get("sha256") != _digest_with_lines(described, lines):
            raise ValueError("its header is damaged: it differs from its checksum")
    if lines:
        header["summary"] = _lines_of_summary(lines)
    return header


def _divide(text: bytes | bytearray, kind: str) -> tuple[bytes | bytearray, memoryview]:
    """Divide a header into all but the lines of a checkpoint's summary, and these; refuse one that takes much memory.

    Of these lines alone there may be millions. They come last, because "summary" is the last key.
    """
    start, stop = text.rfind(_SUMMARY) + len(_SUMMARY), len(text) - len(_SUMMARY_END)
    if kind != CHECKPOINT or not len(_SUMMARY) <= start <= stop or not text.endswith(_SUMMARY_END):
        start = stop = len(text)
    if len(text) - (stop - start) > LARGEST_HEADER:
        raise ValueError(f"its header of {len(text)} bytes is larger than any that definetti_np writes")
    header = text[:start] + text[stop:]
    values = sum(map(header.count, (b",", b"[", b"{")))
    if values > MOST_VALUES:
        raise ValueError(f"its header of {values} values is larger than any that definetti_np writes")
    return header, memoryview(text)[start:stop]


def _digest_with_lines(text: bytes, lines: memoryview) -> str:
    """The SHA-256 of a header with the lines that `_divide` has taken out."""
    if not lines:
        return _digest(text)
    digest = hashlib.sha256(text[: -len(_SUMMARY_END)])
    digest.update(lines)
    digest.update(_SUMMARY_END)
    return digest.hexdigest()


def _lines_of_summary(lines: memoryview) -> list[str]:
    found: list[str] = []
    position, last = 0, -1
    while position < len(lines):
        line = _LINE.match(lines, position)
        if line is None or int(line[2]) <= last:
            raise ValueError(f"summary[{len(found)}] is no line of a training summary, or not in order")
        found.append(line[1].decode("ascii"))
        position, last = line.end(), int(line[2])
    return found


def _read_array_header(member) -> tuple[tuple[int, ...], str]:
    """Read the start of a .npy up to its values, and return its shape and dtype."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("an array in a format that definetti_np does not write")
    shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
    if in_fortran_order or dtype.hasobject:
        raise ValueError("an array of a kind that definetti_np does not write")
    return shape, dtype.str


def _fingerprint(array: np.ndarray) -> dict:
    return {
        "shape": list(array.shape), "dtype": array.dtype.str, "bytes": array.nbytes, "sha256": _digest(array)
    }  # fmt: skip


def _digest(content: bytes | np.ndarray) -> str:
    data: Any = np.ascontiguousarray(content) if isinstance(content, np.ndarray) else content
    return hashlib.sha256(data).hexdigest()


def _canonical(header: dict) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
