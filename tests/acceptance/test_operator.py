"""What a field engineer sees of a stuck gateway, by the real command line on a real store."""

import base64
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from fluxy_sync import FluxySync
from fluxy_sync.journal import Claim
from fluxy_sync.vault import new_key
from tests.command_line import CommandLine, document, environment, notes_of, refused
from tests.conftest import Gateway
from tests.stuck import HOLDER, MARKER, claim, die, fail, ids_on, queue

# --- ls


def test_ls_lists_what_waits_lane_by_lane_head_first(with_store: CommandLine, sync: FluxySync) -> None:
    """The lane that has waited longest comes first; each operation has its state, and its head says why it waits."""
    first = queue(sync, "orders", id="order-1", expires=3600)
    fail(sync, "orders", first)
    behind = queue(sync, "orders", on_dead="halt")
    later = queue(sync, "nightly", countdown=7200)
    found = document(with_store("ls", "--json"))
    assert [(one["id"], one["lane"], one["state"]) for one in found["operations"]] == [
        (first, "orders", "retrying"), (behind, "orders", "pending"), (later, "nightly", "pending"),
    ]  # fmt: skip
    head, second, waits = found["operations"]
    assert (head["retries"], head["last_error"], second["last_error"]) == (1, "503", None)
    assert 50 < head["next_try_in_s"] <= 60
    assert 3500 < head["expires_in_s"] <= 3600
    assert 7100 < waits["next_try_in_s"] <= 7200
    assert (head["halts"], second["halts"]) == (False, True)
    assert head["size"] > 100
    assert (found["more"], found["held"], found["gate"]) == (0, [], "open")


def test_ls_shows_each_lanes_head_and_says_how_many_more_wait(with_store: CommandLine, sync: FluxySync) -> None:
    """A long lane doesn't hide the others, and the numbers are exact where operations were cancelled in between."""
    many = [{"method": "POST", "path": "/x", "lane": "long"} for _ in range(1200)]
    ids = [operation.id for operation in sync.queue_many(many)]
    other = queue(sync, "short")
    sync.operation(ids[1], "long").cancel()
    found = document(with_store("ls", "--limit", "3", "--json"))
    assert [one["id"] for one in found["operations"]] == [ids[0], ids[2], other]
    assert found["more"] == 1200 + 1 - 1 - 3
    found = document(with_store("ls", "--lane", "long", "--limit", "700", "--json"))
    assert [one["id"] for one in found["operations"]] == [ids[0], *ids[2:701]]
    assert found["more"] == 1199 - 700
    assert document(with_store("ls", "--lane", "empty", "--json"))["operations"] == []


def test_ls_says_what_holds_a_lane_and_the_gate(with_store: CommandLine, sync: FluxySync) -> None:
    """Held lanes come with their reasons, empty ones too; a closed gate is told with its reason."""
    dead = die(sync, "orders", on_dead="halt")
    queue(sync, "orders")
    sync.pause("photos")
    sync.pause()
    held = {one["lane"]: one["why"] for one in document(with_store("ls", "--json"))["held"]}
    assert held.keys() == {"orders", "photos"}
    assert held["photos"] == ["paused"]
    shown = with_store("ls").stdout
    assert f"Lane orders is held: halted by the dead letter {dead}." in shown
    assert "Lane photos is held: someone paused it." in shown
    assert re.search(r"The gate is paused \(by \S+ \(uid \d+\)@\S+ \(python\)\): nothing is sent\.", shown)
    only = document(with_store("ls", "--lane", "photos", "--json"))
    assert [one["lane"] for one in only["held"]] == ["photos"]


def test_ls_without_a_terminal_has_one_line_for_each_operation(with_store: CommandLine, sync: FluxySync) -> None:
    """In a file or a pipe each line is whole, with its lane, and has no colours."""
    ids = [queue(sync, "orders"), queue(sync, None), queue(sync, "l" * 100)]
    fail(sync, "orders", ids[0])
    done = with_store("ls")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for operation_id, lane in zip(ids, ("orders", "-", "l" * 100), strict=True):
        assert re.search(rf"^{operation_id} +{lane} .*(pending|retrying)", done.stdout, re.MULTILINE)
    assert "the upstream answered 503 Service Unavailable, 1 retry, next try in " in done.stdout


