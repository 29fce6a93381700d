"""Celery's messages in the broker, and which key sealed each: they are in no lane, so no rotation re-seals them."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

import redis
from kombu.connection import Connection

from fluxy_sync.addresses import CeleryAddress
from fluxy_sync.consumer import MALFORMED, bound_decompression
from fluxy_sync.errors import ConfigError, StorageUnavailable
from fluxy_sync.operation import OWN_MESSAGES
from fluxy_sync.sealing import CONTENT_TYPE, key_of_message
from fluxy_sync.vault import Vault

AT_ONCE = 200
TIMEOUT_S = 10.0
_LANE = re.compile(rb"\{[^}]*\}:lane:")
_REPLIES = b".reply.celery.pidbox"  # of control commands, for whoever waits now
_TAKEN = b"[{"  # how kombu's note of a message that a worker has taken begins: message, exchange, routing key


def messages_of(keys: Set[str], vault: Vault, broker: CeleryAddress, *, vouched: bool = False) -> Counter[str]:
    """Key id -> messages that it sealed, and that wait in any queue or were taken by a worker and aren't acked yet.

    Args:
        vouched: somebody says that there are none, where the broker can't be looked through.

    Raises:
        ConfigError: the broker can't be looked through, and nobody vouches for it.
        StorageUnavailable: it can't be reached.
    """
    options = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, **broker.options}
    with Connection(broker.url, transport_options=options) as connection:
        if connection.transport.driver_type != "redis":
            if vouched:
                return Counter()
            raise ConfigError(
                "this broker can't be looked through for Celery messages that an old key sealed; nothing was retired: "
                "let the workers empty their queues, eta and retries included, then run this with --broker-is-empty"
            )
        bound_decompression()
        channel = connection.default_channel
        # Without kombu's prefixes: every key is looked at, whoever's queue it is.
        client: Any = redis.Redis(connection_pool=channel.client.connection_pool)
        try:
            found: Counter[str] = Counter()
            # A message may go from a queue to a worker while we look, and back.
            for walk in (_queued, _taken, _queued):
                if not found:
                    found.update(key for raw in walk(client) if (key := _key_of(raw, channel, vault)) in keys)
            return found
        except (redis.RedisError, OSError) as error:
            raise StorageUnavailable("the broker can't be reached, and nothing was retired; run this again") from error


def _queued(client: Any) -> Iterator[Any]:
    for key in client.scan_iter(count=AT_ONCE, _type="list"):
        if _LANE.match(key) or key.endswith(_REPLIES):
            continue
        at = 0
        # Workers take from the end at which the oldest are.
        while page := client.lrange(key, at, at + AT_ONCE - 1):
            yield from page
            at += len(page)


def _taken(client: Any) -> Iterator[Any]:
    for key in client.scan_iter(count=AT_ONCE, _type="hash"):
        cursor, page = client.hscan(key, 0, count=AT_ONCE)
        if not any(value.startswith(_TAKEN) for value in page.values()):
            continue
        yield from page.values()
        while cursor:
            cursor, page = client.hscan(key, cursor, count=AT_ONCE)
            yield from page.values()


def _key_of(raw: bytes, channel: Any, vault: Vault) -> str:
    """The id of the key that sealed a message; empty where it is no message that matters, or none that opens."""
    if CONTENT_TYPE.encode() not in raw:
        return ""
    try:
        message = json.loads(raw)
        read = channel.message_to_python(message[0] if isinstance(message, list) else message)
        if read.headers.get("task") in OWN_MESSAGES:
            return ""
        return key_of_message(vault, read.body if isinstance(read.body, bytes) else read.body.encode("latin-1"))
    except MALFORMED:
        return ""  # a worker can't read it either, and drops it
