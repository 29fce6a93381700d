"""The flush: claims lanes one after another, and delivers their operations in order, each as its Celery task."""

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Any

from celery.app.trace import build_tracer
from celery.states import FAILURE
from kombu.utils import json

from fluxy_sync import signals
from fluxy_sync.connectivity import TICK_S, Link
from fluxy_sync.delivery import RETRY_AFTER_CAP_S, Flight, Stamp, boottime, fence_scope
from fluxy_sync.errors import (
    CorruptRecord,
    DeliveryFailed,
    SealError,
    StorageUnavailable,
    UnknownKey,
)
from fluxy_sync.events import TaskEvents
from fluxy_sync.faults import place_of
from fluxy_sync.http_task import HttpTask
from fluxy_sync.incarnation import Incarnation
from fluxy_sync.journal import Claim, Idle, Inventory, Journal, Settlement, StoredRecord
from fluxy_sync.journal.journal import CLOCK_MARGIN_S
from fluxy_sync.journal.record import parse
from fluxy_sync.lease_renewer import Keeper
from fluxy_sync.logs import get_logger
from fluxy_sync.operation import Operation, Outcome, UnreadableRecord, Verdict
from fluxy_sync.outcome import Expired, UnknownTask, Unsealable, WorkerError, outcome_of
from fluxy_sync.retry import RetryPolicy
from fluxy_sync.sealing import REDACTED
from fluxy_sync.tasks import SyncTask, UnderWay, under_way
from fluxy_sync.token_place import UNREACHABLE as TOKEN_UNREACHABLE
from fluxy_sync.tokens import wake
from fluxy_sync.words import reason_text

logger = get_logger(__name__)

SLICE_S = 5.0  # after this, other messages of the worker get their turn
SHORT_SLICE_S = 1.0  # where others wait for a process
OFFER_S = 30.0  # a lane that is held for a key, a task or credentials is offered again
SETTLE_AGAIN_S = 0.1
UNSETTLED_PAUSE_S = 1.0


