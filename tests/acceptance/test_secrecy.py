"""Nobody reads it on the way: a marker in path, body and headers is found nowhere but at the upstream."""

import logging
from pathlib import Path
from typing import Any

import redis

from fluxy_sync import FluxySync
from fluxy_sync.embedded import EmbeddedStore
from tests.conftest import Gateway, wait_until
from tests.upstream import Upstream

MARKER = "xyzzy-plaintext-marker"


def everything_in(client: "redis.Redis") -> bytes:
    """Every key and every value of a store."""
    found = []
    for key in client.scan_iter(count=1000):
        found += [key, client.dump(key) or b""]
        kind = client.type(key)
        read: dict[bytes, Any] = {
            b"list": lambda k: client.lrange(k, 0, -1),
            b"hash": client.hgetall,
            b"zset": lambda k: client.zrange(k, 0, -1),
            b"set": client.smembers,
            b"string": client.get,
        }
        found.append(repr(read[kind](key)).encode() if kind in read else b"")
    return b"".join(found)


def test_no_payload_appears_anywhere(gateway: Gateway, upstream: Upstream, tmp_path: Path, caplog: Any) -> None:
    """Not in Redis, its AOF, inspect, task events, results, or the logs: waiting, failing, dead or delivered."""
    caplog.set_level(logging.DEBUG)
    with EmbeddedStore(tmp_path / "secrecy") as store:
        store.wait_ready()
        gateway.environment["FLUXY_SYNC_REDIS_URL"] = store.url
        upstream.start()
        upstream.script(f"/{MARKER}/retry", ["stall", 201])
        upstream.script(f"/{MARKER}/refused", [{"status": 422, "body": f"{MARKER} is wrong"}])
        gateway.start("worker", "beat")
        sync = FluxySync(gateway.settings())
        client = redis.Redis.from_url(store.url)
        task = sync.app.tasks["fluxy_sync.sync_op"]
        events: list[Any] = []
        with sync.app.connection_for_read() as connection:
            receiver = sync.app.events.Receiver(connection, handlers={"*": events.append})
            sync.app.control.enable_events()
            for kind in ("retry", "refused", "delivered"):
                task.apply_async(
                    ("POST", f"/{MARKER}/{kind}"),
                    {"body": {"secret": MARKER}, "headers": {"X-Marker": MARKER}},
                    lane=kind,
                    ignore_result=False,
                    link=task.si("POST", f"/{MARKER}/linked", body=MARKER),
                )
            wait_until(lambda: any(r["path"].endswith("/retry") for r in upstream.requests()))
            inspect = sync.app.control.inspect(timeout=2.0)
            seen = repr([inspect.active(), inspect.reserved(), inspect.scheduled(), inspect.stats(), inspect.conf()])
            wait_until(lambda: sync.status().dead == 1)
            at_rest = everything_in(client)
            upstream.release(503)
            wait_until(lambda: sync.status().pending == 0)
            for _ in receiver.itercapture(limit=3, timeout=5.0):
                pass
        files = b"".join(path.read_bytes() for path in (tmp_path / "secrecy").rglob("*") if path.is_file())
        logs = gateway.log("worker") + gateway.log("beat") + caplog.text
        places = {
            "redis": at_rest + everything_in(client),
            "files": files,
            "inspect": seen.encode(),
            "events": repr(events).encode(),
            "logs": logs.encode(),
        }
        client.close()
    password = (tmp_path / "secrecy" / "store.password").read_text().strip()
    assert password not in seen + logs
    assert gateway.environment["FLUXY_SYNC_KEYS"] not in seen + logs
    assert any(MARKER in r["path"] and MARKER in r["body"] for r in upstream.requests()), "the marker was sent at all"
    assert events, "events were seen at all"
    assert b":lane:retry" in files, "the store's append-only file was read at all"
    assert [name for name, content in places.items() if MARKER.encode() in content] == []


def test_credentials_are_added_when_sending_and_only_for_the_upstream(
    gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    """The gateway's token goes to the upstream's origin alone; an allowed origin gets none, nor does the store."""
    upstream.start()
    with Upstream(tmp_path / "foreign.jsonl") as foreign:
        gateway.environment |= {
            "FLUXY_SYNC_AUTH_BEARER": MARKER,
            "FLUXY_SYNC_ALLOWED_ORIGINS": foreign.url,
        }
        gateway.start("worker", "beat")
        sync = FluxySync(gateway.settings())
        sync.queue("POST", "/own", body={})
        sync.queue("POST", f"{foreign.url}/other", body={})
        wait_until(lambda: sync.status().pending == 0)
        assert upstream.requests()[0]["headers"]["authorization"] == f"Bearer {MARKER}"
        assert "authorization" not in foreign.requests()[0]["headers"]
        client = redis.Redis.from_url(gateway.environment["FLUXY_SYNC_REDIS_URL"])
        own = list(client.scan_iter(f"*{gateway.environment['FLUXY_SYNC_NAMESPACE']}*"))
        assert own
        client.close()
    assert MARKER not in gateway.log("worker")


def test_a_dead_foreign_origin_holds_only_its_lane(gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """An allowed origin that can't be reached closes no gate: its lane waits, the others go on."""
    upstream.start()
    foreign = Upstream(tmp_path / "foreign.jsonl")
    gateway.environment["FLUXY_SYNC_ALLOWED_ORIGINS"] = foreign.url
    gateway.start("worker", "beat")
    sync = FluxySync(gateway.settings())
    sync.queue("POST", f"{foreign.url}/other", body={}, lane="foreign")
    wait_until(lambda: sync.status().retrying == 1)
    sync.queue("POST", "/own", body={}, lane="own")
    wait_until(upstream.requests)
    assert sync.status().gate == "open"
    foreign.start()
    wait_until(lambda: sync.status().pending == 0)
    foreign.stop()
