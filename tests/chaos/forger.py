"""Somebody who can write to the store, and has no key: what he can read, copy, change and invent."""

import base64
import json
import random
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import redis

from fluxy_sync.journal.keys import Keys
from fluxy_sync.journal.record import pack_id, parse
from fluxy_sync.sealing import CONTENT_TYPE
from tests.journal_state import Entry, check_of


class Forger:
    """Writes into one namespace of a store whatever he likes; all his choices come from ``chance``."""

    def __init__(self, client: "redis.Redis", namespace: str, chance: random.Random) -> None:
        self.client, self.namespace, self.chance = client, namespace, chance
        self.keys = Keys(namespace)
        self.queue = f"{namespace}.sync"

    # --- records

    def head(self, lane: str) -> bytes:
        """What waits first there, as it is stored."""
        record: bytes = self.client.lindex(self.keys.lane(lane), 0)
        return record

    def take(self, lane: str) -> bytes:
        """Take the head away, as if it had never been there."""
        record: bytes = self.client.lpop(self.keys.lane(lane))
        self._count(-1, -len(record))
        return record

    def put(self, lane: str, record: bytes) -> None:
        """Put a record at the end of a lane, so that the journal counts it and finds it due."""
        self.client.rpush(self.keys.lane(lane), record)
        self._count(1, len(record))
        self.client.zadd(f"{self.keys.prefix}ready", {lane: 1})
        self.client.zadd(self.keys.oldest, {lane: 1})

    def _count(self, pending: int, size: int) -> None:
        counts = f"{self.keys.prefix}counts"
        self.client.hincrby(counts, "pending", pending)
        self.client.hincrby(counts, "bytes", size)

    def letter(self, wanted: str) -> tuple[str, bytes, bytes]:
        """Lane, sealed detail and record of a dead letter with that reason."""
        return next((lane, detail, record) for lane, why, detail, record in self.letters() if why == wanted)

    def letters(self) -> Iterator[tuple[str, str, bytes, bytes]]:
        """Lane, reason, sealed detail and record of each dead letter."""
        for value in self.client.hvals(self.keys.dead):
            lane, rest = value[1 : 1 + value[0]], value[1 + value[0] :]
            reason, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] + 10 :]
            (length,) = struct.unpack(">I", rest[:4])
            yield lane.decode(), reason.decode(), rest[4 : 4 + length], rest[4 + length :]

    def noise(self, most: int = 120) -> bytes:
        """Bytes of no meaning."""
        return self.chance.randbytes(self.chance.randint(0, most))

    def id(self) -> str:
        """An id that nobody has."""
        return str(uuid.UUID(int=self.chance.getrandbits(128)))

    def flip(self, data: bytes, first: int = 0) -> bytes:
        """One bit of it changed, from the byte ``first`` on."""
        at = self.chance.randrange(first, len(data))
        return data[:at] + bytes([data[at] ^ 1 << self.chance.randrange(8)]) + data[at + 1 :]

    # --- messages

    def message(self, body: bytes, headers: Any, content_type: str = "application/json", **properties: Any) -> bytes:
        """A Celery message, as kombu stores one."""
        given = {
            "correlation_id": "forged", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": self.queue}, "delivery_tag": self.id(),
        }  # fmt: skip
        parts = {
            "body": base64.b64encode(body).decode(), "content-type": content_type, "headers": headers,
            "content-encoding": "binary" if content_type == CONTENT_TYPE else "utf-8", "properties": given | properties,
        }  # fmt: skip
        return json.dumps(parts).encode()


def sealed_body(message: bytes) -> bytes:
    """The body of a message that somebody else sent."""
    return base64.b64decode(json.loads(message)["body"])


def rebuilt(record: bytes, **changes: Any) -> bytes:
    """A record with other fields, and a check that fits them; only what its seal covers can't be made anew."""
    old = parse(record)
    fields: dict[str, Any] = {
        "id": old.id, "accepted": old.accepted_ms, "due": old.due_ms, "expires": old.expires_ms, "sealed": old.sealed,
        "halt": old.halts, "once": old.once, "replays": old.replays,
    }  # fmt: skip
    return Entry(**fields | changes).stored


def with_flags(record: bytes, flags: int) -> bytes:
    """A record whose flags say something else than it holds, and a check that fits."""
    old = parse(record)
    clear = bytearray(record[: len(record) - len(old.sealed) - 2])
    clear[1 + len(pack_id(old.id))] ^= flags
    return bytes(clear) + check_of(clear) + old.sealed
