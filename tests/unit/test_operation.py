"""The checks at the door, and the record of an operation: refused with a sentence, or kept exactly."""

import contextlib
import json
import math
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.errors import CorruptRecord, InvalidOperation, OperationTooLarge
from fluxy_sync.operation import (
    ENGINE_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_LANE_BYTES,
    MAX_PATH_BYTES,
    METHODS,
    JsonBody,
    Operation,
    check_headers,
    check_lane,
    check_method,
    check_operation_id,
    check_path,
    check_size,
    encode_body,
    new_operation_id,
    origin_of,
)
from fluxy_sync.retry import RetryPolicy

ORIGINS = ("https://api.example.com:443",)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
printable = st.characters(min_codepoint=33, max_codepoint=126)

# --- the record


@given(
    st.lists(plain, max_size=3), st.dictionaries(st.text(max_size=8), plain, max_size=3), st.text(), st.integers(0, 9)
)
def test_an_operation_is_read_as_it_was_written(
    args: list[Any], kwargs: dict[str, Any], options: str, generation: int
) -> None:
    """Any plain values, through one encoding and back."""
    operation = Operation(tuple(args), kwargs, "my.task", RetryPolicy(3), options, generation)
    assert Operation.decode(operation.encode()) == operation


@given(plain.filter(lambda value: value is not None))
def test_a_json_body_stays_json_text(body: Any) -> None:
    """Byte for byte, so that each try sends the same; it reads back as what was given."""
    encoded = encode_body(body)
    operation = Operation(("POST", "/api"), {"body": encoded})
    kept = Operation.decode(operation.encode()).kwargs["body"]
    assert isinstance(kept, JsonBody)
    assert kept == encoded
    assert json.loads(kept) == body


@pytest.mark.parametrize("body", [b"", b"\x00\xff", bytearray(b"ab"), memoryview(b"ab")])
def test_bytes_stay_bytes(body: Any) -> None:
    """And are never taken for JSON."""
    kept = Operation.decode(Operation(("POST", "/"), {"body": encode_body(body)}).encode()).kwargs["body"]
    assert kept == bytes(body)
    assert not isinstance(kept, JsonBody)


def test_no_body_is_no_body() -> None:
    """It isn't JSON's null."""
    assert encode_body(None) is None


def test_a_small_operation_is_small() -> None:
    """Defaults aren't written."""
    assert len(Operation(("POST", "/api/posts"), {"body": JsonBody(b"{}")}).encode()) < 40


@given(st.binary(max_size=60))
def test_any_bytes_are_an_operation_or_corrupt(noise: bytes) -> None:
    """Never another error."""
    with contextlib.suppress(CorruptRecord):
        assert isinstance(Operation.decode(noise), Operation)


@pytest.mark.parametrize(
    "argument", [object(), 2**70, {1: {2}, "a": object()}, "\ud800"], ids=["object", "large", "nested", "surrogate"]
)
def test_what_can_not_be_stored_is_refused(argument: Any) -> None:
    """The sentence says which values can."""
    with pytest.raises(InvalidOperation, match=r"pass plain values.*nothing was accepted"):
        Operation((argument,), task="my.task").encode()


# --- ids and lanes


def test_new_ids_are_sorted_by_time_and_pass_the_check() -> None:
    """UUIDv7."""
    ids = [new_operation_id() for _ in range(100)]
    assert ids == sorted(set(ids))
    assert [check_operation_id(each) for each in ids] == ids


@given(st.text(max_size=210))
def test_an_id_fits_into_a_header_or_is_refused(name: str) -> None:
    """Printable ASCII without what a structured string must escape."""
    try:
        assert check_operation_id(name) == name
    except InvalidOperation:
        assert not name or len(name) > 200 or any(not "!" <= c <= "~" or c in '"\\' for c in name)
    else:
        assert all("!" <= c <= "~" and c not in '"\\' for c in name)


