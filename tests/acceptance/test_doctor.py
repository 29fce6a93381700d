"""``fluxy-sync doctor``, the real command, on gateways that are broken in each way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from msgspec import structs

from fluxy_sync import FluxySync
from fluxy_sync.doctor import CHECKS, Report, examine
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.engine import Engine
from fluxy_sync.journal import Journal
from fluxy_sync.vault import key_id_of, new_key, parse_key
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream, free_port

NAMES = [name for name, _, _ in CHECKS]
NEED_THE_STORE = [name for name, _, needs_store in CHECKS if needs_store]
PASSWORD = "hidden-password"
TOKEN = "hidden-token"

Checks = dict[str, dict[str, str]]
Doctor = Callable[..., tuple[int, Checks]]
Look = Callable[..., Checks]


def run(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end. Whatever it says, it never says a secret, and never fails by a traceback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLUXY_SYNC_")}
    done = subprocess.run(
        [sys.executable, "-m", "fluxy_sync", "doctor", *arguments], env=kept | env, capture_output=True, timeout=60
    )
    told = done.stdout.decode() + done.stderr.decode()
    secrets = [PASSWORD, TOKEN, env.get("FLUXY_SYNC_KEYS"), env.get("FLUXY_SYNC_REDIS_URL", "").partition("@")[0]]
    assert [secret for secret in secrets if secret and secret in told] == []
    assert "Traceback" not in told
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def doctor(gateway: Gateway) -> Doctor:
    """Run the doctor on the gateway with some settings changed: its exit code, and each check by its name."""

    def run_it(**changes: str) -> tuple[int, Checks]:
        done = run(gateway.environment | {f"FLUXY_SYNC_{k}": v for k, v in changes.items()}, "--json")
        report = json.loads(done.stdout)
        checks = {check["name"]: check for check in report["checks"]}
        assert list(checks) == NAMES, "each check is there, whatever is broken"
        assert all(check["advice"] for check in checks.values() if check["state"] in ("warning", "failed"))
        assert report["ok"] == (done.returncode == 0)
        return done.returncode, checks

    return run_it


@pytest.fixture
def look(gateway: Gateway) -> Look:
    """The same checks in the test's own process, without a broker: for what needs no command and no workers."""

    def examine_it(**changes: Any) -> Checks:
        settings = gateway.settings(**changes)
        return {check.name: structs.asdict(check) for check in examine(Engine(settings))}

    return examine_it


def states(checks: Checks, *names: str) -> list[str]:
    return [checks[name]["state"] for name in names]


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that only this test knows, and may break; it syncs once a second."""
    with EmbeddedStore(tmp_path / "own", appendfsync="everysec") as store:
        store.wait_ready()
        yield store


# --- all is well


def test_a_gateway_that_works_is_well(gateway: Gateway, upstream: Upstream, doctor: Doctor) -> None:
    """With a worker, beat and the upstream each check is ok, none is skipped, and the exit code is 0."""
    upstream.start()
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    wait_until(lambda: upstream.probes() and sync.doctor().ok)
    code, checks = doctor()
    assert {name: check["found"] for name, check in checks.items() if check["state"] != "ok"} == {}
    assert code == 0
    assert "sync@one answers" in checks["workers"]["found"]
    assert checks["clock"]["found"].endswith("agrees with the upstream's and the store's")
    assert key_id_of(parse_key(gateway.environment["FLUXY_SYNC_KEYS"])).hex() in checks["keys"]["found"]


def test_it_leaves_nothing_behind(gateway: Gateway, store_url: str, doctor: Doctor) -> None:
    """Neither in the namespace nor of the broker's replies does a key stay in the store."""
    client = redis.Redis.from_url(store_url)
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/x")
    sync.engine.journal.forget_wake()  # it would go by itself, meanwhile
    own = f"*{gateway.environment['FLUXY_SYNC_NAMESPACE']}*"
    before = sorted(client.scan_iter(own))
    replies = sorted(client.scan_iter("*reply*"))
    doctor()
    assert sorted(client.scan_iter(own)) == before
    assert sorted(client.scan_iter("*reply*")) == replies
    client.close()


