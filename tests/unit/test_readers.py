"""What somebody else may have written is read in known places alone: docs/SECURITY-MODEL.md lists them."""

from collections import Counter

import pytest

from fluxy_sync.journal.keys import Keys
from tests.chaos.reader_cases import CASES
from tests.readers import DOCUMENT, SECTION, functions_of, left_out, modules, places, readers_of

HOW = (
    f"in docs/{DOCUMENT.name}, section {SECTION.removeprefix('## ')!r}: name it in the row of the place that it "
    "reads, or add a row that says who can write there and what that may do at most, and a case "
    "to tests/chaos/reader_cases.py"
)


def test_every_reader_is_listed() -> None:
    """A function that reads what isn't sealed stands in the document, with what that may do at most."""
    listed = {name for row in (*places(), *left_out()) for name in row.readers}
    found = {name for module, source in modules() for name in readers_of(module, source)}
    missing = sorted(found - listed)
    assert not missing, f"{', '.join(missing)} read from outside: {HOW}"


def test_no_reader_is_listed_that_is_gone() -> None:
    """What the document names is there: a row about code that has moved says nothing."""
    known = {name for module, source in modules() for name in functions_of(module, source)}
    gone = sorted({name for row in (*places(), *left_out()) for name in row.readers} - known)
    assert not gone, f"{', '.join(gone)} aren't in the code any more: mend their rows in docs/{DOCUMENT.name}"


def test_every_place_has_a_row_of_its_own_and_a_bound() -> None:
    """No place is listed twice, and each says who reads it and what it may do."""
    twice = [place for place, times in Counter(row.place for row in (*places(), *left_out())).items() if times > 1]
    assert not twice, f"listed twice: {twice}"
    empty = [row.place for row in (*places(), *left_out()) if not row.readers or not row.at_most]
    assert not empty, f"rows that don't say who reads the place, or what it may do at most: {empty}"


def test_every_key_of_the_journal_is_a_place() -> None:
    """The journal keeps nothing in the store that the document doesn't judge."""
    keys = Keys("ns")
    others = (keys.secret, keys.auth, keys.auth_lock, keys.samples, keys.histogram, keys.audit, keys.events)
    written = {name for row in places() for name in row.place.split(", ")}
    missing = [name for name in (*keys.fixed, *others) if name not in written]
    assert not missing, f"{', '.join(missing)} have no row {HOW}"


def test_every_place_is_tried() -> None:
    """``make chaos ARGS=readers`` has one case for each place, and none for a place that isn't listed."""
    listed = {row.place for row in places()}
    assert not listed - CASES.keys(), f"tests/chaos/reader_cases.py has no case for {sorted(listed - CASES.keys())}"
    assert not CASES.keys() - listed, f"docs/{DOCUMENT.name} has no row for {sorted(CASES.keys() - listed)}"


READS = (
    "store.command('GET', key)", "self._journal.run('page', lane)", "journal.search('find', lane)", "json.loads(text)",
    "msgspec.json.decode(data, type=T)", "_decoder.decode(data)", "msgspec.convert(x, T)", "pickle.loads(data)",
    "loads(data)",
    "path.read_text(encoding='utf-8')", "path.read_bytes()", "open(path)", "path.open()", "path.open('r+b')",
    "path.open('a+')", "os.open(path, os.O_RDONLY)", "os.read(fd, 10)", "sock.recv(10)",
    "pubsub.get_message(timeout=1)",
    "connection.parse_response()", "response.iter_lines()", "EventReceiver(connection)", "struct.unpack('>I', data)",
    "client.hgetall(key)", "pipeline.execute()", "socket.getaddrinfo(host, 1)", "response.headers.get('Date')",
    "file.read()", "sorted(folder.iterdir())", "folder.glob('*')", "app.control.ping()", "message.headers",
    "subprocess.run(['x'], capture_output=True)", "int.from_bytes(data)", "self._adapter.send(request)",
)  # fmt: skip
KEEPS_TO_ITSELF = (
    "store.command('DEL', key)", "path.open('wb')", "path.open('ab')", "self.engine.open(stored, lane)",
    "self._vault.open(sealed, context)", "json.dumps(x)", "text.decode('utf-8', 'replace')", "self._live.read(name)",
    "gateway.run()", "path.exists()",
)  # fmt: skip


@pytest.mark.parametrize("call", READS)
def test_a_new_reader_is_found(call: str) -> None:
    """Each way to read is seen, in a method, in a function inside one, and in an argument."""
    assert list(readers_of("room", f"class A:\n    def new(self):\n        return [{call}]")) == ["room.A.new"]
    assert list(readers_of("room", f"def new():\n    def inner():\n        f({call})\n    return inner")) == [
        "room.new"
    ]
    assert list(readers_of("room", f"FOUND = {call}\ndef other(): pass")) == ["room"]


@pytest.mark.parametrize("signature", ["is_fine(message)", "parse(data: bytes)", "_read_answer(answer: Any)"])
def test_a_new_parser_is_found(signature: str) -> None:
    """A function that is handed what somebody else wrote is a reader, too."""
    assert list(readers_of("room", f"def {signature}:\n    return 1")) == [f"room.{signature.partition('(')[0]}"]


@pytest.mark.parametrize("call", KEEPS_TO_ITSELF)
def test_what_reads_nothing_is_no_reader(call: str) -> None:
    """Writing, and asking our own objects, needs no row."""
    assert list(readers_of("room", f"def other():\n    return {call}")) == []
