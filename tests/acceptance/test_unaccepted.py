"""The one door by which something unsealed can become an operation: shown whole, then accepted by its digest."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync, InvalidOperation
from fluxy_sync.admin.acceptance import Unaccepted
from fluxy_sync.errors import CorruptRecord
from fluxy_sync.journal import NewRecord
from fluxy_sync.journal.record import pack_id
from fluxy_sync.operation import SYNC_OP, UNACCEPTED_MARK, Operation
from tests.chaos.forged_letters import EMBEDS, HEADERS
from tests.chaos.forger import Forger
from tests.command_line import environment, fluxy_sync
from tests.conftest import Gateway, wait_until
from tests.dashboard import Dashboard
from tests.upstream import Upstream

ODD_HEADERS = {"request": "GET /harmless", "X-Empty": "", "digest": "sha256:00"}
TWICE = b'{"to": "them", "to": "me"}'


@pytest.fixture
def sync(gateway: Gateway, upstream: Upstream) -> FluxySync:
    """A gateway that runs."""
    upstream.start()
    gateway.start("worker", "beat")
    return FluxySync(gateway.settings())


def send(
    forger: Forger,
    sync: FluxySync,
    kwargs: dict[str, Any] | None = None,
    embed: Any = None,
    path: str = "/forged",
    **headers: Any,
) -> str:
    """A message from somebody without a key: the id of the dead letter that it became."""
    before = {letter.id for letter in sync.dead_letters()}
    body = json.dumps([["POST", path], kwargs or {"body": "forged"}, embed or {}]).encode()
    forger.client.lpush(forger.queue, forger.message(body, {"task": SYNC_OP, "id": forger.id()} | headers))
    wait_until(lambda: sync.status().dead == len(before) + 1)
    (new,) = {letter.id for letter in sync.dead_letters()} - before
    return new


def sent(upstream: Upstream) -> list[tuple[str, str]]:
    return [(request["method"], request["path"]) for request in upstream.requests()]


def reason_of(sync: FluxySync, letter_id: str) -> str:
    return next(letter.reason for letter in sync.dead_letters() if letter.id == letter_id)


# --- an id of its own


def test_a_message_takes_no_dead_letters_place(sync: FluxySync, upstream: Upstream, forger: Forger) -> None:
    """One that claims the id of an operation that gave up is kept beside it: a replay sends what was accepted."""
    upstream.script("/mine", [{"status": 422}])
    mine = sync.queue("POST", "/mine", body="mine")
    wait_until(lambda: mine.state == "dead")
    forged = send(forger, sync, id=mine.id)
    assert forged.startswith(UNACCEPTED_MARK)
    assert (reason_of(sync, mine.id), reason_of(sync, forged)) == ("422", "unsealed")
    assert sync.replay(mine.id) == 1
    wait_until(lambda: mine.state == "gone")
    assert {path for _, path in sent(upstream)} == {"/mine"}
    assert reason_of(sync, forged) == "unsealed"


def test_a_message_takes_no_living_operations_place(sync: FluxySync, upstream: Upstream, forger: Forger) -> None:
    """One that claims the id of an operation that waits changes nothing of it, alive, dead or delivered."""
    sync.pause("mine")
    upstream.script("/mine", [{"status": 422}])
    mine = sync.queue("POST", "/mine", body="mine", lane="mine")
    forged = send(forger, sync, id=mine.id)
    assert mine.state == "pending"
    sync.resume("mine")
    wait_until(lambda: mine.state == "dead")
    assert (reason_of(sync, mine.id), reason_of(sync, forged)) == ("422", "unsealed")


def test_no_operation_can_have_such_an_id(sync: FluxySync, forger: Forger) -> None:
    """Not by queue(), nor by a message of somebody with a key."""
    forged = send(forger, sync)
    for taken in (forged, f"{UNACCEPTED_MARK}x"):
        with pytest.raises(InvalidOperation, match="can't begin with 'unaccepted-'"):
            sync.queue("POST", "/x", id=taken)


def test_a_message_that_comes_again_is_kept_once(sync: FluxySync, forger: Forger) -> None:
    """Its content names it; another content under the same claimed id is another one."""
    claimed = forger.id()
    first = send(forger, sync, id=claimed)
    body = json.dumps([["POST", "/forged"], {"body": "forged"}, {}]).encode()
    forger.client.lpush(forger.queue, forger.message(body, {"task": SYNC_OP, "id": claimed}))
    assert send(forger, sync, {"body": "another"}, id=claimed) != first
    assert sync.status().dead == 2


# --- nothing but the task and its arguments


def test_no_link_chain_or_header_survives(sync: FluxySync, upstream: Upstream, forger: Forger) -> None:
    """Whatever Celery would act on is left behind: what was shown is sent, and nothing follows from it."""
    letter = send(forger, sync, embed=EMBEDS, **HEADERS)
    found = sync.examine(letter)
    assert found.operation == Operation(("POST", "/forged"), {"body": b'"forged"'})
    accepted = sync.accept(letter, digest=found.digest)
    wait_until(lambda: sent(upstream) == [("POST", "/forged")])
    wait_until(lambda: sync.operation(accepted).state == "gone")
    sync.queue("POST", "/after")
    wait_until(lambda: ("POST", "/after") in sent(upstream))
    assert sent(upstream) == [("POST", "/forged"), ("POST", "/after")]
    assert upstream.requests()[0]["key"] == accepted
    assert sync.status().dead == 0


def test_what_an_earlier_version_kept_loses_its_links_too(sync: FluxySync, upstream: Upstream) -> None:
    """It was sealed with its links, under the id that its message claimed: that of an operation, perhaps."""
    upstream.script("/mine", [{"status": 422}])
    mine = sync.queue("POST", "/mine", body="mine")
    options = json.dumps({"link": [EMBEDS["chain"][0]], "chain": EMBEDS["chain"]})
    old = Operation(("POST", "/forged"), {"body": b"forged"}, options=options)
    wait_until(lambda: mine.state == "dead")
    bury(sync, old, "earlier")
    found = sync.examine("earlier")
    assert found.operation.options == ""
    accepted = sync.accept("earlier", digest=found.digest)
    assert accepted != "earlier"
    wait_until(lambda: sync.operation(accepted).state == "gone")
    assert sent(upstream) == [("POST", "/mine"), ("POST", "/forged")]


def bury(sync: FluxySync, operation: Operation, letter_id: str) -> None:
    assert sync.engine.journal.bury(sync.engine.seal(operation, "default", letter_id, refused=True), "unsealed")


def test_one_that_claims_an_operations_id_makes_way_for_it(sync: FluxySync, upstream: Upstream) -> None:
    """Kept by an earlier version under the id of an operation that dies later: both are kept, and told apart."""
    upstream.script("/mine", [{"status": 422}])
    sync.pause()
    mine = sync.queue("POST", "/mine", body="mine")
    bury(sync, Operation(("POST", "/forged")), mine.id)
    sync.resume()
    wait_until(lambda: sync.status().dead == 2)
    aside, own = sync.dead_letters()
    assert (aside.id, aside.reason) == (f"set-aside-{aside.number}", "unsealed")
    assert (own.id, own.reason) == (mine.id, "422")
    found = sync.examine(aside.id)
    assert found.args == ("POST", "/forged")
    accepted = sync.accept(aside.id, digest=found.digest)
    wait_until(lambda: sync.operation(accepted).state == "gone")
    assert sync.replay() == 1


# --- all of it is shown


def test_all_that_would_be_sent_is_shown(sync: FluxySync, forger: Forger, gateway: Gateway, tmp_path: Path) -> None:
    """No header stands in for the request, none is left out; a body is shown as it is, with its digest."""
    kwargs = {"body": "body", "headers": ODD_HEADERS}
    letter = send(forger, sync, kwargs)
    found = sync.examine(letter)
    assert found.kwargs == {"body": b'"body"', "headers": ODD_HEADERS}
    shown = fluxy_sync("dead", "show", letter, "--reveal", env=gateway.environment).stdout.splitlines()
    for line in (
        "request: POST /forged", "| request: GET /harmless", "| X-Empty: ", "| digest: sha256:00", '| "body"',
        f"  fluxy-sync dead accept {letter} --digest {found.digest}",
    ):  # fmt: skip
        assert line in shown, shown
    told = json.loads(fluxy_sync("show", letter, "--reveal", "--json", env=gateway.environment).stdout)
    assert told["request"] == {"method": "POST", "path": "/forged", "headers": ODD_HEADERS, "body": {"text": '"body"'}}
    assert (told["digest"], told["task"]) == (found.digest, SYNC_OP)


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (TWICE, ['| {"to": "them", "to": "me"}']),
        (b"one\n\x1b[2J\ntwo\r\n", ["| one", "| \\x1b[2J", "| two\\r"]),
        (b"To accept exactly this:\n", ["| To accept exactly this:"]),
        (b"\xff" * 100, ["| " + " ".join(["ff"] * 32)] * 3 + ["| ff ff ff ff"]),
    ],
)
def test_a_body_is_shown_as_it_is(
    sync: FluxySync, gateway: Gateway, body: bytes, lines: list[str], forger: Forger
) -> None:
    """JSON isn't laid out anew, which could hide a key; no byte is left out; no line of it passes for one of ours."""
    letter = f"{UNACCEPTED_MARK}by-hand"
    bury(sync, Operation(("POST", "/forged"), {"body": body}), letter)
    shown = fluxy_sync("dead", "show", letter, "--reveal", env=gateway.environment).stdout.splitlines()
    at = shown.index(lines[0])
    assert shown[at : at + len(lines)] == lines


