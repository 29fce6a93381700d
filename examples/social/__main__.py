"""``python -m examples.social``: a gateway, the upstream and the application, on data and ports of their own."""

import io
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO, cast

import click

from fluxy_sync.embedded import free_port
from fluxy_sync.errors import ConfigError, FluxySyncError
from fluxy_sync.gateway import DASHBOARD_PASSWORD_FILE, DASHBOARD_USER, Environment, Gateway, celery_commands
from fluxy_sync.host.files import make_private_dir
from fluxy_sync.settings import ENV_PREFIX, Settings, read_environment
from fluxy_sync.supervisor import Command

NAME = "social"
MAX_PENDING = 5  # so few that a full queue is soon seen
ANSWER_AFTER_S = 0.4  # so slow that sending is seen
UP = "fluxy-sync is up"
NOTICE = "gateway   | "  # the supervisor's own words, e.g. that it starts again what has died
_DASHBOARD = re.compile(r"dashboard (http://\S+)")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stage:
    """What is started beside the gateway's own processes, and where.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, home: Path, port: int, answer_after_s: float) -> None:
        self.home = home
        self.switch = home / "upstream-is-down"
        self.url = f"http://127.0.0.1:{_free(port)}"
        self.upstream = f"http://127.0.0.1:{free_port()}"
        self._answer_after_s = answer_after_s

    def settings(self, max_pending: int) -> Settings:
        """The gateway's."""
        given = {"data_dir": self.home, "upstream": self.upstream, "dashboard_port": 0}
        return read_environment(**given, namespace=NAME, node=NAME, max_pending=max_pending)

    def commands(self, live: Settings, environment: Environment) -> list[Command]:
        """The upstream, the worker and beat, and the application: they end in the reverse order."""
        return [self._upstream(environment), *celery_commands(live, environment), self._application(environment)]

    def _upstream(self, environment: Environment) -> Command:
        options = {
            "--port": _port_of(self.upstream),
            "--database": str(self.home / "upstream.sqlite"),
            "--switch": str(self.switch),
            "--answer-after": str(self._answer_after_s),
        }
        flags = [part for pair in options.items() for part in pair]
        argv = [sys.executable, "-m", "examples.social.upstream", *flags]
        return Command("upstream", argv, environment, "following its switch")

    def _application(self, environment: Environment) -> Command:
        ours = {
            "SOCIAL_DATABASE": str(self.home / "social.sqlite"),
            "SOCIAL_PORT": _port_of(self.url),
            "SOCIAL_SWITCH": str(self.switch),
        }
        argv = [sys.executable, "-m", "examples.social.web"]
        return Command("social", argv, {**environment, **ours}, "Uvicorn running on")

    def announce(self, ready: str) -> None:
        """Say where everything is, once all is up."""
        click.echo(f"\nThe social example is at {self.url}")
        click.echo(f"its server, which keeps the posts, at {self.upstream}/api/v1/posts")
        if found := _DASHBOARD.search(ready):
            password = (self.home / DASHBOARD_PASSWORD_FILE).read_text().strip()
            click.echo(f"the dashboard at {found[1]}, user {DASHBOARD_USER}, password {password}")
        click.echo(f"all data and the log in {self.home}")
        click.echo("\nCtrl-C ends it all.")


def _free(port: int) -> int:
    found = free_port(port)
    if port not in (0, found):
        raise ConfigError(f"port {port} is taken; name another with --port, or none")
    return found


def _port_of(url: str) -> str:
    return url.rpartition(":")[2]


class Log(io.TextIOBase):
    """What all processes say: into a file. The supervisor's notices are shown, too, and its ``UP`` is passed on."""

    def __init__(self, file: TextIO, on_up: Callable[[str], None]) -> None:
        self._file = file
        self._on_up = on_up

    def write(self, text: str) -> int:
        """One line, or its end."""
        if text.startswith(NOTICE):
            click.echo(text.removeprefix(NOTICE), err=True)
        elif text.startswith(UP):
            self._on_up(text)
        return self._file.write(text)

    def flush(self) -> None:
        """At once: somebody may be reading it."""
        self._file.flush()


@contextmanager
def home_of(data_dir: Path | None) -> Iterator[Path]:
    """The directory that was given, or one that goes when all has ended, however often Ctrl-C is pressed."""
    if data_dir is not None:
        yield make_private_dir(data_dir.absolute())
        return
    home = Path(tempfile.mkdtemp(prefix="fluxy-social-"))
    try:
        yield home
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(home, ignore_errors=True)


def enter_environment(home: Path) -> None:
    """What a user has set for a gateway of his own must not leak in here."""
    for name in list(os.environ):
        if name.startswith((ENV_PREFIX, "FLOWER_")):
            del os.environ[name]
    (home / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(home / "tmp")  # a pool that is killed leaves its temporary directory


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(1)  # before all is up; then the gateway's own handlers end it in order


@click.command()
@click.option("--port", default=0, help="The application's port on the loopback interface.  [default: a free one]")
@click.option("--max-pending", default=MAX_PENDING, show_default=True, help="Posts that may wait; 0 for any number.")
@click.option("--answer-after", default=ANSWER_AFTER_S, show_default=True, help="Seconds that the server takes.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep all data here.  [default: a temporary place]")
@click.option("--dashboard/--no-dashboard", default=None, help="Start the dashboard, too.  [default: if installed]")
def main(port: int, max_pending: int, answer_after: float, data_dir: Path | None, dashboard: bool | None) -> None:
    """Run the social example until Ctrl-C."""
    for number in _SIGNALS:
        signal.signal(number, _end)
    with home_of(data_dir) as home, (home / "log.txt").open("a", encoding="utf-8") as file:
        enter_environment(home)
        try:
            stage = Stage(home, port, answer_after)
            settings = stage.settings(max_pending)
            output = cast("TextIO", Log(file, stage.announce))
            Gateway(settings, dashboard=dashboard, output=output, commands=stage.commands).run()
        except FluxySyncError as error:
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
