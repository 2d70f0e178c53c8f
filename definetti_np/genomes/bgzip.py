"""Files of gzip and bgzip: whether they are plain files at all, and whether a bgzip is whole."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import GenomeFileError

END_OF_BGZIP = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def check_file(path: Path) -> None:
    """Raise GenomeFileError for a pipe, because a file is opened more than once; a path to nothing passes."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise GenomeFileError(f"{path}: not a file but a pipe or a device, which can be read once; write it to a file")


def check_end_of_bgzip(path: Path) -> None:
    """Raise GenomeFileError if a bgzip lacks the empty block at its end: cut between two blocks it would look whole."""
    with open(path, "rb") as file:
        head = file.read(18)
        file.seek(-min(len(END_OF_BGZIP), path.stat().st_size), 2)
        check_ends(path, head, file.read())


def check_ends(path: Path, head: bytes, tail: bytes) -> None:
    """As `check_end_of_bgzip`, of the first 18 bytes of a file and its last ones."""
    if head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC" and not tail.endswith(END_OF_BGZIP):
        raise GenomeFileError(f"{path}: cut short, because the last block of bgzip is missing")
