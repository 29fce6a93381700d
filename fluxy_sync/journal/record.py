"""The clear part of a record: its format, id and times. What it says is sealed.

``format (1) | id length (1; 0: a UUID's 16 bytes) | id | flags (1) | accepted (6) | due (6)? | expires (6)? | sealed``,
times in milliseconds of journal time, big-endian. The scripts write the times (``lua/_prelude.lua``).
"""

import re
import uuid

import msgspec

from fluxy_sync.errors import CorruptRecord
from fluxy_sync.vault import associated_data

FORMAT = 1
FLAG_DUE = 1
FLAG_EXPIRES = 2
FLAG_CANCELLED = 4
_TIME_BYTES = 6
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NewRecord(msgspec.Struct, frozen=True):
    """A sealed operation on its way into the journal. Times are seconds from now; 0 means none."""

    id: str
    lane: str
    sealed: bytes
    countdown_s: float = 0.0
    expires_s: float = 0.0


class StoredRecord(msgspec.Struct, frozen=True):
    """A sealed operation as the journal holds it; times in milliseconds of journal time, 0 for none."""

    format: int
    id: str
    flags: int
    accepted_ms: int
    due_ms: int
    expires_ms: int
    sealed: bytes


def pack_id(operation_id: str) -> bytes:
    """The id in its stored form: canonical UUIDs as 16 bytes, others as text."""
    if _UUID.fullmatch(operation_id):
        return b"\0" + bytes.fromhex(operation_id.replace("-", ""))
    text = operation_id.encode()
    return bytes([len(text)]) + text


def unpack_id(packed: bytes) -> str:
    """Read what ``pack_id`` wrote."""
    return str(uuid.UUID(bytes=packed[1:17])) if packed[0] == 0 else packed[1 : 1 + packed[0]].decode()


def parse(record: bytes) -> StoredRecord:
    """Read a stored record.

    Raises:
        CorruptRecord: its clear part can't be read.
    """
    try:
        at = 2 + (record[1] or 16)
        operation_id, flags = unpack_id(record[1:at]), record[at]
        times = [int.from_bytes(record[at + 1 : at + 7], "big"), 0, 0]
        at += 1 + _TIME_BYTES
        for index, flag in ((1, FLAG_DUE), (2, FLAG_EXPIRES)):
            if flags & flag:
                times[index] = int.from_bytes(record[at : at + _TIME_BYTES], "big")
                at += _TIME_BYTES
        if len(record) < at:
            raise ValueError("cut off")
    except (IndexError, ValueError) as error:
        raise CorruptRecord("the record's clear part is damaged") from error
    return StoredRecord(record[0], operation_id, flags, times[0], times[1], times[2], record[at:])


def seal_context(namespace: str, lane: str, operation_id: str) -> bytes:
    """What is bound to a sealed operation, so that it opens nowhere else."""
    return associated_data(bytes([FORMAT]), namespace.encode(), lane.encode(), operation_id.encode())
