"""Comparisons of designs as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, Row, listing, note, side_by_side, styled, tokens_text
from mmdit_cli.toy.spread_texts import decimals, share_text, spread_text
from mmdit_cli.toy.sweep_table import is_sweep, sweep_table
from mmdit_cli.toy.tables import averaged
from mmdit_cli.toy.tuning_tables import tuning_tables

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from mmdit_cli.toy.comparison import Comparison
    from mmdit_cli.toy.decisions import Decision
    from mmdit_cli.toy.designs import Design
    from mmdit_cli.toy.seed_statistics import Difference

LABELS, DESIGN = 22, 19  # the widths that the names of rows and one design's column take
STYLES = {"better": "green", "worse": "bold red"}


def compare_tables(comparison: Comparison, width: int, *, listed: bool = False) -> list[RenderableType]:
    """The designs side by side, as many as the screen holds; then each against the first. `listed`: a row for each and
    no more, as of the points of a sweep, for they are sizes of a design."""
    designs = comparison.designs
    parts: list[RenderableType] = tuning_tables(comparison.tuning, width) if comparison.tuning else []
    if listed or is_sweep(comparison):
        parts.append(sweep_table(comparison, width))
    else:
        together = max(1, (width - LABELS) // DESIGN)
        parts += [_designs(comparison, designs[i : i + together]) for i in range(0, len(designs), together)]
        parts += [_differences(comparison, design, width) for design in designs[1:] if design.differences]
    parts += [_decisions(comparison, width)] if comparison.decisions else []
    for failed in comparison.failures:
        where = f"{failed.config}, seed {failed.seed}: failed after step {failed.step}: {failed.message}"
        parts.append(styled(where, "red"))
    parts += [] if listed else [styled(text, "yellow") for text in comparison.notes]
    return [*parts, *map(note, _notes(comparison, listed))]


def _designs(comparison: Comparison, designs: Sequence[Design]) -> Table:
    reached = any(design.to_target.reached for design in comparison.designs)
    rows = [
        Row("parameters", lambda d: f.count(d.parameters)),
        Row("batch × tokens", lambda d: f"{d.batch_size} × {tokens_text(d.tokens)}"),
        Row("steps", lambda d: f"{d.steps:,}", when=len({d.steps for d in comparison.designs}) > 1),
        Row("FLOPs a step", lambda d: f.flops(d.step_flops)),
        Row("time a step", lambda d: f.seconds(d.step_seconds)),
        Row("runs finished", lambda d: f"{len(d.seeds)} of {d.runs}"),
        Row(f"loss, {_averaged(comparison)}", lambda d: spread_text(d.loss), True),
    ]
    for name in dict.fromkeys(name for design in comparison.designs for name in design.accuracy):
        rows += _accuracies(name)
    rows += [
        Row(f"reached {f.percent(comparison.target)}", lambda d: f"{d.to_target.reached} of {d.to_target.runs}"),
        Row("  steps", lambda d: _whole(d.to_target.steps), when=reached),
        Row("  time", lambda d: f.seconds(d.to_target.seconds), when=reached),
        Row("  FLOPs", lambda d: f.flops(d.to_target.flops), when=reached),
    ]
    return side_by_side("designs", designs, rows)


def _accuracies(modality: str) -> list[Row]:
    return [
        Row(f"accuracy, {modality}", lambda d: share_text(d.accuracy.get(modality)), True),
        Row("  lowest seed", lambda d: f.percent(d.accuracy[modality].min if modality in d.accuracy else None)),
        Row("  held-out captions", lambda d: share_text(d.held_out.get(modality))),
    ]


def _differences(comparison: Comparison, design: Design, width: int) -> Table:
    columns = (
        Column(" ", lambda x: x.figure.replace("the target", f.percent(comparison.target)), kind="text"),
        Column("by", lambda x: _signed(x)(x.mean)),
        Column("95% interval", _interval, 80),
        Column("verdict", lambda x: _verdict(x.verdict, short=width < 60)),
    )
    return listing(f"{design.config} against {comparison.reference}", design.differences, columns, width)


def _decisions(comparison: Comparison, width: int) -> Table:
    columns = (
        Column("design", lambda x: x.config, kind="text"),
        Column("decided", _decided, kind="text"),
        Column("on", lambda x: x.figure, kind="text"),
        Column("95% interval", lambda x: _interval(x) if x.mean is not None else "", 80),
        Column("verdict", lambda x: _verdict(x.verdict, short=width < 60)),
    )
    return listing(f"decided against {comparison.reference}?", comparison.decisions, columns, width)


def _interval(each: Difference | Decision) -> str:
    show = _signed(each)
    return "" if each.low is None or each.high is None else f"{show(each.low)} to {show(each.high)}"


def _verdict(verdict: str | None, *, short: bool) -> str | Text:
    if verdict is None:
        return "none" if short else "no verdict"
    if verdict in STYLES:
        return styled(verdict, STYLES[verdict])
    return "can't tell" if short else verdict


def _signed(each: Difference | Decision) -> Callable[[float], str]:
    """How a difference of this figure is written."""
    if "accuracy" in each.figure:
        return lambda x: f"{100 * x:+.1f} pp"
    mean = each.mean or 0.0
    shown = decimals(max(abs(mean), abs((each.high or mean) - mean)))
    if each.figure.startswith("time"):
        return lambda x: f"{x:+.{shown}f} s"
    if each.figure.startswith("FLOPs"):
        return lambda x: ("" if x < 0 else "+") + f.quantity(x, "")
    return lambda x: f"{x:+,.{shown}f}"


def _decided(found: Decision) -> str:
    if found.failed:
        return f"no: {found.failed} {'run' if found.failed == 1 else 'runs'} failed"
    return f"after {found.n} seeds" if found.decided else f"not after {found.n}"


def _whole(value: float | None) -> str:
    return f.MISSING if value is None else f"{value:,.0f}"


def _averaged(comparison: Comparison) -> str:
    return averaged("last", max(design.loss_steps for design in comparison.designs))


def _modalities(comparison: Comparison) -> str:
    return " + ".join(dict.fromkeys(name for design in comparison.designs for name in design.tokens))


def _notes(comparison: Comparison, listed: bool) -> list[str]:
    several = len(comparison.designs) > 1 and not listed
    notes = [
        f"Loss: the mean of the {_averaged(comparison)}. ±: the standard deviation over seeds; pp: percentage points.",
        f"FLOPs a step: forward and backward of a training batch with so many tokens of {_modalities(comparison)}.",
    ]
    if any(design.to_target.reached for design in comparison.designs):
        notes.append(
            f"Reached: every modality, or category, at {f.percent(comparison.target)}, known every "
            "train.evaluate_every steps and interpolated between; medians over the runs that got there, of training "
            "steps alone."
        )
    if several and any(d.low is not None for design in comparison.designs for d in design.differences):
        notes.append(
            "Differences: paired by seed, with Student's 95% interval of their mean; told apart where it leaves out 0. "
            "Of many rows, one in twenty does so by chance."
        )
        if comparison.plan.auto:
            notes.append(
                "Every interval is so wide that it holds at all looks at once, after 3 to "
                f"{comparison.plan.most} seeds: of equal designs at most one in twenty is decided, whenever it ends."
            )
    elif several and not comparison.plan.auto:
        notes.append("Fewer than 3 pairs of runs give no interval, and so no verdict: --seeds 3, or better 5.")
    if comparison.looks:
        notes.append(
            f"Shown before with {', '.join(comparison.looks)}: where seeds are added after a look at the results, "
            "intervals leave out the truth more often than in 5 %; --seeds auto allows for every look."
        )
    if comparison.by != "steps":
        spent = {"flops": "FLOPs", "seconds": "seconds of steps, as timed before,"}[comparison.by]
        notes.append(f"Equal cost: each design trains for as many {spent} as {comparison.reference} does.")
    if comparison.jobs > 1:
        notes.append(f"Times are of {comparison.jobs} runs side by side, on a share of the cores each.")
    notes.append(f"Runs and curves: {comparison.run_dir}")
    return notes
