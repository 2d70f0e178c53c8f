"""The file of models and checkpoints: one .npz of a canonical JSON header and arrays, whole or refused; no pickle.

The header lists each array with its shape, dtype, bytes and SHA-256, and ends in its own SHA-256. A file is a zip of
stored members, one after another from the first byte to the last; nothing else is read.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import struct
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np

from ..errors import ModelFileError

MODEL = "definetti_np model"
CHECKPOINT = "definetti_np checkpoint"
FORMAT_VERSION = 2  # 1, of models alone, has no bytes in its list of arrays and no SHA-256 of the header
HEADER_NAME = "header"
DTYPE = "<f4"  # of every array
_PACKAGES = ("definetti_np", "numpy", "numba")

_LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of a member's name and of its extra field
_LONGEST_EXTRA = 20  # the sizes in 64 bits
_END = struct.Struct("<4s16xH")  # the end of a zip: its signature, and the length of a comment


def model_path(path: str | os.PathLike, argument: str) -> Path:
    """The absolute path of a base name's file: ``~`` is expanded and ``.npz`` added where it is missing."""
    text = os.fspath(path)
    if os.path.basename(text) in ("", ".", ".."):
        raise ValueError(f"{argument} must name a file, got {text!r}")
    return Path(text if text.endswith(".npz") else f"{text}.npz").expanduser().absolute()


def check_parent(path: Path, name: str) -> None:
    """Raise a ValueError if a file cannot be created at `path` because of its folder."""
    if not path.parent.is_dir():
        raise ValueError(f"{name}: the folder {str(path.parent)!r} does not exist; create it first")
    if len(os.fsencode(path.name)) > 255:
        raise ValueError(f"{name}: the file name {path.name!r} is longer than 255 bytes")
    if path.is_dir():
        raise ValueError(f"{name}: {str(path)!r} is a folder")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name}: the folder {str(path.parent)!r} cannot be written to")


def write_model(path: Path, description: dict, weights: dict[str, np.ndarray]) -> None:
    """Write a model: what describes it, and its weights by name."""
    write_file(path, MODEL, description, weights)


def read_model(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the header and the weights of a model file, or raise ModelFileError."""
    return read_file(path, MODEL)


def write_file(
    path: Path, kind: str, description: dict, arrays: dict[str, np.ndarray], *, previous: Path | None = None
) -> None:
    """Write to a temporary file in the same folder, then rename it to `path`; a file there becomes `previous`.

    At every moment there is a whole file: the old or the new one at `path`, or the old one at `previous`. The new one
    is on the disk before it gets its name, and has its name on the disk when this returns.
    """
    header = {
        "format": kind,
        "format_version": FORMAT_VERSION,
        "packages": {name: _version(name) for name in _PACKAGES},
        **description,
        "arrays": {name: _fingerprint(array) for name, array in arrays.items()},
    }
    header["sha256"] = _digest(_canonical(header))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path), suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **{HEADER_NAME: np.frombuffer(_canonical(header), np.uint8)}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        if previous is not None:
            with contextlib.suppress(FileNotFoundError):  # the first of its name
                os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def remove_temporaries(path: Path) -> None:
    """Remove what killed runs have left of files that were to be written to `path`."""
    for stale in path.parent.glob(f"{_temporary_prefix(path)}*.tmp"):
        with contextlib.suppress(OSError):
            stale.unlink()


def _temporary_prefix(path: Path) -> str:
    return f".definetti_np-{_digest(os.fsencode(path.name))[:8]}-"  # a name of 255 bytes leaves no room for more


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_file(path: Path, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the header and the arrays, float32 and read-only, of a model or checkpoint file of any known version.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is no undamaged one of this kind; the message names file and reason.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such {kind.split()[-1]} file")
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            names = _check_members(file, archive)
            text = archive.read(names[0])
            start, shape, _ = _read_array_header(text)
            if shape != (len(text) - start,):
                raise ValueError("the header's length is not the one it declares")
            header = _checked_header(text[start:], kind)
            listed = header["arrays" if header["format_version"] > 1 else "weights"]
            if sorted(names) != sorted(f"{name}.npy" for name in (HEADER_NAME, *listed)):
                raise ValueError(f"it holds {names}, its header lists {list(listed)}")
            return header, {name: _read_array(archive, name, entry) for name, entry in listed.items()}
    except Exception as error:  # a damaged file makes zipfile, json and NumPy raise nine classes of errors
        raise ModelFileError(f"{path}: not a readable {kind}: {error}") from error


def _check_members(file, archive: zipfile.ZipFile) -> list[str]:
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
    file.seek(-_END.size, os.SEEK_END)
    if position != archive.start_dir or _END.unpack(file.read(_END.size)) != (b"PK\5\6", 0):
        raise ValueError("something stands between, before or after its members")
    names = archive.namelist()
    if names[:1] != [f"{HEADER_NAME}.npy"] or len(set(names)) != len(names):
        raise ValueError("it has no header, or a name twice")
    return names


def _checked_header(text: bytes, kind: str) -> dict:
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != kind:
        found = header.get("format") if isinstance(header, dict) else header
        raise ValueError(f"its header is that of another kind of file, {found!r}")
    version = header.get("format_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"format version {version}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"format version {version}, this definetti_np reads versions up to {FORMAT_VERSION}; "
            "it needs a newer definetti_np"
        )
    if version > 1:
        if _canonical(header) != text:
            raise ValueError("its header is not in the canonical form")
        described = {key: value for key, value in header.items() if key != "sha256"}
        if header.get("sha256") != _digest(_canonical(described)):
            raise ValueError("its header is damaged: it differs from its checksum")
    return header


def _read_array(archive: zipfile.ZipFile, name: str, entry: dict) -> np.ndarray:
    content = archive.read(f"{name}.npy")
    start, shape, dtype = _read_array_header(content)
    size = 4 * math.prod(shape)
    if (dtype, list(shape), size) != (DTYPE, entry["shape"], entry.get("bytes", size)) or size != len(content) - start:
        raise ValueError(f"{name} is not as its header lists it: finite float32 numbers of shape {entry['shape']}")
    array = np.frombuffer(content, DTYPE, offset=start).reshape(shape)
    if entry["dtype"] != DTYPE or _digest(array) != entry["sha256"]:
        raise ValueError(f"{name} is damaged: it differs from its checksum")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def _read_array_header(content: bytes) -> tuple[int, tuple[int, ...], str]:
    """Return where the values of a .npy start, their shape and dtype."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array in a format that definetti_np does not write")
    shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if in_fortran_order or dtype.hasobject:
        raise ValueError("an array of a kind that definetti_np does not write")
    return stream.tell(), shape, dtype.str


def _fingerprint(array: np.ndarray) -> dict:
    return {
        "shape": list(array.shape), "dtype": array.dtype.str, "bytes": array.nbytes, "sha256": _digest(array)
    }  # fmt: skip


def _digest(content: bytes | np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(content) if isinstance(content, np.ndarray) else content).hexdigest()


def _canonical(header: dict) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
