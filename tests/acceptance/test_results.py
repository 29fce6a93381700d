"""Kept answers, once keys, lanes that halt, pauses and poison, with a real worker."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from fluxy_sync import FluxySync, InvalidOperation, KeptAnswer, OperationFailed, ResultNotKept, ResultTimeout
from fluxy_sync.vault import new_key
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

MARKER = "xyzzy-kept-answer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Upstream]:
    with Upstream(folder / "upstream.jsonl") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(store_url: str, folder: Path, server: Upstream) -> Iterator[Gateway]:
    settings = {
        "REDIS_URL": store_url, "KEYS": new_key(), "UPSTREAM": server.url, "NAMESPACE": f"results{os.getpid()}",
        "DATA_DIR": str(folder / "data"), "IMPORTS": "tests.poison_task", "ONCE_WINDOW_S": "3", "RESULT_TTL_S": "60",
    }  # fmt: skip
    gateway = Gateway(settings, folder)
    gateway.start("worker", "beat")
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def sync(running: Gateway) -> FluxySync:
    return FluxySync(running.settings(imports=()))


def arrivals(server: Upstream, path: str) -> list[dict[str, Any]]:
    return [request for request in server.requests() if request["path"] == path]


# --- results


def test_a_kept_answer_brings_the_servers_id(sync: FluxySync, server: Upstream, running: Gateway) -> None:
    """Status, chosen headers and body come back; at rest they are sealed, and their time is bounded."""
    body = f'{{"id": 42, "note": "{MARKER}"}}'
    server.script("/kept", [503, {"status": 201, "body": body, "headers": {"Location": "/kept/42", "X-Other": "no"}}])
    operation = sync.queue("POST", "/kept", body={"local_id": "temp_1"}, lane="kept", keep_result=True)
    answer = operation.get(timeout=20)
    assert answer == KeptAnswer(201, {"location": "/kept/42"}, body.encode())
    assert answer.json()["id"] == 42
    assert sync.operation(operation.id, "kept").get(timeout=5) == answer
    with redis.Redis.from_url(sync.engine.settings.store_url) as client:
        key = f"celery-task-meta-{operation.id}"
        assert MARKER.encode() not in client.get(key)  # type: ignore[operator]
        assert 0 < client.ttl(key) <= 60  # type: ignore[operator]
    assert MARKER not in running.log("worker")


def test_only_64_kib_of_an_answer_are_kept(sync: FluxySync, server: Upstream) -> None:
    """However long it is."""
    server.script("/long", [{"status": 200, "body": "x" * 100_000}])
    answer = sync.queue("GET", "/long", lane="long", keep_result=True).get(timeout=20)
    assert len(answer.body) == 64 * 1024


def test_without_a_kept_result_get_says_so_at_once(sync: FluxySync, server: Upstream) -> None:
    """It doesn't wait for what never comes, neither on the handle nor on one made later."""
    operation = sync.queue("POST", "/unkept", lane="unkept", countdown=30)
    for handle in (operation, sync.operation(operation.id, "unkept"), sync.operation("never-queued")):
        began = time.monotonic()
        with pytest.raises(ResultNotKept, match="keep_result=True"):
            handle.get(timeout=20)
        assert time.monotonic() - began < 5
    assert operation.cancel()


def test_a_result_that_is_not_there_yet_is_waited_for(sync: FluxySync, server: Upstream) -> None:
    """Up to the timeout; the operation is none the worse for it."""
    operation = sync.queue("POST", "/later", lane="later", keep_result=True, countdown=2)
    with pytest.raises(ResultTimeout):
        operation.get(timeout=0.2)
    assert operation.get(timeout=20).status == 201


@pytest.mark.parametrize("way", ["refused", "expired", "cancelled", "cleared"])
def test_who_waits_for_a_result_learns_that_none_comes(sync: FluxySync, server: Upstream, way: str) -> None:
    """An operation that dies, is cancelled or cleared ends the wait with its reason."""
    server.script("/ends/refused", [{"status": 422, "body": MARKER}])
    late = {"countdown": 30.0} if way in ("cancelled", "cleared") else {}
    expires = {"expires": 0.001} if way == "expired" else {}
    operation = sync.queue("POST", f"/ends/{way}", lane=way, keep_result=True, **late, **expires)
    if way == "cancelled":
        assert operation.cancel()
    if way == "cleared":
        assert sync.clear_queue(way) == 1
    with pytest.raises(OperationFailed) as told:
        operation.get(timeout=20)
    assert told.value.reason == {"refused": "422", "expired": "expired"}.get(way, "cancelled")
    assert told.value.operation_id == operation.id
    assert MARKER not in str(told.value)


