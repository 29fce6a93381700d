"""Records that were invented, changed or moved, and what may become of each."""

import json
from collections.abc import Callable

from fluxy_sync import FluxySync
from fluxy_sync.journal.record import parse
from fluxy_sync.operation import SYNC_OP, Operation
from tests.chaos.forger import Forger, rebuilt, with_flags
from tests.chaos.scene import PATIENCE_S, STOLEN, WORKER, Scene, key_of
from tests.chaos.trial import wait_until

YEARS_MS = 10 * 365 * 86_400_000
DEAD, SENT, EXPIRED, WAITS = "corrupt", "sent", "expired", "neither sent nor dead"

Change = Callable[[Scene, str], None]


def forge_records(here: Scene) -> None:
    """All at once, behind a closed gate; then it opens."""
    make_letters(here)
    cases = [(name, f"{name} {n}") for name in RECORDS for n in range(here.run.scale(1, 40))]
    mine = {}
    for name, lane in cases:
        mine[lane] = here.queue(lane, expires=3600, countdown=0.001, id=here.forger.id())
        RECORDS[name][0](here, lane)
    here.forged["records"] += len(cases)
    here.sync.resume()
    waiting = sum(WAITS in RECORDS[name][1:] for name, _ in cases)
    wait_until(lambda: (s := here.sync.status()).pending <= waiting and not s.syncing, 60, "all of them to be settled")
    here.still_works("forged records")
    why = {lane: reason for lane, reason, _, _ in here.forger.letters()}
    sent = {key_of(request) for request in here.stage.upstream.requests()}
    for name, lane in cases:
        became = why.get(lane) or (SENT if mine[lane] in sent else WAITS)
        here.run.check(became in RECORDS[name][1:], f"{lane}: {became}, and not {' or '.join(RECORDS[name][1:])}")


def make_letters(here: Scene) -> None:
    """Dead letters to steal from: one that the upstream refused with a crafted answer, one that came unsealed."""
    here.stage.upstream.script("/refused", [{"status": 422, "body": as_before_sealing().decode("latin-1")}])
    here.queue("refused", "/refused")
    headers = {"task": SYNC_OP, "id": here.forger.id()}
    here.forger.client.lpush(here.forger.queue, here.forger.message(unsealed_body(), headers))
    here.stage.gateway.start(WORKER, "beat")
    wait_until(lambda: here.sync.status().dead == 2, PATIENCE_S, "two dead letters")
    here.sync.pause()


def unsealed_body() -> bytes:
    """A task's message as Celery writes it."""
    return json.dumps([["POST", STOLEN], {"body": "stolen"}, {}]).encode()


def as_before_sealing() -> bytes:
    """An operation as it is before it is sealed: what a forger would like to have sealed."""
    return Operation(("POST", STOLEN), {"body": b"stolen"}).encode()


def changed(change: Callable[[Forger, bytes], bytes]) -> Change:
    """Replace the record of a lane."""
    return lambda here, lane: here.forger.put(lane, change(here.forger, here.forger.take(lane)))


def twice(here: Scene, lane: str) -> None:
    here.forger.put(lane, here.forger.head(lane))


def from_another_lane(here: Scene, lane: str) -> None:
    """The same record, id and all, on a lane that it wasn't accepted for."""
    here.queue(f"{lane} other")
    here.forger.take(lane)
    here.forger.put(lane, here.forger.head(f"{lane} other"))


def neighbours(here: Scene, lane: str) -> None:
    """The sealed part of the one behind it."""
    here.queue(lane)
    first, second = here.forger.take(lane), here.forger.take(lane)
    here.forger.put(lane, rebuilt(first, sealed=parse(second).sealed))


def from_another_namespace(here: Scene, lane: str) -> None:
    """Accepted with the same keys by another gateway, for another upstream."""
    other = FluxySync(here.stage.gateway.settings(namespace="elsewhere"))
    other.queue("POST", STOLEN, lane=lane)
    here.forger.take(lane)
    here.forger.put(lane, Forger(here.forger.client, "elsewhere", here.forger.chance).take(lane))
    other.engine.journal.store.close()


def unsealed_letter(here: Scene, _: str) -> None:
    """What came unsealed was sealed by the worker, to be kept: now on the lane that it names."""
    home, _detail, record = here.forger.letter("unsealed")
    here.forger.put(home, record)


def sealed_answer(here: Scene, _: str) -> None:
    """The upstream's answer was sealed, to be kept: now as the operation that it was an answer to."""
    home, detail, record = here.forger.letter("422")
    here.forger.put(home, rebuilt(record, sealed=detail))


def once_secret(here: Scene, lane: str) -> None:
    here.queue(lane, once=lane)
    secret = here.forger.client.get(here.forger.keys.secret)
    here.forger.put(lane, rebuilt(here.forger.take(lane), sealed=secret))
    here.forger.take(lane)


def named(_: Forger, record: bytes) -> bytes:
    return rebuilt(record, id=parse(record).id.replace("-", "_"))


def noise_behind(length: int) -> Callable[[Forger, bytes], bytes]:
    return lambda forger, record: rebuilt(record, sealed=parse(record).sealed[:length] + forger.noise())


def wrong_flags(forger: Forger, record: bytes) -> bytes:
    return with_flags(record, forger.chance.choice([1, 2, 16, 32, 64, 128]))


RECORDS: dict[str, tuple[Change, *tuple[str, ...]]] = {
    # invented, or damaged
    "noise": (changed(lambda forger, _: forger.noise()), DEAD),
    "a bit of it": (changed(lambda forger, record: forger.flip(record)), DEAD),
    "a bit of its seal": (changed(lambda f, r: f.flip(r, len(r) - len(parse(r).sealed))), DEAD),
    "cut off": (changed(lambda f, r: r[: f.chance.randrange(len(r))]), DEAD),
    "another format": (changed(lambda _, r: b"\2" + r[1:]), DEAD),
    "wrong flags": (changed(wrong_flags), DEAD),
    "noise sealed by nobody": (changed(noise_behind(0)), DEAD, WAITS),
    "a key's name and noise": (changed(noise_behind(4)), DEAD),
    "another key's name": (changed(lambda f, r: rebuilt(r, sealed=f.chance.randbytes(4) + parse(r).sealed[4:])), DEAD),
    # elsewhere
    "another id": (changed(lambda f, r: rebuilt(r, id=f.id())), DEAD),
    "another form of its id": (changed(named), DEAD),
    "another lane": (from_another_lane, DEAD),
    "another namespace": (from_another_namespace, DEAD),
    "a neighbour's seal": (neighbours, DEAD),
    "the secret of once keys": (once_secret, DEAD),
    "an unsealed letter": (unsealed_letter, SENT),  # that of its own lane, which nobody touched
    "a sealed answer": (sealed_answer, SENT),
    # what isn't sealed: it goes out as it was accepted, sooner, later, again or not at all
    "halts": (changed(lambda _, r: rebuilt(r, halt=True)), SENT),
    "no end": (changed(lambda _, r: rebuilt(r, expires=0)), SENT),
    "its end": (changed(lambda _, r: rebuilt(r, expires=1)), EXPIRED),
    "at once": (changed(lambda _, r: rebuilt(r, due=0)), SENT),
    "in years": (changed(lambda _, r: rebuilt(r, due=parse(r).accepted_ms + YEARS_MS)), WAITS),
    "a once key": (changed(lambda f, r: rebuilt(r, once=f.chance.randbytes(16))), SENT),
    "a replay": (changed(lambda f, r: rebuilt(r, replays=f.chance.randrange(1, 65_536))), SENT),
    "twice": (twice, SENT),
}
