"""Results as tables. A table is a view of a result; it computes nothing that the JSON does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmdit_cli.output import units as f
from mmdit_cli.output.console import can_draw
from mmdit_cli.output.table_parts import note, pairs, shapes_text, tokens_text

if TYPE_CHECKING:
    from mmdit_cli.commands.shipped_sizes import ShippedConfig
    from mmdit_cli.export.weights_export import ExportResult
    from mmdit_cli.shape_check.shapes import ShapesResult
    from mmdit_cli.toy.training import TrainResult

PROBLEMS = 12  # shown on a screen
ABOUT = 120  # columns from which on there is room for a sentence


def header(document: dict[str, Any]) -> RenderableType:
    """What the figures were made with."""
    parts = [
        f"{document['device_name']} ({document['device']}, {document['threads']} threads)",
        document["dtype"],
        f"torch {document['torch_version']}",
        f"mmdit {document['mmdit_version']}",
        f"seed {document['seed']}",
    ]
    return Text(" · ".join(parts) if can_draw() else " | ".join(parts), style="dim")


def shape_tables(result: ShapesResult, *, every_layer: bool) -> list[RenderableType]:
    table = Table(title=f"{result.config}: layers", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("in", overflow="fold")
    table.add_column("out", overflow="fold")
    table.add_column("parameters", justify="right")
    for layer in result.layers:
        if every_layer or (layer.parameters and layer.name.count(".") <= 2):
            table.add_row(
                layer.name,
                shapes_text(layer.inputs),
                shapes_text(layer.outputs),
                f"{layer.parameters:,}" if layer.parameters else "",
            )
    ends = Table(title="modalities", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("modality", "in", "out"):
        ends.add_column(column, overflow="fold")
    for name, shape in result.inputs.items():
        ends.add_row(
            name, shapes_text([shape]), shapes_text([result.outputs[name]]) if name in result.outputs else "(discarded)"
        )
    verdict = Text("every shape is right" if result.ok else "not so:", style="bold green" if result.ok else "bold red")
    parts: list[RenderableType] = [table, ends, verdict]
    parts += [Text(problem, style="red") for problem in result.problems[:PROBLEMS]]
    if len(result.problems) > PROBLEMS:
        parts.append(Text(f"... and {len(result.problems) - PROBLEMS} more, which --json lists", style="red"))
    if result.weights is not None:
        parts.append(_weights_table(result.weights))
    parts += [note(text) for text in result.notes]
    parts.append(note(f"{result.parameters:,} parameters, {f.bytes_(result.weight_bytes)}"))
    return parts


def _weights_table(weights: Any) -> Table:
    table = pairs("weights")
    table.add_row("file", weights.file)
    table.add_row("layout", f"{weights.layout}{f', under {weights.prefix}' if weights.prefix else ''}")
    table.add_row("tensors", f"{weights.tensors:,} of {', '.join(weights.dtypes)}, {f.bytes_(weights.bytes)}")
    table.add_row("not the model's", f"{weights.left_aside:,}")
    verdict = f"{len(weights.problems):,} differences" if weights.problems else "every tensor is there, and no other"
    table.add_row("fits the config", verdict, style="bold")
    return table


def train_tables(results: Sequence[TrainResult]) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for result in results:
        table = pairs(f"{result.config}: trained")
        table.add_row("steps", f"{result.steps} ({f.number(result.steps_per_s)}/s)")
        table.add_row("loss, first to last", f"{f.number(result.loss['first'])} to {f.number(result.loss['last'])}")
        for name, share in result.accuracy.items():
            table.add_row(
                f"accuracy, {name}", f"{f.percent(share)} (chance {f.percent(result.chance[name])})", style="bold"
            )
            table.add_row("  held-out captions", f.percent(result.held_out[name]))
            real, noise = f.percent(result.oracle_real[name]), f.percent(result.oracle_noise[name])
            table.add_row("  oracle, real data / noise", f"{real} / {noise}")
            for attribute, right in result.per_attribute[name].items():
                table.add_row(f"  {attribute}", f.percent(right))
        for task, share in result.any_to_any.items():
            table.add_row(task, f.percent(share), style="bold")
        for label, path in result.files.items():
            table.add_row(label.replace("_", " "), str(path))
        parts.append(table)
    parts.append(note("Accuracy: the share of samples from which an oracle reads back every attribute of the caption."))
    if any(result.any_to_any for result in results):
        parts.append(
            note("From another modality or noise: the share of samples that go with the caption, or with one another.")
        )
    return parts


def config_tables(sizes: Sequence[ShippedConfig], width: int) -> list[RenderableType]:
    """On a narrow screen with fewer columns."""
    table = Table(title="configs that --config takes", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", overflow="fold")
    columns = [("params", 0), ("bf16", 56), ("blocks", 64), ("tokens", 88)]
    shown = [heading for heading, needs in columns if width >= needs]
    for heading in shown:
        table.add_column(heading, justify="left" if heading == "tokens" else "right", no_wrap=True)
    if width >= ABOUT:
        table.add_column("about", overflow="fold")
    for size in sizes:
        cells = {
            "params": f.count(size.parameters),
            "bf16": f.bytes_(size.weight_bytes["bf16"]),
            "blocks": str(size.blocks),
            "tokens": tokens_text(size.tokens),
        }
        about = [Text(size.about)] if width >= ABOUT else []
        table.add_row(size.config, *(cells[heading] for heading in shown), *about)
    return [table, note("mmdit configs NAME prints the file.")]


def export_tables(result: ExportResult) -> list[RenderableType]:
    table = pairs(f"{result.config}: exported")
    table.add_row("format", result.format)
    for path in result.files:
        table.add_row("file", path)
    table.add_row("tensors", str(result.tensors))
    table.add_row("parameters", f"{result.parameters:,}")
    table.add_row("size", f.bytes_(result.bytes))
    if result.inputs:
        for name, sizes in result.inputs.items():
            table.add_row(f"takes {name}", " × ".join(sizes))
        table.add_row("gives", ", ".join(result.outputs))
        verified = "yes: loaded and run at other sizes, with masks" if any("mask" in n for n in result.inputs) else ""
        table.add_row("verified", verified or "yes: loaded and run at other sizes", style="bold")
        table.add_row("largest output difference", f.number(result.max_abs_diff))
        return [table]
    if (result.source_layout, result.layout) == ("mmdit", "mmdit"):
        table.add_row("verified", "yes: reloaded, same tensors, same outputs", style="bold")
        table.add_row("largest output difference", f.number(result.max_abs_diff))
        return [table]
    table.add_row("layout", f"{result.source_layout} to {result.layout}")
    table.add_row("verified", "yes: read back and brought back to the source's layout", style="bold")
    changed = f"{len(result.changed)} tensors, by {f.number(result.max_abs_diff)} at most" if result.changed else "none"
    table.add_row("bits that do not come back", changed)
    if result.left_aside:
        table.add_row("left aside", f"{result.left_aside} tensors of the file that are none of the model's")
    return [table]
