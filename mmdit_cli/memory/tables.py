"""Estimates of memory as tables: a view of `measure.fit.Fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.table_parts import Columns, note, side_by_side
from mmdit_cli.request.sweep import short_names, value_text

if TYPE_CHECKING:
    from mmdit_cli.memory.verdict import Fit

TITLE = "profile: estimated memory"
PARTS = ("weights", "gradients", "optimizer", "activations", "temporaries", "peak")


def estimate_tables(results: Sequence[Fit], width: int) -> list[RenderableType]:
    """One column for each config, or one row for each point of a sweep."""
    if any(result.point for result in results):
        return [_points(results, width), *map(note, _notes(results))]
    table = side_by_side(TITLE, results)

    def row(label: str, cell: Callable[[Fit], str], style: str | None = None) -> None:
        table.add_row(label, *(cell(result) for result in results), style=style)

    row("mode", lambda r: r.mode + (", checkpointed" if r.memory_bytes.checkpointed else ""))
    row("batch × tokens", lambda r: f"{r.batch_size} × ({' + '.join(map(str, r.tokens.values()))})")
    row("parameters", lambda r: f.count(r.parameters))
    for part in PARTS:
        cells = [getattr(r.memory_bytes, part) for r in results]
        if part == "weights" or any(cells):
            table.add_row(part, *map(f.bytes_, cells), style="bold" if part == "peak" else None)
    row("  in the phase", lambda r: r.memory_bytes.peak_phase)
    if results[0].memory is not None:
        row(f"fits in {f.bytes_(results[0].memory)}", _verdict, "bold")
        row("largest batch that fits", lambda r: str(r.largest_batch) if r.largest_batch else "none")
    parts: list[RenderableType] = [table]
    if any(result.changes for result in results):
        parts.append(_changes(results))
    return [*parts, *map(note, _notes(results))]


def _points(results: Sequence[Fit], width: int) -> Table:
    columns = Columns(TITLE, width)
    names = short_names([result.point for result in results])
    several = len({result.config for result in results}) > 1
    for r in results:
        use = r.memory_bytes
        cells = [("config", r.config, 0)] if several else []
        cells += [(names[key], value_text(value), 0) for key, value in r.point.items()]
        cells += [
            ("weights", f.bytes_(use.weights), 90),
            ("activations", f.bytes_(use.activations), 60 if r.mode == "train" else 10_000),
            ("temporaries", f.bytes_(use.temporaries), 76),
            ("peak", f.bytes_(use.peak), 0),
        ]
        if r.memory is not None:
            cells.append((f"fits in {f.bytes_(r.memory)}", "yes" if r.fits else "no", 0))
            cells.append(("largest batch", str(r.largest_batch or "none"), 60))
        columns.add(cells)
    return columns.table


def _verdict(result: Fit) -> str:
    spare = result.spare or 0
    return f"yes, {f.bytes_(spare)} to spare" if result.fits else f"no, {f.bytes_(-spare)} too little"


def _changes(results: Sequence[Fit]) -> Table:
    table = side_by_side("what would change it", results)
    settings = dict.fromkeys(change.setting for result in results for change in result.changes)
    for setting in settings:
        cells = []
        for result in results:
            change: Any = next((c for c in result.changes if c.setting == setting), None)
            verdict = {True: ", fits", False: ", does not fit", None: ""}
            cells.append(f.MISSING if change is None else f.bytes_(change.peak) + verdict[change.fits])
        table.add_row(setting, *cells)
    return table


def _notes(results: Sequence[Fit]) -> list[str]:
    notes = ["Estimated under fake tensors, without building the model; the inputs are apart."]
    if any(r.memory_bytes.kernels == "cpu" for r in results):
        notes.append("Operators: the CPU's. A CUDA device may choose others; its context takes memory besides.")
    else:
        notes.append("Operators: this CUDA device's. Its context and what the allocator keeps unused come besides.")
    if results[0].memory is None:
        notes.append("--memory 80GB says whether it fits a card, and the largest batch that does.")
    return notes
