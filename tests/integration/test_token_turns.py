"""The OAuth2 access token: whose turn it is to fetch one, when it is replaced, and what happens without a store."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fluxy_sync.access_token
import fluxy_sync.token_place
from fluxy_sync.delivery import boottime
from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.journal import Journal
from fluxy_sync.token_place import TURN_S, Place, PrivatePlace, SharedPlace, Token
from tests.conftest import wait_until
from tests.http_server import Said
from tests.token_endpoint import DELIVERED, MARKER, UNAUTHORIZED, UNREACHABLE, Endpoint, Fleet, send, together
from tests.upstream import free_port

TURN_MS = int(TURN_S * 1000)
ONE, TWO, GENERATION = "1" * 16, "2" * 16, "a" * 16


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.fixture
def fleet(endpoint: Endpoint, store_url: str, namespace: str, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(endpoint, store_url, namespace, tmp_path)
    yield made
    made.close()


# --- whose turn it is


def test_who_waits_for_another_process_uses_its_token(fleet: Fleet, endpoint: Endpoint, journal: Journal) -> None:
    """The other one is known by its name alone; when its token is there, it is taken."""
    fleet.place().take_turn(ONE)
    delivery, found = fleet.process(), []
    thread = threading.Thread(target=lambda: found.append(send(delivery)))
    thread.start()
    fleet.place().save(Token("g", f"{MARKER}-other", 60.0))
    thread.join(9)
    assert found == [DELIVERED]
    assert (endpoint.fetches, endpoint.tokens) == (0, ["other"])
    assert fleet.place().take_turn(TWO) == ONE


@pytest.mark.parametrize("turn", [ONE, f"failed:{UNREACHABLE.reason}"])
def test_a_turn_does_not_outlast_a_clock_that_goes_back(
    fleet: Fleet, endpoint: Endpoint, journal: Journal, turn: str
) -> None:
    """The store's clock went back by years, and so far ahead lies the end of the turn: the next one takes it over."""
    fleet.place().take_turn(TWO)
    fleet.place().pass_turn(TWO, turn, 10 * 365 * 86_400)
    assert send(fleet.process()) == DELIVERED
    assert endpoint.fetches == 1
    assert 0 < journal.store.command("PTTL", journal.keys.auth_lock) <= TURN_MS


