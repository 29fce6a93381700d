"""The stream of server-sent events: the truth on connect and on each change, to each listener by himself."""

import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.journal import Journal, Store, connect
from tests.conftest import wait_until
from tests.dashboard import Dashboard, open_stream
from tests.integration.conftest import store_settings
from tests.journal_steps import queue

STREAMS = 500


def with_constants(**constants: float) -> tuple[str, str]:
    """The dashboard with other constants of its streams: nobody wants to wait for the real ones."""
    set_them = "".join(f"stream.{name} = {value}; " for name, value in constants.items())
    return ("-c", f"from fluxy_sync.dashboard import stream; {set_them}from fluxy_sync.app import main; main()")


def test_the_whole_record_on_connect_and_on_each_change(shown: Dashboard, journal: Journal) -> None:
    """First how to reconnect, then the record of GET /api/sync, its id is ``rev``; a change follows at once."""
    queue(journal, "one")
    wait_until(lambda: shown.record()["pending"] == 1)
    with shown.events() as events:
        assert events.headers["Content-Type"] == "text/event-stream"
        assert events.headers["Cache-Control"] == "no-store"
        assert events.block() == ["retry: 1000"]
        number, data = events.block()
        assert data.startswith('data: {"pending": 1,')
        assert number == f"id: {shown.record()['rev']}"
        for names in (("two",), ("three", "four"), ("five",)):
            queue(journal, *names)
            asked_at = time.monotonic()
            count = journal.snapshot().pending
            assert events.until(lambda record, count=count: record["pending"] == count)["stale"] is False
            assert time.monotonic() - asked_at < 2


def test_at_most_five_a_second(shown: Dashboard, journal: Journal) -> None:
    """However much happens, a listener gets five events a second, and the last one tells how it ended."""
    with shown.events() as events:
        events.record()
        began, count, pending, seen = time.monotonic(), 0, 0, 0
        while time.monotonic() - began < 2 or seen < pending:
            if time.monotonic() - began < 2:
                queue(journal, *(f"op{pending + n}" for n in range(5)))
                pending += 5
            seen = events.record()["pending"]
            count += 1
        assert count <= 5 * (time.monotonic() - began) + 2


def test_pings_between_changes(dashboard: Dashboard) -> None:
    """While nothing happens a comment keeps the connection alive."""
    dashboard.start(command=(*with_constants(PING_S=0.2), "flower"))
    with dashboard.events() as events:
        events.record()
        assert [events.block() for _ in range(3)] == [[": ping"]] * 3


def test_another_boot_after_a_restart(shown: Dashboard, journal: Journal) -> None:
    """The same process has the same boot id in all it says; the next one has another, and knows the same."""
    queue(journal, "one")
    wait_until(lambda: shown.record()["pending"] == 1)
    before = shown.record()
    with shown.events() as events:
        assert events.record()["boot"] == before["boot"]
    assert shown.end() == 0
    shown.start()
    after = shown.record()
    assert after["boot"] != before["boot"]
    assert (after["rev"], after["pending"]) == (before["rev"], before["pending"])


