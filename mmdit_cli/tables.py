"""Results as tables. A table is a view of a result; it computes nothing that the JSON does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmdit_cli import formats as f
from mmdit_cli.console import can_draw

if TYPE_CHECKING:
    from mmdit_cli.baseline import Change
    from mmdit_cli.export import ExportResult
    from mmdit_cli.measure.memory import MemoryUse
    from mmdit_cli.measure.profile import ProfileResult
    from mmdit_cli.measure.shapes import ShapesResult
    from mmdit_cli.toy.train import TrainResult

PROBLEMS = 12  # shown on a screen
BAR = 8


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


def profile_tables(results: Sequence[ProfileResult], width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [_profile_summary(results)]
    for result in results:
        if result.components:
            parts.append(_profile_components(result, width))
    parts.append(_note(f"FLOPs: {results[0].convention}. Ceilings: measured in this run, at the model's dtype."))
    parts.append(_note("Peak memory: the most that torch's allocator held at once during a call, the inputs apart."))
    if results[0].components:
        parts.append(_note(f"Components: timed with hooks in runs of their own ({_overhead(results)})."))
    return parts


def change_tables(changes: Sequence[Change]) -> list[RenderableType]:
    """Against a baseline; nothing where there is none."""
    if not changes:
        return []
    table = Table(title="against the baseline", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("config", overflow="fold")
    table.add_column("figure", overflow="fold")
    for heading in ("before", "now", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for change in changes:
        style = {"worse": "bold red", "better": "green"}.get(change.verdict, "")
        before, now = f.number(change.before), f.number(change.now)
        table.add_row(change.config, change.figure, before, now, f"{change.ratio:.3f}", change.verdict, style=style)
    return [table, _note("Latency in ms. noise: worse, but the intervals of both medians share a value.")]


def _overhead(results: Sequence[ProfileResult]) -> str:
    figures = [f"{(r.instrumented.ratio - 1) * 100:+.1f}% latency" for r in results if r.instrumented is not None]
    return ", ".join(figures)


def _profile_summary(results: Sequence[ProfileResult]) -> Table:
    table = _table("profile", results)
    rows: list[tuple[str, list[str]]] = [
        ("mode", [r.mode + (", compiled" if r.compiled else "") for r in results]),
        ("batch × tokens", [f"{r.batch_size} × {_tokens(r.tokens)}" for r in results]),
        ("parameters", [f.count(r.parameters) for r in results]),
        ("weights", [f.bytes_(r.memory_bytes.weights) for r in results]),
        *_memory_rows([r.memory_bytes for r in results]),
        ("FLOPs a call", [f.flops(r.flops) for r in results]),
        ("latency, median", [f.seconds(r.latency_ms.median / 1e3) for r in results]),
        ("  p10 to p90", [_range(r) for r in results]),
        ("  runs", [str(r.latency_ms.runs) for r in results]),
        ("samples/s", [f.number(r.samples_per_s) for r in results]),
        ("tokens/s", [f.count(r.tokens_per_s) for r in results]),
        ("achieved", [f.rate(r.achieved_flops_per_s, "FLOP") for r in results]),
        ("ceiling, products", [f.rate(r.ceiling.gemm_flops_per_s, "FLOP") for r in results]),
        ("ceiling, memory", [f.rate(r.ceiling.bytes_per_s, "B") for r in results]),
        ("utilization", [f.percent(r.utilization) for r in results]),
    ]
    if any(r.compile_seconds is not None for r in results):
        rows.insert(1, ("compile time", [f.seconds(r.compile_seconds) for r in results]))
    for label, cells in rows:
        table.add_row(label, *cells, style="bold" if label in ("latency, median", "utilization") else None)
    return table


def _memory_rows(uses: Sequence[MemoryUse]) -> list[tuple[str, list[str]]]:
    """The parts that any config has, then the peak, and what the allocator and the system say where it is CUDA."""
    parts = ("gradients", "optimizer", "activations", "temporaries")
    rows = [(part, [f.bytes_(getattr(u, part)) for u in uses]) for part in parts if any(getattr(u, part) for u in uses)]
    rows.append(("peak memory", [f.bytes_(u.peak) for u in uses]))
    if any(u.allocated is not None for u in uses):
        for part in ("allocated", "reserved", "process"):
            rows.append((f"  {part}", [f.bytes_(getattr(u, part)) for u in uses]))
    return rows


def _range(result: ProfileResult) -> str:
    return f"{f.seconds(result.latency_ms.p10 / 1e3)} to {f.seconds(result.latency_ms.p90 / 1e3)}"


def _profile_components(result: ProfileResult, width: int) -> Table:
    table = _Columns(f"{result.config}: components", width)
    for row in result.components:
        cells = [
            ("component", row.name, 0),
            ("calls", str(row.calls) if row.calls else "", 70),
            ("time", f.seconds(row.time_ms / 1e3), 0),
        ]
        if result.mode == "train":
            cells.append(("backward", f.seconds(row.backward_ms / 1e3) if row.backward_ms else "", 60))
        cells.append(("share", f.percent(row.share), 0))
        if result.mode == "forward":
            cells.append(("", _bar(row.share), 60))
        cells += [
            ("FLOPs", f.quantity(row.flops, "") if row.flops else "", 50),
            ("FLOP/s", f.quantity(row.flops_per_s, "") if row.flops else "", 76),
            ("params", f.count(row.parameters) if row.parameters else "", 76),
        ]
        table.add(cells)
    return table.table


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
                _shapes(layer.inputs),
                _shapes(layer.outputs),
                f"{layer.parameters:,}" if layer.parameters else "",
            )
    ends = Table(title="modalities", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("modality", "in", "out"):
        ends.add_column(column, overflow="fold")
    for name, shape in result.inputs.items():
        ends.add_row(
            name, _shapes([shape]), _shapes([result.outputs[name]]) if name in result.outputs else "(discarded)"
        )
    verdict = Text("every shape is right" if result.ok else "not so:", style="bold green" if result.ok else "bold red")
    parts: list[RenderableType] = [table, ends, verdict]
    parts += [Text(problem, style="red") for problem in result.problems[:PROBLEMS]]
    if len(result.problems) > PROBLEMS:
        parts.append(Text(f"... and {len(result.problems) - PROBLEMS} more, which --json lists", style="red"))
    if result.weights is not None:
        parts.append(_weights_table(result.weights))
    parts += [_note(note) for note in result.notes]
    parts.append(_note(f"{result.parameters:,} parameters, {f.bytes_(result.weight_bytes)}"))
    return parts


def _weights_table(weights: Any) -> Table:
    table = _pairs("weights")
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
        table = _pairs(f"{result.config}: trained")
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
        for label, path in result.files.items():
            table.add_row(label.replace("_", " "), str(path))
        parts.append(table)
    parts.append(
        _note("Accuracy: the share of samples from which an oracle reads back every attribute of the caption.")
    )
    return parts


def export_tables(result: ExportResult) -> list[RenderableType]:
    table = _pairs(f"{result.config}: exported")
    table.add_row("format", result.format)
    for path in result.files:
        table.add_row("file", path)
    table.add_row("tensors", str(result.tensors))
    table.add_row("parameters", f"{result.parameters:,}")
    table.add_row("size", f.bytes_(result.bytes))
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


def _table(title: str, results: Sequence[Any]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for result in results:
        table.add_column(result.config, justify="right", overflow="fold")
    return table


def _pairs(title: str) -> Table:
    """A table of names and values."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    return table


class _Columns:
    """A table of components. Each cell comes with its heading and the width of screen from which on it is shown."""

    def __init__(self, title: str, width: int) -> None:
        self.width = width
        self.table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )

    def add(self, cells: Sequence[tuple[str, str, int]]) -> None:
        shown = [(heading, text) for heading, text, needs in cells if self.width >= needs]
        if not self.table.columns:
            for index, (heading, _) in enumerate(shown):
                bar = {"no_wrap": True, "min_width": BAR} if not heading else {"justify": "right", "no_wrap": True}
                self.table.add_column(heading, **({"overflow": "fold"} if index == 0 else bar))
        self.table.add_row(*(text for _, text in shown))


def _bar(share: float) -> str:
    return f.bar(share, BAR, ascii_only=not can_draw())


def _tokens(tokens: dict[str, int]) -> str:
    return "(" + " + ".join(str(count) for count in tokens.values()) + ")"


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("×".join(str(size) for size in shape) for shape in shapes)


def _note(text: str) -> Text:
    return Text(text, style="dim")
