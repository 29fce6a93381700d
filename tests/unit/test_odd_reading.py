"""What somebody else may have written is read as what it says, or refused by an error of ours; it steers nothing."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fluxy_sync.cli.exits import ErrorMappingGroup
from fluxy_sync.cli.output import print_json
from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.event_stream import DashboardUnavailable
from fluxy_sync.journal import as_map
from fluxy_sync.live_source import read_record
from fluxy_sync.memory import memory_limit
from fluxy_sync.repair import REPAIRS_FILE, repairs

STEERING = "\x1b[2J\x7f\x9b31m\u202e\ud800\U000e0001"


def test_a_json_document_steers_no_terminal() -> None:
    """A lane's name, or a reason, is in the document what it is in the store; on the terminal it is text."""

    @click.command()
    def show() -> None:
        print_json({"lane": STEERING, "name": "é✓"})

    output = CliRunner(charset="utf-8").invoke(show).output
    assert output.rstrip("\n").isprintable()
    assert json.loads(output) == {"lane": STEERING, "name": "é✓"}
    assert "é✓" in output


def test_an_error_steers_no_terminal() -> None:
    """What a store or a file says stands in our sentence as text, on one line."""

    @click.group(cls=ErrorMappingGroup)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise StorageUnavailable(f"the store refused a command: {STEERING}\nforged")

    done = CliRunner().invoke(group, ["fail"])
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.rstrip("\n").isprintable()


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"boot": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"a":' * 50_000])
def test_a_record_of_any_depth_is_refused(deep: bytes) -> None:
    """Who answers in the dashboard's place can't end what reads it."""
    with pytest.raises(DashboardUnavailable, match="can't be read"):
        read_record(deep)


def test_a_note_of_any_depth_is_passed_over(tmp_path: Path) -> None:
    """A damaged line among the repairs hides itself alone."""
    (tmp_path / REPAIRS_FILE).write_bytes(b"[" * 100_000 + b"\n" + b'{"a":' * 50_000 + b"\n\xff\n")
    (tmp_path / REPAIRS_FILE).chmod(0o600)
    assert repairs(tmp_path) == []


@pytest.mark.parametrize(
    "groups", [b"", b"\xff\xfe", b"0", b"0::", b"0::/\0", b"::\n:::", b"\n" * 100_000, b"0::/a\n" * 100_000]
)
@pytest.mark.parametrize("limit", [b"", b"\xff", b"max", b"-1", b"0", b"\xc2\xb2", b"9" * 5000, b"1e9", b"12 34"])
def test_an_odd_control_group_sets_no_limit(tmp_path: Path, groups: bytes, limit: bytes) -> None:
    """What isn't a number of bytes is no limit, and ends nobody."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(groups)
    (tmp_path / "sys/fs/cgroup/a").mkdir(parents=True)
    for folder in ("a", "."):
        (tmp_path / "sys/fs/cgroup" / folder / "memory.max").write_bytes(limit)
    assert memory_limit(tmp_path) == memory_limit(tmp_path / "nowhere")


@pytest.mark.parametrize("reply", [None, 1, b"x", [], [b"a"], {}, [1, 2], [b"\xff", b"\xfe"], {b"\xff": b"1"}])
def test_a_map_is_read_as_far_as_it_is_one(reply: Any) -> None:
    """An answer of another kind is an empty map, and names that aren't UTF-8 are readable."""
    assert all(isinstance(text, str) for pair in as_map(reply).items() for text in pair)
