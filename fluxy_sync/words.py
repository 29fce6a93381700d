"""What people read: codes, times, sizes and addresses in words."""

import re
from itertools import pairwise
from urllib.parse import urlsplit

from fluxy_sync.escaping import visible as visible

REASONS = {
    # the link
    "refused": "connection refused",
    "dns": "the upstream's name can't be resolved",
    "no-route": "no route to the upstream",
    "connect-timeout": "no answer to the connection",
    "read-timeout": "no answer to the request",
    "total-timeout": "the exchange took too long",
    "connection-lost": "the connection was lost",
    "tls": "the TLS handshake failed",
    "captive-portal": "a captive portal answers in the upstream's place",
    "unreachable": "its task can't reach what it speaks to",
    # the gateway's credentials
    "token-unreachable": "the token endpoint can't be reached",
    "token-refused": "the token endpoint gives no token",
    "credentials-failed": "the code of FLUXY_SYNC_AUTH_REQUESTS failed",
    # what became a dead letter unsent
    "expired": "its time was over before it was sent",
    "corrupt": "it was damaged in the store",
    "killed-its-worker": "its worker died with it, again and again",
    "dropped": "the queue was full: it made room for newer ones",
    "unsealed": "it came unsealed, from somebody without a key",
    "misplaced": "it came sealed, but for another place",
    "invalid": "its arguments don't fit its task",
    "invalid-url": "its URL can't be read",
    "too-many-redirects": "the upstream redirects without end",
    # its task
    "retry": "its task asked for another try",
    "unsettled": "its task ended without an outcome",
    # why lanes are held
    "paused": "someone paused it",
    "halted": "halted by a dead letter",
    "credentials": "the answer to the operation's own credentials is 401",
    "replaying": "a replay is under way",
    "damaged": "why can't be read any more: the next tick lets it go",
}
PHRASES = {  # of RFC 9110, and of the others that IANA's registry names
    100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
    200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
    205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
    300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
    409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
    414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
    421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked", 424: "Failed Dependency",
    425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
    507: "Insufficient Storage", 508: "Loop Detected", 511: "Network Authentication Required",
}  # fmt: skip
WRONG_ANSWER = "wrong-answer-"
TLS = "tls:"
SPENT = "retries-spent:"
KEY, TASK, HALTED, WORKER_ERROR = "key:", "task:", "halted:", "worker-error:"
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
SIZES = ("B", "kB", "MB", "GB", "TB")
_HOSTS = re.compile(r"[\w.-]+(:\d+)?(,[\w.-]+(:\d+)?)*|\[[0-9a-fA-F:.]+\](:\d+)?", re.ASCII)


def reason_text(reason: str) -> str:
    """A reason code in words; one that has none stays as it is."""
    if reason.startswith(WRONG_ANSWER):
        return f"the upstream answers {reason.removeprefix(WRONG_ANSWER)}"
    if reason.startswith(TLS):
        return f"{REASONS['tls']}: {reason.removeprefix(TLS).replace('-', ' ')}"
    if reason.startswith(SPENT):
        return f"its retries are spent; the last: {reason_text(reason.removeprefix(SPENT))}"
    if reason.isdecimal():
        return f"the upstream answered {status_text(int(reason))}"
    return REASONS.get(reason) or _held_text(reason)


def gate_text(gate: str, reason: str) -> str:
    """A closed gate, and why: ``paused (by ann (uid 1000)@gateway (cli))``; nothing for an open one."""
    if gate == "open":
        return ""
    return f"{gate} ({reason_text(reason)})" if reason else gate


def status_text(status: int) -> str:
    """A status with its name: ``503 Service Unavailable``."""
    return f"{status} {PHRASES[status]}" if status in PHRASES else str(status)


def _held_text(why: str) -> str:
    if why.startswith(KEY):
        return f"key {why.removeprefix(KEY)} is missing"
    if why.startswith(TASK):
        return f"no worker has the task {why.removeprefix(TASK)}"
    if why.startswith(WORKER_ERROR):
        return f"the worker failed with {why.removeprefix(WORKER_ERROR)}: its log tells where"
    if why.startswith(HALTED):
        return f"halted by the dead letter {_halting_id(why.removeprefix(HALTED))}"
    # The codes have no capitals: this is the class of what a user's task raised.
    return f"its task raised {why}" if why.isidentifier() and why[0].isupper() else why


def _halting_id(packed: str) -> str:
    from fluxy_sync.journal.record import unpack_id

    try:
        return unpack_id(bytes.fromhex(packed))
    except (ValueError, IndexError):
        return "?"


def duration(seconds: float) -> str:
    """A length of time in two neighbouring units: ``3 d 4 h``, ``12 s``."""
    left = max(0, round(seconds))
    for (unit, length), (next_unit, next_length) in pairwise(UNITS):
        if left >= length:
            rest = left % length // next_length
            return f"{left // length} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{left} s"


def millis(seconds: float) -> str:
    """A short time: ``0.04 ms``, ``0.4 ms``, ``250 ms``."""
    ms = seconds * 1000
    return f"{ms:.{2 if ms < 0.1 else 1 if ms < 10 else 0}f} ms"


def size_text(count: float) -> str:
    """Bytes in the unit that keeps them short: ``980 B``, ``1.2 kB``."""
    for unit in SIZES[:-1]:
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {SIZES[-1]}"


def many(count: int, one: str, more: str = "") -> str:
    """A number with its word: ``1 lane``, ``2,000 lanes``."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def address_of(url: str) -> str:
    """Where a URL leads, without whatever in it may be a password."""
    scheme = url.partition("://")[0]
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{scheme}://..."
    hosts = parts.netloc.rpartition("@")[2]
    # An unquoted / ? # in a password moves the rest of it to where it isn't looked for.
    is_split = "@" in parts.path + parts.query + parts.fragment
    if is_split or not (_HOSTS.fullmatch(hosts) or (scheme == "unix" and not hosts)):
        return f"{scheme}://..."
    return f"{scheme}://{hosts}{parts.path}"
