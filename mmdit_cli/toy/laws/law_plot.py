"""A picture of laws: figures by parameters and by training FLOPs, with each design's curve and its band.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, ScalarFormatter

from mmdit_cli.output.figures import FAINT, INK, MARKERS, SERIES, plain, style_axes
from mmdit_cli.toy.laws.report import LawReport


def law_plot(report: LawReport) -> Figure:
    """A panel for each figure and variable, on logarithmic axes. A curve is dashed beyond the sizes that were
    trained, and dotted where its exponent is not known; a floor that is known is a faint line."""
    figures, variables = (
        list(dict.fromkeys(getattr(law, key) for law in report.laws)) for key in ("figure", "variable")
    )
    rows, columns = max(1, len(figures)), max(1, len(variables))
    figure = Figure(figsize=(4.8 * columns, 3.4 * rows), facecolor="white", layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
    names = list(dict.fromkeys((law.design, law.steps) for law in report.laws))
    several = len({steps for _, steps in names}) > 1
    for law in report.laws:
        axes = panels[figures.index(law.figure), variables.index(law.variable)]
        index = names.index((law.design, law.steps))
        colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
        length = "" if not several else ", cheapest" if law.steps is None else f", {law.steps:,} steps"
        x, y, low, high = zip(*((p.x, p.value, p.low, p.high) for p in law.curve), strict=True)
        largest = max(point.x for point in law.points)
        inside = sum(place <= largest for place in x) + 1
        line = "-" if law.determined else ":"
        axes.plot([p.x for p in law.points], [p.mean for p in law.points], marker, color=colour, markersize=4)
        axes.plot(x[:inside], y[:inside], line, color=colour, linewidth=1.6, label=plain(law.design + length))
        axes.plot(x[inside - 1 :], y[inside - 1 :], "--" if law.determined else ":", color=colour, linewidth=1.0)
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        if law.determined and law.floor.low > 0:
            axes.axhline(law.floor.value, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    for row, name in enumerate(figures):
        for column, variable in enumerate(variables):
            axes = panels[row, column]
            axes.set(xscale="log", yscale="log")
            style_axes(axes)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(variable if row + 1 == rows else "", color=INK)
            axes.set_ylabel(name if column == 0 else "", color=INK)
            if axes.lines:
                axes.legend(fontsize=7, frameon=False)
    return figure
