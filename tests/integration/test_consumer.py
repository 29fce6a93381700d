"""The worker's channel on a real store: what it does when the connection is lost."""

from kombu import Connection

from fluxy_sync.consumer import Channel


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
