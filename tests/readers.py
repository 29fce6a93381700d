"""Where the code reads what somebody else may have written: every such function, found by its calls."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fluxy_sync.journal.journal import SCRIPTS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fluxy_sync"
DOCUMENT = ROOT / "docs" / "SECURITY-MODEL.md"
SECTION = "## What is read that isn't sealed"

BY_NAME = re.compile(  # a call of one of these reads, whatever it is called on
    r"""(?x)
    json\.loads? | (?:.*\.)?loads | pickle\..* | (?:\w+\.)*msgspec(?:\.\w+)*\.(?:decode|convert)
    | (?:.*\.)?(?:read_text|read_bytes|readlink|readlines?|read1|iterdir|r?glob|listdir|scandir)
    | (?:.*\.)?(?:read_private|read_secret|open_to_(?:read|change)|paths_in)
    | (?:.*\.)?(?:recv|recv_into|recvfrom|read_response|parse_response|get_message|iter_lines|iter_content)
    | os\.(?:read|pread|open) | open | (?:.*\.)?(?:unpack|unpack_from|iter_unpack|from_bytes)
    | (?:.*\.)?EventReceiver | .*control\.(?:inspect|ping) | subprocess\.check_output
    | (?:.*\.)?(?:getaddrinfo|urlopen|fromisoformat|parsedate_to_datetime|b64decode|fromhex|queue_declare)
    | (?:.*\.)?(?:config_get|execute_command|run_then|execute) | .*_adapter\.send | .*\.(?:request|getresponse)
    | .*\.get_(?:query_|body_)?arguments? | .*parse_request_body_response | .*_get_task_meta
    | (?:.*\.)?(?:getpwuid|getpeercert) | psutil\..* | super\(\)\._\w*(?:read|receive)\w*
    | (?:.*\.)?_?client(?:\(\))?\.(?!close|pubsub|pipeline|shutdown)\w+
    """
)
OURS = re.compile(r"self\._live|sources|self\.store|manifest|.*engine|.*vault(?:\(\))?|.*\.link|self\.capp")
"""What ``read`` and ``open`` are called on that reads nothing itself: its own functions are looked at."""
SENT_ONLY = frozenset({"DEL", "HDEL", "PING", "WAITAOF", "UNLINK", "PUBLISH"})  # whose answers say nothing
MESSAGE = frozenset({"message", "msg", "raw"})  # what a broker's message is called here
PARSES = re.compile(r"_?(?:parse|unpack|unseal|decode|read|feed|as_map|open_value)")
PARTS = frozenset({"headers", "body", "payload", "properties", "decode", "content_type"})
ANSWER = re.compile(r"(?:self\.)?_?(?:response|answer|raw|reply)\w*(?:\.raw)?")


class Row(NamedTuple):
    """One row of a table of the document. ``place`` is its first cell, without the marks of code."""

    place: str
    readers: tuple[str, ...]
    at_most: str


def readers_of(module: str, source: str) -> Iterator[str]:
    """The functions of a module that read from outside, as ``module.Class.function``."""
    for name, parts in _functions(ast.parse(source), module):
        if any(_reads(node) for part in parts for node in ast.walk(part)):
            yield name


def functions_of(module: str, source: str) -> Iterator[str]:
    """All functions of a module, and the module."""
    return (name for name, _ in _functions(ast.parse(source), module))


def modules() -> Iterator[tuple[str, str]]:
    """Name (without the package's) and source of each module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path.read_text(encoding="utf-8")


def places() -> list[Row]:
    """The document's places that somebody else may have written to."""
    return [_row(cells) for cells in _tables(DOCUMENT.read_text(encoding="utf-8")) if len(cells) == 4]


def left_out() -> list[Row]:
    """What the document leaves out, and why."""
    found = [cells for cells in _tables(DOCUMENT.read_text(encoding="utf-8")) if len(cells) == 3]
    return [_row([what, "", readers, why]) for what, why, readers in found]


def _tables(document: str) -> Iterator[list[str]]:
    """The cells of each line of the section's tables, but their heads."""
    section = document.partition(f"\n{SECTION}\n")[2].partition("\n## ")[0]
    head = ""
    for line in section.splitlines():
        if line.startswith("| ") and head.startswith("|"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]
        head = line


def _row(cells: list[str]) -> Row:
    place, _, readers, at_most = cells
    return Row(place.replace("`", ""), tuple(re.findall(r"`([\w.]+)`", readers)), at_most)


# --- by its syntax


def _functions(tree: ast.Module, module: str) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Each function with what belongs to it, inner functions included; and what a module does by itself."""
    yield from _inside(tree.body, module)
    own = [one for one in tree.body if not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    yield module, own


def _inside(body: list[ast.stmt], name: str) -> Iterator[tuple[str, list[ast.stmt]]]:
    for one in body:
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{name}.{one.name}".lstrip("."), [one]
        elif isinstance(one, ast.ClassDef):
            yield from _inside(one.body, f"{name}.{one.name}")


def _reads(node: ast.AST) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return _is_told(node)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id in MESSAGE and node.attr in PARTS
    if isinstance(node, ast.Attribute):
        return ast.unparse(node).endswith("self.request.body")
    return isinstance(node, ast.Call) and _call_reads(node)


def _is_told(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether somebody else's bytes are its argument: it takes a message apart, is a control command, or parses."""
    given = [*function.args.args, *function.args.kwonlyargs]
    kinds = {ast.unparse(one.annotation) for one in given if one.annotation is not None}
    return (
        (any(one.arg in MESSAGE for one in given) and function.name != "__init__")
        or any("_command" in ast.unparse(one) for one in function.decorator_list)
        or (PARSES.match(function.name) is not None and any("bytes" in kind or kind == "Any" for kind in kinds))
    )


def _call_reads(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    where, _, verb = name.rpartition(".")
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    if verb == "command" and where and call.args:
        return first not in SENT_ONLY
    if name == "subprocess.run":
        return True
    if verb in ("run", "search") and call.args:
        return first in SCRIPTS or where.endswith(("journal", "store")) or ast.unparse(call.args[0]) == "script"
    if where == "os" and verb == "read":
        return True
    if verb in ("open", "fdopen") and name != "os.open":
        return not (where and verb == "open" and OURS.fullmatch(where)) and _opens_to_read(call, at=int(not where))
    if verb == "decode" and call.args:
        return first is None  # else it is an encoding
    if verb == "read":
        return not OURS.fullmatch(where)
    if verb == "get" and where.endswith("headers"):
        return bool(ANSWER.match(where) or "request" in where)
    return BY_NAME.fullmatch(name) is not None


def _opens_to_read(call: ast.Call, at: int) -> bool:
    """Whether a file that is opened so can be read. Without a mode it can; a fdopen has it second, as ``open``."""
    at = 1 if isinstance(call.func, ast.Attribute) and call.func.attr == "fdopen" else at
    given = [*call.args[at : at + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    mode = given[0].value if given and isinstance(given[0], ast.Constant) else "r"
    return "r" in str(mode) or "+" in str(mode)
