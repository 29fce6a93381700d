"""The rooms of the package: each has its place in the import rules and in CONTRIBUTING.md."""

import re
import tomllib
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "fluxy_sync"
ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {
    "__init__",
    "__main__",
}


def test_each_room_has_its_layer() -> None:
    """A room that no rule names may import whatever it likes."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [rule["layers"] for rule in rules if rule["type"] == "layers"]
    named = {name.strip().removeprefix("fluxy_sync.") for layer in layers for name in layer.split(":")}
    assert named - {"worker"} == ROOMS


def test_contributing_names_the_rooms_that_there_are() -> None:
    """All of them, and no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## The rooms")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)(?:\.py|/)`", row.split("|")[1])}
    assert named == ROOMS
    inside = {
        Path(folder) / file
        for row in rows
        if (folder := (re.match(r"\| `([a-z_]+)/`", row) or [None, ""])[1])
        for file in re.findall(r"`([a-z_]+\.py)`", row.split("|")[2])
    }
    assert [path for path in sorted(inside) if not (PACKAGE / path).exists()] == []
