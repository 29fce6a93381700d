"""One flush in the test's own process, on a real store and a real upstream: what a claim is worth, and to whom."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from fluxy_sync import create_app, flush
from fluxy_sync.delivery import Flight, boottime
from fluxy_sync.flush import Flush
from fluxy_sync.incarnation import Incarnation
from fluxy_sync.journal import Journal
from fluxy_sync.journal.journal import CLAIM_S, CLOCK_MARGIN_S, TAKEOVERS_UNTIL_DEAD
from fluxy_sync.journal.store import ReplyLost
from fluxy_sync.lease_renewer import Keeper
from fluxy_sync.operation import SYNC_OP, Operation
from fluxy_sync.steward import make_link
from tests.conftest import Gateway, wait_until
from tests.journal_steps import let_pass
from tests.upstream import Upstream


class Process:
    """What a pool's process has: an app, a journal, a keeper, and who it is."""

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.app: Celery = create_app(gateway.settings())
        self.journal: Journal = self.app.fluxy_engine.journal
        self.incarnation = Incarnation(folder, "one")
        self.keeper = Keeper(self.journal)
        self.link = make_link(self.app, self.journal)

    def flush(self) -> int:
        return Flush(self.app, self.incarnation, self.link, self.keeper, "test", None).run()

    def queue(self, path: str, lane: str, **options: Any) -> Any:
        return self.app.tasks[SYNC_OP].apply_async(("POST", path), lane=lane, **options)

    def claim_ends_at(self, lane: str) -> int:
        """Journal time at which the claim ends, ms."""
        return int(self.journal.store.command("ZSCORE", self.journal.keys.fixed[1], lane))


@pytest.fixture
def process(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> Iterator[Process]:
    upstream.start()
    made = Process(gateway, tmp_path / "incarnation")
    yield made
    made.incarnation.close()


def test_what_was_found_dead_with_the_last_claim_of_a_slice_is_told(
    process: Process, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The claim came with the settlement that ended the slice, and isn't used: a head that it buried is reported."""
    monkeypatch.setattr(flush, "SLICE_S", 0.2)
    upstream.script("/first", [{"status": 201, "delay_s": 0.5}])
    process.queue("/first", "first")
    process.queue("/damaged", "second")
    process.journal.store.command("LSET", process.journal.keys.lane("second"), 0, b"\1nonsense")
    with caplog.at_level(logging.ERROR):
        assert process.flush() == 1
    assert process.journal.snapshot().dead == 1
    assert "An operation on lane second is damaged: it is kept as a dead letter." in caplog.text


def test_a_claim_is_renewed_while_an_expiry_is_looked_up(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream is asked for the time, which may take as long as a claim lasts."""
    monkeypatch.setattr(Keeper, "LOOK_S", 0.01)
    monkeypatch.setattr(Keeper, "RENEW_BELOW_S", CLAIM_S)
    process.queue("/dated", "dated", expires=datetime.now(UTC) + timedelta(hours=1))
    probe = process.link.probe

    def slow(**options: Any) -> Any:
        began = process.claim_ends_at("dated")
        wait_until(lambda: process.claim_ends_at("dated") > began, 5.0, "the claim is renewed")
        return probe(**options)

    monkeypatch.setattr(process.link, "probe", slow)
    assert process.flush() == 1
    assert process.journal.snapshot().delivered_total == 1


def test_an_operation_whose_claim_ended_unsent_has_not_failed(
    process: Process, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent: no errback runs, no failure is kept; it is delivered by the next claim."""
    claim = Journal.claim
    short = CLOCK_MARGIN_S + 0.001
    monkeypatch.setattr(Journal, "claim", lambda *args, **more: claim(*args, **more, length_s=short))
    errback = process.app.tasks[SYNC_OP].si("POST", "/errback").set(lane="errors")
    result = process.queue("/late", "late", ignore_result=False, link_error=errback)
    process.flush()
    monkeypatch.undo()
    assert upstream.requests() == []
    assert result.state == "RETRY"
    assert process.journal.snapshot().pending == 1
    wait_until(process.flush, what="its next claim")
    assert result.state == "SUCCESS"
    assert [request["path"] for request in upstream.requests()] == ["/late"]


def test_an_operation_whose_claims_replies_were_lost_is_delivered(
    process: Process, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times and more, by one process after another: it was never sent, so it has killed nobody."""
    process.queue("/one", "one")
    for number in range(2 * TAKEOVERS_UNTIL_DEAD):
        monkeypatch.setattr(Incarnation, "holder", f"other {number}")
        lose_reply(monkeypatch, "claim")
        with pytest.raises(ReplyLost):
            process.flush()
        let_pass(process.journal, CLAIM_S)
    assert upstream.requests() == []
    lose_reply(monkeypatch, "renew")  # by which the holder says that it begins: that is said again
    assert process.flush() == 1
    assert [request["path"] for request in upstream.requests()] == ["/one"]
    assert process.journal.snapshot().dead == 0


def test_a_record_in_another_versions_form_is_not_called_damaged(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens, so nobody changed it: it waits for a version that reads it."""
    encode = Operation.encode
    monkeypatch.setattr(Operation, "encode", lambda operation: encode(operation)[:-1])
    process.queue("/from-elsewhere", "a")
    process.flush()
    snapshot = process.journal.snapshot()
    assert (snapshot.dead, snapshot.pending) == (0, 1)
    assert snapshot.held_for == {"worker-error:UnreadableRecord": 1}


def lose_reply(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The next call is carried out, and its reply gets lost."""
    original: Callable[..., Any] = getattr(Journal, method)

    def losing(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Journal, method, original)
        original(*arguments, **options)
        raise ReplyLost("the store went away before it answered")

    monkeypatch.setattr(Journal, method, losing)


class Switching(dict[Flight, tuple[str, int]]):
    """The keeper's flights: a request comes in just when the keeper has seen that there is none."""

    def __init__(self, keeper: Keeper, comes: Flight) -> None:
        super().__init__()
        self._keeper, self._comes, self._armed = keeper, comes, True

    def _switch(self) -> None:
        if self._armed and threading.current_thread().name == "fluxy-keeper":
            self._armed = False
            self._keeper.add(self._comes, "a", 1)

    def __len__(self) -> int:
        count = super().__len__()
        self._switch()
        return count

    def items(self) -> Any:
        found = list(super().items())
        self._switch()
        return found


def test_a_request_that_comes_as_the_keeper_goes_to_sleep_is_looked_after(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is woken at its deadline like any other."""
    monkeypatch.setattr(Keeper, "LOOK_S", 0.01)
    keeper = Keeper(journal)
    ended = threading.Event()
    flight = Flight(claim_ends=float("inf"), deadline=boottime())
    monkeypatch.setattr(flight, "abort", ended.set)
    keeper._flights = Switching(keeper, flight)
    keeper._busy.set()  # of a request that has just ended
    assert ended.wait(5.0), "nobody looked"
    keeper.remove(flight)
