"""The flush: claims lanes one after another, and delivers their operations in order, each as its Celery task."""

import contextlib
import logging
import threading
import time
from typing import Any

from celery.app.trace import build_tracer
from kombu.utils import json

from fluxy_sync.connectivity import Link
from fluxy_sync.delivery import Flight, Stamp, boottime, fence_scope
from fluxy_sync.errors import CorruptRecord, SealError, StorageUnavailable, UnknownKey
from fluxy_sync.http_task import HttpTask
from fluxy_sync.incarnation import Incarnation
from fluxy_sync.journal import Claim, Idle, Journal, Settlement, StoredRecord
from fluxy_sync.journal.journal import CLAIM_S, CLOCK_MARGIN_S
from fluxy_sync.journal.record import parse
from fluxy_sync.operation import Operation, Outcome, Verdict
from fluxy_sync.retry import RetryPolicy
from fluxy_sync.sealing import REDACTED
from fluxy_sync.tasks import SyncTask, UnderWay, under_way, wake

logger = logging.getLogger(__name__)

SLICE_S = 5.0  # after this, other messages of the worker get their turn
LINGER_S = 1.05  # a lane that comes due within this is waited for: the next tick may be that far away
LINGER_LOOK_S = 0.05
KEY_OFFER_S = 30.0
SETTLE_AGAIN_S = 0.1
UNSETTLED_PAUSE_S = 1.0


class Keeper:
    """A thread of each process that holds claims: renews them during a request, and ends what takes too long."""

    LOOK_S = 0.5
    RENEW_BELOW_S = (CLAIM_S - CLOCK_MARGIN_S) * 0.6

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._flights: dict[Flight, tuple[str, int]] = {}
        self._busy = threading.Event()
        threading.Thread(target=self._run, name="fluxy-keeper", daemon=True).start()

    def add(self, flight: Flight, lane: str, fence: int) -> None:
        self._flights[flight] = (lane, fence)
        self._busy.set()

    def remove(self, flight: Flight) -> None:
        del self._flights[flight]

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(self.LOOK_S)
            if not self._flights:
                self._busy.clear()
            for flight, (lane, fence) in list(self._flights.items()):
                self._look_after(flight, lane, fence)

    def _look_after(self, flight: Flight, lane: str, fence: int) -> None:
        now = boottime()
        if now >= flight.deadline:
            flight.abort()
        elif flight.claim_ends - now < self.RENEW_BELOW_S:
            try:
                if self._journal.renew(lane, fence):
                    flight.claim_ends = now + CLAIM_S - CLOCK_MARGIN_S
            except StorageUnavailable as error:
                logger.warning("The claim on a lane was not renewed: %s", error)


