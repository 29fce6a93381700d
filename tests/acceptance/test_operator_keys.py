"""The keys, listed and rotated by the command line."""

import os
import re
import time
from pathlib import Path

import pytest

from fluxy_sync import FluxySync
from fluxy_sync.cli.rotate import begin
from fluxy_sync.rotation import Rotation
from fluxy_sync.vault import key_id_of, new_key, parse_key
from tests.command_line import CommandLine, document, notes_of, refused
from tests.conftest import Gateway
from tests.stuck import MARKER, die, queue


def id_of(key: str) -> str:
    return key_id_of(parse_key(key)).hex()


@pytest.fixture
def ring(gateway: Gateway, tmp_path: Path) -> Path:
    """The gateway's ring in a file."""
    path = tmp_path / "ring"
    path.write_text(gateway.environment.pop("FLUXY_SYNC_KEYS"))
    gateway.environment["FLUXY_SYNC_KEYS_FILE"] = str(path)
    return path


def test_keys_ls_counts_what_each_key_has_sealed(with_store: CommandLine, gateway: Gateway, sync: FluxySync) -> None:
    """The ring's keys by their ids, which one seals, and those that records need and the ring lacks; never a key."""
    first, second = gateway.environment["FLUXY_SYNC_KEYS"], new_key()
    queue(sync, "a")
    die(sync, "b")
    found = document(with_store("keys", "ls", "--json", KEYS=f"{second},{first}"))
    assert found == {
        "file": None,
        "keys": [
            {"id": id_of(second), "in_ring": True, "seals": True, "records": 0},
            {"id": id_of(first), "in_ring": True, "seals": False, "records": 2},
        ],
    }
    lacking = with_store("keys", "ls", KEYS=second).stdout
    assert re.search(rf"{id_of(first)} +2 +missing", lacking)
    assert first not in lacking
    assert second not in lacking


def test_keys_rotate_seals_everything_with_a_new_key(with_store: CommandLine, ring: Path, gateway: Gateway) -> None:
    """A new key stands first in the ring's file and has sealed everything; --retire takes the old one out."""
    sync = FluxySync(gateway.settings())
    waits, dead = queue(sync, "a"), die(sync, "b", detail=b"because")
    old = ring.read_text()
    done = document(with_store("keys", "rotate", "--json"))
    assert (done["new_key"], done["done"], done["resealed"], done["skipped"]) == (True, True, 2, 0)
    assert done["old_keys"] == [id_of(old)]
    assert id_of(ring.read_text().split()[0]) == done["key"] != id_of(old)
    retired = document(with_store("keys", "rotate", "--retire", "--json"))
    assert (retired["new_key"], retired["retired"], retired["old_keys"]) == (False, [id_of(old)], [])
    assert ring.read_text().split() == [ring.read_text().strip()]
    for operation_id in (waits, dead):
        assert document(with_store("show", operation_id, "--reveal", "--json"))["request"]["path"] == f"/{MARKER}"
    noted = {("add a key", done["key"]), ("rotate", done["key"]), ("retire keys", id_of(old))}
    assert noted <= set(notes_of(with_store))


def test_a_rotation_that_was_killed_goes_on_with_its_key(with_store: CommandLine, ring: Path, gateway: Gateway) -> None:
    """While records wait to be re-sealed no further key is made, and it is said which one it goes on with."""
    sync = FluxySync(gateway.settings())
    queue(sync, "a")
    key = Rotation(sync.engine, "a test").add_key()  # and there it was killed
    shown = with_store("keys", "rotate")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"A rotation is under way: it goes on with the key {key}" in shown.stdout
    assert "1 record re-sealed" in shown.stdout
    assert len(ring.read_text().split()) == 2


def test_a_ring_that_cannot_be_changed_here_is_rotated_to_its_first_key(
    ring: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: no further key is tried, even if nothing waits that an old one has sealed."""
    key = new_key()
    ring.write_text(f"{key}\n{ring.read_text()}")
    monkeypatch.setattr("fluxy_sync.rotation.os.access", lambda *_: False)
    sync = FluxySync(gateway.settings())
    begun = begin(Rotation(sync.engine, "a test"), sync.engine, retire=False)
    assert (begun.key, begun.added) == (id_of(key), False)


def test_a_ring_in_the_environment_is_rotated_by_hand(
    with_store: CommandLine, gateway: Gateway, sync: FluxySync
) -> None:
    """What waits is re-sealed to the ring's first key, and it is said how a new one comes in front."""
    first, second = gateway.environment["FLUXY_SYNC_KEYS"], new_key()
    queue(sync, "a")
    shown = with_store("keys", "rotate", KEYS=f"{second} {first}").stdout
    assert "fluxy-sync keys new" in shown
    assert "1 record re-sealed" in shown
    assert document(with_store("keys", "ls", "--json", KEYS=second))["keys"][0]["records"] == 1
    assert "--retire" in refused(with_store("keys", "rotate", "--retire", KEYS=f"{second} {first}"), 2)


def test_what_no_key_opens_is_kept_and_counted(with_store: CommandLine, ring: Path, gateway: Gateway) -> None:
    """A record whose key is missing is skipped, and hinders no rotation."""
    queue(FluxySync(gateway.settings()), "a")
    lost = ring.read_text()
    ring.write_text(new_key())
    queue(FluxySync(gateway.settings()), "b")
    done = document(with_store("keys", "rotate", "--json"))
    assert (done["new_key"], done["done"], done["resealed"], done["skipped"]) == (True, True, 1, 1)
    keys = {one["id"]: one for one in document(with_store("keys", "ls", "--json"))["keys"]}
    assert (keys[id_of(lost)]["in_ring"], keys[id_of(lost)]["records"]) == (False, 1)


def test_a_ring_that_was_written_in_the_future_can_be_retired(ring: Path, gateway: Gateway) -> None:
    """The clock went back by years since: nobody waits for it to catch up."""
    old = ring.read_text()
    ring.write_text(f"{new_key()}\n{old}")
    sync = FluxySync(gateway.settings())
    ten_years_on = time.time() + 10 * 365 * 86_400
    os.utime(ring, (ten_years_on, ten_years_on))
    assert Rotation(sync.engine, "a test").retire() == [id_of(old)]
