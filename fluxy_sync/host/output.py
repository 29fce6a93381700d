"""Lines for a terminal or a pipe that may take none for as long as it likes: nobody waits for it."""

import io
import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TextIO

HELD_BYTES = 1024 * 1024  # of lines that wait
LAST_LINES_S = 1.0  # what the end waits for them


class LineWriter:
    """Writes lines in a thread of its own. What it can't hold while nobody reads is dropped, and counted in a line."""

    def __init__(self, stream: TextIO, held_bytes: int = HELD_BYTES) -> None:
        self._stream = stream
        self._held_bytes = held_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fluxy-output", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Write a line as soon as that can be done; returns at once."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._changed:
            # Once some are dropped, so are those behind them, until all that is held is out: none is out of order.
            if self._dropped or self._size + len(data) > self._held_bytes:
                self._dropped += 1
            else:
                self._lines.append(data)
                self._size += len(data)
            self._changed.notify()

    def close(self) -> None:
        """Write what is left, for a moment at most."""
        ends = time.monotonic() + LAST_LINES_S
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(max(0.0, ends - time.monotonic()))

    def _run(self) -> None:
        while (data := self._next()) is not None:
            with suppress(OSError, ValueError):  # the reader went away, or the stream was closed
                self._write(data)

    def _next(self) -> bytes | None:
        """What is to be written now; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closing)
            if self._lines:
                data = b"".join(self._lines)
                self._lines.clear()
                # It is held until it is written: `_size` goes down with the next look.
                return data
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return f"{'gateway':<9} | {dropped} lines were dropped: nobody read this output\n".encode()
            return None

    def _write(self, data: bytes) -> None:
        try:
            self._write_all(data)
        finally:
            with self._changed:
                self._size = sum(map(len, self._lines))

    def _write_all(self, data: bytes) -> None:
        # Not through the stream where it is a file: at the process's end Python would wait for the lock of a stream
        # whose writer is stuck.
        try:
            number = self._stream.fileno()
        except (io.UnsupportedOperation, AttributeError):
            for line in data.decode().split("\n")[:-1]:
                self._stream.write(f"{line}\n")  # one in each call: whoever takes them looks at how each begins
            self._stream.flush()
            return
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(number, left) :]
            except BlockingIOError:  # somebody else made it non-blocking
                time.sleep(0.05)
