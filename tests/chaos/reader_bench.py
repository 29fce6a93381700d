"""What a reader's case works with: a gateway, its dashboard, its command line; and what must hold after each write."""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from fluxy_sync.app import default_app
from fluxy_sync.errors import FluxySyncError
from tests.chaos.garbage import Garbage
from tests.chaos.scene import WORKER, Scene
from tests.chaos.trial import Run
from tests.chaos.trials.hostile import run_command
from tests.dashboard import Dashboard

COMMANDS = (
    "status", "status --json", "ls", "ls --json", "dead ls", "dead ls --json", "audit", "audit --json", "keys ls",
    "keys ls --json", "show nobody", "dead show nobody", "ls --lane honest", "pause --lane spare",
    "resume --lane spare",
)  # fmt: skip
PAGES = (
    "/api/sync", "/api/sync/lanes", "/api/sync/dead", "/api/sync/history", "/metrics", "/workers?json=1", "/workers",
    "/tasks",
)  # fmt: skip
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
FINE = (200, 302, 404, 503)
MORE_MIB, MORE_MIB_FULL = 200.0, 600.0  # than before, for a process that was handed all of it
NOTHING = object()


def environment_of(given: dict[str, str]) -> dict[str, str]:
    """For a process that has these settings and no others."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLUXY_SYNC_")} | given


@dataclasses.dataclass
class Bench:
    """A gateway that runs, and whoever looks at it.

    Attributes:
        folder: for what a case writes to disk.
        settings: of the command line.
    """

    run: Run
    here: Scene
    dashboard: Dashboard
    garbage: Garbage
    folder: Path
    settings: dict[str, str]
    memory: dict[str, float] = dataclasses.field(default_factory=dict)

    def look(self, after: str, *commands: str, pages: tuple[str, ...] = PAGES, most: int = 2) -> None:
        """The command line and the dashboard show it, or say that they can't; nothing ends, or steers a terminal."""
        chosen = commands or self.run.scale(tuple(self.run.chance.sample(COMMANDS, most)), COMMANDS)
        for command in chosen:
            self.command(command, after)
        for page in self.run.scale(self.run.chance.sample(pages, min(most, len(pages))), list(pages)):
            answer = self.dashboard.get(page)
            self.run.check(answer.status_code in FINE, f"{page} answered {answer.status_code} after {after}")
        self.lives(after)

    def command(self, line: str, after: str, **settings: str | None) -> int:
        """Run one command with other settings, or without those that are None; its exit code."""
        default_app.cache_clear()  # it was made for the settings of an earlier command
        try:
            return run_command(self.run, line.split(), self.settings | settings)
        except Exception as error:
            error.add_note(f"after {after}")
            raise

    def only_ours(self, what: str, act: Callable[[], Any]) -> Any:
        """What it gave; NOTHING where it raised an error of our tree. Any other error breaks the trial."""
        try:
            return act()
        except FluxySyncError as error:
            self.clean(str(error), what)
            return NOTHING
        except Exception as error:
            error.add_note(f"after {what}")
            raise

    def clean(self, text: str, what: str) -> None:
        """It steers no terminal."""
        found = STEERS.search(text)
        self.run.check(found is None, f"{found and text[max(0, found.start() - 80) :][:200]!r} was shown after {what}")

    def lives(self, after: str) -> None:
        """All processes do, and none has taken much more memory than before."""
        self.here.lives(after)
        process = self.dashboard.process
        assert process is not None
        self.run.check(process.poll() is None, f"the dashboard ended after {after}")
        for role, pid in {"worker": self.here.stage.gateway.processes[WORKER].pid, "dashboard": process.pid}.items():
            now = psutil.Process(pid).memory_info().rss / 2**20
            more = now - self.memory.setdefault(role, now)
            self.run.check(
                more <= self.run.scale(MORE_MIB, MORE_MIB_FULL), f"the {role} took {more:.0f} MiB more after {after}"
            )

    def still_works(self, after: str) -> None:
        """What is queued now is delivered."""
        self.lives(after)
        self.here.still_works(after)
