"""Operation and Outcome: the frozen records that travel through the engine, and the checks at its door."""

import enum
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import msgspec
import uuid_utils

from fluxy_sync.errors import CorruptRecord, InvalidOperation, OperationTooLarge
from fluxy_sync.retry import RetryPolicy

SYNC_OP = "fluxy_sync.sync_op"
FLUSH = "fluxy_sync.flush"
CHECK_CONNECTIVITY = "fluxy_sync.check_connectivity"
OWN_MESSAGES = (FLUSH, CHECK_CONNECTIVITY)  # of which each is worth nothing: another one comes
DEFAULT_LANE = "default"
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS")
MAX_LANE_BYTES = 200
MAX_ONCE_CHARACTERS = 500
MAX_PATH_BYTES = 8192
MAX_HEADERS_BYTES = 16 * 1024
OWN_LANE_MARK = "~"  # starts the names of lanes that the engine makes for `lane=None`
UNACCEPTED_MARK = "unaccepted-"  # starts the ids of messages that are kept, but were never accepted
ENGINE_HEADERS = frozenset(
    {"idempotency-key", "fluxy-attempt", "fluxy-fence", "host", "content-length", "transfer-encoding", "connection"}
)
_JSON_EXT = 1
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_PATH_SAFE = "!$&'()*+,/:;=?@[]~%"  # RFC 3986, section 2, and what is percent-encoded already
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ID = re.compile(r"[!#-\[\]-~]{1,200}")  # printable ASCII that a structured string needn't escape
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2: token
_HEADER_VALUE = re.compile(r"[!-~\x80-\xff]?|[!-~\x80-\xff][\t !-~\x80-\xff]*[!-~\x80-\xff]")  # section 5.5


class UnreadableRecord(CorruptRecord):
    """The record was opened, so nobody changed it, but it isn't in a form that this version reads."""


class JsonBody(bytes):
    """A body that is JSON text already (RFC 8259): sent byte for byte, as application/json."""


