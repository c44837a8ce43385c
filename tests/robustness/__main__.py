"""Robustness, tried: wrong requests and faults, how many were answered well, and what was lost.

    python benchmarks/robustness.py                       # everything, some minutes
    python benchmarks/robustness.py --only faults --share 0.1
    python benchmarks/robustness.py --write docs/robustness.md

Exits with 1 unless all were answered well and nothing was lost.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.robustness.outcome import Outcome

SUITES = {"requests": "robust_requests", "faults": "robust_faults"}
HEAD = ("group", "tried", "answered well", "lost")
ABOUT = """\
# Robustness

Made by `python benchmarks/robustness.py --write docs/robustness.md{more}` in {seconds:.0f} s.

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


def run(names: Sequence[str], seed: int, share: float) -> Iterator[Outcome]:
    for name in names:
        yield from import_module(SUITES[name]).outcomes(seed, share)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", choices=SUITES)
    parser.add_argument("--share", type=float, default=1.0, help="of each group's cases; at least one is tried")
    parser.add_argument("--seed", type=int, default=0, help="draws the requests, and the moments of signals")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the same as Markdown")
    options = parser.parse_args()
    if not 0 < options.share <= 1:
        parser.error("--share is above 0 and at most 1")
    names = [options.only] if options.only else list(SUITES)
    began, found = time.monotonic(), []
    messages = Console(stderr=True, highlight=False)
    with messages.status("starting") as status:
        for outcome in run(names, options.seed, options.share):
            found.append(outcome)
            status.update(f"{len(found)} tried, {len(failures(found))} failed; {escape(outcome.group)}")
            if outcome.lost or not outcome.well:
                messages.print(escape(failures([outcome])[0]), soft_wrap=True)
    console, failed = Console(highlight=False), failures(found)
    console.print(table(rows(found)))
    for line in failed:
        console.print(escape(line), soft_wrap=True)
    if options.write:
        more = "".join(f" --{key} {value}" for key, value in (("only", options.only), ("seed", options.seed)) if value)
        more += f" --share {options.share}" if options.share != 1 else ""
        options.write.write_text(markdown(rows(found), failed, time.monotonic() - began, more), encoding="utf-8")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
