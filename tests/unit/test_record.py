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
    pack_id,
    parse,
    seal_context,
    unpack_id,
)
from fluxy_sync.operation import new_operation_id

texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200)
ids = texts | st.uuids().map(str)
times = st.integers(0, 2**48 - 1)


def build(name: str, flags: int, stamps: list[int], sealed: bytes) -> bytes:
    """A record as the scripts write it."""
    count = 1 + bool(flags & FLAG_DUE) + bool(flags & FLAG_EXPIRES)
    return b"\1" + pack_id(name) + bytes([flags]) + b"".join(t.to_bytes(6, "big") for t in stamps[:count]) + sealed


@given(ids)
def test_ids_are_read_as_they_were_written(name: str) -> None:
    """Text and UUIDs alike, whatever follows them."""
    assert unpack_id(pack_id(name)) == name
    assert unpack_id(pack_id(name) + b"more") == name


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


@given(ids, st.integers(0, 7), st.lists(times, min_size=3, max_size=3), st.binary(max_size=100))
def test_records_are_read_as_the_scripts_write_them(name: str, flags: int, stamps: list[int], sealed: bytes) -> None:
    """Id, flags, times and the sealed part; a time that isn't there is 0."""
    record = parse(build(name, flags, stamps, sealed))
    assert (record.format, record.id, record.flags, record.sealed) == (1, name, flags, sealed)
    rest = iter(stamps[1:])
    due = next(rest) if flags & FLAG_DUE else 0
    expires = next(rest) if flags & FLAG_EXPIRES else 0
    assert (record.accepted_ms, record.due_ms, record.expires_ms) == (stamps[0], due, expires)


@given(ids, st.sampled_from([0, FLAG_DUE, FLAG_EXPIRES, FLAG_DUE | FLAG_EXPIRES, FLAG_CANCELLED]), st.data())
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
