"""What the doctor's findings mean, and how they read: each judgement by example."""

import io
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fluxy_sync.cli.doctor import SIGNS, exit_code, plain_text, row, summary
from fluxy_sync.connectivity import ProbeResult
from fluxy_sync.doctor.check import Check, Issue, Report, conclude, issue_of
from fluxy_sync.doctor.processes import Pulse, judge_beat, judge_broker, judge_keys, judge_workers
from fluxy_sync.doctor.queue import judge_queue
from fluxy_sync.doctor.store import is_too_old, judge_durability, judge_room, judge_server, judge_writes
from fluxy_sync.doctor.upstream import ADVICE, judge_clock, judge_gate, judge_upstream
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.journal import Snapshot
from fluxy_sync.words import address_of, visible

MB = 1_000_000
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC).timestamp()
NOW_MS = round(NOW * 1000)
VALKEY = {"valkey_version": "9.1.2", "redis_version": "7.2.4", "role": "master", "maxmemory": str(100 * MB)}
IDLE = Snapshot(
    pending=0, syncing=0, retrying=0, held=0, dead=0, bytes=0, lanes=0, oldest_age_ms=-1, gate="open", since_wall_ms=0,
    reason="", delivered_total=0, rev=0, retried_total=0, dead_total=0, cancelled_total=0, dropped_total=0, offline=0,
    opens_in_ms=0, held_for={},
)  # fmt: skip
KEPT = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def snapshot(**changes: Any) -> Snapshot:
    return Snapshot(**({name: getattr(IDLE, name) for name in IDLE.__struct_fields__} | changes))


def states(check: Check) -> tuple[str, bool]:
    """Its state, and whether it says what to do."""
    return check.state, bool(check.advice)


# --- a check


def test_the_worst_issue_gives_the_state() -> None:
    """Failures stand before warnings, the facts last; each piece of advice is given once."""
    lesser, worse = Issue("warning", "slow", "wait"), Issue("failed", "broken", "mend it")
    assert conclude("x", "facts", [None, lesser, worse, lesser]) == Check(
        "x", "failed", "broken; slow; slow; facts", "mend it; wait"
    )
    assert conclude("x", "facts", [lesser]).state == "warning"
    assert conclude("x", "facts") == Check("x", "ok", "facts", "")


@pytest.mark.parametrize(
    ("error", "found", "advice"),
    [
        (StorageUnavailable("it is full; nothing was accepted; free some"), "it is full", "free some"),
        (StorageUnavailable("it went away"), "it went away", "look at the store's log"),
        (ConfigError("FLUXY_SYNC_KEYS: no such file"), "FLUXY_SYNC_KEYS: no such file", "correct that setting"),
    ],
)
def test_our_own_errors_become_a_finding_and_advice(error: Any, found: str, advice: str) -> None:
    """A sentence says what happened and, behind a semicolon, what to do; there is advice in any case."""
    assert issue_of(error) == Issue("failed", found, advice)


def test_a_report_is_ok_with_warnings() -> None:
    """Only failures count, and only the store's own failure makes it unreachable."""
    well, warned, failed = (Check("a", "ok", "x"), Check("b", "warning", "x", "y"), Check("c", "failed", "x", "y"))
    assert Report((well, warned)).ok
    assert not Report((well, failed)).ok
    assert Report((well, failed)).store_answers
    assert not Report((Check("store", "failed", "x", "y"), well)).store_answers
    assert Report((well,)).to_dict() == {
        "ok": True, "checks": [{"name": "a", "state": "ok", "found": "x", "advice": ""}],
    }  # fmt: skip


# --- the store


@pytest.mark.parametrize(
    ("info", "state", "said"),
    [
        ({}, "ok", "Valkey 9.1.2"),
        ({"used_memory": str(81 * MB)}, "warning", "81% of its maxmemory"),
        ({"used_memory": str(80 * MB)}, "ok", "memory 80 MB of 100 MB"),
        ({"maxmemory": "0"}, "warning", "nothing bounds"),
        ({"role": "slave"}, "failed", "replica"),
        ({"valkey_version": "", "redis_version": "6.2.14"}, "failed", "too old"),
    ],
)
def test_the_server(info: dict[str, str], state: str, said: str) -> None:
    """Redis before 7.0 and a replica fail; more than 80 % of the memory, or no bound at all, is a warning."""
    server = {name: value for name, value in (VALKEY | info).items() if value}
    check = judge_server(server, has_max_bytes=False)
    assert states(check) == (state, state != "ok")
    assert said in check.found


