"""Mending the files of an append-only directory: what can be read is kept, what can't is left out and counted.

Up to the first damage everything stays as it is. Behind it nothing that goes by position may be done again, since a
pop would take another operation than it took; so of the lanes only what was put into them is: what was delivered,
and what was taken back in ways that name no id, will be sent again, in order and under its key.
"""

import mmap
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedWriter
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from fluxy_sync.host.files import create, exists, open_to_change, open_to_read, remove, size_of, sync, sync_dir
from fluxy_sync.repair import aof, manifest
from fluxy_sync.repair.aof import Arities, Content, Gap, Loss, Unit
from fluxy_sync.repair.manifest import NAME, Manifest, Part

READ_AT_ONCE = 1024 * 1024
CHANGES = b"repair"  # the key, behind a hash tag, that tells ``recount`` what became of an operation later on
GONE = b"gone"
_LANE = re.compile(rb"(\{[^{}\r\n]+\}:)lane:", re.DOTALL)
_DEAD = re.compile(rb"(\{[^{}\r\n]+\}:)dead")
_RDB = re.compile(rb"REDIS\d{4}|VALKEY\d{3}")
_CANCELLED = 4  # of a record's flags: a tombstone has no other


class Mended(NamedTuple):
    """What was done. If ``found`` is empty, nothing was damaged: ``cut_off`` bytes of an unfinished last write went.

    Attributes:
        found: what was wrong, a phrase each.
        loss: what can't be read.
        put_back: operations that were accepted behind the first damage, and are kept.
        since: when the first damage was written at the latest, Unix seconds; None if that isn't known.
    """

    found: tuple[str, ...]
    loss: Loss = Loss()
    unknown: bool = False
    put_back: int = 0
    since: int | None = None
    cut_off: int = 0


class _Look(NamedTuple):
    """What was found of one file. ``empty``: it held nothing, as a store's first base file does."""

    part: Part
    gaps: tuple[Gap, ...] = ()
    missing: bool = False
    empty: bool = False

    @property
    def well(self) -> bool:
        return not self.gaps and not self.missing

    @property
    def sound(self) -> bool:
        """Whether all of its data is there."""
        return not self.gaps and (self.empty or not self.missing)


def disagree(folder: Path) -> bool:
    """Whether the manifest and the files don't fit: at a missing manifest a server would begin anew, over the data."""
    found = manifest.read(folder)
    if found is None:
        return bool(manifest.files_in(folder)) or exists(manifest.path_in(folder))
    return bool(found.missing(folder))


def mend(
    folder: Path, arities: Arities, keep: Callable[[Sequence[Path]], object], epoch: Callable[[], str]
) -> Mended | None:
    """Mend the files; None where nothing is wrong with them. Cut off at any moment, it can be done again.

    Args:
        keep: keeps a copy of these, before they are replaced.
        epoch: a new one for a journal.

    Raises:
        OSError: a file can't be read, or the disk is full. What was there is there.
    """
    with ExitStack() as opened:
        files = _Files(folder, arities, opened)
        had = manifest.read(folder)
        if had is None and not disagree(folder):
            return None  # nothing was ever written
        whole = had or manifest.guess(folder, files.held_by)
        base = files.look(whole.base, is_log=False) if whole.base else None
        looks = [files.look(part) for part in whole.incrs]
        damaged = [look for look in (base, *looks) if look and not look.well]
        if had and not damaged:
            return None
        if had and damaged == looks[-1:] and [gap.torn for gap in damaged[0].gaps] == [True]:
            return _cut_off(folder / damaged[0].part.name, files, damaged[0].gaps[0], epoch)
        return _Mending(folder, files, had is not None, base, looks, keep).run()


def _cut_off(path: Path, files: "_Files", gap: Gap, epoch: Callable[[], str]) -> Mended:
    """Take away a last write that nobody was told of; the fences that it gave out may be given out again."""
    renewed = b"".join(
        aof.encode((b"HSET", prefix + b":counts", b"epoch", epoch().encode()))
        for prefix in sorted(aof.prefixes(files.content(path)))
    )
    with open_to_change(path) as file:
        file.truncate(gap.start)
        file.seek(gap.start)
        file.write(renewed)
        sync(file)
    return Mended((), cut_off=gap.end - gap.start)