@given(st.text(max_size=220))
def test_a_lane_is_kept_as_it_is_or_refused(lane: str) -> None:
    """Any text in any script, of at most 200 bytes, without control characters."""
    try:
        assert check_lane(lane, "id") == lane
    except InvalidOperation:
        return
    assert 0 < len(lane.encode()) <= MAX_LANE_BYTES
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in lane)
    assert not lane.startswith("~")


@pytest.mark.parametrize("lane", ["", "a\nb", "a\0b", "a\x7f", "\x85", "~own", "x" * 201, "é" * 101, "\ud800", 7, b"a"])
def test_bad_lanes_are_refused(lane: Any) -> None:
    """Empty, control characters, the engine's own mark, over 200 bytes, half a surrogate, no text."""
    with pytest.raises(InvalidOperation, match="nothing was accepted"):
        check_lane(lane, "id")


@given(st.text(printable, min_size=1, max_size=200), st.text(printable, min_size=1, max_size=200))
def test_no_lane_gives_each_operation_one_of_its_own(one: str, two: str) -> None:
    """Which nobody else's name can be, within the bound."""
    first, second = check_lane(None, one), check_lane(None, two)
    assert len(first) <= MAX_LANE_BYTES
    assert one[:199] == two[:199] or first != second
    with pytest.raises(InvalidOperation):
        check_lane(first, one)


# --- method, path, headers, body


@pytest.mark.parametrize("method", [*METHODS, *(method.lower() for method in METHODS)])
def test_methods_in_either_case(method: str) -> None:
    """As capitals."""
    assert check_method(method) == method.upper()


@pytest.mark.parametrize(
    "method", ["", "CONNECT", "TRACE", "POST ", "PO ST", "POST\r\nX: y", None, 7, {"a": 1}, b"POST"]
)
def test_other_methods_are_refused(method: Any) -> None:
    """The sentence names ``.si()``: a chain's previous result may have landed here. It never repeats a payload."""
    with pytest.raises(InvalidOperation, match=r"sync_op\.si.*nothing was accepted") as caught:
        check_method(method)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_a_path_goes_out_as_one_line_of_ascii_or_is_refused(text: str) -> None:
    """Percent-encoded, meaning the same bytes."""
    path = f"/{text}"
    try:
        encoded = check_path(path, ORIGINS)
    except InvalidOperation:
        assert any(c in " \\#" or ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text)
        return
    assert encoded.isascii()
    assert encoded.isprintable()
    assert " " not in encoded
    assert unquote_to_bytes(encoded) == unquote_to_bytes(path)
    assert check_path(encoded, ORIGINS) == encoded


@pytest.mark.parametrize(
    "path",
    [
        "", "api", "../api", "/a b", "/a\r\nHost: evil", "/a\tb", "/a#b", "/a\\b", None, 7, "\ud800",
        "https://evil.example.com/", "http://api.example.com/", "https://api.example.com:8443/", "ftp://api.example.com/",
        "https://user:pw@api.example.com/", "https://user@api.example.com/", "https://", "https://api.example.com:port/",
        "https://api.example.com:99999/", "javascript:alert(1)", "https://api.example.com.evil.example/",
        "https://api.example.com@evil.example/", "https://evil.example/?https://api.example.com",
    ],
)  # fmt: skip
def test_bad_paths_are_refused(path: Any) -> None:
    """Nothing leads to another origin, ends the line, or carries credentials."""
    with pytest.raises(InvalidOperation, match="nothing was accepted"):
        check_path(path, ORIGINS)


@pytest.mark.parametrize("path", ["//evil.example.com/api", "/", "/?a=1&b=%20", "/api/é"])
def test_what_starts_with_a_slash_stays_below_the_upstream(path: str) -> None:
    """It is appended to the upstream's URL, whatever it looks like."""
    assert origin_of("https://api.example.com" + check_path(path, ORIGINS)) == ORIGINS[0]


