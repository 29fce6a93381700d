"""Secrets that a gateway hands to its processes."""

import json
import os
import subprocess
import sys

import pytest

from fluxy_sync.errors import ConfigError
from fluxy_sync.host import handover
from fluxy_sync.host.handover import VARIABLE, Handover

CHILD = """
import json, os, sys
from fluxy_sync.settings import Settings
found = Settings()
print(json.dumps([found.key_texts, "FLUXY_SYNC_SECRETS_FD" in os.environ, len(os.listdir("/proc/self/fd"))]))
"""


def child(secrets: dict[str, str], **environment: str) -> "subprocess.CompletedProcess[str]":
    with Handover(secrets) as given:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env={**os.environ, **environment, VARIABLE: str(given.fd)},
            pass_fds=(given.fd,),
            stdout=subprocess.PIPE,
            text=True,
        )
    out, _ = process.communicate(timeout=30)
    return subprocess.CompletedProcess([], process.returncode, out)


def test_a_child_reads_its_secrets_once_and_closes_the_socket() -> None:
    """They are settings like others; nothing that the child starts inherits a way to them."""
    few = json.loads(child({"FLUXY_SYNC_KEYS": "one,two"}).stdout)
    none = json.loads(child({}).stdout)
    assert few == [["one", "two"], False, none[2]]


def test_many_secrets_are_no_problem() -> None:
    """A ring that is longer than any buffer between processes arrives whole."""
    ring = [f"{number:043}" for number in range(50_000)]
    assert json.loads(child({"FLUXY_SYNC_KEYS": ",".join(ring)}).stdout)[0] == ring


def test_what_was_handed_over_wins(tmp_path: object) -> None:
    """A variable of the same name, which only somebody else can have put there, doesn't."""
    assert json.loads(child({"FLUXY_SYNC_KEYS": "one"}, FLUXY_SYNC_KEYS="two").stdout)[0] == ["one"]


def test_a_child_that_never_asks_holds_nobody_up() -> None:
    """One that ended before it asked is none either."""
    with Handover({"A": "b"}) as given:
        subprocess.run(["true"], pass_fds=(given.fd,), check=True)


@pytest.mark.parametrize("told", ["", "x", "99999", "-1"])
def test_a_number_that_is_no_socket_says_so(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a ConfigError, not a traceback."""
    monkeypatch.setenv(VARIABLE, told)
    monkeypatch.setattr(handover, "close_to_others", lambda: None)  # the tests' own process stays as it is
    with pytest.raises(ConfigError, match="processes that a gateway starts"):
        handover.taken_over()


def test_wiped_variables_are_gone_from_proc() -> None:
    """Our own environment is cleaned where the kernel shows it, and what is started afterwards inherits none."""
    code = (
        "import os, subprocess; from fluxy_sync.host.handover import wipe;"
        "wipe(os.environ, ['SECRET', 'ABSENT']);"
        "shown = open('/proc/self/environ', 'rb').read();"
        "print(b'hidden' in shown, b'KEPT=1' in shown,"
        "'hidden' in subprocess.run(['env'], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SECRET": "hidden", "KEPT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "True", "False"]
