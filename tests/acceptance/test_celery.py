"""To a Celery user each operation is a Celery task (DESIGN, from an operation to its outcome)."""

import base64
import importlib
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, group

from fluxy_sync import FluxySync, HttpTask, InvalidOperation, RetryPolicy, SyncTask, create_app, install
from fluxy_sync.operation import SYNC_OP
from fluxy_sync.sealing import REDACTED, register_vault
from fluxy_sync.vault import Vault, new_key
from tests.conftest import ROOT, Gateway, wait_until
from tests.upstream import Upstream, free_port


class Broker(socketserver.ThreadingTCPServer):
    """Something MQTT-like: takes a line, answers 'ack' or 'nak'."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.lines: list[str] = []
        super().__init__(("127.0.0.1", port), BrokerHandler)


class BrokerHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().decode().strip()
        if line and isinstance(self.server, Broker):
            self.server.lines.append(line)
            self.wfile.write(b"nak\n" if "poison" in line else b"ack\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("celery")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Upstream]:
    with Upstream(folder / "upstream.jsonl") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(free_port()) as mqtt:
        threading.Thread(target=mqtt.serve_forever, daemon=True).start()
        yield mqtt
        mqtt.shutdown()


@pytest.fixture(scope="module")
def running(store_url: str, folder: Path, server: Upstream, broker: Broker) -> Iterator[Gateway]:
    """One gateway for all tests here, with a user's tasks in its worker."""
    settings = {
        "REDIS_URL": store_url, "KEYS": new_key(), "UPSTREAM": server.url, "NAMESPACE": f"celery{os.getpid()}",
        "DATA_DIR": str(folder / "data"), "IMPORTS": "tests.user_tasks",
    }  # fmt: skip
    gateway = Gateway(settings, folder)
    gateway.environment |= {"NOTES": str(folder / "notes"), "MQTT_PORT": str(broker.server_address[1])}
    (folder / "notes").touch()
    gateway.start("worker", "beat")
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def app(running: Gateway) -> Celery:
    return create_app(running.settings(imports=()))


@pytest.fixture(scope="module")
def sync(app: Celery) -> FluxySync:
    return FluxySync(app=app)


def arrived(server: Upstream, path: str) -> dict[str, Any]:
    found: dict[str, Any] = wait_until(
        lambda: next((r for r in server.requests() if r["path"] == path), None), what=path
    )
    return found


def test_delay_returns_an_async_result_whose_id_is_the_key(app: Celery, server: Upstream) -> None:
    """The task's id, the operation's id and the Idempotency-Key are one."""
    result = app.tasks[SYNC_OP].delay("POST", "/delay", body={"a": 1})
    request = arrived(server, "/delay")
    assert request["key"] == result.id
    assert request["body"] == '{"a":1}'
    assert request["headers"]["content-type"] == "application/json"


def test_an_operations_handle_tells_its_state_and_cancels(sync: FluxySync, server: Upstream) -> None:
    """``op.state`` goes from syncing over retrying to gone; ``op.cancel`` takes only what isn't being sent."""
    server.script("/handle/first", ["stall", 201])
    first = sync.queue("POST", "/handle/first", lane="handle")
    second = sync.queue("POST", "/handle/second", lane="handle")
    third = sync.queue("POST", "/handle/third", lane="handle")
    arrived(server, "/handle/first")
    assert (first.state, second.state) == ("syncing", "pending")
    assert (first.cancel(), second.cancel(), second.cancel()) == (False, True, False)
    server.release(503)
    wait_until(lambda: first.state == "retrying")
    wait_until(lambda: (first.state, second.state, third.state) == ("gone", "gone", "gone"))
    paths = [r["path"] for r in server.requests() if r["path"].startswith("/handle")]
    assert paths == ["/handle/first", "/handle/first", "/handle/third"]


def test_an_operation_that_spends_its_retries_is_a_dead_letter(sync: FluxySync, server: Upstream) -> None:
    """A policy of its own: one retry, then it is kept as dead, and its lane goes on; a refused one is dead at once."""
    server.script("/spent", [503, 503])
    server.script("/no", [422])
    spent = sync.queue("POST", "/spent", body=b"\x00\xff", lane="spent", policy=RetryPolicy(1, base_s=0.1, cap_s=0.1))
    refused = sync.queue("POST", "/no", lane="spent")
    sync.queue("POST", "/after-spent", lane="spent")
    arrived(server, "/after-spent")
    assert (spent.state, refused.state) == ("dead", "dead")
    tries = [r for r in server.requests() if r["path"] == "/spent"]
    assert [r["attempt"] for r in tries] == [1, 2]
    assert tries[0]["headers"]["content-type"] == "application/octet-stream"
    assert {base64.b64decode(r["body"]) for r in tries} == {b"\x00\xff"}


