"""`mmdit profile` as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.memory.tables import memory_rows
from mmdit_cli.model_parts.compiling import pays_after
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import (
    NEVER,
    Column,
    Row,
    has_padding,
    listing,
    note,
    padding_notes,
    share_bar,
    side_by_side,
    styled,
    tokens_text,
    unlike_batches,
)
from mmdit_cli.request.sweep import point_columns, value_text

if TYPE_CHECKING:
    from mmdit_cli.profile.baseline import BaselineChange
    from mmdit_cli.profile.ceilings import Ceilings
    from mmdit_cli.profile.conditions import Conditions
    from mmdit_cli.profile.growth import Growth
    from mmdit_cli.profile.profile_result import ProfileResult
    from mmdit_cli.profile.roofline import Bound
    from mmdit_cli.profile.statistics import Ratio

ALIKE = "can't be told apart"
SHOWN: dict[str, Callable[[float], str]] = {  # figures of a baseline
    "latency": lambda ms: f.seconds(ms / 1e3),
    "peak memory": f.bytes_,
    "parameters": f.count,
    "FLOPs": f.flops,
}
ABOVE = 1.0005  # of the limit: what is printed as more than 100%
STYLES = {"worse": "bold red", "better": "green"}


def profile_tables(
    results: Sequence[ProfileResult],
    width: int,
    growth: Sequence[Growth] = (),
    conditions: Conditions | None = None,
) -> list[RenderableType]:
    """Notices of the conditions; configs side by side and each one's components, or the points of a sweep, one a row,
    and how they grow. Nothing of limits where the conditions were not quiet."""
    quiet = conditions is None or conditions.quiet
    if any(result.point for result in results):
        parts: list[RenderableType] = [_points(results, width, quiet)]
        if growth:
            parts.append(_growth(growth))
    else:
        parts = [side_by_side("profile", results, _rows(results, quiet))]
        parts += [_components(result, width, quiet) for result in results if result.components]
    notices = [] if conditions is None else conditions.notices
    return [*map(_notice, notices), *parts, *map(note, _notes(results, growth))]


def change_tables(changes: Sequence[BaselineChange]) -> list[RenderableType]:
    """Against a baseline; nothing where there is none."""
    if not changes:
        return []
    columns = (
        Column("config", lambda c: c.config, kind="text"),
        Column("figure", lambda c: c.figure, kind="text"),
        Column("before", lambda c: SHOWN[c.figure](c.before), kind="figure"),
        Column("now", lambda c: SHOWN[c.figure](c.now), kind="figure"),
        Column("ratio", _change_ratio, kind="figure"),
        Column("", lambda c: c.verdict, kind="text"),
    )
    table = listing("against the baseline", changes, columns, style=lambda c: STYLES.get(c.verdict), tight=False)
    text = "noise: the intervals say neither worse nor better."
    if repeated := max((change.processes for change in changes), default=0):
        text += (
            f" What seemed to have changed was repeated in {repeated} fresh processes: their mean, and its interval."
        )
    if any(change.verdict == "withheld" for change in changes):
        text += " withheld: measured under other conditions, see above the tables."
    return [table, note(text)]


def _change_ratio(change: BaselineChange) -> str:
    interval = "" if change.low is None else f" ({change.low:.3f} to {change.high:.3f})"
    return f"{change.ratio:.3f}{interval}"


def _notice(text: str) -> RenderableType:
    return styled(text, "bold yellow")


# ------------------------------------------------------------------------------------------------------- side by side


def _rows(results: Sequence[ProfileResult], quiet: bool) -> Iterator[Row]:
    yield Row("mode", lambda r: r.mode + (", compiled" if r.compiled else ""))
    yield Row("compile time", lambda r: f.seconds(r.compile_seconds), when=results[0].compiled)
    if any(r.compile_gain for r in results):
        yield Row("  uncompiled", lambda r: f.seconds(r.compile_gain and r.compile_gain.eager_ms / 1e3))
        yield Row("  pays after", lambda r: pays_after(r.compile_gain, "calls"), True)
    yield Row("batch × tokens", lambda r: f"{r.batch_size} × {tokens_text(r.tokens)}")
    yield Row("parameters", lambda r: f.count(r.parameters))
    yield Row("FLOPs a call", lambda r: f.flops(r.flops))
    yield Row("latency, median", lambda r: f.seconds(r.latency_ms.median / 1e3), True)
    yield Row("  95 % interval", _interval)
    yield Row("  p10 to p90", lambda r: _span(r.latency_ms.p10, r.latency_ms.p90))
    yield Row("  runs", lambda r: str(r.latency_ms.runs))
    yield Row("against the first", lambda r: _ratio(r.ratio), True, len(results) > 1)
    if any(len(r.phases_ms) > 1 for r in results):
        for phase in dict.fromkeys(phase for r in results for phase in r.phases_ms):
            yield Row(f"  {phase}", partial(_phase, phase))
    yield Row("samples/s", lambda r: f.number(r.samples_per_s))
    padded = has_padding(results)
    yield Row("tokens/s, with padding" if padded else "tokens/s", lambda r: f.count(r.tokens_per_s))
    yield Row("  valid tokens/s", lambda r: f.count(r.valid_tokens_per_s), when=padded)
    yield Row("achieved", lambda r: f.rate(r.achieved_flops_per_s, "FLOP"))
    yield Row("ceiling, products", lambda r: f.rate(r.ceiling.gemm_flops_per_s, "FLOP"))
    yield Row("ceiling, memory", lambda r: f.rate(r.ceiling.bytes_per_s, "B"))
    yield Row("utilization", lambda r: f.percent(r.utilization), True)
    yield Row("least time", lambda r: f.seconds(r.bound.ms / 1e3) + f" ({r.bound.limited_by})" * quiet)
    yield Row("of the limit", lambda r: f.percent(r.bound.of_measured), True, quiet)
    yield from memory_rows(results)
    yield Row("peak memory", lambda r: f.bytes_(r.memory_bytes.peak), True)
    on_cuda = any(r.memory_bytes.allocated is not None for r in results)
    yield Row("  allocated", lambda r: f.bytes_(r.memory_bytes.allocated), when=on_cuda)
    yield Row("  reserved", lambda r: f.bytes_(r.memory_bytes.reserved), when=on_cuda)


def _interval(result: ProfileResult) -> str:
    latency = result.latency_ms
    if latency.ci_low is None or latency.ci_high is None:
        return "too few runs"
    return _span(latency.ci_low, latency.ci_high)


def _span(low_ms: float, high_ms: float) -> str:
    low, high = f.seconds(low_ms / 1e3), f.seconds(high_ms / 1e3)
    unit = high.split()[-1]
    return f"{low.removesuffix(f' {unit}')} to {high}"


def _phase(phase: str, result: ProfileResult) -> str:
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


def _components(result: ProfileResult, width: int, quiet: bool) -> Table:
    train = result.mode == "train"
    columns = (
        Column("component", lambda c: c.name, kind="text"),
        Column("calls", lambda c: str(c.calls) if c.calls else "", 90),
        Column("time", lambda c: f.seconds(c.time_ms / 1e3)),
        Column("backward", lambda c: f.seconds(c.backward_ms / 1e3) if c.backward_ms else "", 60 if train else NEVER),
        Column("share", lambda c: f.percent(c.share)),
        Column("", lambda c: share_bar(c.share), NEVER if train else 76, "bar"),
        Column("least", lambda c: "" if c.bound is None else f.seconds(c.bound.ms / 1e3), 70),
        Column("bound by", lambda c: "" if c.bound is None else c.bound.limited_by, 70 if quiet else NEVER),
        Column("of limit", lambda c: _reached(c.bound), 0 if quiet else NEVER),
        Column("FLOP/s", lambda c: f.quantity(c.flops_per_s, "") if c.flops else "", 90),
        Column("FLOPs", lambda c: f.quantity(c.flops, "") if c.flops else "", 100),
        Column("params", lambda c: f.count(c.parameters) if c.parameters else "", 110),
    )
    return listing(f"{result.config}: components", result.components, columns, width)


def _reached(bound: Bound | None) -> str:
    return "" if bound is None or bound.of_measured is None else f.percent(bound.of_measured)


# -------------------------------------------------------------------------------------------------------------- sweep


def _points(results: Sequence[ProfileResult], width: int, quiet: bool) -> Table:
    """One row a point."""
    columns = (
        *point_columns(results),
        Column("latency", lambda r: f.seconds(r.latency_ms.median / 1e3)),
        Column("± 95 %", _precision, 76),
        Column("samples/s", lambda r: f.number(r.samples_per_s), 60),
        Column("FLOPs", lambda r: f.quantity(r.flops, ""), 100),
        Column("utilization", lambda r: f.percent(r.utilization), 50),
        Column("of limit", lambda r: f.percent(r.bound.of_measured), 90 if quiet else NEVER),
        Column(
            "activations", lambda r: f.bytes_(r.memory_bytes.activations), 100 if results[0].mode == "train" else NEVER
        ),
        Column("peak memory", lambda r: f.bytes_(r.memory_bytes.peak)),
    )
    return listing(f"profile, {results[0].mode}", results, columns, width)


def _precision(result: ProfileResult) -> str:
    latency = result.latency_ms
    if latency.ci_low is None or latency.ci_high is None:
        return f.MISSING
    return f.percent((latency.ci_high - latency.ci_low) / 2 / latency.median)


def _growth(growth: Sequence[Growth]) -> Table:
    several = len({row.config for row in growth}) > 1
    columns = (
        *([Column("config", lambda g: g.config, kind="text")] if several else []),
        Column("figure", lambda g: g.figure, kind="text"),
        Column("grows as", lambda g: f"{g.variable} ^ {g.exponent:.2f}", kind="text"),
        Column("at first", lambda g: _exponent(g.first), kind="figure"),
        Column("at last", lambda g: _exponent(g.last), kind="figure"),
        Column("fit within", lambda g: f.percent(g.worst - 1), kind="figure"),
    )
    return listing("growth", growth, columns)


def _exponent(exponent: float | None) -> str:
    return f.MISSING if exponent is None else f"^ {exponent:.2f}"


# -------------------------------------------------------------------------------------------------------------- notes


def _notes(results: Sequence[ProfileResult], growth: Sequence[Growth]) -> list[str]:
    first = results[0]
    notes = [
        ceiling_note(first.convention, first.ceiling),
        "Least time: the larger of FLOPs over the one and bytes over the other (weights, inputs and outputs once; "
        "a component's: what it takes from others and hands on, at the speed of the cache that holds as much).",
        "Peak memory: the most that torch's allocator held at once during a call, the inputs apart.",
    ]
    if first.ceiling.tf32 is not None:
        notes.append(f"Products of float32: TF32 {'on' if first.ceiling.tf32 else 'off'}, for model and ceiling alike.")
    notes += padding_notes(results)
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
            notes.append(_hooks(results))
    if above := _above_limit(results):
        notes.append(
            f"Above 100% of the limit: {above}. No work can be: the machine's ceilings were measured lower than what "
            "these reached, or their own times are of too few runs. Measure again on a quiet machine, and longer."
        )
    notes += unlike_batches(results)
    if growth:
        notes.append(
            "Growth: least squares on logarithms; tokens are those of all modalities. At first, at last: between the "
            "two smallest and the two largest values."
        )
    return notes


def _above_limit(results: Sequence[ProfileResult]) -> str:
    """Configs and components that were faster than can be."""
    several, found = len(results) > 1, []
    for result in results:
        values = [f"{key}={value_text(value)}" for key, value in result.point.items()]
        whole = " ".join([result.config, *values]) if several else "the whole"
        rows = [(whole, result.bound), *((row.name, row.bound) for row in result.components)]
        for name, limit in rows if not result.point else rows[:1]:
            if limit is not None and (limit.of_measured or 0) > ABOVE:
                of = f" of {result.config}" if several and name != whole else ""
                found.append(f"{name}{of} ({f.percent(limit.of_measured)})")
    return ", ".join(found)


def ceiling_note(convention: str, ceiling: Ceilings) -> str:
    """How FLOPs are counted, and what the ceilings are, and of when."""
    when = "measured in this run"
    if ceiling.age_s is not None:
        found = f"of which this run reached {f.percent(ceiling.reached)}"
        when = f"measured {f.seconds(ceiling.age_s)} ago, {found} (--fresh measures them again)"
    return (
        f"FLOPs: {convention}. Ceilings: the best matrix product at this dtype "
        f"({' × '.join(map(str, ceiling.gemm_shape))}) and the best stream of 200 MB (CPU) or 3 GB (CUDA), {when}."
    )


def _hooks(results: Sequence[ProfileResult]) -> str:
    """How the components were timed."""
    found = [r.instrumented for r in results if r.instrumented is not None]
    overhead = ", ".join(f"{(ratio.ratio - 1) * 100:+.1f}%" for ratio in found)
    counted = "; they count as runs, for the hooks take next to nothing" if any(r.hooked_runs for r in results) else ""
    within = [row.share_within for r in results for row in r.components if row.share_within is not None]
    shares = f" Shares are known to {100 * max(within):.1f} points of the whole." if within else ""
    return f"Components: timed with hooks in some calls of the same rounds ({overhead} latency{counted}).{shares}"
