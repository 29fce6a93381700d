"""Bad input raises a sentence that says what to change, and nothing is accepted."""

from collections.abc import Callable
from typing import Any

import pytest

from fluxy_sync import FluxySync, InvalidOperation, OperationTooLarge, RetryPolicy
from tests.conftest import Gateway

Queue = Callable[[FluxySync], Any]


@pytest.fixture
def sync(gateway: Gateway) -> FluxySync:
    return FluxySync(gateway.settings())


BAD: dict[str, tuple[Queue, str]] = {
    "unknown method": (lambda s: s.queue("FETCH", "/x"), "FETCH isn't an HTTP method.*use one of POST"),
    "no method": (lambda s: s.queue(None, "/x"), "HTTP method"),  # type: ignore[arg-type]
    "newline in a header": (
        lambda s: s.queue("POST", "/x", headers={"X-A": "a\r\nHost: evil"}),
        "X-A must be one line",
    ),
    "newline in a name": (lambda s: s.queue("POST", "/x", headers={"X\nA": "a"}), "header's name"),
    "a header of ours": (lambda s: s.queue("POST", "/x", headers={"Idempotency-Key": "1"}), "set by the engine"),
    "another origin": (lambda s: s.queue("POST", "http://elsewhere.example/x"), "FLUXY_SYNC_ALLOWED_ORIGINS"),
    "credentials in a URL": (lambda s: s.queue("POST", "http://u:p@elsewhere.example/x"), "credentials"),
    "a relative path": (lambda s: s.queue("POST", "x"), "starts with '/'"),
    "a line break in a path": (lambda s: s.queue("POST", "/x\r\nHost: evil"), "percent-encode"),
    "control characters in a lane": (lambda s: s.queue("POST", "/x", lane="a\nb"), "lane's name"),
    "a long lane": (lambda s: s.queue("POST", "/x", lane="ä" * 101), "at most 200"),
    "an empty lane": (lambda s: s.queue("POST", "/x", lane=""), "lane's name"),
    "a lane of the engine's": (lambda s: s.queue("POST", "/x", lane="~a"), "doesn't start with '~'"),
    "NaN": (lambda s: s.queue("POST", "/x", body={"n": float("nan")}), "NaN"),
    "an object": (lambda s: s.queue("POST", "/x", body={"n": object()}), "convert it, or pass bytes"),
    "a bad id": (lambda s: s.queue("POST", "/x", id='a"b'), "id is 1 to 200"),
    "a wrong policy": (lambda s: s.queue("POST", "/x", policy={"max_retries": 3}), "RetryPolicy"),  # type: ignore[arg-type]
    "a wrong countdown": (lambda s: s.queue("POST", "/x", countdown=float("nan")), "seconds from now"),
    "an unknown argument": (lambda s: s.app.tasks["fluxy_sync.sync_op"].delay("POST", "/x", bdoy=1), "bdoy"),
    "a missing argument": (lambda s: s.app.tasks["fluxy_sync.sync_op"].delay("POST"), "path"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(sync: FluxySync, name: str) -> None:
    """The sentence says what to change; the queue is as it was."""
    queue, sentence = BAD[name]
    with pytest.raises(InvalidOperation, match=sentence) as refused:
        queue(sync)
    assert "nothing was accepted" in str(refused.value)
    assert sync.status().rev == 0


def test_a_body_that_is_too_large_is_refused(sync: FluxySync) -> None:
    """The limit is named, and how to raise it."""
    with pytest.raises(OperationTooLarge, match="FLUXY_SYNC_MAX_BODY_BYTES=1048576"):
        sync.queue("POST", "/x", body=b"x" * (1024 * 1024 + 1))
    sync.queue("POST", "/x", body=b"x" * (1024 * 1024))
    assert sync.status().pending == 1


def test_a_batch_with_one_bad_operation_is_refused_whole(sync: FluxySync) -> None:
    """All or none."""
    with pytest.raises(InvalidOperation):
        sync.queue_many([{"method": "POST", "path": "/x"}, {"method": "POST", "path": "y"}])
    assert sync.status().pending == 0


def test_a_policy_out_of_range_is_refused() -> None:
    """A policy can't be made that would never end or never wait."""
    with pytest.raises(ValueError, match="base_s <= cap_s"):
        RetryPolicy(base_s=10, cap_s=1)
