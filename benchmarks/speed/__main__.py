"""How fast the block is beside every implementation of it, and how near to the machine's bare matrix products.

    python -m benchmarks.speed --write docs/reports/benchmarks.md

Sides are timed in rounds, in an order drawn anew each round, so that drift hits all alike; a figure is the median of
the rounds' ratios, with its 95 % interval. Before that their outputs are found equal, with the same weights. Diffusers
runs in this process, the published `mmdit` 0.3.0, whose import name is ours, in a process and an environment of its
own. Exit code: 0, 1 where a goal is missed, or 2 where the published package can't be had.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.published.environment import PUBLISHED, make_environment
from benchmarks.published.settings import VERSION
from benchmarks.speed.document import SECTIONS, markdown
from benchmarks.speed.measurement import measure, start_up
from benchmarks.speed.rows import rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there as Markdown too")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="this section alone (repeatable)")
    parser.add_argument("--quick", action="store_true", help="small sizes, and nothing compiled")
    parser.add_argument("--match", default="", help="rows whose name holds this")
    parser.add_argument("--python", type=Path, help=f"a python that has mmdit {VERSION}; default: make an environment")
    parser.add_argument("--environment", type=Path, default=PUBLISHED, help="where to make it (%(default)s)")
    options = parser.parse_args()
    try:
        python = options.python or make_environment(options.environment)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"the published mmdit {VERSION} could not be set up: {error}", file=sys.stderr)
        return 2
    sections, began, lines = options.only or list(SECTIONS), time.perf_counter(), []
    chosen = (row for row in rows(python, options.quick) if row.section in sections and options.match in row.name)
    for row in chosen:
        for line in measure(row):
            lines.append(line)
            print(line, flush=True)
    for line in start_up() if "start-up" in sections else ():
        lines.append(line)
        print(line, flush=True)
    missed = sum(not line.met for line in lines)
    print(f"{len(lines)} comparisons in {(time.perf_counter() - began) / 60:.0f} minutes, {missed} goals missed")
    if options.write:
        options.write.write_text(markdown(lines), encoding="utf-8")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
