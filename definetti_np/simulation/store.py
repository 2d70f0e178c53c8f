"""The store: simulations in a folder, each of which is made once.

The folder holds shards, each a file of consecutive examples that is written whole and never changed. The name of a
shard says which examples it holds, and of which simulations. So nothing has to be locked: runs on several machines may
read one folder, and write to it at the same time, since an example that two of them simulate is the same.
"""

from __future__ import annotations

import bisect
import dataclasses
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import as_bool
from ..files.paths import check_parent, why_not_writable
from ..files.whole import write_whole
from .ranges import Ranges
from .shards import Key, Shard, check_shard, read_header

logger = logging.getLogger("definetti_np")


_NAME = re.compile(r"examples-(\d{12,20})-(\d{12,20})-([0-9a-f]{12})\.shard")


@dataclass(frozen=True)
class ShardFile:
    """A shard in a folder: its path, and the examples and the digest that its name tells."""

    path: Path
    start: int
    stop: int
    digest: str


def shard_path(folder: Path, start: int, stop: int, digest: str) -> Path:
    """The path of the shard of these examples."""
    return folder / f"examples-{start:012d}-{stop:012d}-{digest}.shard"


def shard_files(folder: Path) -> list[ShardFile]:
    """The shards of a folder by their names, in the order of their examples."""
    with os.scandir(folder) as entries:
        matches = [match for entry in entries if (match := _NAME.fullmatch(entry.name))]
    files = [ShardFile(folder / match[0], int(match[1]), int(match[2]), match[3]) for match in matches]
    return sorted((file for file in files if file.start < file.stop), key=lambda file: (file.start, -file.stop))


def find_key(folder: Path, argument: str, *, is_needed: bool = True) -> Key | None:
    """Return which simulations a folder holds, None if there are none, or all are damaged and it need not be known.

    Raises
    ------
    ValueError
        If it holds simulations of several kinds, or nothing but damaged shards where it has to be known which.
    """
    keys: dict[str, Key] = {}
    reasons: dict[str, str] = {}
    for file in shard_files(folder):
        if file.digest not in keys:
            try:
                keys[file.digest] = Key.from_dict(read_header(file.path.read_bytes())[0])
            except (OSError, ValueError) as error:
                reasons.setdefault(file.digest, f"{file.path}: {error}")
    if len(keys) > 1:
        kinds = "; ".join(f"{key} (files *-{digest}.shard)" for digest, key in sorted(keys.items()))
        raise ValueError(
            f"{argument}: {str(folder)!r} holds several kinds of simulations: {kinds}; move the files of all but one "
            "of them to folders of their own"
        )
    if reasons and not keys and is_needed:
        raise ValueError(
            f"{argument}: no shard of {str(folder)!r} can be read ({next(iter(reasons.values()))}); remove them, or "
            "choose another folder"
        )
    return next(iter(keys.values()), None)


