"""The manifest of an append-only directory: which files make up the data, and in which order."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fluxy_sync.host.files import paths_in, read_private, size_of, write_private

NAME = "appendonly.aof"
FOLDER = "appendonlydir"
_LINE = re.compile(rf"file ({re.escape(NAME)}\.[\w.-]+) seq (\d+) type ([bhi])(?: \w+ \d+)*")
_FILE = re.compile(rf"{re.escape(NAME)}\.(\d+)\.(base|incr)\.(aof|rdb)")


class Part(NamedTuple):
    """One file of the data; ``seq`` grows with each new one of its kind."""

    name: str
    seq: int


class Manifest(NamedTuple):
    """A base file, if there is one, and what happened since, in this order."""

    base: Part | None
    incrs: tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*([self.base] if self.base else []), *self.incrs)

    def missing(self, folder: Path) -> list[Part]:
        """The files that it names and that aren't there."""
        return [part for part in self.parts if size_of(folder / part.name) is None]

    def write(self, folder: Path) -> None:
        """Replace the manifest in one step, on disk."""
        lines = [f"file {part.name} seq {part.seq} type {'b' if part == self.base else 'i'}\n" for part in self.parts]
        write_private(path_in(folder), "".join(lines))


def path_in(folder: Path) -> Path:
    return folder / f"{NAME}.manifest"


def files_in(folder: Path) -> list[Path]:
    """The data files that are there, whatever the manifest says."""
    return [path for path in paths_in(folder, f"{NAME}.*") if _FILE.fullmatch(path.name)]


def read(folder: Path) -> Manifest | None:
    """The manifest; None where it is missing or the server would refuse it."""
    text = read_private(path_in(folder), "", errors="replace")
    found = [_LINE.fullmatch(line) for line in text.splitlines() if not line.startswith("#")]
    lines = [match for match in found if match is not None]
    if not text.endswith("\n") or len(lines) != len(found):
        return None
    bases = [Part(line[1], int(line[2])) for line in lines if line[3] == "b"]
    incrs = tuple(Part(line[1], int(line[2])) for line in lines if line[3] == "i")
    rises = all(earlier.seq < later.seq for earlier, later in itertools.pairwise(incrs))
    if len(bases) > 1 or not rises or not (bases or incrs):
        return None
    return Manifest(bases[0] if bases else None, incrs)


def guess(folder: Path, held_by: Callable[[Path, Sequence[Path]], set[Path]]) -> Manifest:
    """A manifest for the files that are there: the newest base, and what happened since.

    Args:
        held_by: of the base's path and the other files', those whose end the base holds already: a rewrite that is cut
            off between its last steps leaves them behind.
    """
    bases: list[Part] = []
    incrs: list[Part] = []
    for path in files_in(folder):
        if match := _FILE.fullmatch(path.name):
            (bases if match[2] == "base" else incrs).append(Part(path.name, int(match[1])))
    base = max(bases, key=lambda part: part.seq, default=None)
    old = held_by(folder / base.name, [folder / part.name for part in incrs]) if base else set()
    kept = [part for part in incrs if folder / part.name not in old]
    return Manifest(base, tuple(sorted(kept, key=lambda part: part.seq)))
