"""`mmdit export` as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, pairs

if TYPE_CHECKING:
    from mmdit_cli.export.weights_export import ExportResult, MergedLora


def export_tables(result: ExportResult) -> list[RenderableType]:
    """What was written, and how it was verified."""
    fresh = "fresh, of " if result.source.startswith("seed ") else ""
    rows = [("weights", fresh + result.source), ("format", result.format), *(("file", path) for path in result.files)]
    rows += [("LoRA", _lora(each)) for each in result.lora]
    rows += [
        ("tensors", str(result.tensors)),
        ("parameters", f"{result.parameters:,}"),
        ("size", f.bytes_(result.bytes)),
        *((f"takes {name}", " × ".join(sizes)) for name, sizes in result.inputs.items()),
    ]
    difference = ("largest output difference", f.number(result.max_abs_diff))
    if result.inputs:
        masks = ", with masks" if any("mask" in name for name in result.inputs) else ""
        rows.append(("gives", ", ".join(result.outputs)))
        rows += [("verified", f"yes: loaded and run at other sizes{masks}"), difference]
    elif result.errors:
        rows += [
            ("layout", f"{result.source_layout} to {result.layout}"),
            ("verified", "yes: read back, every weight within the rounding of fp8"),
        ]
    elif (result.source_layout, result.layout) == ("mmdit", "mmdit"):
        rows += [("verified", "yes: reloaded, same tensors, same outputs"), difference]
    else:
        by = f"{len(result.changed)} tensors, by {f.number(result.max_abs_diff)} at most" if result.changed else "none"
        rows += [
            ("layout", f"{result.source_layout} to {result.layout}"),
            ("verified", "yes: read back and brought back to the source's layout"),
            ("bits that do not come back", by),
        ]
    if result.left_aside:
        rows.append(("left aside", f"{result.left_aside} tensors of the file that are none of the model's"))
    tables: list[RenderableType] = [pairs(f"{result.config}: exported", rows, bold=["verified"])]
    return [*tables, listing("what fp8 rounds", result.errors, ROUNDING)] if result.errors else tables


def _lora(merged: MergedLora) -> str:
    ranks = " to ".join(map(str, dict.fromkeys((merged.ranks[0], merged.ranks[-1]))))
    told = f"rank {ranks}, {merged.targets} targets, in {merged.spelling}'s spelling of the layout {merged.layout}"
    return f"{merged.file} × {merged.scale:g}: {told}"


ROUNDING = (
    Column("weights", lambda row: row.kind, kind="text"),
    Column("tensors", lambda row: str(row.tensors)),
    Column("relative error", lambda row: f.percent(row.relative)),
    Column("largest error", lambda row: f.number(row.max_abs)),
)