def test_an_empty_queue_is_said_to_be_empty(with_store: CommandLine) -> None:
    """Nothing is told in words, not by an empty table."""
    assert with_store("ls").stdout == "Nothing waits.\n"
    assert with_store("ls", "--lane", "l").stdout == "Nothing waits on lane l.\n"
    assert with_store("dead", "ls").stdout == "There are no dead letters.\n"
    assert with_store("audit").stdout == "Nothing has been noted yet.\n"


def test_what_waits_can_be_seen_without_the_keys(with_store: CommandLine, sync: FluxySync) -> None:
    """Who has no key sees what waits and what is dead, but can't open it."""
    waits, dead = queue(sync, "a"), die(sync, "b")
    assert [one["id"] for one in document(with_store("ls", "--json", KEYS=""))["operations"]] == [waits]
    assert [one["id"] for one in document(with_store("dead", "ls", "--json", KEYS=""))["dead"]] == [dead]
    assert document(with_store("show", waits, "--lane", "a", "--json", KEYS=""))["id"] == waits
    assert document(with_store("status", "--json", KEYS=""))["pending"] == 1


# --- show


def test_show_tells_one_operation(with_store: CommandLine, sync: FluxySync) -> None:
    """Waiting or dead, found without its lane's name; nothing of what it says."""
    sync.pause("orders")
    waits, dead = queue(sync, "orders"), die(sync, "photos", "expired")
    shown = document(with_store("show", waits, "--json"))
    assert (shown["state"], shown["lane"], shown["held_for"], shown["gate"]) == (
        "pending",
        "orders",
        ["paused"],
        "open",
    )
    letter = document(with_store("show", dead, "--json"))
    assert (letter["state"], letter["reason"], letter["lane"]) == ("dead", "expired", "photos")
    died = datetime.fromisoformat(letter["died_at"])
    assert letter["died_at"].endswith("Z")
    assert abs(datetime.now(UTC) - died) < timedelta(minutes=1)
    assert "lane is held   someone paused it" in with_store("show", waits).stdout
    assert "its time was over before it was sent" in with_store("dead", "show", dead).stdout
    assert not {"request", "detail"} & (shown.keys() | letter.keys())


def test_show_reveals_only_when_asked_and_only_after_it_is_noted(with_store: CommandLine, sync: FluxySync) -> None:
    """--reveal shows method, path, headers and body, and the answer that refused it; the audit log has it first."""
    waits, dead = queue(sync, "a"), die(sync, "b", detail=b'{"error": "no"}')
    request = document(with_store("show", waits, "--reveal", "--json"))["request"]
    assert (request["method"], request["path"], request["headers"]) == ("POST", f"/{MARKER}", {"X-Marker": MARKER})
    assert json.loads(request["body"]["text"]) == {"secret": MARKER}
    letter = document(with_store("dead", "show", dead, "--reveal", "--json"))
    assert letter["detail"] == {"text": '{"error": "no"}'}
    assert notes_of(with_store) == [("reveal", dead), ("reveal", waits)]
    refused(with_store("show", waits, "--reveal", KEYS=new_key()), 1)
    assert notes_of(with_store)[0] == ("reveal", waits)


def test_a_body_is_shown_as_what_it_is(with_store: CommandLine, sync: FluxySync) -> None:
    """JSON is laid out, text stays text, other bytes are told with their number, and nothing steers the terminal."""
    bodies: dict[str, Any] = {"json": {"a": [1, "grüße"]}, "text": b"one\ntwo \x1b[31mred", "bytes": b"\xff\xd8" * 50}
    for name, body in bodies.items():
        queue(sync, "l", id=name, body=body)
    assert '{\n  "a": [\n    1,\n    "grüße"\n  ]\n}' in with_store("show", "json", "--lane", "l", "--reveal").stdout
    assert "one\ntwo \\x1b[31mred" in with_store("show", "text", "--lane", "l", "--reveal").stdout
    shown = with_store("show", "bytes", "--lane", "l", "--reveal").stdout
    assert re.search(r"body, 100 bytes:\nnot text; ff d8 ff d8 .* and 36 bytes more", shown)
    body = document(with_store("show", "bytes", "--lane", "l", "--reveal", "--json"))["request"]["body"]
    assert body == {"base64": base64.b64encode(bodies["bytes"]).decode()}


def test_a_missing_key_is_one_sentence(with_store: CommandLine, sync: FluxySync) -> None:
    """What can't be opened here is kept; the sentence names the key."""
    waits = queue(sync, "a")
    sentence = refused(with_store("show", waits, "--reveal", KEYS=new_key()), 1)
    assert document(with_store("show", waits, "--json"))["key_id"] in sentence
    assert ids_on(sync, "a") == [waits]