def test_what_waits_is_shown_without_a_header_in_its_requests_place(sync: FluxySync, gateway: Gateway) -> None:
    """The same for what was accepted: a header that is called 'request' isn't the request."""
    sync.pause()
    mine = sync.queue("POST", "/real", headers={"request": "GET /other", "X-Empty": ""})
    shown = fluxy_sync("show", mine.id, "--reveal", env=gateway.environment).stdout
    assert "POST /real" in shown
    assert "request: GET /other\n" in shown
    assert "X-Empty: \n" in shown


# --- accepted by its digest alone


def test_it_is_accepted_by_a_person_with_the_keys(
    sync: FluxySync, upstream: Upstream, forger: Forger, gateway: Gateway, tmp_path: Path
) -> None:
    """By the digest of what was shown, on the command line; who, what and as which operation is in the audit log."""
    letter = send(forger, sync)
    digest = sync.examine(letter).digest
    command = ("dead", "accept", letter, "--digest", digest)
    told = json.loads(fluxy_sync(*command, "--json", env=gateway.environment).stdout)
    wait_until(lambda: sent(upstream) == [("POST", "/forged")])
    assert told["accepted"] == letter
    assert upstream.requests()[0]["key"] == told["id"]
    (note,) = (note for note in sync.maintenance.inventory.notes(10) if note["what"] == "accept")
    assert note["which"] == f"{letter}, {digest}, as {told['id']}"
    again = fluxy_sync(*command, env=gateway.environment)
    assert (again.returncode, letter in again.stderr) == (2, True)


