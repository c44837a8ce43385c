"""Hold every published family against diffusers, and write docs/reports/families.md.

    python -m benchmarks.families [--write docs/reports/families.md] [--mmaudio PATH_OF_A_CLONE]

MMAudio, which diffusers has not, is held against a re-statement of its formulas, or against its authors' class, where
the path of a clone of github.com/hkchengrex/MMAudio is given.

Prints, for every family, the published parameter count and the one its config builds, and the largest relative
difference of outputs and gradients between a small random network of ours and the same one of diffusers, in float32;
then the sizes of the full networks, which need no memory. Exit code 0 where all is equal and under the bounds, else 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.families.diffusers_networks import FAMILIES
from benchmarks.families.document import COLUMNS, SIZE_COLUMNS, Rows, document, equality, size
from benchmarks.families.mmaudio import NETWORKS, authors_class


def show(console: Console, title: str, columns: list[str], rows: Rows) -> None:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index in (0, len(columns) - 1) else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write both tables to a Markdown file")
    parser.add_argument("--mmaudio", type=Path, metavar="CLONE", help="hold MMAudio against its authors' class")
    arguments = parser.parse_args()
    stated = arguments.mmaudio is None
    sound = NETWORKS if stated else [replace(each, theirs=authors_class(arguments.mmaudio)) for each in NETWORKS]
    families = (*FAMILIES, *sound)
    console = Console(width=None if sys.stdout.isatty() else 160)
    found = [equality(family) for family in families]
    rows, sizes = [row for row, _ in found], [size(family.config) for family in families]
    show(console, "against diffusers, and MMAudio against its own", COLUMNS, rows)
    show(console, "sizes", SIZE_COLUMNS, sizes)
    if arguments.write is not None:
        arguments.write.write_text(document(rows, sizes, arguments.mmaudio is not None), encoding="utf-8")
        console.print(f"wrote {arguments.write}")
    good = all(fine for _, fine in found)
    console.print("all equal and under the bounds" if good else "not equal")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
