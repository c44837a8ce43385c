"""Pictures of where parameters and FLOPs go, and of how they grow in a sweep.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mmdit_cli.model_parts.flop_count import ComponentFlops, FlopsResult
from mmdit_cli.output import units as f
from mmdit_cli.output.figures import INK, MARKERS, SERIES, plain, style_axes
from mmdit_cli.request.sweep import in_lines

PANELS: tuple[tuple[str, Callable[[ComponentFlops], int], Callable[[float], str]], ...] = (
    ("forward FLOPs", lambda c: c.flops, f.flops),
    ("parameters", lambda c: c.parameters, f.count),
)


def flops_plot(results: Sequence[FlopsResult]) -> Figure:
    """Growth where a number was swept, else each config's components."""
    key = next((key for key in results[0].point if _is_numeric([r.point[key] for r in results])), None)
    return component_plot(results) if key is None else growth_plot(results, key)


def component_plot(results: Sequence[FlopsResult]) -> Figure:
    """A row for each config: the FLOPs and the parameters of its components, in the colours of their modalities."""
    heights = [1.0 + 0.22 * len(result.components) for result in results]
    figure = Figure(figsize=(9.6, sum(heights)), layout="constrained")
    rows = figure.subplots(len(results), 2, squeeze=False, sharey="row", height_ratios=heights)
    modalities = list(dict.fromkeys(c.modality for r in results for c in r.components))
    colours = dict(zip(modalities, itertools.cycle(SERIES), strict=False))
    for axes, result in zip(rows, results, strict=True):
        for each, (title, value, show) in zip(axes, PANELS, strict=True):
            _bars(each, result, value, show, colours)
            each.set_title(f"{result.config}: {title}", fontsize=8, color=INK)
    return figure


def _bars(
    axes: Axes,
    result: FlopsResult,
    value: Callable[[ComponentFlops], int],
    show: Callable[[float], str],
    colours: dict[str | None, str],
) -> None:
    values = [value(component) for component in result.components]
    total = sum(values) or 1
    bars = axes.barh(
        [plain(component.name) for component in result.components],
        values,
        color=[colours[component.modality] for component in result.components],
        height=0.7,
    )
    texts = [f"{show(x)}, {f.percent(x / total)}" if x else "" for x in values]
    axes.bar_label(bars, texts, fontsize=6, color=INK, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.xaxis.set_major_formatter(EngFormatter())
    style_axes(axes, "major")
    axes.grid(False, axis="y")


def growth_plot(results: Sequence[FlopsResult], key: str) -> Figure:
    """Over a swept number, a line for each config and value of the others."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    panels: list[tuple[str, Callable[[FlopsResult], int]]] = [
        ("forward FLOPs", lambda r: r.forward_flops),
        ("parameters", lambda r: r.parameters),
    ]
    lines = in_lines(results, [float(result.point[key]) for result in results], lambda each: each == key)
    for axes, (title, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for (name, line), colour, marker in zip(lines.items(), itertools.cycle(SERIES), itertools.cycle(MARKERS)):
            x, y = [place for place, _ in line], [value(result) for _, result in line]
            axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2, label=plain(name))
        axes.set_title(title, fontsize=8, color=INK)
        axes.set_xlabel(key)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(EngFormatter())
        style_axes(axes, "major")
    if len(lines) > 1:
        figure.axes[0].legend(fontsize=6.5, frameon=False)
    return figure


def _is_numeric(values: Sequence[object]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