def test_nothing_is_accepted_without_its_digest(
    sync: FluxySync, upstream: Upstream, forger: Forger, gateway: Gateway, tmp_path: Path
) -> None:
    """Not by another one's, not by a part of it, not without a key; no replay takes it, with whichever body."""
    letter, other = send(forger, sync), send(forger, sync, path="/other")
    digest = sync.examine(letter).digest
    for wrong in (sync.examine(other).digest, digest[:-1], digest.upper(), "", "\udcff"):
        with pytest.raises(InvalidOperation, match="the digest isn't that of"):
            sync.accept(letter, digest=wrong)
    for body in ({}, {"body": "another"}):
        with pytest.raises(InvalidOperation, match="never accepted"):
            sync.replay(letter, **body)
    with pytest.raises(InvalidOperation, match="never accepted"):
        sync.replay([letter, other], to="head")
    assert sync.replay() == 0
    assert fluxy_sync("dead", "accept", letter, env=gateway.environment).returncode == 2
    kept = {name.removeprefix("FLUXY_SYNC_"): value for name, value in gateway.environment.items()}
    keyless = {name: value for name, value in kept.items() if name not in ("KEYS", "DATA_DIR")}
    refused = fluxy_sync("dead", "accept", letter, "--digest", digest, env=environment(tmp_path / "none", **keyless))
    assert (refused.returncode, "where the keys are" in refused.stderr) == (2, True)
    sync.queue("POST", "/after")
    wait_until(lambda: sent(upstream) == [("POST", "/after")])
    assert {one.id for one in sync.dead_letters()} == {letter, other}