def test_states_follow_celerys_rule_where_results_are_kept(app: Celery, server: Upstream) -> None:
    """PENDING, STARTED while it is sent, RETRY while it waits, then SUCCESS; FAILURE for a refused one."""
    server.script("/states", ["stall", 503, 201])
    result = app.tasks[SYNC_OP].apply_async(("POST", "/states"), ignore_result=False, lane="states", countdown=0.5)
    assert result.state == "PENDING"
    wait_until(lambda: result.state == "STARTED")
    arrived(server, "/states")
    server.release(503)
    wait_until(lambda: result.state == "RETRY")
    wait_until(lambda: result.state == "SUCCESS")
    assert result.get(timeout=5) == {"status": 201, "headers": {}, "body": b""}
    server.script("/refused", [404])
    refused = app.tasks[SYNC_OP].apply_async(("POST", "/refused"), ignore_result=False, lane="states")
    wait_until(lambda: refused.state == "FAILURE")


def test_revoke_cancels_in_the_journal(app: Celery, sync: FluxySync, server: Upstream) -> None:
    """A revoked operation never leaves; its state is REVOKED where results are kept; what follows goes on."""
    task = app.tasks[SYNC_OP]
    first = task.apply_async(("POST", "/revoke/first"), lane="revoke", countdown=1.0)
    second = task.apply_async(("POST", "/revoke/second"), lane="revoke", ignore_result=False)
    third = task.apply_async(("POST", "/revoke/third"), lane="revoke")
    second.revoke()
    app.control.revoke(first.id)
    arrived(server, "/revoke/third")
    assert second.state == "REVOKED"
    assert [r["path"] for r in server.requests() if r["path"].startswith("/revoke")] == ["/revoke/third"]
    wait_until(lambda: sync.operation(third.id, "revoke").state == "gone")


def test_inspect_has_a_fluxy_command(app: Celery, server: Upstream) -> None:
    """``celery inspect fluxy`` answers with counts and the ids in flight, and no payload."""
    server.script("/inspected", ["stall"])
    result = app.tasks[SYNC_OP].apply_async(("POST", "/inspected"), lane="inspected")
    arrived(server, "/inspected")
    replies = app.control.broadcast("fluxy", reply=True, timeout=5.0, limit=1)
    server.release(201)
    answer = next(iter(replies[0].values()))
    assert {"pending", "syncing", "retrying", "dead", "gate"} <= set(answer)
    assert result.id in answer["in_flight"]
    assert "/inspected" not in repr(answer)


def test_eta_and_countdown_hold_an_operation_and_what_follows_it(app: Celery, server: Upstream) -> None:
    """A later operation of the lane doesn't overtake one that waits for its time."""
    task = app.tasks[SYNC_OP]
    task.apply_async(("POST", "/eta"), lane="eta", eta=datetime.now(UTC) + timedelta(seconds=1))
    task.apply_async(("POST", "/eta/behind"), lane="eta")
    queued = datetime.now(UTC).timestamp()
    arrived(server, "/eta/behind")
    times = {r["path"]: r["t"] for r in server.requests() if r["path"].startswith("/eta")}
    assert list(times) == ["/eta", "/eta/behind"]
    assert times["/eta"] - queued > 0.8


def test_a_group_queues_each_of_its_operations(app: Celery, server: Upstream) -> None:
    """``group`` works; the members share a group id and are delivered one by one."""
    task = app.tasks[SYNC_OP]
    result = group(task.si("POST", f"/group/{n}") for n in range(3)).apply_async()
    for n, member in enumerate(result.results):
        assert arrived(server, f"/group/{n}")["key"] == member.id


