"""The picture of a coordinate check.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from mmdit_cli.output.figures import INK, MARKERS, SERIES, style_axes
from mmdit_cli.toy.coordinates import CoordinateCheck

NAMES = {"standard": "standard", "mup": "muP"}


def coordinate_plot(result: CoordinateCheck) -> Figure:
    """A panel for each parametrization, a line for each component: the change over the width, thick after the last step
    and faint after those before."""
    kinds = list(dict.fromkeys(each.parametrization for each in result.moved))
    components = list(dict.fromkeys(each.component for each in result.moved))
    figure = Figure(figsize=(4.4 * len(kinds), 3.8), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        for index, component in enumerate(components):
            for step in range(1, result.steps + 1):
                own = [m for m in result.moved if (m.parametrization, m.component, m.step) == (kind, component, step)]
                last = step == result.steps
                axes.plot(
                    [m.width for m in own],
                    [m.change for m in own],
                    "--" if index >= len(SERIES) else "-",
                    color=SERIES[index % len(SERIES)],
                    marker=MARKERS[index % len(MARKERS)] if last else "",
                    markersize=4,
                    linewidth=1.6 if last else 0.6,
                    alpha=1.0 if last else 0.35,
                    label=component if last else None,
                )
        axes.set(xscale="log", yscale="log", xticks=result.widths)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("width")
        axes.set_title(NAMES[kind], fontsize=9, color=INK)
        style_axes(axes)
    panels[0].set_ylabel(f"change after {result.steps} steps, mean of coordinates")
    panels[-1].legend(fontsize=6.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
