"""`mmdit export` as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import pairs

if TYPE_CHECKING:
    from mmdit_cli.export.weights_export import ExportResult


def export_tables(result: ExportResult) -> list[RenderableType]:
    """What was written, and how it was verified."""
    fresh = "fresh, of " if result.source.startswith("seed ") else ""
    rows = [("weights", fresh + result.source), ("format", result.format), *(("file", path) for path in result.files)]
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
    return [pairs(f"{result.config}: exported", rows, bold=["verified"])]
