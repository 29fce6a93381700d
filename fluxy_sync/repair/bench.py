"""The server on a socket that nobody else knows: to be asked what it knows, or to work on data before others do."""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from fluxy_sync import guard
from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.host.files import open_to_append
from fluxy_sync.host.handover import without_secrets
from fluxy_sync.host.paths import resolved

LOAD_S = 600.0  # of a very large file on a very slow machine
END_S = 60.0
POLL_S = 0.01


@contextlib.contextmanager
def on_the_bench(server: Path, configuration: str, log: Path, keep_open: Sequence[int] = ()) -> Iterator[str]:
    """Run the server with this configuration, without any address of its own; gives its URL.

    Args:
        keep_open: descriptors that it holds as long as it lives.

    Raises:
        StorageUnavailable: it ended, or it doesn't get ready.
    """
    with tempfile.TemporaryDirectory(prefix="fluxy-") as folder, open_to_append(log) as output:
        socket = resolved(Path(folder)) / "s"
        text = f"{configuration}port 0\nunixsocket {socket}\nunixsocketperm 700\n"
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, "exec", str(os.getpid()), server, "-"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=without_secrets(os.environ),
            pass_fds=keep_open,
            start_new_session=True,  # a Ctrl-C in a terminal is ours to see to
        )
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as given:
                given.write(text.encode())
            url = f"unix://{socket}"
            _wait(process, url)
            yield url
            process.terminate()
            process.wait(END_S)
        finally:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    ends = time.monotonic() + LOAD_S
    with contextlib.closing(Redis.from_url(url, socket_timeout=1.0, retry=Retry(NoBackoff(), 0))) as client:
        while time.monotonic() < ends:
            if process.poll() is not None:
                raise StorageUnavailable(f"the store's server ended with {process.returncode}")
            with contextlib.suppress(RedisError, OSError):
                client.ping()
                return
            time.sleep(POLL_S)
    raise StorageUnavailable("the store's server doesn't get ready")


@functools.cache
def arities_of(server: Path, log: Path) -> Mapping[bytes, int]:
    """The commands that the server knows, each with its arity.

    Raises:
        StorageUnavailable: it doesn't start even without data.
    """
    with (
        on_the_bench(server, 'appendonly no\nsave ""\n', log) as url,
        contextlib.closing(Redis.from_url(url)) as client,
    ):
        found: Any = client.command()
        return {name.lower().encode(): int(entry["arity"]) for name, entry in found.items()}
