"""What README.md and the pages of docs/ show: blocks of code, and command lines with what they print."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A command line; `output` is None where the page does not show what it prints."""

    line: str
    output: str | None = None

    @property
    def exit_code(self) -> int:
        """2 where the page shows how a wrong request is answered."""
        return 2 if self.output is not None and self.output.startswith("error: ") else 0


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [m["text"] for m in FENCE.finditer(page.read_text(encoding="utf-8")) if m["language"] == language]


def commands(page: Path) -> list[Shown]:
    """All command lines of a page in their order; `a && b` is two of them."""
    shown: list[Shown] = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        if match["language"] == "console":
            first, _, output = match["text"].partition("\n")
            shown.append(Shown(first.removeprefix("$ "), output))
        elif match["language"] == "bash":
            lines = [part for line in match["text"].splitlines() for part in line.split(" && ")]
            shown += [Shown(line.strip()) for line in lines if line.strip()]
    return shown


def figures(output: str) -> dict[str, list[str]]:
    """What a command printed before its table of components: the values of a row or of a column, by its name."""
    lines, found = [_cells(line) for line in output.partition(": components")[0].splitlines()], defaultdict(list)
    head: list[str] = []
    for before, cells in itertools.pairwise(lines):
        if cells and set(cells[0]) == {"─"}:
            head = before if len(before) > 1 else []
        elif head and len(cells) == len(head):
            for name, value in zip(head, cells, strict=True):
                found[name].append(value)
        elif len(cells) == 2:
            found[cells[0]] = [cells[1]]
    return found


def _cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip()) if line.strip() else []
