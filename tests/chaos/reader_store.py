"""Cases of what is read from the store: each of the journal's keys, the gateway's others, and Celery's results."""

import json
from collections.abc import Callable

import redis
from celery import Celery

from fluxy_sync import FluxySync, install
from fluxy_sync.journal import Inventory, Journal
from fluxy_sync.journal.recount import namespaces, recount
from fluxy_sync.token_place import TURN_S, SharedPlace, audience_of
from tests.chaos.garbage import STEERING, WRONG_TYPE, put_back
from tests.chaos.ledger import MARKER
from tests.chaos.reader_bench import NOTHING, Bench
from tests.chaos.scene import PATIENCE_S
from tests.chaos.trial import wait_until

Case = Callable[[Bench], None]

KEYS: dict[str, str] = {  # each key of the journal, and its type
    "counts": "hash", "ready": "zset", "oldest": "zset", "claims": "hash", "retries": "hash", "gate": "hash",
    "wake": "string", "pulse": "hash", "cancelled": "hash", "large": "set", "samples": "list", "histogram": "hash",
    "audit": "stream", "held, held:why": "hash", "recent, recent:old": "hash", "once, once:ends": "hash",
    "dead, dead:index": "hash",
}  # fmt: skip
ZSETS = frozenset({"once:ends", "dead:index"})
ME = "0123456789abcdef"  # whoever takes the turn
PLACES = ("unacked", "unacked_index", "unacked_mutex", "_kombu.binding.celery.pidbox", "_kombu.binding.{ns}.sync")


def journal_keys(names: str, usual: str) -> Case:
    """Garbage in keys of the journal: producers, lists and pages see an error of ours, or odd values."""

    def case(bench: Bench) -> None:
        for name in names.split(", "):
            key = f"{bench.here.forger.keys.prefix}{name}"
            spoil(bench, key, "zset" if name in ZSETS else usual)
        bench.still_works(f"garbage in {names}")

    return case


def spoil(bench: Bench, key: str, usual: str) -> None:
    """Each kind for a moment, while somebody queues and looks."""
    client, sync = bench.here.forger.client, bench.here.sync
    for kind in bench.garbage.kinds(WRONG_TYPE, most=3):
        with put_back(client, key):
            bench.garbage.fill(client, key, kind, usual)
            what = f"{kind} in {key}"
            bench.only_ours(what, lambda: bench.here.queue("meanwhile", once=str(bench.run.chance.random())))
            bench.only_ours(what, lambda: sync.status())
            bench.only_ours(what, lambda: (list(sync.dead_letters()), list(Inventory(sync.engine.journal).held())))
            bench.only_ours(what, lambda: sync.cancel("nobody", "meanwhile"))
            bench.look(what)
        bring_forward(client, f"{bench.here.forger.keys.prefix}ready")


def bring_forward(client: "redis.Redis", ready: str) -> None:
    """Journal time is what it was, and so what was put off in a time to come would wait for that."""
    if client.type(ready) == b"zset":
        client.zadd(ready, dict.fromkeys(client.zrange(ready, 0, -1), 1.0))


def lane(bench: Bench) -> None:
    """Garbage between two honest operations of a lane: it ends as a dead letter, alone, and both arrive."""
    here = bench.here
    with put_back(here.forger.client, f"{here.forger.keys.prefix}gate"):
        here.sync.pause()
        kept = here.queue("elsewhere")
        elsewhere = here.forger.head("elsewhere")
        mine, sizes = [], []
        for n, (kind, data) in enumerate(bench.garbage.values(elsewhere, most=6)):
            mine.append(here.queue(f"lane {n}"))
            here.forger.put(f"lane {n}", data or b"\0")
            here.forger.put(f"lane {STEERING.decode('latin-1')} {n}", data or b"\0")
            sizes.append(kind)
            mine.append(here.queue(f"lane {n}"))
        bench.look(f"garbage on lanes: {sizes}", *[f"ls --lane {'lane'}", "ls", "ls --json"])
        here.sync.resume()
    for one in (*mine, kept):
        wait_until(lambda one=one: here.arrived(one), PATIENCE_S, f"{one}, beside garbage ({sizes}), to arrive")
    bench.still_works("garbage on lanes")


def secret(bench: Bench) -> None:
    """Without the secret of once keys those with ``once`` are refused; others go on."""
    client, key = bench.here.forger.client, bench.here.forger.keys.secret
    bench.here.queue("honest", once="before")
    for kind in bench.garbage.kinds(WRONG_TYPE):
        with put_back(client, key):
            bench.garbage.fill(client, key, kind, "string")
            fresh = FluxySync(bench.here.stage.gateway.settings())
            what = f"{kind} in {key}"
            taken = bench.only_ours(what, lambda fresh=fresh: bench.here.queue("honest", by=fresh, once="another"))
            bench.run.check(taken is NOTHING or kind in ("absent",), f"it was hashed with {what}")
            fresh.engine.journal.store.close()
            bench.look(what, "keys ls", "keys ls --json")
            bench.here.queue("meanwhile")
    bench.still_works("garbage in the secret")


def token(bench: Bench) -> None:
    """A token that doesn't open is fetched anew."""
    client, key = bench.here.forger.client, bench.here.forger.keys.auth
    place = place_of(bench)
    for kind in bench.garbage.kinds(WRONG_TYPE):
        with put_back(client, key):
            bench.garbage.fill(client, key, kind, "string")
            held = bench.only_ours(f"{kind} in {key}", place.load)
            bench.run.check(held in (None, NOTHING), f"{kind} in {key} opened as a token")
    bench.still_works("garbage in the token's place")


