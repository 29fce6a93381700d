"""Where an OAuth2 access token is kept, and whose turn it is to fetch one: in the store, for all processes, or in one.

Whoever can write to the store can write anything there. So what is read is bounded, and counts only in the forms that
are written here: anything else is as if nothing were there, and is replaced.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from fluxy_sync.errors import SealError
from fluxy_sync.flight import boottime
from fluxy_sync.journal import Store
from fluxy_sync.journal.keys import Keys
from fluxy_sync.operation import origin_of
from fluxy_sync.settings import Settings
from fluxy_sync.vault import Vault, associated_data

TURN_S = 15.0  # how long one process may fetch while the others wait
EARLY = (
    0.1  # of its lifetime: so long before its end it is replaced, so that a short outage of the endpoint costs nothing
)
UNREACHABLE = "token-unreachable"
REFUSED = "token-refused"
FETCHED, FAILED = "fetched:", "failed:"
FAILURES = (UNREACHABLE, REFUSED)
NAME_CHARACTERS = 16
LONGEST_SEALED_BYTES = 64 * 1024


class Token(msgspec.Struct, frozen=True):
    """An access token as it is sealed and shared. ``lifetime_s``: how long it may be used, from when it was fetched."""

    generation: str
    access_token: str
    lifetime_s: float

    def __repr__(self) -> str:
        return f"Token({self.generation})"


class Held(msgspec.Struct, frozen=True):
    """A token in this process's hands, until ``ends`` (boottime seconds)."""

    token: Token
    ends: float

    @property
    def serves(self) -> bool:
        return boottime() < self.ends

    @property
    def is_fresh(self) -> bool:
        return boottime() < self.ends - EARLY * self.token.lifetime_s


class Place(Protocol):
    """Where a token is kept, and whose turn it is to fetch one.

    The turn is a text: the name of who fetches now (16 hexadecimal digits), or for a while what came of the last fetch:
    ``fetched:`` and the token's generation (16 more), or ``failed:`` and one of FAILURES.
    """

    def load(self) -> Held | None:
        """The token, where one is kept that serves."""

    def save(self, token: Token) -> None:
        """Keep it as long as it may be used."""

    def take_turn(self, name: str) -> str:
        """Take the turn if nobody has it; returns whose it is now."""

    def pass_turn(self, old: str, new: str, lasts_s: float) -> bool:
        """Replace the turn if it still is ``old``; an empty ``new`` ends it."""


def audience_of(settings: Settings) -> bytes:
    """What a token is good for: a hash of where it comes from, for whom it was asked, and where it is sent.

    The client certificate counts by its file's name: one that was renewed there is the same client's.
    """
    parts = (
        origin_of(settings.upstream) if settings.upstream else "",
        settings.auth_oauth2_token_url or "",
        settings.auth_oauth2_client_id or "",
        settings.auth_oauth2_scope or "",
        str(settings.client_cert or ""),
    )
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(associated_data(b"fluxy-sync access token", *encoded)).digest()


class SharedPlace:
    """In the store, sealed: for all processes of a namespace that use the same token. Raises StorageUnavailable.

    Args:
        audience: as ``audience_of`` gives it. A token or a turn of another one counts as none.
        store, vault: asked for when they are needed.
    """

    _LOAD = (
        "if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('STRLEN', KEYS[1]) > tonumber(ARGV[1]) then "
        "return {false, -2} end return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}"
    )
    # ARGV: the audience's prefix, the name, the turn's milliseconds, what else may follow the prefix. A turn without an
    # end, or with one that is too far away (the store's clock went back), is over.
    _TAKE_TURN = """
        local function is_name(text) return #text == 16 and not text:find('[^0-9a-f]') end
        local function is_turn(text)
            if is_name(text) or (text:sub(1, 8) == 'fetched:' and is_name(text:sub(9))) then return true end
            for index = 4, #ARGV do if text == ARGV[index] then return true end end
            return false
        end
        if redis.call('TYPE', KEYS[1]).ok == 'string' then
            local left, prefix = redis.call('PTTL', KEYS[1]), ARGV[1]
            local found = redis.call('GETRANGE', KEYS[1], 0, 127)
            local turn = found:sub(#prefix + 1)
            if left > 0 and left <= tonumber(ARGV[3]) and found:sub(1, #prefix) == prefix and is_turn(turn) then
                return turn
            end
        end
        redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2], 'PX', ARGV[3])
        return ARGV[2]
    """
    _HAND_OVER = (
        "if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('GETRANGE', KEYS[1], 0, 127) ~= ARGV[1] then "
        "return 0 end if ARGV[2] == '' then redis.call('DEL', KEYS[1]) "
        "else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end return 1"
    )

    def __init__(self, namespace: str, audience: bytes, store: Callable[[], Store], vault: Callable[[], Vault]) -> None:
        self._keys = Keys(namespace)
        self._context = associated_data(b"auth", namespace.encode(), audience)
        self._prefix = f"{audience.hex()[:NAME_CHARACTERS]}:"
        self._store, self._vault = store, vault

    def load(self) -> Held | None:
        sealed, left_ms = self._store().command("EVAL", self._LOAD, 1, self._keys.auth, LONGEST_SEALED_BYTES)
        if sealed is None or left_ms == -2:
            return None
        try:
            token = msgspec.msgpack.decode(self._vault().open(sealed, self._context), type=Token)
        except (SealError, msgspec.MsgspecError):
            # Sealed with a key that this process hasn't, for another audience, or changed: another one takes its place.
            return None
        # The store's clock may have gone back, or somebody made the key last: never longer than it was given.
        left_s = token.lifetime_s if left_ms < 0 else min(left_ms / 1000, token.lifetime_s)
        return Held(token, boottime() + left_s)

    def save(self, token: Token) -> None:
        lasts_ms = int(token.lifetime_s * 1000)
        if lasts_ms > 0:
            sealed = self._vault().seal(msgspec.msgpack.encode(token), self._context)
            self._store().command("SET", self._keys.auth, sealed, "PX", lasts_ms)

    def take_turn(self, name: str) -> str:
        failures = [f"{FAILED}{reason}" for reason in FAILURES]
        turn: bytes = self._store().command(
            "EVAL", self._TAKE_TURN, 1, self._keys.auth_lock, self._prefix, name, int(TURN_S * 1000), *failures
        )
        return turn.decode("ascii")

    def pass_turn(self, old: str, new: str, lasts_s: float) -> bool:
        after = f"{self._prefix}{new}" if new else ""
        arguments = (self._keys.auth_lock, f"{self._prefix}{old}", after, int(lasts_s * 1000))
        return bool(self._store().command("EVAL", self._HAND_OVER, 1, *arguments))


class PrivatePlace:
    """In this process alone: without a store, or while it is away."""

    def __init__(self) -> None:
        self._held: Held | None = None
        self._turn, self._turn_ends = "", 0.0

    def load(self) -> Held | None:
        return self._held if self._held is not None and self._held.serves else None

    def save(self, token: Token) -> None:
        self._held = Held(token, boottime() + token.lifetime_s)

    def take_turn(self, name: str) -> str:
        if not self._turn or boottime() >= self._turn_ends:
            self._turn, self._turn_ends = name, boottime() + TURN_S
        return self._turn

    def pass_turn(self, old: str, new: str, lasts_s: float) -> bool:
        if self._turn != old:
            return False
        self._turn, self._turn_ends = new, boottime() + lasts_s
        return True
