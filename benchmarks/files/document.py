"""The document of the files benchmark."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

import torch

from benchmarks.files.measurement import MEMORY, MOST_SECONDS, Asked, Row

ABOUT = """# How long files take

Written by `python -m benchmarks.files --size {size:g} --write docs/reports/files.md` with torch {version} on {cores}
cores.

Converting reads a file, writes another, brings every tensor back to the source's names and compares it to the bit,
hashes it, and reads what was written. Beside it stands copying the larger of the two files and reading the copy once,
on the same disk; both end with `fsync`. Each is the median of {rounds} rounds, in turns, in processes of their own,
imports apart; the source is in the system's cache, as is what is copied. The ratio is the median of the rounds' ratios.

| what | read | written | seconds | copy and read | ratio | at most | memory at most |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
AFTER = """
Memory is the largest resident set of the process, torch's own of some 300 MB included; the goal is {memory:.0f} GB.

`mmdit shape-check --weights FILE`, without a config, of a file of {asked:.0f} GB (FLUX.1-dev's header before a hole)
takes {seconds:.2f} s beyond `import torch`; the goal is {most:.0f} s. With nine blocks less it fits no
shipped config as it is, and is held against each of its family's: {resized:.2f} s.
"""


def line(row: Row) -> str:
    """A row as it is printed."""
    met = "" if row.met else ", missed"
    seconds, sizes = statistics.median(row.seconds), f"{row.read / 1e9:.2f} to {row.written / 1e9:.2f} GB"
    return (
        f"{row.case.name}: {seconds:.2f} s for {sizes}, "
        f"{row.ratio:.2f} x copying and reading ({statistics.median(row.copying):.2f} s; at most {row.case.most} x), "
        f"{row.memory / 1e6:,.0f} MB{met}"
    )


def document(rows: Sequence[Row], asked: Asked, resized: Asked, *, size: float) -> str:
    """All rows as Markdown. `resized`: of a file that fits no shipped config; `size`: GB, as asked for."""
    about = ABOUT.format(size=size, version=torch.__version__, cores=os.cpu_count(), rounds=len(rows[0].seconds))
    cells = [
        (
            row.case.name,
            f"{row.read / 1e9:.2f} GB",
            f"{row.written / 1e9:.2f} GB",
            f"{statistics.median(row.seconds):.2f}",
            f"{statistics.median(row.copying):.2f}",
            f"{row.ratio:.2f}" + ("" if row.met else " (missed)"),
            str(row.case.most),
            f"{row.memory / 1e6:,.0f} MB",
        )
        for row in rows
    ]
    table = "".join(f"| {' | '.join(each)} |\n" for each in cells)
    after = AFTER.format(
        memory=MEMORY / 1e9,
        asked=asked.bytes / 1e9,
        seconds=asked.seconds,
        most=MOST_SECONDS,
        resized=resized.seconds,
    )
    return about + table + after
