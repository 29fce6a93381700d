"""SyncTask: a Celery task whose calls live in the journal."""

import contextlib
import contextvars
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
from celery import Task
from celery._state import get_current_worker_task
from celery.exceptions import (
    BackendError,
    CeleryError,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from kombu.exceptions import KombuError
from kombu.utils.json import dumps, loads

from fluxy_sync.admin.acceptance import unaccepted_id
from fluxy_sync.delivery import ClaimEnded, Flight, Stamp, boottime
from fluxy_sync.engine import Engine
from fluxy_sync.errors import (
    ConfigError,
    DeliveryFailed,
    InvalidOperation,
    QueueFull,
    StorageUnavailable,
    Unreachable,
)
from fluxy_sync.expiry import deadline_at, is_out_of_reach
from fluxy_sync.journal import NewRecord, StoredRecord
from fluxy_sync.journal.record import INVALID
from fluxy_sync.kept_result import of_sync_task, seals_results
from fluxy_sync.known_options import check_options
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import (
    DEFAULT_LANE,
    FLUSH,
    SYNC_OP,
    Deadline,
    Operation,
    Outcome,
    Verdict,
    check_lane,
    check_new_id,
    check_once,
    new_operation_id,
)
from fluxy_sync.outcome import Rules, WorkerError, check_rules, outcome_of
from fluxy_sync.retry import RetryPolicy
from fluxy_sync.sealing import REDACTED, seal_value, serializer_name
from fluxy_sync.settings import OnDead
from fluxy_sync.soft_limit import soft_limit
from fluxy_sync.tokens import wake

logger = get_logger(__name__)

DETAIL_CHARACTERS = 4096
FARTHEST_S = 1e9  # about 30 years
SOONEST_S = 0.001  # what has expired already does so at once; 0 would mean never
_UNSET: Any = object()
NOT_THE_TASKS = (
    StorageUnavailable, QueueFull, ConfigError, MemoryError, KombuError, CeleryError, BackendError,
    SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated,
)  # fmt: skip

# Celery's message options that travel with an operation; the others mean something only to a broker.
CARRIED = (
    "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "link", "link_error", "headers", "shadow",
    "time_limit", "soft_time_limit", "ignore_result", "reply_to", "stamped_headers", "replaced_task_nesting",
)  # fmt: skip


class UnderWay:
    """The operation that this thread is delivering: what its task may ask, and what it leaves behind."""

    def __init__(
        self, operation: Operation, operation_id: str, lane: str, stamp: Stamp, flight: Flight, retries: int
    ) -> None:
        self.operation, self.id, self.lane = operation, operation_id, lane
        self.stamp, self.flight, self.retries = stamp, flight, retries
        self.keeps_result = False
        self.links: dict[str, Any] = {}  # what follows from it, where its task redacts that
        self.took_s: float | None = None  # until the upstream's answer was read
        self.outcome: Outcome | None = None
        self.fault: BaseException | None = None  # what went wrong here, and isn't its task's own
        self.authorized = False  # the upstream took the gateway's credentials
        self.answered = False  # the body has ended: what is queued now follows from the outcome
        self.retry_pause_s: float | None = None
        self.replacement: Operation | None = None
        self.followers: list[NewRecord] = []
        self.settled_as, self.reason, self.pause_s = "", "", 0.0


_under_way: contextvars.ContextVar[UnderWay | None] = contextvars.ContextVar("fluxy_sync_under_way", default=None)


def now_under_way(operation_id: str | None) -> UnderWay | None:
    """The operation that this thread is delivering, if it is the one that is asked for."""
    now = _under_way.get()
    return now if now is not None and now.id == operation_id else None


@contextlib.contextmanager
def under_way(operation: UnderWay) -> Iterator[None]:
    """Make the operation known to its task."""
    token = _under_way.set(operation)
    try:
        yield
    finally:
        _under_way.reset(token)


class SyncTask(Task):
    """A durable, ordered, offline-aware task: ``apply_async`` commits it to the journal.

    Options beside Celery's own, for ``apply_async``:
        lane: operations of one lane keep their order; None gives it a lane of its own.
        policy: a RetryPolicy.
        once: a key; while an operation with it waits, and for a window after that, that one stands for this one.
        on_dead: 'go_on', or 'halt': if it dies, its lane waits for a person.
        outcomes: overrides of the outcome table, as ``{"DELETE 404": "delivered"}``.
        keep_result: its answer is kept for ``get()``.

    Lane, policy, on_dead, outcomes and ``expires`` are also attributes of a task, for all its operations. ``redact``
    (False; True for an HttpTask) shows Celery's signals and hooks placeholders instead of arguments, and no frames.
    A return is a delivery; raising Unreachable is the link; other exceptions make a dead letter, unless the task
    retries them by Celery's ``self.retry`` or ``autoretry_for``. What isn't the task's own fault (StorageUnavailable,
    QueueFull, MemoryError, SoftTimeLimitExceeded, Celery's exceptions) holds its lane: it is tried again each 30 s.

    A task keeps its lane as long as it runs, or for ``deadline_s`` seconds: past that another worker may begin with
    the operation, while this one still runs. A ``soft_time_limit`` of the task, or of one call, is raised within it in
    a prefork or solo pool; the app's own, and every ``time_limit``, don't hold for a SyncTask.
    """

    abstract = True
    max_retries = None  # the policy rules, unless the user sets it
    acks_late = True  # a raw message is journalled before it is acked
    ignore_result = True
    track_started = True
    store_errors_even_if_ignored = False
    throws = (DeliveryFailed, Unreachable)
    Strategy = "fluxy_sync.intake:journal_strategy"
    resultrepr_maxsize = 0  # nobody reads a result in a log
    policy: ClassVar[RetryPolicy | None] = None
    lane: ClassVar[str | None] = DEFAULT_LANE
    outcomes: ClassVar[Mapping[Any, str]] = {}
    on_dead: ClassVar[OnDead | None] = None  # None: as FLUXY_SYNC_ON_DEAD says
    redact: ClassVar[bool] = False
    deadline_s: ClassVar[float | None] = None
    time_limit = soft_time_limit = 0  # none, whatever the app's are

    rules: ClassVar[Rules] = {}  # outcomes, checked

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Check what the user gave, once."""
        cls.rules = check_rules(cls.outcomes)
        if cls.deadline_s is not None and not cls.deadline_s > 0:
            raise ConfigError(f"deadline_s of {cls.name} is a number of seconds above 0, or None; correct it")

    @property
    def engine(self) -> Engine:
        """What the app was installed with."""
        engine: Engine = self.app.fluxy_engine
        return engine

    def lasts_s(self, stored: StoredRecord) -> float:
        """How long its lane is kept for one try, in seconds."""
        return math.inf if self.deadline_s is None else self.deadline_s

    def soft_limit_s(self) -> float:
        """After how many seconds its body is interrupted; 0 for never."""
        _, soft = self.request.timelimit or (None, None)
        return soft or self.soft_time_limit or 0.0

    def canonical(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Check the arguments before they are accepted, and bring them into the form that is stored."""
        return tuple(args), dict(kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        *,
        lane: str | None = _UNSET,
        policy: RetryPolicy | None = None,
        once: str | None = None,
        on_dead: OnDead | None = None,
        outcomes: Mapping[Any, str] | None = None,
        keep_result: bool = False,
        **options: Any,
    ) -> Any:
        """Commit the operation to the journal and return its AsyncResult.

        Raises:
            InvalidOperation, OperationTooLarge, QueueFull, StorageUnavailable: nothing was accepted.
            AcceptanceUnknown: the store went away before it answered.
        """
        now = _under_way.get()
        if now is not None and task_id == now.id and not now.answered:
            return self._retry_under_way(now, args or (), kwargs or {}, options)
        if now is None or not now.answered:  # a later step was accepted with its first one
            check_options(options, options.get("stamped_headers") or ())
        if keep_result:
            options["ignore_result"] = False
        if self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs, task_id=task_id, producer=producer, **options)
        ours: dict[str, Any] = {"lane": lane, "policy": policy, "once": once, "on_dead": on_dead, "outcomes": outcomes}
        try:
            record = self.new_record(args or (), kwargs or {}, task_id, **ours, **options)
        except InvalidOperation:
            if now is None or not now.answered:
                raise
            return self._keep_refused(args or (), kwargs or {}, task_id)
        result = self.AsyncResult(self._accept(record))
        self._add_to_parent(result, options)
        return result

    def _accept(self, record: NewRecord) -> str:
        """Take the record into the journal; the id of the operation that stands for it."""
        now = _under_way.get()
        if now is not None and now.answered:
            now.followers.append(record)
            return record.id
        appended = self.engine.accept([record])
        if appended.woken:
            wake(self.app)
        return appended.first[0][0] if appended.first else record.id

    def _keep_refused(self, args: Sequence[Any], kwargs: Mapping[str, Any], task_id: str | None) -> Any:
        """The tail of a chain was accepted with its first step: refused when it is reached, it is a dead letter."""
        operation_id = task_id or new_operation_id()
        operation = Operation(tuple(args), dict(kwargs), self.name)
        for letter_id in (operation_id, unaccepted_id(self.name, operation_id, INVALID, operation.encode())):
            if self.engine.journal.bury(self.engine.seal(operation, DEFAULT_LANE, letter_id, refused=True), INVALID):
                break  # the first id is taken where another operation died under it
        logger.error(
            "The operation %s follows from another one, but its arguments don't fit %s (a .s() in a chain?): "
            "it was moved to the dead letters.", operation_id, self.name,
        )  # fmt: skip
        return self.AsyncResult(operation_id)

    def new_record(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task_id: str | None,
        *,
        lane: str | None = _UNSET,
        policy: RetryPolicy | None = None,
        once: str | None = None,
        on_dead: OnDead | None = None,
        outcomes: Mapping[Any, str] | None = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        expires: float | datetime | str | None = None,
        **options: Any,
    ) -> NewRecord:
        """Check and seal one operation, without accepting it."""
        operation_id = check_new_id(task_id) if task_id else new_operation_id()
        lane = check_lane(self.lane if lane is _UNSET else lane, operation_id)
        self._check_types(args, kwargs, policy)
        args, kwargs = self.canonical(args, kwargs)
        refuse_steps(options)
        expires_s, deadline = self._expiry(expires)
        operation = Operation(
            args, kwargs, self.name, policy, self._carry(options),
            outcomes=check_rules(outcomes) if outcomes else {}, deadline=deadline,
        )  # fmt: skip
        return self.engine.seal(
            operation,
            lane,
            operation_id,
            countdown_s=seconds_to_wait(eta, countdown),
            expires_s=expires_s,
            halt=self._halts(on_dead),
            once=b"" if once is None else self.engine.once_hash(check_once(once)),
        )

    def unaccepted_record(self, args: Sequence[Any], kwargs: Mapping[str, Any], letter_id: str) -> NewRecord:
        """Check and seal a call that isn't accepted: it can only be buried."""
        self._check_types(args, kwargs, None)
        args, kwargs = self.canonical(args, kwargs)
        return self.engine.seal(
            Operation(args, kwargs, self.name), check_lane(self.lane, letter_id), letter_id, refused=True
        )

    def _expiry(self, expires: float | datetime | str | None) -> tuple[float, Deadline | None]:
        """Seconds that the operation may wait, by its own, its task's, or the settings' word; and the date, if any."""
        if expires is None:
            expires = self.expires if self.expires is not None else self.engine.settings.expires_s or None
        if expires is None:
            return 0.0, None
        if not isinstance(expires, (str, datetime)):
            return max(SOONEST_S, _seconds_until(expires, "expires")), None
        # By a clock that hasn't been set yet, a date is farther than anybody may wait.
        seconds = _seconds_until(expires, "expires", farthest_s=math.inf)
        return min(max(SOONEST_S, seconds), FARTHEST_S), deadline_at(_date_of(expires))

    def _halts(self, on_dead: object) -> bool:
        chosen = on_dead or self.on_dead or self.engine.settings.on_dead
        if chosen not in ("go_on", "halt"):
            raise InvalidOperation("on_dead= takes 'go_on' or 'halt'; nothing was accepted")
        return chosen == "halt"

    def _check_types(self, args: Sequence[Any], kwargs: Mapping[str, Any], policy: object) -> None:
        if policy is not None and not isinstance(policy, RetryPolicy):
            raise InvalidOperation("policy= takes a RetryPolicy; nothing was accepted")
        if self.typing:
            try:
                self.__header__(*args, **kwargs)
            except TypeError as error:
                raise InvalidOperation(f"{self.name}: {error}; nothing was accepted") from None

    def _carry(self, options: dict[str, Any]) -> str:
        kept = {name: options[name] for name in CARRIED if options.get(name) is not None}
        kept |= {name: options[name] for name in kept.get("stamped_headers", ()) if name in options}
        kept |= {name: self._seal_later(kept[name]) for name in ("link", "link_error", "chain") if name in kept}
        if kept.get("ignore_result") == self.ignore_result:
            del kept["ignore_result"]
        parent = get_current_worker_task()
        if parent is not None and parent.name != FLUSH:
            kept.setdefault("parent_id", parent.request.id)
            kept.setdefault("root_id", parent.request.root_id or parent.request.id)
        text: str = dumps(kept) if kept else ""
        return text

    def keeps_result(self, operation: Operation) -> bool:
        """Whether somebody may ask for the operation's result."""
        carried = loads(operation.options) if operation.options else {}
        return not carried.get("ignore_result", self.ignore_result)

    def _seal_later(self, step: Any) -> Any:
        """A plain task that follows from this one goes through the broker: its message is sealed by itself."""
        # Copies are made by unpacking: `|` would make a chain of two signatures.
        if isinstance(step, (list, tuple)):
            return [self._seal_later(one) for one in step]
        inner = step.get("kwargs", {}).get("tasks")
        if inner is not None:  # a group or chain
            return {**step, "kwargs": {**step["kwargs"], "tasks": self._seal_later(inner)}}
        if isinstance(self.app.tasks.get(step["task"]), SyncTask):
            return dict(step)
        sealed = {
            "serializer": serializer_name(self.engine.settings.namespace),
            "argsrepr": REDACTED,
            "kwargsrepr": REDACTED,
        }
        return {**step, "options": {**step.get("options", {}), **sealed}}

    def _add_to_parent(self, result: Any, options: dict[str, Any]) -> None:
        parent = get_current_worker_task()
        if parent is not None and parent.name != FLUSH and options.get("add_to_parent", True):
            parent.add_trail(result)

    def _retry_under_way(
        self, now: UnderWay, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
    ) -> Any:
        """``self.retry`` calls ``apply_async`` again with the same id: that is a retry settlement."""
        eta, old = options.get("eta"), now.operation
        try:
            args, kwargs = self.canonical(args, kwargs)
        except InvalidOperation as error:  # of which Celery makes a Reject
            now.outcome = Outcome(Verdict.DEAD, _code(error), detail=str(error).encode())
            raise
        now.retry_pause_s = seconds_to_wait(eta, options.get("countdown"))
        if (args, kwargs) != (tuple(old.args), old.kwargs):
            now.replacement = msgspec.structs.replace(old, args=args, kwargs=kwargs, generation=old.generation + 1)
        return self.AsyncResult(now.id)

    def shown(self, operation: Operation) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that Celery's tracer, and with it signals, sees: placeholders where the task redacts them."""
        if not self.redact:
            return operation.args, operation.kwargs
        return (REDACTED,) * len(operation.args), dict.fromkeys(operation.kwargs, REDACTED)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._runs_an_operation:
            # Celery's __call__ would hide an eager run's request behind an empty one.
            return super().__call__(*args, **kwargs) if self.request.called_directly else self.run(*args, **kwargs)
        result, failure = self._attempt(args, kwargs)
        if failure is not None:
            raise failure
        return result

    @property
    def _runs_an_operation(self) -> bool:
        now = _under_way.get()
        return now is not None and now.id == self.request.id and not now.answered

    def _attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Exception | None]:
        """Run the body: what it returned, or what Celery's tracer is to make of its exception.

        Its arguments are the operation's own, and ``self.request`` has them, and what follows, as long as it runs.
        """
        now = _under_way.get()
        assert now is not None
        shown = {name: getattr(self.request, name) for name in ("args", "kwargs", *now.links)}
        if self.redact:
            args, kwargs = now.operation.args, now.operation.kwargs
            self.request.update(args=args, kwargs=kwargs, **now.links)
        try:
            if boottime() >= now.flight.claim_ends:
                raise ClaimEnded("the claim ended before its task ran; nothing was done")
            with soft_limit(self.soft_limit_s()):
                result = self.run(*args, **kwargs)
            now.outcome = now.outcome or Outcome(Verdict.DELIVERED, "returned")
            shown |= now.links  # Celery sends them now
            return self._kept_or_lost(result, now), None
        except Exception as error:  # noqa: BLE001 -- whatever a user's task raises
            failure = self._failure_of(now, error)
            if failure is None:
                shown |= now.links
                return None, None
            # Instrumentation looks into frames, and theirs hold the request.
            return None, without_frames(failure) if self.redact else failure
        finally:
            now.answered = True
            self.request.update(shown)

    def _failure_of(self, now: UnderWay, error: Exception) -> Exception | None:
        """What Celery's tracer is to make of an exception; None where the operation was delivered all the same."""
        if isinstance(error, Reject):
            self._note_failed_retry(now, error.reason)
            reason = _code(error.reason) if isinstance(error.reason, BaseException) else None
            return Reject(reason, error.requeue) if self.redact else error
        if isinstance(error, Ignore):
            return error
        if isinstance(error, ClaimEnded):
            return _kept_in_place("claim-ended")
        if isinstance(error, Retry):
            retry = Retry(exc=_redacted(error.exc), when=error.when, is_eager=error.is_eager)
            retry.excs = _code(error.exc)
            return retry
        if isinstance(error, Unreachable):
            now.outcome = now.outcome or Outcome(Verdict.UNREACHABLE, "unreachable")
            return _kept_in_place(now.outcome.reason)
        if isinstance(error, DeliveryFailed):
            now.outcome = now.outcome or Outcome(Verdict.DEAD, error.reason)
            return error
        if error is now.fault or self.name == SYNC_OP or is_ours(error):
            return self._worker_failed(now, error)
        # A dead letter. Its text may hold a payload, so it is kept sealed and shown nowhere.
        detail = "".join(traceback.format_exception(error))[-DETAIL_CHARACTERS:]
        now.outcome = Outcome(Verdict.DEAD, _code(error), detail=detail.encode())
        return DeliveryFailed(_code(error))

    def _worker_failed(self, now: UnderWay, error: BaseException) -> Exception | None:
        """Not the operation's fault: what the upstream answered stands; without an answer it keeps its place."""
        now.fault = error
        if now.outcome is None or now.outcome.verdict is Verdict.RETRY:
            now.outcome = outcome_of(WorkerError(type(error).__name__))
        if now.outcome.verdict is Verdict.DELIVERED:
            return None
        reason = now.outcome.reason
        return DeliveryFailed(reason) if now.outcome.verdict is Verdict.DEAD else _kept_in_place(reason)

    def _note_failed_retry(self, now: UnderWay, reason: object) -> None:
        """Celery makes a Reject of whatever keeps it from trying again; that spends no retries."""
        is_tried_again = now.outcome is not None and now.outcome.verdict is Verdict.RETRY
        if is_tried_again and now.retry_pause_s is None and isinstance(reason, BaseException):
            self._worker_failed(now, reason)

    def _kept_or_lost(self, result: Any, now: UnderWay) -> Any:
        """The result as it is kept. Where that fails, it is lost: what was delivered stays delivered."""
        try:
            return self._kept_form(result, now)
        except Exception as error:  # noqa: BLE001 -- a value that can't be written, a library, no memory
            now.fault = error
            return None

    def _kept_form(self, result: Any, now: UnderWay) -> Any:
        """A result that goes into a user's own backend, and through its logs, is sealed by itself."""
        if seals_results(self.app) or (result is None and not now.keeps_result):
            return result
        return seal_value(self.engine.vault, result, now.id)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Any:
        """The operation's result. Reading it raises CorruptRecord where it was changed, or is another operation's."""
        result_class = of_sync_task(self.app.AsyncResult)
        return result_class(task_id, backend=self.backend, task_name=self.name, app=self.app, **kwargs)