def test_asyncio_queues_and_many_at_once(sync: FluxySync, server: Upstream) -> None:
    """``aqueue`` and ``aqueue_many`` don't block the loop, and accept what ``queue`` accepts."""

    async def produce() -> list[str]:
        one, many = await asyncio.gather(
            sync.aqueue("POST", "/async/one", lane="async1"),
            sync.aqueue_many([{"method": "POST", "path": f"/async/{n}", "lane": "async2"} for n in range(3)]),
        )
        return [one.id, *(operation.id for operation in many)]

    ids = asyncio.run(produce())
    wait_until(lambda: sum(r["path"].startswith("/async/") for r in server.requests()) == 4)
    assert {r["key"] for r in server.requests() if r["path"].startswith("/async/")} == set(ids)


# --- once


def test_once_returns_the_first_one(sync: FluxySync, server: Upstream) -> None:
    """While it waits, and for a window after it left; then the key is free again."""
    server.script("/once", ["stall"])
    first = sync.queue("POST", "/once", lane="once", once="invoice:1")
    again = sync.queue("POST", "/once", lane="elsewhere", once="invoice:1")
    assert (again.id, again.lane) == (first.id, "once")
    wait_until(lambda: arrivals(server, "/once"))
    server.release(201)
    wait_until(lambda: first.state == "gone")
    left = time.monotonic()
    assert sync.queue("POST", "/once", lane="once", once="invoice:1").id == first.id
    assert sync.app.tasks["fluxy_sync.sync_op"].apply_async(("POST", "/once"), once="invoice:1").id == first.id
    later = wait_until(lambda: _another(sync, first.id), 20)
    assert time.monotonic() - left > 2.5
    wait_until(lambda: later.state == "gone")
    assert [r["key"] for r in arrivals(server, "/once")] == [first.id, later.id]


def _another(sync: FluxySync, first: str) -> Any:
    operation = sync.queue("POST", "/once", lane="once", once="invoice:1")
    return operation if operation.id != first else None


def test_a_once_key_in_one_batch_counts_too(sync: FluxySync, server: Upstream) -> None:
    """Two of one batch with the same key are one operation; the others are accepted."""
    batch = [{"method": "POST", "path": f"/batch/{n}", "lane": "batch", "once": key} for n, key in enumerate("aab")]
    first, second, third = sync.queue_many(batch)
    assert (first.id == second.id, first.id == third.id) == (True, False)
    wait_until(lambda: third.state == "gone")
    assert [r["path"] for r in server.requests() if r["path"].startswith("/batch/")] == ["/batch/0", "/batch/2"]


def test_once_keys_are_unreadable_at_rest(sync: FluxySync) -> None:
    """They are hashed with a secret that only the ring opens."""
    sync.queue("POST", "/hashed", lane="hashed", once=MARKER, countdown=30).cancel()
    with redis.Redis.from_url(sync.engine.settings.store_url) as client:
        prefix = f"{{{sync.engine.settings.namespace}}}:"
        once = client.hgetall(f"{prefix}once")
        assert once
        assert MARKER.encode() not in repr(once).encode() + client.get(f"{prefix}secret")  # type: ignore[operator]


@pytest.mark.parametrize("once", ["", "x" * 501, 7])
def test_a_bad_once_key_is_refused(sync: FluxySync, once: Any) -> None:
    """With a sentence, and nothing is accepted."""
    with pytest.raises(InvalidOperation, match=r"once=.*nothing was accepted"):
        sync.queue("POST", "/bad", once=once)


# --- lanes that halt, pauses


@pytest.mark.parametrize("end", ["replay", "drop"])
def test_a_lane_may_halt_until_a_person_acts(sync: FluxySync, server: Upstream, end: str) -> None:
    """After a dead letter nothing of that lane is sent, other lanes go on; replaying or dropping it lets it go."""
    lane = f"halt-{end}"
    server.script(f"/{lane}", [422, 201])
    bad = sync.queue("POST", f"/{lane}", lane=lane, on_dead="halt")
    behind = sync.queue("POST", f"/{lane}/behind", lane=lane)
    other = sync.queue("POST", f"/{lane}/other", lane=f"{lane}-other")
    wait_until(lambda: bad.state == "dead" and other.state == "gone")
    status = sync.status()
    assert (status.held, status.held_for) == (1, {"halted": 1})
    assert behind.state == "pending"
    assert (sync.replay(bad.id, to="head") if end == "replay" else sync.drop(bad.id)) == 1
    wait_until(lambda: behind.state == "gone")
    keys = [r["key"] for r in server.requests() if r["path"].startswith(f"/{lane}") and "other" not in r["path"]]
    # The server refused the first form for good: the replay is another request to it.
    assert keys == ([bad.id, f"{bad.id}.1", behind.id] if end == "replay" else [bad.id, behind.id])