class _Files:
    """The files as they are, mapped into memory."""

    def __init__(self, folder: Path, arities: Arities, opened: ExitStack) -> None:
        self._folder = folder
        self._arities = arities
        self._opened = opened
        self._contents: dict[Path, Content] = {}

    def content(self, path: Path) -> Content:
        """All that a file holds. It is read once before it is mapped: what can't be read is an error, no signal."""
        if path not in self._contents:
            file = self._opened.enter_context(open_to_read(path))
            while file.read(READ_AT_ONCE):
                pass
            size = file.tell()
            mapped = self._opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else b""
            self._contents[path] = cast("Content", mapped)
        return self._contents[path]

    def of(self, part: Part) -> Content:
        return self.content(self._folder / part.name)

    def look(self, part: Part, *, is_log: bool = True) -> _Look:
        """Find what is wrong with a file."""
        if size_of(self._folder / part.name) is None:
            return _Look(part, missing=True, empty=not is_log and part.seq == 1)
        data = self.of(part)
        if not is_log and _RDB.match(data[:16]):
            return _Look(part)  # the server alone can read that
        return _Look(part, tuple(each for each in self.units(part, is_log=is_log) if isinstance(each, Gap)))

    def units(self, part: Part, *, is_log: bool = True) -> Iterator[Unit | Gap]:
        return aof.walk(self.of(part), self._arities, is_log=is_log)

    def held_by(self, base: Path, others: Sequence[Path]) -> set[Path]:
        """Those files whose changes the base holds already: the journals' revisions tell."""
        held = self._revisions(base, is_log=False)
        ends = {path: self._revisions(path) for path in others}
        return {
            path
            for path, revisions in ends.items()
            if revisions and all(revision <= held.get(key, -1) for key, revision in revisions.items())
        }

    def _revisions(self, path: Path, *, is_log: bool = True) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for unit in self.units(Part(path.name, 0), is_log=is_log):
            for command in unit.commands if isinstance(unit, Unit) else ():
                if len(command) > 3 and command[1].endswith(b"}:counts") and command[0].upper() in (b"HSET", b"HMSET"):
                    fields = dict(zip(command[2::2], command[3::2], strict=False))
                    if fields.get(b"rev", b"").isdigit():
                        found[command[1]] = int(fields[b"rev"])
        return found


