"""The page `docs/reports/parallel.md`: a section for each part, of which one can be written alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from benchmarks.parallel import published, truth
from benchmarks.parallel.cases import CASES
from benchmarks.parallel.equality import RATE, STEPS, Difference
from benchmarks.parallel.published import Figure
from benchmarks.parallel.truth import Truth
from mmdit.parallel import MeshLayout
from mmdit_cli.memory import measured

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
EQUAL, PLANNED, PUBLISHED = "Equal to one process", "Planned and measured", "Published runs"
SECTIONS = (EQUAL, PLANNED, PUBLISHED)
Found = Sequence[Difference | str]

INTRODUCTION = """# On several processes

Written by `python -m benchmarks.parallel --write docs/reports/parallel.md`, with torch {torch}: networks spread by
`mmdit.parallel` against the same on one process, and what `mmdit plan` says against what is so. `shard 4` is FSDP2,
`replicate 2 x shard 2` HSDP, `context` Ulysses, `tensor` tensor parallel.
"""
OF_EQUALITY = f"""
Every shipped network made small, and the options that none has, over four processes (gloo, float64): outputs,
gradients, the gradients' norm, all weights after {STEPS} steps of AdamW (at a rate of {RATE:g}), the outputs of one
process that takes up the weights of four, and the weights of four that take up those of one. Text is masked, in each
sample to another length, and the processes do not divide the lengths. The number is the largest difference of any of
these that any process finds, relative to the largest number of its tensor (or to 1); it must be under {BOUND:.0e}.
"""
OF_TRUTH = f"""
Two and four processes (gloo, bfloat16 over float32 weights). Memory, by process: planned by `mmdit plan`'s estimator,
and measured: the weights and the optimizer's state as they are, and the most that torch's allocator reported beside in
a step (that of {measured.STEPS} which held least, for gloo holds what it sends until others have it). They must be
within {truth.BOUND:.0%}. What a process sends, in bytes of each collective as a ring sends them, must be equal to that
of the collectives that ran, and their number to that of torch's `CommDebugMode`.
"""
OF_PUBLISHED = f"""
What others measured on many cards, and what `mmdit plan` says of the same, at the {published.UTILIZATION} of the
cards' peak that it assumes. This is a check on paper: no time here was measured by us.
`benchmarks/parallel/published.yaml` has what was asked; GFLOP a token are those of forward and backward, as the source
counts them.
"""


def row(name: str, found: Found) -> list[str]:
    """A network's, of the first table."""
    numbers = [f"{each.largest:.0e}" if isinstance(each, Difference) else "fails" for each in found]
    good = all(isinstance(each, Difference) and each.largest <= BOUND for each in found)
    return [name, *numbers, "equal" if good else "DIFFERENT"]


def equality_section(by_name: Mapping[str, Found], page: str) -> str:
    """The first table; of networks that were not tried now, with the rows that the page has."""
    rows = {name: _line(row(name, found)) for name, found in by_name.items()}
    old = {line.split(" | ")[0].removeprefix("| "): line for line in _section(page, EQUAL).splitlines()}
    lines = {name: rows.get(name) or old.get(name) for name in CASES}
    lacking = [name for name, line in lines.items() if not line]
    note = f"\nNot in yet: {', '.join(lacking)}.\n" if lacking else ""
    return OF_EQUALITY + _table(COLUMNS, filter(None, lines.values())) + note


def truth_section(found: Sequence[Truth]) -> str:
    """The second: a row for all processes of a case."""
    cases: dict[tuple[str, MeshLayout, bool], list[Truth]] = {}
    for each in found:
        cases.setdefault((each.network, each.layout, each.checkpoint), []).append(each)
    return OF_TRUTH + _table(truth.COLUMNS_OF_CASES, map(_line, map(truth.row_of_case, cases.values())))


def published_section(found: Sequence[Figure]) -> str:
    """The third, and where each run is from and why it and the plan part."""
    file = published.read_published()
    reasons = [f"- **{run['name']}** ({run['source']}). {run['apart']}" for run in file["runs"]]
    beyond = [f"- {each}" for each in file["beyond"]]
    rows = [_line(each.row()) for each in found]
    parts = ["", "Where they are from, and why they part:", "", *reasons, "", "What can't be asked of the plan:", ""]
    return OF_PUBLISHED + _table(published.COLUMNS, rows) + "\n".join([*parts, *beyond]) + "\n"


def with_sections(page: str, sections: Mapping[str, str]) -> str:
    """The page with these sections written anew; the others stay."""
    texts = {name: sections.get(name) or _section(page, name) for name in SECTIONS}
    parts = [f"## {name}\n{text}" for name, text in texts.items() if text]
    return "\n".join([INTRODUCTION.format(torch=torch.__version__.partition("+")[0]), *parts])


def _section(page: str, name: str) -> str:
    text = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
    return text.rstrip("\n") + "\n" if text else ""


def _table(columns: Sequence[str], lines: Iterable[str]) -> str:
    return "\n" + "\n".join([_line(columns), _line(["---"] * len(columns)), *lines]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
