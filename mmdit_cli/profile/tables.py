"""`mmdit profile` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.table_parts import Columns, bar, note, side_by_side, tokens_text
from mmdit_cli.request.sweep import short_names, value_text

if TYPE_CHECKING:
    from mmdit_cli.memory.measured import MemoryUse
    from mmdit_cli.profile.baseline import Change
    from mmdit_cli.profile.growth import Growth
    from mmdit_cli.profile.measurement import ProfileResult
    from mmdit_cli.profile.roofline import Bound
    from mmdit_cli.profile.statistics import Ratio

BOLD = ("latency, median", "peak memory", "utilization", "of the limit", "against the first")
ALIKE = "can't be told apart"


def profile_tables(results: Sequence[ProfileResult], width: int, growth: Sequence[Growth] = ()) -> list[RenderableType]:
    """Configs side by side and each one's components, or the points of a sweep, one a row, and how they grow."""
    if any(result.point for result in results):
        parts: list[RenderableType] = [_points(results, width)]
        if growth:
            parts.append(_growth(growth))
    else:
        parts = [_summary(results)]
        parts += [_components(result, width) for result in results if result.components]
    return parts + [note(text) for text in _notes(results, growth)]


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
    return [table, note("Latency in ms. noise: worse, but the intervals of both medians share a value.")]


# ------------------------------------------------------------------------------------------------------- side by side


def _summary(results: Sequence[ProfileResult]) -> Table:
    table = side_by_side("profile", results)
    for label, cells in _rows(results):
        table.add_row(label, *cells, style="bold" if label in BOLD else None)
    return table


def _rows(results: Sequence[ProfileResult]) -> list[tuple[str, list[str]]]:
    rows = [("mode", [r.mode + (", compiled" if r.compiled else "") for r in results])]
    if any(r.compile_seconds is not None for r in results):
        rows.append(("compile time", [f.seconds(r.compile_seconds) for r in results]))
    rows += [
        ("batch × tokens", [f"{r.batch_size} × {tokens_text(r.tokens)}" for r in results]),
        ("parameters", [f.count(r.parameters) for r in results]),
        ("FLOPs a call", [f.flops(r.flops) for r in results]),
        ("latency, median", [f.seconds(r.latency_ms.median / 1e3) for r in results]),
        ("  95 % interval", [_interval(r) for r in results]),
        ("  p10 to p90", [_span(r.latency_ms.p10, r.latency_ms.p90) for r in results]),
        ("  runs", [str(r.latency_ms.runs) for r in results]),
    ]
    if len(results) > 1:
        rows.append(("against the first", [_ratio(r.ratio) for r in results]))
    if any(len(r.phases_ms) > 1 for r in results):
        for phase in dict.fromkeys(phase for r in results for phase in r.phases_ms):
            rows.append((f"  {phase}", [_phase(r, phase) for r in results]))
    rows += [
        ("samples/s", [f.number(r.samples_per_s) for r in results]),
        ("tokens/s", [f.count(r.tokens_per_s) for r in results]),
        ("achieved", [f.rate(r.achieved_flops_per_s, "FLOP") for r in results]),
        ("ceiling, products", [f.rate(r.ceiling.gemm_flops_per_s, "FLOP") for r in results]),
        ("ceiling, memory", [f.rate(r.ceiling.bytes_per_s, "B") for r in results]),
        ("utilization", [f.percent(r.utilization) for r in results]),
        ("least time", [f"{f.seconds(r.bound.ms / 1e3)} ({r.bound.limited_by})" for r in results]),
        ("of the limit", [f.percent(r.bound.of_measured) for r in results]),
    ]
    return rows + _memory_rows([r.memory_bytes for r in results])


def _memory_rows(uses: Sequence[MemoryUse]) -> list[tuple[str, list[str]]]:
    """The parts that any config has, then the peak, and what the allocator and the system say where it is CUDA."""
    parts = ("weights", "gradients", "optimizer", "activations", "temporaries")
    rows = [(part, [f.bytes_(getattr(u, part)) for u in uses]) for part in parts if any(getattr(u, part) for u in uses)]
    rows.append(("peak memory", [f.bytes_(u.peak) for u in uses]))
    if any(u.allocated is not None for u in uses):
        rows += [(f"  {part}", [f.bytes_(getattr(u, part)) for u in uses]) for part in ("allocated", "reserved")]
    return rows


def _interval(result: ProfileResult) -> str:
    latency = result.latency_ms
    if latency.ci_low is None or latency.ci_high is None:
        return "too few runs"
    return _span(latency.ci_low, latency.ci_high)


def _span(low_ms: float, high_ms: float) -> str:
    low, high = f.seconds(low_ms / 1e3), f.seconds(high_ms / 1e3)
    unit = high.split()[-1]
    return f"{low.removesuffix(f' {unit}')} to {high}"


def _phase(result: ProfileResult, phase: str) -> str:
    spent = result.phases_ms.get(phase)
    return f.MISSING if spent is None else f"{f.seconds(spent / 1e3)} ({f.percent(spent / result.latency_ms.median)})"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "1"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.ratio:.3f}, too few runs"
    told = "" if ratio.distinguishable else f", {ALIKE}"
    return f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}){told}"


