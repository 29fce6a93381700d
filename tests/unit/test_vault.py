"""The vault: what it seals only its ring opens, only in its own place, and only unchanged."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxy_sync.errors import ConfigError, CorruptRecord, SealError, UnknownKey
from fluxy_sync.vault import KEY_BYTES, OVERHEAD_BYTES, Vault, associated_data, key_id_of, new_key, parse_key

FIRST, SECOND, THIRD = bytes(range(32)), bytes(range(1, 33)), b"k" * 32
VAULT = Vault([FIRST])
CONTEXT = associated_data(b"\1", b"fluxy", b"default", b"op-1")


@given(st.binary(max_size=2000), st.binary(max_size=100))
def test_what_is_sealed_opens_again(plaintext: bytes, context: bytes) -> None:
    """With the same ring and context, byte for byte, at a fixed cost in bytes."""
    sealed = VAULT.seal(plaintext, context)
    assert VAULT.open(sealed, context) == plaintext
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES


@given(st.binary(min_size=8, max_size=200))
def test_nothing_of_the_text_is_seen(plaintext: bytes) -> None:
    """And two seals of one text have nothing in common but the key's id."""
    one, two = VAULT.seal(plaintext, b""), VAULT.seal(plaintext, b"")
    assert plaintext not in one
    assert one[:4] == two[:4] == key_id_of(FIRST)
    assert one[4:] != two[4:]


