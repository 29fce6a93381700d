"""The wire: what happens to a command when the store is full, read-only, gone, or goes away before it answers."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from fluxy_sync.embedded import EmbeddedStore
from fluxy_sync.errors import AcceptanceUnknown, QueueFull, StorageUnavailable
from fluxy_sync.journal import Inventory, Journal, Quota, Store, connect
from fluxy_sync.journal.journal import SCRIPTS
from fluxy_sync.journal.store import SHARED, NotSent, ReplyLost, explain, script_sha, script_source
from tests.conftest import wait_until
from tests.journal_steps import WORKER, claim, die, names, new, queue, waiting


class Proxy:
    """Stands between a client and the store's socket, and can lose a request or its reply.

    ``lose`` counts down: so many exchanges of that script lose their 'request' or their 'reply', and the connection.
    """

    def __init__(self, url: str) -> None:
        credentials, _, path = url.removeprefix("unix://").partition("@")
        self._path = unquote(path)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://{credentials}@127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.seen: list[bytes] = []
        self._losses: dict[bytes, tuple[str, int]] = {}
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, what: str, script: str, times: int = 1) -> None:
        self._losses[script_sha(script)] = (what, times)

    def count(self, script: str) -> int:
        """How often a script was asked for."""
        return self.seen.count(script_sha(script))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        store = socket.socket(socket.AF_UNIX)
        self._sockets += [client, store]
        with contextlib.suppress(OSError), client, store:
            store.connect(self._path)
            while request := client.recv(1 << 20):
                loss = self._loss_of(request)
                if loss == "request":
                    return
                store.sendall(request)
                reply = store.recv(1 << 20)
                if loss == "reply":
                    return
                client.sendall(reply)

    def _loss_of(self, request: bytes) -> str:
        parts = request.split(b"\r\n", 5)
        if len(parts) < 5 or parts[2] != b"EVALSHA":
            return ""
        self.seen.append(parts[4])
        what, times = self._losses.get(parts[4], ("", 0))
        if times:
            self._losses[parts[4]] = (what, times - 1)
        return what if times else ""

    def close(self) -> None:
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(store_url: str) -> Iterator[Proxy]:
    running = Proxy(store_url)
    yield running
    running.close()


@pytest.fixture
def far(proxy: Proxy, journal: Journal) -> Iterator[Journal]:
    """The same journal, through the proxy; the store knows the scripts."""
    for name in SCRIPTS:
        journal.store.client.script_load(script_source(name).decode("latin-1"))
    store = Store(connect(proxy.url))
    yield Journal(store, journal.keys.namespace)
    store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost reply is asked for again for a moment only."""
    monkeypatch.setattr("fluxy_sync.journal.journal.ASK_AGAIN_S", 0.3)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[EmbeddedStore, Journal]]:
    """A store of the test's own, which it may spoil."""
    with EmbeddedStore(tmp_path / "own") as running:
        store = Store(connect(running.url))
        yield running, Journal(store, "own")
        store.close()


# --- the store answers, but refuses


def test_a_full_store_accepts_nothing_and_drains(own: tuple[EmbeddedStore, Journal]) -> None:
    """Its memory is full: queueing fails with a sentence, everything that empties it still works."""
    _, journal = own
    queue(journal, "one", "two")
    journal.store.client.config_set("maxmemory", 1)
    with pytest.raises(StorageUnavailable, match="memory is full") as caught:
        queue(journal, "three")
    assert not isinstance(caught.value, AcceptanceUnknown)
    run = claim(journal)
    assert journal.settle("a", run.fence, "one", "dead", reason="422").status == "ok"
    assert journal.settle("a", run.fence, "two", "delivered", followers=[new("next")]).next_id == "next"
    assert journal.renew("a", run.fence)
    assert journal.tick("beat", "b").pending == 1
    assert journal.close_gate("paused", "by-hand")
    assert journal.snapshot().dead == 1
    assert journal.reclaim("aa") == 1
    assert journal.cancel("a", "next")[0] == "cancelled"
    journal.store.client.config_set("maxmemory", 0)
    queue(journal, "three")
    assert waiting(journal) == ["three"]


def test_a_full_store_takes_what_a_person_does(own: tuple[EmbeddedStore, Journal]) -> None:
    """Clearing, dropping, replaying, holding, re-sealing and the audit log: nobody is locked out of a full store."""
    _, journal = own
    inventory = Inventory(journal)
    die(journal, "dead-1", "dead-2", "dead-3")
    queue(journal, "one", "two")
    journal.store.command("SET", journal.keys.secret, "was")
    journal.store.client.config_set("maxmemory", 1)
    inventory.note("anna", "drop", "dead-1")
    assert inventory.notes(1)[0]["which"] == "dead-1"
    first, second, third = inventory.letters()
    assert inventory.drop([first])[0] == 1
    assert inventory.replay([(second, b"")], "tail")[0] == 1
    assert inventory.replay([(third, b"another body")], "head")[0] == 1
    assert shown(inventory) == ["dead-3", "one", "two", "dead-2"]
    assert inventory.hold("a")[0]
    assert inventory.let_go("a")[0]
    assert inventory.reseal("a", 3, [("one", b"one", b"resealed, and longer than before")]) == 1
    assert inventory.swap(journal.keys.secret, b"was", b"resealed")
    assert inventory.find("a", "two") is not None
    journal.bury(new("foreign"), "unsealed")
    (letter,) = inventory.letters()
    body = inventory.letter(letter.member)
    assert body is not None
    assert inventory.reseal_letter(letter.member, body.raw, b"detail", b"resealed")
    assert inventory.clear("a", 10) == (4, 4)
    assert (journal.snapshot().pending, journal.snapshot().dead) == (0, 1)


