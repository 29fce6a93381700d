"""Live values from the store: seen at once, by effects, threads and asyncio; and nothing runs that nobody wants."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reaktiv import Computed, Effect, Signal

from fluxy_sync import FluxySync, StorageUnavailable, live
from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.settings import Settings
from fluxy_sync.status import Status
from fluxy_sync.vault import new_key
from tests.conftest import ROOT, wait_until

SEEN_S = 0.3  # the promise
SLACK_S = 0.2  # what a busy machine may add


def threads() -> list[str]:
    """Our background threads that run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fluxy-live")]


def make(url: str, namespace: str, **more: Any) -> FluxySync:
    return FluxySync(
        Settings(redis_url=url, namespace=namespace, keys=new_key(), upstream="http://127.0.0.1:9", **more)
    )


@pytest.fixture
def sync(store_url: str, namespace: str) -> Iterator[FluxySync]:
    made = make(store_url, namespace)
    yield made
    made.close()
    wait_until(lambda: threads() == [], 5)  # another thread may be closing it just now


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that the test may stop and start."""
    with EmbeddedStore(tmp_path / "store") as store:
        store.wait_ready()
        yield store


class Seen(list[Any]):
    """What an effect or a subscriber was told, and when."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.by: list[str] = []

    def __call__(self, value: Any) -> None:
        self.append(value)
        self.at.append(time.monotonic())
        self.by.append(threading.current_thread().name)


def effect(read: Callable[[], Any]) -> tuple[Effect, Seen]:
    """An effect that notes what it reads; it lives as long as it is kept."""
    seen = Seen()
    return Effect(lambda: seen(read())), seen


# --- what is seen, and when


def test_values_are_there_at_first_sight(sync: FluxySync) -> None:
    """Read when they are asked for, as .value or by a call."""
    sync.queue_many([{"method": "POST", "path": "/a"}] * 3)
    assert sync.pending_count.value == sync.pending_count() == sync.live.status.value.pending == 3
    assert sync.is_syncing.value is False
    assert (sync.live.source, sync.live.namespace, sync.live.trouble) == ("store", sync.engine.settings.namespace, "")
    assert sync.live.stale_since is None


def test_it_equals_the_status(sync: FluxySync) -> None:
    """The whole record, with ages that go on."""
    sync.queue("POST", "/a")
    shown, status = sync.live.status.value, sync.status()
    assert shown.to_dict() | {"oldest_age_s": 0} == status.to_dict() | {"oldest_age_s": 0}
    wait_until(lambda: (sync.live.status.value.oldest_age_s or 0) > (status.oldest_age_s or 0) + 0.2)


def test_an_effect_sees_a_change_within_the_promise(sync: FluxySync) -> None:
    """The seed's Fx, in Python: an effect runs at once, and again on each change."""
    kept, seen = effect(lambda: sync.pending_count.value)
    for count in range(1, 6):
        began = time.monotonic()
        sync.queue("POST", "/a")
        wait_until(lambda last=count: seen[-1] == last, 5)
        assert seen.at[-1] - began < SEEN_S + SLACK_S
    assert seen == [0, 1, 2, 3, 4, 5]
    assert set(seen.by[1:]) == {"fluxy-live"}
    kept.dispose()