def test_a_program_asks_by_the_api(gateway: Gateway) -> None:
    """FluxySync.doctor() gives the same checks as the command."""
    report = FluxySync(gateway.settings()).doctor()
    assert isinstance(report, Report)
    assert [check.name for check in report.checks] == NAMES
    assert not report.ok


# --- the store


def test_without_a_store_the_rest_is_still_looked_at(gateway: Gateway, upstream: Upstream, doctor: Doctor) -> None:
    """A store that is down ends with 3; the upstream, the keys and the clock are judged all the same."""
    upstream.start()
    code, checks = doctor(REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    assert code == 3
    assert checks["store"]["found"].endswith("can't be reached (Connection refused)")
    assert states(checks, "settings", "keys", "upstream", "clock", "version") == ["ok"] * 5
    assert set(states(checks, *NEED_THE_STORE, "broker", "workers")) == {"skipped"}


def test_without_a_gateway_it_says_how_to_start_one(tmp_path: Path) -> None:
    """On a machine where nothing was ever started: exit code 3, and the command that starts a gateway."""
    done = run({"FLUXY_SYNC_DATA_DIR": str(tmp_path / "none")})
    assert (done.returncode, done.stderr) == (3, "")
    assert "✕ failed  store      no store runs under" in done.stdout
    assert "'fluxy-sync up'" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 failed, 0 warnings"


def test_a_wrong_password(store_url: str, doctor: Doctor) -> None:
    """It is told as such, with the setting to look at, and without the password."""
    code, checks = doctor(REDIS_URL=f"unix://:{PASSWORD}@{store_url.partition('@')[2]}")
    assert code == 3
    assert checks["store"]["found"] == "the store refuses the password"
    assert "FLUXY_SYNC_REDIS_URL" in checks["store"]["advice"]


def test_a_store_that_hangs(own_store: EmbeddedStore, doctor: Doctor) -> None:
    """A store that takes the connection and says nothing is given up after some seconds, once."""
    assert own_store.process is not None
    own_store.process.send_signal(signal.SIGSTOP)
    try:
        code, checks = doctor(REDIS_URL=own_store.url)
    finally:
        own_store.process.send_signal(signal.SIGCONT)
    assert code == 3
    assert checks["store"]["found"].endswith("can't be reached (no answer)")


def test_a_store_that_syncs_too_seldom(own_store: EmbeddedStore, doctor: Doctor) -> None:
    """appendfsync everysec where DURABILITY asks for always: a failure, and the other checks go on."""
    code, checks = doctor(REDIS_URL=own_store.url)
    assert code == 1
    assert checks["durability"]["state"] == "failed"
    assert "appendfsync everysec" in checks["durability"]["found"]
    assert "FLUXY_SYNC_DURABILITY" in checks["durability"]["advice"]
    assert states(checks, "store", "server", "disk", "keys", "broker", "queue") == ["ok"] * 6


def test_a_store_that_syncs_each_second_as_asked(own_store: EmbeddedStore, look: Look) -> None:
    """DURABILITY=everysec is what such a store keeps; the times of its writes are no fsync times."""
    checks = look(redis_url=own_store.url, durability="everysec")
    assert states(checks, "durability", "fsync") == ["ok", "ok"]
    assert "not each write" in checks["fsync"]["found"]
    client = redis.Redis.from_url(own_store.url)
    client.config_set("appendfsync", "always")
    client.close()
    checks = look(redis_url=own_store.url, durability="waitaof")
    assert states(checks, "durability", "fsync") == ["ok", "warning" if "slow" in checks["fsync"]["found"] else "ok"]
    assert "not each write" not in checks["fsync"]["found"], "WAITAOF was waited for"


def test_a_store_that_is_full(own_store: EmbeddedStore, look: Look) -> None:
    """No memory left: the write fails, and the advice is to drain it or to raise the limit."""
    client = redis.Redis.from_url(own_store.url)
    client.config_set("maxmemory", 1024 * 1024)
    client.close()
    checks = look(redis_url=own_store.url, durability="everysec")
    assert states(checks, "server", "fsync") == ["warning", "failed"]
    assert "maxmemory" in checks["fsync"]["advice"]


def test_an_acl_that_hides_the_settings(own_store: EmbeddedStore, gateway: Gateway, look: Look) -> None:
    """A user who may not run CONFIG and INFO: warnings that say so, no failure, and the rest is judged."""
    client = redis.Redis.from_url(own_store.url)
    rights = ["on", f">{PASSWORD}", "~*", "&*", "+@all", "-config", "-info"]
    client.execute_command("ACL", "SETUSER", "field", *rights)
    client.close()
    url = f"unix://field:{PASSWORD}@{own_store.url.partition('@')[2]}"
    checks = look(redis_url=url, durability="everysec")
    assert states(checks, "store", "server", "durability", "fsync") == ["ok", "warning", "warning", "ok"]
    assert checks["durability"]["found"].startswith("an ACL hides CONFIG")
    assert states(checks, "disk", "queue") == ["skipped", "ok"]


# --- keys


def test_a_missing_key_is_named(gateway: Gateway, upstream: Upstream, doctor: Doctor) -> None:
    """What was sealed with a key that the worker lacks is held, and the check names the key."""
    upstream.start()
    lost = gateway.environment["FLUXY_SYNC_KEYS"]
    sync = FluxySync(gateway.settings())
    sync.queue("POST", "/x", once="first")
    gateway.environment["FLUXY_SYNC_KEYS"] = new_key()
    gateway.start("worker", "beat")
    wait_until(lambda: sync.status().held == 1)
    code, checks = doctor()
    key_id = key_id_of(parse_key(lost)).hex()
    assert code == 1
    assert f"key {key_id} is missing: 1 lane held" in checks["keys"]["found"]
    assert "the secret of once keys can't be opened" in checks["keys"]["found"]
    assert "FLUXY_SYNC_KEYS" in checks["keys"]["advice"]
    _, checks = doctor(KEYS=f"{gateway.environment['FLUXY_SYNC_KEYS']},{lost}")
    assert checks["keys"]["state"] == "ok"


def test_a_key_that_is_none(doctor: Doctor) -> None:
    """Keys that can't be read are one failure among the checks, with the command that makes a new one."""
    code, checks = doctor(KEYS="tooshort")
    assert code == 1
    assert checks["keys"]["state"] == "failed"
    assert "fluxy-sync keys new" in checks["keys"]["advice"]
    assert states(checks, "store", "broker", "workers") == ["ok", "skipped", "skipped"]


# --- the processes


def test_no_worker(gateway: Gateway, doctor: Doctor) -> None:
    """Something waits and nobody is there to send it: beat and workers fail, and say what to start."""
    FluxySync(gateway.settings()).queue("POST", "/x")
    code, checks = doctor()
    assert code == 1
    assert states(checks, "beat", "workers") == ["failed", "failed"]
    assert checks["workers"]["found"] == "none, with 1 operation pending"
    assert "fluxy-sync up" in checks["workers"]["advice"]


def test_no_beat(gateway: Gateway, upstream: Upstream, journal: Journal, doctor: Doctor) -> None:
    """The worker's steward stands in for a beat that isn't there: a warning, and the exit code stays 0."""
    upstream.start()
    gateway.start("worker")
    wait_until(lambda: len(upstream.probes()) > 0)
    code, checks = doctor()
    assert (code, checks["beat"]["state"], checks["workers"]["state"]) == (0, "warning", "ok")
    assert "beat never ticked" in checks["beat"]["found"]
    assert "stewards: one" in checks["beat"]["found"]


def test_a_broker_that_is_away(gateway: Gateway, doctor: Doctor) -> None:
    """Another broker than the store, and it is down: it alone fails, and nobody is pinged."""
    code, checks = doctor(BROKER_URL=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    assert code == 1
    assert states(checks, "store", "broker", "workers") == ["ok", "failed", "skipped"]
    assert "FLUXY_SYNC_BROKER_URL" in checks["broker"]["advice"]


# --- the upstream and the gate


def test_an_upstream_that_is_down(doctor: Doctor) -> None:
    """Connection refused, with the setting that names it."""
    code, checks = doctor()
    assert code == 1
    assert checks["upstream"]["state"] == "failed"
    assert checks["upstream"]["found"].endswith("connection refused")
    assert "FLUXY_SYNC_UPSTREAM" in checks["upstream"]["advice"]


def test_no_upstream(look: Look) -> None:
    """A setting that is missing is named."""
    checks = look(upstream=None)
    assert checks["upstream"]["state"] == "failed"
    assert checks["upstream"]["found"] == "FLUXY_SYNC_UPSTREAM isn't set"


def test_a_captive_portal(upstream: Upstream, look: Look) -> None:
    """Somebody else answers in the upstream's place: a failure, and the clock isn't set by it."""
    upstream.start()
    upstream.probe("redirect")
    checks = look()
    assert checks["upstream"]["state"] == "failed"
    assert "captive portal" in checks["upstream"]["found"]
    assert checks["clock"]["found"].endswith("agrees with the store's")


def test_a_clock_that_is_wrong(upstream: Upstream, look: Look) -> None:
    """The upstream's Date is an hour away: a warning that says by how much, and how to set the clock."""
    upstream.start()
    upstream.probe({"status": 200, "headers": {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}})
    checks = look()
    assert checks["clock"]["state"] == "warning"
    assert "ahead of the upstream's clock" in checks["clock"]["found"]
    assert "chrony" in checks["clock"]["advice"]


def test_a_pause_says_by_whom_and_what_ends_it(gateway: Gateway, upstream: Upstream, doctor: Doctor) -> None:
    """Who paused it, since when, and the command to go on; a lane's own pause is told with the queue."""
    upstream.start()
    sync = FluxySync(gateway.settings(), via="test")
    sync.pause()
    sync.queue("POST", "/x", lane="alone")
    sync.pause("alone")
    _, checks = doctor()
    assert checks["gate"]["state"] == "warning"
    assert "paused by " in checks["gate"]["found"]
    assert "(test); since 20" in checks["gate"]["found"]
    assert "fluxy-sync resume" in checks["gate"]["advice"]
    assert "1 lane paused" in checks["queue"]["found"]
    assert "fluxy-sync resume --lane" in checks["queue"]["advice"]


def test_credentials_that_are_refused(upstream: Upstream, journal: Journal, doctor: Doctor) -> None:
    """An unauthorized gate names the settings to check, never what they hold."""
    upstream.start()
    journal.close_gate("unauthorized", "401")
    code, checks = doctor(AUTH_BEARER=TOKEN)
    assert (code, checks["gate"]["state"]) == (1, "failed")
    assert "check FLUXY_SYNC_AUTH_BEARER" in checks["gate"]["advice"]


# --- the queue, and how it is shown


def test_a_queue_that_is_full(gateway: Gateway, look: Look) -> None:
    """At the quota nothing more is accepted: a failure that names the limit."""
    FluxySync(gateway.settings()).queue_many([{"method": "POST", "path": "/x"} for _ in range(3)])
    checks = look(max_pending="3")
    assert checks["queue"]["state"] == "failed"
    assert "FLUXY_SYNC_MAX_PENDING" in checks["queue"]["found"]
    assert "3 of 3 pending" in checks["queue"]["found"]


def test_without_a_terminal_it_is_plain_lines(gateway: Gateway, tmp_path: Path) -> None:
    """One line for each check, without colours; what to do stands below, and the last line counts."""
    gateway.environment["FLUXY_SYNC_DATA_DIR"] = str(tmp_path / ("a-long-name-" * 12))
    done = run(gateway.environment)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line[10:].split()[0] for line in lines[:-1]] == NAMES
    assert lines[-1].endswith("warnings") or lines[-1].endswith("warning")
    assert done.returncode == 1


def test_a_name_from_the_store_steers_no_terminal(gateway: Gateway, store_url: str, journal: Journal) -> None:
    """Whoever can write to the store can't send escapes to the terminal of the one who looks."""
    journal.tick("steward", "evil\x1b[2J\nname")
    done = run(gateway.environment)
    assert "\x1b" not in done.stdout
    assert "evil\\x1b[2J\\nname" in done.stdout
