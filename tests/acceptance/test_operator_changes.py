"""What a field engineer does about it: dead letters, and what can't be undone."""

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync import FluxySync
from tests.command_line import CommandLine, document, environment, notes_of, refused
from tests.conftest import Gateway, wait_until
from tests.stuck import MARKER, claim, die, fail, ids_on, queue
from tests.upstream import Upstream

# --- dead


def test_dead_ls_has_those_that_died_first_first(with_store: CommandLine, sync: FluxySync) -> None:
    """With lane, reason, moment and retries; --lane and --limit narrow it, and it says how many more there are."""
    ids = [die(sync, lane, reason) for lane, reason in (("a", "422"), ("b", "retries-spent:503"), ("a", "expired"))]
    found = document(with_store("dead", "ls", "--json"))
    assert [(one["id"], one["lane"], one["reason"]) for one in found["dead"]] == [
        (ids[0], "a", "422"), (ids[1], "b", "retries-spent:503"), (ids[2], "a", "expired"),
    ]  # fmt: skip
    assert found["more"] == 0
    of_a = document(with_store("dead", "ls", "--lane", "a", "--limit", "1", "--json"))
    assert ([one["id"] for one in of_a["dead"]], of_a["more"]) == ([ids[0]], 1)
    assert document(with_store("dead", "ls", "--limit", "1", "--json"))["more"] == 2
    shown = with_store("dead", "ls").stdout
    assert re.search(rf"{ids[1]} +b +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d .* its retries are spent; the last: ", shown)


def test_dead_letters_are_replayed_in_their_order(with_store: CommandLine, sync: FluxySync) -> None:
    """Those that are named, or all; behind what waits in their lanes, or in front of it."""
    ids = [die(sync, "a", id=f"old-{n}") for n in range(4)]
    queue(sync, "a", id="new")
    assert document(with_store("dead", "replay", ids[2], ids[1], "--json")) == {"replayed": 2}
    assert ids_on(sync, "a") == ["new", "old-1", "old-2"]
    done = with_store("dead", "replay", "--all", "--to", "head")
    assert (done.returncode, done.stdout) == (0, "2 dead letters are back on their lanes.\n")
    assert ids_on(sync, "a") == ["old-0", "old-3", "new", "old-1", "old-2"]
    assert notes_of(with_store) == [("replay", "all"), ("replay", f"{ids[2]}, {ids[1]}")]
    assert document(with_store("dead", "replay", "--all", "--json")) == {"replayed": 0}


def test_nothing_changes_where_one_of_them_isnt_there(with_store: CommandLine, sync: FluxySync) -> None:
    """The sentence names those that aren't there, and the others stay where they are."""
    dead = die(sync, "a")
    for command in (("dead", "replay", dead, "one", "two"), ("dead", "drop", "--yes", dead, "one", "two")):
        sentence = refused(with_store(*command), 1)
        assert "one, two; nothing changed" in sentence
        assert dead not in sentence
    assert document(with_store("dead", "show", dead, "--json"))["id"] == dead
    assert notes_of(with_store) == []


@pytest.mark.parametrize("body", ['{"fixed": "grüße"}', "plain text", "@"])
def test_a_dead_letter_is_replayed_with_another_body(
    with_store: CommandLine, sync: FluxySync, tmp_path: Path, body: str
) -> None:
    """JSON, text, or a file's bytes; the headers stay as they are."""
    dead = die(sync, "a")
    if body == "@":
        (tmp_path / "body").write_bytes(b"\xff\x00")
    given = f"@{tmp_path / 'body'}" if body == "@" else body
    assert document(with_store("dead", "replay", dead, "--body", given, "--json")) == {"replayed": 1}
    request = document(with_store("show", dead, "--reveal", "--json"))["request"]
    assert request["body"] == ({"base64": "/wA="} if body == "@" else {"text": body})
    assert request["headers"] == {"X-Marker": MARKER}
    assert ("replay with another body", dead) in notes_of(with_store)


def test_dropping_a_dead_letter_lets_its_lane_go_on(with_store: CommandLine, sync: FluxySync) -> None:
    """A lane that waits for someone goes on when its dead letter is dropped."""
    dead = die(sync, "a", on_dead="halt")
    queue(sync, "a")
    assert document(with_store("status", "--json"))["held_for"] == {"halted": 1}
    done = with_store("dead", "drop", dead, "--yes")
    assert (done.returncode, done.stdout) == (0, "1 dead letter is deleted.\n")
    assert document(with_store("status", "--json"))["held_for"] == {}
    assert notes_of(with_store) == [("drop", dead)]
    die(sync, "b")
    assert document(with_store("dead", "drop", "--all", "--yes", "--json")) == {"dropped": 1}


# --- what can't be undone


@pytest.mark.parametrize("command", ["cancel one", "clear", "clear --lane a", "dead drop dead", "dead drop --all"])
def test_what_cant_be_undone_needs_yes(with_store: CommandLine, sync: FluxySync, command: str) -> None:
    """Without a terminal and without --yes it ends with 2, in one sentence, and nothing changes."""
    die(sync, "b", id="dead")
    queue(sync, "a", id="one")
    assert "give --yes" in refused(with_store(*command.split()), 2)
    status = sync.status()
    assert (status.pending, status.dead) == (1, 1)
    assert notes_of(with_store) == []


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, gateway: Gateway, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        settings = {name.removeprefix("FLUXY_SYNC_"): value for name, value in gateway.environment.items()}
        env = environment(gateway.folder / "data", **settings) | {"TERM": "xterm", "COLUMNS": "100"}
        command = [sys.executable, "-m", "fluxy_sync", *arguments]
        self._process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        self.shown = ""

    def sees(self, text: str) -> bool:
        """Whether that has been shown by now."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self.shown += os.read(self._ours, 65536).decode()
            except OSError:  # the other end is closed
                break
        return text in self.shown

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Its exit code, once it has ended."""
        wait_until(lambda: self.sees("\0") or self._process.poll() is not None)
        self.sees("")
        return self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


