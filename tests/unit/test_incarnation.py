"""Who a worker is on this machine, and which earlier ones are dead."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fluxy_sync.errors import ConfigError
from fluxy_sync.incarnation import Incarnation
from fluxy_sync.steward import is_alive

LIVE = """
import sys
from pathlib import Path
from fluxy_sync.errors import ConfigError
from fluxy_sync.incarnation import Incarnation
try:
    mine = Incarnation(Path(sys.argv[1]), sys.argv[2])
except ConfigError as error:
    sys.exit(str(error))
print(mine.id, flush=True)
sys.stdin.read()
"""


def live(folder: Path, node: str) -> "subprocess.Popen[str]":
    """A process that is an incarnation until its stdin closes."""
    command = [sys.executable, "-c", LIVE, str(folder), node]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_only_the_killed_are_dead(tmp_path: Path) -> None:
    """A living worker's file is locked; a killed one's can be taken, and is forgotten once its claims are given up."""
    with live(tmp_path, "one") as other:
        assert other.stdout is not None
        other_id = other.stdout.readline().strip()
        mine = Incarnation(tmp_path, "two")
        assert mine.dead_ones() == []
        other.kill()
        other.wait()
    assert mine.dead_ones() == [other_id]
    mine.forget(other_id)
    assert mine.dead_ones() == []
    mine.close()


def test_a_node_has_one_worker(tmp_path: Path) -> None:
    """A second one of the same name is told so; after the first has been killed, the name is free at once."""
    with live(tmp_path, "one") as first:
        assert first.stdout is not None
        assert first.stdout.readline()
        with live(tmp_path, "one") as second:
            assert second.stderr is not None
            assert "a worker named one is running on this machine already" in second.stderr.read()
        first.kill()
        first.wait()
    Incarnation(tmp_path, "one").close()


def test_it_names_its_process_as_the_holder(tmp_path: Path) -> None:
    """The claims of one process can be told from those of its siblings."""
    mine = Incarnation(tmp_path, "one")
    assert mine.holder == f"{mine.id} {os.getpid()}"
    assert (mine.door_closed, mine.closing) == (False, False)
    mine.door_closed = True
    assert (mine.door_closed, mine.closing) == (True, False)
    mine.close()


def test_a_directory_that_cant_be_made_is_named(tmp_path: Path) -> None:
    """With the setting that changes it."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="FLUXY_SYNC_DATA_DIR"):
        Incarnation(tmp_path / "file" / "run", "one")


def test_the_bell_is_heard_with_many_files_open(tmp_path: Path) -> None:
    """Also where its descriptor is beyond those that select() takes."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, most), most))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1030)]
    try:
        mine = Incarnation(tmp_path, "many")
        assert mine.wait_for_bell(0.0) == []
        mine.ring(7.0)
        assert mine.wait_for_bell(5.0) == [7.0]
        mine.close()
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def test_a_dead_process_is_seen_without_waitid(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has none before Python 3.13: a process is alive until it was reaped."""
    monkeypatch.delattr(os, "waitid")
    with live(Path(os.devnull), "one") as child:
        assert is_alive(child.pid)
        child.kill()
        child.wait()
        assert not is_alive(child.pid)
