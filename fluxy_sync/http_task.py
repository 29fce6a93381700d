"""sync_op's base and body: an operation is one HTTP request."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from celery.exceptions import Reject, Retry

from fluxy_sync.delivery import ClaimEnded, Flight, Reply, Stamp, boottime, build_request, fence_scope
from fluxy_sync.errors import DeliveryFailed, InvalidOperation, Unreachable
from fluxy_sync.journal import StoredRecord
from fluxy_sync.operation import (
    Verdict,
    check_headers,
    check_method,
    check_path,
    check_size,
    encode_body,
    new_operation_id,
)
from fluxy_sync.outcome import Answer, outcome_of
from fluxy_sync.retry import RetryPolicy
from fluxy_sync.tasks import SyncTask, UnderWay, now_under_way


class HttpTask(SyncTask):
    """The base of ``sync_op``: an operation is one HTTP request.

    ``deadline_s`` stands in for FLUXY_SYNC_TOTAL_TIMEOUT_S. No time limit of Celery's holds: the exchange has its own.

    Celery's signals, its hooks (``on_failure`` and the like) and instrumentation see placeholders instead of its
    arguments, and no frames of its body's exceptions. ``redact = False`` shows them.
    """

    abstract = True
    redact: ClassVar[bool] = True

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """What the body of an HTTP task of your own calls: one try of one request."""
        return send(self, method, path, body, headers)

    def lasts_s(self, stored: StoredRecord) -> float:
        return self.engine.delivery.deadline_s(len(stored.sealed)) if self.deadline_s is None else self.deadline_s

    def soft_limit_s(self) -> float:
        return 0.0

    def canonical(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = dict(zip(("method", "path", "body", "headers"), args, strict=False)) | dict(kwargs)
        method = check_method(given.get("method"))
        path = check_path(given.get("path"), self.engine.origins)
        body, headers = encode_body(given.get("body")), given.get("headers")
        check_size(len(body or b""), self.engine.settings.max_body_bytes)
        rest: dict[str, Any] = {} if body is None else {"body": body}
        if headers:
            rest["headers"] = check_headers(headers)
        return (method, path), rest

    def _check_types(self, args: Sequence[Any], kwargs: Mapping[str, Any], policy: object) -> None:
        if args:
            check_method(args[0])
        super()._check_types(args, kwargs, policy)


def send(task: HttpTask, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """The body of ``sync_op``: one try of one request."""
    now = now_under_way(task.request.id)
    if now is None:
        return _send_directly(task, method, path, body, headers)
    _forget_earlier(now)
    try:
        return _send_under_way(task, now, method, path, body, headers)
    except (Retry, Reject, DeliveryFailed, ClaimEnded, InvalidOperation):
        raise
    except Exception as error:
        now.fault = error
        if now.outcome is None and now.flight.acted is not None:
            # The upstream took it. That what followed went wrong here must not send it again.
            answer = Answer(now.flight.acted)
            now.outcome = outcome_of(answer, str(method), now.operation.outcomes, task.rules)
        raise


def _forget_earlier(now: UnderWay) -> None:
    """A body of the user's may send more than once: the last one counts."""
    now.outcome = now.flight.acted = None


def _send_under_way(task: HttpTask, now: UnderWay, method: str, path: str, body: Any, headers: Any) -> Any:
    delivery = task.engine.delivery
    request = build_request(delivery.upstream, method, path, encode_body(body), headers or {}, now.stamp)
    began = boottime()
    reply = delivery.send(request, now.flight, now.operation.outcomes, task.rules)
    now.outcome = outcome = reply.outcome
    now.took_s = boottime() - began if outcome.status is not None else None
    now.authorized = reply.took_credentials
    if outcome.verdict is Verdict.DELIVERED:
        return kept_answer(reply) if now.keeps_result else {"status": outcome.status}
    failure = DeliveryFailed(outcome.reason)
    if outcome.verdict is Verdict.RETRY:
        policy = now.operation.policy or task.policy or RetryPolicy()
        pause_s = policy.pause(now.retries)
        if pause_s is None:
            raise failure
        raise task.retry(exc=failure, countdown=max(pause_s, outcome.retry_after_s or 0.0))
    if outcome.verdict is Verdict.DEAD:
        raise failure
    raise Retry(message=outcome.reason, exc=failure)  # it keeps its place, and nothing is counted


def kept_answer(reply: Reply) -> dict[str, Any]:
    """The answer as it is kept for ``get()``: status, chosen headers and the first 64 KiB of its body."""
    return {"status": reply.outcome.status, "headers": reply.headers, "body": reply.body}


def _send_directly(task: HttpTask, method: str, path: str, body: Any, headers: dict[str, str] | None) -> Any:
    """Called as a function, or eagerly: one try, at once, without the journal."""
    (method, path), rest = task.canonical((method, path, body, headers or {}), {})
    delivery, operation_id = task.engine.delivery, task.request.id or new_operation_id()
    stamp = Stamp(operation_id, 1, 1, fence_scope("eager", task.engine.settings.namespace, operation_id))
    request = build_request(delivery.upstream, method, path, rest.get("body"), rest.get("headers", {}), stamp)
    deadline = boottime() + delivery.deadline_s(len(rest.get("body") or b""))
    outcome = delivery.send(request, Flight(claim_ends=float("inf"), deadline=deadline), task.rules).outcome
    if outcome.verdict is Verdict.UNREACHABLE:
        raise Unreachable(
            f"the upstream can't be reached ({outcome.reason}); nothing was kept, as this was no queued call"
        )
    if outcome.verdict is not Verdict.DELIVERED:
        raise DeliveryFailed(outcome.reason)
    return {"status": outcome.status}
