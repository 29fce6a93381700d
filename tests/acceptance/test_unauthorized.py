"""Credentials that the upstream refuses: nothing is lost, nothing is counted, and it goes on by itself."""

import json
import time
from pathlib import Path

from fluxy_sync import FluxySync
from tests.conftest import Gateway, wait_until
from tests.journal_steps import let_pass
from tests.upstream import Upstream

TRIAL_S = 30
SETTLED_S = 5.1


def test_a_refused_token_closes_the_gate_and_burns_nothing(gateway: Gateway, upstream: Upstream) -> None:
    """Everything is kept; each 30 s one operation finds out; when it is taken, all goes on, each as a first attempt."""
    upstream.start()
    upstream.default(401)
    gateway.environment["FLUXY_SYNC_AUTH_BEARER"] = "stale"
    gateway.start("worker:one", "worker:two", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue_many([{"method": "POST", "path": f"/{n}", "lane": f"{n % 3}"} for n in range(9)])
    wait_until(lambda: sync.status().gate == "unauthorized")
    status = sync.status()
    assert (status.pending, status.retrying, status.dead, status.reason) == (9, 0, 0, "401")
    wait_until(lambda: not sync.status().is_syncing)
    tried = len(upstream.requests())
    assert tried <= 4, "one for each process at most"

    let_pass(sync.engine.journal, TRIAL_S)
    wait_until(lambda: len(upstream.requests()) == tried + 1)
    wait_until(lambda: not sync.status().is_syncing)
    assert sync.status().gate == "unauthorized"

    upstream.default(201)
    let_pass(sync.engine.journal, TRIAL_S)
    wait_until(lambda: sync.status().pending == 0)
    assert sync.status().gate == "open"
    taken = [r for r in upstream.requests() if r["status"] == 201]
    assert {r["attempt"] for r in taken} == {1}
    for lane in range(3):
        assert [r["path"] for r in taken if int(r["path"][1:]) % 3 == lane] == [f"/{n}" for n in range(lane, 9, 3)]


def test_a_rotated_token_file_is_taken_up_after_a_401(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """The same request is sent again at once with the new token, and the gate stays open."""
    token = tmp_path / "token"
    token.write_text("old")
    upstream.start()
    gateway.environment["FLUXY_SYNC_AUTH_BEARER_FILE"] = str(token)
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings(auth_bearer="unused-here", auth_bearer_file=None))
    sync.queue("POST", "/first")
    wait_until(lambda: len(upstream.requests()) == 1)
    token.write_text("new")
    upstream.script("/second", [401, 201])
    sync.queue("POST", "/second")
    wait_until(lambda: sync.status().pending == 0)
    sent = [(r["path"], r["headers"]["authorization"], r["attempt"]) for r in upstream.requests()]
    assert sent == [("/first", "Bearer old", 1), ("/second", "Bearer old", 1), ("/second", "Bearer new", 1)]
    assert sync.status().gate == "open"


def test_one_refresh_serves_all_lanes_and_workers(gateway: Gateway, upstream: Upstream) -> None:
    """OAuth2: two workers with two processes each share one token, and one new one after a 401."""
    upstream.start()
    tokens = [{"access_token": f"token-{n}", "token_type": "Bearer", "expires_in": 3600} for n in range(9)]
    upstream.script("/token", [{"status": 200, "body": json.dumps(token)} for token in tokens])
    upstream.default({"status": 201, "delay_s": 0.02})
    gateway.environment |= {
        "FLUXY_SYNC_AUTH_OAUTH2_TOKEN_URL": f"{upstream.url}/token",
        "FLUXY_SYNC_AUTH_OAUTH2_CLIENT_ID": "gateway-7",
        "FLUXY_SYNC_AUTH_OAUTH2_CLIENT_SECRET": "xyzzy-secret",
    }
    gateway.start("worker:one", "worker:two", "beat")
    sync = FluxySync(gateway.settings())
    operations = [{"method": "POST", "path": f"/a/{n}", "lane": f"{n % 8}"} for n in range(80)]
    sync.queue_many(operations)
    wait_until(lambda: sync.status().pending == 0)
    assert sum(r["path"] == "/token" for r in upstream.requests()) == 1
    fetched = next(r["mono"] for r in upstream.requests() if r["path"] == "/token")
    wait_until(lambda: time.monotonic() - fetched > SETTLED_S)  # a token that was just fetched isn't fetched again
    upstream.script("/b", [401])
    sync.queue_many([{**operation, "path": operation["path"].replace("/a", "/b")} for operation in operations])
    wait_until(lambda: sync.status().pending == 0)
    assert sum(r["path"] == "/token" for r in upstream.requests()) == 2
    used = [
        r["headers"]["authorization"] for r in upstream.requests() if r["path"].startswith("/b") and r["status"] == 201
    ]
    assert "Bearer token-1" in used
    assert {r["attempt"] for r in upstream.requests() if r["path"] != "/token"} == {1}
    assert sync.status().gate == "open"
    everything = gateway.log("worker:one") + gateway.log("worker:two") + gateway.log("beat")
    assert "xyzzy-secret" not in everything
    assert "token-" not in everything


def test_a_token_endpoint_that_is_away_holds_everything(gateway: Gateway, upstream: Upstream) -> None:
    """Nothing is sent without credentials; with the endpoint back, it goes on by itself."""
    upstream.start()
    upstream.script("/token", [503] * 50)
    gateway.environment |= {
        "FLUXY_SYNC_AUTH_OAUTH2_TOKEN_URL": f"{upstream.url}/token",
        "FLUXY_SYNC_AUTH_OAUTH2_CLIENT_ID": "gateway-7",
        "FLUXY_SYNC_AUTH_OAUTH2_CLIENT_SECRET": "xyzzy-secret",
    }
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/waits")
    wait_until(lambda: sync.status().gate == "unauthorized")
    assert sync.status().reason.startswith("token-")
    answer = json.dumps({"access_token": "t", "token_type": "Bearer", "expires_in": 3600})
    upstream.script("/token", [{"status": 200, "body": answer}])
    let_pass(sync.engine.journal, TRIAL_S)
    wait_until(lambda: sync.status().pending == 0, 40)
    sent = [r for r in upstream.requests() if r["path"] != "/token"]
    assert [(r["headers"]["authorization"], r["attempt"]) for r in sent] == [("Bearer t", 1)]
    assert sync.status().gate == "open"


def test_a_401_elsewhere_holds_only_its_lane(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """From an allowed foreign origin, or to an operation with an Authorization of its own: no gate closes for it."""
    upstream.start()
    with Upstream(tmp_path / "foreign.jsonl") as foreign:
        gateway.environment |= {"FLUXY_SYNC_AUTH_BEARER": "mine", "FLUXY_SYNC_ALLOWED_ORIGINS": foreign.url}
        foreign.script("/theirs", [401, 201])
        upstream.script("/own", [401, 201])
        gateway.start("worker", "beat")
        sync = FluxySync(gateway.settings())
        sync.queue("POST", f"{foreign.url}/theirs", lane="theirs")
        sync.queue("POST", "/own", lane="own", headers={"Authorization": "Bearer of-the-operation"})
        wait_until(lambda: sync.status().held == 2)
        assert (sync.status().gate, sync.status().held_for) == ("open", {"credentials": 2})
        sync.queue("POST", "/free", lane="free")
        wait_until(lambda: len(upstream.requests()) == 2)
        let_pass(sync.engine.journal, TRIAL_S)
        wait_until(lambda: sync.status().pending == 0)
        assert [r["headers"].get("authorization") for r in foreign.requests()] == [None, None]
        assert {r["headers"]["authorization"] for r in upstream.requests() if r["path"] == "/own"} == {
            "Bearer of-the-operation"
        }
