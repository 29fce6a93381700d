"""What producers noted outside the store, and the judgement: was all that was accepted delivered, in order, unread?"""

import json
import mmap
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.referee import Verdict, judge

MARKER = "xyzzy-plaintext-marker"  # in each body: no file but the harness's own may hold it


class Ledger:
    """What producers noted, of all records together."""

    def __init__(self, records: Iterable[Path]) -> None:
        self.accepted: list[tuple[str, str, int]] = []  # id, lane, number; numbers rise in a lane of one producer
        self.accepted_at: dict[str, float] = {}
        asked: set[str] = set()
        for line in _lines(records):
            asked.add(line["id"])
            if line["is"] == "accepted":
                self.accepted.append((line["id"], line["lane"], line["n"]))
                self.accepted_at[line["id"]] = line["t"]
        self.unsure = asked - {one for one, _, _ in self.accepted}  # whoever asked died before he knew

    def judge(self, requests: Iterable[dict[str, Any]], undecided: Collection[str] = ()) -> Verdict:
        """Judge what an upstream received. ``undecided``: ids of dead letters, of what was cancelled ..."""
        return judge(self.accepted, requests, self.unsure | set(undecided))


def _lines(records: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in records:
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            if line.endswith("}"):  # else its writer was killed in the middle of it
                yield json.loads(line)


def counts_by_hand(client: "redis.Redis", namespace: str) -> dict[str, int]:
    """Pending, dead and bytes, counted from the records themselves."""
    prefix = f"{{{namespace}}}:"
    cancelled = sum(int(n) for n in client.hvals(f"{prefix}cancelled"))
    records = [r for key in client.scan_iter(f"{prefix}lane:*") for r in client.lrange(key, 0, -1)]
    dead = client.hvals(f"{prefix}dead")
    size = sum(map(len, records)) + sum(map(len, dead))
    return {"pending": len(records) - cancelled, "dead": len(dead), "bytes": size}


def files_with(marker: str, folder: Path, but: Collection[Path] = ()) -> list[Path]:
    """The files below a folder that hold a text."""
    return [path for path in folder.rglob("*") if path.is_file() and path not in but and _holds(path, marker.encode())]


def _holds(path: Path, marker: bytes) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(marker) >= 0
    except (ValueError, OSError):  # empty, or gone meanwhile
        return False
