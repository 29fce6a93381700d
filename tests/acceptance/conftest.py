"""The command line, with and without a store; and somebody who can write to the store, and has no key."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from fluxy_sync import FluxySync
from tests.chaos.forger import Forger
from tests.command_line import CommandLine, Run, environment, fluxy_sync
from tests.conftest import Gateway


@pytest.fixture
def alone(tmp_path: Path) -> CommandLine:
    """The command line on a machine without a gateway."""

    def run(*arguments: str, stdin: bytes = b"", **settings: str) -> Run:
        return fluxy_sync(*arguments, env=environment(tmp_path / "data", **settings), stdin=stdin)

    return run


@pytest.fixture
def with_store(gateway: Gateway) -> CommandLine:
    """The command line with a store, and an upstream that is down; nothing serves the queue."""

    def run(*arguments: str, stdin: bytes = b"", **changes: str) -> Run:
        settings = {name.removeprefix("FLUXY_SYNC_"): value for name, value in gateway.environment.items()} | changes
        return fluxy_sync(*arguments, env=environment(gateway.folder / "data", **settings), stdin=stdin)

    return run


@pytest.fixture
def sync(gateway: Gateway) -> FluxySync:
    """A producer of the gateway."""
    return FluxySync(gateway.settings())


@pytest.fixture
def forger(store_url: str, namespace: str) -> Iterator[Forger]:
    with redis.Redis.from_url(store_url) as client:
        yield Forger(client, namespace, random.Random(1))