class Flush:
    """Drains lanes for one time slice, in one process of one worker."""

    def __init__(
        self, app: Any, incarnation: Incarnation, link: Link, keeper: Keeper, hostname: str, events: TaskEvents | None
    ) -> None:
        self._app, self._incarnation, self._link, self._keeper = app, incarnation, link, keeper
        self._events = events
        self._engine = app.fluxy_engine
        self._journal: Journal = self._engine.journal
        self._hostname = hostname
        self._tracers: dict[str, Any] = {}
        self._claimed: tuple[Claim | Idle, float] | None = None
        self._claim_with_settle = False
        self._head = ""  # the id of the operation that is being delivered
        self._journal_ms = 0  # journal time, as the last answer told it

    def run(self) -> int:
        """Claim and deliver until nothing is due, or the slice is over. Returns the operations settled."""
        try:
            return self._run()
        except StorageUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 -- Celery would log what it says
            logger.error("A flush ended early (%s); claims come due by themselves.", place_of(error))
            return 0
        finally:
            self._give_back()
            if self._events is not None:
                self._events.flush()

    def _run(self) -> int:
        ends, settled, first = time.monotonic() + SLICE_S, 0, True
        if self._stopping:
            self._journal.forget_wake()  # this token is used up, too
        else:
            # Whatever closed the gate: connections of before may lead nowhere now.
            self._engine.delivery.note_link(self._journal.store.command("HGET", self._journal.keys.gate, "since"))
        while not self._stopping:
            claim, asked = self._next_claim(first)
            first = False
            self._mourn_all(claim)
            if isinstance(claim, Idle):
                # What comes due before the next tick is the steward's to wait for: this process is needed.
                if claim.due_in_s is not None and claim.due_in_s < TICK_S:
                    self._incarnation.ring(asked + claim.due_in_s)
                break
            if claim.call_helper:
                wake(self._app)
            settled += self._drain(claim, asked + claim.length_s - CLOCK_MARGIN_S, ends)
            if self._is_over(ends):
                self._wake_if_won()
                break
        return settled

    def _next_claim(self, first: bool) -> tuple[Claim | Idle, float]:
        """The next claim, and the boottime at which it was asked for: mostly it came with the last settle's answer."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            return claimed
        asked = boottime()
        return self._journal.claim(self._incarnation.holder, drop_wake=first), asked

    def _give_back(self) -> None:
        """Release a claim that came with the last settle's answer and isn't used; tell what was found dead with it."""
        claimed, self._claimed = self._claimed, None
        if claimed is None:
            return
        self._mourn_all(claimed[0])
        if isinstance(claimed[0], Claim):
            self._release(claimed[0])

    def _release(self, claim: Claim) -> None:
        """Give a claim up: now, or once the store is back."""
        try:
            self._journal.release(claim.lane, claim.fence)
        except StorageUnavailable:
            self._keeper.owe(claim.lane, claim.fence)

    @property
    def _stopping(self) -> bool:
        return self._incarnation.closing or self._incarnation.door_closed

    def _is_over(self, slice_ends: float) -> bool:
        left_s = slice_ends - time.monotonic()
        return left_s <= 0 or (self._incarnation.others_wait and left_s <= SLICE_S - SHORT_SLICE_S)

    def _wake_if_won(self) -> None:
        if self._journal.win_wake():
            wake(self._app)

    def _drain(self, claim: Claim, claim_ends: float, slice_ends: float) -> int:
        """Deliver a claim's run, and give the claim up. Returns the operations settled."""
        self._journal_ms, self._head = claim.journal_ms, ""
        try:
            if claim.takeovers and not self._begin(claim, claim_ends):
                return 0
            return self._deliver_run(claim, claim_ends, slice_ends)
        except StorageUnavailable:
            self._keeper.owe(claim.lane, claim.fence)
            raise
        except Exception as error:  # noqa: BLE001 -- of ours, or a library's: nothing leaves its lane for that
            self._hold(claim, error)
            return 0

    def _begin(self, claim: Claim, claim_ends: float) -> bool:
        """Say that this process begins, so that it counts if it dies; False where the claim is lost."""
        while True:
            try:
                return self._journal.renew(claim.lane, claim.fence, begins=claim.takeovers)
            except StorageUnavailable:
                # Asked again: if only the reply was lost, an operation that is never sent would count as a killer.
                if boottime() >= claim_ends:
                    raise
                time.sleep(SETTLE_AGAIN_S)

    def _hold(self, claim: Claim, error: Exception) -> None:
        """The worker failed, by no fault of the head: its lane is held, and offered again."""
        logger.error(
            "The worker failed at the operation %s on lane %s: it is kept, and tried again in %d s. %s",
            self._head or "at the head", claim.lane, OFFER_S, place_of(error),
        )  # fmt: skip
        reason = outcome_of(WorkerError(type(error).__name__)).reason
        if self._head:
            try:
                settled = self._journal.settle(
                    claim.lane, claim.fence, self._head, "hold", reason=reason, pause_s=OFFER_S
                )
            except StorageUnavailable:
                raise
            except Exception as another:  # noqa: BLE001 -- what fails may be the settlement itself
                logger.error("It could not be settled either: %s", place_of(another))
            else:
                if settled.next_id:
                    self._release(claim)
                return
        Inventory(self._journal).hold(claim.lane, reason, OFFER_S)
        self._release(claim)

    def _deliver_run(self, claim: Claim, claim_ends: float, slice_ends: float) -> int:
        expected, settled, retries = "", 0, claim.retries
        for index, raw in enumerate(claim.records):
            last = index == len(claim.records) - 1
            stored = parse(raw)
            if expected and stored.id != expected:
                break  # cancelled or replaced meanwhile: this copy isn't the head any more
            self._head = stored.id
            stop = self._stopping or self._is_over(slice_ends)
            over = last or stop
            self._claim_with_settle = last and not stop
            settlement, claim_ends = self._deliver(claim, stored, claim_ends, retries, give_up=over)
            if settlement is None:
                break
            settled += settlement.status == "ok"
            if settlement.woken:
                with self._apart(stored.id):
                    wake(self._app)
            if not settlement.next_id or settlement.status == "fenced":
                return settled
            expected, retries = settlement.next_id, 0
            if over or self._stopping or settlement.gate != "open":
                break
        self._release(claim)
        return settled

    def _deliver(
        self, claim: Claim, stored: StoredRecord, claim_ends: float, retries: int, *, give_up: bool
    ) -> tuple[Settlement | None, float]:
        """One operation: open it, run it as its task, settle the outcome."""
        flight = Flight(claim_ends, boottime())
        opened = self._open(claim, stored, flight)
        if isinstance(opened, Outcome):
            return self._settle_unopened(claim, stored, opened, flight.claim_ends, give_up)
        flight.deadline = boottime() + self._app.tasks[opened.task].lasts_s(stored)
        now = UnderWay(opened, stored.id, claim.lane, self._stamp(claim, stored, opened, retries), flight, retries)
        if self._events is not None:
            self._events.begins(now)
        began = boottime()
        self._trace(now, claim)
        asked = boottime()
        settlement = self._settle(now, claim, give_up)
        if settlement is None:
            return None, flight.claim_ends
        self._journal_ms = settlement.journal_ms
        if settlement.status == "fenced":
            logger.warning(
                "The operation %s on lane %s was settled too late (%s): its claim had ended, and somebody else has it. "
                "It may be done twice.", now.id, now.lane, now.settled_as,
            )  # fmt: skip
        if settlement.gate == "unauthorized" and now.authorized:
            self._link.take()
        if self._events is not None:
            self._events.ends(now, asked - began)
        if settlement.status == "ok" and now.outcome is not None:
            with self._apart(now.id):
                self._tell(now, stored, now.outcome, asked - began)
        return settlement, asked + settlement.ends_in_s - CLOCK_MARGIN_S

    @contextlib.contextmanager
    def _apart(self, operation_id: str) -> Iterator[None]:
        """What is settled is only told here: whatever fails in telling it, the run goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- a result backend's, a receiver's, of ours
            logger.error("The operation %s is settled, but could not be told of: %s", operation_id, place_of(error))

    def _open(self, claim: Claim, stored: StoredRecord, flight: Flight) -> Operation | Outcome:
        """The operation, or what becomes of it unopened."""
        expired = outcome_of(Expired()) if stored.expires_ms and self._journal_ms >= stored.expires_ms else None
        try:
            operation: Operation = self._engine.open(stored, claim.lane)
        except UnknownKey as error:
            return expired or outcome_of(Unsealable(error.key_id))
        except UnreadableRecord as error:
            # Nobody changed it: it was written by another version, or this one has a fault.
            return expired or outcome_of(WorkerError(type(error).__name__))
        except CorruptRecord:
            return expired or outcome_of(Unsealable())
        if self._has_expired(operation, claim, flight, by_time=expired is not None):
            return outcome_of(Expired())
        if not isinstance(self._app.tasks.get(operation.task), SyncTask):
            return outcome_of(UnknownTask(operation.task))
        return operation

    def _has_expired(self, operation: Operation, claim: Claim, flight: Flight, *, by_time: bool) -> bool:
        """By a date where one was given and the upstream tells the time; else by journal time."""
        if operation.deadline is None or not self._engine.settings.upstream:
            return by_time
        clock = self._engine.delivery.clock
        if clock.wants_answer():
            with self._kept(flight, claim.lane, claim.fence, self._link.probe_lasts_s):
                found = self._link.probe()
            clock.note(found.date if found.online else "")
        passed = clock.has_passed(operation.deadline)
        return by_time if passed is None else passed

    @contextlib.contextmanager
    def _kept(self, flight: Flight, lane: str, fence: int, seconds: float) -> Iterator[None]:
        """Renew the claim for what is done within, and so long at most: a probe may outlast what is left of it."""
        flight.deadline = boottime() + seconds
        self._keeper.add(flight, lane, fence)
        try:
            yield
        finally:
            self._keeper.remove(flight)

    def _stamp(self, claim: Claim, stored: StoredRecord, operation: Operation, retries: int) -> Stamp:
        # Both only grow: their sum names each form under which the operation went out.
        generation = operation.generation + stored.replays
        key = f"{stored.id}.{generation}" if generation else stored.id
        scope = fence_scope(claim.epoch, self._engine.settings.namespace, claim.lane)
        return Stamp(key, retries + 1, claim.fence, scope)

    def _settle_unopened(
        self, claim: Claim, stored: StoredRecord, outcome: Outcome, claim_ends: float, give_up: bool
    ) -> tuple[Settlement | None, float]:
        asked = boottime()
        if outcome.verdict is Verdict.HOLD:
            logger.error("The lane %s is held and kept: %s.", claim.lane, reason_text(outcome.reason))
            return self._journal.settle(
                claim.lane, claim.fence, stored.id, "hold", reason=outcome.reason, pause_s=OFFER_S
            ), claim_ends
        settlement = self._journal.settle(
            claim.lane, claim.fence, stored.id, "dead", reason=outcome.reason, give_up=give_up
        )
        if settlement.status == "ok":
            self._mourn(claim.lane, stored, outcome.reason)
        return settlement, asked + settlement.ends_in_s - CLOCK_MARGIN_S

    # --- telling it

    def _tell(self, now: UnderWay, stored: StoredRecord, outcome: Outcome, took_s: float) -> None:
        """Fire the signal of what was settled."""
        signal, more = {
            "delivered": (signals.operation_delivered, {}),
            "retry": (signals.operation_retried, {"retry_in_s": now.pause_s}),
            "dead": (signals.operation_dead, {}),
        }.get(now.settled_as, (None, {}))
        if signal is not None:
            signal.send(
                sender=self._app.tasks[now.operation.task], operation_id=now.id, lane=now.lane, reason=now.reason,
                status=outcome.status, attempt=now.retries + 1, age_s=self._age_s(stored), took_s=took_s, **more,
            )  # fmt: skip

    def _age_s(self, stored: StoredRecord) -> float:
        return max(0, self._journal_ms - stored.accepted_ms) / 1000

    def _mourn(self, lane: str, stored: StoredRecord, reason: str) -> None:
        """An operation died unsent: say so, and tell whoever waits for its result."""
        logger.error("The operation %s on lane %s became a dead letter: %s.", stored.id, lane, reason)
        task = None
        with self._apart(stored.id):
            task = self._fail_result(lane, stored, reason)
        with self._apart(stored.id):
            signals.operation_dead.send(
                sender=task, operation_id=stored.id, lane=lane, reason=reason, status=None, attempt=0,
                age_s=self._age_s(stored), took_s=0.0,
            )  # fmt: skip

    def _fail_result(self, lane: str, stored: StoredRecord, reason: str) -> Any:
        """Where a result is kept, the state becomes FAILURE. Returns the task, if it can be known."""
        try:
            operation = self._engine.open(stored, lane)
        except SealError:
            return None
        task = self._app.tasks.get(operation.task)
        if isinstance(task, SyncTask) and task.keeps_result(operation):
            task.backend.mark_as_failure(stored.id, DeliveryFailed(reason))
        return task

    def _mourn_all(self, claim: Claim | Idle) -> None:
        """What was found dead when a lane was claimed."""
        for buried in claim.buried:
            try:
                stored = parse(buried.record)
            except CorruptRecord:
                logger.error("An operation on lane %s is damaged: it is kept as a dead letter.", buried.lane)
                continue
            self._mourn(buried.lane, stored, buried.reason)

    # --- running it

    def _trace(self, now: UnderWay, claim: Claim) -> None:
        """Run the operation through Celery's own tracer, so that all of Celery's ways hold for it."""
        task = self._app.tasks[now.operation.task]
        tracer = self._tracers.get(task.name)
        if tracer is None:
            tracer = self._tracers[task.name] = build_tracer(task.name, task, app=self._app, hostname=self._hostname)
        info = None
        self._keeper.add(now.flight, claim.lane, claim.fence)
        try:
            with under_way(now):
                info = tracer(now.id, *task.shown(now.operation), self._request(now)).info
        except Exception as error:  # noqa: BLE001 -- out of Celery's tracer: its result backend, no memory, a bug
            now.fault = error
        finally:
            self._keeper.remove(now.flight)
        if info is not None and info.state == FAILURE and now.outcome is None:
            now.fault = info.retval  # before the task's body, or around it
        failed = info is not None or now.fault is not None
        if now.fault is not None:
            self._take_fault(now, now.fault)
        if failed:
            # Exceptions and frames hold each other, and with them the body, until somebody looks: it takes less than a
            # millisecond, as all that lives long is frozen.
            gc.collect()

    def _take_fault(self, now: UnderWay, error: BaseException) -> None:
        """Something went wrong here: what the upstream answered stands; without an answer the lane is held."""
        now.fault = None
        if now.outcome is None and now.retry_pause_s is None:
            now.outcome = outcome_of(WorkerError(type(error).__name__))
        if now.outcome is None or now.outcome.verdict is not Verdict.HOLD:
            logger.error(
                "The worker failed at the operation %s on lane %s once its outcome was known, which stands: %s",
                now.id, now.lane, place_of(error),
            )  # fmt: skip
            return
        logger.error(
            "The worker failed at the operation %s on lane %s: it is kept, and tried again in %d s. %s",
            now.id, now.lane, OFFER_S, place_of(error),
        )  # fmt: skip

    def _request(self, now: UnderWay) -> dict[str, Any]:
        """The request as Celery's message protocol 2 would bring it."""
        carried = json.loads(now.operation.options) if now.operation.options else {}
        now.keeps_result = not carried.get("ignore_result", self._app.tasks[now.operation.task].ignore_result)
        links, errbacks = _listed(carried.pop("link", None)), carried.pop("link_error", None)
        if self._app.tasks[now.operation.task].redact:
            now.links = {"callbacks": links, "chain": carried.get("chain")}
            links = None
            carried |= {"chain": _emptied(carried["chain"])} if carried.get("chain") else {}
        stamps = {name: carried.get(name) for name in carried.get("stamped_headers") or ()}
        return {
            "lang": "py", "task": now.operation.task, "id": now.id, "root_id": carried.pop("root_id", now.id),
            "group": carried.pop("group_id", None), "retries": now.retries, "hostname": self._hostname,
            "timelimit": [carried.pop("time_limit", None), carried.pop("soft_time_limit", None)],
            "argsrepr": REDACTED, "kwargsrepr": REDACTED, "is_eager": False, "utc": True, "correlation_id": now.id,
            "delivery_info": {"exchange": "", "routing_key": self._engine.settings.queue_name, "priority": 0},
            "callbacks": links, "errbacks": _listed(errbacks), "stamps": stamps,
        } | carried  # fmt: skip

    # --- settling it

    def _settle(self, now: UnderWay, claim: Claim, give_up: bool) -> Settlement | None:
        """Settle what was recorded when the answer arrived, whatever the trace made of it afterwards."""
        verdict, options = self._decide(now)
        if self._claim_with_settle and verdict == "delivered":
            options["then_claim"] = self._incarnation.holder
        failed = False
        while True:
            try:
                asked = boottime()
                settlement = self._journal.settle(
                    claim.lane,
                    claim.fence,
                    now.id,
                    verdict,
                    followers=now.followers,
                    give_up=give_up,
                    took_s=now.took_s,
                    **options,
                )
                if settlement.claim is not None:
                    self._claimed = settlement.claim, asked
                return settlement
            except StorageUnavailable as error:
                # Asking again is safe: a settle names its operation and its fence.
                if boottime() >= now.flight.claim_ends:
                    logger.error(
                        "An operation was answered but could not be settled (%s): it will be sent again.", error
                    )
                    return None
                # The next claim may have been granted, and nobody knows: that one comes due by itself.
                options.pop("then_claim", None)
                time.sleep(SETTLE_AGAIN_S)
            except Exception as error:
                if failed:
                    raise
                failed = True
                options.pop("then_claim", None)
                logger.error("The operation %s could not be settled; once more: %s", now.id, place_of(error))

    def _decide(self, now: UnderWay) -> tuple[Any, dict[str, Any]]:
        verdict, options = self._decide_outcome(now)
        now.settled_as, now.reason, now.pause_s = verdict, options.get("reason", ""), options.get("pause_s", 0.0)
        if verdict == "delivered" and now.outcome is not None:
            now.reason = now.outcome.reason
        return verdict, options

    def _decide_outcome(self, now: UnderWay) -> tuple[Any, dict[str, Any]]:
        outcome = now.outcome
        if outcome is not None and outcome.verdict is Verdict.RETRY and outcome.status is None:
            # No answer came. If that was the link, the next operations needn't find out one by one.
            self._link_holds(now)
        if now.retry_pause_s is not None:
            return self._retry(now, now.retry_pause_s)
        if outcome is None:
            # Reject, Ignore or an escape: nothing is known of the outcome, so nothing is settled.
            return "wait", {"pause_s": UNSETTLED_PAUSE_S, "reason": "unsettled"}
        if outcome.verdict is Verdict.DELIVERED:
            return "delivered", {}
        if outcome.verdict is Verdict.UNREACHABLE:
            return self._decide_unreachable(now, outcome)
        if outcome.verdict is Verdict.UNAUTHORIZED:
            return self._decide_unauthorized(now, outcome)
        if outcome.verdict is Verdict.HOLD:
            return "hold", {"reason": outcome.reason, "pause_s": OFFER_S}
        spent = outcome.verdict is Verdict.RETRY
        return self._bury(now, f"retries-spent:{outcome.reason}" if spent else outcome.reason)

    def _retry(self, now: UnderWay, pause_s: float) -> tuple[Any, dict[str, Any]]:
        outcome = now.outcome
        options: dict[str, Any] = {"pause_s": pause_s, "reason": outcome.reason if outcome else "retry"}
        if now.replacement is not None:
            options["replacement"] = self._engine.seal_bytes(now.replacement, now.lane, now.id)
        if outcome is not None and outcome.retry_after_s:
            options["floor_s"] = outcome.retry_after_s
        if outcome is not None and outcome.whole_upstream:
            options["upstream_s"] = outcome.retry_after_s or min(pause_s, RETRY_AFTER_CAP_S)
        return "retry", options

    def _decide_unreachable(self, now: UnderWay, outcome: Outcome) -> tuple[Any, dict[str, Any]]:
        """The link: closed if a probe fails too, and then the attempt doesn't count."""
        if not self._link_holds(now):
            return "wait", {"reason": outcome.reason}
        pause_s = (now.operation.policy or self._policy_of(now)).pause(now.retries)
        if pause_s is None:
            return self._bury(now, f"retries-spent:{outcome.reason}")
        return self._retry(now, pause_s)

    def _decide_unauthorized(self, now: UnderWay, outcome: Outcome) -> tuple[Any, dict[str, Any]]:
        """The credentials: the gate closes; but where no token could be fetched, it may be the link's fault."""
        if outcome.reason != TOKEN_UNREACHABLE or self._link_holds(now):
            self._link.refuse(outcome.reason)
        return "wait", {"reason": outcome.reason}

    def _link_holds(self, now: UnderWay) -> bool:
        """Probe at once. Where that fails, the gate closes, and this worker's door.

        The claim is kept meanwhile: a probe may last longer than what is left of it.
        """
        if self._is_foreign(now):
            return True
        with self._kept(now.flight, now.lane, now.stamp.fence, self._link.probe_lasts_s):
            online = self._link.recheck().online
        if not online:
            self._incarnation.door_closed = True
        return online

    def _is_foreign(self, now: UnderWay) -> bool:
        is_http = isinstance(self._app.tasks[now.operation.task], HttpTask)
        return is_http and self._engine.delivery.is_foreign(now.operation.args[1])

    def _policy_of(self, now: UnderWay) -> RetryPolicy:
        policy: RetryPolicy | None = self._app.tasks[now.operation.task].policy
        return policy or RetryPolicy()

    def _bury(self, now: UnderWay, reason: str) -> tuple[str, dict[str, Any]]:
        logger.error("The operation %s on lane %s became a dead letter: %s.", now.id, now.lane, reason)
        detail = now.outcome.detail if now.outcome else b""
        return "dead", {"reason": reason, "detail": self._engine.seal_detail(detail, now.lane, now.id)}


def _emptied(steps: list[Any]) -> list[Any]:
    """The steps of a chain without their arguments: enough to say that they won't run."""
    return [{**step, "args": (), "kwargs": {}} for step in steps]


def _listed(value: Any) -> list[Any] | None:
    return value if value is None or isinstance(value, list) else [value]