def test_versions_are_compared_as_numbers() -> None:
    """7.0 and 10.0 will do; what is hidden isn't called too old."""
    old = {version: is_too_old({"redis_version": version}) for version in ("6.9.9", "7.0.0", "10.0.1", "")}
    assert old == {"6.9.9": True, "7.0.0": False, "10.0.1": False, "": False}


def test_a_server_that_hides_itself() -> None:
    """Without INFO the check says so, and doesn't fail; a bound of the queue's own is bound enough."""
    assert states(judge_server({}, has_max_bytes=False)) == ("warning", True)
    assert judge_server(VALKEY | {"maxmemory": "0"}, has_max_bytes=True).state == "ok"


@pytest.mark.parametrize(
    ("durability", "config", "info", "state", "said"),
    [
        ("always", KEPT, {}, "ok", "appendfsync always"),
        ("always", KEPT | {"no-appendfsync-on-rewrite": "yes"}, {}, "warning", "no-appendfsync-on-rewrite"),
        ("everysec", KEPT | {"no-appendfsync-on-rewrite": "yes"}, {}, "ok", "everysec"),
        ("always", KEPT, {"aof_last_write_status": "err"}, "failed", "last write"),
        ("always", KEPT, {"aof_last_bgrewrite_status": "err"}, "warning", "rewrite"),
        ("always", KEPT, {"rdb_last_bgsave_status": "err"}, "warning", "snapshot"),
        ("waitaof", KEPT, {"valkey_version": "", "redis_version": "7.0.15"}, "failed", "no WAITAOF"),
        ("waitaof", KEPT, {}, "ok", "waitaof"),
        ("always", None, {}, "warning", "an ACL hides CONFIG"),
        ("always", None, {"aof_enabled": "0"}, "failed", "appendonly no"),
        ("always", None, {"maxmemory_policy": "allkeys-lru"}, "failed", "allkeys-lru"),
    ],
)
def test_durability(durability: str, config: Any, info: dict[str, str], state: str, said: str) -> None:
    """What would lose an accepted operation fails; what an ACL hides is a warning that says so."""
    server = {name: value for name, value in (VALKEY | info).items() if value}
    check = judge_durability(durability, config, server)
    assert states(check) == (state, state != "ok")
    assert said in check.found


@pytest.mark.parametrize(
    ("times_ms", "state"),
    [
        ([1, 2, 3], "ok"),
        ([1, 2, 900], "ok"),
        ([51, 60, 70], "warning"),
        ([1, 2, 1001], "warning"),
        ([1, 1500, 2000], "failed"),
    ],
)
def test_writes(times_ms: list[float], state: str) -> None:
    """The median counts: over 50 ms is a warning, over 1 s a failure; one write over 1 s is a warning, too."""
    check = judge_writes([time / 1000 for time in times_ms], each_synced=True)
    assert states(check) == (state, state != "ok")


def test_writes_that_nobody_syncs_are_told() -> None:
    """The times of a store that syncs once a second are no fsync times."""
    check = judge_writes([0.0004, 0.0002, 0.012], each_synced=False)
    assert check.found == "3 writes: median 0.4 ms, worst 12 ms; the store syncs once a second, not each write"


@pytest.mark.parametrize(
    ("free", "file_size", "spent", "state"),
    [
        (1000 * MB, 100 * MB, False, "ok"),
        (199 * MB, 100 * MB, False, "warning"),
        (60 * MB, 0, False, "warning"),
        (1 * MB, 100 * MB, False, "failed"),
        (1000 * MB, 100 * MB, True, "warning"),
    ],
)
def test_room_for_a_rewrite(free: int, file_size: int, spent: bool, state: str) -> None:
    """Twice the file must fit; a full disk fails, and a reserve that is spent is told."""
    check = judge_room(free, file_size, ballast_spent=spent)
    assert states(check) == (state, state != "ok")


# --- keys, broker, processes


