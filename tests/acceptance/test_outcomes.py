"""Each row of the outcome table, with a real worker and a real upstream that answers so."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, RetryPolicy
from fluxy_sync.journal import DeadLetter
from fluxy_sync.vault import new_key
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream, free_port

QUICK = RetryPolicy(max_retries=3, base_s=0.1, cap_s=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outcomes")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Upstream]:
    with Upstream(folder / "upstream.jsonl") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(store_url: str, folder: Path, server: Upstream) -> Iterator[Gateway]:
    """One gateway for all rows that leave its gate open."""
    settings = {
        "REDIS_URL": store_url, "KEYS": new_key(), "UPSTREAM": server.url, "NAMESPACE": f"outcomes{os.getpid()}",
        "DATA_DIR": str(folder / "data"), "READ_TIMEOUT_S": "1", "IMPORTS": "tests.signal_tasks",
    }  # fmt: skip
    gateway = Gateway(settings, folder)
    gateway.environment["NOTES"] = str(folder / "notes")
    gateway.start("worker", "beat")
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def sync(running: Gateway) -> FluxySync:
    return FluxySync(running.settings(imports=()))


def arrivals(server: Upstream, path: str) -> list[dict[str, Any]]:
    return [request for request in server.requests() if request["path"].startswith(path)]


def letter_of(sync: FluxySync, operation_id: str) -> DeadLetter:
    found = [letter for letter in sync.dead_letters() if letter.id == operation_id]
    assert len(found) == 1
    return found[0]


def settled(sync: FluxySync, server: Upstream, path: str, answers: list[Any], **options: Any) -> str:
    """Queue one operation that is answered so, and something behind it; its state once that has arrived."""
    server.script(path, answers)
    method = options.pop("method", "POST")
    operation = sync.queue(method, path, body={"row": path}, lane=path, policy=QUICK, **options)
    behind = sync.queue("POST", f"/behind{path}", lane=path)
    wait_until(lambda: behind.state == "gone", what=f"what follows {path}")
    order = [r["path"] for r in server.requests() if r["path"] in (path, f"/behind{path}")]
    assert order[-1] == f"/behind{path}", "nothing overtook it"
    assert order.count(f"/behind{path}") == 1
    return operation.state


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226])
def test_a_2xx_is_a_delivery(sync: FluxySync, server: Upstream, status: int) -> None:
    """One try, and it is gone."""
    path = f"/delivered/{status}"
    assert settled(sync, server, path, [status]) == "gone"
    assert len(arrivals(server, path)) == 1


@pytest.mark.parametrize(
    "failure",
    [
        408, 425, 500, 501, 502, 503, 504, 507, 599, "drop", "reset", "accept_then_drop", "stall",
        {"status": 409, "headers": {"Retry-After": "0"}}, {"status": 200, "headers": {"Content-Length": "99"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_may_pass_is_tried_again(sync: FluxySync, server: Upstream, failure: Any) -> None:
    """A busy or failing server, no answer in time, a connection lost after it was made, half an answer."""
    name = failure if not isinstance(failure, dict) else f"dict{failure['status']}"
    path, answers = f"/again/{name}", [failure, 201]
    if isinstance(failure, dict) and failure["status"] == 200:
        server.script(path, [{**failure, "body": "half"}])
    assert settled(sync, server, path, answers) == "gone"
    tries = arrivals(server, path)
    assert [r["attempt"] for r in tries] == [1, 2]
    assert len({(r["key"], r["body"]) for r in tries}) == 1


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 406, 409, 410, 412, 413, 415, 418, 422, 451])
def test_a_refusal_is_a_dead_letter(sync: FluxySync, server: Upstream, status: int) -> None:
    """With its status and the first bytes of the answer, which only the key opens; its lane goes on."""
    path, said = f"/refused/{status}", {"status": status, "body": "because of that"}
    server.script(path, [said])
    operation = sync.queue("POST", path, body={"row": path}, lane=path)
    wait_until(lambda: operation.state == "dead")
    assert (letter_of(sync, operation.id).reason, letter_of(sync, operation.id).retries) == (str(status), 0)
    found = sync.maintenance.find(operation.id)
    assert found is not None
    assert sync.maintenance.reveal_detail(found) == b"because of that"
    assert settled(sync, server, f"{path}/next", [201]) == "gone"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_changes_the_method_is_a_dead_letter(sync: FluxySync, server: Upstream, status: int) -> None:
    """A POST is never made a GET."""
    path = f"/moved/{status}"
    assert settled(sync, server, path, [{"status": status, "headers": {"Location": "/elsewhere"}}]) == "dead"
    assert arrivals(server, "/elsewhere") == []


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_method_and_origin_is_followed(sync: FluxySync, server: Upstream, status: int) -> None:
    """The same request, with the same key, at the other place."""
    path, other = f"/kept/{status}", f"/other/{status}"
    assert settled(sync, server, path, [{"status": status, "headers": {"Location": other}}]) == "gone"
    first, second = arrivals(server, path)[0], arrivals(server, other)[0]
    assert (first["key"], first["body"], first["method"]) == (second["key"], second["body"], second["method"])


def test_a_captive_portal_that_the_probe_does_not_meet_counts_as_a_retry(sync: FluxySync, server: Upstream) -> None:
    """A redirect to an origin that isn't allowed is the link's fault; it counts once a probe has succeeded after it."""
    assert settled(sync, server, "/portal", ["redirect", 201]) == "gone"
    assert [r["attempt"] for r in arrivals(server, "/portal")] == [1, 2]


def test_retries_that_are_spent_make_a_dead_letter(sync: FluxySync, server: Upstream) -> None:
    """It says what it met, and how often it was tried."""
    server.script("/spent", [503] * 9)
    operation = sync.queue("POST", "/spent", lane="spent", policy=QUICK)
    wait_until(lambda: operation.state == "dead")
    assert (letter_of(sync, operation.id).reason, letter_of(sync, operation.id).retries) == ("retries-spent:503", 3)
    assert len(arrivals(server, "/spent")) == 4


@pytest.mark.parametrize(
    ("rules", "method", "status", "state"),
    [
        ({"DELETE 404": "delivered"}, "DELETE", 404, "gone"),
        ({"DELETE 404": "delivered"}, "PUT", 404, "dead"),
        ({404: "delivered", "4xx": "dead"}, "PUT", 404, "gone"),
        ({"5xx": "dead"}, "POST", 503, "dead"),
        ({"4xx": "retry"}, "POST", 422, "gone"),
        ({200: "dead"}, "POST", 200, "dead"),
    ],
)
def test_an_operation_may_override_the_table(
    sync: FluxySync, server: Upstream, rules: dict[Any, str], method: str, status: int, state: str
) -> None:
    """The most specific rule counts; what no rule names stays as it is."""
    path = f"/ruled/{method}/{status}/{len(rules)}/{state}"
    assert settled(sync, server, path, [status], method=method, outcomes=rules) == state


def test_a_task_may_override_the_table(sync: FluxySync, server: Upstream, running: Gateway) -> None:
    """A user's own HTTP task counts a 404 on DELETE as delivered, and takes its retry policy along."""
    server.script("/own-task", [503, 404])
    sync.app.send_task("user.remove", ("DELETE", "/own-task"), task_id="own-task", queue=running.settings().queue_name)
    wait_until(lambda: len(arrivals(server, "/own-task")) == 2)
    wait_until(lambda: sync.status().pending == 0)
    assert sync.maintenance.find("own-task") is None


