"""Robustness, tried: wrong requests and faults, how many were answered well, and what was lost.

    python -m tests.robustness                                       # everything, some minutes
    python -m tests.robustness --only faults --share 0.1
    python -m tests.robustness --write docs/reports/robustness.md

Exits with 1 unless all were answered well and nothing was lost.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tests.robustness import faults, requests
from tests.robustness.report import failures, markdown, rows, table

SUITES = {"requests": requests.outcomes, "faults": faults.outcomes}


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
        for outcome in (x for name in names for x in SUITES[name](options.seed, options.share)):
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
