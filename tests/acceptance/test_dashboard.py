"""The dashboard as it is started: alone, as a role, and by ``up``; and what is done there reaches a real worker."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore
from tests.command_line import environment, fluxy_sync, is_one_sentence
from tests.conftest import ROOT, Gateway, wait_until
from tests.dashboard import Dashboard
from tests.upstream import Upstream

ALONE = ("-m", "fluxy_sync", "flower")
WAYS = [ALONE, ("-m", "fluxy_sync.app", "flower"), ("-m", "worker", "flower")]
NOWHERE = "redis://127.0.0.1:1/0"
MARKER = "xyzzy-plaintext-marker"


@pytest.fixture
def dashboard(gateway: Gateway, tmp_path: Path) -> Iterator[Dashboard]:
    """A dashboard of the gateway that isn't running yet."""
    hidden = ("FLUXY_SYNC_KEYS", "FLUXY_SYNC_UPSTREAM")
    made = Dashboard({name: v for name, v in gateway.environment.items() if name not in hidden}, tmp_path)
    yield made
    made.end()


def run(way: tuple[str, ...], *options: str, folder: Path, **variables: str) -> tuple[int, str]:
    """Start a dashboard that must not come up: its exit code, and what it said."""
    env = {**environment(folder / "data", REDIS_URL=NOWHERE), **variables}
    done = subprocess.run([sys.executable, *way, *options], env=env, capture_output=True, timeout=60, cwd=ROOT)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize("way", [*WAYS, ("-m", "fluxy_sync", "up")], ids=" ".join)
def test_an_open_api_is_refused(tmp_path: Path, way: tuple[str, ...]) -> None:
    """However it is started: with FLOWER_UNAUTHENTICATED_API nothing runs, and one sentence says why."""
    code, said = run(way, folder=tmp_path, FLOWER_UNAUTHENTICATED_API="true", FLUXY_SYNC_UPSTREAM="http://127.0.0.1:9")
    assert (code, is_one_sentence(said)) == (2, True), said
    assert "FLOWER_UNAUTHENTICATED_API" in said