def test_missing_keys_are_named() -> None:
    """Lanes that wait for a key outside the ring fail; for one that is back they only wait."""
    assert judge_keys(["aa", "bb"], {"paused": 1}).found == "aa seals; bb open as well"
    missing = judge_keys(["aa"], {"key:cc": 2})
    assert states(missing) == ("failed", True)
    assert "key cc is missing: 2 lanes held" in missing.found
    assert "cc" in missing.advice
    back = judge_keys(["aa", "cc"], {"key:cc": 1})
    assert (back.state, "1 lane held until" in back.found) == ("ok", True)
    assert states(judge_keys(["aa"], {}, secret_opens=False)) == ("failed", True)


def test_tokens_that_pile_up() -> None:
    """About one waits at a time: more than a hundred are a warning."""
    assert judge_broker(1, "fluxy.sync") == Check("broker", "ok", "1 wake token in queue fluxy.sync")
    assert states(judge_broker(101, "fluxy.sync")) == ("warning", True)


def pulse(**ages_s: float) -> Pulse:
    fields = {name.replace("_", " "): str(NOW_MS - round(age * 1000)) for name, age in ages_s.items()}
    return Pulse.of(fields | {"held": "0", "probe": "17"}, NOW_MS)


@pytest.mark.parametrize(
    ("found", "state", "said"),
    [
        (pulse(beat=1, steward_one=1), "ok", "last tick 1 s ago; stewards: one 1 s ago"),
        (pulse(beat=1), "ok", "no steward"),
        (pulse(beat=7, steward_one=1), "warning", "beat's last tick: 7 s ago"),
        (pulse(steward_one=1), "warning", "beat never ticked"),
        (pulse(beat=7200, steward_one=90), "failed", "beat's last tick: 2 h ago; stewards: one 1 min 30 s ago"),
        (pulse(), "failed", "beat never ticked"),
        (pulse(beat=-3600), "failed", "before the clock went back"),
        (pulse(beat=1, steward_gone=86_401), "ok", "no steward"),
    ],
)
def test_beat(found: Pulse, state: str, said: str) -> None:
    """Silent for 5 s: the stewards stand in, a warning; nobody ticks: a failure; a time yet to come is no tick."""
    check = judge_beat(found)
    assert states(check) == (state, state != "ok")
    assert said in check.found


@pytest.mark.parametrize(
    ("answered", "live", "pending", "state", "found"),
    [
        (["sync@one", "sync@two"], ["one", "two"], 5, "ok", "sync@one, sync@two answer"),
        (["sync@one", "sync@x"], ["one"], 5, "ok", "sync@one answers, 1 of other namespaces"),
        (["mine@one"], ["one"], 0, "ok", "mine@one answers"),
        (["sync@one"], ["one", "two"], 0, "warning", "two ticks but doesn't answer a ping; sync@one answers"),
        ([], [], 0, "warning", "none; nothing is pending"),
        (["sync@x"], [], 1, "failed", "none, with 1 operation pending; 1 of other namespaces"),
        (["sync@one"], None, None, "ok", "sync@one answers"),
        ([], None, None, "warning", "none"),
    ],
)
def test_workers(answered: list[str], live: Any, pending: Any, state: str, found: str) -> None:
    """No worker while something waits fails; one whose steward ticks must answer; without the store all count."""
    check = judge_workers(answered, live, pending)
    assert (states(check), check.found) == ((state, state != "ok"), found)


# --- the upstream


@pytest.mark.parametrize("reason", [*ADVICE, "wrong-answer-503", "something-new"])
def test_each_reason_has_its_advice(reason: str) -> None:
    """Whatever keeps the upstream away, the check says what to do, and names the setting that it came from."""
    check = judge_upstream("https://api.example.com", ProbeResult(False, False, reason), 0.1, "FLUXY_SYNC_UPSTREAM")
    assert states(check) == ("failed", True)
    assert "{" not in check.advice
    assert check.found.startswith("https://api.example.com: ")


def test_an_upstream_that_answers() -> None:
    """The status and the time that it took."""
    check = judge_upstream("https://a", ProbeResult(True, True, "204"), 0.1234, "FLUXY_SYNC_UPSTREAM")
    assert check == Check("upstream", "ok", "https://a: answers 204 in 123 ms")
    check = judge_upstream("tcp://a:1", ProbeResult(True, True, "connected"), 0.001, "FLUXY_SYNC_PROBE_URL")
    assert check.found == "tcp://a:1: connected in 1.0 ms"