def test_a_damaged_dead_letter_can_be_seen_and_dropped(with_store: CommandLine, sync: FluxySync) -> None:
    """One whose id can't be read any more has a name of its own, by which it can be shown and deleted."""
    waits = queue(sync, "a")
    store, key = sync.engine.journal.store, sync.engine.journal.keys.lane("a")
    store.command("LSET", key, 0, b"\xff" + store.command("LINDEX", key, 0)[1:])
    sync.engine.journal.claim(HOLDER)
    (letter,) = document(with_store("dead", "ls", "--json"))["dead"]
    assert letter["reason"] == "corrupt"
    assert document(with_store("dead", "show", letter["id"], "--json"))["lane"] == "a"
    refused(with_store("dead", "show", letter["id"], "--reveal"), 1)
    assert document(with_store("dead", "drop", letter["id"], "--yes", "--json")) == {"dropped": 1}
    assert waits not in ids_on(sync, "a")


def test_an_operation_that_isnt_there_is_told(with_store: CommandLine, sync: FluxySync) -> None:
    """show, cancel and the dead commands end with 1, with the id in one sentence."""
    waits = queue(sync, "a")
    for command in ("show", "cancel --yes", "dead show", "dead replay", "dead drop --yes"):
        assert "never-queued" in refused(with_store(*command.split(), "never-queued"), 1)
    assert waits in refused(with_store("dead", "show", waits), 1)
    assert "on lane b" in refused(with_store("show", waits, "--lane", "b"), 1)
    assert notes_of(with_store) == []


# --- pause and resume


def test_pause_and_resume(with_store: CommandLine, sync: FluxySync) -> None:
    """The gate is paused by whoever did it, until it is resumed; doing either twice changes nothing."""
    paused = document(with_store("pause", "--json"))
    assert (paused["changed"], paused["landed"]) == (True, True)
    assert paused["landed_at"].endswith("Z")
    assert document(with_store("pause", "--json"))["changed"] is False
    status = document(with_store("status", "--json"))
    assert status["gate"] == "paused"
    assert re.fullmatch(rf"by \S+ \(uid {os.geteuid()}\)@\S+ \(cli\)", status["reason"])
    assert "fluxy-sync resume" in with_store("status").stdout
    assert document(with_store("resume", "--json")) == {"changed": True, "gate": "open", "held_for": []}
    done = with_store("resume")
    assert (done.returncode, done.stdout) == (0, "The gate was not paused; nothing changed.\n")
    assert notes_of(with_store) == [(what, "all lanes") for what in ("resume", "resume", "pause", "pause")]


def test_one_lane_is_paused_alone(with_store: CommandLine, sync: FluxySync) -> None:
    """A paused lane isn't claimed; the others are, and it is after its resume."""
    queue(sync, "a")
    done = with_store("pause", "--lane", "a")
    assert done.stdout.splitlines() == ["Lane a is paused: nothing more is sent.", "Nothing is in flight."]
    queue(sync, "b")
    claim(sync, "b")
    assert not isinstance(sync.engine.journal.claim(HOLDER), Claim)
    assert with_store("resume", "--lane", "a").stdout == "Lane a is paused no more.\n"
    claim(sync, "a")


def test_a_dead_workers_claim_is_waited_for_and_no_longer(with_store: CommandLine, sync: FluxySync) -> None:
    """It counts as in flight until it runs out; behind a closed gate nobody takes it over."""
    queue(sync, "a")
    assert isinstance(sync.engine.journal.claim(HOLDER, length_s=1.5), Claim)
    assert document(with_store("pause", "--json"))["landed"] is True


def test_resume_says_what_still_holds(with_store: CommandLine, sync: FluxySync) -> None:
    """A lane that waits for something else, or behind a closed gate, isn't said to go on."""
    dead = die(sync, "a", on_dead="halt")
    sync.pause("a")
    sync.pause()
    first, second, third = with_store("resume", "--lane", "a").stdout.splitlines()
    assert first == "Lane a is paused no more."
    assert second == f"It is held: halted by the dead letter {dead}."
    assert third.startswith("The gate is paused (by ")
    assert "was not paused; nothing changed" in with_store("resume", "--lane", "a").stdout


