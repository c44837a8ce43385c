"""`mmdit flops` as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import (
    NEVER,
    Column,
    Row,
    listing,
    note,
    padding_notes,
    share_bar,
    side_by_side,
    tokens_text,
    unlike_batches,
)
from mmdit_cli.request.sweep import point_columns

if TYPE_CHECKING:
    from mmdit_cli.model_parts.flop_count import FlopsResult
    from mmdit_cli.request.budget import TrainingPlan

IN_FLOP = ", in FLOP"  # of tables whose narrow cells leave the unit out: G stands beside the B of parameters
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
    return [*parts, *map(note, _notes(results))]


def _summary(results: Sequence[FlopsResult], width: int) -> Table:
    exact = len(results) == 1 or width >= WIDE
    flops: Callable[[float], str] = f.flops if exact else _cell

    def row(label: str, value: Callable[[FlopsResult], float], show: Callable[[float], str] = flops) -> Row:
        def cell(result: FlopsResult) -> str:
            ratio = "" if result is results[0] else f"  {_ratio(value(result), value(results[0]))}"
            return show(value(result)) + ratio

        return Row(label, cell, label in ("parameters", "forward", "training step"))

    rows = (
        Row("batch × tokens", lambda r: f"{r.batch_size} × {tokens_text(r.tokens)}"),
        row("parameters", lambda r: r.parameters, lambda x: f"{x:,}" if exact else f.count(x)),
        row("weights", lambda r: r.weight_bytes, f.bytes_),
        row("forward", lambda r: r.forward_flops),
        row("  linear", lambda r: r.linear_flops),
        row("  attention", lambda r: r.attention_flops),
        row("backward", lambda r: r.backward_flops),
        row("  linear", lambda r: r.backward_linear_flops),
        row("  attention", lambda r: r.backward_attention_flops),
        row("training step", lambda r: r.step_flops),
        row("  executed", lambda r: r.executed_step_flops),
        row("forward a token", lambda r: r.flops_per_token),
        row("step a token", lambda r: r.step_flops_per_token),
        row("arithmetic intensity", lambda r: r.arithmetic_intensity, lambda x: f.number(x) + " FLOP/B" * exact),
    )
    return _labelled("flops" if exact else f"flops{IN_FLOP}", results, rows)


def _labelled(title: str, results: Sequence[FlopsResult], rows: Iterable[Row]) -> Table:
    table = side_by_side(title, results, rows)
    table.columns[0].no_wrap = True
    return table


def _ratio(value: float, first: float) -> str:
    return f"×{f.number(value / first)}" if first else ""


def _components(result: FlopsResult, width: int) -> Table:
    elementwise = result.elementwise is not None
    columns = [
        Column("component", lambda c: c.name, kind="text"),
        Column("forward", lambda c: _cell(c.flops)),
        Column("share", lambda c: f.percent(c.share)),
        Column("", lambda c: share_bar(c.share), WIDE if elementwise else 80, "bar"),
        Column("backward", lambda c: _cell(c.backward_flops), 56),
        Column("elementwise", lambda c: _cell(c.elementwise or 0), 0 if elementwise else NEVER),
        Column("parameters", lambda c: f"{c.parameters:,}" if c.parameters else "", 66),
    ]
    return listing(f"{result.config}: components{IN_FLOP}", result.components, columns, width)


def _modalities(result: FlopsResult, width: int) -> Table:
    columns = (
        Column("tokens of", lambda m: m.name, kind="text"),
        Column("tokens", lambda m: f"{m.tokens:,}" if m.tokens else "", 60),
        Column("forward", lambda m: _cell(m.forward_flops)),
        Column("share", lambda m: f.percent(m.share)),
        Column("backward", lambda m: _cell(m.backward_flops), 56),
        Column("forward a token", lambda m: _cell(m.flops_per_token or 0)),
        Column("parameters", lambda m: f"{m.parameters:,}" if m.parameters else "", 76),
    )
    return listing(f"{result.config}: modalities{IN_FLOP}", result.modalities, columns, width)


def _elementwise(result: FlopsResult) -> Table:
    work = result.elementwise
    assert work is not None
    shares = (
        f.percent(work.forward_flops / max(1, result.forward_flops)),
        f.percent(work.backward_flops / max(1, result.backward_flops)),
    )
    rows = [(kind.kind, _cell(kind.forward_flops), _cell(kind.backward_flops)) for kind in work.kinds]
    rows.append(("all", _cell(work.forward_flops), _cell(work.backward_flops)))
    rows.append(("over the products", *shares))
    columns = (
        Column("work", lambda r: r[0], kind="text"),
        Column("forward", lambda r: r[1]),
        Column("backward", lambda r: r[2]),
    )
    title = f"{result.config}: elementwise work{IN_FLOP}"
    return listing(title, rows, columns, style=lambda r: "bold" if r[0] == "all" else None, tight=False)


def _training(results: Sequence[FlopsResult]) -> Table:
    def row(label: str, cell: Callable[[TrainingPlan], str], when: bool = True) -> Row:
        return Row(label, lambda result: cell(result.training), label == "time", when)

    timed = any(result.training is not None and result.training.card is not None for result in results)
    rows = (
        row("samples", lambda p: f"{p.samples:,}"),
        row("steps", lambda p: f"{p.steps:,}"),
        row("model FLOPs", lambda p: _flops(p.flops)),
        row("executed FLOPs", lambda p: _flops(p.executed_flops)),
        row("on", _hardware, timed),
        row("dense peak of a card", lambda p: f.rate(p.card_flops_per_s, "FLOP"), timed),
        row("utilization, model", lambda p: f.percent(p.utilization), timed),
        row("  executed", lambda p: f.percent(p.executed_utilization), timed),
        row("time", lambda p: _hours(p.hours), timed),
        row("  in days", lambda p: _days(p.hours), timed),
        row("card hours", lambda p: f.number(p.card_hours), timed),
    )
    return _labelled("training budget", results, rows)


def _points(results: Sequence[FlopsResult], width: int) -> Table:
    """One row a point of a sweep."""
    plan = results[0].training
    timed = plan is not None and plan.hours is not None
    columns = [
        *(c._replace(kind="name" if c.heading == "config" else "number") for c in point_columns(results)),
        Column("params", lambda r: f"{r.parameters:,}" if width >= WIDE else f.count(r.parameters)),
        Column("forward", lambda r: f.quantity(r.forward_flops, "")),
        Column("step", lambda r: f.quantity(r.step_flops, "")),
        Column("step/token", lambda r: f.quantity(r.step_flops_per_token, "")),
        Column("time", lambda r: _hours(r.training.hours), 0 if timed else NEVER),
        Column("steps", lambda r: f"{r.training.steps:,}", 0 if plan is not None and not timed else NEVER),
    ]
    return listing(f"flops{IN_FLOP}", results, columns, width)


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
    if any(r.step_flops < r.forward_flops + r.backward_flops for r in results):
        notes.append("Where the model has routing, a training step leaves tokens out, which forward and backward have.")
    if not swept:
        notes.append("Modalities: joined works on all tokens at once, shared on none of them.")
        notes.append(
            "Arithmetic intensity: forward FLOPs over the bytes of weights, inputs and outputs, each moved once."
        )
    notes.append(f"Not counted ({how}): {', '.join(names)}.")
    if first.elementwise is not None:
        notes.append(f"Elementwise work is in no total. Our own convention: {first.elementwise.convention}.")
    notes += unlike_batches(results)
    if padding := padding_notes(results):
        notes += [f"{padding[0]} A token: one as it comes in, the padding included."]
    plan = first.training
    if plan is not None:
        notes.append("Budget: run.batch_size samples a step, all cards together; model FLOPs.")
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


def _days(hours: float | None) -> str:
    return "under 0.01" if hours is not None and hours < 0.24 else f.number(hours and hours / 24)
