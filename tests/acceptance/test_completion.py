"""What the shell offers on Tab."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fluxy_sync import FluxySync
from tests.command_line import CommandLine, environment
from tests.conftest import Gateway
from tests.stuck import die, queue
from tests.upstream import free_port


def completed(gateway: Gateway, *words: str, **changes: str) -> list[str]:
    """What click offers for the last word."""
    env = environment(gateway.folder / "data") | gateway.environment
    asked = {
        "_FLUXY_SYNC_COMPLETE": "fish_complete", "COMP_CWORD": words[-1],
        "COMP_WORDS": " ".join(("fluxy-sync", *words)),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "fluxy_sync"], env=env | asked | changes, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split(",", 1)[1].split("\t")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(alone: CommandLine, shell: str) -> None:
    """The script names our command and the variable by which it asks."""
    done = alone("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_FLUXY_SYNC_COMPLETE={shell}_complete" in done.stdout
    assert "fluxy-sync" in done.stdout


def test_lanes_and_dead_letters_are_completed(gateway: Gateway, sync: FluxySync) -> None:
    """Lanes that hold operations or are held, and ids for the dead commands; those of the store as it is now."""
    dead = die(sync, "photos", id="dead-1")
    for lane in ("user:1", "user:2", "orders", None):
        queue(sync, lane)
    sync.pause("paused")
    assert completed(gateway, "ls", "--lane", "") == ["orders", "paused", "user:1", "user:2"]
    assert completed(gateway, "clear", "--lane", "user:") == ["user:1", "user:2"]
    assert len(completed(gateway, "ls", "--lane", "~")) == 1
    for command in ("show", "replay", "drop"):
        assert completed(gateway, "dead", command, "d") == [dead]
    assert completed(gateway, "dead", "r") == ["replay"]


def test_a_store_that_is_away_completes_nothing_and_says_nothing(gateway: Gateway) -> None:
    """Who presses Tab sees no error, and doesn't wait."""
    away = {"FLUXY_SYNC_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    assert completed(gateway, "ls", "--lane", "", **away) == []
    assert completed(gateway, "dead", "show", "", FLUXY_SYNC_REDIS_URL="nonsense://") == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fluxy-sync ls --lane user:", ["1", "2"]),
        ("fluxy-sync ls --lane=user:", ["1", "2"]),
        ("fluxy-sync ls --lane us", ["user:1", "user:2"]),
        ("fluxy-sync ls --lane t", [r"two\ words"]),
        ("fluxy-sync de", ["demo", "dead"]),
    ],
)
def test_bash_completes_lanes_with_colons(gateway: Gateway, sync: FluxySync, line: str, offered: Sequence[str]) -> None:
    """In a real bash, which breaks words at colons: what is typed already isn't repeated, and spaces are escaped."""
    for lane in ("user:1", "user:2", "two words"):
        queue(sync, lane)
    command = Path(sys.executable).with_name("fluxy-sync")
    script = (
        f'eval "$({command} completion bash)"; COMP_LINE="$1" COMP_POINT=${{#1}}; '
        f'_fluxy_sync_completion {command}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line],
        env=environment(gateway.folder / "data") | gateway.environment, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == list(offered), done.stderr
