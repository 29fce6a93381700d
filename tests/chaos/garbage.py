"""Bytes that nobody would write, of every kind; and keys of the store filled with them."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import redis

from tests.chaos.trial import Run

HUGE_BYTES, HUGER_BYTES = 1024 * 1024, 4 * 1024 * 1024
STEERING = b"\x1b[2J\x1b]0;owned\x07\r\nINFO forged line\x9b31m\xc2\x9b2J\xe2\x80\xae"
BEYOND = (
    b"9" * 400, b"-1", b"0", b"1e308", b"-1e400", b"nan", b"inf", b"9223372036854775807", b"1" + b"0" * 15, b"0x10",
    b"\xc2\xb2", b"1 2 3", b"9999 9999 9999 9999 x \0x", b"99999999999999 99999999999999 99999999999999 0 503 x",
)  # fmt: skip
DEEP_JSON = (b"[" * 100_000, b'{"a":' * 50_000, b'{"pending":' + b"[" * 5000 + b"]" * 5000 + b"}")
ODD_JSON = (b"[]", b"7", b"null", b'"text"', b"{}", b'{"\\ud800": 1}', b"NaN", b"[" + b"9" * 5000 + b"]", b'{"a": 1')

Make = Callable[[bytes, random.Random], bytes]

KINDS: dict[str, Make] = {
    "noise": lambda _, chance: chance.randbytes(chance.randrange(1, 200)),
    "no UTF-8": lambda was, _: b"\xff\xfe\x80" + was[:20],
    "control characters": lambda _, chance: STEERING,
    "deep JSON": lambda _, chance: chance.choice(DEEP_JSON),
    "odd JSON": lambda _, chance: chance.choice(ODD_JSON),
    "beyond bounds": lambda _, chance: chance.choice(BEYOND),
    "truncated": lambda was, chance: was[: chance.randrange(max(1, len(was)))],
    "a bit": lambda was, chance: flipped(was, chance),
    "empty": lambda _was, _: b"",
}  # fmt: skip
ABSENT, HUGE, ELSEWHERE, WRONG_TYPE = "absent", "huge", "a value of another place", "another type"


def flipped(data: bytes, chance: random.Random) -> bytes:
    """One bit of it changed."""
    at = chance.randrange(max(1, len(data)))
    return data[:at] + bytes([(data[at] if data else 0) ^ 1 << chance.randrange(8)]) + data[at + 1 :]


class Garbage:
    """All kinds of it, or some by chance in a short run.

    Args:
        elsewhere: values that are right in other places.
    """

    def __init__(self, run: Run, elsewhere: Callable[[], Sequence[bytes]] = lambda: ()) -> None:
        self.chance, self._run, self._elsewhere = run.chance, run, elsewhere
        self.written = 0

    def kinds(self, *more: str, most: int = 4) -> list[str]:
        """Names of kinds, in any order; ``more`` are those that fit the place alone."""
        always = ["control characters", "no UTF-8"]
        others = [kind for kind in (*KINDS, HUGE, ELSEWHERE, ABSENT, *more) if kind not in always]
        chosen = [*always, *self.chance.sample(others, max(0, most - len(always)))]
        return self._run.scale(self.chance.sample(chosen, len(chosen)), [*always, *others] * 3)

    def bytes_of(self, kind: str, was: bytes = b"") -> bytes:
        """Some bytes of a kind; none for what isn't there."""
        self.written += 1
        if kind == HUGE:
            return (was or b"A") * (self._run.scale(HUGE_BYTES, HUGER_BYTES) // max(1, len(was)))
        if kind == ELSEWHERE:
            return self.chance.choice([value for value in self._elsewhere() if value != was] or [b""])
        return KINDS[kind](was, self.chance) if kind in KINDS else b""

    def values(self, was: bytes = b"", *, most: int = 4) -> Iterator[tuple[str, bytes]]:
        """Kind and bytes, one after another."""
        for kind in self.kinds(most=most):
            yield kind, self.bytes_of(kind, was)

    def one(self, was: bytes = b"") -> tuple[str, bytes]:
        """Kind and bytes, by chance."""
        kind = self.chance.choice([*KINDS, HUGE, ELSEWHERE, ABSENT])
        return kind, self.bytes_of(kind, was)

    # --- a key of the store

    def fill(self, client: "redis.Redis", key: str, kind: str, usual: str) -> None:
        """Spoil what a key holds; ``usual`` is its type, for one that isn't there."""
        found = client.type(key).decode()
        if kind in (ABSENT, WRONG_TYPE):
            client.delete(key)
        if kind == WRONG_TYPE:
            others = [one for one in FILLERS if one != usual]
            FILLERS[self.chance.choice(others)](self, client, key, "noise")
        elif kind != ABSENT:
            FILLERS[usual if found == "none" else found](self, client, key, kind)

    def _string(self, client: "redis.Redis", key: str, kind: str) -> None:
        client.set(key, self.bytes_of(kind, client.get(key) or b""))

    def _hash(self, client: "redis.Redis", key: str, kind: str) -> None:
        fields = dict(client.hgetall(key)) or {b"honest": b"1 1 x 1"}
        chosen = self.chance.sample(sorted(fields), min(8, len(fields)))
        client.hset(key, mapping={field: self.bytes_of(kind, fields[field]) for field in chosen})
        client.hset(key, self.bytes_of("no UTF-8" if kind == HUGE else kind, chosen[0]), fields[chosen[0]])

    def _zset(self, client: "redis.Redis", key: str, kind: str) -> None:
        members = client.zrange(key, 0, 20) or [b"honest"]
        scores = (0.0, -1.0, 1.0, 1e15, 1e300, float("inf"), float("-inf"))
        client.zadd(key, {member: self.chance.choice(scores) for member in members})
        client.zadd(key, {self.bytes_of(kind, members[0]): self.chance.choice(scores)})

    def _list(self, client: "redis.Redis", key: str, kind: str) -> None:
        was = client.lrange(key, 0, 7)
        for at, value in enumerate(was):
            client.lset(key, at, self.bytes_of(kind, value))
        client.rpush(key, self.bytes_of(kind, was[0] if was else b""))

    def _set(self, client: "redis.Redis", key: str, kind: str) -> None:
        client.sadd(key, self.bytes_of(kind, next(iter(client.smembers(key)), b"")))

    def _stream(self, client: "redis.Redis", key: str, kind: str) -> None:
        names = ("wall", "who", "what", "which")
        client.xadd(key, {name: self.bytes_of(kind, b"1") for name in self.chance.sample(names, 3)})
        client.xadd(key, {self.bytes_of(kind, b"who"): b"x"})


FILLERS = {
    "string": Garbage._string, "hash": Garbage._hash, "zset": Garbage._zset, "list": Garbage._list,
    "set": Garbage._set, "stream": Garbage._stream,
}  # fmt: skip


@contextmanager
def put_back(client: "redis.Redis", *keys: str) -> Iterator[None]:
    """What happens to keys is undone in the end, but for their time to live."""
    before = {key: client.dump(key) for key in keys}
    try:
        yield
    finally:
        for key, value in before.items():
            client.delete(key)
            if value is not None:
                client.restore(key, 0, value, replace=True)
