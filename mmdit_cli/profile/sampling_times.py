"""`mmdit profile --mode sample` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import NEVER, Column, listing, note, padding_notes, styled, tokens_text
from mmdit_cli.profile.tables import ALIKE, ceiling_note
from mmdit_cli.request.sweep import point_columns

if TYPE_CHECKING:
    from mmdit_cli.profile.conditions import Conditions
    from mmdit_cli.profile.sampling_profile import SamplingProfile, WayProfile


def sampling_tables(
    results: Sequence[SamplingProfile], width: int, conditions: Conditions | None = None
) -> list[RenderableType]:
    """The ways of each config, one a row, the fastest in bold; or of each point of a sweep its fastest way."""
    notices = [styled(text, "bold yellow") for text in ([] if conditions is None else conditions.notices)]
    swept = any(result.point for result in results)
    tables = [_points(results, width)] if swept else [_ways(result, width) for result in results]
    return [*notices, *tables, *map(note, _notes(results))]


def _ways(result: SamplingProfile, width: int) -> Table:
    timed = any(way.shares for way in result.ways)
    columns = (
        Column("guidance", lambda w: w.guidance, kind="word"),
        Column("modulation", lambda w: w.modulation, kind="word"),
        Column("a sample", lambda w: f.seconds(w.seconds_per_sample)),
        Column("± 95 %", _precision, 60),
        Column("an hour", lambda w: f.number(w.samples_per_hour)),
        Column("before", lambda w: f.seconds(w.setup_ms / 1e3), 90),
        Column("a step", lambda w: f.seconds(w.step_ms / 1e3), 76),
        *_share_columns(timed),
        Column("utilization", lambda w: f.percent(w.utilization), 120),
        Column("peak memory", lambda w: f.bytes_(w.peak_bytes), 134),
        Column("against the first", _ratio, 164 if len(result.ways) > 1 else NEVER),
    )
    fastest = result.ways[result.fastest]
    batch = f"{result.batch_size} × {tokens_text(result.tokens)}"
    title = f"{result.config}: {result.steps} steps, guidance {f.number(result.guidance)}, {batch} tokens"
    return listing(title, result.ways, columns, width, style=lambda way: "bold" if way is fastest else None)


def _share_columns(timed: bool) -> list[Column]:
    return [
        Column("in modulation", lambda w: f.percent(w.shares.get("modulation")), 106 if timed else NEVER),
        Column("in network", lambda w: f.percent(w.shares.get("network")), 106 if timed else NEVER),
        Column("in sampler", lambda w: f.percent(w.shares.get("sampler")), 106 if timed else NEVER),
    ]


def _points(results: Sequence[SamplingProfile], width: int) -> Table:
    columns = (
        *point_columns(results),
        Column("a sample", lambda r: f.seconds(r.seconds_per_sample)),
        Column("± 95 %", lambda r: _precision(r.ways[r.fastest]), 60),
        Column("an hour", lambda r: f.number(r.samples_per_hour)),
        Column("fastest: guidance", lambda r: r.ways[r.fastest].guidance, 90, "text"),
        Column("modulation", lambda r: r.ways[r.fastest].modulation, 90, "text"),
        Column("FLOPs", lambda r: f.quantity(r.flops, ""), 100),
        Column("utilization", lambda r: f.percent(r.utilization), 76),
        Column("peak memory", lambda r: f.bytes_(r.ways[r.fastest].peak_bytes), 110),
    )
    return listing("profile, sample", results, columns, width)


def _precision(way: WayProfile) -> str:
    latency = way.run_ms
    if latency.ci_low is None or latency.ci_high is None:
        return f.MISSING
    return f.percent((latency.ci_high - latency.ci_low) / 2 / latency.median)


def _ratio(way: WayProfile) -> str:
    ratio = way.ratio
    if ratio is None:
        return "1"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.ratio:.3f}, too few runs"
    told = "" if ratio.distinguishable else f", {ALIKE}"
    return f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f}){told}"


def _notes(results: Sequence[SamplingProfile]) -> list[str]:
    first = results[0]
    notes = [
        "A run: Euler steps from noise, all samples of the batch together. Guidance with and without the condition in "
        "one batch or in two calls; embedded: the network is told the scale. Modulation before: of all steps at once.",
    ]
    if short := sorted({(r.measured_steps, r.steps) for r in results if r.measured_steps < r.steps}):
        said = ", ".join(f"{measured} of {steps}" for measured, steps in short)
        notes.append(
            f"Measured in runs of fewer steps ({said}): each further step is taken to last as long as those. "
            "--max-seconds allows more."
        )
    if any(way.shares for result in results for way in result.ways) and not first.point:
        notes.append(
            "In modulation, network, sampler: shares of a run's time; modulation with what it is made of, the rest of "
            "the network, and guidance with Euler's step. Timed with hooks in runs of their own."
        )
    return [*notes, ceiling_note(first.convention, first.ceiling), *padding_notes(results)]
