"""What is kept of a repair: a line for people, and a copy of the files as they were."""

import contextlib
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fluxy_sync.host.files import (
    keep_copy,
    make_private_dir,
    paths_in,
    read_private,
    remove_tree,
    sync_dir,
    write_private,
)
from fluxy_sync.repair.files import Mended

REPAIRS_FILE = "repairs.jsonl"
COPIES = "damaged"
MOST_COPIES = 5
LEAST_ROOM_BYTES = 256 * 1024 * 1024  # on the disk: below it older copies go


class Repair(msgspec.Struct, frozen=True):
    """One repair. Times in UTC (RFC 3339); ``copy`` is a directory; ``line`` says it all to a person.

    ``lost_operations`` is what was lost at most, beside what isn't known (``unknown``: a whole file was missing).
    """

    at: str
    found: tuple[str, ...]
    lost_bytes: int
    lost_operations: int
    unknown: bool
    put_back: int
    since: str | None
    copy: str
    line: str


def describe(mended: Mended, copy: Path, at: float) -> Repair:
    """The record of what was done."""
    since = _utc(mended.since) if mended.since else None
    lost = f"at most {mended.loss.operations:,} accepted operations lost" if mended.loss.size else "nothing lost"
    lost = "what was in it is lost" if mended.unknown and not mended.loss.size else lost
    parts = [f"the store's files were damaged and have been repaired: {'; '.join(mended.found)}", lost]
    if since and (mended.loss.size or mended.unknown):
        parts[-1] += f", written after {since}"
    if mended.put_back:
        parts.append(f"{mended.put_back:,} accepted behind the damage are kept")
    if mended.loss.size or mended.unknown:
        parts.append("what was delivered, cancelled or cleared since may be sent again, under its key")
    line = "; ".join([*parts, f"a copy of the files is in {copy}"])
    return Repair(
        _utc(at), mended.found, mended.loss.size, mended.loss.operations, mended.unknown, mended.put_back, since,
        str(copy), line,
    )  # fmt: skip


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def note(data_dir: Path, repair: Repair) -> None:
    """Add it to the records, which stay until a person deletes them."""
    path = data_dir / REPAIRS_FILE
    write_private(path, read_private(path, "", errors="replace") + msgspec.json.encode(repair).decode() + "\n")


def repairs(data_dir: Path) -> list[Repair]:
    """Those that no person has acknowledged by deleting their file, the last one at the end."""
    found = []
    for line in read_private(data_dir / REPAIRS_FILE, "", errors="replace").splitlines():
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            found.append(msgspec.json.decode(line, type=Repair))
    return found


class Copies:
    """Copies of damaged files, a directory for each repair: hard links where the disk has them."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / COPIES
        self.folder = self._root / time.strftime("%Y-%m-%dT%H.%M.%SZ", time.gmtime())

    def keep(self, files: Sequence[Path]) -> None:
        """Keep these, and drop the oldest copies where there are many, or the disk gets full.

        Raises:
            OSError: there is no room; nothing was changed.
        """
        make_private_dir(self.folder)
        self._prune()
        for path in files:
            keep_copy(path, self.folder)
        sync_dir(self.folder)
        sync_dir(self._root)

    def _prune(self) -> None:
        older = [path for path in paths_in(self._root) if path != self.folder]
        while older and (len(older) >= MOST_COPIES or shutil.disk_usage(self._root).free < LEAST_ROOM_BYTES):
            remove_tree(older.pop(0))
