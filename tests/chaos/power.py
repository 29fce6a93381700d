"""A disk that loses its power: what the store's server wrote and did not sync is gone, or is there in part."""

import mmap
import os
import random
import shlex
import struct
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

from fluxy_sync.embedded import ServerBinary, find_server
from tests.chaos.trial import need

SOURCE = Path(__file__).with_name("shim") / "disk.c"
BEFORE, IN_THE_MIDDLE, AFTER = range(3)
SECTOR = 512
Grain = Literal["sectors", "bytes"]
"""What garbage comes in. A disk writes whole sectors; the stretches of a few bytes are worse than any does."""
_STATE = struct.Struct("=qqqqqq")
STAYS = -1


def build(folder: Path) -> Path:
    """Compile the library that watches the server.

    Raises:
        LeftOut: there is no compiler.
    """
    library = folder / "disk.so"
    compiler = need("gcc", "gcc (with libc6-dev)")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Entry(NamedTuple):
    """A change of the directory: what happened, with its paths and what was kept for the case that it is undone."""

    kind: str
    words: list[str]


class Disk:
    """The disk under one store's files.

    Args:
        library: what ``build`` gave.
        data_dir: of the store.
    """

    def __init__(self, library: Path, data_dir: Path) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.folder = data_dir / "store"
        self._log, state = data_dir / "disk.log", data_dir / "disk.state"
        state.write_bytes(bytes(4096))
        with state.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), 4096)
        self._server = data_dir / "server-on-disk"
        preloaded = {
            "LD_PRELOAD": library,
            "DISK_STATE": state,
            "DISK_LOG": self._log,
            "DISK_FOLDER": f"{self.folder}/",
        }
        words = [f"{name}={value}" for name, value in preloaded.items()]
        self._server.write_text(
            f'#!/bin/sh\nexec env {shlex.join(words)} {shlex.quote(str(find_server().path))} "$@"\n'
        )
        self._server.chmod(0o700)
        self._was: dict[int, int] = {}
        self.on()

    @property
    def server(self) -> ServerBinary:
        """The server that is used anyway, on this disk."""
        return find_server()._replace(path=self._server)

    @property
    def calls(self) -> int:
        """The server's writes, syncs and changes of the directory since the power is on."""
        return int(_STATE.unpack_from(self._state)[3])

    def on(self) -> None:
        """The power is on, and stays; all that is there is on disk."""
        _STATE.pack_into(self._state, 0, STAYS, 0, 0, 0, 0, 0)
        self._log.write_bytes(b"")
        self._was = {}
        self.trust()

    def trust(self) -> None:
        """What the server's launcher has written by now is on disk: it sees to that itself."""
        known = {int(words[1]) for line in self._log.read_text().splitlines() if (words := line.split(" "))[0] in "CS"}
        found = [path.stat() for path in self._files()]
        self._was |= {each.st_ino: each.st_size for each in found if each.st_ino not in known}

    def cut_after(self, calls: int, when: int) -> None:
        """Let the power go after so many calls of the server's: before, within or after the one that follows them."""
        struct.pack_into("=q", self._state, 8, when)
        struct.pack_into("=q", self._state, 0, calls)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()] if self.folder.is_dir() else []

    def lose(self, chance: random.Random, grain: Grain) -> "Lost":
        """Bring the files into a state that they may have after the cut, and put the power on again."""
        synced, entries = dict(self._was), []
        for line in self._log.read_text().splitlines():
            kind, *words = line.split(" ")
            if kind == "S":
                synced[int(words[0])] = int(words[1])
            elif kind == "D":
                entries.clear()
            else:
                if kind == "C":
                    synced[int(words[0])] = 0
                entries.append(Entry(kind, words))
        kept = chance.choice((0, len(entries), chance.randint(0, len(entries))))
        for entry in reversed(entries[kept:]):
            _undo(entry)
        tails = [_lose_tail(path, synced.get(path.stat().st_ino, 0), chance, grain) for path in self._files()]
        for path in self.folder.parent.glob("kept-*"):
            path.unlink()
        self.on()
        return Lost(sum(size for size, _ in tails), any(torn for _, torn in tails), len(entries) - kept)


class Lost(NamedTuple):
    """Bytes that weren't synced; whether garbage is among what is left of them; changes of the directory undone."""

    size: int
    garbage: bool
    entries: int


def _undo(entry: Entry) -> None:
    if entry.kind == "C":
        path = Path(entry.words[1])
        if path.exists() and path.stat().st_ino == int(entry.words[0]):
            path.unlink()
    elif entry.kind == "R":
        source, target, kept = entry.words
        Path(target).rename(source)
        if kept != "-":
            os.link(kept, target)
    else:
        os.link(entry.words[1], entry.words[0])


def _lose_tail(path: Path, synced: int, chance: random.Random, grain: Grain) -> tuple[int, bool]:
    """Cut off what was not synced; or keep a part of it; or keep a part of which something never got there.

    Gives how much was not synced, and whether there is garbage in what is left.
    """
    unsynced = path.stat().st_size - synced
    if unsynced <= 0:
        return 0, False
    way = chance.choice(("strict", "part", "torn", "torn"))
    os.truncate(path, synced if way == "strict" else synced + chance.randint(0, unsynced))
    left = path.stat().st_size - synced
    if way != "torn" or not left:
        return unsynced, False
    with path.open("r+b") as file:
        for _ in range(chance.randint(1, 3)):
            at, end = _stretch(synced, left, chance) if grain == "bytes" else _sector(synced, left, chance)
            file.seek(at)
            file.write(bytes(end - at) if chance.random() < 0.5 else chance.randbytes(end - at))
    return unsynced, True


def _sector(synced: int, left: int, chance: random.Random) -> tuple[int, int]:
    """Where one lies that holds something of what was not synced, without what was."""
    at = (synced + chance.randrange(left)) // SECTOR * SECTOR
    return max(synced, at), min(synced + left, at + SECTOR)


def _stretch(synced: int, left: int, chance: random.Random) -> tuple[int, int]:
    at = synced + chance.randrange(left)
    return at, min(synced + left, at + chance.choice((1, chance.randint(1, 64))))
