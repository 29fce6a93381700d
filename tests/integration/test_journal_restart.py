"""The store is killed and comes back: the journal is as it was, whatever it holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Claim, Inventory, Journal, Quota, Store, connect
from tests.journal_reading import read
from tests.journal_steps import WORKER, claim, die, let_pass, letters, new, queue, settle_head

LANES = tuple("abcdefg")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path / "own") as store:
        yield store


def restart(running: EmbeddedStore) -> None:
    """As by a power cut."""
    process = running.process
    assert process is not None
    process.kill()
    process.wait()
    running.start()
    running.wait_ready()


def test_everything_is_as_it_was(running: EmbeddedStore) -> None:
    """Lanes, claims, backoffs, holds, dead letters, once keys, the gate and what the upstream asked for."""
    store = Store(connect(running.url))
    journal = Journal(store, "own", Quota(max_lane_pending=3, drop_oldest=True))
    inventory = Inventory(journal)
    die(journal, "dead-1", "dead-2")
    inventory.replay([(letters(journal)[0], b"another body")], "head")
    settle_head(journal, "retry", "a", reason="503", pause_s=300, floor_s=100)
    journal.append([new("key", "b", halt=True, once=b"o" * 16), new("depends", "b", expires_s=60)])
    settle_head(journal, "dead", "b", reason="422", detail=b"sealed answer")
    journal.append([new(f"op-{n}", "c", once=b"%016d" % n) for n in range(3)])
    journal.append([new("op-3", "c")])  # drops op-0
    journal.cancel("c", "op-2")
    journal.append([new("later", "d", countdown_s=600)])
    inventory.hold("d", "replay", 600)
    queue(journal, "flying", "behind", lane="e")
    queue(journal, "cleared", lane="f")
    runs = [claim(journal) for _ in range(3)]
    assert {run.lane for run in runs} == {"c", "e", "f"}
    inventory.clear("f", 1)
    fences = {run.lane: run.fence for run in runs}
    journal.settle("c", fences["c"], "op-1", "hold", reason="key:0badcafe", upstream_s=200)
    journal.close_gate("unauthorized", "401")
    journal.tick("beat", "b")
    before, snapshot = read(journal, LANES), journal.snapshot()
    restart(running)
    after = read(journal, LANES)
    for key, was in before.items():
        if key != "wake":  # a token is worth nothing
            assert after[key] == was, key
    found = journal.snapshot()
    assert (found.held_for, found.bytes, found.dropped_total) == (snapshot.held_for, snapshot.bytes, 1)
    assert journal.settle("e", fences["e"], "flying", "delivered").next_id == "behind"
    store.close()


def test_what_ticks_change_is_kept(running: EmbeddedStore) -> None:
    """Holds that ended, windows that are over, lanes that were brought forward: written though the system idles."""
    store = Store(connect(running.url))
    journal = Journal(store, "own", once_window_s=5)
    inventory = Inventory(journal)
    journal.append([new("keyed", once=b"o" * 16)])
    settle_head(journal, "delivered")
    inventory.hold("b", "replay", 5)
    journal.close_gate("unauthorized", "401")
    let_pass(journal, 10)
    journal.tick("beat", "b")
    restart(running)
    found = read(journal, LANES)
    assert (found["once"], found["held"], found["held for"], found["gate"]) == ({}, {}, {}, set())
    queue(journal, "one", lane="b")
    assert isinstance(journal.claim(WORKER), Claim)
    store.close()