def test_a_replay_with_another_body_has_another_key(sync: FluxySync, server: Upstream) -> None:
    """An edited replay goes out under a new key, behind what waits; the first form is never sent again."""
    server.script("/edit", [422, 201])
    operation = sync.queue("POST", "/edit", body={"n": 1}, headers={"X-Kept": "yes"}, lane="edit")
    wait_until(lambda: operation.state == "dead")
    assert sync.replay(operation.id, body={"n": 2}) == 1
    wait_until(lambda: operation.state == "gone")
    sent = [(r["key"], r["body"], r["headers"].get("x-kept")) for r in arrivals(server, "/edit")]
    assert sent == [(operation.id, '{"n":1}', "yes"), (f"{operation.id}.1", '{"n":2}', "yes")]
    assert sync.replay(operation.id, body={"n": 3}) == 0, "it isn't a dead letter any more"


def test_many_dead_letters_are_replayed_in_their_order(sync: FluxySync, server: Upstream) -> None:
    """All of a lane, to its head: in front of what waits, in the order in which they were queued."""
    server.script("/many", [422] * 450)
    dead = sync.queue_many([{"method": "POST", "path": f"/many/{n}", "lane": "many"} for n in range(450)])
    wait_until(lambda: dead[-1].state == "dead", 60)
    sync.pause("many")
    behind = sync.queue("POST", "/many/behind", lane="many")
    assert sync.replay([operation.id for operation in dead], to="head") == 450
    assert [one.id for one in sync.pending("many")] == [*(operation.id for operation in dead), behind.id]
    sync.resume("many")
    wait_until(lambda: behind.state == "gone", 60)
    order = [r["path"] for r in server.requests() if r["path"].startswith("/many") and r["status"] == 201]
    assert order == [*(f"/many/{n}" for n in range(450)), "/many/behind"]


def test_a_pause_says_when_the_last_flight_has_landed(sync: FluxySync, server: Upstream) -> None:
    """Of one lane: the request in flight ends, nothing more is sent, other lanes go on; resume lets it go."""
    server.script("/paused/1", ["stall"])
    sync.queue("POST", "/paused/1", lane="paused")
    second = sync.queue("POST", "/paused/2", lane="paused")
    wait_until(lambda: arrivals(server, "/paused/1"))
    assert not sync.pause("paused").landed
    server.release(201)
    assert sync.pause("paused", wait_s=10).landed
    sync.queue("POST", "/unpaused", lane="unpaused")
    wait_until(lambda: arrivals(server, "/unpaused"))
    assert second.state == "pending"
    assert sync.resume("paused")
    assert not sync.resume("paused")
    wait_until(lambda: second.state == "gone")


def test_a_pause_of_everything(sync: FluxySync, server: Upstream) -> None:
    """Nothing is sent on any lane; the status says who did it; resume ends it at once."""
    pause = sync.pause(wait_s=10)
    assert (pause.changed, pause.landed) == (True, True)
    operation = sync.queue("POST", "/all-paused", lane="all-paused")
    status = sync.status()
    assert status.gate == "paused"
    assert "(python)" in status.reason
    assert sync.resume()
    wait_until(lambda: operation.state == "gone")


# --- poison, and the audit log


def test_an_operation_that_kills_its_worker_five_times_is_a_dead_letter(sync: FluxySync, running: Gateway) -> None:
    """It says so; what waits behind it is delivered."""
    sync.app.send_task("user.poison", (), task_id="poison", queue=running.settings().queue_name)
    wait_until(lambda: sync.engine.journal.is_dead("poison"), 90)
    letter = next(letter for letter in sync.dead_letters() if letter.id == "poison")
    assert letter.reason == "killed-its-worker"
    assert running.log("worker").count("poison runs") == 5
    behind = sync.queue("POST", "/after-poison", lane=letter.lane)
    wait_until(lambda: behind.state == "gone")


def test_what_a_person_did_is_in_the_audit_log(sync: FluxySync) -> None:
    """Who, when, what, which: before it is done."""
    before = len(sync.maintenance.inventory.notes(1000))
    operation = sync.queue("POST", "/audited", lane="audited", countdown=30)
    sync.cancel(operation.id)
    sync.clear_queue("audited")
    sync.drop("no-such-id")
    notes = sync.maintenance.inventory.notes(1000)[: -before or None]
    assert [(note["what"], note["which"]) for note in notes] == [
        ("drop", "no-such-id"),
        ("clear", "lane audited"),
        ("cancel", operation.id),
    ]
    assert all("(python)" in note["who"] and abs(int(note["wall"]) / 1000 - time.time()) < 60 for note in notes)