def test_who_was_a_moment_too_late_takes_what_is_there(
    fleet: Fleet, endpoint: Endpoint, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process stored its token between this one's look and its turn: no second fetch."""
    other, take_turn = fleet.place(), SharedPlace.take_turn

    def take_late(place: SharedPlace, name: str) -> str:
        other.save(Token(GENERATION, f"{MARKER}-other", 60.0))
        take_turn(other, TWO)
        other.pass_turn(TWO, f"fetched:{GENERATION}", TURN_S)
        return take_turn(place, name)

    monkeypatch.setattr(SharedPlace, "take_turn", take_late)
    assert send(fleet.process()) == DELIVERED
    assert (endpoint.fetches, endpoint.tokens) == (0, ["other"])


def test_who_waits_waits_no_longer_than_its_flight(fleet: Fleet, endpoint: Endpoint, journal: Journal) -> None:
    """The other process has died: its turn ends by itself, this operation's deadline comes first."""
    fleet.place().take_turn(ONE)
    began = boottime()
    assert send(fleet.process(), lasts_s=0.5) == UNREACHABLE
    assert boottime() - began < 3.0
    assert (endpoint.fetches, endpoint.upstream.seen) == (0, [])


@pytest.fixture(params=["shared", "private"])
def place(request: pytest.FixtureRequest, fleet: Fleet) -> Place:
    return PrivatePlace() if request.param == "private" else fleet.place()


def test_a_turn_is_passed_by_its_owner_alone(place: Place) -> None:
    """One that took too long can't end the turn of whoever came after it."""
    assert place.take_turn(ONE) == ONE
    assert place.take_turn(TWO) == ONE
    assert not place.pass_turn(TWO, "", 5)
    assert place.take_turn(TWO) == ONE
    assert place.pass_turn(ONE, f"fetched:{GENERATION}", 5)
    assert place.take_turn(TWO) == f"fetched:{GENERATION}"
    assert place.pass_turn(f"fetched:{GENERATION}", "", 5)
    assert place.take_turn(TWO) == TWO


def test_a_turn_ends_by_itself(place: Place) -> None:
    """Its owner may have died."""
    assert place.take_turn(ONE) == ONE
    place.pass_turn(ONE, ONE, 0.05)
    wait_until(lambda: place.take_turn(TWO) == TWO, 5)


def test_a_token_is_kept_as_long_as_it_may_be_used(place: Place) -> None:
    """Not a moment longer; one without any time isn't kept."""
    place.save(Token("g", "t", 0.0))
    assert place.load() is None
    place.save(Token("g", "t", 0.2))
    held = place.load()
    assert held is not None
    assert held.token == Token("g", "t", 0.2)
    assert held.ends <= boottime() + 0.2
    wait_until(lambda: place.load() is None, 5)


@pytest.mark.parametrize("command", [("PEXPIRE", 10**12), ("PERSIST",)])
def test_no_token_outlives_its_time_in_a_process(fleet: Fleet, journal: Journal, command: tuple[Any, ...]) -> None:
    """Where the store's clock went back, or somebody made the key last: never longer than the token was given."""
    place = fleet.place()
    place.save(Token("g", "t", 60.0))
    journal.store.command(command[0], journal.keys.auth, *command[1:])
    held = place.load()
    assert held is not None
    assert boottime() < held.ends <= boottime() + 60.0


# --- in time


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by which a process judges its token."""

    def move(seconds: float) -> None:
        for module in (fluxy_sync.access_token, fluxy_sync.token_place):
            monkeypatch.setattr(module, "boottime", lambda: boottime() + seconds)

    return move


def test_a_token_is_replaced_before_it_ends(
    fleet: Fleet, endpoint: Endpoint, journal: Journal, later: Callable[[float], None]
) -> None:
    """So that none is refused on its way, and an outage of the endpoint at that moment costs nothing."""
    delivery = fleet.process()
    assert send(delivery) == DELIVERED
    later(3600 * 0.85)
    assert send(delivery) == DELIVERED
    assert endpoint.fetches == 1
    fleet.forget_the_fetch()
    endpoint.answer = Said(500)
    later(3600 * 0.92)
    assert send(delivery) == DELIVERED  # the present one still serves
    endpoint.answer = None
    fleet.forget_the_fetch()
    assert send(delivery) == DELIVERED
    assert endpoint.tokens == ["1", "1", "1", "3"]


def test_nobody_waits_for_a_token_while_the_present_one_serves(
    fleet: Fleet, endpoint: Endpoint, journal: Journal, later: Callable[[float], None]
) -> None:
    """One thread fetches the next one from an endpoint that takes its time; the others go on."""
    delivery = fleet.process()
    send(delivery)
    fleet.forget_the_fetch()
    later(3600 * 0.92)
    endpoint.holds.clear()
    fetching = threading.Thread(target=lambda: send(delivery))
    fetching.start()
    wait_until(lambda: endpoint.fetches == 2)
    assert [send(delivery), send(fleet.process())] == [DELIVERED] * 2
    endpoint.holds.set()
    fetching.join(9)
    assert endpoint.tokens == ["1", "1", "1", "2"]


def test_a_token_that_has_ended_is_not_used(fleet: Fleet, endpoint: Endpoint, later: Callable[[float], None]) -> None:
    """Not even where no other one is to be had."""
    delivery = fleet.process(f"redis://127.0.0.1:{free_port()}/0")
    assert send(delivery) == DELIVERED
    endpoint.answer = Said(500)
    later(3571)
    assert send(delivery) == UNREACHABLE
    assert endpoint.tokens == ["1"]


def test_a_secret_in_a_file_is_read_for_each_token(
    fleet: Fleet,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A rotated client secret works without a restart."""
    path = tmp_path / "secret"
    path.write_text("old")
    monkeypatch.setenv("FLUXY_SYNC_AUTH_OAUTH2_CLIENT_SECRET_FILE", str(path))
    del fleet.settings["auth_oauth2_client_secret"]
    delivery = fleet.process()
    send(delivery)
    path.write_text("new")
    fleet.forget_the_fetch()
    endpoint.valid = {"2"}
    assert send(delivery) == DELIVERED
    first, second = endpoint.server.seen
    assert first.authorization != second.authorization


# --- without a store


def test_without_a_store_a_process_has_a_token_of_its_own(fleet: Fleet, endpoint: Endpoint) -> None:
    """Deliveries don't depend on sharing; the pause holds all the same."""
    delivery = fleet.process(f"redis://127.0.0.1:{free_port()}/0")
    assert together(delivery, delivery) == [DELIVERED] * 2
    assert endpoint.fetches == 1
    endpoint.valid = set()
    assert [send(delivery), send(delivery)] == [UNAUTHORIZED] * 2
    assert endpoint.fetches == 1


@pytest.mark.parametrize("step", ["load", "take_turn", "save", "pass_turn"])
def test_a_store_that_goes_away_meanwhile_costs_no_second_fetch(
    fleet: Fleet, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At any step: what was fetched serves this process."""

    def fail(*_: Any) -> Any:
        raise StorageUnavailable("the store went away")

    monkeypatch.setattr(SharedPlace, step, fail)
    delivery = fleet.process()
    assert [send(delivery), send(delivery)] == [DELIVERED] * 2
    assert endpoint.fetches == 1