@pytest.mark.parametrize(
    ("changes", "state", "found", "advice"),
    [
        ({}, "ok", "open", ""),
        ({"opens_in_ms": 60_000}, "ok", "open; the upstream asked to wait 1 min", ""),
        ({"gate": "paused", "reason": "by ann@gw (cli)"}, "warning", "paused by ann@gw (cli)", "fluxy-sync resume"),
        ({"gate": "offline", "reason": "dns"}, "warning", "closed: offline (dns)", "upstream"),
        ({"gate": "unauthorized", "reason": "401"}, "failed", "refuses the credentials (401)", "FLUXY_SYNC_AUTH_"),
    ],
)
def test_the_gate(changes: dict[str, Any], state: str, found: str, advice: str) -> None:
    """Why nothing is sent, by whom, and what ends it: a command, a setting, or the link's return."""
    check = judge_gate(snapshot(**changes), NOW_MS, ["FLUXY_SYNC_AUTH_BEARER"], online=False)
    assert states(check) == (state, state != "ok")
    assert found in check.found
    assert advice in check.advice


def test_the_gate_says_since_when() -> None:
    """A moment in UTC and how long ago that was; a moment that can't be is left out."""
    check = judge_gate(snapshot(since_wall_ms=NOW_MS - 7_260_000), NOW_MS, [], online=True)
    assert check.found == "open, since 2026-11-23 09:59:00 UTC, 2 h 1 min ago"
    assert judge_gate(snapshot(since_wall_ms=10**18), NOW_MS, [], online=True).found == "open"


def test_credentials_that_are_missing_altogether() -> None:
    """An upstream that asks for credentials, and none are set: the advice is to set some."""
    check = judge_gate(snapshot(gate="unauthorized", reason="401"), NOW_MS, [], online=True)
    assert "no FLUXY_SYNC_AUTH_* is set here" in check.advice


@pytest.mark.parametrize(
    ("now", "upstream", "store", "state", "said"),
    [
        (NOW, NOW + 1, NOW - 1, "ok", "agrees with the upstream's and the store's"),
        (NOW, None, None, "ok", "nothing to compare it with"),
        (NOW, NOW + 6, NOW, "warning", "6 s behind the upstream's clock"),
        (NOW, NOW, NOW - 3600, "warning", "1 h ahead of the store's clock"),
        (1_700_000_000.0, NOW, NOW, "failed", "never set"),
        (0.0, None, None, "failed", "1970-01-01 00:00:00 UTC"),
    ],
)
def test_the_clock(now: float, upstream: Any, store: Any, state: str, said: str) -> None:
    """More than 5 s beside another clock is a warning; a year before 2024 was never set."""
    check = judge_clock(now, upstream, store)
    assert states(check) == (state, state != "ok")
    assert said in check.found


# --- the queue


@pytest.mark.parametrize(
    ("changes", "state", "found", "advice"),
    [
        ({}, "ok", "0 of 10 pending, 0 B of 1.0 MB", ""),
        ({"pending": 8, "oldest_age_ms": 90_000}, "ok", "the oldest for 1 min 30 s", ""),
        ({"pending": 9}, "warning", "90% of FLUXY_SYNC_MAX_PENDING", "fluxy-sync ls"),
        ({"pending": 10}, "failed", "the queue is full (FLUXY_SYNC_MAX_PENDING)", "raise"),
        ({"bytes": 900_000}, "warning", "90% of FLUXY_SYNC_MAX_BYTES", "dead ls"),
        ({"retrying": 1}, "warning", "1 lane retrying after a failure", "fluxy-sync ls"),
        ({"dead": 2}, "warning", "2 dead letters", "fluxy-sync dead ls"),
        ({"held_for": {"halted": 1}}, "warning", "1 lane halted by a dead letter", "fluxy-sync dead ls"),
        ({"held_for": {"paused": 2}}, "warning", "2 lanes paused", "fluxy-sync resume --lane"),
        (
            {"held_for": {"worker-error:KeyError": 2}},
            "failed",
            "2 lanes held: the worker failed with KeyError",
            "'pip check'",
        ),
        ({"held_for": {"task:a.b": 1}}, "warning", "no worker has task a.b", "FLUXY_SYNC_IMPORTS"),
        (
            {"held_for": {"credentials": 1}},
            "warning",
            "1 lane held: the upstream refuses its operation's own credentials",
            "fluxy-sync ls",
        ),
        ({"held_for": {"new": 1}}, "warning", "1 lane held: new", "fluxy-sync ls"),
        ({"held_for": {"key:aa": 1}}, "ok", "0 of 10 pending", ""),
    ],
)
def test_the_queue(changes: dict[str, Any], state: str, found: str, advice: str) -> None:
    """What is full, dead or held, each with the command that looks closer; missing keys are told under 'keys'."""
    check = judge_queue(snapshot(**changes), 10, MB)
    assert states(check) == (state, state != "ok")
    assert found in check.found
    assert advice in check.advice