@contextmanager
def store_that_goes(folder: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(folder / "goes") as store:
        store.wait_ready()
        yield store


def test_a_store_that_stops(tmp_path: Path, namespace: str) -> None:
    """The last known values are told as stale; with the store's return they are fresh, without a restart."""
    with store_that_goes(tmp_path) as store, ExitStack() as stack:
        journal = Journal(Store(connect(store.url)), namespace)
        stack.callback(journal.store.close)
        dashboard = Dashboard(store_settings(store.url, namespace, tmp_path), tmp_path)
        stack.callback(dashboard.end)
        queue(journal, "one")
        dashboard.start()
        with dashboard.events() as events:
            assert (events.record()["pending"], store.stop()) == (1, None)
            record = events.until(lambda record: record["stale"])
            assert record["pending"] == 1
            assert dashboard.record()["stale"] is True
            assert "fluxy_sync_pending" not in dashboard.get("/metrics", auth=None).text
            store.start()
            store.wait_ready()
            assert events.until(lambda record: not record["stale"])["pending"] == 1
            queue(journal, "two")
            assert events.until(lambda record: record["pending"] == 2)


def test_a_store_that_hangs(tmp_path: Path, namespace: str) -> None:
    """A store that answers nothing is told as stale, too, and every handler still answers at once."""
    with store_that_goes(tmp_path) as store, ExitStack() as stack:
        dashboard = Dashboard(store_settings(store.url, namespace, tmp_path), tmp_path)
        stack.callback(dashboard.end)
        dashboard.start()
        assert store.process is not None
        with dashboard.events() as events:
            store.process.send_signal(signal.SIGSTOP)
            try:
                events.until(lambda record: record["stale"])
                began = time.monotonic()
                assert dashboard.record()["stale"] is True
                assert "fluxy_sync_up 0.0" in dashboard.get("/metrics", auth=None).text
                assert time.monotonic() - began < 1.5
            finally:
                store.process.send_signal(signal.SIGCONT)
            events.until(lambda record: not record["stale"])


def read_all(connections: list[socket.socket], text: bytes, timeout: float) -> list[float]:
    """Read from all until each has got the text; when each had it."""
    got = dict.fromkeys(connections, b"")
    times: list[float] = []
    ends = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while len(times) < len(connections) and time.monotonic() < ends:
            for key, _ in selector.select(0.5):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                got[connection] += connection.recv(65536)
                if text in got[connection]:
                    times.append(time.monotonic())
                    selector.unregister(connection)
    return times


def listening_from(dashboard: Dashboard) -> set[int]:
    """The ports of all that are connected to it."""
    assert dashboard.process is not None
    found = psutil.Process(dashboard.process.pid).net_connections("tcp")
    return {one.raddr.port for one in found if one.status == "ESTABLISHED"}


def test_500_streams_at_once(dashboard: Dashboard, journal: Journal) -> None:
    """Each of them gets a change soon after it happened; when they are gone, nothing of them is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    dashboard.start()
    with ExitStack() as stack:
        connections = [stack.enter_context(open_stream(dashboard)) for _ in range(STREAMS)]
        assert len(read_all(connections, b'"pending": 0', 30)) == STREAMS
        assert len(listening_from(dashboard)) == STREAMS
        began = time.monotonic()
        queue(journal, "one")
        times = read_all(connections, b'"pending": 1', 30)
        assert len(times) == STREAMS
        assert max(times) - began < 2
        assert dashboard.get("/api/sync").status_code == 200
    wait_until(lambda: not listening_from(dashboard))


def test_too_many_streams_are_refused(dashboard: Dashboard) -> None:
    """Beyond what one process bears a stream is refused with 503; when another has ended there is room again."""
    dashboard.start(command=(*with_constants(MOST_STREAMS=2), "flower"))
    with open_stream(dashboard) as first, open_stream(dashboard) as second:
        assert len(read_all([first, second], b"data: ", 10)) == 2
        answer = dashboard.get("/api/sync/events")
        assert (answer.status_code, answer.json().keys()) == (503, {"error"})
    with_room = wait_until(lambda: (a := dashboard.get("/api/sync/events", stream=True)).status_code == 200 and a)
    with_room.close()


def test_a_listener_that_takes_nothing(dashboard: Dashboard, journal: Journal) -> None:
    """He holds up nobody, costs no more than one record, and is shown the door in the end."""
    dashboard.start(command=(*with_constants(SLOW_S=2.0), "flower"))
    with dashboard.events() as events, open_stream(dashboard, receive_buffer=1) as slow:
        events.record()
        wait_until(lambda: slow.getsockname()[1] in listening_from(dashboard))
        began, pending = time.monotonic(), 0
        while slow.getsockname()[1] in listening_from(dashboard):
            pending += 1
            queue(journal, f"op{pending}")
            events.until(lambda record, pending=pending: record["pending"] == pending)
        assert pending / (time.monotonic() - began) > 1
    assert "took nothing" in dashboard.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_open_streams(shown: Dashboard, number: signal.Signals) -> None:
    """A signal ends the streams in order and the process soon after, with 0."""
    with shown.events() as events:
        events.record()
        began = time.monotonic()
        assert shown.end(number) == 0
        assert time.monotonic() - began < 2
        with pytest.raises(EOFError):
            events.until(lambda _: False)


def test_a_dashboard_without_its_poller_ends(dashboard: Dashboard) -> None:
    """It would show old numbers for ever: it ends with 1 instead, and whoever started it starts it again."""
    broken = (
        "from fluxy_sync.dashboard.poller import Poller; Poller._look = None; from fluxy_sync.app import main; main()"
    )
    dashboard.spawn(command=("-c", broken, "flower"))
    assert dashboard.process is not None
    assert dashboard.process.wait(20) == 1
    assert "The poller has ended" in dashboard.log


def test_it_ends_while_the_store_hangs(tmp_path: Path, namespace: str) -> None:
    """Threads that wait for the store don't keep it."""
    with store_that_goes(tmp_path) as store:
        dashboard = Dashboard(store_settings(store.url, namespace, tmp_path), tmp_path).start()
        assert store.process is not None
        store.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: dashboard.record()["stale"])
            began = time.monotonic()
            assert dashboard.end() == 0
            assert time.monotonic() - began < 2
        finally:
            os.kill(store.process.pid, signal.SIGCONT)
