"""What the log says of deliveries: a few lines, however many there are."""

import logging

import pytest

from fluxy_sync.journal import Claim, Journal
from fluxy_sync.progress import EACH_S, Progress
from tests.journal_steps import WORKER, queue


class Log:
    """A gateway's check each second, by a clock that goes on by hand."""

    def __init__(self, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
        self._journal, self._caplog, self.now = journal, caplog, 1000.0
        self.progress = Progress(lambda: self.now)
        caplog.set_level(logging.INFO, "fluxy_sync")

    def look(self, seconds: float = 1.0) -> list[str]:
        """So many seconds later: what the log says then."""
        self.now += seconds
        self._caplog.clear()
        self.progress.note(self._journal.tick("beat", "beat"), self._journal)
        return self._caplog.messages

    def deliver(self, verdict: str = "delivered") -> None:
        run = self._journal.claim(WORKER)
        assert isinstance(run, Claim)
        operation = self._journal.parse(run.records[0])
        self._journal.settle(run.lane, run.fence, operation.id, verdict, reason="422", give_up=True)  # type: ignore[arg-type]


@pytest.fixture
def log(journal: Journal, caplog: pytest.LogCaptureFixture) -> Log:
    return Log(journal, caplog)


def test_a_backlog_is_summed_up(journal: Journal, log: Log) -> None:
    """One line when deliveries begin, one each minute by outcome, and one when they have ended."""
    queue(journal, *[f"op-{n}" for n in range(6)])
    assert log.look() == []
    log.deliver()
    assert log.look() == ["Deliveries begin: 1 delivered; 5 operations wait."]
    for _ in range(2):
        log.deliver()
    log.deliver("dead")
    assert log.look() == []
    assert log.look(EACH_S) == ["Deliveries of the last 1 min 1 s: 2 delivered, 1 dead letter; 2 operations wait."]
    for _ in range(2):
        log.deliver()
    assert log.look(EACH_S) == ["Deliveries of the last 1 min: 2 delivered; 0 operations wait."]
    assert log.look(EACH_S) == ["Deliveries end: 5 delivered, 1 dead letter within 2 min 1 s; 0 operations wait."]
    assert log.look(EACH_S) == []


def test_tries_that_fail_are_told_too(journal: Journal, log: Log) -> None:
    """An upstream that answers 503 to all of them isn't silence."""
    queue(journal, "one")
    assert log.look() == []
    log.deliver("retry")
    assert log.look() == []
    assert log.look(EACH_S) == ["Deliveries begin: 0 delivered, 1 tried again; 1 operation waits."]


def test_an_idle_gateway_says_nothing(log: Log) -> None:
    """Not a line an hour."""
    assert [log.look(EACH_S) for _ in range(60)] == [[]] * 60