def test_what_expires_before_it_is_sent_is_a_dead_letter(sync: FluxySync, server: Upstream) -> None:
    """In journal time, behind something that took longer; it is kept, and says so."""
    server.script("/slow", [503, 503, 201])
    sync.queue("POST", "/slow", lane="expiry", policy=RetryPolicy(base_s=0.6, factor=1, cap_s=0.6))
    stale = sync.queue("POST", "/stale", lane="expiry", expires=0.3)
    fresh = sync.queue("POST", "/fresh", lane="expiry", expires=60)
    wait_until(lambda: fresh.state == "gone")
    assert stale.state == "dead"
    assert letter_of(sync, stale.id).reason == "expired"
    assert arrivals(server, "/stale") == []


def test_signals_tell_what_was_settled(sync: FluxySync, server: Upstream, running: Gateway) -> None:
    """Delivered, retried and dead fire in the worker, with ids, lane, status and times, and without a payload."""
    server.script("/told", [503, 201])
    server.script("/told/no", [422])
    told = sync.queue("POST", "/told", body={"secret": "xyzzy-told"}, lane="told", policy=QUICK)
    dead = sync.queue("POST", "/told/no", body={"secret": "xyzzy-told"}, lane="told")
    expired = sync.queue("POST", "/told/late", lane="told", expires=0.001)
    wait_until(lambda: expired.state == "dead")
    notes = wait_until(lambda: _notes(running, 4, told.id, dead.id, expired.id))
    said = [(kind, one, lane, status, attempt) for kind, one, lane, _, status, attempt, *_ in map(str.split, notes)]
    assert said == [
        ("retried", told.id, "told", "503", "1"),
        ("delivered", told.id, "told", "201", "2"),
        ("dead", dead.id, "told", "422", "1"),
        ("dead", expired.id, "told", "None", "0"),
    ]
    for line in notes:
        age, took = map(float, line.split()[6:8])
        assert 0 <= age < 60
        assert 0 <= took < 5
    assert "xyzzy" not in "".join(notes)


