"""Reading an append-only file as the server does, and going on behind what can't be read."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

# Each command of the server with its arity: how many arguments, its name included; negative: at least so many.
Arities = Mapping[bytes, int]

LONGEST_HEADER = 128
READ_BACK_BYTES = 65_536
SMALLEST_OPERATION_BYTES = 100  # what an accepted operation takes of the file at least
SMALLEST_RECORD_BYTES = 16
_COUNTS = re.compile(rb"(\{[^{}\r\n]+\}):counts\r\n")
_BOUNDARY = re.compile(rb"\*1\r\n\$5\r\n(?i:MULTI)\r\n|(\*1\r\n\$4\r\n(?i:EXEC)\r\n)")
_COMMAND = re.compile(rb"(?<=\n)\*\d+\r\n\$\d+\r\n[A-Za-z]+\r\n")
_ARGUMENT = re.compile(rb"\$(\d{1,10})\r\n")
_TIMESTAMP = re.compile(rb"#TS:(\d{1,12})\r?\n")

# Of a file that is mapped into memory, or of bytes.
Content = bytes


class Unreadable(Exception):
    """What stands here is no command of the server's. ``at_end``: it could be the beginning of one."""

    def __init__(self, *, at_end: bool = False) -> None:
        super().__init__()
        self.at_end = at_end


class Unit(NamedTuple):
    """What takes effect together, from ``start`` to ``end``: a transaction with its MULTI and EXEC, or a command."""

    start: int
    end: int
    commands: Sequence[Sequence[bytes]]


class Gap(NamedTuple):
    """A stretch that can't be read. ``torn``: nothing but a last write that didn't come to its end."""

    start: int
    end: int
    torn: bool


def walk(data: Content, arities: Arities, *, is_log: bool = True) -> Iterator[Unit | Gap]:
    """Read a whole file.

    Args:
        is_log: of what happened, so that a transaction is read whole or not at all; else a base file, where each
            command stands for itself.
    """
    at = 0
    while at < len(data):
        try:
            unit = read_unit(data, at, arities)
        except Unreadable as error:
            start, at = at, _next_start(data, at, arities, is_log=is_log)
            yield Gap(start, at, error.at_end and at == len(data))
        else:
            yield unit
            at = unit.end


def _next_start(data: Content, at: int, arities: Arities, *, is_log: bool) -> int:
    """Where what can be read begins again, or the file's end."""
    for found in (_BOUNDARY if is_log else _COMMAND).finditer(data, at + 1):
        start = found.end() if is_log and found[1] else found.start()
        try:
            read_unit(data, start, arities)
        except Unreadable:
            continue
        return start
    return len(data)


def read_unit(data: Content, at: int, arities: Arities) -> Unit:
    """Read a transaction or a command, with the annotations before it; at the file's end it is empty.

    Raises:
        Unreadable: it isn't whole.
    """
    start, at = at, _skip_annotations(data, at)
    if at == len(data):
        return Unit(start, at, ())
    command, at = _read_command(data, at, arities)
    commands = [command]
    if command[0].upper() == b"MULTI":
        while commands[-1][0].upper() != b"EXEC":
            command, at = _read_command(data, _skip_annotations(data, at), arities)
            if command[0].upper() == b"MULTI":
                raise Unreadable
            commands.append(command)
    return Unit(start, at, commands)


def _skip_annotations(data: Content, at: int) -> int:
    while data[at : at + 1] == b"#":
        at = data.find(b"\n", at, at + LONGEST_HEADER) + 1
        if not at:
            raise Unreadable
    return at


def _read_command(data: Content, at: int, arities: Arities) -> tuple[list[bytes], int]:
    count, at = _header(data, at, b"*")
    if not count:
        raise Unreadable
    arguments = []
    for _ in range(count):
        length, at = _header(data, at, b"$")
        end = at + length
        if end + 2 > len(data):
            raise Unreadable(at_end=True)
        if data[end : end + 2] != b"\r\n":
            raise Unreadable
        arguments.append(data[at:end])
        at = end + 2
    if not _fits(arguments, arities):
        raise Unreadable
    return arguments, at


