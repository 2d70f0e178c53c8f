"""The model file: one .npz of a canonical JSON header and the weights, written whole or not at all; no pickle.

The header lists each array with its shape, dtype and SHA-256, so that a damaged file is refused.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np

from .errors import ModelFileError

FORMAT = "definetti_np model"
FORMAT_VERSION = 1
HEADER_NAME = "header"
_PACKAGES = ("definetti_np", "numpy", "numba")


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
    """Write a model to a temporary file in the same folder, then rename it to `path`."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "packages": {name: _version(name) for name in _PACKAGES},
        **description,
        "weights": {name: _fingerprint(array) for name, array in weights.items()},
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    arrays = {HEADER_NAME: np.frombuffer(text.encode(), np.uint8), **weights}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".definetti_np-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_model(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the header and the weights of a model file.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is no undamaged model of a known version; the message names file and reason.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such model file")
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{HEADER_NAME}.npy" not in archive.namelist():
                raise ModelFileError(f"{path}: not a definetti_np model, it has no header")
            header = json.loads(_read_array(archive, HEADER_NAME).tobytes())
            _check_header(path, header)
            expected = [f"{name}.npy" for name in (HEADER_NAME, *header["weights"])]
            if sorted(archive.namelist()) != sorted(expected):
                raise ModelFileError(f"{path}: it holds {archive.namelist()}, its header lists {expected}")
            weights = {name: _read_array(archive, name) for name in header["weights"]}
            for name, array in weights.items():
                if _fingerprint(array) != header["weights"][name]:
                    raise ModelFileError(f"{path}: {name} is damaged: it differs from its checksum")
                if array.dtype != np.float32 or not np.isfinite(array).all():
                    raise ModelFileError(f"{path}: {name} holds values that are not finite float32 numbers")
    except ModelFileError:
        raise
    except Exception as error:  # a damaged file makes zipfile, zlib, json and NumPy raise nine classes of errors
        raise ModelFileError(f"{path}: not a readable definetti_np model: {error}") from error
    return header, weights


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _check_header(path: Path, header) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{path}: not a definetti_np model, its header is of another kind")
    version = header.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {version}, this definetti_np reads version {FORMAT_VERSION}; "
            "install a newer definetti_np"
        )


def _fingerprint(array: np.ndarray) -> dict:
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": digest}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
