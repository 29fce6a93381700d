"""Server-sent events: whatever the network does to them, the same records come out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.event_stream import LONGEST_EVENT_BYTES, Dashboard, DashboardUnavailable, EventParser
from fluxy_sync.live_source import read_record
from fluxy_sync.tls import Tls

ENDINGS = [b"\n", b"\r\n", b"\r"]
DATA = st.binary(min_size=1, max_size=20).filter(lambda data: not set(data) & set(b"\r\n"))


def parse(*chunks: bytes) -> list[bytes | None]:
    """What comes out of a stream that arrives in these pieces."""
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_what_the_dashboard_sends() -> None:
    """The retry hint and ids are no events; a comment is a sign of life."""
    assert parse(b'retry: 1000\n\nid: 7\ndata: {"rev": 7}\n\n: ping\n\n') == [b'{"rev": 7}', None]


def test_lines_of_one_event_belong_together() -> None:
    """Only the first space after the colon is left out; an event without data is none."""
    assert parse(b"data: a\ndata:  b\ndata\n\nevent: x\n\ndata:c\n\n") == [b"a\n b\n", b"c"]


@given(st.lists(DATA, min_size=1, max_size=5), st.sampled_from(ENDINGS), st.data())
def test_it_may_be_cut_anywhere(events: list[bytes], ending: bytes, data: st.DataObject) -> None:
    """Whatever ends its lines, and wherever the pieces of the network begin and end."""
    whole = b"".join(b"data: " + event + ending + ending for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert parse(*pieces) == events


@pytest.mark.parametrize("piece", [b"x" * 999, b"data: " + b"y" * 999 + b"\n"])
def test_an_event_without_an_end_is_refused(piece: bytes) -> None:
    """What isn't the dashboard can't fill the memory."""
    with pytest.raises(DashboardUnavailable, match="without an end"):
        parse(*[piece] * (LONGEST_EVENT_BYTES // 999 + 2))


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{}", b'{"boot": 1}', b'{"boot": "a", "pending": 1}', b'{"pending": 1}']
)
def test_another_record_is_refused(record: bytes) -> None:
    """What isn't the dashboard's record is no number to show."""
    with pytest.raises(DashboardUnavailable):
        read_record(record)


def test_a_dashboard_that_never_read_anything_knows_nothing() -> None:
    """Its numbers are null: no status is made of them."""
    assert read_record(b'{"boot": "a", "namespace": "shop", "stale": true, "pending": null}').status is None


def test_the_password_is_never_part_of_a_message() -> None:
    """An error names the address alone."""
    dashboard = Dashboard("http://ops:sw%2Fordfish@127.0.0.1:1/base", Tls())
    with pytest.raises(DashboardUnavailable) as caught:
        dashboard.record()
    assert "http://127.0.0.1:1/base" in str(caught.value)
    assert "ordfish" not in f"{caught.value!r} {dashboard.address} {vars(dashboard)['_url']}"
