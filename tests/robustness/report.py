"""The rows of the robustness document: by group, how many were answered well, and what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from tests.robustness.outcome import Outcome

HEAD = ("group", "tried", "answered well", "lost")


ABOUT = """\
# Robustness

Made by `python -m tests.robustness --write docs/reports/robustness.md{more}` in {seconds:.0f} s.

Answered well: the exit code that is documented, one message that names what is wrong, no traceback and no noise.
Lost: an output, a checkpoint or a user's file that is gone or partial, or a run that does not resume to the bits of an
unbroken one.
"""


@dataclass(frozen=True)
class Row:
    """What came of a group of cases."""

    group: str
    tried: int
    well: int
    lost: int

    def cells(self) -> tuple[str, ...]:
        return self.group, str(self.tried), str(self.well), str(self.lost)


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each group, and one for all."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.group, []).append(outcome)
    return [_row(group, members) for group, members in groups.items()] + [_row("all", outcomes)]


def _row(group: str, members: Sequence[Outcome]) -> Row:
    return Row(group, len(members), sum(x.well for x in members), sum(x.lost for x in members))


def failures(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{x.group}: {x.name}: {'lost; ' if x.lost else ''}{x.why}" for x in outcomes if x.lost or not x.well]


def table(found: Sequence[Row]) -> Table:
    made = Table(*HEAD, box=None)
    for column in made.columns[1:]:
        column.justify = "right"
    for row in found:
        made.add_row(*map(escape, row.cells()), style="bold" if row.group == "all" else None)
    return made


def markdown(found: Sequence[Row], failed: Sequence[str], seconds: float, more: str = "") -> str:
    lines = [HEAD, ("---", "---:", "---:", "---:"), *(row.cells() for row in found)]
    text = ABOUT.format(seconds=seconds, more=more) + "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text + ("\n\nFailures:\n\n" + "\n".join(f"- {line}" for line in failed) if failed else "") + "\n"