@given(st.binary(max_size=64), st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_is_noticed(plaintext: bytes, at: int, bit: int) -> None:
    """Wherever it is, the record is corrupt: in its key's id, too, as one of the ring's keys opens the rest."""
    sealed = bytearray(VAULT.seal(plaintext, CONTEXT))
    at %= len(sealed)
    sealed[at] ^= 1 << bit
    with pytest.raises(CorruptRecord):
        VAULT.open(bytes(sealed), CONTEXT)


@given(st.binary(max_size=64), st.data())
def test_whatever_is_cut_off_is_noticed(plaintext: bytes, data: st.DataObject) -> None:
    """A shorter record is corrupt, however short."""
    sealed = VAULT.seal(plaintext, CONTEXT)
    with pytest.raises(CorruptRecord):
        VAULT.open(sealed[: data.draw(st.integers(0, len(sealed) - 1))], CONTEXT)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_a_record_opens_in_its_own_place_only(here: bytes, there: bytes) -> None:
    """Under another id, lane or namespace it is corrupt."""
    sealed = VAULT.seal(b"text", here)
    if here == there:
        assert VAULT.open(sealed, there) == b"text"
    else:
        with pytest.raises(CorruptRecord):
            VAULT.open(sealed, there)


@given(st.lists(st.binary(max_size=8), max_size=5), st.lists(st.binary(max_size=8), max_size=5))
def test_no_two_places_are_bound_alike(one: list[bytes], two: list[bytes]) -> None:
    """('ab', 'c') and ('a', 'bc') are different contexts."""
    assert (associated_data(*one) == associated_data(*two)) is (one == two)


def test_the_first_key_seals_and_all_keys_open() -> None:
    """A new key goes in front; what the old one sealed still opens."""
    old = Vault([FIRST]).seal(b"old", CONTEXT)
    ring = Vault([SECOND, FIRST])
    assert ring.open(old, CONTEXT) == b"old"
    new = ring.seal(b"new", CONTEXT)
    assert new[:4] == key_id_of(SECOND)
    assert ring.key_ids == (key_id_of(SECOND).hex(), key_id_of(FIRST).hex())
    with pytest.raises(UnknownKey):
        Vault([FIRST]).open(new, CONTEXT)


def test_a_missing_key_is_named() -> None:
    """By its id, so that a person can find it, with where to put it; nothing says that the record is lost."""
    sealed = Vault([THIRD]).seal(b"text", CONTEXT)
    with pytest.raises(UnknownKey, match=r"record is kept.*FLUXY_SYNC_KEYS") as caught:
        VAULT.open(sealed, CONTEXT)
    assert caught.value.key_id == key_id_of(THIRD).hex()
    assert caught.value.key_id in str(caught.value)
    assert isinstance(caught.value, SealError)


def test_an_empty_ring_says_how_to_make_a_key() -> None:
    """A missing key is a setting that is missing."""
    with pytest.raises(ConfigError, match="fluxy-sync keys new"):
        Vault([])


def test_two_keys_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one of them would never open anything; a key that is only written twice is no harm."""
    assert Vault([FIRST, FIRST]).key_ids == (key_id_of(FIRST).hex(),)
    monkeypatch.setattr("fluxy_sync.vault.key_id_of", lambda key: b"same")
    with pytest.raises(ConfigError, match="replace one"):
        Vault([FIRST, SECOND])


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
def test_keys_are_read_in_both_alphabets(key: bytes) -> None:
    """base64url, as we print it, and plain base64; spaces around it don't matter."""
    for text in (base64.urlsafe_b64encode(key), base64.b64encode(key)):
        assert parse_key(f" {text.decode()}\n") == key


@pytest.mark.parametrize("text", ["", "secret", "a" * 43, "é" * 44, base64.b64encode(b"x" * 31).decode(), "=" * 44])
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    """The sentence names the setting and never repeats the value."""
    with pytest.raises(ConfigError, match="FLUXY_SYNC_KEYS") as caught:
        parse_key(text)
    assert not text or text not in str(caught.value)


def test_new_keys_are_keys() -> None:
    """Fresh each time, in the form that the setting takes."""
    one, two = new_key(), new_key()
    assert one != two
    assert Vault.from_text([one, two]).key_ids[0] == key_id_of(parse_key(one)).hex()


class Ring:
    """A ring that may change, and how often it was read."""

    def __init__(self, *keys: bytes) -> None:
        self.keys: tuple[bytes, ...] | ConfigError = keys
        self.reads = 0

    def __call__(self) -> tuple[bytes, ...]:
        self.reads += 1
        if isinstance(self.keys, ConfigError):
            raise self.keys
        return self.keys


def test_an_unknown_key_is_looked_for_at_once() -> None:
    """A ring in a file is read anew for it, and opens what it has by then."""
    ring = Ring(FIRST)
    vault = Vault([FIRST], ring)
    sealed = Vault([SECOND]).seal(b"text", CONTEXT)
    with pytest.raises(UnknownKey):
        vault.open(sealed, CONTEXT)
    ring.keys = (SECOND, FIRST)
    assert vault.open(sealed, CONTEXT) == b"text"
    assert ring.reads == 2
    assert vault.sealed_by(key_id_of(SECOND).hex())


def test_a_changed_ring_seals_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't read for each seal, but once a second."""
    now = [100.0]
    monkeypatch.setattr("fluxy_sync.vault.time.monotonic", lambda: now[0])
    ring = Ring(FIRST)
    vault = Vault([FIRST], ring)
    ring.keys = (SECOND, FIRST)
    assert vault.seal(b"", CONTEXT)[:4] == key_id_of(FIRST)
    now[0] += 1.0
    assert [vault.seal(b"", CONTEXT)[:4] for _ in range(3)] == [key_id_of(SECOND)] * 3
    assert ring.reads == 1


@pytest.mark.parametrize("broken", [(), ConfigError("it is being written")])
def test_a_ring_that_can_not_be_read_stays_as_it_was(broken: "tuple[bytes, ...] | ConfigError") -> None:
    """A file that is empty or damaged for a moment takes no key away."""
    ring = Ring(FIRST)
    vault = Vault([FIRST], ring)
    ring.keys = broken
    vault.refresh(at_once=True)
    assert vault.open(vault.seal(b"text", CONTEXT), CONTEXT) == b"text"
