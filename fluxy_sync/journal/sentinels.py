"""Which server is the primary: all sentinels are asked, and the latest failover counts.

redis-py takes the word of the first sentinel that answers, and asks only when it connects: a client whose primary was
cut off from the others, but not from the client, would stay with it, and lose what it goes on accepting.
"""

import os
import threading
import time
import weakref
from collections import Counter
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from fluxy_sync.logs import get_logger

logger = get_logger(__name__)

ASK_S = 1.0
ANSWER_S = 1.0
Nodes = tuple[tuple[str, int], ...]
Address = tuple[str, int]


class Word(NamedTuple):
    """What one sentinel says: the number of the latest failover that it knows, and the primary since then."""

    epoch: int
    address: Address
    is_down: bool


def latest(words: list[Word], known_epoch: int, sentinels: int) -> Word | None:
    """The word that counts; None where the primary is down, or where a later failover is known than any tells.

    Epochs only begin anew where somebody set the sentinels up anew: that most of them must say.
    """
    best = max(words, key=lambda word: (word.epoch, not word.is_down), default=None)
    if best is None or best.is_down:
        return None
    agree = Counter(word.address for word in words)[best.address]
    return best if best.epoch >= known_epoch or agree > sentinels / 2 else None


class Primary:
    """The primary of one service, as one thread of this process hears it each second.

    Attributes:
        generation: grows with each change of the primary; whoever is connected since an earlier one must leave.
    """

    def __init__(self, nodes: Nodes, service: str) -> None:
        self._nodes, self._service = nodes, service
        self._word: Word | None = None
        self._generation = 0
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def generation(self) -> int:
        if self._pid != os.getpid():  # threads don't survive a fork, and a lock may have been held
            self._pid, self._lock = os.getpid(), threading.Lock()
            threading.Thread(
                target=_keep_asking, args=(weakref.ref(self), self._nodes), name="fluxy-sentinels", daemon=True
            ).start()
        return self._generation

    def find(self) -> Address:
        """Ask now.

        Raises:
            MasterNotFoundError: no sentinel knows a primary that is up.
        """
        clients = [_client(node) for node in self._nodes]
        try:
            found = self.hear(clients)
        finally:
            for client in clients:
                client.close()
        if found is None:
            raise MasterNotFoundError("the sentinels know no primary that is up")
        return found.address

    def hear(self, clients: "list[redis.Redis]") -> Word | None:
        """Ask these sentinels, and note what they say."""
        words = [word for client in clients if (word := _ask(client, self._service)) is not None]
        with self._lock:
            found = latest(words, self._word.epoch if self._word else 0, len(self._nodes))
            if found is not None:
                if self._word is not None and self._word.address != found.address:
                    self._generation += 1
                    logger.warning("The sentinels have made %s:%d the primary.", *found.address)
                self._word = found
        return found


def _keep_asking(of: "weakref.ref[Primary]", nodes: Nodes) -> None:
    clients = [_client(node) for node in nodes]
    while (primary := of()) is not None:
        primary.hear(clients)
        del primary
        time.sleep(ASK_S)
    for client in clients:
        client.close()


def _client(node: Address) -> "redis.Redis":
    return redis.Redis(
        *node, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0), retry_on_error=[]
    )


def _ask(client: "redis.Redis", service: str) -> Word | None:
    asked: Any = client  # redis-py leaves it untyped
    try:
        state, address = asked.sentinel_master(service), asked.sentinel_get_master_addr_by_name(service)
        if address is None:
            return None
        host, port = address[0], int(address[1])
        is_former = (state["ip"], int(state["port"])) != (host, port)  # the failover goes on: its new one is up
        is_down = not is_former and bool(state["is_sdown"] or state["is_odown"])
        return Word(int(state["config-epoch"]), (host if isinstance(host, str) else host.decode(), port), is_down)
    except (redis.RedisError, OSError):
        return None


_PRIMARIES: "weakref.WeakValueDictionary[tuple[Nodes, str], Primary]" = weakref.WeakValueDictionary()


def primary_of(nodes: Nodes, service: str) -> Primary:
    """The one of this process for a service, as long as somebody uses it."""
    return _PRIMARIES.setdefault((nodes, service), Primary(nodes, service))


class AllSentinels(Sentinel):
    """redis-py's, that takes the word of the latest failover."""

    def __init__(self, nodes: list[Address], service: str, **options: Any) -> None:
        init: Any = super().__init__  # redis-py leaves it untyped
        init(nodes, **options)
        self.primary = primary_of(tuple(nodes), service)

    def discover_master(self, service_name: str) -> Address:
        return self.primary.find()
