"""Names are looked up within a time limit, although getaddrinfo knows none."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fluxy_sync import resolver
from fluxy_sync.resolver import Resolver
from tests.conftest import wait_until


class NameService:
    """Stands for getaddrinfo: each look-up waits until it is answered. The real one can't be made to hang on cue."""

    def __init__(self) -> None:
        self.lookups: list[threading.Event] = []
        self.answer: str | Exception = "192.0.2.1"

    def __call__(self, host: str, port: int, *_: Any) -> list[Any]:
        self.lookups.append(asked := threading.Event())
        asked.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.answer, port))] * 2

    def end(self) -> None:
        for asked in self.lookups:
            asked.set()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    service = NameService()
    monkeypatch.setattr(socket, "getaddrinfo", service)
    yield service
    service.end()


def later(action: Callable[[], Any]) -> list[Any]:
    """What an action in a thread of its own gives, once it is there."""
    found: list[Any] = []
    threading.Thread(target=lambda: found.append(action()), daemon=True).start()
    return found


def test_nobody_waits_longer_than_he_can(service: NameService) -> None:
    """A name server that is silent costs the time that was given, and no more."""
    began = time.monotonic()
    with pytest.raises(socket.gaierror):
        Resolver().resolve("a.test", 80, 0.2)
    assert 0.2 <= time.monotonic() - began < 2.0


def test_who_wants_the_same_name_joins_in(service: NameService) -> None:
    """One look-up for all who want it at the same time; each address is given once."""
    names = Resolver()
    first = later(lambda: names.resolve("a.test", 80, 20))
    wait_until(lambda: service.lookups)
    second = later(lambda: names.resolve("a.test", 80, 20))
    wait_until(lambda: threading.active_count() > 3)
    service.end()
    wait_until(lambda: first and second)
    assert (first, second, len(service.lookups)) == ([["192.0.2.1"]], [["192.0.2.1"]], 1)


def test_a_later_look_up_helps_those_who_wait(service: NameService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query that was lost with the link is never answered: a new one is made, and its answer serves all."""
    monkeypatch.setattr(resolver, "AGAIN_S", 0.0)
    names = Resolver()
    first = later(lambda: names.resolve("a.test", 80, 20))
    wait_until(lambda: len(service.lookups) == 1)
    second = later(lambda: names.resolve("a.test", 80, 20))
    wait_until(lambda: len(service.lookups) == 2)
    service.lookups[1].set()
    wait_until(lambda: first and second)
    assert first == second == [["192.0.2.1"]]


def test_look_ups_that_hang_are_bounded(service: NameService, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is asked for."""
    monkeypatch.setattr(resolver, "AGAIN_S", 0.0)
    names = Resolver()
    for _ in range(resolver.AT_ONCE + 5):
        with pytest.raises(socket.gaierror):
            names.resolve("a.test", 80, 0.01)
    assert len(service.lookups) == resolver.AT_ONCE


def test_an_answer_that_came_too_late_serves_once(service: NameService) -> None:
    """Else a look-up that takes longer than anybody waits would never be of use; but nothing is cached."""
    names = Resolver()
    with pytest.raises(socket.gaierror):
        names.resolve("a.test", 80, 0.01)
    service.end()
    wait_until(lambda: not any(thread.name == "fluxy-resolver" for thread in threading.enumerate()))
    assert names.resolve("a.test", 80, 0.01) == ["192.0.2.1"]
    with pytest.raises(socket.gaierror):
        names.resolve("a.test", 80, 0.01)


def error_of(resolve: Callable[..., list[str]], name: str = "a.test") -> socket.gaierror:
    """What a look-up ends with."""
    with pytest.raises(socket.gaierror) as caught:
        resolve(name, 80, 20)
    return caught.value


def test_an_error_is_told_and_not_kept(service: NameService) -> None:
    """A name that isn't there now may be there in a moment."""
    names = Resolver()
    service.answer = socket.gaierror(socket.EAI_NONAME, "unknown")
    found = later(lambda: error_of(names.resolve).errno)
    wait_until(lambda: service.lookups)
    service.end()
    wait_until(lambda: found)
    service.answer = "192.0.2.1"
    again = later(lambda: names.resolve("a.test", 80, 20))
    wait_until(lambda: len(service.lookups) == 2)
    service.end()
    wait_until(lambda: again)
    assert (found, again) == ([socket.EAI_NONAME], [["192.0.2.1"]])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]"])
def test_an_address_needs_no_look_up(service: NameService, host: str) -> None:
    """Nor a thread."""
    assert Resolver().resolve(host, 80, 0.01) == [host.strip("[]")]
    assert service.lookups == []


def test_a_child_waits_for_no_thread_of_its_parent(service: NameService) -> None:
    """A pool process that is forked in the middle of a look-up makes its own."""
    waiting = later(lambda: error_of(resolver.resolve, "b.test"))
    wait_until(lambda: service.lookups)
    child = os.fork()
    if child == 0:
        service.lookups.clear()
        later(lambda: resolver.resolve("b.test", 80, 5))
        wait_until(lambda: service.lookups)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    service.answer = socket.gaierror(socket.EAI_NONAME, "unknown")
    service.end()
    wait_until(lambda: waiting)


def test_an_unexpected_error_ends_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no answer, and it is said at once; however often that happens, the next look-up is made."""
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(resolver, "AGAIN_S", 0.0)
    looking = resolver.Resolver()

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(socket, "getaddrinfo", fail)
        for _ in range(resolver.AT_ONCE + 1):
            with pytest.raises(socket.gaierror, match="MemoryError"):
                looking.resolve("a.example", 80, 5.0)
    assert len(seen) == resolver.AT_ONCE + 1  # loud
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("192.0.2.1", 80))])
    assert looking.resolve("a.example", 80, 5.0) == ["192.0.2.1"]


def test_no_thread_for_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine out of threads says so, and looks up again once there are some."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    looking = resolver.Resolver()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", fail)
        for _ in range(resolver.AT_ONCE + 1):
            with pytest.raises(socket.gaierror, match="no thread"):
                looking.resolve("a.example", 80, 5.0)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("192.0.2.1", 80))])
    assert looking.resolve("a.example", 80, 5.0) == ["192.0.2.1"]
