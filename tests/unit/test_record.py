"""The clear part of a record: read back as it was written, or refused."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.errors import CorruptRecord
from fluxy_sync.journal.record import (
    FLAG_CANCELLED,
    FLAG_DUE,
    FLAG_EXPIRES,
    FLAG_HALT,
    FLAG_ONCE,
    FLAG_REPLAYED,
    pack_id,
    parse,
    seal_context,
    unpack_id,
)
from fluxy_sync.operation import new_operation_id
from tests.journal_state import check_of

texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)
ids = texts | st.uuids().map(str)
times = st.integers(0, 2**48 - 1)
all_flags = st.integers(0, 2 * FLAG_REPLAYED - 1)


def build(name: str, flags: int, stamps: list[int], sealed: bytes, once: bytes = b"o" * 16, replays: int = 1) -> bytes:
    """A record as the scripts write it."""
    accepted, due, expires = (stamp.to_bytes(6, "big") for stamp in stamps)
    clear = b"\1" + pack_id(name) + bytes([flags]) + accepted
    clear += due * bool(flags & FLAG_DUE) + expires * bool(flags & FLAG_EXPIRES)
    clear += once * bool(flags & FLAG_ONCE) + replays.to_bytes(2, "big") * bool(flags & FLAG_REPLAYED)
    return clear + check_of(clear) + sealed


@given(ids)
def test_ids_are_read_as_they_were_written(name: str) -> None:
    """Text and UUIDs alike, whatever follows them."""
    assert unpack_id(pack_id(name)) == name
    assert unpack_id(pack_id(name) + b"more") == name


@given(ids, st.text(max_size=400) | st.text(st.characters(categories=["Cs"])))
def test_what_can_be_no_id_is_packed_as_none(name: str, other: str) -> None:
    """Somebody may ask for anything: it isn't there."""
    assert (pack_id(name) == pack_id(other)) is (name == other)


@given(ids, ids)
def test_no_two_ids_are_stored_alike(one: str, two: str) -> None:
    """A UUID in capitals, or without its dashes, is another id."""
    assert (pack_id(one) == pack_id(two)) is (one == two)


def test_our_own_ids_take_seventeen_bytes() -> None:
    """A canonical UUID is stored in binary form; any other way to write it, as text."""
    name = new_operation_id()
    assert uuid.UUID(name).version == 7
    assert len(pack_id(name)) == 17
    for other in (name.upper(), name.replace("-", ""), f"{{{name}}}", f"urn:uuid:{name}"):
        assert unpack_id(pack_id(other)) == other
        assert len(pack_id(other)) == 1 + len(other)


@given(ids, all_flags, st.lists(times, min_size=3, max_size=3), st.binary(max_size=100), st.integers(0, 2**16 - 1))
def test_records_are_read_as_the_scripts_write_them(
    name: str, flags: int, stamps: list[int], sealed: bytes, replays: int
) -> None:
    """Id, flags, times, once, replays and the sealed part; what isn't there is 0 or empty."""
    record = parse(build(name, flags, stamps, sealed, b"sixteen bytes...", replays))
    assert (record.format, record.id, record.flags, record.sealed) == (1, name, flags, sealed)
    accepted, due, expires = stamps
    times = (accepted, due * bool(flags & FLAG_DUE), expires * bool(flags & FLAG_EXPIRES))
    assert (record.accepted_ms, record.due_ms, record.expires_ms) == times
    assert record.once == (b"sixteen bytes..." if flags & FLAG_ONCE else b"")
    assert record.replays == (replays if flags & FLAG_REPLAYED else 0)
    assert (record.cancelled, record.halts) == (bool(flags & FLAG_CANCELLED), bool(flags & FLAG_HALT))


@given(ids, all_flags, st.data())
def test_a_clear_part_that_was_cut_off_is_corrupt(name: str, flags: int, data: st.DataObject) -> None:
    """Nothing is guessed from what is left."""
    whole = build(name, flags, [1, 2, 3], b"")
    with pytest.raises(CorruptRecord):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    """Never another error, and what is read has its whole clear part."""
    try:
        record = parse(noise)
    except CorruptRecord:
        return
    assert noise.endswith(record.sealed)


@given(st.lists(st.tuples(texts, texts, ids), min_size=2, max_size=2, unique=True))
def test_a_seal_is_bound_to_namespace_lane_and_id(places: list[tuple[str, str, str]]) -> None:
    """No two places share a context."""
    one, two = (seal_context(*place) for place in places)
    assert one != two