# --------------------------------------------------------------------------------------------------------- components


def _components(result: ProfileResult, width: int) -> Table:
    table = Columns(f"{result.config}: components", width)
    for row in result.components:
        cells = [
            ("component", row.name, 0),
            ("calls", str(row.calls) if row.calls else "", 90),
            ("time", f.seconds(row.time_ms / 1e3), 0),
        ]
        if result.mode == "train":
            cells.append(("backward", f.seconds(row.backward_ms / 1e3) if row.backward_ms else "", 60))
        cells.append(("share", f.percent(row.share), 0))
        if result.mode == "forward":
            cells.append(("", bar(row.share), 76))
        cells += [
            ("least", "" if row.bound is None else f.seconds(row.bound.ms / 1e3), 70),
            ("bound by", "" if row.bound is None else row.bound.limited_by, 70),
            ("of limit", _reached(row.bound), 0),
            ("FLOP/s", f.quantity(row.flops_per_s, "") if row.flops else "", 90),
            ("FLOPs", f.quantity(row.flops, "") if row.flops else "", 100),
            ("params", f.count(row.parameters) if row.parameters else "", 110),
        ]
        table.add(cells)
    return table.table


def _reached(bound: Bound | None) -> str:
    return "" if bound is None or bound.of_measured is None else f.percent(bound.of_measured)


# -------------------------------------------------------------------------------------------------------------- sweep


def _points(results: Sequence[ProfileResult], width: int) -> Table:
    """One row a point."""
    columns = Columns(f"profile, {results[0].mode}", width)
    names = short_names([result.point for result in results])
    several = len({result.config for result in results}) > 1
    for r in results:
        cells = [("config", r.config, 0)] if several else []
        cells += [(names[key], value_text(value), 0) for key, value in r.point.items()]
        cells += [
            ("latency", f.seconds(r.latency_ms.median / 1e3), 0),
            ("± 95 %", _precision(r), 76),
            ("samples/s", f.number(r.samples_per_s), 60),
            ("FLOPs", f.quantity(r.flops, ""), 100),
            ("utilization", f.percent(r.utilization), 50),
            ("of limit", f.percent(r.bound.of_measured), 90),
            ("activations", f.bytes_(r.memory_bytes.activations), 100 if r.mode == "train" else 10_000),
            ("peak memory", f.bytes_(r.memory_bytes.peak), 0),
        ]
        columns.add(cells)
    return columns.table


def _precision(result: ProfileResult) -> str:
    latency = result.latency_ms
    if latency.ci_low is None or latency.ci_high is None:
        return f.MISSING
    return f.percent((latency.ci_high - latency.ci_low) / 2 / latency.median)


def _growth(growth: Sequence[Growth]) -> Table:
    table = Table(title="growth", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    several = len({row.config for row in growth}) > 1
    for heading in (["config"] if several else []) + ["figure", "grows as"]:
        table.add_column(heading, overflow="fold")
    for heading in ("at first", "at last", "fit within"):
        table.add_column(heading, justify="right")
    for row in growth:
        cells = [row.config] if several else []
        cells += [row.figure, f"{row.variable} ^ {row.exponent:.2f}"]
        ends = [f.MISSING if x is None else f"^ {x:.2f}" for x in (row.first, row.last)]
        table.add_row(*cells, *ends, f.percent(row.worst - 1))
    return table


# -------------------------------------------------------------------------------------------------------------- notes


def _notes(results: Sequence[ProfileResult], growth: Sequence[Growth]) -> list[str]:
    first = results[0]
    notes = [
        f"FLOPs: {first.convention}. Ceilings: the best matrix product at this dtype "
        f"({' × '.join(map(str, first.ceiling.gemm_shape))}) and the best stream of 200 MB (CPU) or 3 GB (CUDA), "
        "measured before and after.",
        "Least time: the larger of FLOPs over the one and bytes over the other (weights, inputs and outputs once; "
        "a component's: what it takes from others and hands on, at the speed of the cache that holds as much).",
        "Peak memory: the most that torch's allocator held at once during a call, the inputs apart.",
    ]
    if first.caches == "cold":
        notes.append("Caches were flushed before each run.")
    if len(results) > 1:
        notes.append(
            "Measured in rounds, one call of each config a round in random order; ratios are of the same round."
        )
    if first.components and not first.point:
        if first.attributed_by == "kernels":
            notes.append("Components: the device's own kernel times in calls of their own.")
        else:
            notes.append(
                f"Components: timed with hooks in calls of their own in the same rounds ({_overhead(results)} latency)."
            )
    if growth:
        notes.append(
            "Growth: least squares on logarithms; tokens are those of all modalities. At first, at last: between the "
            "two smallest and the two largest values."
        )
    return notes


def _overhead(results: Sequence[ProfileResult]) -> str:
    found = [r.instrumented for r in results if r.instrumented is not None]
    return ", ".join(f"{(ratio.ratio - 1) * 100:+.1f}%" for ratio in found)
