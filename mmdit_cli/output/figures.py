"""What pictures have in common. Figures are made without pyplot: nothing global is touched, no window is needed.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmdit.weights.atomic import replacing
from mmdit_cli.output.console import printable

INK, FAINT = "#1f2328", "#8c959f"
SERIES = ("#0969da", "#bc4c00", "#8250df", "#1a7f37")  # dark and light enough apart to be told without their hue
MARKERS = "os^Dv<>P"  # of lines that are drawn in turn


def style_axes(axes: Axes, grid: Literal["major", "both"] = "both") -> None:
    """The house style: a faint grid, small labels, no frame above and to the right."""
    axes.grid(True, which=grid, color=FAINT, alpha=0.25 if grid == "major" else 0.2, linewidth=0.5)
    axes.tick_params(labelsize=7, which=grid)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.spines[["top", "right"]].set_visible(False)


def plain(text: str) -> str:
    """A label as a legend shows it; matplotlib leaves out those that begin with an underscore."""
    return f" {text}" if text.startswith("_") else text


def _not_as_formulas(figure: Figure) -> None:
    """What a user named `$x$` is shown as it is. Numbers along an axis stay formulas, for powers of ten are."""
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    numbers = {id(text) for axis in axes for text in axis.findobj(Text) if text is not axis.label}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and id(text) not in numbers:
            text.set_parse_math(False)
            text.set_text(printable(text.get_text()))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, SVG or PDF, as the name ends, whole or not at all; the same bytes each time. Letters that the font
    lacks are drawn as boxes. A PDF's fonts are TrueType, for journals take no Type 3."""
    FigureCanvasAgg(figure)
    _not_as_formulas(figure)
    suffix = path.suffix.lower().removeprefix(".")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with (
        replacing(path) as temporary,
        warnings.catch_warnings(),
        rc_context({"pdf.fonttype": 42, "svg.hashsalt": "mmdit"}),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format=suffix, dpi=120, metadata=dates.get(suffix))