def is_ours(error: BaseException) -> bool:
    """Whether an exception that came out of a user's task isn't the task's own: what it lacks will be there again."""
    return isinstance(error, NOT_THE_TASKS) and not isinstance(error, MaxRetriesExceededError)


def _kept_in_place(reason: str) -> Retry:
    """Tells Celery's tracer that the operation will run again. Nothing is counted."""
    return Retry(message=reason, exc=DeliveryFailed(reason))


def _code(error: BaseException | None) -> str:
    return error.reason if isinstance(error, DeliveryFailed) else type(error).__name__


def _redacted(error: BaseException | None) -> DeliveryFailed:
    return DeliveryFailed(_code(error))


def without_frames(error: Exception) -> Exception:
    """The same, without the frames that it came through, or what caused it."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _date_of(when: datetime | str) -> datetime:
    at = datetime.fromisoformat(when) if isinstance(when, str) else when
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def seconds_to_wait(eta: datetime | str | None, countdown: float | None) -> float:
    """Seconds until something may be sent. A date that can't be judged holds nothing: see the module ``expiry``."""
    seconds = _seconds_until(eta if eta is not None else countdown, "eta")
    if isinstance(eta, (str, datetime)) and is_out_of_reach(_date_of(eta)):
        logger.warning("An eta was left out: this machine's clock isn't set; what it holds may be sent at once.")
        return 0.0
    return seconds


