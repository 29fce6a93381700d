"""Tables fit the terminal, never cut an id off, and share what room there is."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fluxy_sync.cli.dead import COLUMNS as DEAD
from fluxy_sync.cli.ls import COLUMNS as WAITING
from fluxy_sync.cli.ls import Listing, Shown, _rows, group_held, held_line, notes, share_out, shorten, why
from fluxy_sync.cli.output import Column, make_table
from fluxy_sync.journal import Waiting
from fluxy_sync.status import Status

UUID = "01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d"
REASON = "its retries are spent; the last: the upstream answered 503 Service Unavailable"
WIDTHS = (80, 119, 120, 140, 200)


def drawn(columns: tuple[Column, ...], rows: list[Any], width: int) -> str:
    written = io.StringIO()
    Console(file=written, width=width).print(make_table(columns, rows, width))
    return written.getvalue()


def waiting(**changes: Any) -> Waiting:
    """An operation that waits."""
    plain: dict[str, Any] = {
        "id": UUID, "lane": "orders", "state": "pending", "age_s": 75.0, "size": 104, "retries": 0, "last_error": "",
        "next_try_in_s": None, "expires_in_s": None, "halts": False, "key_id": "1a2b3c4d", "index": 0,
    }  # fmt: skip
    return Waiting(**(plain | changes))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_dead_letters_row_fits(width: int) -> None:
    """At any width the id, the moment and the reason are there, and no line is too long."""
    row = (UUID, "orders", "2026-11-23 16:57:27", "999 kB", REASON, "400")
    text = drawn(DEAD, [row], width)
    assert UUID in text
    assert "2026-11-23 16:57:27" in text
    assert set(REASON.split()) <= set(text.replace("\n", " ").split())
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_waiting_operations_row_fits(width: int) -> None:
    """The same, with the lane beside it or above it."""
    one = waiting(state="retrying", retries=399, last_error="503", next_try_in_s=899.0, expires_in_s=86_400.0 * 20)
    rows = list(_rows([Shown("orders", [one], 1)], width >= 120, width))
    text = drawn(WAITING, rows, width)
    for part in (UUID, "orders", "retrying", "1 min 15 s", "104 B", "503", "399"):
        assert part in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 140])
def test_a_long_id_is_folded_and_never_cut_off(width: int) -> None:
    """All 200 characters of an id are there."""
    long_id = "".join(f"{n:03}-" for n in range(50))
    text = drawn(WAITING, list(_rows([Shown("l", [waiting(id=long_id)], 1)], width >= 120, width)), width)
    column = max(len(line.split("  ")[0]) for line in text.splitlines()[2:])
    assert long_id in "".join(line[:column].strip() for line in text.splitlines()[2:])


def test_names_are_no_markup() -> None:
    """A lane that looks like markup or an emoji's code is shown as it is, and steers nothing."""
    rows = list(_rows([Shown("[red]a:smile:", [waiting()], 1), Shown("b\x1b[0m", [waiting()], 1)], False, 80))
    text = drawn(WAITING, rows, 80)
    assert "lane [red]a:smile:: 1 operation" in text
    assert r"lane b\x1b[0m: 1 operation" in text


def test_operations_without_a_lane_stand_together() -> None:
    """The lane that such an operation has to itself isn't named."""
    own = [Shown(f"~{n}", [waiting(id=str(n))], 1) for n in range(3)]
    assert [row for row in _rows(own, False, 80) if isinstance(row, str)] == ["without a lane"]
    assert {row[1] for row in _rows(own, True, 140)} == {"-"}


def test_a_long_lane_leaves_room_for_the_rest() -> None:
    """On a terminal a lane's name is shortened, with a sign that says so; in a file it is whole."""
    lane = "l" * 200
    assert shorten(lane, 140) == "l" * 23 + "…"
    assert shorten(lane, 10_000) == lane
    assert shorten("user:42", 120) == "user:42"


# --- what an operation waits for


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ""),
        ({"retries": 1, "last_error": "dns", "next_try_in_s": 0.2, "state": "retrying"},
         "the upstream's name can't be resolved, 1 retry, next try now"),
        ({"retries": 4, "last_error": "503", "next_try_in_s": 12.0, "state": "retrying"},
         "the upstream answered 503 Service Unavailable, 4 retries, next try in 12 s"),
        ({"retries": 4, "last_error": "503", "next_try_in_s": 0.0, "state": "syncing"},
         "the upstream answered 503 Service Unavailable, 4 retries"),
        ({"next_try_in_s": 3600.0}, "not before 1 h from now"),
        ({"next_try_in_s": 0.0}, ""),
        ({"last_error": "-"}, ""),
        ({"expires_in_s": 60.0}, "expires in 1 min"),
        ({"expires_in_s": -5.0}, "has expired"),
        ({"last_error": "corrupt"}, "it was damaged in the store"),
    ],
)  # fmt: skip
def test_why_an_operation_waits(changes: dict[str, Any], text: str) -> None:
    """Its last error, its retries, when the next try is and when it expires; nothing that doesn't hold."""
    assert why(waiting(**changes)) == text


def test_held_lanes_are_told_by_what_they_wait_for() -> None:
    """Lanes that wait for the same are one line, however many they are."""
    held: dict[str, tuple[str, ...]] = {f"user:{n}": ("key:1a2b3c4d",) for n in range(5000)} | {
        "photos": ("paused", "key:1a2b3c4d")
    }
    lines = [held_line(causes, lanes) for causes, lanes in group_held(held).items()]
    assert lines == [
        "Lanes user:0, user:1, user:2 and 4,997 more are held: key 1a2b3c4d is missing.",
        "Lane photos is held: someone paused it, key 1a2b3c4d is missing.",
    ]


def status(**changes: Any) -> Status:
    names = dict.fromkeys(Status.__struct_fields__, 0)
    return Status(**(names | {"gate": "open", "reason": "", "held_for": {}, "since": None} | changes))


def test_the_notes_say_what_isnt_shown() -> None:
    """How many more wait, and that the gate is closed."""
    assert list(notes(Listing([], 0, {}, status()))) == []
    closed = Listing([], 1200, {}, status(gate="offline", reason="dns"))
    assert list(notes(closed)) == [
        "1,200 more wait; --limit shows more of them.",
        "The gate is offline (the upstream's name can't be resolved): nothing is sent.",
    ]


# --- how many of each lane


@pytest.mark.parametrize(
    ("counts", "limit", "shares"),
    [
        ([], 50, []),
        ([3], 50, [3]),
        ([1000], 50, [50]),
        ([1000, 1000], 5, [3, 2]),
        ([1, 1000, 1, 1000], 50, [1, 24, 1, 24]),
        ([1, 1, 1, 1], 2, [1, 1, 0, 0]),
        ([0, 5, 0], 3, [0, 3, 0]),
    ],
)
def test_each_lane_shows_its_share(counts: list[int], limit: int, shares: list[int]) -> None:
    """One long lane doesn't hide the heads of the others."""
    assert share_out(counts, limit) == shares


@given(st.lists(st.integers(0, 300), max_size=30), st.integers(1, 500))
def test_shares_use_the_limit_up(counts: list[int], limit: int) -> None:
    """No lane gets more than it has, none starves for another, and no place is left empty."""
    shares = share_out(counts, limit)
    assert all(0 <= share <= count for share, count in zip(shares, counts, strict=True))
    assert sum(shares) == min(limit, sum(counts))
    unfilled = [share for share, count in zip(shares, counts, strict=True) if share < count]
    assert not unfilled or max(shares) <= min(unfilled) + 1
