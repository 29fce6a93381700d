"""Lines for whoever may not read them."""

import io
import os

from fluxy_sync.host.output import LineWriter
from tests.conftest import wait_until


def test_lines_come_in_order() -> None:
    """As they were said, and all of them by the end."""
    stream = io.StringIO()
    writer = LineWriter(stream)
    for n in range(1000):
        writer.say(f"line {n}")
    writer.close()
    assert stream.getvalue().splitlines() == [f"line {n}" for n in range(1000)]


def test_each_line_is_a_write_of_its_own() -> None:
    """To a stream that is no file, however many waited together: it may look at how each begins."""
    written: list[str] = []
    stream = io.StringIO()
    stream.write = written.append  # type: ignore[assignment]
    writer = LineWriter(stream)
    for n in range(1000):
        writer.say(f"line {n}")
    writer.close()
    assert written == [f"line {n}\n" for n in range(1000)]


def test_what_can_not_be_held_is_dropped_and_counted() -> None:
    """Nobody waits, memory is bounded, and the reader is told how many lines are missing, where they are missing."""
    ours, its = os.pipe()
    with os.fdopen(its, "w") as stream:
        writer = LineWriter(stream, held_bytes=100_000)
        for n in range(20_000):
            writer.say(f"line {n} {'x' * 90}")
        text = b""

        def read() -> bytes:
            nonlocal text
            text += os.read(ours, 1 << 16)
            return text

        wait_until(lambda: b"lines were dropped" in read())
        writer.say("after")
        wait_until(lambda: read().endswith(b"after\n"))
        writer.close()
    os.close(ours)
    *lines, notice, last = text.decode().splitlines()
    shown = [int(line.split()[1]) for line in lines]
    assert shown == list(range(len(shown)))
    assert notice.split("| ")[1] == f"{20_000 - len(shown)} lines were dropped: nobody read this output"
    assert last == "after"


def test_a_reader_that_went_away_ends_nothing() -> None:
    """A closed pipe is no reason to stop."""
    ours, its = os.pipe()
    os.close(ours)
    with os.fdopen(its, "w") as stream:
        writer = LineWriter(stream)
        writer.say("one")
        writer.say("two")
        writer.close()
