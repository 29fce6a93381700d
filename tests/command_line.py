"""The real command line, in processes of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = subprocess.CompletedProcess[str]
CommandLine = Callable[..., Run]


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """The caller's environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLUXY_SYNC_", "FLOWER_"))}
    return {**kept, "FLUXY_SYNC_DATA_DIR": str(data_dir), **{f"FLUXY_SYNC_{k}": v for k, v in settings.items()}}


def fluxy_sync(*arguments: str, env: dict[str, str], stdin: bytes = b"") -> Run:
    """Run one command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "fluxy_sync", *arguments], env=env, input=stdin, capture_output=True, timeout=60
    )
    return Run(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def is_one_sentence(text: str) -> bool:
    """Whether stderr holds one line of ours, and no traceback."""
    return bool(re.fullmatch(r"fluxy-sync: [^\n]{10,}\n", text))


def document(done: Run) -> Any:
    """The one JSON document that a command printed."""
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def refused(done: Run, code: int) -> str:
    """The one sentence of a command that printed nothing else and ended with this code."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert is_one_sentence(done.stderr), done.stderr
    return done.stderr


def notes_of(run: CommandLine) -> list[tuple[str, str]]:
    """What the audit log has, the newest first."""
    return [(note["what"], note["which"]) for note in document(run("audit", "--json"))["notes"]]
