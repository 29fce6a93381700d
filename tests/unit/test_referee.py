"""The judge finds each way of breaking the promises, and nothing else."""

import json
from typing import Any

import pytest

from tests.referee import judge

ACCEPTED = [("a1", "a", 1), ("a2", "a", 2), ("b1", "b", 1)]
BODIES = {id: json.dumps({"lane": lane, "n": seq}) for id, lane, seq in ACCEPTED}


def request(key: str | None, status: int | str = 201, **changes: Any) -> dict[str, Any]:
    """A record as the upstream writes it, of an unchanged operation."""
    body = BODIES.get((key or "").partition(".")[0], "")
    return {"method": "POST", "path": "/api", "key": key, "status": status, "body": body} | changes


ALL = [request("a1"), request("b1"), request("a2")]


@pytest.mark.parametrize(
    "received",
    [
        ALL,
        [request("b1"), request("a1"), request("a2")],
        [request("a1", 503), request("b1"), request("a1"), request("a2")],
        [request("a1"), request("a2"), request("a1"), request("b1")],
        [request("a1", "stalled", released=201), request("a2"), request("b1")],
        [request("a1", 409), request("a1.1", body=BODIES["a1"]), request("a2"), request("b1")],
    ],
    ids=["in order", "lanes mixed", "a retry", "a late repeat", "stalled, then released", "under a new key"],
)
def test_what_the_promises_allow_is_no_fault(received: list[dict[str, Any]]) -> None:
    """Lanes mix freely, retries and late repeats with the same key are at least once."""
    verdict = judge(ACCEPTED, received)
    assert verdict.ok, str(verdict)
    assert verdict.delivered == 3


@pytest.mark.parametrize(
    ("received", "faults"),
    [
        (ALL[:2], {"lost": ("a2",)}),
        ([*ALL[:2], request("a2", 503)], {"lost": ("a2",)}),
        ([*ALL[:2], request("a2", "dropped")], {"lost": ("a2",)}),
        ([request("a2"), request("a1"), request("b1")], {"reordered": ("a2",), "early": ("a2",)}),
        ([request("a2", 503), *ALL], {"early": ("a2",)}),
        ([*ALL, request("a2", body='{"lane": "a", "n":2}')], {"changed": ("a2",)}),
        ([*ALL, request("a2", path="/elsewhere")], {"changed": ("a2",)}),
        ([*ALL[:2], request("a2", body=BODIES["a1"])], {"garbled": ("a2",)}),
        ([*ALL[:2], request("a2", body="[]")], {"garbled": ("a2",)}),
        ([*ALL[:2], request("a2", body="{")], {"garbled": ("a2",)}),
        ([*ALL, request("c1")], {"unknown": ("c1",)}),
        ([*ALL, request(None)], {"unknown": ("",)}),
    ],
)
def test_each_broken_promise_is_named(received: list[dict[str, Any]], faults: dict[str, tuple[str, ...]]) -> None:
    """Loss, order, change and forgery are told apart, with the ids that they struck."""
    verdict = judge(ACCEPTED, received)
    assert verdict.faults == faults
    assert not verdict.ok
    assert all(name in str(verdict) for name in faults)


def test_repeats_are_counted() -> None:
    """Each request after the first of its key is a repeat."""
    assert judge(ACCEPTED, [request("a1", 503), request("a1"), *ALL]).repeats == 2


def test_the_undecided_may_arrive_or_not() -> None:
    """A dead letter isn't lost, blocks nobody behind it, and an unknown acceptance is no forgery."""
    verdict = judge(ACCEPTED, [request("a2"), request("b1"), request("a1", 400), request("x")], {"a1", "x"})
    assert verdict.ok, str(verdict)
