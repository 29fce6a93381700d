"""What somebody without a key sends so that a person with one accepts it, or something else than they were shown."""

import json
from collections.abc import Callable
from typing import Any

from fluxy_sync import InvalidOperation
from fluxy_sync.errors import SealError
from fluxy_sync.journal.record import pack_id
from fluxy_sync.operation import SYNC_OP, UNACCEPTED_MARK
from tests.chaos.forger import Forger
from tests.chaos.scene import PATIENCE_S, STOLEN, Scene
from tests.chaos.trial import wait_until

HARMLESS = "/harmless"
EVIL_STEP = {
    "task": SYNC_OP, "args": ["DELETE", STOLEN], "kwargs": {}, "options": {}, "immutable": True, "subtask_type": None,
    "chord_size": None,
}  # fmt: skip
EMBEDS: dict[str, Any] = {
    "callbacks": [EVIL_STEP], "errbacks": [EVIL_STEP], "chain": [EVIL_STEP], "chord": EVIL_STEP,
    "fluxy_place": [SYNC_OP, "x", "x"],
}  # fmt: skip
HEADERS: dict[str, Any] = {
    "eta": "2020-01-01T00:00:00Z", "expires": "2999-01-01T00:00:00Z", "group": "g", "root_id": "r", "parent_id": "p",
    "shadow": "another.task", "ignore_result": False, "stamped_headers": ["stamp"], "stamp": "s", "retries": 7,
    "timelimit": [1, 1], "replaced_task_nesting": 3, "lane": "another", "outcomes": {"5xx": "delivered"},
}  # fmt: skip


def forge_letters(here: Scene) -> None:
    """Replace, hide, race, the same id from two sides, the id of a living operation."""
    replace(here)
    living(here)
    hide(here)
    race(here)
    here.still_works("forged letters")


def send(here: Scene, path: str, body: Any, claimed_id: str, embed: Any = None, **headers: Any) -> str:
    """An unsealed message; the id of the dead letter that became of it."""
    before = unaccepted(here)
    content = json.dumps([["POST", path], {"body": body}, embed or {}]).encode()
    head = {"task": SYNC_OP, "id": claimed_id} | headers
    here.forger.client.lpush(here.forger.queue, here.forger.message(content, head))
    here.forged["letters"] += 1
    wait_until(lambda: len(unaccepted(here)) > len(before), PATIENCE_S, "a dead letter of what came unsealed")
    (new,) = unaccepted(here) - before
    here.run.check(new.startswith(UNACCEPTED_MARK), f"what came unsealed chose its id: {new}")
    return new


def unaccepted(here: Scene) -> set[str]:
    return {letter.id for letter in here.sync.dead_letters() if letter.reason == "unsealed"}


def accept(here: Scene, letter_id: str, digest: str) -> bool:
    """Accept it where that is possible; whatever is accepted is what was shown last under that digest."""
    shown = here.sync.examine(letter_id)
    here.run.check(shown.digest == digest, "the digest of one letter changed")
    accepted_id = here.sync.accept(letter_id, digest=digest)
    here.accepted[accepted_id] = (*shown.args, json.loads(shown.kwargs["body"]))
    wait_until(lambda: here.arrived(accepted_id), PATIENCE_S, "what was accepted to be sent")
    return True


def refused(here: Scene, what: str, act: Callable[[], object]) -> None:
    """It must say no, by an error of ours."""
    try:
        act()
    except (InvalidOperation, SealError):
        return
    here.run.check(False, f"{what} was possible")


def replace(here: Scene) -> None:
    """A message claims the id of a dead letter; another one claims the same id again; a person replays that letter."""
    here.stage.upstream.script(f"{HARMLESS}/refused", [{"status": 422}])
    mine = here.queue("letters", f"{HARMLESS}/refused")
    wait_until(lambda: mine in {one.id for one in here.sync.dead_letters()}, PATIENCE_S, "a dead letter")
    first, second = send(here, STOLEN, 1, mine), send(here, STOLEN, 2, mine)
    here.run.check(first != second, "two messages took one place")
    kept = next(one for one in here.sync.dead_letters() if one.id == mine)
    here.run.check(kept.reason == "422", f"the dead letter {mine} was replaced: {kept.reason}")
    for letter in (first, second):
        refused(here, "a replay of what was never accepted", lambda letter=letter: here.sync.replay(letter))  # type: ignore[misc]
    here.sync.replay()
    wait_until(lambda: here.sync.operation(mine, "letters").state == "gone", PATIENCE_S, "the replayed operation")
    here.run.check({first, second} <= unaccepted(here), "a replay of all took what was never accepted")
    again = send_again(here, STOLEN, 1, mine)
    here.run.check(again == 0, "a message that came twice is kept twice")