def test_a_chain_runs_its_steps_in_order(app: Celery, server: Upstream) -> None:
    """``chain`` with ``.si()``: each step is appended by the settle that delivers the one before it."""
    task = app.tasks[SYNC_OP]
    server.script("/chain/1", [503, 201])
    result = chain(task.si("POST", "/chain/1"), task.si("POST", "/chain/2"), task.si("POST", "/chain/3")).apply_async()
    assert arrived(server, "/chain/3")["key"] == result.id
    paths = [r["path"] for r in server.requests() if r["path"].startswith("/chain")]
    assert paths == ["/chain/1", "/chain/1", "/chain/2", "/chain/3"]


def test_a_chain_with_a_mutable_step_is_refused(app: Celery, sync: FluxySync) -> None:
    """``.s()`` would put the previous result where the method belongs: the sentence names ``.si()``."""
    task = app.tasks[SYNC_OP]
    first = task.si("POST", "/x").set(lane="refused", countdown=60)
    with pytest.raises(InvalidOperation, match=r"sync_op\.si.*nothing was accepted"):
        chain(first, task.s("POST", "/y")).apply_async()
    assert "refused" not in sync.engine.journal.lanes()


def test_a_mutable_step_that_shows_up_late_is_a_dead_letter(app: Celery, sync: FluxySync, server: Upstream) -> None:
    """Where ``.s()`` is only seen when it is reached, the step is refused then, and kept."""
    task, dead = app.tasks[SYNC_OP], sync.status().dead
    late = task.s("POST", "/late").set(task_id="late-step")
    task.apply_async(("POST", "/early"), link=group(late, task.si("POST", "/beside")), lane="late")
    arrived(server, "/early")
    wait_until(lambda: sync.status().dead == dead + 1)
    arrived(server, "/beside")
    assert sync.operation(late.id or "late-step").state == "dead"


def test_what_has_expired_is_not_sent(app: Celery, sync: FluxySync, server: Upstream) -> None:
    """An operation whose time is over becomes a dead letter; what follows on its lane goes out."""
    task = app.tasks[SYNC_OP]
    old = task.apply_async(("POST", "/expired"), lane="expiry", expires=datetime.now(UTC) - timedelta(seconds=1))
    task.apply_async(("POST", "/fresh"), lane="expiry", expires=60)
    arrived(server, "/fresh")
    assert sync.operation(old.id, "expiry").state == "dead"
    assert all(r["path"] != "/expired" for r in server.requests())


def test_a_date_may_be_given_and_a_person_may_send_it_nevertheless(
    app: Celery, sync: FluxySync, server: Upstream
) -> None:
    """What wasn't sent by its date is a dead letter; replayed by a person it is sent, whatever the date."""
    sync.pause("dates")
    soon, later = (datetime.now(UTC) + timedelta(seconds=s) for s in (1, 3600))
    late = sync.queue("POST", "/too-late", lane="dates", expires=soon)
    sync.queue("POST", "/in-time", lane="dates", expires=later)
    wait_until(lambda: datetime.now(UTC) > soon)
    sync.resume("dates")
    arrived(server, "/in-time")
    assert [letter.reason for letter in sync.dead_letters() if letter.id == late.id] == ["expired"]
    assert sync.replay(late.id) == 1
    arrived(server, "/too-late")


def test_what_a_task_changes_of_itself_leaves_the_rest_as_it_was(
    app: Celery, sync: FluxySync, server: Upstream
) -> None:
    """``self.retry`` with other arguments: the operation's own outcomes hold for what is sent then."""
    server.script("/reworded", [418] * 9)
    task = remote_task(app, "user.reworded", HttpTask)
    task.apply_async(
        ("POST", "/reworded"), {"body": {"n": 1}}, lane="reworded", outcomes={418: "delivered"}, task_id="rw"
    )
    wait_until(lambda: sync.operation("rw", "reworded").state == "gone")
    (request,) = [r for r in server.requests() if r["path"] == "/reworded"]
    assert json.loads(request["body"]) == {"was": {"n": 1}}
    assert request["key"] == "rw.1"


def test_a_task_that_changes_itself_into_what_cannot_be_sent_is_a_dead_letter(app: Celery, sync: FluxySync) -> None:
    """``self.retry`` with arguments that are refused: it isn't tried again as it was, and blocks no lane."""
    task = remote_task(app, "user.reworded", HttpTask)
    task.apply_async(("POST", "/reworded-badly"), {"body": {"n": 0}}, lane="badly", task_id="badly")
    wait_until(lambda: sync.operation("badly", "badly").state == "dead")
    assert [letter.reason for letter in sync.dead_letters() if letter.id == "badly"] == ["InvalidOperation"]


