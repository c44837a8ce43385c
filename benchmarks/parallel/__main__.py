"""Hold every network, spread over gloo processes, against itself on one; and what `mmdit plan` says against what is so.

    python -m benchmarks.parallel [equality] [truth] [published] [--write docs/reports/parallel.md] [--only NAME]

Equality: in float64, for each layout of four processes: the largest difference of outputs, gradients, the gradients'
norm, the weights after three steps of AdamW, and the outputs of one process that takes up these weights. It takes some
minutes; with --only, the rows of other networks in the file stay.

Truth: two and four processes in bfloat16 over float32 weights. Planned memory is within a tenth of the weights and the
optimizer's state as they are, and the most that torch's allocator reports to the profiler in a step. Planned bytes are
those of the collectives that run, and their number is that of torch's CommDebugMode.

Published: what others measured on many cards, and what the plan says of it. Nothing runs.

Without a name all three; with --write, sections of the file that were not asked for stay. Exit code 0 where equality
and truth hold, else 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.parallel import published, truth
from benchmarks.parallel.cases import CASES
from benchmarks.parallel.document import (
    BOUND,
    COLUMNS,
    EQUAL,
    LAYOUTS,
    PLANNED,
    PUBLISHED,
    equality_section,
    published_section,
    row,
    truth_section,
    with_sections,
)
from benchmarks.parallel.equality import Difference
from benchmarks.parallel.several import compare

PARTS = ("equality", "truth", "published")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="equality, truth, published; all without any")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the tables to a Markdown file")
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help="equality of this network alone")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"{unknown[0]!r}: expected {', '.join(PARTS)}")
    parts = arguments.parts or (["equality"] if arguments.only else PARTS)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    good = True
    for part in PARTS:
        if part in parts:
            heading, section, holds = _run(part, console, arguments.only)
            good &= holds
            if arguments.write is not None:
                _write(arguments.write, heading, section)
                console.print(f"wrote {arguments.write}", markup=False)
    return 0 if good else 1


def _write(file: Path, heading: str, section: Callable[[str], str]) -> None:
    page = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(with_sections(page, {heading: section(page)}), encoding="utf-8")


def _run(part: str, console: Console, only: list[str] | None) -> tuple[str, Callable[[str], str], bool]:
    """A part's heading, its section made of the page before, and whether all of it holds."""
    if part == "equality":
        return _equality(console, only or CASES)
    if part == "truth":
        found = list(truth.truths())
        good = all(each.holds for each in found)
        console.print(_table(truth.COLUMNS, (each.row() for each in found)))
        console.print("all holds" if good else "not all holds")
        return PLANNED, lambda page: truth_section(found), good
    said = list(published.figures())
    console.print(_table(published.COLUMNS, (each.row() for each in said)))
    return PUBLISHED, lambda page: published_section(said), True


def _equality(console: Console, names: Sequence[str]) -> tuple[str, Callable[[str], str], bool]:
    found = compare([(name, layout, {}) for name in names for layout in LAYOUTS], processes=4)
    by_name = {name: found[i * len(LAYOUTS) : (i + 1) * len(LAYOUTS)] for i, name in enumerate(names)}
    console.print(_table(COLUMNS, (row(name, differences) for name, differences in by_name.items())))
    for problem in (each for each in found if isinstance(each, str)):
        console.print(problem, markup=False)
    good = all(isinstance(each, Difference) and each.largest <= BOUND for each in found)
    console.print(f"all within {BOUND:.0e}" if good else "not equal")
    return EQUAL, lambda page: equality_section(by_name, page), good


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
