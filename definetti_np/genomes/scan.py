"""The table of a scan: what a model says of each place along a contig; its files, its calls and its plot."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from ..checks import as_positive_number
from ..errors import GenomeFileError
from ..files.paths import check_parent
from ..files.whole import write_whole
from .encoder import Sites
from .intervals import contains

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OK, TOO_FEW_SNPS, INACCESSIBLE = "ok", "too_few_snps", "inaccessible"
STATUS = (OK, TOO_FEW_SNPS, INACCESSIBLE)
VERSION_LINE = "##definetti_np scan, version 1"
COLUMNS = ("#chrom", "start", "end", "center", "snps")
UNUSUAL = "unusual"  # the column before the status, where the model knows
PRIOR_TOLERANCE = 1e-6  # of the sum of a prior


class Call(NamedTuple):
    """A stretch whose windows are all above a threshold, 0-based and half open, and its highest window."""

    contig: str
    start: int
    end: int
    peak: float
    posterior: float


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """What a model says of B places along a contig; `Model.scan` makes it, and `Scan.read` reads it back.

    Intervals are 0-based and half open as in BED.

    Attributes
    ----------
    contig
        Its name.
    start, end
        (B,) int64, the interval that a place stands for, around its centre.
    center
        (B,) float64, in bp.
    snps
        (B,) int64, how many SNPs the window of the centre has.
    values
        (B, N) float32, the posterior probabilities of the classes, or the estimates of a network without softmax. NaN
        where the status is not "ok".
    status
        (B,) of "ok", "too_few_snps" and "inaccessible".
    names
        The columns of `values` in files: "p_flat", "p_hotspot", ...
    notes
        What a file says of how it was made, such as the prior.
    unusual
        (B,) float32, which share of the training's simulations is less unusual than the window, NaN where the status is
        not "ok"; None if the model does not know. See docs/meaning.md.
    """

    contig: str
    start: np.ndarray
    end: np.ndarray
    center: np.ndarray
    snps: np.ndarray
    values: np.ndarray
    status: np.ndarray
    names: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    unusual: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.center)

    def __repr__(self) -> str:
        numbers = [f"{np.count_nonzero(self.status == status):,} {status}" for status in STATUS]
        place = f"{self.contig}:{self.start[0]:,}-{self.end[-1]:,}" if len(self) else self.contig
        return f"Scan of {place} at {len(self):,} places ({', '.join(numbers)}), with {', '.join(self.names)}"

    def column(self, name: str | None = None) -> np.ndarray:
        """(B,) the values of a class or estimate; None for the last one.

        Raises
        ------
        ValueError
            If there is none of this name.
        """
        if name is None:
            return self.values[:, -1]
        for known in (name, f"p_{name}"):
            if known in self.names:
                return self.values[:, self.names.index(known)]
        raise ValueError(f"name: there is no column {name!r}; choose from {', '.join(self.names)}")

    def calls(self, threshold: float = 0.5, name: str | None = None) -> list[Call]:
        """Join neighbouring places whose posterior is above a threshold.

        Parameters
        ----------
        threshold
            Places with a larger value are joined.
        name
            Of which class, None for the last one.
        """
        values = self.column(name)
        is_above = np.greater(values, threshold, where=self.status == OK, out=np.zeros(len(values), bool))
        found = np.flatnonzero(is_above)
        follows = np.append(False, (np.diff(found) == 1) & (self.start[found[1:]] == self.end[found[:-1]]))
        calls = []
        for group in np.split(found, np.flatnonzero(~follows)[1:]) if len(found) else []:
            best = group[np.argmax(values[group])]
            place = int(self.start[group[0]]), int(self.end[group[-1]])
            calls.append(Call(self.contig, *place, float(self.center[best]), float(values[best])))
        return calls

    def to_tsv(self, path: str | os.PathLike) -> None:
        """Write the table, with tabs between its columns; `Scan.read` reads it."""
        lines = [VERSION_LINE, *(f"##{key}={value}" for key, value in self.notes.items())]
        more = [] if self.unusual is None else [UNUSUAL]
        lines.append("\t".join([*COLUMNS, *self.names, *more, "status"]))
        _write(path, lambda file: self._write_lines(file, lines))

    def _write_lines(self, file: BinaryIO, lines: list[str]) -> None:
        file.write("".join(f"{line}\n" for line in lines).encode())
        for i in range(len(self)):
            place = f"{self.contig}\t{self.start[i]}\t{self.end[i]}\t{self.center[i]:.12g}\t{self.snps[i]}"
            more = [] if self.unusual is None else [self.unusual[i]]
            values = "\t".join([str(value) for value in (*self.values[i], *more)])
            file.write(f"{place}\t{values}\t{self.status[i]}\n".encode())

    def to_bed(self, path: str | os.PathLike, *, threshold: float = 0.5, name: str | None = None) -> None:
        """Write the calls as BED: contig, start, end, name, score (1000 times the highest posterior), strand."""
        label = (self.names[-1] if name is None else name).removeprefix("p_")
        calls = self.calls(threshold, name)
        lines = [f"{c.contig}\t{c.start}\t{c.end}\t{label}\t{round(1000 * c.posterior)}\t.\n" for c in calls]
        _write(path, lambda file: file.write("".join(lines).encode()))

    def to_bedgraph(self, path: str | os.PathLike, *, name: str | None = None) -> None:
        """Write contig, start, end and the value of a class, the last one if there is no name, where there is one."""
        values, is_ok = self.column(name), self.status == OK
        rows = zip(self.start[is_ok], self.end[is_ok], values[is_ok], strict=True)
        lines = [f"{self.contig}\t{start}\t{end}\t{value}\n" for start, end, value in rows]
        _write(path, lambda file: file.write("".join(lines).encode()))

    def plot(
        self, path: str | os.PathLike | None = None, *, name: str | None = None, threshold: float | None = None
    ) -> Axes:
        """Draw the values of a class along the contig, and write the figure where there is a path.

        Parameters
        ----------
        path
            An image file such as scan.png, or None.
        name
            Of which class, None for the last one.
        threshold
            Where to draw a line, and to mark the calls.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError('plot needs matplotlib; install it: pip install "definetti_np[plot]"') from None
        figure = Figure(figsize=(10, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(self.center / 1e6, self.column(name), linewidth=0.8)
        axes.set(xlabel=f"{self.contig} (Mb)", ylabel=self.names[-1] if name is None else name)
        if self.names[0].startswith("p_"):
            axes.set_ylim(0, 1)
        if threshold is not None:
            axes.axhline(threshold, linestyle=":", color="grey")
            for call in self.calls(threshold, name):
                axes.axvspan(call.start / 1e6, call.end / 1e6, color="orange", alpha=0.4)
        if path is not None:
            image = io.BytesIO()
            suffix = Path(path).suffix.removeprefix(".") or "png"
            figure.savefig(image, format=suffix, dpi=150)
            _write(path, lambda file: file.write(image.getvalue()))
        return axes

    @classmethod
    def read(cls, path: str | os.PathLike) -> Scan:
        """Read what `to_tsv` has written.

        Raises
        ------
        GenomeFileError
            If it is no such file; the message names file and line.
        """
        path = Path(path).expanduser()
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise GenomeFileError(f"{path}: cannot be read: {error}") from None
        if not lines or lines[0] != VERSION_LINE:
            raise GenomeFileError(f"{path}, line 1: not a scan of this version, which begins with {VERSION_LINE!r}")
        comments = [line for line in lines if line.startswith("##")]
        notes = dict(line[2:].split("=", 1) for line in comments[1:] if "=" in line)
        number = len(comments)
        columns = lines[number].split("\t") if number < len(lines) else []
        if tuple(columns[:5]) != COLUMNS or columns[-1] != "status" or len(columns) < 7:
            raise GenomeFileError(f"{path}, line {number + 1}: the line of columns, {COLUMNS[0]} ..., is missing")
        names = tuple(columns[5:-1])
        rows = [_parse(line.split("\t"), len(names), path, i) for i, line in enumerate(lines[number + 1 :], number + 2)]
        has_unusual = names[-1] == UNUSUAL
        contigs = {row[0] for row in rows}
        if len(contigs) != 1:
            raise GenomeFileError(f"{path}: a scan of one contig is needed, not of {len(contigs)}")
        _, start, end, center, snps, values, status = zip(*rows, strict=True)
        table = np.array(values, np.float32).reshape(len(rows), len(names))
        return cls(
            contig=contigs.pop(),
            start=np.array(start, np.int64),
            end=np.array(end, np.int64),
            center=np.array(center, np.float64),
            snps=np.array(snps, np.int64),
            values=table[:, :-1] if has_unusual else table,
            status=np.array(status),
            names=names[:-1] if has_unusual else names,
            notes=notes,
            unusual=table[:, -1] if has_unusual else None,
        )


def _parse(fields: list[str], values: int, path: Path, line: int) -> tuple:
    try:
        contig, start, end, center, snps = fields[:5]
        numbers = [float(text) for text in fields[5:-1]]
        if len(numbers) != values or fields[-1] not in STATUS:
            raise ValueError
        return contig, int(start), int(end), float(center), int(snps), numbers, fields[-1]
    except ValueError:
        raise GenomeFileError(f"{path}, line {line}: not a row of a scan: {' '.join(fields)[:80]!r}") from None


def _write(path: str | os.PathLike, write: Callable[[BinaryIO], object]) -> None:
    target = Path(path).expanduser().absolute()
    check_parent(target, "path")
    write_whole(target, write)


@dataclass(frozen=True)
class Places:
    """The places of a scan: intervals that touch, and their centres; as in `Scan`."""

    start: np.ndarray
    end: np.ndarray
    center: np.ndarray

    @classmethod
    def every(cls, step: float, start: float, stop: float) -> Places:
        """Intervals of `step` bp from start to stop; the last one may be shorter."""
        edges = np.append(np.arange(np.floor(start), stop, step), stop).astype(np.int64)
        edges = np.unique(edges)
        return cls(edges[:-1], edges[1:], (edges[:-1] + edges[1:]) / 2)

    @classmethod
    def between_snps(cls, positions: np.ndarray, start: float, stop: float) -> Places:
        """The intervals between SNPs: all centres in one have the same window."""
        edges = np.concatenate([[start], positions[(positions > start) & (positions < stop)], [stop]])
        whole = np.floor(edges).astype(np.int64)
        is_there = np.diff(whole) > 0  # two simulated SNPs may lie within one bp
        return cls(whole[:-1][is_there], whole[1:][is_there], ((edges[:-1] + edges[1:]) / 2)[is_there])

    @classmethod
    def of(cls, sites: Sites, *, step: float | None, at: str | None, start: float | None, stop: float | None) -> Places:
        """The places that the arguments of `Model.scan` ask for.

        Raises
        ------
        ValueError, TypeError
            If they ask for none.
        """
        haplotypes = sites.haplotypes
        start = haplotypes.start if start is None else start
        stop = haplotypes.stop if stop is None else stop
        if not haplotypes.start <= start < stop <= haplotypes.stop:
            place = f"{haplotypes.contig}:{haplotypes.start:,.0f}-{haplotypes.stop:,.0f}"
            raise ValueError(f"start and stop must lie within {place} and ascend, got start={start!r}, stop={stop!r}")
        if at is not None:
            if at != "snps":
                raise ValueError(f'at must be "snps" or None, got {at!r}')
            return cls.between_snps(sites.positions, start, stop)
        step = as_positive_number(step, "step")
        if step < 1:
            raise ValueError(f"step must be at least 1 bp, got {step!r}")
        return cls.every(step, start, stop)

    def status(self, sites: Sites) -> tuple[np.ndarray, np.ndarray]:
        """How many SNPs the window of each place has, (B,) int64, and its status before it is predicted, (B,)."""
        snps = sites.encoder.snps
        first, has_window = sites.windows(self.center)
        last = np.minimum(first + snps, len(sites.positions))
        status = np.where(has_window, OK, TOO_FEW_SNPS).astype(object)
        accessible = sites.haplotypes.accessible
        if accessible is not None:
            status[~contains(accessible, self.center)] = INACCESSIBLE
        return np.maximum(last - np.maximum(first, 0), 0), status


def value_names(classes: Sequence[str] | None, number: int, *, is_posterior: bool) -> tuple[str, ...]:
    """The names of the columns of predictions: "p_<class>" of posteriors, "estimate_<name>" of others."""
    prefix = "p_" if is_posterior else "estimate_"
    return tuple(f"{prefix}{name}" for name in (classes or range(number)))


def check_prior(prior: Any, number: int, name: str) -> np.ndarray:
    """Return a prior (N,) float64 of N classes, or raise an error that names the argument."""
    try:
        values = np.array(prior, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    good = values.shape == (number,) and np.isfinite(values).all() and (values > 0).all()
    if not good or abs(values.sum() - 1) > PRIOR_TOLERANCE:
        raise ValueError(f"{name} must be {number} positive probabilities that add up to 1, got {prior!r}")
    return values


def check_priors(
    prior: Any, training_prior: Any, number: int, *, is_posterior: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The prior of N classes in the genome and that of the training, each (N,) float64, or None if neither is given.

    Raises
    ------
    ValueError
        If one is wrong, the first is missing, or the network gives no posterior.
    """
    if prior is None:
        if training_prior is not None:
            raise ValueError("training_prior is for a prior that takes its place; give prior too")
        return None
    if not is_posterior:
        raise ValueError("prior is for a network that ends in softmax, which gives probabilities of classes")
    before = check_prior([1 / number] * number if training_prior is None else training_prior, number, "training_prior")
    return check_prior(prior, number, "prior"), before


def describe_priors(names: Sequence[str], priors: tuple[np.ndarray, np.ndarray] | None) -> dict[str, str]:
    """What a file says of them."""
    if priors is None:
        return {"prior": "that of the training"}
    return {"prior": describe_prior(names, priors[0]), "training_prior": describe_prior(names, priors[1])}


def with_prior(probabilities: np.ndarray, prior: np.ndarray, training_prior: np.ndarray) -> np.ndarray:
    """The posterior under another prior than that of the training, by Bayes' rule on the classes, (B, N)."""
    with np.errstate(all="ignore"):
        odds = probabilities * (prior / training_prior)
        return odds / odds.sum(axis=1, keepdims=True)


def describe_prior(names: Sequence[str], prior: np.ndarray) -> str:
    """A prior in a line: "flat=0.97, hotspot=0.03"."""
    return ", ".join(f"{name.removeprefix('p_')}={p:.6g}" for name, p in zip(names, prior, strict=True))


def one_line(text: str) -> str:
    """A text without what would end a line of a file."""
    return re.sub(r"\s+", " ", text).strip()
