"""Hold every network, spread over four gloo processes, against itself on one, and write docs/reports/parallel.md.

    python -m benchmarks.parallel [--write docs/reports/parallel.md] [--only NAME]

In float64, for each layout of the processes: the largest difference of outputs, gradients, the gradients' norm, the
weights after three steps of AdamW, and the outputs of one process that takes up these weights. Exit code 0 where all
are within the bound, else 1. It takes some minutes; with --only, the rows of other networks in the file stay.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the table to a Markdown file")
    parser.add_argument("--only", action="append", choices=CASES, metavar="NAME", help="this network alone; repeatable")
    arguments = parser.parse_args()
    names = arguments.only or CASES
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    found = compare([(name, layout, {}) for name in names for layout in LAYOUTS], processes=4)
    by_name = {name: found[i * len(LAYOUTS) : (i + 1) * len(LAYOUTS)] for i, name in enumerate(names)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for name, differences in by_name.items():
        table.add_row(*row(name, differences))
    console.print(table)
    for problem in (each for each in found if isinstance(each, str)):
        console.print(problem, markup=False)
    if arguments.write is not None:
        before = arguments.write.read_text(encoding="utf-8") if arguments.only and arguments.write.exists() else ""
        arguments.write.write_text(document(by_name, before), encoding="utf-8")
        console.print(f"wrote {arguments.write}")
    good = all(isinstance(each, Difference) and each.largest <= BOUND for each in found)
    console.print(f"all within {BOUND:.0e}" if good else "not equal")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
