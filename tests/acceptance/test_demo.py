"""The demo, run as a user runs it."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fluxy_sync.host.sockets import LONGEST_SOCKET_PATH
from tests.conftest import ended, wait_until

DEMO = [sys.executable, "-m", "fluxy_sync", "demo"]
ENOUGH_S = 110


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demos of a test put their directories."""
    with tempfile.TemporaryDirectory(prefix="fd") as folder:  # short: sockets live in it
        assert len(folder) < LONGEST_SOCKET_PATH - 40
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*DEMO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_of(home: Path) -> list[object]:
    """Files and processes that a demo has left."""
    processes = [p.pid for p in psutil.process_iter() if _belongs(p, home)]
    return [*home.iterdir(), *processes]


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        told = process.environ().get("FLUXY_SYNC_DATA_DIR", "") + " ".join(process.cmdline())
    except psutil.Error:
        return False
    return str(home) in told


def test_two_demos_at_once_hold_and_leave_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both end with 0, in plain text, whatever the user's settings are, and remove all that they made."""
    monkeypatch.setenv("FLUXY_SYNC_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FLUXY_SYNC_NAMESPACE", "not a namespace")
    told, judged = start("--exit"), start("--json")
    story, stderr = told.communicate(timeout=ENOUGH_S)
    assert (told.returncode, stderr) == (0, ""), story + stderr
    assert "\x1b" not in story
    assert re.search(r"gate\s+○ offline\s+connection refused", story)
    assert re.search(r"pending\s+60\s+on 3 lanes", story)
    assert "Nothing was lost" in story
    document, story = judged.communicate(timeout=ENOUGH_S)
    assert judged.returncode == 0, story
    record = json.loads(document)
    assert (record["holds"], record["accepted"], record["kills"]) == (True, 60, 2)
    assert [lane["in_order"] for lane in record["lanes"]] == [True, True, True]
    assert left_of(home) == []


def test_the_dashboard_stays_until_the_end_is_asked_for(home: Path, tmp_path: Path) -> None:
    """Afterwards the dashboard answers to its password alone; Ctrl-C ends it all with 0 and leaves nothing."""
    log = tmp_path / "log"
    with log.open("w") as output:
        demo = subprocess.Popen(DEMO, stdout=output, stderr=output, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    with ended(demo):
        wait_until(lambda: "until Ctrl-C" in log.read_text() or demo.poll() is not None, ENOUGH_S)
        assert demo.poll() is None, log.read_text()
        found = re.search(r"dashboard is at (\S+)\nuser (\S+), password (\S+)", log.read_text())
        assert found is not None
        url, user, password = found.groups()
        request = urllib.request.Request(url + "/workers")
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(url + "/workers", timeout=20)
        refused.value.close()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 0
    assert left_of(home) == []


def test_an_interrupted_demo_fails_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """A demo that is ended before it has judged anything ends with 1, and tidies up."""
    log = tmp_path / "log"
    with log.open("w") as output:
        demo = subprocess.Popen([*DEMO, "--exit"], stdout=output, stderr=output)
    with ended(demo):
        wait_until(lambda: "A gateway is up" in log.read_text() or demo.poll() is not None, 60)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 1
    assert "Nothing was lost" not in log.read_text()
    assert left_of(home) == []