@dataclass(frozen=True)
class StoreSettings:
    """The arguments of `train` and `simulate` about a store: its folder, the version, and what is there.

    `found` says which simulations the folder holds, None if there are none.
    """

    folder: Path
    version: str | None
    found: Key | None
    argument: str
    follow: bool = False

    @classmethod
    def of_training(cls, folder: Any, version: Any, simulator: Callable | None, follow: Any) -> StoreSettings | None:
        """Check the arguments of `train`; None without a folder."""
        follow = as_bool(follow, "follow")
        if folder is not None:
            return dataclasses.replace(cls.checked(folder, version, simulator, "simulations"), follow=follow)
        if follow:
            raise ValueError("follow needs simulations, a folder that others fill, got simulations=None")
        if simulator is None:
            raise ValueError("simulator: None needs a folder of simulations to train on, got simulations=None")
        if version is not None:
            raise ValueError(f"simulations_version needs simulations, a folder, got simulations_version={version!r}")
        return None

    @classmethod
    def checked(cls, folder: Any, version: Any, simulator: Callable | None, argument: str) -> StoreSettings:
        """Check the arguments; messages call the folder `argument`.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or there is no simulator and nothing to read.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"{argument} must be the path of a folder, got {folder!r}")
        if isinstance(version, bool) or not isinstance(version, (str, int, type(None))):
            raise TypeError(f"simulations_version must be a text or an integer, got {version!r}")
        folder = Path(folder).expanduser().absolute()
        is_there = os.path.isdir(folder)
        if not is_there:
            check_folder(folder, argument)
        found = find_key(folder, argument, is_needed=simulator is None) if is_there else None
        if simulator is None and found is None:
            where = "holds no simulations" if is_there else "does not exist"
            raise ValueError(
                f"{argument}: {str(folder)!r} {where}, and simulator is None; give a simulator, or fill the folder "
                "with definetti_np.simulate"
            )
        version = None if version is None else str(version)
        if simulator is None and version is None and found is not None:
            version = found.version
        return cls(folder, version, found, argument)

    def open(self, simulator: str, seed: int, row_shape: tuple[int, int], output_shape: tuple[int]) -> Store:
        """Open the store, or raise a ValueError if the folder holds other simulations."""
        key = Key(simulator, self.version, seed, row_shape, output_shape)
        return Store(self.folder, key, self.argument, follow=self.follow)


class Store:
    """The simulations in a folder, to read and to add to.

    Parameters
    ----------
    folder
        Where they are; it need not exist before the first shard is written.
    key
        Which simulations they are.
    argument
        What messages call the folder.
    follow
        Whether others add the examples that it lacks.

    Raises
    ------
    ValueError
        If there are other simulations in the folder.
    """

    def __init__(self, folder: Path, key: Key, argument: str = "simulations", *, follow: bool = False):
        self.folder, self.key, self.argument, self.follow = folder, key, argument, follow
        self._files: list[ShardFile] = []
        self._damaged: set[Path] = set()
        self._named: set[Path] = set()  # damaged ones that a warning was about
        self._compared: set[tuple[Path, Path]] = set()  # which hold the same examples
        self._shards: deque[tuple[Path, Shard]] = deque(maxlen=2)  # the ones that were read last
        self.look()

    def look(self) -> None:
        """Find the shards that are there now. Where others add them, one that was damaged may have been half copied."""
        if self.follow:
            self._damaged.clear()
        files = shard_files(self.folder) if os.path.isdir(self.folder) else []
        if any(file.digest != self.key.digest for file in files):
            found = find_key(self.folder, self.argument)
            if found is not None and found != self.key:
                raise ValueError(
                    f"{self.argument}: {str(self.folder)!r} holds {difference(found, self.key)}; choose another folder"
                )
        self._plan([file for file in files if file.digest == self.key.digest and file.path not in self._damaged])

    def _plan(self, files: Sequence[ShardFile]) -> None:
        """Work out which shard to read an example from, where several have it: pieces of shards that do not overlap."""
        self._files = list(files)
        self._pieces: list[tuple[int, int, ShardFile]] = []
        stop = 0
        for file in files:
            if file.stop > stop:
                self._pieces.append((max(file.start, stop), file.stop, file))
                stop = file.stop
        self._starts = [start for start, _, _ in self._pieces]
        self.examples = Ranges(range(start, stop) for start, stop, _ in self._pieces)

    def check(self, within: range) -> None:
        """Read the shards of a range, and forget those that are damaged, with a warning; then `compare` the others."""
        for file in self._files.copy():
            if file.start < within.stop and file.stop > within.start:
                try:
                    check_shard(file.path.read_bytes())
                except (OSError, ValueError) as error:
                    self._forget(file, error)
        self.compare()

    def compare(self) -> None:
        """See that shards which hold the same examples are equal there, and warn of them.

        Raises
        ------
        ValueError
            If they differ, because then it would depend on the names of files which of them a run trains on.
        """
        found = [pair for pair in overlaps(self._files) if (pair[0].path, pair[1].path) not in self._compared]
        for first, second in found:
            start, stop = second.start, min(first.stop, second.stop)
            try:
                shards = self._read(first), self._read(second)
            except (OSError, ValueError):
                continue  # which is said when an example of it is read
            self._compared.add((first.path, second.path))
            if not are_equal(*shards, start, stop):
                raise ValueError(
                    f"{self.argument}: {first.path} and {second.path} hold different examples {start} to {stop - 1}: "
                    "the simulator, or what it stands on, was not the same. Move one of them away, and those that were "
                    "made with it, or simulate them again into another folder"
                )
        if found:
            first, second = found[0]
            logger.warning(
                "%s: files hold the same examples, %d of them, because ranges overlap that were simulated at the same "
                "time: %s and %s, for example, examples %d to %d. They are equal, so either is read; but see that each "
                "task has a range of its own",
                self.argument, len(found) + 1, first.path, second.path, second.start, min(first.stop, second.stop) - 1,
            )  # fmt: skip

    def _forget(self, file: ShardFile, error: Exception) -> None:
        why = getattr(error, "strerror", None) or error
        if file.path not in self._named:
            logger.warning("%s: %s cannot be read and is left out: %s", self.argument, file.path, why)
        self._named.add(file.path)
        self._damaged.add(file.path)
        self._plan([other for other in self._files if other.path != file.path])

    def shard_of(self, index: int) -> tuple[Shard, int] | None:
        """Return the shard to read an example from, and up to which example to read from it; None if there is none."""
        while True:
            place = bisect.bisect_right(self._starts, index) - 1
            if place < 0 or index >= self._pieces[place][1]:
                return None
            _, stop, file = self._pieces[place]
            try:
                return self._read(file), stop
            except (OSError, ValueError) as error:
                self._forget(file, error)

    def _read(self, file: ShardFile) -> Shard:
        for path, shard in self._shards:
            if path == file.path:
                return shard
        shard = Shard(file.path.read_bytes())
        if shard.key != self.key or (shard.start, shard.stop) != (file.start, file.stop):
            raise ValueError(f"its name is not that of what it holds, examples {shard.start} to {shard.stop - 1}")
        self._shards.append((file.path, shard))
        return shard

    @property
    def files(self) -> list[ShardFile]:
        """The shards that there are."""
        return list(self._files)

    def pieces(self) -> Iterator[tuple[Shard, int, int]]:
        """All examples that there are, in order: a shard, and the indices from which to which to read it."""
        for start, stop, _ in self._pieces.copy():
            while start < stop and (found := self.shard_of(start)) is not None:
                shard, end = found[0], min(found[1], stop)
                yield shard, start, end
                start = end

    def damaged_files(self) -> list[tuple[Path, str]]:
        """The shards that cannot be read, and why."""
        found = []
        for file in self._files:
            try:
                Shard(file.path.read_bytes())
            except (OSError, ValueError) as error:
                found.append((file.path, str(error)))
        return found

    def write(self, start: int, stop: int, content: bytes) -> None:
        """Write a shard; raise an OSError if that cannot be done, and a ValueError if there is one that differs."""
        self.folder.mkdir(exist_ok=True)
        path = shard_path(self.folder, start, stop, self.key.digest)
        if not self._is_written(path, content):
            write_whole(path, lambda file: file.write(content))
        self._damaged.discard(path)

    def _is_written(self, path: Path, content: bytes) -> bool:
        """Whether another run has written the same shard meanwhile."""
        try:
            other = Shard(path.read_bytes())
        except (OSError, ValueError):  # there is none, or it is damaged
            return False
        shard = Shard(content)
        if (other.key, other.start, other.stop) != (shard.key, shard.start, shard.stop):  # it was renamed
            return False
        if not are_equal(shard, other, shard.start, shard.stop):
            raise ValueError(
                f"{self.argument}: another run has written {path} meanwhile, with different examples {shard.start} to "
                f"{shard.stop - 1}: its simulator, or what it stands on, was not the same. See that only one of them "
                "fills this folder, and simulate those examples again"
            )
        return True

    def end_of_damaged(self, index: int) -> int | None:
        """Where a damaged shard with this example ends; a new one with the same name takes its place."""
        for path in self._damaged:
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) <= index < int(match[2]):
                return int(match[2])
        return None


def overlaps(files: Sequence[ShardFile]) -> Iterator[tuple[ShardFile, ShardFile]]:
    """Shards that hold the same examples, pairs of neighbours; the files are in the order of their examples."""
    furthest: ShardFile | None = None
    for file in files:
        if furthest is not None and file.start < furthest.stop:
            yield furthest, file
        if furthest is None or file.stop > furthest.stop:
            furthest = file


def are_equal(first: Shard, second: Shard, start: int, stop: int) -> bool:
    """Whether two shards hold the same examples of these indices, bit for bit."""
    one, other = first.batch(start, stop), second.batch(start, stop)
    labels = [shard.labels[start - shard.start : stop - shard.start] for shard in (first, second)]
    pairs = ((one.rows, other.rows), (one.counts, other.counts), (one.offsets, other.offsets), labels)
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def difference(found: Key, wanted: Key) -> str:
    """Say what a folder holds, and what is asked for instead."""
    names = {
        "simulator": "simulator",
        "version": "simulations_version",
        "seed": "seed",
        "row_shape": "rows of shape",
        "output_shape": "labels of shape",
    }
    parts = []
    for field, name in names.items():
        there, here = getattr(found, field), getattr(wanted, field)
        if there != here:
            parts.append(f"{name} {there!r}, not {here!r}")
    return "simulations of " + "; ".join(parts)


def check_folder(folder: Path, argument: str) -> None:
    """Raise a ValueError if shards cannot be written to a folder, or if it cannot be made."""
    if not os.path.isdir(folder):
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise ValueError(f"{argument} must be a folder, {str(folder)!r} is none")
        try:
            check_parent(folder, argument)
        except ValueError:
            if not os.path.isdir(folder):  # another run may have made it this very moment
                raise
    elif why_not_writable(folder):
        raise ValueError(
            f"{argument}: examples are missing in {str(folder)!r}, which cannot be written to; choose another folder, "
            "or copy it"
        )
