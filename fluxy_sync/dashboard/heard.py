"""Task events as they may be: whoever can write to the broker can send any, and Flower trusts what it hears.

Known kinds, known fields, their types and bounds; anything else isn't an event.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from fluxy_sync.escaping import visible

MOST_BYTES = 512 * 1024
"""Of one message: Celery sends events in bunches."""
MOST_EVENT_BYTES = 16 * 1024
"""Of one event: Celery shortens arguments and results to 1 kB."""
MOST_TEXT, MOST_TRACEBACK = 256, 1_024
"""Characters that are kept: of arguments, results and errors; of a traceback."""
AHEAD_S = 300.0
"""How far a worker's clock may be ahead of ours: what says more is taken down to that."""
CUT = "..."

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Moment = Annotated[float, Meta(ge=0, le=2**33)]
Seconds = Annotated[float, Meta(ge=0, le=2**31)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Hours = Annotated[float, Meta(ge=-24, le=24)]
Loads = Annotated[list[Seconds], Meta(min_length=3, max_length=3)]
Event = dict[str, Any]

_Name = Name | UnsetType | None
_Word = Annotated[str, Meta(max_length=255)] | UnsetType | None
_Text = str | UnsetType | None
_Date = Name | Moment | UnsetType | None
_Count = Count | UnsetType | None
_Seconds = Seconds | UnsetType | None
_PRINT = ("hostname", "sw_ident", "sw_ver", "sw_sys", "uuid", "name", "root_id", "parent_id", "eta", "expires",
          "exchange", "routing_key", "queue")  # fmt: skip
_TEXTS = {"args": MOST_TEXT, "kwargs": MOST_TEXT, "result": MOST_TEXT, "exception": MOST_TEXT,
          "traceback": MOST_TRACEBACK}  # fmt: skip


class _Any(Struct, kw_only=True):
    hostname: Name
    timestamp: Moment
    utcoffset: Hours = 0
    pid: _Count = UNSET
    clock: Count | UnsetType = UNSET


class _OfWorker(_Any, kw_only=True):
    type: Literal["worker-online", "worker-heartbeat", "worker-offline"]
    freq: Annotated[float, Meta(ge=0, le=3600)] | UnsetType = UNSET
    sw_ident: _Name = UNSET
    sw_ver: _Name = UNSET
    sw_sys: _Name = UNSET
    active: _Count = UNSET
    processed: _Count = UNSET
    loadavg: Loads | UnsetType | None = UNSET


class _OfTask(_Any, kw_only=True):
    type: Literal[
        "task-sent", "task-received", "task-started", "task-succeeded", "task-failed", "task-retried", "task-revoked",
        "task-rejected", "task-cancelled",
    ]  # fmt: skip
    uuid: Name
    name: _Name = UNSET
    args: _Text = UNSET
    kwargs: _Text = UNSET
    root_id: _Name = UNSET
    parent_id: _Name = UNSET
    retries: _Count = UNSET
    eta: _Date = UNSET
    expires: _Date = UNSET
    exchange: _Word = UNSET
    routing_key: _Word = UNSET
    queue: _Word = UNSET
    result: _Text = UNSET
    runtime: _Seconds = UNSET
    exception: _Text = UNSET
    traceback: _Text = UNSET


class _Kind(Struct):
    type: str


class _Delivery(Struct):
    exchange: str
    routing_key: str


class _Properties(Struct):
    delivery_info: _Delivery
    delivery_tag: str
    body_encoding: Literal["base64"] | None = None


class _Headers(Struct):
    compression: Any = None


class _Message(Struct, rename="kebab"):
    """An event as kombu stores it: JSON, not compressed."""

    body: str
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]
    properties: _Properties
    headers: _Headers | None = None


_kinds = msgspec.json.Decoder(_Kind)
_bunches = msgspec.json.Decoder(list[msgspec.Raw])
_messages = msgspec.json.Decoder(_Message)
_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    "worker": msgspec.json.Decoder(_OfWorker),
    "task": msgspec.json.Decoder(_OfTask),
}


def plain_message(data: bytes) -> bytes:
    """A raw message of Redis, with nothing in it but what an event has.

    Raises:
        ValueError, RecursionError: it is no such message, too large, or compressed.
    """
    if len(data) > MOST_BYTES:
        raise ValueError("it is too large")
    message = _messages.decode(data)
    if message.headers is not None and message.headers.compression is not None:
        raise ValueError("it is compressed")  # Celery compresses none
    message.headers = None
    return msgspec.json.encode(message)


def raw_events(body: bytes | str) -> list[bytes]:
    """The events in a message's body, each as it came.

    Raises:
        ValueError, RecursionError: it can't be read, or is too large.
    """
    data = body.encode() if isinstance(body, str) else body
    if len(data) > MOST_BYTES:
        raise ValueError("it is too large")
    return [bytes(one) for one in _bunches.decode(data)] if data.lstrip()[:1] == b"[" else [data]


def read_event(raw: bytes) -> Event:
    """An event, with the fields that were given and that are known; long texts are cut.

    Raises:
        ValueError, RecursionError: it isn't as it should be.
    """
    if len(raw) > MOST_EVENT_BYTES:
        raise ValueError("it is too large")
    decoder = _decoders.get(_kinds.decode(raw).type.partition("-")[0])
    if decoder is None:
        raise ValueError("its kind isn't known")
    event: Event = msgspec.to_builtins(decoder.decode(raw))
    for name in _PRINT:
        if isinstance(text := event.get(name), str) and not text.isprintable():
            raise ValueError(f"its {name} doesn't print")
    for name, most in _TEXTS.items():
        if (text := event.get(name)) is not None:
            event[name] = visible(text if len(text) <= most else text[:most] + CUT, keep="\n\t")
    return event


def not_ahead(event: Event, now: float) -> Event:
    """The event with a time that can be: one from the future would keep a worker alive until then."""
    return {**event, "timestamp": min(max(0.0, event["timestamp"]), now + AHEAD_S)}