class _Mending:
    """One repair: new files beside the old ones, then the manifest that names them."""

    def __init__(
        self,
        folder: Path,
        files: _Files,
        had_manifest: bool,
        base: _Look | None,
        looks: Sequence[_Look],
        keep: Callable[[Sequence[Path]], object],
    ) -> None:
        self._folder, self._files, self._keep = folder, files, keep
        self._had_manifest, self._base, self._looks = had_manifest, base, looks
        self._has_no_base = base is None and bool(looks) and looks[0].part.seq > 1
        self._base_is_bad = self._has_no_base or (base is not None and not base.sound)
        whole = 0 if self._base_is_bad else next((n for n, look in enumerate(looks) if not look.sound), len(looks))
        self._sound, self._rest = looks[:whole], looks[whole:]
        self._put_back = 0
        self._loss = Loss()

    def run(self) -> Mended:
        """Do it."""
        found, since = tuple(self._phrases()), self._since()
        replaced = [self._folder / look.part.name for look in self._replaced() if not look.missing]
        listed = manifest.path_in(self._folder)
        self._keep([path for path in (listed, *replaced) if exists(path)])
        base, incrs = self._new_base(), [look.part for look in self._sound]
        if self._rest:
            incrs.append(self._new_incr())
        sync_dir(self._folder)
        Manifest(base, tuple(incrs)).write(self._folder)
        for path in replaced:
            remove(path)
        unknown = self._has_no_base or any(look.missing and not look.empty for look in self._all())
        return Mended(found, self._loss, unknown, self._put_back, since)

    def _all(self) -> list[_Look]:
        return [*([self._base] if self._base else []), *self._looks]

    def _replaced(self) -> list[_Look]:
        return [*([self._base] if self._base and not self._base.sound else []), *self._rest]

    def _phrases(self) -> Iterator[str]:
        if not self._had_manifest:
            there = exists(manifest.path_in(self._folder))
            yield "the manifest was " + ("damaged" if there else "missing") + ", and is made anew from the files"
        if self._has_no_base:
            yield "the base file was missing"
        for look in self._all():
            if look.missing:
                yield f"{look.part.name} was missing"
            elif look.gaps:
                size = sum(gap.end - gap.start for gap in look.gaps)
                yield f"{size:,} bytes of {look.part.name} can't be read, from {look.gaps[0].start:,} on"

    def _since(self) -> int | None:
        """When the last thing before the first damage was written."""
        for look in self._replaced():
            if look.gaps and (time := aof.time_before(self._files.of(look.part), look.gaps[0].start)):
                return time
        return None

    def _next(self, kind: str) -> Part:
        numbers = [int(path.name.split(".")[2]) for path in manifest.files_in(self._folder)]
        seq = max([*numbers, *(look.part.seq for look in self._looks)], default=0) + 1
        return Part(f"{NAME}.{seq}.{kind}.aof", seq)

    def _new_base(self) -> Part | None:
        """The base as it was, or what can be read of it: each of its commands stands for itself."""
        if self._base is None or (self._base.missing and not self._base.empty):
            return None
        if self._base.sound:
            if size_of(self._folder / self._base.part.name) is None:
                create(self._folder / self._base.part.name).close()
            return self._base.part
        part = self._next("base")
        data = self._files.of(self._base.part)
        with self._written(part) as file:
            for each in self._files.units(self._base.part, is_log=False):
                if isinstance(each, Gap):
                    file.write(self._salvaged(data, each))
                else:
                    file.write(data[each.start : each.end])
        return part

    def _salvaged(self, data: Content, gap: Gap) -> bytes:
        """What is whole in a stretch that isn't: records and dead letters, where it is known whose they are."""
        arguments = [data[start:end] for start, end in aof.arguments_in(data, gap)]
        letters, records = aof.letters_in(arguments), aof.records_in(arguments)
        lanes = {argument for argument in arguments if _LANE.match(argument)}
        hashes = {argument for argument in arguments if _DEAD.fullmatch(argument)}
        keeps_records = len(lanes) == 1 and records and data[gap.start : gap.end].count(b"RPUSH\r\n") <= 1
        keeps_letters = len(hashes) == 1 and letters
        loss = aof.loss_of(data, gap)
        lost = loss.operations - (len(records) if keeps_records else 0) + (0 if keeps_letters else len(letters))
        self._loss = self._loss.and_(Loss(loss.size, lost))
        kept = aof.encode((b"RPUSH", lanes.pop(), *records)) if keeps_records else b""
        return kept + (aof.encode((b"HSET", hashes.pop(), *chain(*letters))) if keeps_letters else b"")

    def _new_incr(self) -> Part:
        """What happened since, in one file: up to the first damage as it was, then what may be done again."""
        part = self._next("incr")
        behind = self._base_is_bad
        later = _Later()
        with self._written(part) as file:
            for look in self._rest:
                if look.missing:
                    behind = True
                    continue
                data = self._files.of(look.part)
                for each in self._files.units(look.part):
                    if isinstance(each, Gap):
                        self._loss = self._loss.and_(aof.loss_of(data, each))
                        behind = True
                    elif behind:
                        file.writelines(aof.encode(command) for command in later.again(each.commands))
                    else:
                        file.write(data[each.start : each.end])
        self._put_back = later.put_back
        return part

    @contextmanager
    def _written(self, part: Part) -> Iterator[BinaryIO]:
        with create(self._folder / part.name) as raw, BufferedWriter(raw) as file:
            yield file
            sync(file)


class _Later:
    """What may be done again of what happened behind a damage. ``put_back``: operations that were accepted there."""

    def __init__(self) -> None:
        self.put_back = 0
        self._changed: set[bytes] = set()

    def again(self, commands: Collection[Sequence[bytes]]) -> Iterator[Sequence[bytes]]:
        for command in commands:
            name = command[0].upper()
            if len(command) > 1 and (lane := _LANE.match(command[1])):
                yield from self._of_lane(name, command, lane[1] + CHANGES)
            else:
                yield command
                if len(command) > 2 and (dead := _DEAD.fullmatch(command[1])) and name in (b"HSET", b"HDEL"):
                    yield from self._changes(dead[1] + CHANGES, command[2], GONE)

    def _of_lane(self, name: bytes, command: Sequence[bytes], changes: bytes) -> Iterator[Sequence[bytes]]:
        if name in (b"RPUSH", b"LPUSH"):
            yield command
            self.put_back += name == b"RPUSH"
            for record in command[2:]:
                if (found := _id_of(record)) in self._changed:
                    yield b"HDEL", changes, found
        elif name == b"LSET":
            yield from self._changes(changes, _id_of(command[3]), command[3])

    def _changes(self, key: bytes, name: bytes, what: bytes) -> Iterator[Sequence[bytes]]:
        self._changed.add(name)
        yield b"HSET", key, name, what


def _id_of(record: bytes) -> bytes:
    """A record's id, as the journal packs it."""
    return record[1:18] if record[1:2] == b"\0" else record[1 : 2 + (record[1] if len(record) > 1 else 0)]