@pytest.mark.parametrize(
    ("options", "variables", "named"),
    [
        (["--prot=5"], {}, "--prot"), (["-p5"], {}, "-p5"), (["--port"], {}, "port"),
        (["--inspect_timeout=x"], {}, "x"), (["--conf=/no/such/file.py"], {}, "/no/such/file.py"),
        ([], {"FLOWER_PORT": "x"}, "FLOWER_"), ([], {"FLOWER_READ_ONLY": "maybe"}, "FLOWER_"),
        ([], {"FLOWER_BASIC_AUTH": "ann"}, "user:password"), ([], {"FLOWER_BASIC_AUTH": "ann:,bob:x"}, "user:password"),
        ([], {"FLOWER_BASIC_AUTH": ":x"}, "user:password"), ([], {"FLOWER_BASIC_AUTH": "ann:sch\u00f6n"}, "ASCII"),
        ([], {"FLUXY_SYNC_DATA_DIR": "/dev/null/x"}, "FLOWER_BASIC_AUTH"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(tmp_path: Path, options: list[str], variables: dict[str, str], named: str) -> None:
    """Code 2 and one sentence that names it; Flower itself would pass over some, and run."""
    code, said = run(WAYS[1], *options, folder=tmp_path, **variables)
    assert (code, is_one_sentence(said)) == (2, True), said
    assert named in said


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """The sentence says where it can't listen."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run(ALONE, "--port", str(port), folder=tmp_path)
    assert (code, is_one_sentence(said)) == (2, True), said
    assert f"127.0.0.1:{port}" in said


def test_alone_it_needs_a_store_that_is_named(tmp_path: Path) -> None:
    """Without a gateway on this machine it ends with 3; its help has examples."""
    done = fluxy_sync("flower", env=environment(tmp_path / "data"))
    assert (done.returncode, is_one_sentence(done.stderr)) == (3, True), done.stderr
    told = fluxy_sync("flower", "--help", env=environment(tmp_path / "data"))
    assert (told.returncode, "Examples:" in told.stdout) == (0, True)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_private_by_default(dashboard: Dashboard, way: tuple[str, ...]) -> None:
    """Nobody said who may sign in: loopback alone, and a password that is made once, kept, and told to no log."""
    for name in ("FLOWER_BASIC_AUTH", "FLOWER_PORT"):
        del dashboard.environment[name]
    dashboard.environment["FLUXY_SYNC_DASHBOARD_PORT"] = str(dashboard.port)
    kept = dashboard.folder / "data" / "dashboard.password"
    passwords = set()
    for _ in range(2):
        dashboard.start(command=way)
        passwords.add(kept.read_text())
        wait_until(lambda: dashboard.get("/api/sync", auth=("fluxy", kept.read_text())).status_code == 200)
        assert dashboard.get("/api/sync", auth=("fluxy", "guess")).status_code == 401
        assert dashboard.process is not None
        listening = psutil.Process(dashboard.process.pid).net_connections("tcp")
        assert {one.laddr.ip for one in listening if one.status == "LISTEN"} == {"127.0.0.1"}
        assert dashboard.end() == 0
    assert len(passwords) == 1
    assert kept.stat().st_mode & 0o777 == 0o600
    assert passwords.pop() not in dashboard.log
    assert f"password in {kept}" in dashboard.log


def test_the_users_own_options_win(dashboard: Dashboard) -> None:
    """FLOWER_* before what would be made up, and the command line before both; an empty variable counts as unset."""
    dashboard.start("--port", str(dashboard.port), command=ALONE, FLOWER_PORT="1", FLOWER_AUTH="", FLOWER_MAX_TASKS="7")
    assert dashboard.get("/api/sync").status_code == 200
    assert not (dashboard.folder / "data" / "dashboard.password").exists()


def test_up_starts_it(upstream: Upstream, tmp_path: Path) -> None:
    """``up`` tells where it is; it has the kept password and no key; killed, it is back with another boot id."""
    data, log = tmp_path / "data", tmp_path / "up.log"
    env = environment(data, UPSTREAM=upstream.url, DASHBOARD_PORT="0", AUTH_BEARER="token-of-ours")
    with log.open("wb") as output:
        up = subprocess.Popen([sys.executable, "-m", "fluxy_sync", "up"], env=env, stdout=output, stderr=output)
    try:
        wait_until(lambda: "fluxy-sync is up" in log.read_text(), 60)
        found = re.search(r"dashboard (http://127\.0\.0\.1:\d+)", log.read_text())
        assert found is not None
        login = ("fluxy", (data / "dashboard.password").read_text())
        boots: list[str] = []

        def answers() -> bool:
            try:
                answer = requests.get(found[1] + "/api/sync", auth=login, timeout=5)
            except requests.ConnectionError:
                return False
            boots.append(answer.json().get("boot"))
            return answer.status_code == 200 and boots[-1] not in boots[:-1]

        wait_until(answers, 30)
        process = dashboard_below(up.pid)
        variables = process.environ()
        assert not {"FLUXY_SYNC_KEYS", "FLUXY_SYNC_KEYS_FILE", "FLUXY_SYNC_AUTH_BEARER"} & variables.keys()
        assert "token-of-ours" not in str(variables)
        process.kill()
        wait_until(answers, 30)
    finally:
        up.terminate()
        assert up.wait(60) == 0


def dashboard_below(pid: int) -> psutil.Process:
    """The dashboard's process among a gateway's."""
    (found,) = (one for one in psutil.Process(pid).children() if one.cmdline()[-1] == "flower")
    return found


def test_what_is_done_there_happens(
    gateway: Gateway, dashboard: Dashboard, sync: FluxySync, upstream: Upstream
) -> None:
    """A pause keeps operations, a resume sends them, and a replayed dead letter arrives: by a real worker."""
    upstream.start()
    upstream.script("/refused", [422, 201])
    gateway.start("worker", "beat")
    dashboard.start()
    assert dashboard.post("/api/sync/pause").json()["changed"]
    sync.queue("POST", "/refused", body={"n": 1})
    sync.queue("POST", "/fine", body={"n": 2}, lane="other")
    wait_until(lambda: dashboard.record()["pending"] == 2)
    assert upstream.requests() == []
    with dashboard.events() as events:
        assert dashboard.post("/api/sync/resume").json()["changed"]
        events.until(lambda record: record["dead"] == 1 and record["pending"] == 0)
        (letter,) = dashboard.get("/api/sync/dead").json()["letters"]
        assert letter["reason"] == "422"
        assert dashboard.post("/api/sync/dead/replay", {"ids": [letter["id"]]}).json() == {"count": 1}
        events.until(lambda record: record["delivered_total"] == 2 and record["dead"] == 0)
    assert [r["path"] for r in upstream.requests()].count("/refused") == 2
    counted = 'fluxy_sync_accept_to_delivered_seconds_bucket{le="+Inf"} 2.0'
    wait_until(lambda: counted in dashboard.get("/metrics", auth=None).text)
    assert "fluxy_sync_delivered_total 2.0" in dashboard.get("/metrics", auth=None).text


def test_flowers_pages_show_no_secret(
    gateway: Gateway, dashboard: Dashboard, upstream: Upstream, tmp_path: Path
) -> None:
    """With a worker that delivers and refuses, on a unix socket: no payload, key or password of the store.

    They do show the worker and the operations; and the worker is sent nothing that it can't read.
    """
    upstream.start()
    upstream.script(f"/{MARKER}/refused", [{"status": 422, "body": MARKER}])
    with EmbeddedStore(tmp_path / "own") as store:
        store.wait_ready()
        assert store.url.startswith("unix://")
        for settings in (gateway.environment, dashboard.environment):
            settings["FLUXY_SYNC_REDIS_URL"] = store.url
        gateway.start("worker", "beat")
        dashboard.start()
        workers = wait_until(lambda: dashboard.get("/workers?json=1").json()["data"])
        sync = FluxySync(gateway.settings())
        for kind in ("fine", "refused"):
            sync.queue("POST", f"/{MARKER}/{kind}", body={MARKER: MARKER}, lane=kind, keep_result=True)
        states = {"SUCCESS", "FAILURE"}
        tasks = wait_until(lambda: (t := dashboard.get("/api/tasks").json()) and states == states_of(t) and t)
        pages = ["/workers", "/broker", "/tasks", "/sync", "/worker/sync@one", "/api/workers?refresh=1"]
        pages += [f"/{kind}/{one}" for one in tasks for kind in ("task", "api/task/info", "api/task/result")]
        said = json.dumps([workers, tasks]) + "".join(dashboard.get(page).text for page in pages) + dashboard.log
        said += gateway.log("worker")
        dashboard.end()
        gateway.close()
    password = (tmp_path / "own" / "store.password").read_text().strip()
    assert [worker["hostname"] for worker in workers] == ["sync@one"]
    secrets = (MARKER, password, gateway.environment["FLUXY_SYNC_KEYS"])
    assert [secret for secret in secrets if secret in said] == []
    assert "Can't decode" not in said


def states_of(tasks: dict[str, Any]) -> set[str]:
    """The states that Flower's list has."""
    return {task["state"] for task in tasks.values()}


def test_flowers_revoke_cancels(gateway: Gateway, dashboard: Dashboard, sync: FluxySync) -> None:
    """The button on a task's page takes an operation out of the queue, noted in the audit log; nothing else is sent."""
    dashboard.start()
    waits = sync.queue("POST", "/x", body={})
    assert dashboard.post(f"/api/task/revoke/{waits.id}?terminate=true").status_code == 200
    assert sync.status().pending == 0
    assert dashboard.post(f"/api/task/revoke/{waits.id}").status_code == 404
    note = sync.maintenance.inventory.notes(1)[0]
    assert (note["who"], note["what"], note["which"]) == ("ann (dashboard)", "cancel", waits.id)
    for what in ("apply", "async-apply", "send-task", "timeout", "rate-limit"):
        assert dashboard.post(f"/api/task/{what}/fluxy_sync.sync_op").status_code == 403
    assert dashboard.post("/api/worker/shutdown/sync@one").status_code == 404
