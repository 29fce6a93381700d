"""The real command line, in processes of its own: what it accepts, refuses, prints and ends with."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fluxy_sync.journal import Journal
from fluxy_sync.status import Status
from fluxy_sync.vault import Vault, new_key
from tests.command_line import CommandLine, environment, fluxy_sync, is_one_sentence
from tests.conftest import ROOT, Gateway, wait_until
from tests.upstream import Upstream, free_port

COMMANDS = (
    "up", "demo", "queue", "status", "ls", "show", "dead", "dead ls", "dead show", "dead replay", "dead drop", "cancel",
    "clear", "pause", "resume", "audit", "keys", "keys new", "keys ls", "keys rotate", "completion",
)  # fmt: skip
CONTRACT = {
    "pending", "syncing", "is_syncing", "retrying", "held", "dead", "bytes", "lanes", "oldest_age_s", "gate", "online",
    "delivered_total", "rev", "stale", "since", "reason", "opens_in_s", "held_for", "dropped_total",
}  # fmt: skip


def status_of(run: CommandLine) -> dict[str, Any]:
    done = run("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    record: dict[str, Any] = json.loads(done.stdout)
    return record


# --- help


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_helps(alone: CommandLine, command: str) -> None:
    """--help says what a command does, with examples."""
    done = alone(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: fluxy-sync" in done.stdout
    assert re.search(r"Examples:\n( {4}.*fluxy-sync .+\n)+", done.stdout)


def test_help_loads_nothing_heavy(alone: CommandLine) -> None:
    """--help answers at once: neither Celery nor a client of the store is loaded for it."""
    probe = (
        "import sys; import fluxy_sync.cli; print(sorted({'celery', 'redis', 'pydantic', 'rich'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_command_is_wrong_usage(alone: CommandLine) -> None:
    """Wrong usage ends with 2 and says so on stderr."""
    done = alone("quue")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command" in done.stderr


# --- settings and the store


@pytest.mark.parametrize(
    ("command", "settings", "named"),
    [
        ("up", {}, "FLUXY_SYNC_UPSTREAM"),
        ("up", {"UPSTREAM": "api.example.com"}, "FLUXY_SYNC_UPSTREAM"),
        ("up", {"UPSTREAM": "https://api.example.com", "WORKER_CONCURRENCY": "two"}, "FLUXY_SYNC_WORKER_CONCURRENCY"),
        ("up", {"UPSTREAM": "https://api.example.com", "KEYS": "tooshort"}, "FLUXY_SYNC_KEYS"),
        ("status", {"NAMESPACE": "two words"}, "FLUXY_SYNC_NAMESPACE"),
        ("status", {"REDIS_URL": "http://localhost:6379"}, "FLUXY_SYNC_REDIS_URL"),
        ("status", {"REDIS_URL": "redis://x", "REDIS_URL_FILE": "/x"}, "FLUXY_SYNC_REDIS_URL_FILE"),
        ("status", {"KEYS_FILE": "/no/such/file"}, "FLUXY_SYNC_KEYS_FILE"),
        ("queue POST /x", {"DURABILITY": "maybe"}, "FLUXY_SYNC_DURABILITY"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(
    alone: CommandLine, command: str, settings: dict[str, str], named: str
) -> None:
    """A missing or wrong setting ends with 2 and one sentence that names the variable, never its secret."""
    done = alone(*command.split(), **settings)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert is_one_sentence(done.stderr), done.stderr
    assert named in done.stderr
    assert "tooshort" not in done.stderr


def test_a_gateway_whose_worker_cant_start_ends_with_its_reason(alone: CommandLine) -> None:
    """Tasks that can't be imported end `up` with 2; its last line is the child's own sentence."""
    done = alone("up", "--no-dashboard", UPSTREAM="https://api.example.com", IMPORTS="no.such.module")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert re.match(r"fluxy-sync: (worker|beat) can't run like this", last)
    assert "FLUXY_SYNC_IMPORTS" in last
    assert "Traceback" not in done.stderr


def test_a_missing_key_is_told_with_what_to_do(with_store: CommandLine) -> None:
    """A store of one's own needs a key: the sentence names the command that makes one."""
    done = with_store("queue", "POST", "/x", KEYS="")
    assert done.returncode == 2
    assert is_one_sentence(done.stderr)
    assert "fluxy-sync keys new" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "status", "status --json", "queue POST /x", "ls", "ls --json", "show x", "dead ls", "dead replay --all",
        "dead drop x --yes", "cancel x --yes", "clear --yes", "pause", "resume", "audit", "keys ls", "keys rotate",
    ],
)  # fmt: skip
def test_without_a_gateway_the_store_is_unreachable(alone: CommandLine, command: str) -> None:
    """Where nothing runs, each command ends with 3 and says how to start it."""
    done = alone(*command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert is_one_sentence(done.stderr), done.stderr
    assert "fluxy-sync up" in done.stderr


@pytest.mark.parametrize("command", ["status", "queue POST /x", "ls", "dead replay --all", "resume"])
def test_a_store_that_is_away_is_told(alone: CommandLine, command: str) -> None:
    """A store that doesn't answer ends with 3, in one sentence without its password."""
    url = f"redis://:hidden-password@127.0.0.1:{free_port()}/0"
    done = alone(*command.split(), REDIS_URL=url, KEYS=new_key())
    assert (done.returncode, done.stdout) == (3, "")
    assert is_one_sentence(done.stderr), done.stderr
    assert "hidden-password" not in done.stderr


# --- queue


@pytest.mark.parametrize(
    "arguments",
    [
        ["BREW", "/coffee"],
        ["POST", "no-slash"],
        ["POST", "/two words"],
        ["POST", "https://elsewhere.example/x"],
        ["POST", "/x", "--header", "no colon"],
        ["POST", "/x", "--header", "X-A: 1\r\nX-B: 2"],
        ["POST", "/x", "--header", "A: 1", "--header", "a: 2"],
        ["POST", "/x", "--header", "Idempotency-Key: mine"],
        ["POST", "/x", "--body", '{"a": NaN}'],
        ["POST", "/x", "--body", "x" * 2000],
        ["POST", "/x", "--lane", "a\nb"],
        ["POST", "/x", "--lane", "l" * 201],
        ["POST", "/x", "--lane", ""],
        ["POST", "/x", "--id", 'a"b'],
    ],
)
def test_bad_input_is_refused(with_store: CommandLine, journal: Journal, arguments: list[str]) -> None:
    """What can't be sent ends with 2 and one sentence that says what to change; nothing is accepted."""
    done = with_store("queue", *arguments, MAX_BODY_BYTES="1000")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert is_one_sentence(done.stderr), done.stderr
    assert "nothing was accepted" in done.stderr
    assert journal.snapshot().pending == 0


def test_a_file_that_cant_be_read_is_wrong_usage(with_store: CommandLine, journal: Journal, tmp_path: Path) -> None:
    """--body @FILE names the file that it can't read; nothing is accepted."""
    done = with_store("queue", "POST", "/x", "--body", f"@{tmp_path / 'missing'}")
    assert done.returncode == 2
    assert "missing' can't be read (No such file or directory)" in done.stderr
    assert journal.snapshot().pending == 0


def test_the_same_id_is_accepted_once(with_store: CommandLine) -> None:
    """Queueing again under the same id, as after a lost answer, stores nothing twice."""
    for _ in range(2):
        done = with_store("queue", "POST", "/x", "--id", "once", "--lane", "l", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"id": "once", "lane": "l"}
    assert status_of(with_store)["pending"] == 1


def test_each_kind_of_body_arrives(
    with_store: CommandLine, gateway: Gateway, upstream: Upstream, tmp_path: Path
) -> None:
    """JSON text goes as application/json, other text as text/plain, a file and stdin byte for byte."""
    (tmp_path / "photo").write_bytes(b"\xff\x00\n")
    calls: list[tuple[list[str], bytes]] = [
        (["--body", '{"a": 1}'], b""),
        (["--body", "grüße"], b""),
        (["--body", "@" + str(tmp_path / "photo"), "--header", "Content-Type: image/x"], b""),
        (["--body", "-"], b"from stdin\n"),
        ([], b""),
    ]
    for arguments, stdin in calls:
        done = with_store("queue", "put", "/things", *arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
    upstream.start()
    gateway.start("worker", "beat")
    wait_until(lambda: len(upstream.requests()) == len(calls))
    seen = [
        (r["body"], {k.lower(): v for k, v in r["headers"].items()}.get("content-type")) for r in upstream.requests()
    ]
    assert seen == [
        ('{"a": 1}', "application/json"),
        ("grüße", "text/plain; charset=utf-8"),
        ("/wAK", "image/x"),
        ("from stdin\n", "application/octet-stream"),
        ("", None),
    ]
    assert {request["method"] for request in upstream.requests()} == {"PUT"}


# --- status


def test_status_for_programs_is_the_contracts_record(with_store: CommandLine) -> None:
    """status --json prints one document with the contract's fields, and only what the journal counts."""
    with_store("queue", "POST", "/x", "--lane", "a")
    with_store("queue", "POST", "/x", "--lane", "b")
    record = status_of(with_store)
    assert CONTRACT <= record.keys() == set(Status.__struct_fields__)
    assert (record["pending"], record["lanes"], record["syncing"], record["dead"]) == (2, 2, 0, 0)
    assert record["oldest_age_s"] >= 0


def test_status_for_people_is_plain_text_without_a_terminal(with_store: CommandLine) -> None:
    """Without a terminal the status has words and no colours; each state is named, not only coloured."""
    with_store("queue", "POST", "/x")
    done = with_store("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(r"gate\s+● open", done.stdout)
    assert re.search(r"pending\s+1\s+on 1 lane, the oldest for \d+ s", done.stdout)


def test_status_says_since_when_the_link_is_down_and_why(with_store: CommandLine, gateway: Gateway) -> None:
    """With the upstream away the status is offline, with the reason and a moment in UTC."""
    with_store("queue", "POST", "/x")
    gateway.start("worker", "beat")
    wait_until(lambda: status_of(with_store)["gate"] == "offline")
    record = status_of(with_store)
    assert record["since"].endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(record["since"])).total_seconds()) < 60
    shown = with_store("status").stdout
    assert re.search(r"gate\s+○ offline\s+connection refused", shown)
    assert re.search(r"since\s+\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, \d+ s ago", shown)


# --- keys


def test_a_new_key_seals(alone: CommandLine) -> None:
    """keys new prints a fresh key and nothing else, in the form that FLUXY_SYNC_KEYS takes."""
    first, second = alone("keys", "new"), alone("keys", "new")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout != second.stdout
    Vault.from_text([first.stdout.strip(), second.stdout.strip()])
    record = json.loads(alone("keys", "new", "--json").stdout)
    assert record.keys() == {"id", "key"}
    Vault.from_text([record["key"]])


# --- up


@contextmanager
def running(env: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A gateway until the block ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fluxy_sync", "up", "--no-dashboard"], env=env, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: "fluxy-sync is up" in log.read_text() or process.poll() is not None, 40)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.terminate()
        process.wait(40)


def readme_example() -> str:
    """The first example of the README."""
    return (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]


def test_the_readmes_example_works(tmp_path: Path, upstream: Upstream) -> None:
    """What the README shows first runs as it stands, on a machine with a gateway and no other setting."""
    here = environment(tmp_path / "data")
    with running(here | {"FLUXY_SYNC_UPSTREAM": upstream.url}, tmp_path / "log"):
        done = subprocess.run([sys.executable, "-c", readme_example()], env=here, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"[0-9a-f-]{36} (pending|syncing|retrying)\n1 (open|offline)\n", done.stdout)


def test_up_serves_a_producer_that_knows_nothing(tmp_path: Path, upstream: Upstream) -> None:
    """After `up`, a producer on the machine needs no setting; the operation arrives; Ctrl-C ends with 0."""
    upstream.start()
    here = environment(tmp_path / "data")
    with running(here | {"FLUXY_SYNC_UPSTREAM": upstream.url}, tmp_path / "log") as gateway:
        done = fluxy_sync("queue", "POST", "/api/posts", "--body", '{"title":"hi"}', "--json", env=here)
        assert (done.returncode, done.stderr) == (0, "")
        wait_until(lambda: upstream.requests())
        assert upstream.requests()[0]["key"] == json.loads(done.stdout)["id"]
        wait_until(lambda: json.loads(fluxy_sync("status", "--json", env=here).stdout)["delivered_total"] == 1)
        second = fluxy_sync("up", env=here | {"FLUXY_SYNC_UPSTREAM": upstream.url})
        assert second.returncode == 2
        assert is_one_sentence(second.stderr)
        assert f"pid {gateway.pid}" in second.stderr
        gateway.send_signal(signal.SIGINT)
        assert gateway.wait(40) == 0
