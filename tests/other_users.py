"""Other users of this machine, for tests that run as root: what they own, and processes of theirs."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ANN, MALLORY = 51_234, 65_534
"""The gateway's user, and somebody else. ANN is in no password database."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files and processes to other users")


def as_user(uid: int, command: Sequence[str | Path]) -> list[str | Path]:
    """The command as that user. It may read what anybody owns, as the interpreter may lie in root's home; that gives
    it no way to write, and none into a process that isn't its own."""
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *may_read, *command]


def run_as(
    uid: int, command: Sequence[str | Path], environment: Mapping[str, str], **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end as that user."""
    return subprocess.run(
        as_user(uid, command), env=dict(environment), capture_output=True, text=True, timeout=60, check=False, **options
    )


def python(code: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-c", code, *arguments]


def give(path: Path, uid: int) -> Path:
    """Let a file or directory belong to that user."""
    os.chown(path, uid, uid, follow_symlinks=False)
    return path
