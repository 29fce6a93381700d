"""What a field engineer reads: every code in words, lengths of time and sizes, and nothing that steers a terminal."""

import re
from pathlib import Path

import pytest

from fluxy_sync.journal.record import pack_id
from fluxy_sync.outcome import EXPIRED
from fluxy_sync.words import REASONS, duration, many, reason_text, size_text, visible

ROOT = Path(__file__).resolve().parents[2] / "fluxy_sync"
UUID = "01a20919-671f-7c2e-9d1b-0a4f0d1b2c3d"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("refused", "connection refused"),
        ("expired", "its time was over before it was sent"),
        ("503", "the upstream answered 503 Service Unavailable"),
        ("413", "the upstream answered 413 Content Too Large"),
        ("414", "the upstream answered 414 URI Too Long"),
        ("416", "the upstream answered 416 Range Not Satisfiable"),
        ("422", "the upstream answered 422 Unprocessable Content"),
        ("tls:certificate-has-expired", "the TLS handshake failed: certificate has expired"),
        ("599", "the upstream answered 599"),
        ("wrong-answer-503", "the upstream answers 503"),
        ("retries-spent:503", "its retries are spent; the last: the upstream answered 503 Service Unavailable"),
        ("retries-spent:read-timeout", "its retries are spent; the last: no answer to the request"),
        ("ValueError", "its task raised ValueError"),
        ("key:1a2b3c4d", "key 1a2b3c4d is missing"),
        ("worker-error:KeyError", "the worker failed with KeyError: its log tells where"),
        ("task:shop.publish", "no worker has the task shop.publish"),
        (f"halted:{pack_id(UUID).hex()}", f"halted by the dead letter {UUID}"),
        (f"halted:{pack_id('invoice-7').hex()}", "halted by the dead letter invoice-7"),
        ("halted:zz", "halted by the dead letter ?"),
        ("by ann@gateway (cli)", "by ann@gateway (cli)"),
        ("new-code", "new-code"),
        ("", ""),
    ],
)
def test_each_code_has_its_words(reason: str, text: str) -> None:
    """Codes, statuses, and causes of a hold are told in words; what is new is shown as it is, never hidden."""
    assert reason_text(reason) == text


def test_every_fixed_code_of_the_engine_has_words() -> None:
    """A code that the outcome table, the credentials or a script can give is in the list."""
    sources = [*ROOT.glob("*.py"), *(ROOT / "journal" / "lua").glob("*.lua")]
    text = "\n".join(source.read_text() for source in sources)
    given = set(re.findall(r'(?:NoConnection|Lost|Unsendable|CredentialsError)\("([a-z-]+)"\)', text))
    given |= set(re.findall(r'Verdict\.\w+, "([a-z-]+)"', text))
    given |= set(re.findall(r"bury\w*\(.*'([a-z-]+)'", text))
    given |= {EXPIRED}
    given -= {"returned"}
    assert {"dns", "expired", "corrupt", "killed-its-worker"} <= given
    assert given <= REASONS.keys()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86405, "1 d")],
)
def test_durations_are_read_at_once(seconds: float, text: str) -> None:
    """Two neighbouring units at most."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"), (64_000, "64 kB"), (999_600, "1.0 MB"),
        (1.5e9, "1.5 GB"), (5e15, "5000.0 TB"),
    ],
)  # fmt: skip
def test_sizes_are_short(size: float, text: str) -> None:
    """Three digits and a unit."""
    assert size_text(size) == text


def test_numbers_have_their_word() -> None:
    """One is one, and thousands are set apart."""
    assert (many(1, "lane"), many(2000, "lane"), many(0, "retry", "retries")) == ("1 lane", "2,000 lanes", "0 retries")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grüße 日本 👋", "grüße 日本 👋"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("one\ntwo\r", r"one\ntwo\r"),
        ("a\u202eb\u200b", r"a\u202eb\u200b"),
        ("\udc80", r"\udc80"),
    ],
)
def test_no_text_steers_a_terminal(text: str, shown: str) -> None:
    """Escape sequences, line ends and marks that turn the direction are written out; letters of all scripts stay."""
    assert visible(text) == shown
    assert visible("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"
