"""The worker's channel on a real store: a connection that is lost, and messages that are too large."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.worker.request import Request
from kombu import Connection
from kombu import compression as kombu_compression
from kombu.compression import compress, decompress
from kombu.message import Message

from fluxy_sync.consumer import MOST_BYTES, Channel, bound_decompression, retries_in_the_same_time
from fluxy_sync.own_queues import blames_message
from tests.conftest import Gateway, wait_until
from tests.upstream import free_port


def test_a_lost_connection_is_closed_with_a_message_in_hand(store_url: str, namespace: str) -> None:
    """Celery lets go of a connection that was lost before its channels are closed: an unacked message does no harm."""
    with Connection(store_url.replace("unix://", "redis+socket://")) as connection:
        transport = connection.transport
        transport.Channel = Channel
        channel = connection.channel()
        queue = channel.queue_declare(namespace).queue
        connection.SimpleQueue(queue, channel=channel).put("a wake token")
        assert channel.basic_get(queue) is not None
        transport.client = None
        channel.close()
        assert channel.closed


@pytest.fixture
def kombu_as_it_was() -> Iterator[None]:
    """What is registered for all of this process is taken back."""
    known: Any = kombu_compression
    encoders, decoders, aliases = dict(known._encoders), dict(known._decoders), dict(known._aliases)
    yield
    for names, were in ((known._encoders, encoders), (known._decoders, decoders), (known._aliases, aliases)):
        names.clear()
        names.update(were)


@pytest.mark.parametrize(("name", "pack"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.usefixtures("kombu_as_it_was")
def test_a_message_stays_small_however_it_is_compressed(name: str, pack: Callable[[bytes], bytes]) -> None:
    """What would take more than a bound is refused, and so is what was cut off; anything else is read."""
    body, kind = compress(b"a task's arguments" * 100, name)
    one, many = body + b"and something else", body + pack(b"more")
    by_kombu = [decompress(one, kind), decompress(many, kind)]
    bound_decompression()
    assert decompress(body, kind) == b"a task's arguments" * 100
    assert [decompress(one, kind), decompress(many, kind)] == by_kombu
    for wrong in (pack(bytes(MOST_BYTES + 1)), body[:-5]):
        with pytest.raises(ValueError, match="larger than"):
            decompress(wrong, kind)


@pytest.mark.parametrize("name", ["bzip2", "xz"])
@pytest.mark.usefixtures("kombu_as_it_was")
def test_streams_behind_one_another_are_bounded_together(name: str) -> None:
    """A message of many small streams doesn't become larger than one of a single stream."""
    bound_decompression()
    half, kind = compress(bytes(MOST_BYTES // 2 + 1), name)
    assert len(decompress(half, kind)) == MOST_BYTES // 2 + 1
    with pytest.raises(ValueError, match="larger than"):
        decompress(half + half, kind)


def nothing() -> None:
    """A task of the user's."""


class UsersRequest(Request):  # type: ignore[misc]
    """A user's own, that fails."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        raise ValueError("the user's database is away")


@pytest.mark.parametrize(
    ("kind", "body", "headers", "blamed"),
    [
        (UsersRequest, b"[[], {}, {}]", {}, False),
        (UsersRequest, b"[1]", {}, True),
        (UsersRequest, b"[[], {}, {}]", {"id": ["x"]}, True),
        (Request, b"[1]", {}, True),
    ],
)
def test_a_message_is_blamed_only_where_celery_cannot_read_it(
    kind: Any, body: bytes, headers: dict[str, Any], blamed: bool
) -> None:
    """An error in a user's request class is theirs, unless Celery's own request fails on the message, too."""
    app = Celery("shop", set_as_current=False)
    task = app.task(name="shop.task", shared=False)(nothing)
    message = Message(
        body, headers={"task": "shop.task", "id": "1"} | headers,
        content_type="application/json", content_encoding="utf-8",
    )  # fmt: skip
    with pytest.raises((TypeError, ValueError)) as raised:
        kind(message, app=app, task=task)
    assert blames_message(raised.value, message, app) is blamed


def test_a_broker_is_tried_again_every_two_seconds(gateway: Gateway) -> None:
    """However long it has been away; by itself Celery pauses longer each time."""
    gateway.environment["FLUXY_SYNC_BROKER_URL"] = f"amqp://127.0.0.1:{free_port()}//"
    gateway.start("worker", wait=False)
    wait_until(lambda: gateway.log("worker").count("Trying again in") >= 4)
    assert gateway.log("worker").count("Trying again in 2.00 seconds") == gateway.log("worker").count("Trying again in")
    assert gateway.stop("worker") == 0


@pytest.mark.parametrize(
    ("retries", "hosts", "expected"), [(None, 1, None), (0, 1, 0), (1, 1, 1), (3, 1, 6), (20, 1, 195), (5, 2, 7)]
)
def test_short_pauses_do_not_use_up_a_users_retries(retries: int | None, hosts: int, expected: int | None) -> None:
    """A worker gives its broker up after the same time as Celery's own: 2 + 4 + 6 s are six pauses of 2 s."""
    assert retries_in_the_same_time(retries, hosts) == expected
