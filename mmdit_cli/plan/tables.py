"""`mmdit plan` as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import NEVER, Column, listing, note, tokens_text

if TYPE_CHECKING:
    from mmdit_cli.memory.rank_estimate import RankMemory
    from mmdit_cli.plan.plans import Plan, PlanResult, StepSeconds


def plan_tables(results: Sequence[PlanResult], width: int) -> list[RenderableType]:
    """Of each config the memory of a card, and a step, by way; those that fit first."""
    parts: list[RenderableType] = []
    for result in results:
        parts += [_memory(result, width), *_steps(result, width)]
    return [*parts, *map(note, _notes(results))]


def _memory(result: PlanResult, width: int) -> Table:
    def held(value: Callable[[RankMemory], float]) -> Callable[[Plan], str]:
        return lambda plan: "" if plan.memory_bytes is None else f.bytes_(value(plan.memory_bytes))

    columns = [
        *WHICH,
        Column("recomputed", lambda p: "blocks" if p.checkpoint_activations else "", 100, "word"),
        Column("weights", held(lambda m: m.weights), 76),
        Column("gradients", held(lambda m: m.gradients), 100),
        Column("optimizer", held(lambda m: m.optimizer), 100),
        Column("activations", held(lambda m: m.activations), 76),
        Column("gathered", held(lambda m: m.gathered), 90),
        Column("peak", held(lambda m: m.peak)),
        Column("fits", lambda p: "yes" if p.fits else f"no: {p.why}", kind="text"),
    ]
    title = f"{result.config}: memory of a card, {f.bytes_(result.machine.memory)}"
    return listing(title, result.plans, columns, width, style=_style)


def _steps(result: PlanResult, width: int) -> list[Table]:
    """Of the plans that fit."""
    fitting = [plan for plan in result.plans if plan.fits]
    if not fitting:
        return []

    def took(value: Callable[[StepSeconds], float]) -> Callable[[Plan], str]:
        return lambda plan: f.seconds(None if plan.step_s is None else value(plan.step_s))

    def sent(name: str) -> Callable[[Plan], str]:
        return lambda plan: f.bytes_(getattr(plan.communication_bytes, name))

    timed, priced = result.images is not None, result.price is not None
    nodes = any(plan.gpus > result.machine.gpus_per_node for plan in fitting)
    columns = [
        *WHICH,
        Column("batch", lambda p: f"{p.batch:,}", 90),
        Column("sent in the node", sent("within_node"), 110),
        Column("to others", sent("between_nodes"), 110 if nodes else NEVER),
        Column("computing", took(lambda s: s.compute), 76),
        Column("sending", took(lambda s: s.communication), 76),
        Column("step", took(lambda s: s.overlapped)),
        Column("one by one", took(lambda s: s.sequential), 130),
        Column("samples/s", lambda p: f.number(p.samples_per_s)),
        Column("efficiency", lambda p: f.percent(p.efficiency), 66),
        Column("time", lambda p: _days(p.hours), 0 if timed else NEVER),
        Column("card hours", lambda p: f.number(p.card_hours), 90 if timed else NEVER),
        Column("cost", lambda p: f.number(p.cost), 0 if priced else NEVER),
        Column("", lambda p: "cheapest" if p.cheapest else "", 0, "word"),
    ]
    images = "" if result.images is None else f", and {result.images:,} samples"
    return [listing(f"{result.config}: a step{images}", fitting, columns, width, style=_style)]


WHICH = (
    Column("GPUs", lambda p: f"{p.gpus:,}"),
    Column("way", lambda p: p.parallel, kind="name"),
)


def _style(plan: Plan) -> str | None:
    return "bold" if plan.cheapest else None if plan.fits else "dim"


def _days(hours: float | None) -> str:
    if hours is None:
        return f.MISSING
    return f.seconds(hours * 3600) if hours < 48 else f"{f.number(hours / 24)} days"


def _notes(results: Sequence[PlanResult]) -> list[str]:
    result = results[0]
    machine = result.machine
    links = {"in a node": machine.within_node, f"between nodes of {machine.gpus_per_node}": machine.between_nodes}
    known = [f"{f.rate(rate, 'B')} {where}" for where, rate in links.items() if rate is not None]
    by = f"measured: {result.measured_by}" if result.measured_by else "stated by --utilization"
    tokens = ", ".join(dict.fromkeys(f"{r.batch_per_gpu} × {tokens_text(r.tokens)}" for r in results))
    notes = [
        f"{machine.card}, {machine.precision}: {f.rate(machine.flops_per_s, 'FLOP')} dense, of which computing reaches "
        f"{f.percent(result.compute_share)} ({by}); a card sends {' and '.join(known) or 'nothing'}.",
        f"Samples × tokens of each process: {tokens}; processes of tp and ulysses share theirs.",
        "Memory: of the first process, by cutting the model under fake tensors; float32 weights, gradients and AdamW, "
        "gathered and computed in the dtype. What CUDA, NCCL and the allocator take besides is some GB.",
        "Recomputed: where a way does not fit without. Step: FSDP sends while it computes, tp and ulysses wait; one by "
        "one: nothing overlaps. Time of a collective: NCCL's own model. Efficiency: to cards that compute "
        "the passes of a step and nothing else.",
    ]
    if not any(plan.fits for r in results for plan in r.plans):
        notes.append("Nothing fits: try more GPUs, tp and ulysses of more, or a card of more memory.")
    return notes
