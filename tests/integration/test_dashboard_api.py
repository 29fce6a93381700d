"""What the dashboard's API tells: the truth of the journal, and no payload."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from fluxy_sync import FluxySync
from fluxy_sync.dashboard.openapi import RECORD
from fluxy_sync.journal import Inventory, Journal
from tests.conftest import wait_until
from tests.dashboard import Dashboard
from tests.journal_steps import claim, die, halted_by, let_pass, queue, settle_head

OF_THE_DASHBOARD = {"boot", "namespace", "delivered_per_s", "reason_text"}
RUNNING = {"oldest_age_s", "opens_in_s"}
MARKER = "xyzzy-plaintext-marker"


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


def test_the_record_is_the_status(shown: Dashboard, producer: FluxySync, namespace: str) -> None:
    """GET /api/sync equals FluxySync.status(), whatever happened; the dashboard adds who it is."""
    for step in (
        lambda: producer.queue_many([{"method": "POST", "path": "/x", "lane": lane} for lane in "aab"]),
        lambda: producer.pause("a"),
        lambda: producer.pause(),
        lambda: producer.clear_queue("b"),
    ):
        step()
        status = without(producer.status().to_dict(), *RUNNING)
        wait_until(lambda status=status: without(shown.record(), *OF_THE_DASHBOARD, *RUNNING) == status)
    record = shown.record()
    assert record.keys() == RECORD.keys()
    assert record["namespace"] == namespace
    assert record["reason_text"].startswith("by ")
    assert record["oldest_age_s"] >= 0


def test_lanes_tell_why_they_wait(shown: Dashboard, journal: Journal) -> None:
    """The longest waiting first, each with its head's state, its tries, and what it is held for, in words as well."""
    die(journal, "dead", lane="halted", halt=True)
    for lane in ("held", "retrying", "syncing", "halted", "waiting"):
        queue(journal, f"{lane}-1", f"{lane}-2", lane=lane)
        let_pass(journal, 1)
    Inventory(journal).hold("held")
    settle_head(journal, "retry", "retrying", reason="503", pause_s=60)
    assert claim(journal).lane == "syncing"
    found = shown.get("/api/sync/lanes").json()
    lanes = {lane["lane"]: lane for lane in found["lanes"]}
    ages = [lane["oldest_age_s"] for lane in found["lanes"]]
    assert all(before >= after for before, after in pairwise(ages))
    assert {name: lane["state"] for name, lane in lanes.items()} == {
        "held": "held", "retrying": "retrying", "syncing": "syncing", "halted": "held", "waiting": "pending"
    }  # fmt: skip
    assert (lanes["retrying"]["retries"], lanes["retrying"]["last_error"]) == (1, "503")
    assert lanes["retrying"]["last_error_text"] == "the upstream answered 503 Service Unavailable"
    assert 50 < lanes["retrying"]["next_try_in_s"] <= 60
    assert lanes["held"]["held_for"] == ["paused"]
    assert lanes["halted"]["held_for"] == [halted_by("dead")]
    assert lanes["halted"]["held_for_text"] == ["halted by the dead letter dead"]
    assert {lane["pending"] for lane in found["lanes"]} == {2}
    assert (found["more"], lanes["waiting"]["last_error"]) == (0, None)
    assert shown.get("/api/sync/lanes?limit=2").json()["more"] == 3


def test_cancelled_operations_do_not_hide_a_lane(shown: Dashboard, journal: Journal) -> None:
    """A lane whose first records were cancelled shows its first operation, and counts what is left."""
    queue(journal, *(f"op{n}" for n in range(30)))
    for n in range(1, 29):
        journal.cancel("a", f"op{n}")
    journal.cancel("a", "op0")
    (lane,) = shown.get("/api/sync/lanes").json()["lanes"]
    assert (lane["pending"], lane["state"]) == (1, "pending")


def test_a_paused_lane_is_shown_though_it_is_empty(shown: Dashboard, journal: Journal) -> None:
    """Last, and held: whoever looks for what keeps a lane from sending finds it, and can let it go on."""
    queue(journal, "one", lane="busy")
    inventory = Inventory(journal)
    for lane in ("empty", "busy"):
        inventory.hold(lane)
    inventory.hold("broken", "credentials")
    busy, empty = shown.get("/api/sync/lanes").json()["lanes"]
    assert (busy["lane"], busy["pending"], busy["held_for"]) == ("busy", 1, ["paused"])
    assert (empty["lane"], empty["pending"], empty["state"], empty["held_for"]) == ("empty", 0, "held", ["paused"])
    assert (empty["oldest_age_s"], empty["next_try_in_s"], empty["last_error"]) == (None, None, None)
    shown.post("/api/sync/resume", {"lane": "empty"})
    assert [lane["lane"] for lane in shown.get("/api/sync/lanes").json()["lanes"]] == ["busy"]
    assert len(shown.get("/api/sync/lanes?limit=1").json()["lanes"]) == 1