def test_links_are_called_sync_tasks_and_others(app: Celery, server: Upstream, running: Gateway) -> None:
    """A link that is a SyncTask goes through the journal, a plain task through the broker; sealed both ways."""
    task = app.tasks[SYNC_OP]
    plain = app.signature(
        "user.plain", args=("linked",), immutable=True, queue=f"{running.environment['FLUXY_SYNC_NAMESPACE']}.tasks"
    )
    task.apply_async(("POST", "/linking"), link=[task.si("POST", "/linked"), plain])
    arrived(server, "/linked")
    wait_until(lambda: "plain ('linked',)" in Path(running.environment["NOTES"]).read_text())


def test_a_plain_link_is_sealed_on_its_way(app: Celery, running: Gateway, store_url: str, server: Upstream) -> None:
    """What follows from an operation through the broker carries no argument in clear, not even in its headers."""
    queue = f"waiting-{running.environment['FLUXY_SYNC_NAMESPACE']}"
    plain = app.signature("user.plain", args=("link-marker",), immutable=True, queue=queue)
    app.tasks[SYNC_OP].apply_async(("POST", "/sealed-link"), link=plain)
    with redis.Redis.from_url(store_url) as client:
        message = wait_until(lambda: client.lindex(queue, 0))
        assert b"link-marker" not in message
        assert b"link-marker" not in base64.b64decode(json.loads(message)["body"])
        assert REDACTED in message.decode()
        client.delete(queue)


def test_beat_entries_are_journalled(server: Upstream) -> None:
    """A schedule entry of beat that names sync_op is an operation like any other."""
    arrived(server, "/heartbeat")


def test_send_task_goes_through_the_journal(app: Celery, sync: FluxySync, server: Upstream) -> None:
    """``send_task`` by name doesn't bypass the journal."""
    result = app.send_task(SYNC_OP, ("POST", "/by-name"), {"body": {"n": 1}}, lane="by-name", countdown=0.3)
    assert sync.operation(result.id, "by-name").state == "pending"
    assert arrived(server, "/by-name")["key"] == result.id


def test_a_raw_sealed_message_is_journalled(running: Gateway, server: Upstream) -> None:
    """Another program with our key sends a message of its own: the worker that receives it journals it."""
    name = register_vault(Vault.from_text([running.environment["FLUXY_SYNC_KEYS"]]), "elsewhere")
    elsewhere = Celery("elsewhere", broker=running.settings().broker.url, set_as_current=False)
    queue = running.settings().queue_name
    result = elsewhere.send_task(SYNC_OP, ("POST", "/raw"), {"body": {"n": 1}}, queue=queue, serializer=name)
    assert arrived(server, "/raw")["key"] == result.id
    elsewhere.close()


def test_a_raw_unsealed_message_becomes_a_dead_letter(running: Gateway, sync: FluxySync, server: Upstream) -> None:
    """Who can write to Redis but has no key must not make the gateway send anything."""
    elsewhere = Celery("elsewhere", broker=running.settings().broker.url, set_as_current=False)
    dead = sync.status().dead
    result = elsewhere.send_task(SYNC_OP, ("POST", "/forged"), {"body": {}}, queue=running.settings().queue_name)
    wait_until(lambda: sync.status().dead == dead + 1)
    assert sync.operation(result.id).state == "gone"  # it is kept, but not under the id that it claims
    assert all(r["path"] != "/forged" for r in server.requests())
    elsewhere.close()


def test_a_sync_task_may_speak_something_else(app: Celery, running: Gateway, broker: Broker, sync: FluxySync) -> None:
    """MQTT-like: a return is delivered; another exception is a dead letter, whose text appears nowhere in clear."""
    publish = remote_task(app, "user.publish")
    publish.apply_async(("till/1", "sale"), lane="mqtt")
    wait_until(lambda: "till/1 sale" in broker.lines)
    poison = publish.apply_async(("till/1", "poison-marker"), lane="mqtt")
    after = publish.apply_async(("till/1", "next"), lane="mqtt")
    wait_until(lambda: "till/1 next" in broker.lines)
    assert sync.operation(poison.id, "mqtt").state == "dead"
    wait_until(lambda: sync.operation(after.id, "mqtt").state == "gone")
    assert "poison-marker" not in running.log("worker")


