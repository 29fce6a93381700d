"""Reading an append-only file, apart from how the product reads it: where each transaction ends."""

import io
from collections.abc import Iterator


def commands(data: bytes) -> Iterator[tuple[int, int, list[bytes]]]:
    """Where each command begins and ends, and its words; the file must be whole."""
    file = io.BytesIO(data)
    while line := _line_behind_annotations(file):
        begin = file.tell() - len(line)
        words = []
        for _ in range(int(line[1:])):
            size = int(file.readline()[1:])
            words.append(file.read(size))
            assert file.read(2) == b"\r\n"
        yield begin, file.tell(), words


def _line_behind_annotations(file: io.BytesIO) -> bytes:
    line = file.readline()
    while line.startswith(b"#"):
        line = file.readline()
    return line


def ends(data: bytes) -> list[int]:
    """Where the file can be cut without losing a part of something: 0, and behind each transaction."""
    found, is_open = [0], False
    for _, end, words in commands(data):
        is_open = (is_open and words[0] != b"EXEC") or words[0] == b"MULTI"
        if not is_open:
            found.append(end)
    return found
