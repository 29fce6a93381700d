"""A RabbitMQ of our own, from Debian's package: on loopback alone, its data in a folder of the test."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from amqp import Connection
from amqp.exceptions import AMQPError, NotFound

from tests.conftest import wait_until
from tests.upstream import free_port

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one in /usr/sbin wants its package's own user
IS_INSTALLED = PROGRAM.exists() and shutil.which("epmd") is not None
START_S = 60.0


class RabbitMq:
    """One node, and the Erlang port mapper beside it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder, self._epmd_port, self._distribution_port = folder, free_port(), free_port()
        self._server: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "plugins").write_text("[].\n")
        self._epmd = subprocess.Popen(
            ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"], stdout=subprocess.DEVNULL
        )

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def _environment(self) -> dict[str, str]:
        names = {
            "NODENAME": f"fluxy{self.port}@localhost",
            "NODE_IP_ADDRESS": "127.0.0.1",
            "NODE_PORT": self.port,
            "DIST_PORT": self._distribution_port,
            "MNESIA_BASE": self._folder / "mnesia",
            "LOG_BASE": self._folder / "log",
            "PID_FILE": self._folder / "pid",
            "ENABLED_PLUGINS_FILE": self._folder / "plugins",
            "CONFIG_FILE": self._folder / "rabbitmq",
            "CONF_ENV_FILE": self._folder / "none.conf",
        }
        erlang = {"ERL_EPMD_PORT": self._epmd_port, "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": self._folder}
        ours = {f"RABBITMQ_{name}": value for name, value in names.items()} | erlang
        return os.environ | {name: str(value) for name, value in ours.items()}

    def start(self) -> None:
        """Start the node, and wait until it takes connections."""
        with (self._folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [PROGRAM], env=self._environment, stdout=output, stderr=output, cwd=self._folder, start_new_session=True
            )
        wait_until(self._answers, START_S, "RabbitMQ takes connections")

    def ensure(self) -> None:
        """Start it where it doesn't run."""
        if self._server is None:
            self.start()

    def _answers(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise AssertionError(f"RabbitMQ ended:\n{(self._folder / 'output').read_text()[-3000:]}")
        try:
            with Connection(host=f"127.0.0.1:{self.port}", connect_timeout=2):
                return True
        except (OSError, AMQPError):
            return False

    def waiting(self, queue: str) -> int:
        """The messages that wait in a queue; 0 where there is no such queue."""
        with Connection(host=f"127.0.0.1:{self.port}", connect_timeout=5) as connection:
            try:
                return int(connection.channel().queue_declare(queue, passive=True).message_count)
            except NotFound:
                return 0

    def kill(self) -> None:
        """End the node at once, as a power cut does."""
        self._signal(signal.SIGKILL)
        assert self._server is not None
        self._server.wait()
        self._server = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._server is not None
        os.killpg(self._server.pid, number)

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.kill()
        self._epmd.kill()
        self._epmd.wait()
