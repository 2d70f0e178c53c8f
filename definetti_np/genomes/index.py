"""The blocks of a bgzip that its index names for a region, and whether they are whole.

Where a block is damaged, or the index is of another file, a reader that seeks finds fewer records and takes that for
the end. So the blocks are looked at first.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import GenomeFileError
from .records import Region

SUFFIXES = (".csi", ".tbi")  # in the order in which htslib looks for them
TABIX_SHIFT, TABIX_DEPTH = 14, 5  # of the bins of a .tbi: the smallest have 2**14 bp, and there are 5 levels above
NAMES_OF_CSI = 28  # where the names of contigs begin in what a .csi of a VCF holds of tabix
HEADER = struct.Struct("<4s8x2s2xH")  # of a block: magic, the name of its extra field, its size less 1


def index_of(path: Path) -> Path | None:
    """The index of a file, or None."""
    paths = [Path(f"{path}{suffix}") for suffix in SUFFIXES]
    return next((index for index in paths if index.exists()), None)


def check_blocks(path: Path, region: Region, contigs: Sequence[str]) -> None:
    """Raise GenomeFileError if a block of the region is damaged, or none begins where the index says.

    Parameters
    ----------
    path
        A VCF or BCF with an index.
    region
        What is to be read.
    contigs
        The contigs of the header, in its order.
    """
    index = index_of(path)
    if index is None:
        return
    try:
        chunks = list(_chunks(_Fields(gzip.decompress(index.read_bytes())), region, contigs))
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise GenomeFileError(
            f"{index}: not a readable index ({error}); make it again, as with bcftools index"
        ) from None
    sizes: dict[int, int] = {}  # of the blocks, 0 where one is not whole
    with open(path, "rb") as file:
        for first, last in chunks:
            offset, end = first >> 16, (last >> 16) + (last & 0xFFFF > 0)
            while offset < end:
                if offset not in sizes:
                    sizes[offset] = _size_of_block(file, offset)
                if not sizes[offset]:
                    raise GenomeFileError(
                        f"{path}: damaged at byte {offset}, or {index.name} is the index of another file; make the "
                        "index again, as with bcftools index"
                    )
                offset += sizes[offset]


class _Fields:
    """Takes numbers from bytes, one after the other."""

    def __init__(self, content: bytes):
        self._content, self._at = content, 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._content, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values


def _chunks(fields: _Fields, region: Region, contigs: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The chunks of a region, (first, last) as virtual offsets."""
    (magic,) = fields.take("4s")
    if magic == b"TBI\1":
        number, *_, size = fields.take("8i")
        shift, depth = TABIX_SHIFT, TABIX_DEPTH
        (names,) = fields.take(f"{size}s")
    elif magic == b"CSI\1":
        shift, depth, size = fields.take("3i")
        names = fields.take(f"{size}s")[0][NAMES_OF_CSI:]
        (number,) = fields.take("i")
    else:
        raise ValueError(f"it begins with {magic!r}")
    # The index of a BCF has no names.
    of_index = [name.decode(errors="replace") for name in names.split(b"\0")] if names else list(contigs)
    wanted = _bins(region, shift, depth)
    for name in of_index[:number]:
        for _ in range(fields.take("i")[0]):
            bin_number, number_of_chunks = fields.take("Ii" if magic == b"TBI\1" else "I8xi")
            offsets = fields.take(f"{2 * number_of_chunks}Q")
            if name == region.contig and any(bin_number in numbers for numbers in wanted):
                yield from zip(offsets[::2], offsets[1::2], strict=True)
        if magic == b"TBI\1":
            fields.take(f"{8 * fields.take('i')[0]}x")


def _bins(region: Region, shift: int, depth: int) -> list[range]:
    """The numbers of the bins that overlap a region, level by level."""
    most = 2 ** (shift + 3 * depth)
    start, stop = min(region.start, most - 1), min(region.stop or most, most)
    bins, first = [], 0
    for level in range(depth + 1):
        size = shift + 3 * (depth - level)
        bins.append(range(first + (start >> size), first + ((stop - 1) >> size) + 1))
        first += 8**level
    return bins


def _size_of_block(file: BinaryIO, offset: int) -> int:
    """The size of the block of bgzip that begins here, or 0 if none does that is whole."""
    file.seek(offset)
    head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        return 0
    magic, field, size = HEADER.unpack(head)
    length = size + 1 - HEADER.size
    if magic != b"\x1f\x8b\x08\x04" or field != b"BC" or length < 8:
        return 0
    rest = file.read(length)
    if len(rest) < length:
        return 0
    try:
        content = zlib.decompress(rest[:-8], -zlib.MAX_WBITS)
    except zlib.error:
        return 0
    return size + 1 if struct.unpack("<II", rest[-8:]) == (zlib.crc32(content), len(content)) else 0