def send_again(here: Scene, path: str, body: Any, claimed_id: str) -> int:
    """How many more letters there are after the same message came once more."""
    before = here.sync.status().dead
    content = json.dumps([["POST", path], {"body": body}, {}]).encode()
    here.forger.client.lpush(here.forger.queue, here.forger.message(content, {"task": SYNC_OP, "id": claimed_id}))
    here.still_works("the same message again")
    return here.sync.status().dead - before


def living(here: Scene) -> None:
    """A message claims the id of an operation that waits: neither takes the other's place, nor its content."""
    here.sync.pause()
    mine = here.queue("living")
    here.sync.resume("living")
    letter = send_while_paused(here, mine)
    here.run.check(here.sync.operation(mine, "living").state == "pending", "a message took a living operation's place")
    here.sync.resume()
    wait_until(lambda: here.arrived(mine), PATIENCE_S, "the living operation")
    here.run.check(letter in unaccepted(here), "the letter went with the operation whose id it claims")


def send_while_paused(here: Scene, claimed_id: str) -> str:
    """The consumer listens only through an open gate: the lane alone is paused."""
    here.sync.pause("living")
    here.sync.resume()
    letter = send(here, STOLEN, 3, claimed_id)
    here.sync.pause()
    here.sync.resume("living")
    return letter


def hide(here: Scene) -> None:
    """What Celery would act on is sent along with something harmless, which is accepted."""
    for n in range(here.run.scale(4, 100)):
        chance = here.run.chance
        embed = {name: EMBEDS[name] for name in chance.sample(sorted(EMBEDS), chance.randint(1, len(EMBEDS)))}
        headers = {name: HEADERS[name] for name in chance.sample(sorted(HEADERS), chance.randint(0, len(HEADERS)))}
        letter = send(here, f"{HARMLESS}/{n}", n, here.forger.id(), embed, **headers)
        accept(here, letter, here.sync.examine(letter).digest)
    here.still_works("hidden steps")  # whatever followed from them would have been sent by now


def race(here: Scene) -> None:
    """Between the look and the word the letter is changed: nothing but what was shown is accepted."""
    for n in range(here.run.scale(len(CHANGES), 20 * len(CHANGES))):
        change = CHANGES[n % len(CHANGES)]
        letter, other = (send(here, path, n, here.forger.id()) for path in (f"{HARMLESS}/raced", STOLEN))
        digest = here.sync.examine(letter).digest
        change(here.forger, letter, other)
        refused(here, f"accepting after {change.__name__}", lambda a=letter, d=digest: here.sync.accept(a, digest=d))  # type: ignore[misc]
        refused(here, "accepting with another digest", lambda a=other, d=digest: here.sync.accept(a, digest=d))  # type: ignore[misc]


def taken(forger: Forger, letter: str, _: str) -> None:
    forger.client.hdel(forger.keys.dead, pack_id(letter))
    forger.client.zrem(forger.keys.dead_index, pack_id(letter))


def exchanged(forger: Forger, letter: str, other: str) -> None:
    one, two = pack_id(letter), pack_id(other)
    values = forger.client.hmget(forger.keys.dead, one, two)
    forger.client.hset(forger.keys.dead, mapping={one: values[1], two: values[0]})


def one_bit(forger: Forger, letter: str, _: str) -> None:
    value = forger.client.hget(forger.keys.dead, pack_id(letter))
    forger.client.hset(forger.keys.dead, pack_id(letter), forger.flip(value, len(value) - 20))


def called_refused(forger: Forger, letter: str, _: str) -> None:
    """As if the upstream had refused it: then a replay would be enough."""
    value = forger.client.hget(forger.keys.dead, pack_id(letter))
    forger.client.hset(forger.keys.dead, pack_id(letter), value.replace(b"\x08unsealed", b"\x03422", 1))


CHANGES: list[Callable[[Forger, str, str], None]] = [taken, exchanged, one_bit, called_refused]