def _notes(running: Gateway, count: int, *ids: str) -> list[str]:
    path = Path(running.environment["NOTES"])
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line for line in lines if line.split()[1] in ids]
    return found if len(found) == count else []


# --- rows that close the gate


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://no-such-host.invalid", "dns"),
        ("http://127.0.0.1:{closed}", "refused"),
        ("https://127.0.0.1:{upstream}", "tls"),
    ],
    ids=["dns", "refused", "tls"],
)
def test_no_connection_closes_the_gate_and_burns_nothing(
    gateway: Gateway, upstream: Upstream, url: str, reason: str
) -> None:
    """The operation waits untried, and the status says why."""
    upstream.start()
    gateway.environment["FLUXY_SYNC_UPSTREAM"] = url.format(closed=free_port(), upstream=upstream.port)
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    operation = sync.queue("POST", "/waits", body={})
    wait_until(lambda: sync.status().gate == "offline")
    assert (sync.status().reason, sync.status().retrying, sync.status().pending) == (reason, 0, 1)
    wait_until(lambda: operation.state == "pending")


def test_a_captive_portal_closes_the_gate(gateway: Gateway, upstream: Upstream) -> None:
    """It redirects everything elsewhere: nothing goes there, no attempt counts, and all goes on once it is gone."""
    upstream.start()
    upstream.default("redirect")
    upstream.probe("redirect")
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/waits", body={})
    wait_until(lambda: sync.status().gate == "offline")
    assert (sync.status().reason, sync.status().retrying) == ("captive-portal", 0)
    upstream.default(201)
    upstream.probe(200)
    wait_until(lambda: sync.status().pending == 0, 40)
    assert [r["attempt"] for r in upstream.requests() if r["status"] == 201] == [1]


def test_a_429_makes_the_whole_upstream_wait_over_a_restart(gateway: Gateway, upstream: Upstream) -> None:
    """Nothing is sent to it before its Retry-After is over, on no lane, by no worker, not even after a restart."""
    upstream.start()
    upstream.script("/limited", [{"status": 429, "headers": {"Retry-After": "6"}}, 201])
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/limited", lane="a", policy=QUICK)
    wait_until(upstream.requests)
    limited_at = upstream.requests()[0]["mono"]
    sync.queue("POST", "/other", lane="b")
    waits = wait_until(lambda: sync.status().opens_in_s)
    assert 3 < waits <= 6
    assert (sync.status().gate, sync.status().reason) == ("open", "429")
    gateway.kill("worker")
    gateway.start("worker")
    wait_until(lambda: sync.status().pending == 0, 30)
    assert all(r["mono"] - limited_at >= 6 for r in upstream.requests()[1:])
    assert [r["attempt"] for r in upstream.requests() if r["path"] == "/limited"] == [1, 2]


def test_a_503_with_retry_after_holds_only_its_lane_over_a_restart(gateway: Gateway, upstream: Upstream) -> None:
    """Seconds or a date: a floor under the backoff that neither a success elsewhere nor a restart shortens."""
    upstream.start()
    upstream.script("/busy", [{"status": 503, "headers": {"Retry-After": "5"}}, 201])
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/busy", lane="a", policy=QUICK)
    wait_until(upstream.requests)
    sync.queue("POST", "/other", lane="b")
    wait_until(lambda: len(upstream.requests()) == 2)
    gateway.kill("worker")
    gateway.start("worker")
    wait_until(lambda: sync.status().pending == 0, 30)
    first, other, second = upstream.requests()
    assert (other["path"], second["path"]) == ("/other", "/busy")
    assert other["mono"] - first["mono"] < 4
    assert second["mono"] - first["mono"] >= 5


def test_the_first_success_brings_the_waiting_lanes_forward(gateway: Gateway, upstream: Upstream) -> None:
    """After a server's outage nothing waits for the rest of a long backoff, except where the server asked for that."""
    upstream.start()
    upstream.default(500)
    upstream.script("/asked", [{"status": 503, "headers": {"Retry-After": "12"}}])
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    patient = RetryPolicy(base_s=600, factor=1, cap_s=600)
    for n in range(5):
        sync.queue("POST", f"/waits/{n}", lane=f"waits{n}", policy=patient)
    sync.queue("POST", "/asked", lane="asked", policy=QUICK)
    wait_until(lambda: sync.status().retrying == 6)
    asked_at = next(r["mono"] for r in upstream.requests() if r["path"] == "/asked")
    upstream.default(201)
    sync.queue("POST", "/first", lane="first")
    wait_until(lambda: sync.status().pending == 0, 30)
    delivered = {r["path"]: r["mono"] for r in upstream.requests() if r["status"] == 201}
    assert all(0 <= delivered[f"/waits/{n}"] - delivered["/first"] < 5 for n in range(5))
    assert delivered["/asked"] - asked_at >= 12
