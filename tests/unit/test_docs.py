"""The documents name what the code has."""

import re
from pathlib import Path

import pytest

from fluxy_sync.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.findall(
    r"^\| `(FLUXY_SYNC_\w+)` \| (.*?) \| (.*) \|$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE
)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/operating.md", "docs/live.md", "docs/dashboard.md",
             "docs/SECURITY-MODEL.md"]  # fmt: skip
SECRETS = {ENV_PREFIX + name.upper() for name, f in Settings.model_fields.items() if "SecretStr" in str(f.annotation)}


def test_the_table_has_each_setting_once() -> None:
    """docs/configuration.md lists every variable that is read, and no other."""
    documented = [variable for variable, _, _ in TABLE]
    assert sorted(documented) == sorted(ENV_PREFIX + name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize(("variable", "default", "text"), TABLE, ids=[row[0] for row in TABLE])
def test_the_table_has_the_defaults(variable: str, default: str, text: str) -> None:
    """A default that is a plain value stands in the table as it is; secrets are called so."""
    field = Settings.model_fields[variable.removeprefix(ENV_PREFIX).lower()]
    plain = field.default
    if isinstance(plain, bool):
        assert f"`{str(plain).lower()}`" in default
    elif isinstance(plain, (int, float, str)):
        assert f"`{plain:g}`" in default if isinstance(plain, float) else f"`{plain}`" in default
    elif isinstance(plain, tuple) and plain:
        assert default == ", ".join(f"`{part}`" for part in plain)
    else:
        assert "`" not in default or "`up`" in default or "`HEAD`" in default
    assert text.startswith("secret: ") == (variable in SECRETS)


@pytest.mark.parametrize("document", [*DOCUMENTS, "docs/configuration.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Each relative link names a file that exists."""
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_only_variables_that_exist_are_named(document: str) -> None:
    """A FLUXY_SYNC_ variable in a document is one that is read, or its _FILE."""
    named = set(re.findall(r"FLUXY_SYNC_[A-Z]+(?:_[A-Z]+)*", (ROOT / document).read_text()))
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in named} <= known


def test_make_targets_named_in_the_readme_exist() -> None:
    """`make X` in a document is a target of the Makefile."""
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ *\$? ?)make ([a-z]+)", text, re.MULTILINE)) <= targets
