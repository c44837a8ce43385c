"""The house stays one to live in: few doors at the top of the library, and every folder in CONTRIBUTING."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HOUSE = (ROOT / "CONTRIBUTING.md").read_text().split("## The house")[1].split("\n## ")[0]


def rooms(package: str) -> list[Path]:
    """Its folders with code, at its top."""
    return sorted(path.parent for path in (ROOT / package).glob("*/__init__.py"))


def test_the_library_has_few_folders_and_files_at_its_top():
    assert len(rooms("mmdit")) <= 7
    assert len([path for path in (ROOT / "mmdit").iterdir() if path.is_file()]) <= 8


@pytest.mark.parametrize("package", ["mmdit", "mmdit_cli"])
def test_contributing_says_what_each_folder_owns(package):
    said = re.findall(r"`([a-z_/]+)`", HOUSE)
    assert [room.name for room in rooms(package) if not {room.name, f"{package}/{room.name}"} & {*said}] == []