@pytest.fixture
def terminals(gateway: Gateway) -> Iterator[Any]:
    """Starts commands on terminals."""
    started: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        started.append(Terminal(gateway, *arguments))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def test_on_a_terminal_a_person_is_asked(terminals: Any, sync: FluxySync) -> None:
    """No leaves everything as it is and ends with 1; yes does it, and shows how far it is."""
    ids = [operation.id for operation in sync.queue_many([{"method": "POST", "path": "/x"} for _ in range(3000)])]
    refusing = terminals("clear")
    wait_until(lambda: refusing.sees("Wipe 3,000 operations on all lanes for good? [y/N]"))
    refusing.type("n\n")
    assert refusing.end() == 1
    assert "nothing changed" in refusing.shown
    assert sync.status().pending == 3000
    agreeing = terminals("cancel", ids[0])
    wait_until(lambda: agreeing.sees(f"Cancel {ids[0]} on lane default, accepted "))
    agreeing.type("y\n")
    assert agreeing.end() == 0
    assert sync.status().pending == 2999
    clearing = terminals("clear")
    wait_until(lambda: clearing.sees("[y/N]"))
    clearing.type("y\n")
    assert clearing.end() == 0
    assert "Clearing" in clearing.shown
    assert "2,999 operations on all lanes are gone." in clearing.shown


def test_on_a_terminal_nothing_is_told_by_colour_alone(terminals: Any, sync: FluxySync) -> None:
    """Without its colours the list has the same words, its ids are whole, and each line fits."""
    ids = [queue(sync, "orders") for _ in range(3)]
    fail(sync, "orders", ids[0])
    terminal = terminals("ls")
    assert terminal.end() == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.shown)
    assert all(operation_id in plain for operation_id in ids)
    assert "the upstream answered 503" in plain
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 100


# --- cancel and clear


def test_cancel_takes_one_operation_out(with_store: CommandLine, sync: FluxySync) -> None:
    """It is found without its lane's name; the others stay in their order."""
    ids = [queue(sync, "a"), queue(sync, "a"), queue(sync, "a")]
    assert document(with_store("cancel", ids[1], "--yes", "--json")) == {"cancelled": ids[1], "lane": "a"}
    assert ids_on(sync, "a") == [ids[0], ids[2]]
    done = with_store("cancel", ids[0], "--lane", "a", "--yes")
    assert (done.returncode, done.stdout) == (0, f"{ids[0]} on lane a is cancelled.\n")
    assert notes_of(with_store) == [("cancel", ids[0]), ("cancel", ids[1])]


def test_what_is_being_sent_or_dead_isnt_cancelled(with_store: CommandLine, sync: FluxySync) -> None:
    """It ends with 1 and says what to do instead."""
    flying = queue(sync, "a")
    claim(sync, "a")
    assert "is being sent" in refused(with_store("cancel", flying, "--yes"), 1)
    assert ids_on(sync, "a") == [flying]
    dead = die(sync, "b")
    assert f"fluxy-sync dead drop {dead}" in refused(with_store("cancel", dead, "--yes"), 1)


def test_clear_wipes_what_waits_and_says_what_it_keeps(with_store: CommandLine, sync: FluxySync) -> None:
    """One lane or all; dead letters stay, and what is in flight may still arrive."""
    die(sync, "c")
    for lane in "aab":
        queue(sync, lane)
    assert document(with_store("clear", "--lane", "a", "--yes", "--json")) == {"cleared": 2, "in_flight": 0, "dead": 1}
    assert sync.status().pending == 1
    claim(sync, "b")
    done = with_store("clear", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1 operation on all lanes is gone.",
        "1 request in flight may still arrive.",
        "1 dead letter is kept; see 'fluxy-sync dead ls'.",
    ]
    assert (sync.status().pending, sync.status().dead) == (0, 1)
    assert notes_of(with_store) == [("clear", "all lanes"), ("clear", "lane a")]


# --- the whole way


def test_a_stuck_gateway_is_set_going_again(with_store: CommandLine, gateway: Gateway, upstream: Upstream) -> None:
    """An order that the server refuses halts its lane: it is seen, mended and replayed, and the next one follows."""
    upstream.script("/orders/7", [{"status": 422, "body": "no such product"}])
    upstream.start()
    gateway.start("worker", "beat")
    order = ["--lane", "orders", "--on-dead", "halt", "--json"]
    refused_id = document(with_store("queue", "POST", "/orders/7", "--body", '{"product": "x"}', *order))["id"]
    document(with_store("queue", "POST", "/orders/8", *order))
    wait_until(lambda: document(with_store("status", "--json"))["dead"] == 1)
    assert document(with_store("ls", "--json"))["held"][0]["lane"] == "orders"
    letter = document(with_store("dead", "show", refused_id, "--reveal", "--json"))
    assert letter["detail"] == {"text": "no such product"}
    with_store("pause")
    replayed = with_store("dead", "replay", refused_id, "--to", "head", "--body", '{"product": "y"}', "--json")
    assert document(replayed) == {"replayed": 1}
    assert document(with_store("resume", "--json"))["changed"] is True
    wait_until(lambda: len(upstream.requests()) == 3)
    first, again, next_one = upstream.requests()
    assert (again["path"], again["body"], next_one["path"]) == ("/orders/7", '{"product": "y"}', "/orders/8")
    assert again["key"] != first["key"]
    wait_until(lambda: document(with_store("status", "--json"))["pending"] == 0)
