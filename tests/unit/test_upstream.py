"""The test's own server does as it is told: what the acceptance tests rest on."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.upstream import Upstream, free_port

REPEAT = {"Idempotency-Key": '"id-1"', "Fluxy-Attempt": "2", "Fluxy-Fence": '7; scope="abc"'}


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Poll until ``condition`` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    with Upstream(tmp_path / "upstream.jsonl") as server:
        yield server


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_a_request_is_recorded_as_it_came(upstream: Upstream, client: requests.Session) -> None:
    """The record holds what the referee needs, in order, before the answer leaves."""
    client.post(f"{upstream.url}/api/posts?x=1", json={"n": 1}, headers=REPEAT)
    client.put(f"{upstream.url}/raw", data=b"\xff\x00")
    client.post(f"{upstream.url}/chunks", data=iter([b"ab", b"c"]))
    first, second, third = upstream.requests()
    assert (first["method"], first["path"], first["body"]) == ("POST", "/api/posts?x=1", '{"n": 1}')
    assert (first["key"], first["attempt"], first["fence"]) == ("id-1", 2, '7; scope="abc"')
    assert first["status"] == 201
    assert first["headers"]["content-type"] == "application/json"
    assert (second["body"], second["encoding"], second["key"]) == ("/wA=", "base64", None)
    assert third["body"] == "abc"
    assert first["mono"] <= second["mono"] <= third["mono"]


def test_a_script_is_consumed_one_answer_a_request(upstream: Upstream, client: requests.Session) -> None:
    """The longest prefix with answers left wins; then the default holds."""
    upstream.script("/api", [503, {"status": 429, "headers": {"Retry-After": "1"}, "body": "slow", "delay_s": 0.01}])
    upstream.script("/api/posts", [409])
    upstream.default(202)
    answers = [client.post(f"{upstream.url}/api/posts") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [409, 503, 429, 202]
    assert (answers[2].text, answers[2].headers["retry-after"]) == ("slow", "1")
    assert [line["status"] for line in upstream.requests()] == [409, 503, 429, 202]


@pytest.mark.parametrize(("action", "recorded"), [("drop", "dropped"), ("reset", "reset"), ("accept_then_drop", 201)])
def test_a_connection_can_be_lost_after_the_request(
    upstream: Upstream, client: requests.Session, action: str, recorded: object
) -> None:
    """The request is on record, and its sender gets no answer."""
    upstream.script("/", [action])
    with pytest.raises(requests.ConnectionError):
        client.post(upstream.url)
    assert [line["status"] for line in upstream.requests()] == [recorded]


def test_a_connection_can_end_after_the_answer(upstream: Upstream, client: requests.Session) -> None:
    """The kept-alive connection is gone when the next request wants it."""
    upstream.script("/", ["answer_then_drop"])
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=10)) as connection:
        connection.request("POST", "/")
        response = connection.getresponse()
        assert response.status == 201
        response.read()
        assert connection.sock.recv(1) == b""
    assert client.post(upstream.url).status_code == 201


def test_a_stalled_request_waits_for_its_release(upstream: Upstream, client: requests.Session) -> None:
    """Nothing is answered before the test says so; the record then tells the late answer."""
    upstream.script("/", ["stall"])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, upstream.url)
        wait_until(upstream.requests)
        assert (upstream.requests()[0]["status"], answer.done()) == ("stalled", False)
        upstream.release(204)
        assert answer.result(10).status_code == 204
    assert upstream.requests()[0]["released"] == 204


def test_probes_are_answered_and_recorded_apart(upstream: Upstream, client: requests.Session) -> None:
    """A look at the server uses up no script and is no delivery."""
    upstream.script("/", [503])
    assert client.head(upstream.url).status_code == 200
    upstream.probe("redirect")
    assert client.head(upstream.url, allow_redirects=False).is_redirect
    assert ([line["status"] for line in upstream.probes()], upstream.requests()) == ([200, 302], [])
    assert client.get(upstream.url, headers=REPEAT).status_code == 503


@pytest.mark.parametrize("end", [Upstream.stop, Upstream.kill])
def test_a_stopped_upstream_refuses_and_comes_back(
    upstream: Upstream, client: requests.Session, end: Callable[[Upstream], None]
) -> None:
    """The same port refuses connections, then answers again; record and script go on where they were."""
    upstream.script("/", [500, 503])
    client.post(upstream.url)
    end(upstream)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", upstream.port))
    upstream.script("/more", [418])
    upstream.start()
    client.post(upstream.url)
    client.post(f"{upstream.url}/more")
    expected = [500, 503, 418] if end is Upstream.stop else [500, 500, 418]
    assert [line["status"] for line in upstream.requests()] == expected


def test_an_unknown_action_is_refused(upstream: Upstream) -> None:
    """A test's typing error shows where it stands."""
    with pytest.raises(ValueError, match="no such action"):
        upstream.default("explode")


def test_a_taken_port_is_told(upstream: Upstream, tmp_path: Path) -> None:
    """Two upstreams can't share a port."""
    with pytest.raises(ConnectionError), Upstream(tmp_path / "other.jsonl", upstream.port):
        pass


def test_it_runs_from_the_command_line(tmp_path: Path, client: requests.Session) -> None:
    """``python -m tests.upstream`` serves until it is ended."""
    port, record = free_port(), tmp_path / "cli.jsonl"
    command = [sys.executable, "-m", "tests.upstream", "--port", str(port), "--record", str(record)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=os.environ.copy()) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        assert client.post(url).status_code == 201
        process.terminate()
    assert record.read_text().count('"kind":"request"') == 1
