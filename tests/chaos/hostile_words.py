"""What may stand on the command line, and in the settings around it."""

import random
from collections.abc import Sequence

COMMANDS: dict[str, tuple[str, ...]] = {
    "queue": ("--body", "--header", "--lane", "--id", "--once", "--expires", "--json"),
    "status": ("--json",), "ls": ("--lane", "--limit", "--json"), "show": ("--reveal", "--json"), "doctor": ("--json",),
    "dead ls": ("--lane", "--limit", "--json"), "dead show": ("--reveal", "--json"),
    "dead replay": ("--all", "--to", "--body", "--json"), "dead accept": ("--digest", "--json"),
    "dead drop": ("--all", "--yes", "--json"),
    "cancel": ("--lane", "--json"), "clear": ("--lane", "--yes", "--json"), "pause": ("--lane", "--wait", "--json"),
    "resume": ("--lane", "--json"), "audit": ("--limit", "--json"), "keys new": (), "keys ls": ("--json",),
    "keys rotate": ("--retire", "--json"), "completion": ("bash", "zsh", "fish"), "": ("--version", "--help"),
    "dead": (),
    "keys": (), "nonsense": (),
}  # fmt: skip
ENDLESS = ("up", "demo", "watch", "flower")  # with an option that none of them has
WORDS = (
    "", "-", "--", "-1", "0", "1e9", "nan", "inf", "9" * 400, "POST", "GET", "FETCH", "/x",
    "http://elsewhere.example/", "x", "%00",
    "\x1b[2J", "\r\n", "a\tb", "\u202e", "\ud800", "\U0001f600", "x" * 5000, "/" + "x" * 9000, "@/nonexistent",
    "@/dev/null", "@/",
    "a:b", "a", ": b", "X: \r\nY: z", "Idempotency-Key: x", "{}", '{"a": NaN}', "[" * 3000, "~x", "default", "dead-1",
    "-h", "--help",
    "--json", "--yes", "--all", "head", "tail", "%s", "{0}", "$(id)", "'; --", "../../etc/passwd",
)  # fmt: skip


RIGHT = (
    "audit", "audit --json", "ls", "ls --json", "status", "status --json", "dead ls", "dead ls --json",
    "dead show damaged-1",
    "dead show damaged-1 --json", "dead replay --all", "dead drop damaged-1 --yes", "show x", "cancel x", "pause",
    "resume",
    "pause --lane ok", "resume --lane ok", "clear --lane ok --yes", "keys ls", "keys ls --json",
    "queue POST /x --lane ok",
)  # fmt: skip


def command_line(chance: random.Random) -> list[str]:
    """A command, some of its options and words in any order; or one that is right, for what it finds in the store."""
    if chance.random() < 0.4:
        return chance.choice(RIGHT).split()
    name = chance.choice(list(COMMANDS))
    if chance.random() < 0.05:
        return [chance.choice(ENDLESS), f"--{chance.choice(['nonsense', 'x=1', '...'])}", *some(chance, WORDS)]
    if name == "queue" and chance.random() < 0.5:
        return ["queue", "POST", "/x", *mixed(chance, COMMANDS[name])]
    return [*name.split(), *mixed(chance, COMMANDS[name])]


def mixed(chance: random.Random, options: Sequence[str]) -> list[str]:
    found: list[str] = []
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        if options and chance.random() < 0.6:
            found.append(chance.choice(options))
        if chance.random() < 0.7:
            found.append(chance.choice(WORDS))
    return found


def some(chance: random.Random, words: Sequence[str]) -> list[str]:
    return chance.choices(words, k=chance.choice([0, 1, 2]))


SETTINGS: dict[str, tuple[str, ...]] = {
    "NAMESPACE": ("", "a b", "x" * 100, "..", "other"), "UPSTREAM": ("", "x", "ftp://x", "http://", "http://[::1",
    "http://a:b@c"),
    "KEYS": ("", "x", "AAAA", "\ud800", "A" * 44), "MAX_PENDING": ("-1", "x", "1e3", "9" * 30), "DURABILITY": ("never",
    ""),
    "REDIS_URL": ("redis://127.0.0.1:1", "x://", "unix:///nonexistent", "redis://[", "redis://h:99999999",
    "sentinel://x"),
    "ALLOWED_ORIGINS": ("x", "http://a,b", "\x00"), "ONCE_WINDOW_S": ("-1", "nan", "inf"), "TOTAL_TIMEOUT_S": ("0",
    "-1", "x"),
    "PROBE_EXPECT": ("x", "status=x", "header=x"), "IMPORTS": ("no.such.module", "..", "os:x"), "CONFIG": ("x",),
    "NOSUCH": ("1",),
}  # fmt: skip


def odd_settings(chance: random.Random) -> dict[str, str]:
    """Mostly none; sometimes one variable that can't be right, or isn't known."""
    if chance.random() < 0.75:
        return {}
    name = chance.choice(list(SETTINGS))
    value = chance.choice(SETTINGS[name])
    return {} if "\0" in value or "\ud800" in value else {f"FLUXY_SYNC_{name}": value}
