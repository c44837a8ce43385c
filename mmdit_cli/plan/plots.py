"""A picture of plans: memory and time over the numbers of cards.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from mmdit_cli.output.figures import FAINT, INK, MARKERS, SERIES, plain, style_axes
from mmdit_cli.plan.plans import Plan, PlanResult
from mmdit_cli.plan.ways import ALONE

PANELS: tuple[tuple[str, Callable[[Plan], float | None]], ...] = (
    ("peak memory of a card, B", lambda plan: None if plan.memory_bytes is None else plan.memory_bytes.peak),
    ("time of a step, s", lambda plan: None if plan.step_s is None else plan.step_s.overlapped),
    ("samples/s", lambda plan: plan.samples_per_s),
)


def plan_plot(results: Sequence[PlanResult]) -> Figure:
    """A row for each config, a line for each way; hollow: it does not fit."""
    figure = Figure(figsize=(10.8, 3.6 * len(results)), layout="constrained")
    for axes, result in zip(figure.subplots(len(results), len(PANELS), squeeze=False), results, strict=True):
        for each, (title, value) in zip(axes, PANELS, strict=True):
            _lines(each, result, value)
            each.set_title(f"{result.config}: {title}", fontsize=8, color=INK)
        axes[0].axhline(result.machine.memory, color=FAINT, linewidth=1, linestyle="--")
        axes[0].legend(fontsize=6, frameon=False)
    return figure


def _lines(axes: Axes, result: PlanResult, value: Callable[[Plan], float | None]) -> None:
    ways = dict.fromkeys(plan.parallel for plan in result.plans if plan.parallel != ALONE) or {ALONE: None}
    styles = zip(itertools.cycle(SERIES), itertools.cycle(MARKERS))
    for way, (colour, marker) in zip(ways, styles, strict=False):
        plans = [plan for plan in result.plans if plan.parallel in (way, ALONE)]
        known = [(plan, y) for plan in plans if (y := value(plan))]
        axes.plot(
            [plan.gpus for plan, _ in known], [y for _, y in known], color=colour, label=plain(way), linewidth=1.2
        )
        for plan, y in known:
            axes.plot(
                plan.gpus, y, marker=marker, markersize=4, color=colour, fillstyle="full" if plan.fits else "none"
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("GPUs")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.yaxis.set_major_formatter(EngFormatter())
    style_axes(axes, "major")