def test_celerys_own_retry_options_hold_for_sync_tasks(app: Celery, running: Gateway, sync: FluxySync) -> None:
    """``autoretry_for`` retries in the journal, in its place, with Celery's count; no text of the error is logged."""
    result = remote_task(app, "user.again").apply_async(("retry-marker",), lane="again")
    wait_until(lambda: sync.operation(result.id, "again").state == "gone")
    notes = [line for line in Path(running.environment["NOTES"]).read_text().splitlines() if line.startswith("again")]
    assert notes == [f"again retry-marker {n}" for n in range(3)]
    assert "retry-marker" not in running.log("worker")


def remote_task(app: Celery, name: str, base: type[SyncTask] = SyncTask) -> Any:
    """The worker's task as a producer knows it: by its name alone."""

    def elsewhere(*args: Any, **kwargs: Any) -> None:
        """Its body is the worker's."""

    if name not in app.tasks:
        app.task(name=name, base=base, shared=False)(elsewhere)
    return app.tasks[name]


def test_eager_mode_runs_at_once(running: Gateway, server: Upstream, sync: FluxySync) -> None:
    """``task_always_eager`` delivers in the caller's process, without the journal."""
    eager = create_app(running.settings(imports=()))
    eager.conf.task_always_eager = True
    accepted = sync.status().rev
    result = eager.tasks[SYNC_OP].delay("POST", "/eager", body={"n": 1})
    assert result.state == "SUCCESS"
    assert any(r["path"] == "/eager" for r in server.requests())
    assert sync.status().rev >= accepted
    eager.close()


def test_a_users_own_app_keeps_its_tasks_and_serializers(running: Gateway, server: Upstream) -> None:
    """``install(app)`` adds ours and leaves the rest: other tasks, other queues, the serializer."""
    mine = Celery("mine", broker="memory://", set_as_current=False)
    mine.conf.task_serializer = "json"

    @mine.task(name="mine.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    install(mine, settings=running.settings(imports=()))
    assert mine.conf.task_serializer == "json"
    assert add.apply((1, 2)).get() == 3
    assert type(add).__mro__[1].__module__.startswith("celery")
    result = mine.tasks[SYNC_OP].delay("POST", "/from-mine", body={"n": 1})
    assert arrived(server, "/from-mine")["key"] == result.id
    mine.close()


def test_a_users_own_worker_serves_its_tasks_and_ours(
    gateway: Gateway, upstream: Upstream, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``install(app)``: one worker for both; their JSON stays, a kept result of a SyncTask is sealed in it."""
    queue = f"shop-{namespace}"
    for name, value in (gateway.environment | {"SHOP_QUEUE": queue}).items():
        monkeypatch.setenv(name, value)
    upstream.start()
    shop: Celery = importlib.import_module("tests.user_app").app
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.user_app",
        "worker",
        "-c",
        "2",
        "--without-mingle",
        "-l",
        "INFO",
    ]
    with (tmp_path / "shop.log").open("wb") as log:
        worker = subprocess.Popen([*command, "-Q", f"{queue},{namespace}.sync"], stdout=log, stderr=log, cwd=ROOT)
    try:
        assert shop.tasks["shop.add"].delay(1, 2).get(timeout=20) == 3
        shop.tasks[SYNC_OP].delay("POST", "/from-shop", body={"n": 1})
        wait_until(lambda: [r["path"] for r in upstream.requests()] == ["/from-shop"])
        kept = shop.tasks["shop.secret"].apply_async(("result-marker",), ignore_result=False)
        assert kept.get(timeout=20) == "result of result-marker"
        assert shop.AsyncResult(kept.id).get(timeout=20) == "result of result-marker"
        nothing = shop.tasks["shop.nothing"].apply_async(ignore_result=False)
        assert nothing.get(timeout=20) is None
        with redis.Redis.from_url(gateway.environment["FLUXY_SYNC_REDIS_URL"]) as client:
            stored = client.get(f"celery-task-meta-{kept.id}")
            assert b"fluxy-sealed:" in (client.get(f"celery-task-meta-{nothing.id}") or b"")
        assert stored is not None
        assert b"SUCCESS" in stored
        assert b"result-marker" not in stored
        assert "result-marker" not in (tmp_path / "shop.log").read_text()
    finally:
        worker.terminate()
        worker.wait(40)
        shop.close()
