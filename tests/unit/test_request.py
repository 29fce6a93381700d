"""What goes out and what its answer's Retry-After says, without a network."""

import email.utils
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.delivery import RETRY_AFTER_CAP_S, Request, Stamp, build_request, fence_scope, retry_after_s
from fluxy_sync.operation import JsonBody

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STAMP = Stamp(key="op-1", attempt=2, fence=7, scope="0123456789abcdef")

# --- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("86400", RETRY_AFTER_CAP_S),
        ("9" * 400, RETRY_AFTER_CAP_S),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90.0),
        ("Sunday, 01-Mar-26 12:01:30 GMT", 90.0),
        ("Sun Mar  1 12:01:30 2026", 90.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("Mon, 01 Mar 2027 12:00:00 GMT", RETRY_AFTER_CAP_S),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    """Seconds or an HTTP-date in any of its three forms (RFC 9110, 5.6.7), capped; anything else is no floor."""
    assert retry_after_s(value, NOW) == seconds


@given(st.integers(-(10**8), 10**8))
def test_http_dates_are_seconds_from_now(seconds: int) -> None:
    """Never negative, never beyond the cap."""
    value = email.utils.format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after_s(value, NOW) == min(max(0, seconds), RETRY_AFTER_CAP_S)


@given(
    st.text(max_size=60)
    | st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} -?\d{1,6} \d\d:\d\d(:\d\d)? ?[+-]?[A-Z0-9]{0,7}\Z")
)
def test_no_retry_after_breaks_the_exchange(value: str) -> None:
    """Whatever a server sends there: a floor within the bounds, or none."""
    found = retry_after_s(value, NOW)
    assert found is None or 0 <= found <= RETRY_AFTER_CAP_S


# --- the request


def request(method: str = "POST", path: str = "/api", body: bytes | None = b"x", **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return build_request("https://api.example.com", method, path, body, given, STAMP)


def test_each_request_says_which_operation_try_and_claim_it_is() -> None:
    """The key as a structured string, the attempt from 1, the fence with its scope."""
    sent = request().headers
    assert sent["Idempotency-Key"] == '"op-1"'
    assert sent["Fluxy-Attempt"] == "2"
    assert sent["Fluxy-Fence"] == '7; scope="0123456789abcdef"'


@pytest.mark.parametrize(
    ("body", "kind"), [(JsonBody(b"{}"), "application/json"), (b"{}", "application/octet-stream"), (None, None)]
)
def test_the_body_says_what_it_is(body: bytes | None, kind: str | None) -> None:
    """Unless the operation's own headers do."""
    assert request(body=body).headers.get("Content-Type") == kind
    assert request(body=body, content_type="text/csv").headers.get("content-type") == "text/csv"
    names = [name.lower() for name in request(body=body, content_type="text/csv").headers]
    assert names.count("content-type") == 1


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("POST", b"abc", "3"), ("POST", None, "0"), ("PATCH", None, "0"), ("DELETE", None, None), ("DELETE", b"", "0")],
)
def test_the_length_is_always_known(method: str, body: bytes | None, length: str | None) -> None:
    """So that nothing is sent in chunks, which not every server takes."""
    assert request(method, body=body).headers.get("Content-Length") == length


def test_paths_stand_below_the_upstream_and_urls_for_themselves() -> None:
    """An absolute URL is sent as it is."""
    assert request(path="/api?x=1").url == "https://api.example.com/api?x=1"
    assert request(path="https://other.example.com/x").url == "https://other.example.com/x"


@given(st.tuples(*[st.text(max_size=8)] * 3), st.tuples(*[st.text(max_size=8)] * 3))
def test_fence_scopes_tell_nothing_and_differ(one: Any, two: Any) -> None:
    """A lane's name isn't readable in it; another lane, namespace or journal has another."""
    if "\0" not in "".join(one + two):
        assert (fence_scope(*one) == fence_scope(*two)) is (one == two)
    assert len(fence_scope(*one)) == 16
