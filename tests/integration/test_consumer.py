"""The worker's channel on a real store: a connection that is lost, and messages that are too large."""

import bz2
import lzma
import zlib
from collections.abc import Callable

import pytest
from kombu import Connection
from kombu.compression import compress, decompress

from fluxy_sync.consumer import MOST_BYTES, Channel, bound_decompression


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


@pytest.mark.parametrize(("name", "pack"), [("gzip", zlib.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_a_message_stays_small_however_it_is_compressed(name: str, pack: Callable[[bytes], bytes]) -> None:
    """What would take more than a bound is refused, and so is what was cut off; anything else is read."""
    bound_decompression()
    body, kind = compress(b"a task's arguments" * 100, name)
    assert decompress(body, kind) == b"a task's arguments" * 100
    for wrong in (pack(bytes(MOST_BYTES + 1)), body[:-5]):
        with pytest.raises(ValueError, match="larger than"):
            decompress(wrong, kind)
