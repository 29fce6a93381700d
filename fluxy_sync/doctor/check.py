"""What a check says: its state, what was found, and what to do about it."""

import socket
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import redis

from fluxy_sync.errors import FluxySyncError, StorageUnavailable

State = Literal["ok", "warning", "failed", "skipped"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: in one line what was found, and what to do about it (empty where nothing is)."""

    name: str
    state: State
    found: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True):
    """All that was looked at."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; there may be warnings."""
        return all(check.state != "failed" for check in self.checks)

    @property
    def store_answers(self) -> bool:
        """Whether the store could be used at all."""
        return all(check.state != "failed" for check in self.checks if check.name == "store")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"ok": self.ok, "checks": [msgspec.structs.asdict(check) for check in self.checks]}


class Issue(msgspec.Struct, frozen=True):
    """Something that is wrong, and what to do about it."""

    state: Literal["warning", "failed"]
    found: str
    advice: str


def conclude(name: str, facts: str, issues: Iterable[Issue | None] = ()) -> Check:
    """A check from its issues, the failures first, and what else was found."""
    real = sorted((issue for issue in issues if issue is not None), key=lambda issue: issue.state != "failed")
    state: State = real[0].state if real else "ok"
    found = "; ".join(filter(None, [*(issue.found for issue in real), facts]))
    return Check(name, state, found, "; ".join(dict.fromkeys(issue.advice for issue in real)))


def issue_of(error: FluxySyncError) -> Issue:
    """One of our own errors: its sentence says what happened and, behind a semicolon, what to do."""
    parts = [part for part in str(error).split("; ") if part != "nothing was accepted"]
    otherwise = "look at the store's log" if isinstance(error, StorageUnavailable) else "correct that setting"
    return Issue("failed", parts[0], "; ".join(parts[1:]) or otherwise)


def of_error(name: str, error: FluxySyncError) -> Check:
    """A check that ended in one of our own errors."""
    return conclude(name, "", [issue_of(error)])


def reason_of(error: BaseException) -> str:
    """The system's own word for what happened, else the error's kind: its text may hold a secret."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "its name can't be resolved"
        if isinstance(cause, TimeoutError | redis.TimeoutError):
            return "no answer"
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
