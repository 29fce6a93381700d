"""A gateway with somebody who can write to its store, and has no key."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis

from fluxy_sync import FluxySync
from tests.chaos.forger import Forger
from tests.chaos.ledger import MARKER
from tests.chaos.stage import Stage
from tests.chaos.trial import Run, wait_until
from tests.token_endpoint import Endpoint
from tests.upstream import Upstream

WORKER = "worker:one"
STOLEN = "/stolen"  # where nothing that was accepted leads
PATIENCE_S = 20.0
CLIENT_SECRET = "client-secret-marker"


@dataclasses.dataclass
class Scene:
    """A gateway, its forger, what it accepted, and a server that must never hear of it."""

    run: Run
    stage: Stage
    forger: Forger
    trap: Upstream
    endpoint: Endpoint
    accepted: dict[str, tuple[str, str, Any]] = dataclasses.field(default_factory=dict)
    forged: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def sync(self) -> FluxySync:
        return self.stage.sync

    def queue(self, lane: str, path: str = "/op", by: FluxySync | None = None, **options: Any) -> str:
        """Accept one operation, and note what may be sent for it. ``by``: another producer."""
        mine, body = options.pop("id", "") or self.forger.id(), {"lane": lane, "secret": MARKER}
        self.accepted[mine] = ("POST", path, body)  # also if nobody can say whether it was
        (by or self.sync).queue("POST", path, body=body, lane=lane, id=mine, **options)
        return mine

    def arrived(self, operation_id: str) -> bool:
        """Whether it was sent, under its own key or as a replay."""
        return any(key_of(request) == operation_id for request in self.stage.upstream.requests())

    def still_works(self, after: str) -> None:
        """What somebody queues now is delivered, by the worker that was there all the time."""
        mine = self.queue("honest")
        self.lives(after)
        wait_until(lambda: self.arrived(mine), PATIENCE_S, f"an operation to be delivered after {after}")
        self.lives(after)

    def lives(self, after: str) -> None:
        for role, process in self.stage.gateway.processes.items():
            self.run.check(process.poll() is None, f"{role} ended after {after}")


def key_of(request: dict[str, Any]) -> str:
    """The id of the operation that a request is for: its key, without the number of a replay."""
    name, dot, number = str(request["key"]).rpartition(".")
    return name if dot and number.isdecimal() else str(request["key"])


@contextmanager
def scene(run: Run) -> Iterator[Scene]:
    """Nothing runs yet but the servers: its tokens come from an OAuth2 endpoint, and go to the upstream alone."""
    with ExitStack() as ends:
        endpoint = ends.enter_context(Endpoint())
        trap = ends.enter_context(Upstream(run.folder / "trap.jsonl"))
        oauth = {
            "AUTH_OAUTH2_TOKEN_URL": f"{endpoint.server.url}/token", "AUTH_OAUTH2_CLIENT_ID": "gateway",
            "AUTH_OAUTH2_CLIENT_SECRET": CLIENT_SECRET,
        }  # fmt: skip
        stage = ends.enter_context(Stage(run, **oauth))
        stage.upstream.start()
        client = ends.enter_context(redis.Redis.from_url(stage.store.url))
        yield Scene(run, stage, Forger(client, stage.namespace, run.chance), trap, endpoint)