# --- words


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@10.0.0.1:6379/0", "redis://10.0.0.1:6379/0"),
        ("rediss://user:pw@store.example:6379/0?ssl_ca_certs=/x", "rediss://store.example:6379/0"),
        ("redis://:pw@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix://:pw@/run/store.sock", "unix:///run/store.sock"),
        ("sentinel://:pw@a:26379,b:26379/mymaster/0", "sentinel://a:26379,b:26379/mymaster/0"),
        ("redis://:123/0", "redis://..."),
        ("redis://:a/b@host", "redis://..."),
        ("redis://:a?b@host", "redis://..."),
        ("redis://[oops", "redis://..."),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    """Host, port and path as they are; where a URL can't be told apart safely, nothing of it."""
    assert address_of(url) == shown


@given(st.text(max_size=30), st.booleans())
def test_no_password_survives(password: str, quoted: bool) -> None:
    """Whatever characters it has, and quoted or not: the address is the one without it, or nothing."""
    text = quote(password, safe="") if quoted else password
    for url in ("redis://:{}@h:1/0", "unix://:{}@/s", "amqp://u:{}@h:1/v", "sentinel://{}@a:1,b:2/s"):
        scheme, _, rest = url.partition("://")
        clean = f"{scheme}://{rest.partition('@')[2]}"
        assert address_of(url.format(text)) in (clean, f"{scheme}://...")
        assert not quoted or address_of(url.format(text)) == clean


def test_names_steer_no_terminal() -> None:
    """Escapes and line ends are written out."""
    assert visible("a\x1b[2Jb\nc\x9b") == "a\\x1b[2Jb\\nc\\x9b"


# --- the command


CHECKS = (
    Check("store", "ok", "unix:///run/store.sock answers in 0.1 ms"),
    Check("durability", "failed", "the store has 'appendfsync everysec', not 'always'; " * 3, "set it in " * 20),
    Check("disk", "skipped", "the store's directory isn't on this machine"),
    Check("beat", "warning", "beat never ticked", "start it"),
)


def test_it_fits_a_terminal_of_80_columns() -> None:
    """Long findings and advice wrap in their own column; each state has its sign and its word."""
    console = Console(file=io.StringIO(), width=80)
    for check in CHECKS:
        console.print(row(check))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "✓ ok" in lines[0]
    assert lines[0].index("unix:") == lines[1].index("the store")
    assert all(line.startswith(" " * 21) for line in lines[2:5])
    assert len({sign for sign, _ in SIGNS.values()}) == len(SIGNS)


def test_a_pipe_gets_a_line_for_each_check() -> None:
    """Not wrapped, however long; what to do stands on a line of its own."""
    assert len(plain_text(CHECKS[0]).splitlines()) == 1
    assert len(plain_text(CHECKS[1]).splitlines()) == 2
    assert plain_text(CHECKS[3]) == "! warning beat       beat never ticked\n" + " " * 21 + "→ start it"


def test_the_exit_code() -> None:
    """0 with warnings alone, 1 where something failed, 3 where that is the store itself."""
    well, failed, warned = CHECKS[0], CHECKS[1], CHECKS[3]
    assert exit_code(Report((well, warned))) == 0
    assert exit_code(Report((well, failed))) == 1
    assert exit_code(Report((Check("store", "failed", "x", "y"), failed))) == 3
    assert summary(Report((well,))) == "all is well"
    assert summary(Report(CHECKS)) == "1 failed, 1 warning"
