"""``deploy/init.sh``: it says Ready only where everything is there and as it was asked for."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

URL = "https://api.example.com"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "init.sh", tmp_path / "deploy")
    return tmp_path


def init(place: Path, url: str = URL) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([place / "deploy" / "init.sh", url], capture_output=True, text=True, timeout=30)


def test_it_makes_what_is_missing_and_keeps_the_rest(place: Path) -> None:
    """Run twice, it changes nothing; a lost `.env` is made anew."""
    assert init(place).stdout.startswith("Ready")
    made = {path: path.read_text() for path in place.rglob("*") if path.is_file()}
    assert init(place).stdout.startswith("Ready")
    assert made == {path: path.read_text() for path in place.rglob("*") if path.is_file()}
    (place / ".env").unlink()
    assert init(place).returncode == 0
    assert f"FLUXY_SYNC_UPSTREAM={URL}\n" in (place / ".env").read_text()


@pytest.mark.parametrize("gone", ["redis_url", "redis_auth.conf"])
def test_half_a_password_is_not_ready(place: Path, gone: str) -> None:
    """The server and its clients must have the same one: which file is missing is said, and nothing is changed."""
    init(place)
    (place / "deploy" / "secrets" / gone).unlink()
    done = init(place)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"deploy/secrets/{gone} is missing" in done.stderr
    for name in ("redis_url", "redis_auth.conf"):
        (place / "deploy" / "secrets" / name).unlink(missing_ok=True)
    assert init(place).stdout.startswith("Ready")


def test_another_upstream_is_not_ignored(place: Path) -> None:
    """The settings are yours, so they are kept; but nobody is told that the new one counts."""
    init(place)
    done = init(place, "https://other.example.com")
    assert (done.returncode, done.stdout) == (1, "")
    assert URL in done.stderr
    assert "FLUXY_SYNC_UPSTREAM" in done.stderr
