"""What comes from elsewhere is text in a log and on a terminal: it steers nothing, and forges no line."""

import importlib
import io
import logging
import pkgutil
import random
import sys
from collections.abc import Iterator

import pytest

import fluxy_sync
from fluxy_sync.app import create_app
from fluxy_sync.escaping import INDENT, one_event, visible
from fluxy_sync.logs import get_logger
from fluxy_sync.settings import Settings
from fluxy_sync.supervisor import LONGEST_LINE_BYTES, Child, Command

FORGED = "[2026-01-01 00:00:00,000: INFO/MainProcess] all is well"
STEERS = [
    "\x1b[2J", "\x1b]0;owned\x07", "\x00", "\x08", "\x0b", "\x0c", "\r", "\x7f",  # C0
    "\x85", "\x9b31m", "\x9d0;owned\x9c",  # C1
    "\u202e", "\u202a", "\u2066", "\u2069", "\u200e", "\u061c",  # the direction of writing
    "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e",  # no width
    "\u2028", "\u2029", "\ud800", "\udfff", "\ue000", "\U000e0041", "\ufff9",
    "\u3164", "\u115f", "\u2800", "\u034f",  # blank
]  # fmt: skip
PLAIN = ["user:42", "naïve", "日本語", "Ünïcödé 🙂", "a\\b", "{}[]<>%s"]


@pytest.mark.parametrize("text", STEERS, ids=ascii)
def test_what_steers_is_written_out(text: str) -> None:
    """As its escape in ASCII; what stands around it stays."""
    shown = visible(f"a{text}b")
    assert shown.isprintable()
    assert text not in shown
    assert shown.startswith("a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize("text", PLAIN)
def test_what_prints_stays(text: str) -> None:
    """In whatever language."""
    assert visible(text) == text == one_event(text)


def test_no_text_gets_through() -> None:
    """Random code points of all planes, 2,000 times: what is shown prints, but for the line ends that were kept."""
    chance = random.Random(5)
    for _ in range(2_000):
        text = "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(20)))
        assert visible(text).isprintable()
        assert all(line.replace("\t", "").isprintable() for line in one_event(text).split("\n"))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a user's own configuration writes of our loggers: plain formatting, as they like it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    ours = logging.getLogger("fluxy_sync")
    ours.addHandler(handler)
    yield stream
    ours.removeHandler(handler)


def test_a_users_own_log_gets_no_raw_names_from_us(log: io.StringIO) -> None:
    """Names, errors and what errors say, in one event each, whatever formatter is configured; numbers stay numbers."""
    logger = get_logger("fluxy_sync.some_module")
    logger.error("lane %s, %d, %g s: %s", f"x\r\n{FORGED}\x1b[2J", 3, 0.5, ValueError(f"y\n{FORGED}"))
    logger.error("%(lane)s", {"lane": f"z\n{FORGED}"})
    assert log.getvalue().count("\n") == 2
    assert "\x1b" not in log.getvalue()
    assert "3, 0.5 s" in log.getvalue()
    try:
        raise ValueError(f"q\x1b[2J\n{FORGED}")
    except ValueError:
        logger.critical("it failed", exc_info=True)
    assert "\x1b" not in log.getvalue()
    assert not [line for line in log.getvalue().splitlines() if line.startswith(FORGED)]
    assert "ValueError: q" in log.getvalue()


def test_all_our_loggers_write_text() -> None:
    """Each module that logs has such a logger."""
    for module in pkgutil.walk_packages(fluxy_sync.__path__, "fluxy_sync."):
        if module.name.rpartition(".")[2] != "__main__":
            importlib.import_module(module.name)
    made = {name: one for name, one in sys.modules.items() if name.startswith("fluxy_sync") and hasattr(one, "logger")}
    assert len(made) > 15
    assert [name for name, one in made.items() if not one.logger.filters] == []


@pytest.fixture
def unconfigured() -> Iterator[None]:
    """Logging as it is in a process that has just started."""
    names = (None, "celery", "celery.task", "multiprocessing")
    kept = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level) for name in names}
    for name in names:
        logging.getLogger(name).handlers = []
    yield
    for name, (handlers, level) in kept.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("colorize", [True, False])
@pytest.mark.parametrize("format", ["[%(asctime)s] %(message)s", '{"message": "%(message)s"}', "%(name)s%(message)s"])
def test_our_workers_log_is_text_in_any_format(format: str, colorize: bool) -> None:
    """Celery's, kombu's and tasks' loggers alike; only the colours of the levels are left."""
    app = create_app(Settings(redis_url="redis://127.0.0.1:1/0", upstream="http://127.0.0.1:9"))
    stream = io.StringIO()
    for name in ("celery.worker.consumer", "celery.task", "kombu.transport"):
        logger = logging.getLogger(name)
        logger.propagate = False
        app.log.setup_handlers(logger, stream, format, colorize)
        logger.error("%s", f"\x1b[2J\r\n{FORGED}\x9b31m")
        logger.handlers.clear()
        logger.propagate = True
    written = stream.getvalue().replace("\x1b[1;31m", "").replace("\x1b[0m", "")
    assert colorize is (written != stream.getvalue())
    assert all(line.isprintable() for line in written.split("\n"))
    assert [line for line in written.split("\n") if FORGED in line and not line.startswith(INDENT)] == []


def test_a_childs_output_is_text() -> None:
    """A carriage return forges nothing, and no line that is too long goes on like a line of its own."""
    child = Child.of(Command("worker", (), {}))
    assert child.lines_of(b"a\rworker    | b\x1b[2J\tc\xff\n") == [
        "a\\rworker    | b\\x1b[2J\tc\N{REPLACEMENT CHARACTER}"
    ]
    assert child.last_words() == "a\\rworker    | b\\x1b[2J\tc\N{REPLACEMENT CHARACTER}"
    assert child.lines_of(b"x" * (LONGEST_LINE_BYTES + 1)) == ["x" * (LONGEST_LINE_BYTES + 1)]
    assert child.lines_of(b"") == []
    assert child.lines_of(b"y" * (LONGEST_LINE_BYTES + 1))[0].startswith(INDENT + "y")
    assert child.lines_of(FORGED.encode() + b"\nnext\n") == [INDENT + FORGED, "next"]
