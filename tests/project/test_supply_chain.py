"""What the tests are run with: pinned, hashed, and under licences that allow it."""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement

from tests.support.paths import ROOT

PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
ALLOWED = re.compile(
    r"\b(apache|0?bsd|mit|mpl|mozilla|isc|psf|python software foundation|python-2\.0|hpnd|zlib|zpl|unlicense|cnri)\b",
    re.IGNORECASE,
)

STATED = {  # by packages whose metadata says nothing: where it is said
    "axe-playwright-python": "MIT: the LICENSE file in its wheel; axe-core in it is under MPL-2.0",
    "lazy-importer": "MIT: the LICENSE file in its repository",
    "torchao": "BSD-3-Clause: the LICENSE file in its wheel",
}


def pins(name: str) -> dict[str, str]:
    return {normal(package): version for package, version in PIN.findall((ROOT / name).read_text())}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(package: str, extras: tuple[str, ...] = (), seen: dict[str, metadata.Distribution] | None = None):
    """A package's dependencies, theirs and so on, as far as they are wanted here."""
    found = {} if seen is None else seen
    distribution = metadata.distribution(package)
    for text in distribution.requires or ():
        requirement = Requirement(text)
        environments = [{"extra": extra} for extra in (*extras, "")]
        if requirement.marker is not None and not any(requirement.marker.evaluate(e) for e in environments):
            continue
        name = normal(requirement.name)
        if name == normal(package):
            needed(package, tuple(requirement.extras), found)
        elif name not in found:
            found[name] = metadata.distribution(name)
            needed(name, tuple(requirement.extras), found)
    return found


def test_every_hashed_version_is_the_one_of_the_constraints():
    hashed, wanted = pins(".ci/requirements.txt"), pins("constraints.txt")
    assert {name: version.partition("+")[0] for name, version in hashed.items()} == {
        name: wanted.get(name) for name in hashed
    }


def test_every_requirement_has_a_hash():
    text = (ROOT / ".ci/requirements.txt").read_text()
    entries = re.split(r"\n(?=\w)", text.strip())
    assert len(entries) == len(pins(".ci/requirements.txt")) > 50
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries)


def test_what_the_tests_need_is_all_there():
    names = set(needed("mmdit-cli", ("test",)))
    assert {"torch", "typer", "onnxruntime", "pytest", "sympy"} <= names
    assert names <= set(pins(".ci/requirements.txt"))


def site() -> set[str]:
    """What the site needs, where it is installed, as it is in CI: the README's own command leaves it out."""
    try:
        return set(needed("mmdit-cli", ("docs",)))
    except metadata.PackageNotFoundError:
        return set()


def licences(name: str) -> list[str]:
    """What a package says of its licence."""
    about = metadata.distribution(name).metadata
    said = [about.get("License-Expression"), (about.get("License") or "")[:200]]
    return [*filter(None, said), *(c for c in about.get_all("Classifier") or () if c.startswith("License ::"))]


def test_every_dependency_has_a_licence_that_allows_its_use():
    said = {name: licences(name) for name in site() | set(needed("mmdit-cli", ("test",))) if name not in STATED}
    assert [each for each in said.items() if not any(map(ALLOWED.search, each[1]))] == []