def shown(inventory: Inventory) -> list[str]:
    return [each.id for each in inventory.waiting("a")]


def test_a_read_only_store_says_so(own: tuple[EmbeddedStore, Journal]) -> None:
    """A replica by mistake: nothing is accepted, and the sentence names the setting."""
    _, journal = own
    queue(journal, "one")
    journal.store.client.replicaof("127.0.0.1", 1)
    with pytest.raises(StorageUnavailable, match=r"read-only.*FLUXY_SYNC_REDIS_URL"):
        queue(journal, "two")
    journal.store.client.replicaof("NO", "ONE")
    assert waiting(journal) == ["one"]


def test_a_wrong_password_is_named_not_shown(store_url: str) -> None:
    """The error says what to check and never shows the password."""
    store = Store(connect(store_url.replace("unix://:", "unix://:wrong-")))
    with pytest.raises(StorageUnavailable, match="refuses the password") as caught:
        Journal(store, "x").snapshot()
    assert "wrong-" not in str(caught.value)
    store.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (redis.exceptions.OutOfMemoryError("command not allowed"), "memory is full"),
        (redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), "memory is full"),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), "read-only"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left"), "can't write to its disk"),
        (redis.exceptions.AuthenticationError("invalid password"), "refuses the password"),
        (redis.ResponseError("NOAUTH Authentication required."), "refuses the password"),
        (redis.exceptions.NoPermissionError("this user has no permissions"), "may not use that"),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "still loading"),
        (redis.ResponseError("something new"), "something new"),
    ],
)
def test_each_refusal_is_said_in_our_words(error: redis.RedisError, words: str) -> None:
    """What happened, and what to do."""
    assert words in str(explain(error))


# --- the store is gone


def test_a_store_that_is_gone(own: tuple[EmbeddedStore, Journal]) -> None:
    """Nothing was sent, nothing accepted; when it is back the same journal goes on, with all that it had."""
    running, journal = own
    queue(journal, "one")
    running.stop()
    asks = (
        lambda: queue(journal, "two"), lambda: journal.claim(WORKER), journal.snapshot, lambda: list(journal.lanes()),
        lambda: Inventory(journal).page("a"), lambda: list(Inventory(journal).letters()),
    )  # fmt: skip
    for ask in asks:
        with pytest.raises(NotSent, match="can't be reached"):
            ask()
    running.start()
    running.wait_ready()
    assert names(claim(journal).records) == ["one"]


def test_a_store_that_forgot_its_scripts(journal: Journal) -> None:
    """SCRIPT FLUSH in between, as after its restart: each transition loads what it needs."""

    def forget() -> Journal:
        journal.store.client.script_flush()
        return journal

    queue(forget(), "one", "two")
    run = claim(forget())
    assert forget().renew("a", run.fence)
    assert forget().settle("a", run.fence, "one", "delivered").next_id == "two"
    assert forget().find("a", "two")[0] == "syncing"
    assert forget().release("a", run.fence)
    assert forget().cancel("a", "two")[0] == "cancelled"
    assert forget().tick("beat", "b").pending == 0
    assert forget().close_gate("paused", "by-hand")
    assert not forget().win_wake()
    assert forget().win_probe(1)
    assert forget().reclaim("aa") == 0
    forget().bury(new("foreign"), "unsealed")
    assert forget().snapshot().dead == 1
    inventory = Inventory(journal)
    (letter,) = Inventory(forget()).letters()
    body = inventory.letter(letter.member)
    assert body is not None
    assert Inventory(forget()).replay([(letter, b"")], "head") == (0, False)
    assert Inventory(forget()).accept(letter, body.raw, new("accepted")) == (True, False)
    assert [page.waiting[0].id for page in Inventory(forget()).pages("a")] == ["accepted"]
    assert Inventory(forget()).hold("a") == (True, False)
    assert Inventory(forget()).clear("a", 10) == (1, 1)
    assert Inventory(forget()).drop([letter]) == (0, False)
    assert Inventory(forget()).reseal("a", 0, []) == 0
    assert not Inventory(forget()).swap(journal.keys.secret, b"was", b"new")
    Inventory(forget()).note("anna", "look", "a")
    assert inventory.notes(1)[0]["who"] == "anna"


def test_every_script_is_one_file(journal: Journal) -> None:
    """And each is known to the journal."""
    folder = Path(__file__).resolve().parents[2] / "fluxy_sync" / "journal" / "lua"
    assert {path.stem for path in folder.glob("*.lua")} - set(SHARED) == set(SCRIPTS)


