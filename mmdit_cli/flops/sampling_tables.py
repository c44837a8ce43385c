"""`mmdit flops --mode sample` as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.model_parts.sampling_flops import SamplingFlops, WayFlops
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, note, padding_notes, tokens_text
from mmdit_cli.request.sweep import point_columns


def sampling_flops_tables(results: Sequence[SamplingFlops], width: int) -> list[RenderableType]:
    """The ways of each config, one a row; or of each point of a sweep the way of fewest FLOPs."""
    if any(result.point for result in results):
        tables = [_points(results, width)]
    else:
        tables = [_ways(result, width) for result in results]
    return [*tables, *map(note, _notes(results))]


def _ways(result: SamplingFlops, width: int) -> Table:
    columns = (
        Column("guidance", lambda w: w.guidance, kind="word"),
        Column("modulation", lambda w: w.modulation, kind="word"),
        Column("before", lambda w: f.quantity(w.setup_flops, "") if w.setup_flops else "", 90),
        Column("a step", lambda w: f.quantity(w.step_flops, "")),
        Column("the run", lambda w: f.quantity(w.flops, "")),
        Column("a sample", lambda w: f.quantity(w.flops_per_sample, "")),
        Column("in modulation", lambda w: f.percent(w.modulation_share), 80),
        Column("in attention", lambda w: f.percent(w.attention_share), 80),
    )
    batch = f"{result.batch_size} × {tokens_text(result.tokens)}"
    title = f"{result.config}: {result.steps} steps, guidance {f.number(result.guidance)}, {batch} tokens, in FLOP"
    return listing(title, result.ways, columns, width)


def _points(results: Sequence[SamplingFlops], width: int) -> Table:
    columns = (
        *point_columns(results),
        Column("a step", lambda r: f.quantity(_fewest(r).step_flops, "")),
        Column("the run", lambda r: f.quantity(_fewest(r).flops, "")),
        Column("a sample", lambda r: f.quantity(_fewest(r).flops_per_sample, "")),
        Column("in modulation", lambda r: f.percent(_fewest(r).modulation_share), 80),
        Column("in attention", lambda r: f.percent(_fewest(r).attention_share), 80),
    )
    return listing("flops, sample, in FLOP", results, columns, width)


def _fewest(result: SamplingFlops) -> WayFlops:
    return min(result.ways, key=lambda way: way.flops)


def _notes(results: Sequence[SamplingFlops]) -> list[str]:
    return [
        f"FLOPs: {results[0].convention}, counted by torch's flop_counter on the meta device.",
        "Guidance with and without the condition in one batch of twice the samples or in two calls; embedded: the "
        "network is told the scale. Modulation before: of all steps at once, or in each step.",
        *padding_notes(results),
    ]