def turn(bench: Bench) -> None:
    """Whoever holds the turn, with a time to live or without: it ends, and steers nothing."""
    client, key = bench.here.forger.client, bench.here.forger.keys.auth_lock
    place = place_of(bench)
    for kind in bench.garbage.kinds(most=6):
        with put_back(client, key, bench.here.forger.keys.auth):
            client.delete(key)
            bench.garbage.fill(client, key, kind, "string")
            what = f"{kind} in {key}"
            now = bench.only_ours(what, lambda: place.take_turn(ME))
            left_ms = client.pttl(key)
            bench.run.check(now == ME or 0 < left_ms <= TURN_S * 1000, f"a turn without an end, after {what}")
            client.delete(bench.here.forger.keys.auth)  # the next worker has to fetch one
    bench.still_works("garbage in the turn")


def place_of(bench: Bench) -> SharedPlace:
    engine = bench.here.sync.engine
    return SharedPlace(
        bench.here.stage.namespace, audience_of(engine.settings), lambda: engine.journal.store, lambda: engine.vault
    )


def other_keys(bench: Bench) -> None:
    """A recount beside keys of any name and type: it is a journal's that is counted."""
    client, sync = bench.here.forger.client, bench.here.sync
    store = sync.engine.journal.store
    names = [b"{other}:lane:" + data[:200] for _, data in bench.garbage.values()]
    names += [b"{\xff}:counts", b"{}:counts", b"{" + b"x" * 300 + b"}:lane:x", b"{other}:counts:x"]
    for name in names:
        client.rpush(name, *(bench.garbage.bytes_of(kind, b"x" * 50) for kind in ("noise", "a bit", "no UTF-8")))
    found = bench.only_ours("keys of other names", lambda: namespaces(store))
    bench.run.check(found is NOTHING or "chaos" in found, f"the namespaces are {found}")
    other = Journal(store, "other")
    bench.only_ours("keys of other names", lambda: recount(other))
    bench.only_ours("keys of other names", other.snapshot)
    client.delete(*names, *client.scan_iter("{other}:*"))
    bench.still_works("keys of other names")


def hints(bench: Bench) -> None:
    """Whatever is said to have changed: what is shown is read from the counts."""
    for _, data in bench.garbage.values(most=8):
        bench.here.forger.client.publish(bench.here.forger.keys.events, data)
    bench.look("garbage in hints")
    record = bench.dashboard.record()
    bench.run.check(record["namespace"] == "chaos", f"the dashboard tells {record}")
    bench.still_works("garbage in hints")


def results(bench: Bench) -> None:
    """Nobody's answer is an operation's, by our app and by one on which it is installed."""
    here = bench.here
    here.sync.pause()
    settings = here.stage.gateway.settings()
    theirs = Celery("theirs", broker=settings.broker.url, backend=settings.results.url, set_as_current=False)
    apps = {"the shipped app": here.sync, "install(app)": FluxySync(app=install(theirs, settings=settings))}
    answer = {"status": 200, "headers": {}, "body": "forged"}
    metas = [
        json.dumps({"status": status, "result": result, "traceback": None, "children": [], "task_id": "x"}).encode()
        for status in ("SUCCESS", "FAILURE", "REVOKED", "STARTED", 7)
        for result in (answer, "fluxy-sealed:AAAA", {"exc_type": "SystemExit", "exc_message": [1]}, None)
    ]
    for name, sync in apps.items():
        asked = sync.queue("POST", "/op", body={"kept": MARKER}, lane="results", keep_result=True)
        here.accepted[asked.id] = ("POST", "/op", {"kept": MARKER})
        key = f"celery-task-meta-{asked.id}"
        for meta in (*bench.run.scale(metas[::3], metas), *(data for _, data in bench.garbage.values(metas[0]))):
            here.forger.client.set(key, meta)
            got = bench.only_ours(f"{meta[:200]!r} as a result", lambda one=asked: one.get(timeout=0.05))
            bench.run.check(got is NOTHING, f"{name} took {meta[:200]!r} for an answer")
        here.forger.client.delete(key)
    here.sync.resume()
    bench.still_works("forged results")


def unacked(bench: Bench) -> None:
    """kombu's own notes: the worker may hear something twice, or not at all."""
    for place in PLACES:
        usual = "zset" if place.endswith("index") else "hash" if place == "unacked" else "set"
        spoil(bench, place.format(ns=bench.here.stage.namespace), usual)
    bench.still_works("garbage in the broker's notes")


def named(names: str) -> str:
    """The place in the document."""
    return ", ".join(f"{{ns}}:{name}" for name in names.split(", "))


STORE: dict[str, Case] = {named(names): journal_keys(names, usual) for names, usual in KEYS.items()} | {
    "{ns}:lane:<lane>": lane, "{ns}:secret": secret, "{ns}:auth": token, "{ns}:auth:lock": turn,
    "other keys": other_keys, "{ns}:events": hints, "celery-task-meta-*": results,
    "unacked* and _kombu.binding.*": unacked,
}  # fmt: skip


def stored_values(client: "redis.Redis", namespace: str) -> list[bytes]:
    """What is right in other places of the store."""
    found = [client.get(f"{{{namespace}}}:secret"), client.get(f"{{{namespace}}}:auth")]
    found += [*client.lrange(f"{{{namespace}}}:lane:honest", 0, 1), *client.hvals(f"{{{namespace}}}:dead")[:2]]
    return [value for value in found if value]
