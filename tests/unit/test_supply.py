"""What an image is built from is exactly what was looked at: hashes for packages, exact versions for base images."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCK = (ROOT / "deploy" / "requirements.lock").read_text()
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
EXACT_IMAGE = re.compile(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?|[\w./-]+@sha256:[0-9a-f]{64}")
OWN_IMAGE = "fluxy-sync:local"


def images(text: str) -> list[str]:
    """The images that a Dockerfile or a Compose file names where the operator names none."""
    found = re.findall(r"^ARG BASE=(\S+)", text, re.MULTILINE) + re.findall(r"\b\w+_IMAGE:-([^}]+)\}", text)
    found += re.findall(r"^\s*(?:image:|FROM)\s+(?!\$)(\S+)", text, re.MULTILINE)
    return [image for image in found if image != OWN_IMAGE]


def locked() -> dict[str, str]:
    """The versions in the lock by the packages' names."""
    found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)", LOCK, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize(("name", "text"), [("Dockerfile", DOCKERFILE), ("docker-compose.yml", COMPOSE)])
def test_no_image_floats(name: str, text: str) -> None:
    """Each has a version of three numbers or a digest: neither 'latest' nor a tag that follows a series."""
    assert images(text), name
    assert [image for image in images(text) if not EXACT_IMAGE.fullmatch(image)] == []


@pytest.mark.parametrize(
    "image", ["redis", "redis:latest", "redis:7", "redis:7-alpine", "python:3.12-slim", "a@sha256:1"]
)
def test_a_floating_image_would_be_seen(image: str) -> None:
    """The check above knows them."""
    assert not EXACT_IMAGE.fullmatch(image)
    assert images(f"FROM {image}\n") == images(f"  image: ${{X_IMAGE:-{image}}}\n") == [image]


def test_the_lock_has_the_tested_versions() -> None:
    """Those of constraints.txt, for everything that the package and its dashboard need."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    known = {canonicalize_name(name): version for name, version in tested.items()}
    assert {name: version for name, version in locked().items() if known.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dashboard"]
    needed += project["build-system"]["requires"]
    for requirement in map(Requirement, needed):
        assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)]), requirement


def test_each_package_has_hashes_and_no_index_is_named() -> None:
    """A file that isn't among them is refused, wherever it comes from."""
    entries = re.split(r"\n(?=\S)", LOCK.partition("\n")[2])
    packages = [entry for entry in entries if "==" in entry.partition("\n")[0]]
    assert len(packages) == len(locked()) > 30
    assert [entry for entry in packages if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []
    assert not re.search(r"://|--\w*index|find-links|trusted-host|sha1:|md5:", LOCK)


def test_the_image_installs_by_hash_alone() -> None:
    """Each of its installations checks hashes, or takes nothing from anywhere."""
    installs = [line for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all("--require-hashes" in line or ("--no-index" in line and "--no-deps" in line) for line in installs)
