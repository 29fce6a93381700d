"""The wire to the store: connections with deadlines, scripts, and its errors in our words."""

import contextlib
import functools
import hashlib
import importlib.resources
import os
import re
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from fluxy_sync.addresses import read_sentinels
from fluxy_sync.certificates import fault_of, is_tls
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.host.sockets import check_socket, is_away
from fluxy_sync.journal.clock import Clock
from fluxy_sync.journal.sentinels import AllSentinels, Primary

CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 5.0
MOST_FREE = 16  # connections that are kept while nobody uses them
FREE_S = 60.0  # and for so long

Argument = str | bytes | int | float

NO_STORE = (redis.exceptions.InvalidResponse, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What redis-py raises for answers that no store gives."""


class NotSent(StorageUnavailable):
    """No connection could be made: the command never left."""


class ReplyLost(StorageUnavailable):
    """The command was sent, but no reply came: it may have run."""


def connect(url: str, socket_timeout_s: float = SOCKET_TIMEOUT_S) -> "redis.Redis":
    """A client that never repeats a command by itself, and never waits for ever.

    Raises:
        ConfigError: the URL can't be read; the message doesn't show it.
    """
    options: dict[str, Any] = {
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }
    try:
        if url.startswith("sentinel://"):
            return _connect_sentinel(url, options)
        if not url.startswith("unix://"):
            options["socket_keepalive"] = True
        client = redis.Redis.from_url(url, **options)
    except ValueError as error:
        raise ConfigError("FLUXY_SYNC_REDIS_URL can't be read; use e.g. redis://:password@host:6379/0") from error
    if is_away(client.connection_pool.connection_kwargs.get("path", "")):
        client.connection_pool.connection_class = _AwayConnection
    return client


class _AwayConnection(redis.UnixDomainSocketConnection):
    """To a socket in a temporary directory: if that was cleaned, somebody else may have put another one there."""

    def connect(self) -> None:
        if not self.is_connected:
            check_socket(Path(self.path))
        untyped: Any = super()
        untyped.connect()


def _connect_sentinel(url: str, options: dict[str, Any]) -> "redis.Redis":
    found = read_sentinels(url)
    sentinels: Any = AllSentinels  # redis-py leaves it untyped
    client: redis.Redis = sentinels(found.nodes, found.service, sentinel_kwargs=dict(options), **options).master_for(
        found.service, username=found.username, password=found.password, db=found.database
    )
    return client


SHARED = ("_prelude", "_lanes")
"""What stands in front of each script, in this order."""


@functools.cache
def script_source(name: str) -> bytes:
    """A script as it is sent: its first line (the flags), what all of them share, its body."""
    folder = importlib.resources.files("fluxy_sync.journal") / "lua"
    first, body = (folder / f"{name}.lua").read_bytes().split(b"\n", 1)
    shared = [(folder / f"{part}.lua").read_bytes() for part in SHARED]
    return b"".join([first, b"\n", *shared, body])


@functools.cache
def script_sha(name: str) -> bytes:
    return hashlib.sha1(script_source(name), usedforsecurity=False).hexdigest().encode()


def _bulk(value: Argument) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def pack(*arguments: Argument) -> bytes:
    """One command on the wire (RESP: an array of bulk strings)."""
    return b"*%d\r\n" % len(arguments) + b"".join(map(_bulk, arguments))


class Script:
    """A script with the keys that it always declares. They are packed once: packing is most of a client's work."""

    def __init__(self, name: str, fixed_keys: Sequence[str], clock: Clock) -> None:
        self.name = name
        self._clock = clock
        self._host = _bulk(clock.name)
        self._count = len(fixed_keys)
        self._head = _bulk("EVALSHA") + _bulk(script_sha(name))
        self._keys = b"".join(map(_bulk, fixed_keys))

    def pack(self, arguments: Sequence[Argument], lane_keys: Sequence[str] = ()) -> bytes:
        """The whole command on the wire. Its last two arguments are the clock's: where, and what it says now."""
        keys = self._count + len(lane_keys)
        rest = b"".join([*map(_bulk, lane_keys), *map(_bulk, arguments), self._host, _bulk(self._clock.ms())])
        return b"*%d\r\n" % (5 + keys + len(arguments)) + self._head + _bulk(keys) + self._keys + rest


_REFUSED = re.compile(r"'([a-z|_-]{1,40})' command")  # the server names the command alone, never its arguments


def not_reached(error: BaseException) -> NotSent:
    """Why no connection could be made: mostly nobody is there, else what is wrong with the store's certificate."""
    if is_tls(error):
        fault = fault_of(error).replace("-", " ") or "the TLS handshake failed"
        return NotSent(
            f"the store's certificate isn't accepted ({fault}); check ssl_ca_certs in "
            "FLUXY_SYNC_REDIS_URL, the clock, and the certificate"
        )
    return NotSent("the store can't be reached; is it running? see 'fluxy-sync up'")


def explain(error: redis.RedisError) -> StorageUnavailable:
    """The store's refusal in our words: what happened, what was kept, what to do."""
    text = str(error)
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in text:
        return StorageUnavailable(
            "the store's memory is full; it keeps what it has and drains; free or raise its maxmemory"
        )
    if isinstance(error, redis.exceptions.ReadOnlyError):
        return StorageUnavailable("the store is read-only (a replica?); point FLUXY_SYNC_REDIS_URL at its master")
    if "MISCONF" in text:
        return StorageUnavailable("the store can't write to its disk; it keeps what it has; free disk space")
    if isinstance(error, redis.exceptions.AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        return StorageUnavailable("the store refuses the password; check FLUXY_SYNC_REDIS_URL")
    if isinstance(error, redis.exceptions.NoPermissionError):
        refused = _REFUSED.search(text)
        what = f"run '{refused[1]}'" if refused else "use that key or channel"
        return StorageUnavailable(f"the store's user may not {what}; deploy/users.acl has the rights that it needs")
    if isinstance(error, redis.exceptions.MovedError | redis.exceptions.AskError | redis.exceptions.ClusterDownError):
        return StorageUnavailable(
            "the store is a node of a Redis Cluster, which Celery can't use as its broker; point FLUXY_SYNC_REDIS_URL "
            "at a single server, or at Sentinel (sentinel://...)"
        )
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return StorageUnavailable("the store is still loading its data; try again in a moment")
    return StorageUnavailable(f"the store refused a command ({type(error).__name__}): {text[:200]}")


def as_text(value: Any) -> str:
    """A text of the store's, readable even where it was damaged."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def as_map(reply: Any) -> dict[str, str]:
    """A map as either protocol brings it; an empty one of what is none."""
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(reply, dict):
        pairs = reply.items()
    elif isinstance(reply, list):
        pairs = zip(reply[::2], reply[1::2], strict=False)
    return {as_text(name): as_text(value) for name, value in pairs}


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _takes_no_writes(error: redis.ResponseError) -> bool:
    return isinstance(error, redis.exceptions.ReadOnlyError) or "NOREPLICAS" in str(error)


def _is_stale(connection: Any) -> bool:
    """Whether something came that nobody asked for: mostly the end of it, as the store has closed it."""
    try:
        return bool(connection.can_read())
    except (redis.ConnectionError, redis.TimeoutError, OSError):
        return True


class Store:
    """Runs scripts and commands on one store. Safe to share between threads, and after a fork."""

    def __init__(self, client: "redis.Redis") -> None:
        self._pool = client.connection_pool
        self._free: deque[tuple[float, Any]] = deque()  # since when, and a connection; the last one used goes first
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._generations: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of the primary
        manager = getattr(self._pool, "sentinel_manager", None)
        self._primary: Primary | None = manager.primary if isinstance(manager, AllSentinels) else None
        self.client = client
        self.unreachable = False  # the last try to connect failed

    @property
    def generation(self) -> int:
        """Grows whenever the sentinels make another server the primary; 0 where there are none."""
        return 0 if self._primary is None else self._primary.generation

    def run(self, script: "Script", *arguments: Argument, lane_keys: Sequence[str] = ()) -> Any:
        """Run a script once.

        Raises:
            NotSent: the store couldn't be reached; nothing happened.
            ReplyLost: it may have run.
            StorageUnavailable: the store refused it; nothing happened.
        """
        return self.run_then(script, arguments, lane_keys)[0]

    def run_then(
        self, script: "Script", arguments: Sequence[Argument], lane_keys: Sequence[str] = (), *after: bytes
    ) -> list[Any]:
        """Run a script once, and packed commands after it on the same connection.

        Raises as ``run`` does for the script; a later command that is refused leaves its error as its reply.
        """
        packed = (script.pack(arguments, lane_keys), *after)
        try:
            try:
                return self._exchange(packed)
            except redis.exceptions.NoScriptError:
                self._load_scripts()
                return self._exchange(packed)
        except redis.RedisError as error:
            raise explain(error) from error

    def _load_scripts(self) -> None:
        """Load all of them: the store has just started, or somebody flushed them."""
        files = (importlib.resources.files("fluxy_sync.journal") / "lua").iterdir()
        names = [file.name.removesuffix(".lua") for file in files if not file.name.startswith("_")]
        self._exchange([pack("SCRIPT", "LOAD", script_source(name)) for name in names])

    def command(self, *arguments: Argument) -> Any:
        """Run one plain command once; raises as ``run`` does."""
        try:
            return self._exchange((pack(*arguments),))[0]
        except redis.RedisError as error:
            raise explain(error) from error

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        connection = self._take()
        try:
            connection.send_packed_command(commands)
            replies = [_read(connection) for _ in commands]
        except redis.exceptions.BusyLoadingError as error:
            raise explain(error) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            connection.disconnect()
            raise ReplyLost("the store went away before it answered") from error
        except NO_STORE as error:
            connection.disconnect()
            raise ReplyLost("what answers is no store, or no whole one; check FLUXY_SYNC_REDIS_URL") from error
        except BaseException:
            connection.disconnect()  # replies may still be on their way: nobody may read them as his own
            raise
        finally:
            self._give_back(connection)
        if isinstance(replies[0], redis.ResponseError):
            if _takes_no_writes(replies[0]):
                connection.disconnect()  # after a failover another server does: it is looked for anew
            raise replies[0]
        return replies

    def _take(self) -> Any:
        """A connection for one exchange, whole: redis-py's pool would cost as much as sending."""
        connection, generation = self._kept() or self._make(), self.generation
        try:
            if connection.is_connected and (
                self._generations.get(connection, 0) != generation or _is_stale(connection)
            ):
                connection.disconnect()
            connection.connect()
            if generation:
                self._generations[connection] = generation
        except (redis.exceptions.BusyLoadingError, redis.exceptions.AuthenticationError) as error:
            raise explain(error) from error
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self.unreachable = True
            raise not_reached(error) from error
        except NO_STORE as error:
            connection.disconnect()
            raise NotSent("what answers is no store; check FLUXY_SYNC_REDIS_URL") from error
        if self.unreachable:
            self.unreachable = False
        return connection

    def _kept(self) -> Any:
        """The free connection that was used last; none that was made before a fork."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._free.pop()[1]
                if connection.pid == os.getpid():
                    return connection
        return None

    def _make(self) -> Any:
        # Not by the pool: it counts what it makes.
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        self._connections.add(connection)
        return connection

    def _give_back(self, connection: Any) -> None:
        """Keep it for the next exchange of any thread; what a burst of threads has left over is closed in time."""
        now = time.monotonic()
        self._free.append((now, connection))
        with contextlib.suppress(IndexError):
            while len(self._free) > MOST_FREE or self._free[0][0] < now - FREE_S:
                self._free.popleft()[1].disconnect()

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._connections):
            connection.disconnect()
        self._pool.disconnect()