def test_pause_says_when_the_last_request_has_landed(
    gateway: Gateway, with_store: CommandLine, sync: FluxySync
) -> None:
    """It waits for what is in flight; where that doesn't land in time it ends with 1, and the pause holds."""
    operation_id = queue(sync, "a")
    fence = claim(sync, "a").fence
    done = with_store("pause", "--wait", "0.2")
    assert (done.returncode, done.stdout) == (1, "The gate is paused: nothing more is sent.\n")
    assert "still in flight after 0.2 s; the pause holds" in done.stderr
    unwaited = with_store("pause", "--no-wait")
    assert (unwaited.returncode, unwaited.stdout.splitlines()[-1]) == (0, "A request is still in flight.")
    assert document(with_store("pause", "--no-wait", "--json"))["landed"] is False
    env = environment(gateway.folder / "data") | gateway.environment
    waiting = subprocess.Popen(
        [sys.executable, "-u", "-m", "fluxy_sync", "pause", "--lane", "a"],
        env=env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "Lane a is paused: nothing more is sent.\n"
    assert waiting.poll() is None
    sync.engine.journal.settle("a", fence, operation_id, "delivered", give_up=True)
    rest, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0
    assert re.fullmatch(r"The last request landed at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\.\n", rest)


# --- audit


def test_the_audit_log_says_who_did_what_and_when(with_store: CommandLine, sync: FluxySync) -> None:
    """The newest first; each note has the person, the way he came, and a moment in UTC."""
    queue(sync, "a")
    sync.pause()
    with_store("resume")
    (resume, pause) = document(with_store("audit", "--json"))["notes"]
    assert (resume["what"], pause["what"]) == ("resume", "pause")
    assert resume["who"].endswith("(cli)")
    assert pause["who"].endswith("(python)")
    assert resume["at"].endswith("Z")
    assert resume["at"] >= pause["at"]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(resume["at"])) < timedelta(minutes=1)
    assert len(document(with_store("audit", "--limit", "1", "--json"))["notes"]) == 1
    shown = with_store("audit").stdout
    assert re.search(
        r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\S+ \(uid \d+\)@\S+ \(cli\) +resume all lanes", shown, re.MULTILINE
    )


# --- queue


def test_queues_options_reach_the_operation(with_store: CommandLine, sync: FluxySync) -> None:
    """--once, --expires, --on-dead and --keep-result mean what they mean in Python."""
    given = ["--lane", "a", "--expires", "3600", "--on-dead", "halt", "--once", "order:42", "--keep-result", "--json"]
    first = document(with_store("queue", "POST", "/x", *given))
    assert document(with_store("queue", "POST", "/x", *given)) == first
    (one,) = document(with_store("ls", "--json"))["operations"]
    assert one["id"] == first["id"]
    assert one["halts"] is True
    assert 3500 < one["expires_in_s"] <= 3600
    found = sync.maintenance.find(first["id"], "a")
    assert found is not None
    assert '"ignore_result": false' in sync.maintenance.reveal(found).options


# --- secrecy


def test_nothing_shows_a_payload_unasked(with_store: CommandLine, sync: FluxySync) -> None:
    """Path, headers, body and the kept answer appear in no output, whatever the command; with --reveal they do."""
    waits = [queue(sync, "a"), queue(sync, "a", id="second", once=MARKER)]
    dead = [die(sync, "b", detail=MARKER.encode(), id=f"dead-{n}") for n in range(4)]
    commands = [
        "status", "ls", f"show {waits[0]}", "dead ls", f"dead show {dead[0]}", "pause", "resume", "keys ls",
        f"dead replay {dead[0]}", f"dead replay {dead[1]} --body {MARKER}", f"dead drop {dead[2]} --yes",
        f"cancel {waits[1]} --yes", "cancel gone --yes", "keys rotate", "ls --json", f"show {waits[0]} --json",
        f"queue POST /{MARKER} --body {MARKER} --header X:{MARKER}", "clear --yes", "audit",
    ]  # fmt: skip
    revealed = with_store("dead", "show", dead[3], "--reveal")
    assert revealed.stdout.count(MARKER) == 4
    for command in commands:
        as_json = ["--json"] if command.split()[0] in ("dead", "keys", "cancel", "queue") else []
        done = with_store(*command.split(), *as_json)
        assert done.returncode == (1 if "gone" in command else 0), done.stderr
        assert MARKER not in done.stdout + done.stderr, command
