"""`mmdit flops` as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.table_parts import Columns, bar, note, side_by_side, tokens_text
from mmdit_cli.request.sweep import short_names, value_text

if TYPE_CHECKING:
    from mmdit_cli.model_parts.flop_count import FlopsResult
    from mmdit_cli.request.budget import TrainingPlan

WIDE = 100  # columns of a screen from which on a parameter count is written out beside others, and a bar fits too


def flops_tables(results: Sequence[FlopsResult], width: int) -> list[RenderableType]:
    """One config by component and modality, several side by side, or the points of a sweep, one a row."""
    if any(result.point for result in results):
        parts: list[RenderableType] = [_points(results, width)]
    else:
        parts = [_summary(results, width)]
        for result in results:
            parts += [_components(result, width), _modalities(result, width)]
            if result.elementwise is not None:
                parts.append(_elementwise(result))
        if any(result.training is not None for result in results):
            parts.append(_training(results))
    return parts + [note(text) for text in _notes(results)]


def _summary(results: Sequence[FlopsResult], width: int) -> Table:
    table = _columns("flops", results)
    exact = len(results) == 1 or width >= WIDE
    flops: Callable[[float], str] = f.flops if exact else _cell
    table.add_row("batch × tokens", *(f"{r.batch_size} × {tokens_text(r.tokens)}" for r in results))

    def row(label: str, value: Callable[[FlopsResult], float], show: Callable[[float], str]) -> None:
        first = value(results[0])
        cells = [show(value(results[0]))]
        cells += [f"{show(value(r))}  {_ratio(value(r), first)}" for r in results[1:]]
        bold = label in ("parameters", "forward", "training step")
        table.add_row(label, *cells, style="bold" if bold else None)

    row("parameters", lambda r: r.parameters, lambda x: f"{x:,}" if exact else f.count(x))
    row("weights", lambda r: r.weight_bytes, f.bytes_)
    row("forward", lambda r: r.forward_flops, flops)
    row("  linear", lambda r: r.linear_flops, flops)
    row("  attention", lambda r: r.attention_flops, flops)
    row("backward", lambda r: r.backward_flops, flops)
    row("  linear", lambda r: r.backward_linear_flops, flops)
    row("  attention", lambda r: r.backward_attention_flops, flops)
    row("training step", lambda r: r.step_flops, flops)
    row("  executed", lambda r: r.executed_step_flops, flops)
    row("forward a token", lambda r: r.flops_per_token, flops)
    row("step a token", lambda r: r.step_flops_per_token, flops)
    row(
        "arithmetic intensity",
        lambda r: r.arithmetic_intensity,
        lambda x: f"{f.number(x)} FLOP/B" if exact else f.number(x),
    )
    return table


def _columns(title: str, results: Sequence[FlopsResult]) -> Table:
    table = side_by_side(title, results)
    table.columns[0].no_wrap = True
    return table


def _ratio(value: float, first: float) -> str:
    return f"×{f.number(value / first)}" if first else ""


def _components(result: FlopsResult, width: int) -> Table:
    rows = Columns(f"{result.config}: components", width)
    for row in result.components:
        cells = [
            ("component", row.name, 0),
            ("forward", _cell(row.flops), 0),
            ("share", f.percent(row.share), 0),
            ("", bar(row.share), 80 if result.elementwise is None else WIDE),
            ("backward", _cell(row.backward_flops), 56),
        ]
        if row.elementwise is not None:
            cells.append(("elementwise", _cell(row.elementwise), 0))
        rows.add([*cells, ("parameters", f"{row.parameters:,}" if row.parameters else "", 66)])
    return rows.table


def _modalities(result: FlopsResult, width: int) -> Table:
    rows = Columns(f"{result.config}: modalities", width)
    for row in result.modalities:
        rows.add(
            [
                ("tokens of", row.name, 0),
                ("tokens", f"{row.tokens:,}" if row.tokens else "", 60),
                ("forward", _cell(row.forward_flops), 0),
                ("share", f.percent(row.share), 0),
                ("backward", _cell(row.backward_flops), 56),
                ("forward a token", f.quantity(row.flops_per_token, "") if row.flops_per_token else "", 0),
                ("parameters", f"{row.parameters:,}" if row.parameters else "", 76),
            ]
        )
    return rows.table


def _elementwise(result: FlopsResult) -> Table:
    work = result.elementwise
    assert work is not None
    table = Table(
        title=f"{result.config}: softmax and elementwise work, in no total",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("work")
    for heading in ("forward", "backward"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind in work.kinds:
        table.add_row(kind.kind, _cell(kind.forward_flops), _cell(kind.backward_flops))
    table.add_row("all", _cell(work.forward_flops), _cell(work.backward_flops), style="bold")
    table.add_row(
        "over the products",
        f.percent(work.forward_flops / max(1, result.forward_flops)),
        f.percent(work.backward_flops / max(1, result.backward_flops)),
    )
    return table


def _training(results: Sequence[FlopsResult]) -> Table:
    table = _columns("training budget", results)
    plans = [result.training for result in results if result.training is not None]
    for label, cells in _plan_rows(plans):
        table.add_row(label, *cells, style="bold" if label == "time" else None)
    return table


def _plan_rows(plans: Sequence[TrainingPlan]) -> list[tuple[str, list[str]]]:
    rows = [
        ("samples", [f"{p.samples:,}" for p in plans]),
        ("steps", [f"{p.steps:,}" for p in plans]),
        ("model FLOPs", [_flops(p.flops) for p in plans]),
        ("executed FLOPs", [_flops(p.executed_flops) for p in plans]),
    ]
    if plans[0].card is not None:
        rows += [
            ("on", [_hardware(p) for p in plans]),
            ("dense peak of a card", [f.rate(p.card_flops_per_s, "FLOP") for p in plans]),
            ("utilization, model", [f.percent(p.utilization) for p in plans]),
            ("  executed", [f.percent(p.executed_utilization) for p in plans]),
            ("time", [_hours(p.hours) for p in plans]),
            ("  in days", [f.number(p.hours and p.hours / 24) for p in plans]),
            ("card hours", [f.number(p.card_hours) for p in plans]),
        ]
    return rows


def _points(results: Sequence[FlopsResult], width: int) -> Table:
    """One row a point of a sweep."""
    table = Table(title="flops", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    names = short_names([result.point for result in results])
    several = len({result.config for result in results}) > 1
    if several:
        table.add_column("config", overflow="fold", min_width=8)
    headings = [*names.values(), "params", "forward", "step", "step/token"]
    timed = results[0].training is not None and results[0].training.hours is not None
    if results[0].training is not None:
        headings.append("time" if timed else "steps")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for r in results:
        cells = [r.config] if several else []
        cells += [value_text(value) for value in r.point.values()]
        cells.append(f"{r.parameters:,}" if width >= WIDE else f.count(r.parameters))
        cells += [f.quantity(flops, "") for flops in (r.forward_flops, r.step_flops, r.step_flops_per_token)]
        if r.training is not None:
            cells.append(_hours(r.training.hours) if timed else f"{r.training.steps:,}")
        table.add_row(*cells)
    return table


def _notes(results: Sequence[FlopsResult]) -> list[str]:
    first = results[0]
    swept = bool(first.point)
    names = sorted({name for result in results for name in result.uncounted_operators})
    how = "--elementwise counts them apart" if first.elementwise is None else "counted apart as elementwise"
    notes = [
        f"FLOPs: {first.convention}, counted by torch's flop_counter on the meta device.",
        "Training step: forward and backward (model FLOPs). Executed: fused attention computes its scores again in "
        "backward (2.5 × its forward, not 2 ×), and checkpointed activations are computed twice.",
    ]
    if not swept:
        notes.append("Modalities: joined works on all tokens at once, shared on none of them.")
        notes.append(
            "Arithmetic intensity: forward FLOPs over the bytes of weights, inputs and outputs, each moved once."
        )
    notes.append(f"Not counted ({how}): {', '.join(names)}.")
    if first.elementwise is not None:
        notes.append(f"Elementwise, our own convention: {first.elementwise.convention}.")
    plan = first.training
    if plan is not None:
        notes.append("Budget: run.batch_size samples a step, all cards together; model FLOPs, the padding included.")
        if plan.card is not None and swept:
            notes.append(f"Time: {_hardware(plan)} at {f.percent(plan.utilization)} utilization.")
    return notes


def _cell(flops: float) -> str:
    return f.quantity(flops, "") if flops else ""


def _flops(flops: int) -> str:
    return f"{flops:.3g} FLOP".replace("e+", "e")


def _hardware(plan: TrainingPlan) -> str:
    return f"{plan.cards:,} × {plan.card}, {plan.precision}"


def _hours(hours: float | None) -> str:
    """`42.0 h`, `1,234 h`; below an hour in minutes and seconds."""
    if hours is None:
        return f.MISSING
    return f"{f.number(hours)} h" if hours >= 1 else f.seconds(hours * 3600)
