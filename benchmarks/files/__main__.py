"""How long files take: converting one, bringing one to floating point, and asking one what it is.

    python -m benchmarks.files                                  files of about 0.5 GB
    python -m benchmarks.files --size 4 --write docs/reports/files.md

A conversion stands beside copying the larger of its two files and reading the copy once, on the same disk, in turns;
both end with `fsync`, and imports are left out. Exit code: 0, or 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.files.cases import CASES
from benchmarks.files.document import document, line
from benchmarks.files.measurement import measure, recognize


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=0.5, metavar="GB", help="of the larger file (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (%(default)s)")
    parser.add_argument("--match", default="", help="cases whose name holds this")
    parser.add_argument("--folder", type=Path, help="where files are written; default: as tempfile has it")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document as well")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for case in CASES:
            if options.match in case.name:
                rows.append(measure(case, options.size * 1e9, options.rounds, Path(folder)))
                print(line(rows[-1]), flush=True)
        asked = [recognize(Path(folder), options.rounds, fewer_blocks=blocks) for blocks in (0, 9)]
    for each in asked:
        print(f"shape-check of a file of {each.bytes / 1e9:.0f} GB: {each.seconds:.2f} s beyond importing torch")
    if options.write:
        options.write.write_text(document(rows, *asked, size=options.size), encoding="utf-8")
    return int(not (all(row.met for row in rows) and all(each.met for each in asked)))


if __name__ == "__main__":
    sys.exit(main())
