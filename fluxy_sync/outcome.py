"""The outcome table (DESIGN, section 5): from what happened to what becomes of the operation. Pure."""

import re
from collections.abc import Mapping

import msgspec

from fluxy_sync.errors import InvalidOperation
from fluxy_sync.operation import METHODS, Outcome, Verdict

EXPIRED = "expired"
RETRYABLE = frozenset({408, 425, 429})
OVERRIDES = (Verdict.DELIVERED, Verdict.RETRY, Verdict.DEAD)
_RULE = re.compile(r"(?:([A-Z]+) )?([1-5](?:xx|[0-9]{2}))")

Rules = Mapping[str, str]
"""Overrides of the table as they are stored: ``{"DELETE 404": "delivered", "5xx": "dead"}``."""


class Answer(msgspec.Struct, frozen=True):
    """The upstream answered. ``detail`` is the first bytes of its answer.

    Attributes:
        retry_after_s: the answer's Retry-After, in seconds, capped.
        foreign_redirect: it redirects to an origin that isn't allowed, as a captive portal does.
        ours: the request carried the gateway's credentials; false for an allowed foreign origin, and for an operation
            with an Authorization header of its own.
    """

    status: int
    retry_after_s: float | None = None
    foreign_redirect: bool = False
    ours: bool = True
    detail: bytes = b""


class NoConnection(msgspec.Struct, frozen=True):
    """Nothing reached the upstream: DNS, refused, no route, connect timeout, TLS failure."""

    reason: str


class Lost(msgspec.Struct, frozen=True):
    """It may have reached the upstream, but no answer came: a read timeout, or a lost connection."""

    reason: str


class NoCredentials(msgspec.Struct, frozen=True):
    """The credentials could not be got, so nothing was sent."""

    reason: str


class Expired(msgspec.Struct, frozen=True):
    """Its time to live was over before it was sent."""


class Unsealable(msgspec.Struct, frozen=True):
    """It can't be opened. ``key_id`` names a key that is missing; without one the record was changed."""

    key_id: str = ""


class UnknownTask(msgspec.Struct, frozen=True):
    """This worker doesn't have the operation's task."""

    task: str


class WorkerError(msgspec.Struct, frozen=True):
    """The worker failed, by an exception that no other row names: a bug, an upgrade, no memory, a time limit.

    ``kind`` is the exception's type.
    """

    kind: str


class Unsendable(msgspec.Struct, frozen=True):
    """No try can ever succeed: the URL can't be read, or it redirects without end."""

    reason: str


Happened = Answer | NoConnection | Lost | NoCredentials | Expired | Unsealable | UnknownTask | WorkerError | Unsendable


def outcome_of(happened: Happened, method: str = "", *rules: Rules) -> Outcome:
    """The whole table, as one function.

    Args:
        happened: what a try met.
        method: the operation's method, for rules that name one.
        rules: overrides of the rows for answers; the first that fits counts: the operation's own, then its task's.
    """
    match happened:
        case Answer():
            return _of_answer(happened, method, rules)
        case NoConnection(reason):
            return Outcome(Verdict.UNREACHABLE, reason)
        case Lost(reason):
            return Outcome(Verdict.RETRY, reason)
        case NoCredentials(reason):
            return Outcome(Verdict.UNAUTHORIZED, reason)
        case Expired():
            return Outcome(Verdict.DEAD, EXPIRED)
        case Unsealable(""):
            return Outcome(Verdict.DEAD, "corrupt")
        case Unsealable(key_id):
            return Outcome(Verdict.HOLD, f"key:{key_id}")
        case UnknownTask(task):
            return Outcome(Verdict.HOLD, f"task:{task}")
        case WorkerError(kind):
            return Outcome(Verdict.HOLD, f"worker-error:{kind}")
        case Unsendable(reason):
            return Outcome(Verdict.DEAD, reason)


def _of_answer(answer: Answer, method: str, rules: tuple[Rules, ...]) -> Outcome:
    status, reason = answer.status, str(answer.status)
    if answer.foreign_redirect:
        # Before the rules: what a captive portal says is not the upstream's answer.
        return Outcome(Verdict.UNREACHABLE, "captive-portal", status)
    ruled = next((found for found in (_rule_for(r, method, status) for r in rules) if found), None)
    verdict = Verdict(ruled) if ruled else _default_verdict(answer)
    if verdict is Verdict.RETRY:
        return Outcome(verdict, reason, status, retry_after_s=answer.retry_after_s, whole_upstream=status == 429)
    if verdict is Verdict.HOLD:
        return Outcome(verdict, "credentials", status)
    return Outcome(verdict, reason, status, detail=answer.detail if verdict is Verdict.DEAD else b"")


def _default_verdict(answer: Answer) -> Verdict:
    status = answer.status
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status == 401:
        return Verdict.UNAUTHORIZED if answer.ours else Verdict.HOLD
    if status in RETRYABLE or status >= 500 or (status == 409 and answer.retry_after_s is not None):
        return Verdict.RETRY
    return Verdict.DEAD


def _rule_for(rules: Rules, method: str, status: int) -> str | None:
    """The most specific rule: with the method before without, the status before its class."""
    names = (f"{method} {status}", f"{method} {status // 100}xx", str(status), f"{status // 100}xx")
    return next((rules[name] for name in names if name in rules), None)


def check_rules(given: object) -> dict[str, str]:
    """Bring overrides into the form that is stored: ``{404: "delivered"}`` becomes ``{"404": "delivered"}``.

    Raises:
        InvalidOperation: a key isn't a status, a class such as '5xx', or one of these after a method; or a value isn't
            'delivered', 'retry' or 'dead'.
    """
    if not isinstance(given, Mapping):
        raise InvalidOperation('outcomes= is a dictionary such as {"DELETE 404": "delivered"}; nothing was accepted')
    checked: dict[str, str] = {}
    for key, value in given.items():
        found = _RULE.fullmatch(str(key))
        if found is None or found[1] not in (None, *METHODS):
            raise InvalidOperation(
                "outcomes= takes a status (404), a class ('4xx'), or one after a method ('DELETE 404'); "
                "nothing was accepted"
            )
        if value not in OVERRIDES:
            raise InvalidOperation("outcomes= gives 'delivered', 'retry' or 'dead'; nothing was accepted")
        checked[str(key)] = str(value)
    return checked