def test_a_connection_that_the_store_closed_is_replaced(journal: Journal) -> None:
    """After hours of idling nobody is told 'unknown' for a command that wasn't even sent."""
    queue(journal, "one")
    with contextlib.suppress(redis.RedisError):
        journal.store.client.client_kill_filter(_type="normal", skipme=False)
    queue(journal, "two")
    assert waiting(journal) == ["one", "two"]


def test_many_short_threads_share_a_store(journal: Journal) -> None:
    """A producer may queue from a new thread for each request."""
    failures: list[BaseException] = []

    def produce(n: int) -> None:
        try:
            queue(journal, f"op-{n}")
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    for n in range(0, 400, 4):
        threads = [threading.Thread(target=produce, args=(n + i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert sorted(waiting(journal)) == sorted(f"op-{n}" for n in range(400))
    clients = journal.store.client.client_list()
    assert sum(1 for each in clients if each["cmd"] == "evalsha") <= 150


# --- the store goes away before it answers


@pytest.mark.parametrize("lost", ["request", "reply"])
def test_a_lost_exchange_is_asked_for_again(far: Journal, proxy: Proxy, lost: str) -> None:
    """Whether the command arrived or not, the operations are accepted, once."""
    proxy.lose(lost, "append", times=2)
    queue(far, "one", "two")
    assert proxy.count("append") == 3
    assert waiting(far) == ["one", "two"]
    assert far.snapshot().pending == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", ["request", "reply"])
def test_no_answer_at_all_is_told_as_unknown(far: Journal, proxy: Proxy, journal: Journal, lost: str) -> None:
    """The error carries the ids; queueing them again stores each once, whatever had happened."""
    proxy.lose(lost, "append", times=1000)
    with pytest.raises(AcceptanceUnknown, match="may have been accepted") as caught:
        far.append([new("one"), new("two", "b")])
    assert caught.value.operation_ids == ("one", "two")
    assert waiting(journal) == (["one"] if lost == "reply" else [])
    proxy.lose(lost, "append", times=0)
    far.append([new(name, lane) for name, lane in zip(caught.value.operation_ids, "ab", strict=True)])
    assert (waiting(journal), waiting(journal, "b")) == (["one"], ["two"])


def test_full_after_a_lost_reply_is_final(proxy: Proxy, far: Journal, journal: Journal) -> None:
    """The request was lost and the queue is full by the time it is repeated: told 'full', and it never lands."""
    small = Journal(far.store, far.keys.namespace, Quota(max_pending=1))
    queue(journal, "first")
    proxy.lose("request", "append")
    with pytest.raises(QueueFull):
        queue(small, "late")
    assert waiting(journal) == ["first"]
    assert journal.store.command("SCARD", journal.keys.fixed[12]) == 2  # first, and the refused command


@pytest.mark.parametrize("script", ["claim", "settle", "release", "tick", "snapshot", "cancel"])
def test_the_client_repeats_no_command_by_itself(far: Journal, proxy: Proxy, journal: Journal, script: str) -> None:
    """A lost reply is the caller's to judge: only append is safe to ask for again, and does so with its command id."""
    queue(journal, "one", "two")
    fence = claim(journal).fence if script in ("settle", "release") else 0
    asks = {
        "claim": lambda: far.claim(WORKER),
        "settle": lambda: far.settle("a", fence, "one", "delivered"),
        "release": lambda: far.release("a", fence),
        "tick": lambda: far.tick("beat", "b"),
        "snapshot": far.snapshot,
        "cancel": lambda: far.cancel("a", "one"),
    }
    proxy.lose("reply", script)
    with pytest.raises(ReplyLost, match="went away before it answered"):
        asks[script]()
    assert proxy.count(script) == 1


def test_a_settle_may_be_asked_again(far: Journal, proxy: Proxy, journal: Journal) -> None:
    """Its reply was lost: asked again it answers 'already', and nothing more was removed."""
    queue(journal, "one", "two")
    run = claim(journal)
    proxy.lose("reply", "settle")
    with pytest.raises(ReplyLost):
        far.settle("a", run.fence, "one", "delivered")
    settled = far.settle("a", run.fence, "one", "delivered")
    assert (settled.status, settled.next_id) == ("already", "two")


def test_a_store_that_stalls_is_not_waited_for_for_ever(own: tuple[EmbeddedStore, Journal]) -> None:
    """Each exchange has a deadline; what was accepted is there when the store is."""
    running, journal = own
    queue(journal, "one")
    hasty = Store(connect(running.url, socket_timeout_s=0.2))
    stalled = Journal(hasty, "own")
    assert stalled.snapshot().pending == 1
    admin = redis.Redis.from_url(running.url)
    admin.execute_command("CLIENT", "PAUSE", 100_000, "ALL")
    with pytest.raises(ReplyLost):
        stalled.claim(WORKER)
    running.process.kill()  # type: ignore[union-attr]
    running.process.wait()  # type: ignore[union-attr]
    running.start()
    running.wait_ready()
    assert wait_until(lambda: waiting(journal)) == ["one"]
    admin.close()
    hasty.close()