@pytest.mark.parametrize("url", ["https://api.example.com/x", "https://API.example.com:443/x?y=1"])
def test_urls_of_an_allowed_origin_pass(url: str) -> None:
    """Whatever the case of the host, the port given or not."""
    assert check_path(url, ORIGINS) == url


def test_a_path_has_a_bound() -> None:
    """Counted as it is sent."""
    assert check_path("/" + "a" * (MAX_PATH_BYTES - 1), ORIGINS)
    with pytest.raises(OperationTooLarge, match="nothing was accepted"):
        check_path("/" + "é" * (MAX_PATH_BYTES // 6 + 1), ORIGINS)


@given(st.text(max_size=20), st.text(max_size=40))
def test_a_header_is_one_line_or_refused(name: str, value: str) -> None:
    """Nothing ends a line or starts another field (RFC 9110, section 5)."""
    try:
        checked = check_headers({name: value})
    except InvalidOperation:
        return
    assert checked == {name: value}
    line = f"{name}: {value}".encode("latin-1")
    assert not {0, 10, 13} & set(line)
    assert name.isascii()
    assert not set(name) & set(' :"(),/;<=>?@[\\]{}')
    assert value == value.strip(" \t")


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\nb"}, {"X": "a\r\nY: b"}, {"X": "a\rb"}, {"X": "a\0b"}, {"X": " a"}, {"X": "a "}, {"X": "€"}, {"X": 1},
        {"X": b"a"}, {"X\n": "a"}, {"X:": "a"}, {"X Y": "a"}, {"": "a"}, {"é": "a"}, {1: "a"}, ["X"], "X: a",
        *({name.title(): "a"} for name in sorted(ENGINE_HEADERS)),
    ],
)  # fmt: skip
def test_bad_headers_are_refused(headers: Any) -> None:
    """Injection, what isn't text, and what the engine sets itself."""
    with pytest.raises(InvalidOperation, match="nothing was accepted"):
        check_headers(headers)


def test_headers_have_a_bound() -> None:
    """All of them together."""
    check_headers({"X": "a" * (MAX_HEADERS_BYTES - 1)})
    with pytest.raises(OperationTooLarge):
        check_headers({"X": "a" * (MAX_HEADERS_BYTES // 2), "Y": "a" * (MAX_HEADERS_BYTES // 2)})


@pytest.mark.parametrize(
    "body", [math.nan, math.inf, {"a": [-math.inf]}, object(), {"a": {1, 2}}, {("a",): 1}, "\ud800", [b"bytes"]]
)
def test_what_is_no_json_is_refused(body: Any) -> None:
    """NaN and the infinities (RFC 8259, section 6), objects, half a surrogate."""
    with pytest.raises(InvalidOperation, match=r"can't be written as JSON.*nothing was accepted"):
        encode_body(body)


def test_a_body_that_holds_itself_is_refused() -> None:
    """Or that is nested too deep."""
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for body in (loop, deep):
        with pytest.raises(InvalidOperation):
            encode_body(body)


@given(st.integers(0, 100), st.integers(1, 100))
def test_sizes_are_bounded(size: int, limit: int) -> None:
    """At the limit it passes; beyond, the sentence names the setting."""
    if size <= limit:
        check_size(size, limit)
    else:
        with pytest.raises(OperationTooLarge, match=r"FLUXY_SYNC_MAX_BODY_BYTES.*nothing was accepted"):
            check_size(size, limit)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://Example.COM/a?b", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:8443/", "https://example.com:8443"),
        ("http://[::1]:5000/", "http://[::1]:5000"),
        ("http://[FE80::1]/", "http://[fe80::1]:80"),
    ],
)
def test_origins(url: str, origin: str) -> None:
    """Scheme, host and port, in lower case, the port always given."""
    assert origin_of(url) == origin
    assert origin_of(origin) == origin
