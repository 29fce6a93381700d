"""Whatever else stands in the store: each of the journal's keys with other values, sealed ones from elsewhere."""

import contextlib
import random
import time
from collections.abc import Callable

import redis

from fluxy_sync import QueueFull, StorageUnavailable
from fluxy_sync.rotation import Rotation
from fluxy_sync.token_place import SharedPlace, Token, audience_of
from tests.chaos.scene import PATIENCE_S, Scene
from tests.chaos.trial import wait_until

LASTS_S = 0.1
ODD_TEXTS = (
    b"",
    b"\xff\xfe",
    b"-1",
    b"0",
    b"nan",
    b"inf",
    b"1e308",
    b"9" * 30,
    b"1 2 3",
    b"x y z",
    b"\0\n\r",
    b"a" * 5000,
)
SCORES = (0.0, -1.0, 1.0, 1e15, 1e300, float("inf"), float("-inf"))
PLACES = (  # Celery's and kombu's own, of which the first three are the consumers'
    "unacked", "unacked_index", "unacked_mutex", "_kombu.binding.celery.pidbox", "_kombu.binding.{ns}.sync",
)  # fmt: skip

Fault = Callable[["redis.Redis", str, random.Random], None]


def as_text(client: "redis.Redis", key: str, chance: random.Random) -> None:
    client.set(key, chance.choice(ODD_TEXTS))


def as_list(client: "redis.Redis", key: str, chance: random.Random) -> None:
    with client.pipeline() as at_once:  # others write to it meanwhile
        at_once.delete(key)
        at_once.rpush(key, *(chance.choice(ODD_TEXTS) for _ in range(3)))
        at_once.execute()


def gone(client: "redis.Redis", key: str, _: random.Random) -> None:
    client.delete(key)


def odd(client: "redis.Redis", key: str, chance: random.Random) -> None:
    """Of its own type, as far as there is one: what is there gets odd values, and odd ones come."""
    kind = client.type(key)
    if kind == b"zset":
        members = [*client.zrange(key, 0, -1), *chance.sample(ODD_TEXTS, 3), b"honest"]
        client.zadd(key, {member: chance.choice(SCORES) for member in members})
    elif kind == b"set":
        client.sadd(key, *chance.sample(ODD_TEXTS, 3))
    elif kind == b"string":
        client.set(key, chance.choice(ODD_TEXTS), keepttl=True)
    elif kind in (b"hash", b"none"):
        fields = [*client.hkeys(key), *chance.sample(ODD_TEXTS, 3), b"honest", b"paused", b"offline", b"opens_at"]
        client.hset(
            key, mapping={field: chance.choice(ODD_TEXTS) for field in chance.sample(fields, min(6, len(fields)))}
        )


def put_back(client: "redis.Redis", key: str, before: bytes | None) -> None:
    """Give a key the value that it had, whatever somebody has written there meanwhile."""
    if before is None:
        client.delete(key)
    else:
        client.restore(key, 0, before, replace=True)


FAULTS: list[Fault] = [odd, odd, as_text, as_list, gone]


def forge_values(here: Scene) -> None:
    """Each in its turn, for a moment; then it is as it was, and the gateway goes on by itself."""
    own = [*here.forger.keys.fixed, here.forger.keys.secret, here.forger.keys.samples, here.forger.keys.histogram]
    keys = [*own, here.forger.keys.audit, *(place.format(ns=here.forger.namespace) for place in PLACES)]
    for key in keys:
        for fault in here.run.scale(here.run.chance.sample(FAULTS, 2), FAULTS * 2):
            forge_value(here, key, fault)
        here.still_works(f"forged values of {key}")


def forge_value(here: Scene, key: str, fault: Fault) -> None:
    client = here.forger.client
    before = client.dump(key)
    fault(client, key, here.run.chance)
    here.forged["values"] += 1
    with contextlib.suppress(StorageUnavailable, QueueFull):  # nothing else may a producer see
        here.queue("meanwhile")
    time.sleep(here.run.scale(LASTS_S, 12 * LASTS_S))  # the fault lasts
    put_back(client, key, before)
    here.lives(f"a forged value of {key} ({fault.__name__})")


def forge_tokens(here: Scene) -> None:
    """The sealed access token of another gateway, and whose turn it is to fetch one."""
    engine = here.sync.engine
    place = SharedPlace("elsewhere", audience_of(engine.settings), lambda: engine.journal.store, lambda: engine.vault)
    place.save(Token("stolen", "stolen-token", 3600.0))
    client, keys = here.forger.client, here.forger.keys
    taken = client.get(keys.auth.replace(here.forger.namespace, "elsewhere"))
    for value in (taken, here.forger.noise(), b"", here.forger.flip(client.get(keys.auth))):
        for turn in (b"\xff", b"somebody", b"failed:\n\x1b[2Jforged", b"x" * 5000):
            client.set(keys.auth, value)
            client.set(keys.auth_lock, turn, px=50)
            here.forged["tokens"] += 1
        here.still_works("a forged token")


def rotate(here: Scene) -> None:
    """The keys are rotated over all that was forged: it makes nothing of it that opens."""
    client = here.forger.client
    for n in range(5):
        client.set(f"celery-task-meta-{n}", here.forger.noise())
    before = here.sync.status().dead
    rotation = Rotation(here.sync.engine, "trial")
    rotation.add_key()
    for _ in rotation.run():
        pass
    here.still_works("a rotation")
    wait_until(lambda: here.sync.status().dead == before, PATIENCE_S, "no dead letter to come of a rotation")