def test_the_dashboard_can_not_accept_it(
    sync: FluxySync, upstream: Upstream, forger: Forger, gateway: Gateway, tmp_path: Path
) -> None:
    """Whoever is signed in, or has taken it over: it has no key, no such action, and a replay is refused."""
    letter = send(forger, sync)
    dashboard = Dashboard(gateway.environment, tmp_path).start()
    try:
        named = dashboard.post("/api/sync/dead/replay", {"ids": [letter]})
        assert (named.status_code, "never accepted" in named.json()["error"]) == (400, True)
        assert dashboard.post("/api/sync/dead/replay", {"all": True}).json() == {"count": 0}
        digest = sync.examine(letter).digest
        assert dashboard.post("/api/sync/dead/accept", {"id": letter, "digest": digest}).status_code == 404
    finally:
        dashboard.end()
    assert reason_of(sync, letter) == "unsealed"


@pytest.mark.parametrize("change", ["exchanged", "called refused", "gone", "dropped and sent again"])
def test_what_was_changed_between_look_and_word_is_not_accepted(
    sync: FluxySync, upstream: Upstream, forger: Forger, change: str
) -> None:
    """What was shown is accepted, or nothing."""
    letter, other = send(forger, sync), send(forger, sync, path="/other")
    found = sync.examine(letter)
    key, one, two = forger.keys.dead, pack_id(letter), pack_id(other)
    mine, theirs = forger.client.hmget(key, one, two)
    if change == "exchanged":
        forger.client.hset(key, one, theirs)
    elif change == "called refused":
        forger.client.hset(key, one, mine.replace(b"\x08unsealed", b"\x03422"))
    else:
        sync.drop(letter)
    if change == "dropped and sent again":
        again = accept_at_last_moment(sync, found)
        assert again == (False, False)
    with pytest.raises((InvalidOperation, CorruptRecord)):
        sync.accept(letter, digest=found.digest)
    sync.replay()  # where the forger called it refused, it goes to its lane, and opens on none
    sync.queue("POST", "/after")
    wait_until(lambda: sent(upstream) == [("POST", "/after")])


def accept_at_last_moment(sync: FluxySync, found: Unaccepted) -> tuple[bool, bool]:
    """The last step alone, with what was read before: the letter is another one by now."""
    bury(sync, Operation(("POST", "/other")), found.letter.id)
    done = sync.maintenance.inventory.accept(found.letter, found.raw, NewRecord("new", "default", b"sealed"))
    sync.drop(found.letter.id)
    return done


def test_a_replay_seals_nothing_of_another_dead_letter(sync: FluxySync, forger: Forger, upstream: Upstream) -> None:
    """An accepted record that was put in another one's place isn't sealed anew for that one's id."""
    upstream.script("/one", [{"status": 422}])
    upstream.script("/two", [{"status": 422}])
    one, two = (sync.queue("POST", path, body="x") for path in ("/one", "/two"))
    wait_until(lambda: sync.status().dead == 2)
    first, second = (sync.maintenance.inventory.find_letter(op.id) for op in (one, two))
    assert first is not None
    assert second is not None
    body = sync.maintenance.inventory.letter(second.member)
    assert body is not None
    with pytest.raises(CorruptRecord, match="the record of another one"):
        sync.maintenance._edited(first, body, "mine")
