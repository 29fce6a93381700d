"""The package is typed: a user's own strict check sees its public names as they are."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_users_strict_check_passes() -> None:
    """What each public call takes and gives; a mistake is found (an ignore that isn't needed would be reported)."""
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "tests/typing_sample.py"],
        cwd=ROOT, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_the_package_says_that_it_is_typed() -> None:
    """PEP 561: type checkers look for the marker."""
    assert files("fluxy_sync").joinpath("py.typed").is_file()
