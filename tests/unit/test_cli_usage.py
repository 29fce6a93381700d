"""Wrong usage is told before anything is looked at."""

import pytest
from click.testing import CliRunner

from fluxy_sync.cli import cli


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "replay"], ["dead", "drop", "--yes"], ["dead", "replay", "x", "--all"],
        ["dead", "replay", "--all", "--body", "x"], ["dead", "replay", "x", "y", "--body", "x"],
        ["dead", "replay", "x", "--to", "middle"], ["dead", "replay", "two words"], ["dead", "show", "g\u00fc"],
        ["ls", "--lane", "a\nb"], ["ls", "--lane", ""], ["ls", "--lane", "l" * 201], ["ls", "--limit", "0"],
        ["dead", "ls", "--limit", "9" * 400],
        ["show", 'a"b'], ["show", "i" * 201], ["pause", "--wait", "-1"], ["completion", "csh"],
        ["queue", "POST", "/x", "--expires", "0"], ["queue", "POST", "/x", "--on-dead", "stop"],
    ],
)  # fmt: skip
def test_what_cant_be_meant_is_refused(arguments: list[str]) -> None:
    """It ends with 2 and says what is wrong on stderr; no store was asked, as none is there."""
    done = CliRunner().invoke(cli, arguments, env={"FLUXY_SYNC_DATA_DIR": "/no/such/directory"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Error: " in done.stderr


@pytest.mark.parametrize("lane", ["user:42", "~01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d", "gr\u00fc\u00dfe"])
def test_a_lane_that_may_be_there_is_looked_for(lane: str) -> None:
    """Those that operations have of their own as well."""
    done = CliRunner().invoke(cli, ["ls", "--lane", lane], env={"FLUXY_SYNC_DATA_DIR": "/no/such/directory"})
    assert done.exit_code == 3
