"""The table of `docs/reports/parallel.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from benchmarks.parallel.cases import CASES
from benchmarks.parallel.equality import RATE, STEPS, Difference
from mmdit.parallel import MeshLayout

BOUND = 1e-10
LAYOUTS = (
    MeshLayout(shard=4),
    MeshLayout(tensor=4),
    MeshLayout(context=4),
    MeshLayout(replicate=2, shard=2),
    MeshLayout(shard=2, tensor=2),
    MeshLayout(shard=2, context=2),
    MeshLayout(context=2, tensor=2),
)
COLUMNS = ["network", *map(str, LAYOUTS), ""]
Found = Sequence[Difference | str]

INTRODUCTION = f"""# On several processes

Written by `python -m benchmarks.parallel --write docs/reports/parallel.md`, with torch {{torch}}.

Every shipped network made small, and the options that none has, spread by `mmdit.parallel` over four processes (gloo,
float64), against the same on one process: outputs, gradients, the gradients' norm, all weights after {STEPS} steps of
AdamW (at a rate of {RATE:g}), the outputs of one process that takes up the weights of four, and the weights of four
that take up those of one. Text is masked, in each sample to another length, and the processes do not divide the
lengths. The number is the largest difference of any of these that any process finds, relative to the largest number of
its tensor (or to 1); it must be under {BOUND:.0e}.

`shard 4` is FSDP2, `replicate 2 x shard 2` HSDP, `context` Ulysses, `tensor` tensor parallel.

"""


def row(name: str, found: Found) -> list[str]:
    """A network's."""
    numbers = [f"{each.largest:.0e}" if isinstance(each, Difference) else "fails" for each in found]
    good = all(isinstance(each, Difference) and each.largest <= BOUND for each in found)
    return [name, *numbers, "equal" if good else "DIFFERENT"]


def document(by_name: Mapping[str, Found], before: str = "") -> str:
    """The page; of networks that were not tried now, with the rows `before`."""
    rows = {name: _line(row(name, found)) for name, found in by_name.items()}
    old = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines() if line.startswith("| ")}
    lines = [rows.get(name) or old.get(name) for name in CASES]
    table = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *filter(None, lines)]
    return INTRODUCTION.format(torch=torch.__version__.partition("+")[0]) + "\n".join(table) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