def _header(data: Content, at: int, kind: bytes) -> tuple[int, int]:
    """The number in a header, and where it ends."""
    end = data.find(b"\n", at, at + LONGEST_HEADER)
    if end < 0:
        rest = data[at : at + LONGEST_HEADER]
        raise Unreadable(at_end=len(rest) < LONGEST_HEADER and re.fullmatch(rb"(?:[*$]\d*\r?)?", rest) is not None)
    digits = data[at + 1 : end - 1]
    if data[at : at + 1] != kind or data[end - 1 : end] != b"\r" or not digits.isdigit():
        raise Unreadable
    return int(digits), end + 1


def _fits(arguments: Sequence[bytes], arities: Arities) -> bool:
    """Whether the server knows the command, with so many arguments: it dies of others."""
    arity = arities.get(arguments[0].lower())
    if arity is None:
        return False
    return len(arguments) == arity if arity > 0 else len(arguments) >= -arity


class Loss(NamedTuple):
    """What can't be read: so many bytes, with so many accepted operations at most."""

    size: int = 0
    operations: int = 0

    def and_(self, other: "Loss") -> "Loss":
        return Loss(self.size + other.size, self.operations + other.operations)


def loss_of(data: Content, gap: Gap) -> Loss:
    """Count the operations that can still be told, and those that there is room for beside them.

    Dead letters aren't counted: behind a log's gap their operations wait in their lanes again.
    """
    found = list(arguments_in(data, gap))
    records = len(records_in([data[start:end] for start, end in found]))
    readable = sum(end - start + len(f"${end - start}") + 4 for start, end in found)
    hidden = -(-(gap.end - gap.start - readable) // SMALLEST_OPERATION_BYTES)
    return Loss(gap.end - gap.start, records + hidden)


def arguments_in(data: Content, gap: Gap) -> Iterator[tuple[int, int]]:
    """Where the arguments lie that can be read one by one."""
    at = gap.start
    while found := _ARGUMENT.search(data, at, gap.end):
        end = found.end() + int(found[1])
        if end + 2 <= gap.end and data[end : end + 2] == b"\r\n":
            yield found.end(), end
            at = end + 2
        else:
            at = found.end()


def is_record(argument: bytes) -> bool:
    """Whether it may be an operation as the journal stores it."""
    return argument[:1] == b"\1" and len(argument) >= SMALLEST_RECORD_BYTES


def records_in(arguments: Sequence[bytes]) -> list[bytes]:
    """The operations among the arguments of a command; those within dead letters are none."""
    letters = {letter for _, letter in letters_in(arguments)}
    return [argument for argument in arguments if is_record(argument) and argument not in letters]


def letters_in(arguments: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The dead letters among the arguments of a base file's command, with their ids: each holds its own id."""
    return [
        (name, letter)
        for name, letter in pairwise(arguments)
        if _is_id(name) and name in letter and len(letter) > len(name) + SMALLEST_RECORD_BYTES
    ]


def _is_id(argument: bytes) -> bool:
    """Whether it may be an operation's id as the journal packs it."""
    return len(argument) > 1 and len(argument) == 1 + (argument[0] or 16)


def prefixes(data: Content) -> set[bytes]:
    """The hash tags of the journals in it, e.g. ``{fluxy}``."""
    return {found[1] for found in _COUNTS.finditer(data)}


def time_before(data: Content, at: int) -> int | None:
    """The last time that was noted before a place, in Unix seconds."""
    end = at
    while end > 0:  # backwards, since a file may be long
        begin = max(0, end - READ_BACK_BYTES)
        found = [int(match[1]) for match in _TIMESTAMP.finditer(data, begin, min(at, end + 32))]
        if found:
            return found[-1]
        end = begin
    return None


def encode(arguments: Iterable[bytes]) -> bytes:
    """A command as it stands in a file."""
    parts = list(arguments)
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