def test_dead_letters_come_in_pages(shown: Dashboard, journal: Journal) -> None:
    """In the order in which they died; ``next`` goes on until there are no more."""
    die(journal, "one", "two", "three", reason="422")
    first = shown.get("/api/sync/dead?limit=2").json()
    second = shown.get(f"/api/sync/dead?limit=2&after={first['next']}").json()
    assert [letter["id"] for letter in first["letters"] + second["letters"]] == ["one", "two", "three"]
    assert (second["next"], first["letters"][0]["reason_text"][:25]) == (None, "the upstream answered 422")
    assert first["letters"][0].keys() == {
        "number", "id", "lane", "reason", "reason_text", "retries", "died_at", "size", "halts"
    }  # fmt: skip


def test_the_last_hour_is_in_the_store(dashboard: Dashboard, journal: Journal) -> None:
    """Samples that were taken before the dashboard started are there, oldest first."""
    queue(journal, "one", "two")
    journal.tick("beat", "beat")
    settle_head(journal, "delivered")
    journal.tick("beat", "beat")
    dashboard.start()
    history = wait_until(lambda: (h := dashboard.get("/api/sync/history").json())["samples"] and h)
    assert history["now"].endswith("Z")
    assert all(before[0] <= after[0] for before, after in pairwise(history["samples"]))
    assert all(len(sample) == 4 for sample in history["samples"])


def test_bad_numbers_are_refused(shown: Dashboard) -> None:
    """In one sentence, with 400."""
    for query in (
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=\u0663",
        "limit=1e2",
        "limit=" + "9" * 99,
    ):
        answer = shown.get(f"/api/sync/lanes?{query}")
        assert answer.status_code == 400, query
        assert answer.json() == {"error": "limit is a whole number from 1 to 500"}
    assert shown.get("/api/sync/dead?after=-1").status_code == 400
    assert shown.get("/api/sync/dead?limt=5").json() == {"error": "the query takes after and limit"}
    assert shown.get("/api/sync/dead?after=%ff").status_code == 400
    assert shown.get("/api/sync/nothing").status_code == 404


def test_no_payload_and_no_secret_is_ever_shown(dashboard: Dashboard, producer: FluxySync, store_url: str) -> None:
    """On no page of Flower's or ours, and not in the log: not even to a dashboard that is given the keys."""
    sealed = producer.queue("POST", f"/{MARKER}", body={MARKER: MARKER}, headers={"X-M": MARKER}, keep_result=True)
    producer.app.backend.store_result(sealed.id, {"body": MARKER}, "SUCCESS")
    keys = producer.engine.settings.key_texts[0]
    dashboard.start("--logging=debug", FLUXY_SYNC_KEYS=keys)
    paths = ["/sync", "/workers", "/tasks", "/broker", f"/task/{sealed.id}", "/api/workers?refresh=1", "/api/tasks",
             f"/api/task/info/{sealed.id}", f"/api/task/result/{sealed.id}", "/api/queues/length", "/metrics",
             "/api/sync", "/api/sync/lanes", "/api/sync/dead", "/api/sync/history"]  # fmt: skip
    said = "".join(dashboard.get(path).text for path in paths)
    said += dashboard.post("/api/task/async-apply/fluxy_sync.sync_op", {"args": ["POST", f"/{MARKER}"]}).text
    said += dashboard.post("/api/task/send-task/some.task", {"args": [MARKER]}).text
    said += dashboard.log
    password = store_url.partition("//:")[2].partition("@")[0]
    assert len(password) > 8
    assert [secret for secret in (MARKER, keys, password) if secret in said] == []


def test_a_store_that_never_answered(dashboard: Dashboard, tmp_path: Path) -> None:
    """Nothing is known then, and that is said: 503, nulls on the stream, nothing but ``up 0`` in the metrics."""
    gone = f"unix://:pw@{tmp_path}/no.sock"
    dashboard.spawn(FLUXY_SYNC_REDIS_URL=gone)
    wait_until(lambda: "dashboard is at" in dashboard.log, 30)
    answer = dashboard.get("/api/sync")
    assert (answer.status_code, answer.json().keys()) == (503, {"error"})
    assert dashboard.get("/api/sync/lanes").status_code == 503
    assert dashboard.post("/api/sync/pause").status_code == 503
    with dashboard.events() as events:
        record = events.record()
    assert {name for name, value in record.items() if value is not None} == {"boot", "namespace", "stale"}
    assert record["stale"] is True
    ours = [line for line in dashboard.get("/metrics", auth=None).text.splitlines() if line.startswith("fluxy_sync")]
    assert ours == ["fluxy_sync_up 0.0"]
