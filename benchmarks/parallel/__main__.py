"""Hold every network, spread over gloo processes, against itself on one; and what `mmdit plan` says against what is so.

    python -m benchmarks.parallel [--write docs/reports/parallel.md] [--only NAME]
    python -m benchmarks.parallel truth

Equality: in float64, for each layout of four processes: the largest difference of outputs, gradients, the gradients'
norm, the weights after three steps of AdamW, and the outputs of one process that takes up these weights. It takes some
minutes; with --only, the rows of other networks in the file stay.

Truth: two and four processes in bfloat16 over float32 weights. Planned memory is within a tenth of all that torch's
allocator reports to the profiler from the making of the network on, at its highest in the second step. Planned bytes
are those of the collectives that run, and their number is that of torch's CommDebugMode.

Exit code 0 where all holds, else 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.parallel.cases import CASES
from benchmarks.parallel.document import BOUND, COLUMNS, LAYOUTS, document, row
from benchmarks.parallel.equality import Difference
from benchmarks.parallel.several import compare
from benchmarks.parallel.truth import COLUMNS as OF_TRUTH
from benchmarks.parallel.truth import truths


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["equality", "truth"], default="equality")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write equality's table to a Markdown file")
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help="this network alone; repeatable")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    if arguments.what == "truth":
        return _truth(console)
    return _equality(console, arguments.only, arguments.write)


def _equality(console: Console, only: list[str] | None, write: Path | None) -> int:
    names = only or CASES
    found = compare([(name, layout, {}) for name in names for layout in LAYOUTS], processes=4)
    by_name = {name: found[i * len(LAYOUTS) : (i + 1) * len(LAYOUTS)] for i, name in enumerate(names)}
    table = _table(COLUMNS)
    for name, differences in by_name.items():
        table.add_row(*row(name, differences))
    console.print(table)
    for problem in (each for each in found if isinstance(each, str)):
        console.print(problem, markup=False)
    if write is not None:
        before = write.read_text(encoding="utf-8") if only and write.exists() else ""
        write.write_text(document(by_name, before), encoding="utf-8")
        console.print(f"wrote {write}")
    good = all(isinstance(each, Difference) and each.largest <= BOUND for each in found)
    console.print(f"all within {BOUND:.0e}" if good else "not equal")
    return 0 if good else 1


def _truth(console: Console) -> int:
    table, good = _table(OF_TRUTH), True
    for each in truths():
        table.add_row(*each.row())
        good &= each.holds
    console.print(table)
    console.print("all holds" if good else "not all holds")
    return 0 if good else 1


def _table(columns: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


if __name__ == "__main__":
    sys.exit(main())
