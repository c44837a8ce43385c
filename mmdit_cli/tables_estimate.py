"""Estimates of memory as tables: a view of `measure.fit.Fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmdit_cli import formats as f

if TYPE_CHECKING:
    from mmdit_cli.measure.fit import Fit

PARTS = ("weights", "gradients", "optimizer", "activations", "temporaries", "peak")


def estimate_tables(results: Sequence[Fit]) -> list[RenderableType]:
    """One column for each config."""
    table = Table(title="profile: estimated memory", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for result in results:
        table.add_column(result.config, justify="right", overflow="fold")

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
    return parts + [Text(note, style="dim") for note in _notes(results)]


def _verdict(result: Fit) -> str:
    spare = result.spare or 0
    return f"yes, {f.bytes_(spare)} to spare" if result.fits else f"no, {f.bytes_(-spare)} too little"


def _changes(results: Sequence[Fit]) -> Table:
    table = Table(title="what would change it", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", overflow="fold")
    for result in results:
        table.add_column(result.config, justify="right", overflow="fold")
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
