"""The clear part of a record: its format, id and times. What it says is sealed.

``format (1) | id length (1; 0: a UUID's 16 bytes) | id | flags (1) | accepted (6) | due (6)? | expires (6)?
| once (16)? | replays (2)? | check (2) | sealed``, times in milliseconds of journal time, big-endian. The scripts
write and check it (``lua/_prelude.lua``).
"""

import re

import msgspec

from fluxy_sync.errors import CorruptRecord
from fluxy_sync.vault import associated_data

FORMAT = 1
FLAG_DUE = 1
FLAG_EXPIRES = 2
FLAG_CANCELLED = 4
FLAG_HALT = 8
FLAG_ONCE = 16
FLAG_REPLAYED = 32
ONCE_BYTES = 16
UNSEALED, MISPLACED, INVALID = "unsealed", "misplaced", "invalid"
REFUSED = frozenset({UNSEALED, MISPLACED, INVALID})
"""Why a dead letter is one that was never accepted; ``lua/_lanes.lua`` has them, too."""
_TIME_BYTES = 6
_REPLAYS_BYTES = 2
_CHECK_BYTES = 2
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NewRecord(msgspec.Struct, frozen=True):
    """A sealed operation on its way into the journal. Times are seconds from now; 0 means none.

    ``halt``: its lane waits for a person if it becomes a dead letter. ``once``: the hash of its once key, or empty.
    """

    id: str
    lane: str
    sealed: bytes
    countdown_s: float = 0.0
    expires_s: float = 0.0
    halt: bool = False
    once: bytes = b""


class StoredRecord(msgspec.Struct, frozen=True):
    """A sealed operation as the journal holds it; times in milliseconds of journal time, 0 for none."""

    format: int
    id: str
    flags: int
    accepted_ms: int
    due_ms: int
    expires_ms: int
    once: bytes
    replays: int
    sealed: bytes

    @property
    def cancelled(self) -> bool:
        return bool(self.flags & FLAG_CANCELLED)

    @property
    def halts(self) -> bool:
        """Whether its lane waits for a person once it is dead."""
        return bool(self.flags & FLAG_HALT)


def pack_id(operation_id: str) -> bytes:
    """The id in its stored form: canonical UUIDs as 16 bytes, others as text.

    What no stored id can be, for its length or its characters, is packed as something that none is stored as.
    """
    if _UUID.fullmatch(operation_id):
        return b"\0" + bytes.fromhex(operation_id.replace("-", ""))
    text = operation_id.encode("utf-8", "surrogatepass")[:255]
    return bytes([len(text)]) + text


def unpack_id(packed: bytes) -> str:
    """Read what ``pack_id`` wrote.

    Raises:
        IndexError, ValueError: it isn't that.
    """
    if packed[0]:
        return packed[1 : 1 + packed[0]].decode()
    digits = packed[1:17].hex()
    if len(digits) < 32:
        raise ValueError("a UUID was cut off")
    # By hand, since each settlement reads one: uuid.UUID takes ten times as long.
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse(record: bytes) -> StoredRecord:
    """Read a stored record.

    Raises:
        CorruptRecord: its clear part can't be read.
    """
    try:
        at = 2 + (record[1] or 16)
        operation_id, flags = unpack_id(record[1:at]), record[at]
        fields, at = _fields(record, at + 1, flags)
        if len(record) < at + _CHECK_BYTES:
            raise ValueError("cut off")
    except (IndexError, ValueError) as error:
        raise CorruptRecord("the record's clear part is damaged") from error
    accepted, due, expires, once, replays = fields
    return StoredRecord(
        record[0], operation_id, flags, _number(accepted), _number(due), _number(expires), once, _number(replays),
        record[at + _CHECK_BYTES :],
    )  # fmt: skip


def _fields(record: bytes, at: int, flags: int) -> tuple[list[bytes], int]:
    """Accepted, due, expires, once and replays, empty where they aren't there; and where they end."""
    widths = (
        (0, _TIME_BYTES), (FLAG_DUE, _TIME_BYTES), (FLAG_EXPIRES, _TIME_BYTES), (FLAG_ONCE, ONCE_BYTES),
        (FLAG_REPLAYED, _REPLAYS_BYTES),
    )  # fmt: skip
    fields = []
    for flag, width in widths:
        width = width if flag & flags == flag else 0
        fields.append(record[at : at + width])
        at += width
    return fields, at


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def seal_context(namespace: str, lane: str, operation_id: str, *, refused: bool = False) -> bytes:
    """What is bound to a sealed operation, so that it opens nowhere else.

    Args:
        refused: it was never accepted, and is kept as a dead letter alone: moved to a lane it must not open.
    """
    context = associated_data(bytes([FORMAT]), namespace.encode(), lane.encode(), operation_id.encode())
    return context + b"refused" if refused else context