def _seconds_until(when: float | datetime | str | None, name: str, *, farthest_s: float = FARTHEST_S) -> float:
    """Seconds from now, 0 for none or past."""
    if when is None:
        return 0.0
    try:
        if isinstance(when, (str, datetime)):
            seconds = (_date_of(when) - datetime.now(UTC)).total_seconds()
        else:
            seconds = float(when)
        if not seconds < farthest_s:  # NaN, too
            raise ValueError
        return max(0.0, seconds)
    except (TypeError, ValueError):
        raise InvalidOperation(f"{name} is seconds from now, or a date and time; nothing was accepted") from None


def refuse_steps(options: Mapping[str, Any]) -> None:
    """Refuse ``.s()`` of sync_op where a chain or link would put a previous result before the method, and ``once``."""
    links = options.get("link") or ()
    steps = [*(options.get("chain") or ()), *(links if isinstance(links, (list, tuple)) else [links])]
    for step in steps:
        if isinstance(step, Mapping) and step.get("task") == SYNC_OP and not step.get("immutable"):
            raise InvalidOperation(
                "a chain or link would put the previous result where sync_op's method belongs: write "
                "sync_op.si(...) instead of sync_op.s(...); nothing was accepted"
            )
        if isinstance(step, Mapping) and (step.get("options") or {}).get("once") is not None:
            raise InvalidOperation(
                "a later step of a chain, or a link, can't have once=: give it to the first step; nothing was accepted"
            )