class Flush:
    """Drains lanes for one time slice, in one process of one worker."""

    def __init__(self, app: Any, incarnation: Incarnation, link: Link, keeper: Keeper, hostname: str) -> None:
        self._app, self._incarnation, self._link, self._keeper = app, incarnation, link, keeper
        self._engine = app.fluxy_engine
        self._journal: Journal = self._engine.journal
        self._hostname = hostname
        self._tracers: dict[str, Any] = {}
        self._claimed: tuple[Claim | Idle, float] | None = None
        self._claim_with_settle = False

    def run(self) -> int:
        """Claim and deliver until nothing is due, or the slice is over. Returns the operations settled."""
        try:
            return self._run()
        finally:
            self._give_back()

    def _run(self) -> int:
        ends, settled, first = time.monotonic() + SLICE_S, 0, True
        if self._stopping:
            self._journal.forget_wake()  # this token is used up, too
        while not self._stopping:
            claim, asked = self._next_claim(first)
            first = False
            if isinstance(claim, Idle):
                if claim.due_in_s is None or claim.due_in_s > LINGER_S or time.monotonic() >= ends:
                    break
                time.sleep(min(claim.due_in_s, LINGER_LOOK_S))
                continue
            if claim.call_helper:
                wake(self._app)
            settled += self._drain(claim, asked + claim.length_s - CLOCK_MARGIN_S, ends)
            if time.monotonic() >= ends:
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
        """Release a claim that came with the last settle's answer and isn't used."""
        claimed, self._claimed = self._claimed, None
        if claimed is not None and isinstance(claimed[0], Claim):
            with contextlib.suppress(StorageUnavailable):  # then the claim comes due by itself
                self._journal.release(claimed[0].lane, claimed[0].fence)

    @property
    def _stopping(self) -> bool:
        return self._incarnation.closing or self._incarnation.door_closed

    def _wake_if_won(self) -> None:
        if self._journal.win_wake():
            wake(self._app)

    def _drain(self, claim: Claim, claim_ends: float, slice_ends: float) -> int:
        """Deliver a claim's run. Returns the operations settled."""
        expected, settled, retries = "", 0, claim.retries
        for index, raw in enumerate(claim.records):
            last = index == len(claim.records) - 1
            stored = parse(raw)
            if expected and stored.id != expected:
                break  # cancelled or replaced meanwhile: this copy isn't the head any more
            stop = self._stopping or time.monotonic() >= slice_ends
            over = last or stop
            self._claim_with_settle = last and not stop
            settlement, claim_ends = self._deliver(claim, stored, claim_ends, retries, give_up=over)
            if settlement is None:
                break
            settled += settlement.status == "ok"
            if settlement.woken:
                wake(self._app)
            if not settlement.next_id or settlement.status == "fenced":
                return settled
            expected, retries = settlement.next_id, 0
            if over or self._stopping or settlement.gate != "open":
                break
        self._journal.release(claim.lane, claim.fence)
        return settled

    def _deliver(
        self, claim: Claim, stored: StoredRecord, claim_ends: float, retries: int, *, give_up: bool
    ) -> tuple[Settlement | None, float]:
        """One operation: open it, run it as its task, settle the outcome."""
        try:
            operation = self._open(claim, stored)
        except SealError as error:
            return self._settle_unopened(claim, stored, error, claim_ends, give_up)
        flight = Flight(claim_ends, boottime() + self._engine.delivery.deadline_s(len(stored.sealed)))
        now = UnderWay(
            operation, stored.id, claim.lane, self._stamp(claim, stored, operation, retries), flight, retries
        )
        if stored.expires_ms and claim.journal_ms >= stored.expires_ms:
            now.outcome = Outcome(Verdict.DEAD, "expired")
        else:
            self._trace(now, claim)
        asked = boottime()
        settlement = self._settle(now, claim, give_up)
        return settlement, asked + settlement.ends_in_s - CLOCK_MARGIN_S if settlement else claim_ends

    def _open(self, claim: Claim, stored: StoredRecord) -> Operation:
        operation: Operation = self._engine.open(stored, claim.lane)
        if not isinstance(self._app.tasks.get(operation.task), SyncTask):
            raise UnknownTask(operation.task)
        return operation

    def _stamp(self, claim: Claim, stored: StoredRecord, operation: Operation, retries: int) -> Stamp:
        key = f"{stored.id}.{operation.generation}" if operation.generation else stored.id
        scope = fence_scope(claim.epoch, self._engine.settings.namespace, claim.lane)
        return Stamp(key, retries + 1, claim.fence, scope)

    def _settle_unopened(
        self, claim: Claim, stored: StoredRecord, error: SealError, claim_ends: float, give_up: bool
    ) -> tuple[Settlement | None, float]:
        asked = boottime()
        if isinstance(error, CorruptRecord):
            logger.error(
                "The operation %s on lane %s is corrupt: it was moved to the dead letters.", stored.id, claim.lane
            )
            settlement = self._journal.settle(
                claim.lane, claim.fence, stored.id, "dead", reason="corrupt", give_up=give_up
            )
            return settlement, asked + settlement.ends_in_s - CLOCK_MARGIN_S
        reason = f"key:{error.key_id}" if isinstance(error, UnknownKey) else f"task:{error}"
        logger.error("The lane %s is held and kept: %s is missing here.", claim.lane, reason)
        settlement = self._journal.settle(
            claim.lane, claim.fence, stored.id, "hold", reason=reason, pause_s=KEY_OFFER_S
        )
        return settlement, claim_ends

    # --- running it

    def _trace(self, now: UnderWay, claim: Claim) -> None:
        """Run the operation through Celery's own tracer, so that all of Celery's ways hold for it."""
        task = self._app.tasks[now.operation.task]
        tracer = self._tracers.get(task.name)
        if tracer is None:
            tracer = self._tracers[task.name] = build_tracer(task.name, task, app=self._app, hostname=self._hostname)
        self._keeper.add(now.flight, claim.lane, claim.fence)
        try:
            with under_way(now):
                tracer(now.id, now.operation.args, now.operation.kwargs, self._request(now))
        finally:
            self._keeper.remove(now.flight)

    def _request(self, now: UnderWay) -> dict[str, Any]:
        """The request as Celery's message protocol 2 would bring it."""
        carried = json.loads(now.operation.options) if now.operation.options else {}
        links, errbacks = carried.pop("link", None), carried.pop("link_error", None)
        stamps = {name: carried.get(name) for name in carried.get("stamped_headers") or ()}
        return {
            "lang": "py", "task": now.operation.task, "id": now.id, "root_id": carried.pop("root_id", now.id),
            "group": carried.pop("group_id", None), "retries": now.retries, "hostname": self._hostname,
            "timelimit": [carried.pop("time_limit", None), carried.pop("soft_time_limit", None)],
            "argsrepr": REDACTED, "kwargsrepr": REDACTED, "is_eager": False, "utc": True, "correlation_id": now.id,
            "delivery_info": {"exchange": "", "routing_key": self._engine.settings.queue_name, "priority": 0},
            "callbacks": _listed(links), "errbacks": _listed(errbacks), "stamps": stamps,
        } | carried  # fmt: skip

    # --- settling it

    def _settle(self, now: UnderWay, claim: Claim, give_up: bool) -> Settlement | None:
        """Settle what was recorded when the answer arrived, whatever the trace made of it afterwards."""
        verdict, options = self._decide(now)
        if self._claim_with_settle and verdict == "delivered":
            options["then_claim"] = self._incarnation.holder
        while True:
            try:
                asked = boottime()
                settlement = self._journal.settle(
                    claim.lane, claim.fence, now.id, verdict, followers=now.followers, give_up=give_up, **options
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

    def _decide(self, now: UnderWay) -> tuple[Any, dict[str, Any]]:
        outcome = now.outcome
        if now.retry_pause_s is not None:
            reason = outcome.reason if outcome else "retry"
            replaced = now.replacement and self._engine.seal_bytes(now.replacement, now.lane, now.id)
            return "retry", {"pause_s": now.retry_pause_s, "reason": reason, "replacement": replaced or b""}
        if outcome is None:
            # Reject, Ignore or an escape: nothing is known of the outcome, so nothing is settled.
            return "wait", {"pause_s": UNSETTLED_PAUSE_S, "reason": "unsettled"}
        if outcome.verdict is Verdict.DELIVERED:
            return "delivered", {}
        if outcome.verdict is Verdict.UNREACHABLE:
            return self._decide_unreachable(now, outcome)
        if outcome.verdict in (Verdict.WAIT, Verdict.HOLD):
            return outcome.verdict.value, {"pause_s": outcome.retry_after_s or 0.0, "reason": outcome.reason}
        spent = outcome.verdict is Verdict.RETRY
        return self._bury(now, f"retries-spent:{outcome.reason}" if spent else outcome.reason)

    def _decide_unreachable(self, now: UnderWay, outcome: Outcome) -> tuple[Any, dict[str, Any]]:
        """The link: closed if a probe fails too, and then the attempt doesn't count."""
        foreign = isinstance(self._app.tasks[now.operation.task], HttpTask)
        foreign = foreign and self._engine.delivery.is_foreign(now.operation.args[1])
        if not foreign and not self._link.recheck().online:
            self._incarnation.door_closed = True
            return "wait", {"reason": outcome.reason}
        pause_s = (now.operation.policy or self._policy_of(now)).pause(now.retries)
        if pause_s is None:
            return self._bury(now, f"retries-spent:{outcome.reason}")
        return "retry", {"pause_s": pause_s, "reason": outcome.reason}

    def _policy_of(self, now: UnderWay) -> RetryPolicy:
        policy: RetryPolicy | None = self._app.tasks[now.operation.task].policy
        return policy or RetryPolicy()

    def _bury(self, now: UnderWay, reason: str) -> tuple[str, dict[str, Any]]:
        logger.error("The operation %s on lane %s became a dead letter: %s.", now.id, now.lane, reason)
        detail = now.outcome.detail if now.outcome else b""
        return "dead", {"reason": reason, "detail": self._engine.seal_detail(detail, now.lane, now.id)}


class UnknownTask(SealError):
    """The worker doesn't know the operation's task: FLUXY_SYNC_IMPORTS misses a module."""


def _listed(value: Any) -> list[Any] | None:
    return value if value is None or isinstance(value, list) else [value]
