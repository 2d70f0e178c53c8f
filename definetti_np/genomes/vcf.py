"""VCF, plain, gzip or bgzip, read as a stream: no index, no other package, and no more memory than what is kept."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import GenomeFileError
from ..progress import ShareProgress
from .haplotypes import MISSING
from .intervals import FARTHEST, list_names
from .records import ABSENT, Block, RecordSieve, Region, check_contig

BYTES_AT_ONCE = 2**20
COLUMNS = b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT"

_TAB, _COLON, _BAR, _SLASH = b"\t:|/"
_UNKNOWN = -3
_ALLELES = np.full(256, _UNKNOWN, np.int8)
_ALLELES[list(b"01.")] = 0, 1, MISSING


class VcfStream:
    """A VCF that is open until the end of a ``with`` block.

    Attributes
    ----------
    contigs
        The contigs of the header, with their lengths or None.
    samples
        The names of the samples.

    Raises
    ------
    GenomeFileError
        If it is no VCF with genotypes.
    """

    def __init__(self, path: Path):
        self.path = path
        self.contigs: dict[str, float | None] = {}
        self.samples: list[str] = []
        self._size = path.stat().st_size
        self._raw = open(path, "rb")
        self._file: BufferedReader | gzip.GzipFile = self._raw
        self._line = 0  # the last one that was read
        try:
            if self._raw.peek(2)[:2] == b"\x1f\x8b":
                self._file = gzip.GzipFile(fileobj=self._raw)
            self._text = self._lines()
            self._rest = self._read_header()
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> VcfStream:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._raw.close()

    def _lines(self) -> Iterator[list[bytes]]:
        """Yield lines, many at a time, without their ends."""
        carry = b""
        while True:
            try:
                text = self._file.read(BYTES_AT_ONCE)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise GenomeFileError(f"{self.path}, after line {self._line}: damaged or cut short: {error}") from None
            if not text:
                break
            end = text.rfind(b"\n") + 1
            if not end:
                carry += text
                continue
            lines = (carry + text[:end]).replace(b"\r\n", b"\n")
            carry = text[end:]
            yield lines[:-1].split(b"\n")
        if carry:
            yield [carry.rstrip(b"\r")]

    def _read_header(self) -> list[bytes]:
        """Read up to the line of columns; return the lines that came with it."""
        for lines in self._text:
            for i, line in enumerate(lines):
                self._line += 1
                if self._line == 1 and not line.startswith(b"##fileformat=VCF"):
                    raise GenomeFileError(f"{self.path}, line 1: not a VCF, which begins with ##fileformat=VCF")
                if line.startswith(b"##"):
                    self._read_contig(line)
                    continue
                if not line.startswith(b"#CHROM"):
                    raise GenomeFileError(f"{self._where()}: the line of columns, #CHROM ..., is missing before this")
                columns = line.decode(errors="replace").split("\t")
                wanted = COLUMNS.decode().split("\t")
                if columns[:9] != wanted[: max(8, min(9, len(columns)))]:
                    raise GenomeFileError(f"{self._where()}: the columns must be {COLUMNS.decode()!r} and samples")
                if len(columns) < 10:
                    raise GenomeFileError(
                        f"{self._where()}: it has no samples, so 0 haplotypes; a VCF with genotypes is needed"
                    )
                self.samples = columns[9:]
                return lines[i + 1 :]
        raise GenomeFileError(f"{self.path}: not a VCF, because the line of columns, #CHROM ..., is missing")

    def _read_contig(self, line: bytes) -> None:
        if line.startswith(b"##contig=<"):
            text = re.sub(r'"[^"]*"', '""', line.decode(errors="replace"))
            name, length = re.search(r"[<,]\s*ID=([^,>]+)", text), re.search(r"[<,]\s*length=(\d+)\s*[,>]", text)
            if name is not None:
                known = None if length is None else float(length[1])
                self.contigs.setdefault(name[1], known or None)  # some files have length=0 where it is not known

    def _where(self, line: int | None = None) -> str:
        return f"{self.path}, line {self._line if line is None else line}"

    def blocks(self, region: Region | None, sieve: RecordSieve, progress: ShareProgress) -> Iterator[tuple[str, Block]]:
        """Yield (contig, block of the sites to keep).

        Without a region the file must hold one contig. With one, lines of other contigs are passed over, up to the
        end of the file: a contig that comes again behind another is an error.

        Raises
        ------
        GenomeFileError
            If a line is wrong, or the contigs are not what is asked for; the message names file and line.
        """
        if region is not None and self.contigs:
            check_contig(region, self.contigs, self.path)
        contig = wanted = None if region is None else region.contig.encode()
        start, stop = (0, FARTHEST) if region is None else (region.start, region.stop or FARTHEST)
        field = None if sieve.info_field is None else sieve.info_field.encode() + b"="
        ended: dict[bytes, int] = {}  # in which line each contig gave way to another
        before: bytes | None = None  # the contig of the line before
        place = ""
        for lines in self._chunks():
            kept: list[tuple[int, int, int, bytes]] = []
            for line in lines:
                self._line += 1
                if not line:
                    continue
                name = line[: line.find(b"\t")]
                if name != before:
                    self._check_next_contig(line, name, before, wanted, ended)
                    contig = name if contig is None else contig
                    before = name
                if name != contig:
                    continue
                values = line.split(b"\t", 9)
                if len(values) < 10:
                    raise self._too_few_columns(len(values))
                _, text, _, reference, alternative, _, filters, info, formats, genotypes = values
                if not text.isdigit() or len(text) > 15:
                    raise GenomeFileError(f"{self._where()}: POS must be an integer, got {text!r}")
                position = int(text) - 1
                sieve.order(position, self._where)
                if region is not None and not start <= position < stop:
                    continue
                ancestral = None if field is None else _info_value(info, field)
                exchange = sieve.keeps(position, reference, alternative, filters, ancestral, self._where)
                if exchange >= 0:
                    if formats[:3] not in (b"GT", b"GT:"):
                        genotypes = self._genotypes(formats, genotypes)
                    kept.append((self._line, position, exchange, genotypes))
            if kept and contig is not None:
                place = f"position {kept[-1][1] + 1:,}"
                yield contig.decode(errors="replace"), self._block(kept)
            elif before is not None and before != contig:
                place = f"contig {before.decode(errors='replace')}"
            progress.reach(self._raw.tell() / max(1, self._size), place)
        if before is None:
            raise GenomeFileError(f"{self.path}: it has a header and no record")
        if region is not None:
            names = [*self.contigs, *(name.decode(errors="replace") for name in [*ended, before])]
            check_contig(region, dict.fromkeys(names), self.path)

    def _chunks(self) -> Iterator[list[bytes]]:
        yield self._rest
        yield from self._text

    def _check_next_contig(
        self, line: bytes, name: bytes, before: bytes | None, wanted: bytes | None, ended: dict[bytes, int]
    ) -> None:
        """Look at a line whose contig is not that of the line before, and note where that one ended."""
        if line.startswith(b"#"):
            raise GenomeFileError(
                f"{self._where()}: a line of a header among the records; join files with bcftools concat"
            )
        if b"\t" not in line:
            raise self._too_few_columns(1)
        if before is not None:
            if wanted is None:
                raise self._several_contigs(before, name)
            ended[before] = self._line
        if name == wanted and name in ended:
            raise GenomeFileError(
                f"{self._where()}: contig {name.decode(errors='replace')!r} comes again after another one, which "
                f"begins in line {ended[name]}; sort the file, as with bcftools sort"
            )

    def _too_few_columns(self, number: int) -> GenomeFileError:
        return GenomeFileError(
            f"{self._where()}: {number} columns, where the header has {9 + len(self.samples)}; the file may be cut "
            "short"
        )

    def _several_contigs(self, first: bytes, other: bytes) -> GenomeFileError:
        names = list(self.contigs) or [first.decode(), other.decode(), "maybe more"]
        return GenomeFileError(
            f"{self._where()}: contig {other.decode()!r} after {first.decode()!r}; a scan is of one contig, so say "
            f"which with region=, of {list_names(names)}"
        )

    def _genotypes(self, formats: bytes, columns: bytes) -> bytes:
        """The genotypes of the columns of samples, where GT does not come first in FORMAT, as it should."""
        names = formats.split(b":")
        if b"GT" not in names:
            raise GenomeFileError(f"{self._where()}: it has no genotypes, because FORMAT is {formats.decode()!r}")
        number = names.index(b"GT")
        fields = [column.split(b":") for column in columns.split(b"\t")]
        return b"\t".join(field[number] if number < len(field) else b"." for field in fields)

    def _block(self, kept: list[tuple[int, int, int, bytes]]) -> Block:
        lines, positions, exchange, genotypes = zip(*kept, strict=True)
        alleles, is_phased = self._decode(lines, genotypes)
        return Block(
            np.array(positions, np.int64),
            np.array(exchange, bool),
            alleles,
            is_phased,
            lambda site: self._where(lines[site]),
        )

    def _decode(self, lines: tuple[int, ...], genotypes: tuple[bytes, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Alleles (k, N, 2) int8 and whether they are phased (k, N) of the columns of genotypes of k lines."""
        shape = len(lines), len(self.samples)
        text = np.frombuffer(b"\t".join(genotypes) + b"\t\t\t\t", np.uint8)
        lengths = np.array([len(line) for line in genotypes]) + 1
        # Most files have nothing but genotypes such as 0|1, four bytes each with their tab.
        if (lengths == 4 * shape[1]).all() and (text[3:-3:4] == _TAB).all() and (text[1:-3:4] != _TAB).all():
            first, middle, second, last = text[:-3].reshape(-1, 4).T
        else:
            tabs = np.flatnonzero(text[:-3] == _TAB)
            is_whole = len(tabs) == shape[0] * shape[1]
            if not is_whole or (tabs[shape[1] - 1 :: shape[1]] != np.cumsum(lengths) - 1).any():
                raise self._wrong_columns(lines, genotypes)
            starts = np.append(0, tabs[:-1] + 1)
            first, middle, second, last = (text[starts + i] for i in range(4))
        is_haploid = (middle == _TAB) | (middle == _COLON)
        is_phased = middle == _BAR
        is_diploid = (is_phased | (middle == _SLASH)) & ((last == _TAB) | (last == _COLON))
        alleles = np.empty((shape[0] * shape[1], 2), np.int8)
        alleles[:, 0] = _ALLELES[first]
        alleles[:, 1] = np.where(is_haploid, ABSENT, _ALLELES[second])
        bad = ~(is_haploid | is_diploid) | (alleles == _UNKNOWN).any(axis=1)
        if bad.any():
            line, sample = divmod(int(bad.argmax()), shape[1])
            field = genotypes[line].split(b"\t")[sample].split(b":")[0].decode(errors="replace")
            raise GenomeFileError(
                f"{self._where(lines[line])}: the genotype {field!r} of sample {self.samples[sample]!r} is none of a "
                "haploid or diploid sample with alleles 0, 1 and ."
            )
        return alleles.reshape(*shape, 2), is_phased.reshape(shape)

    def _wrong_columns(self, lines: tuple[int, ...], genotypes: tuple[bytes, ...]) -> GenomeFileError:
        numbers = [line.count(b"\t") + 1 for line in genotypes]
        i = next(i for i, number in enumerate(numbers) if number != len(self.samples))
        return GenomeFileError(
            f"{self._where(lines[i])}: {9 + numbers[i]} columns, where the header has {9 + len(self.samples)}; "
            "the file may be cut short"
        )


def _info_value(info: bytes, field: bytes) -> bytes | None:
    """The value of a field, such as b"AA=", of an INFO column."""
    for entry in info.split(b";"):
        if entry.startswith(field):
            return entry[len(field) :]
    return None
