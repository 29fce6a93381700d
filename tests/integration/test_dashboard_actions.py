"""What a signed-in person does by the dashboard: it happens, once, and the audit log knows who it was."""

from typing import Any

from fluxy_sync import FluxySync
from fluxy_sync.journal import Inventory, Journal
from tests.conftest import wait_until
from tests.dashboard import USER, Dashboard
from tests.journal_steps import die, held_for, letters, queue, waiting

WHO = f"{USER} (dashboard)"
BAD_BODIES = [
    [], "all", {"lane": 1}, {"lane": ""}, {"lane": "a\nb"}, {"lane": "l" * 201}, {"lanes": "a"}, {"lane": "a", "x": 1},
]  # fmt: skip
BAD_LETTERS = [
    [], {}, {"ids": []}, {"ids": "one"}, {"ids": [1]}, {"ids": ["two words"]}, {"ids": [""]}, {"ids": None},
    {"all": False}, {"all": 1}, {"all": None}, {"all": True, "ids": ["one"]}, {"all": True, "ids": None},
    {"all": True, "body": "x"}, {"ids": ["x"] * 1001}, {"all": True, "to": "middle"},
]  # fmt: skip


def noted(journal: Journal) -> list[tuple[str, str, str]]:
    """The audit log, the oldest first."""
    notes = Inventory(journal).notes(100)
    return [(note["who"], note["what"], note["which"]) for note in reversed(notes)]


def test_pause_and_resume(shown: Dashboard, journal: Journal) -> None:
    """The gate closes and opens; who does it a second time is told that nothing changed."""
    changed, same = {"changed": True, "in_flight": 0}, {"changed": False, "in_flight": 0}
    assert [shown.post("/api/sync/pause").json() for _ in range(2)] == [changed, same]
    assert journal.snapshot().gate == "paused"
    wait_until(lambda: shown.record()["reason"] == f"by {WHO}")
    assert [shown.post("/api/sync/resume").json() for _ in range(2)] == [changed, same]
    assert journal.snapshot().gate == "open"
    assert noted(journal) == [(WHO, what, "all lanes") for what in ("pause", "pause", "resume", "resume")]


def test_one_lane(shown: Dashboard, journal: Journal) -> None:
    """Only that lane waits; the others and the gate stay as they are. A lane's name may be in any script."""
    for lane in ("user:42", "gr\u00fc\u00dfe", "~0195"):
        queue(journal, f"op-of-{lane}".encode("ascii", "ignore").decode(), lane=lane)
        assert shown.post("/api/sync/pause", {"lane": lane}).json()["changed"]
        assert held_for(journal, lane) == ("paused",)
        assert shown.post("/api/sync/resume", {"lane": lane}).json()["changed"]
        assert held_for(journal, lane) == ()
    assert journal.snapshot().gate == "open"
    assert (WHO, "pause", "lane user:42") in noted(journal)


def test_replay(shown: Dashboard, journal: Journal) -> None:
    """Those that are named go back behind what waits, or in front of it; ids that aren't there count as none."""
    die(journal, "one", "two", "three")
    queue(journal, "later")
    assert shown.post("/api/sync/dead/replay", {"ids": ["two", "two", "gone"]}).json() == {"count": 1}
    assert waiting(journal) == ["later", "two"]
    assert shown.post("/api/sync/dead/replay", {"all": True, "to": "head"}).json() == {"count": 2}
    assert waiting(journal) == ["one", "three", "later", "two"]
    assert noted(journal) == [(WHO, "replay", "two, gone"), (WHO, "replay", "all")]


def test_drop(shown: Dashboard, journal: Journal) -> None:
    """Those that are named are gone for good, then all."""
    die(journal, "one", "two", "three")
    assert shown.post("/api/sync/dead/drop", {"ids": ["two"]}).json() == {"count": 1}
    assert [letter.id for letter in letters(journal)] == ["one", "three"]
    assert shown.post("/api/sync/dead/drop", {"all": True}).json() == {"count": 2}
    assert shown.post("/api/sync/dead/drop", {"all": True}).json() == {"count": 0}
    assert [what for _, what, _ in noted(journal)] == ["drop"] * 3


def test_what_is_not_understood_changes_nothing(shown: Dashboard, journal: Journal) -> None:
    """400 and one sentence, and not even the audit log has it: least of all is a slip taken for "all"."""
    die(journal, "one")
    cases: list[tuple[str, Any]] = [("/api/sync/pause", body) for body in BAD_BODIES]
    cases += [(f"/api/sync/dead/{what}", body) for what in ("replay", "drop") for body in BAD_LETTERS]
    for path, body in cases:
        answer = shown.post(path, body)
        assert (answer.status_code, answer.json().keys()) == (400, {"error"}), (path, body)
    for raw in (b"", b"null", b"{", b'{"lane": "\xff"}', b'{"lane": "\\ud800"}', b"[" * 10_000, b"\xef\xbb\xbf{}"):
        answer = shown.post_raw("/api/sync/pause", raw)
        assert answer.status_code == 400, raw[:20]
    assert (journal.snapshot().gate, journal.snapshot().dead) == ("open", 1)
    assert noted(journal) == []


def test_a_wake_token_is_not_held_up(shown: Dashboard, producer: FluxySync, journal: Journal) -> None:
    """The dashboard, without keys, can't publish one: after a resume somebody else may at once."""
    producer.pause()
    producer.queue("POST", "/x", body={})
    assert shown.post("/api/sync/resume").json()["changed"]
    assert journal.win_wake()