def test_a_change_is_seen_without_any_hint(own_store: EmbeddedStore) -> None:
    """Where the store's user may not listen, it is looked at four times a second."""
    admin = make(own_store.url, "t").engine.journal.store.client
    admin.execute_command("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "+@all", "resetchannels")
    path = own_store.url.partition("@")[2]
    sync = make(f"unix://deaf:pw@{path}", "t")
    kept, seen = effect(lambda: sync.pending_count.value)
    began = time.monotonic()
    sync.queue("POST", "/a")
    wait_until(lambda: seen[-1] == 1, 5)
    assert seen.at[-1] - began < SEEN_S + SLACK_S
    kept.dispose()
    sync.close()


def test_another_processs_change_is_seen(sync: FluxySync, store_url: str, namespace: str) -> None:
    """Whoever queues: the store tells."""
    kept, seen = effect(lambda: sync.pending_count.value)
    code = (
        "import sys, time; from fluxy_sync import FluxySync; from fluxy_sync.settings import Settings\n"
        "sync = FluxySync(Settings(redis_url=sys.argv[1], namespace=sys.argv[2], keys=sys.argv[3]))\n"
        "sync.queue('POST', '/a'); print(time.monotonic())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, store_url, namespace, new_key()], capture_output=True, check=True, timeout=60
    )
    wait_until(lambda: seen == [0, 1], 5)
    assert seen.at[-1] - float(told.stdout) < SEEN_S + SLACK_S
    kept.dispose()


def test_a_burst_is_looked_at_twenty_times_a_second_at_most(sync: FluxySync) -> None:
    """However many changes there are; the last one is seen all the same."""
    kept, seen = effect(lambda: sync.live.status.value.rev)
    began = time.monotonic()
    while time.monotonic() < began + 1.0:
        sync.queue("POST", "/a", lane=None)
    wait_until(lambda: seen[-1] == sync.status().rev, 5)
    assert len(seen) <= 20 * (seen.at[-1] - began) + 3
    kept.dispose()


# --- effects, threads, asyncio


def test_an_effect_runs_once_for_a_change(sync: FluxySync) -> None:
    """Of several values at once, and never for equal ones."""
    kept, seen = effect(lambda: (sync.is_syncing.value, sync.pending_count.value))
    sync.queue("POST", "/a")
    wait_until(lambda: len(seen) == 2, 5)
    claim = sync.engine.journal.claim("an-incarnation 1")
    wait_until(lambda: len(seen) == 3, 5)
    operation = sync.engine.journal.in_flight()[0]
    sync.engine.journal.settle(claim.lane, claim.fence, operation, "delivered", give_up=True)
    wait_until(lambda: len(seen) == 4, 5)
    sync.engine.journal.append([])  # nothing
    sync.pause()
    wait_until(lambda: sync.live.status.value.gate == "paused", 5)
    assert seen == [(False, 0), (False, 1), (True, 1), (False, 0)]
    kept.dispose()


def test_computed_values_and_other_signals_mix_with_live_ones(sync: FluxySync) -> None:
    """They are signals like any other: read for the first time in a Computed, or beside a signal of one's own."""
    factor = Signal(10)
    product = Computed(lambda: sync.pending_count() * factor())
    kept, seen = effect(product)
    sync.queue("POST", "/a")
    wait_until(lambda: seen == [0, 10], 5)
    factor.set(3)
    assert seen == [0, 10, 3]
    kept.dispose()


def test_a_subscriber_is_told_of_changes_until_he_leaves(sync: FluxySync) -> None:
    """Not of the value that he found; from a thread of ours; what he raises harms nobody."""
    told, broken = Seen(), Seen()

    def raises(value: int) -> None:
        broken(value)
        raise ValueError("on purpose")

    stop = sync.pending_count.subscribe(told)
    sync.pending_count.subscribe(raises)
    for count in (1, 2):
        sync.queue("POST", "/a")
        wait_until(lambda last=count: told[-1:] == broken[-1:] == [last], 5)
    stop()
    sync.queue("POST", "/a")
    wait_until(lambda: broken == [1, 2, 3], 5)
    assert told == [1, 2]


def test_many_threads_see_the_same(sync: FluxySync) -> None:
    """First uses at the same time start one thread; nobody gets a value that is unknown."""
    sync.queue("POST", "/a")
    found: list[Any] = []
    barrier = threading.Barrier(16)

    def look() -> None:
        barrier.wait()
        found.append((sync.pending_count.value, sync.live.status.value.pending, sync.is_syncing()))

    looking = [threading.Thread(target=look) for _ in range(16)]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join(20)
    assert found == [(1, 1, False)] * 16
    assert threads() == ["fluxy-live"]


def test_effects_come_and_go_in_many_threads(sync: FluxySync) -> None:
    """While values change and signals of one's own are set: nobody waits for another, nobody misses the last one."""
    ends = time.monotonic() + 2.0
    own, lasts = Signal(0), []
    kept, seen = effect(lambda: (own(), sync.pending_count()))

    def come_and_go() -> None:
        while time.monotonic() < ends:
            Effect(lambda: sync.live.status()).dispose()
            passing = Effect(lambda: sync.pending_count() + own())  # and this one is just dropped
            own.update(lambda value: value + 1)
            lasts.append(passing)
            del lasts[:-3]

    looking = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in looking:
        thread.start()
    while time.monotonic() < ends:
        sync.queue("POST", "/a", lane=None)
    for thread in looking:
        thread.join(20)
        assert not thread.is_alive()
    wait_until(lambda: seen[-1] == (own(), sync.status().pending), 5)
    kept.dispose()


def test_it_is_no_truth_value(sync: FluxySync) -> None:
    """Who forgets .value is told, not fooled."""
    with pytest.raises(TypeError, match=r"\.value"):
        bool(sync.is_syncing)


def test_asyncio_gets_each_change(sync: FluxySync) -> None:
    """The value now, then after each change; the loop goes on meanwhile, and the iterator leaves nothing behind."""

    async def follow() -> list[int]:
        found = []
        async for count in sync.pending_count.changes():
            found.append(count)
            if count == 3:
                break
            await sync.aqueue("POST", "/a")
        return found

    assert asyncio.run(follow()) == [0, 1, 2, 3]
    assert not sync.live._all_signals().are_watched


def test_asyncio_gets_the_whole_status(sync: FluxySync) -> None:
    """Who takes long gets the newest, not each; a change wakes within the promise."""

    async def follow() -> tuple[Status, Status, float]:
        changes = aiter(sync.live.changes())
        first = await anext(changes)
        for _ in range(5):
            await sync.aqueue("POST", "/a")
        began = time.monotonic()
        while (last := await anext(changes)).pending < 5:
            pass
        return first, last, time.monotonic() - began

    first, last, took_s = asyncio.run(follow())
    assert (first.pending, last.pending) == (0, 5)
    assert took_s < SEEN_S + SLACK_S


def test_asyncio_ends_with_close(sync: FluxySync) -> None:
    """Who waits for the next change isn't left waiting."""

    async def follow() -> list[int]:
        asyncio.get_running_loop().call_later(0.2, lambda: threading.Thread(target=sync.close).start())
        return [count async for count in sync.pending_count.changes()]

    assert asyncio.run(asyncio.wait_for(follow(), 10)) == [0]


def test_a_loop_that_is_gone_harms_nobody(sync: FluxySync, capfd: pytest.CaptureFixture[str]) -> None:
    """An iterator that outlived its loop is told in vain."""
    changes = sync.pending_count.changes()
    asyncio.run(anext(changes))  # type: ignore[arg-type]
    sync.queue("POST", "/a")
    wait_until(lambda: sync.pending_count.value == 1, 5)
    assert capfd.readouterr().err == ""


# --- what can't be read


def test_what_was_never_known_is_no_number(tmp_path: Path) -> None:
    """Without a store, .value raises, and so does the first step of an iterator; each says what to do."""
    sync = make(f"unix://{tmp_path}/nothing.sock", "t")
    with pytest.raises(StorageUnavailable, match="can't be reached"):
        _ = sync.pending_count.value
    with pytest.raises(StorageUnavailable, match="can't be reached"):
        sync.is_syncing.subscribe(print)
    with pytest.raises(StorageUnavailable, match="can't be reached"):
        asyncio.run(anext(sync.live.changes()))  # type: ignore[arg-type]
    sync.close()


def test_an_effect_comes_to_life_with_the_store(own_store: EmbeddedStore, capfd: pytest.CaptureFixture[str]) -> None:
    """What it raised while nothing was known doesn't end it."""
    sync = make(own_store.url, "t")
    own_store.stop()
    kept, seen = effect(lambda: sync.pending_count.value)
    assert seen == []
    assert "the store can't be reached" in capfd.readouterr().err
    own_store.start()
    wait_until(lambda: seen == [0], 10)
    kept.dispose()
    sync.close()


def test_a_store_that_goes_away_leaves_stale_values(own_store: EmbeddedStore) -> None:
    """The last known ones, and since when they are that; they are fresh again when it is back."""
    sync = make(own_store.url, "t")
    kept, seen = effect(lambda: sync.live.status.value.stale)
    sync.queue("POST", "/a")
    wait_until(lambda: sync.pending_count.value == 1, 5)
    own_store.stop()
    wait_until(lambda: seen == [False, True] or seen == [False, False, True], 5)
    assert sync.pending_count.value == 1
    assert sync.live.stale_since is not None
    assert "store" in sync.live.trouble
    own_store.start()
    wait_until(lambda: not sync.live.status.value.stale, 10)
    assert (sync.pending_count.value, sync.live.stale_since, sync.live.trouble) == (1, None, "")
    kept.dispose()
    sync.close()


# --- the background thread


def test_nothing_runs_before_the_first_use(sync: FluxySync) -> None:
    """Who only queues pays for no thread, and doesn't load the library of signals."""
    code = (
        "import sys, threading; from fluxy_sync import FluxySync; from fluxy_sync.settings import Settings\n"
        "sync = FluxySync(Settings(redis_url=sys.argv[1], namespace=sys.argv[2], keys=sys.argv[3]))\n"
        "sync.queue('POST', '/a'); sync.pending_count; print(threading.active_count(), 'reaktiv' in sys.modules)"
    )
    url = sync.engine.settings.store_url
    told = subprocess.run(
        [sys.executable, "-c", code, url, "t", new_key()], capture_output=True, check=True, timeout=60
    )
    assert told.stdout.split() == [b"1", b"False"]
    assert threads() == []


def test_it_ends_when_nobody_looks_any_more(sync: FluxySync, monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect keeps it; when that is gone it ends by itself, and the next use is a first one again."""
    monkeypatch.setattr(live, "IDLE_S", 0.2)
    kept, seen = effect(lambda: sync.pending_count.value)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1.0)
    assert threads() == ["fluxy-live"]
    sync.queue("POST", "/a")
    wait_until(lambda: seen == [0, 1], 5)
    kept.dispose()
    wait_until(lambda: threads() == [], 5)
    sync.queue("POST", "/a")
    assert sync.pending_count.value == 2


def test_close_ends_it(sync: FluxySync) -> None:
    """At once; what is read afterwards is read anew each time, without a thread."""
    kept, _ = effect(lambda: sync.pending_count.value)
    began = time.monotonic()
    sync.close()
    assert time.monotonic() - began < 1.0
    assert threads() == []
    sync.queue("POST", "/a")
    assert sync.pending_count.value == 1
    sync.queue("POST", "/a")
    assert sync.pending_count.value == 2
    assert threads() == []
    sync.close()
    kept.dispose()


def test_an_effect_may_close_it(sync: FluxySync) -> None:
    """From the background thread itself."""
    told = Seen()

    def close(value: int) -> None:
        told(value)
        sync.close()

    sync.pending_count.subscribe(close)
    sync.queue("POST", "/a")
    wait_until(lambda: told == [1] and threads() == [], 5)


def test_what_is_dropped_is_freed(store_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FluxySync that nobody holds leaves no thread."""
    monkeypatch.setattr(live, "IDLE_S", 0.2)
    sync = make(store_url, namespace)
    assert sync.pending_count.value == 0
    del sync
    wait_until(lambda: threads() == [], 5)


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts beside this file to its end."""
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name(name)), *arguments],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_a_forks_child_begins_anew(store_url: str, namespace: str) -> None:
    """While the parent's values change all the time: each child reads them and ends, the parent goes on."""
    told = run_script("live_forks.py", store_url, namespace, new_key(), "10")
    assert (told.returncode, told.stderr) == (0, ""), told.stderr
    assert told.stdout.splitlines()[-1] == "10 children read it, the parent goes on"


@pytest.mark.parametrize("way", ["end", "exit", "raise", "thread", "atexit"])
def test_the_interpreter_ends_at_once(store_url: str, namespace: str, way: str) -> None:
    """With a watcher and an effect that prints under way, however it ends."""
    began = time.monotonic()
    told = run_script("live_exit.py", store_url, namespace, new_key(), way)
    assert "seen 0" in told.stdout
    assert ("RuntimeError: on purpose" in told.stderr) == (way == "raise")
    assert told.returncode == {"exit": 3, "raise": 1}.get(way, 0), told.stderr
    assert float(told.stdout.split()[-1]) + 5.0 > time.monotonic() > began


def test_an_unexpected_error_leaves_nobody_with_old_values(
    sync: FluxySync, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the log, what is known is stale, and the background thread goes on."""
    seen: list[int] = []
    sync.pending_count.subscribe(seen.append)
    wait_until(lambda: sync.pending_count.value == 0, 5)

    def fail(_: object) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as broken:
        broken.setattr("fluxy_sync.live_source.read_status", fail)
        wait_until(lambda: "a fault of ours" in caplog.text, 5)
        wait_until(lambda: sync.live.status.value.stale, 5)
    assert threads() == ["fluxy-live"]
    sync.queue("POST", "/a")
    wait_until(lambda: seen[-1:] == [1], 5)