class Deadline(msgspec.Struct, frozen=True, array_like=True):
    """A date after which an operation isn't sent any more.

    ``at`` is in seconds since 1970; ``given_at`` is what the wall clock said when the operation was taken in, ``up_s``
    seconds after the boot of a machine that ``machine`` names.
    """

    at: float
    machine: str
    given_at: float
    up_s: float


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is sealed: a task and its arguments. For ``sync_op``: method, path, headers and body of one request.

    ``options`` holds Celery's own message options (links, chain, group ...) as JSON text; ``generation`` counts the
    times the body was changed after it was accepted; ``outcomes`` overrides rows of the outcome table; ``deadline`` is
    an expiry that was given as a date.
    """

    args: tuple[Any, ...] = msgspec.field(default=(), name="a")
    kwargs: dict[str, Any] = msgspec.field(default_factory=dict, name="k")
    task: str = msgspec.field(default=SYNC_OP, name="t")
    policy: RetryPolicy | None = msgspec.field(default=None, name="p")
    options: str = msgspec.field(default="", name="o")
    generation: int = msgspec.field(default=0, name="g")
    outcomes: dict[str, str] = msgspec.field(default_factory=dict, name="u")
    deadline: Deadline | None = msgspec.field(default=None, name="x")

    def __repr__(self) -> str:
        return f"Operation({self.task})"  # what it says belongs into no log

    def encode(self) -> bytes:
        """Serialise to MessagePack.

        Raises:
            InvalidOperation: an argument isn't a plain value.
        """
        wire = {k: msgspec.msgpack.Ext(_JSON_EXT, v) if isinstance(v, JsonBody) else v for k, v in self.kwargs.items()}
        try:
            return msgspec.msgpack.encode(msgspec.structs.replace(self, kwargs=wire))
        except (TypeError, OverflowError, RecursionError, UnicodeEncodeError) as error:
            raise InvalidOperation(
                f"an argument of {self.task} can't be stored ({error}); pass plain values: "
                "text, numbers, bytes, lists and dictionaries with text keys; nothing was accepted"
            ) from error

    @classmethod
    def decode(cls, data: bytes) -> "Operation":
        """Read what ``encode`` wrote.

        Raises:
            UnreadableRecord: it isn't one.
        """
        try:
            return msgspec.msgpack.decode(data, type=cls, ext_hook=_open_extension)
        except (msgspec.MsgspecError, ValueError) as error:
            raise UnreadableRecord("the record was opened but isn't an operation of this version") from error


def _open_extension(code: int, data: memoryview) -> JsonBody:
    if code != _JSON_EXT:
        raise ValueError("unknown extension")
    return JsonBody(data)


class Verdict(enum.StrEnum):
    """What becomes of an operation after a try."""

    DELIVERED = "delivered"
    RETRY = "retry"  # counted; waits for its policy's pause
    UNREACHABLE = "unreachable"  # the link; counted only if a probe succeeds afterwards
    UNAUTHORIZED = "unauthorized"  # the gateway's credentials; not counted, the gate closes
    WAIT = "wait"  # not counted
    HOLD = "hold"  # until somebody acts, or it is offered again
    DEAD = "dead"


class Outcome(msgspec.Struct, frozen=True):
    """The result of one try. ``reason`` is a status or a fixed code without spaces, never a payload.

    ``retry_after_s`` is the upstream's floor under the next pause, of the whole upstream with ``whole_upstream``;
    ``detail`` the first bytes of a refusing answer, to be sealed before it is stored.
    """

    verdict: Verdict
    reason: str
    status: int | None = None
    retry_after_s: float | None = None
    whole_upstream: bool = False
    detail: bytes = b""


def origin_of(url: str | SplitResult) -> str:
    """``scheme://host:port`` in lower case with the port always given (RFC 6454, section 4).

    Raises:
        ValueError: the URL isn't an absolute http or https one.
    """
    parts = urlsplit(url) if isinstance(url, str) else url
    port = parts.port  # raises ValueError where it is out of range
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an absolute http:// or https:// URL is needed")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}"


def new_operation_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and sorted by the time it was made."""
    return str(uuid_utils.uuid7())


def check_operation_id(operation_id: str) -> str:
    """Return the id if it can stand in an Idempotency-Key header."""
    if not isinstance(operation_id, str) or not _ID.fullmatch(operation_id):
        raise InvalidOperation(
            "an operation's id is 1 to 200 printable ASCII characters without quote, backslash and space; "
            "leave it out to get a UUID; nothing was accepted"
        )
    return operation_id


def check_new_id(operation_id: str) -> str:
    """Return the id if a new operation may have it."""
    if check_operation_id(operation_id).startswith(UNACCEPTED_MARK):
        raise InvalidOperation(
            f"an operation's id can't begin with '{UNACCEPTED_MARK}': that is how messages are named that were never "
            "accepted; nothing was accepted"
        )
    return operation_id


def check_once(once: object) -> str:
    """Return a once key: text of 1 to 500 characters."""
    if not isinstance(once, str) or not 1 <= len(once) <= MAX_ONCE_CHARACTERS:
        raise InvalidOperation(
            f"once= takes a text of 1 to {MAX_ONCE_CHARACTERS} characters, e.g. 'invoice:42'; nothing was accepted"
        )
    return once


def check_lane(lane: str | None, operation_id: str) -> str:
    """Return the lane's name; None gives the operation a lane of its own."""
    if lane is None:
        return f"{OWN_LANE_MARK}{operation_id}"[:MAX_LANE_BYTES]
    if not isinstance(lane, str) or not lane or _CONTROL.search(lane) or lane.startswith(OWN_LANE_MARK):
        raise InvalidOperation(
            "a lane's name is text without control characters that doesn't start with '~', e.g. 'user:42'; "
            "nothing was accepted"
        )
    try:
        size = len(lane.encode())
    except UnicodeEncodeError:
        raise InvalidOperation("a lane's name must be valid Unicode text; nothing was accepted") from None
    if size > MAX_LANE_BYTES:
        raise InvalidOperation(f"the lane's name has {size} bytes; use at most {MAX_LANE_BYTES}; nothing was accepted")
    return lane


def check_method(method: object) -> str:
    """Return the method in upper case."""
    if not isinstance(method, str) or method.upper() not in METHODS:
        shown = method if isinstance(method, str) and re.fullmatch(r"[A-Za-z]{1,20}", method) else "that"
        raise InvalidOperation(
            f"{shown} isn't an HTTP method that can be queued; use one of {', '.join(METHODS)}. In a chain, write "
            "sync_op.si(...) instead of .s(...), which puts the previous result first; nothing was accepted"
        )
    return method.upper()


def check_path(path: object, origins: tuple[str, ...]) -> str:
    """Return the path, percent-encoded; an absolute URL must lead to one of ``origins``."""
    if not isinstance(path, str) or not path:
        raise InvalidOperation("give a path such as '/api/posts'; nothing was accepted")
    if _CONTROL.search(path) or " " in path or "\\" in path or "#" in path:
        raise InvalidOperation(
            "the path has a space, backslash, '#' or control character; percent-encode it; nothing was accepted"
        )
    try:
        encoded = quote(path, safe=_PATH_SAFE)
    except UnicodeEncodeError:
        raise InvalidOperation("the path must be valid Unicode text; nothing was accepted") from None
    if len(encoded) > MAX_PATH_BYTES:
        raise OperationTooLarge(
            f"the path has more than {MAX_PATH_BYTES} bytes; move data into the body; nothing was accepted"
        )
    if encoded.startswith("/"):
        return encoded
    _check_origin(encoded, origins)
    return encoded


def _check_origin(url: str, origins: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        origin = origin_of(parts)
    except ValueError:
        raise InvalidOperation("a path starts with '/', e.g. '/api/posts'; nothing was accepted") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidOperation("a URL must not carry credentials; set FLUXY_SYNC_AUTH_*; nothing was accepted")
    if origin not in origins:
        raise InvalidOperation(
            "the URL leads to another origin than the upstream's; use a path, or add the origin to "
            "FLUXY_SYNC_ALLOWED_ORIGINS; nothing was accepted"
        )


def check_headers(headers: object) -> dict[str, str]:
    """Return the headers as text; refuses what would end a line, or what the engine sets itself."""
    if not isinstance(headers, Mapping):
        raise InvalidOperation("headers are a dictionary of text; nothing was accepted")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidOperation("a header's name has characters that HTTP doesn't allow; nothing was accepted")
        if name.lower() in ENGINE_HEADERS:
            raise InvalidOperation(f"the header {name} is set by the engine; leave it out; nothing was accepted")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidOperation(
                f"the value of header {name} must be one line of Latin-1 text without line breaks or spaces at its "
                "ends; nothing was accepted"
            )
        checked[name] = value
    if sum(len(name) + len(value) for name, value in checked.items()) > MAX_HEADERS_BYTES:
        raise OperationTooLarge(f"the headers have more than {MAX_HEADERS_BYTES} bytes; nothing was accepted")
    return checked


def encode_body(body: object) -> bytes | None:
    """Bytes stay as they are; anything else becomes JSON text, once, so that each try sends the same bytes."""
    if body is None or isinstance(body, bytes):
        return body
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)
    try:
        return JsonBody(_JSON.encode(body).encode())
    except (TypeError, ValueError, RecursionError):
        raise InvalidOperation(
            "the body can't be written as JSON: it may hold NaN, an infinite number, a date or an object of your own; "
            "convert it, or pass bytes; nothing was accepted"
        ) from None


def check_size(size: int, limit: int) -> None:
    """Refuse what is larger than MAX_BODY_BYTES."""
    if size > limit:
        raise OperationTooLarge(
            f"the body has {size} bytes, more than FLUXY_SYNC_MAX_BODY_BYTES={limit}; raise that or split the "
            "operation; nothing was accepted"
        )
