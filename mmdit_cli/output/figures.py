"""What pictures have in common. Figures are made without pyplot: nothing global is touched, no window is needed.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmdit.weights.atomic import replacing

INK, FAINT = "#1f2328", "#8c959f"
SERIES = ("#0969da", "#bc4c00", "#8250df", "#1a7f37")  # dark and light enough apart to be told without their hue


def style_axes(axes: Axes, grid: Literal["major", "both"] = "both") -> None:
    """The house style: a faint grid, small labels, no frame above and to the right."""
    axes.grid(True, which=grid, color=FAINT, alpha=0.25 if grid == "major" else 0.2, linewidth=0.5)
    axes.tick_params(labelsize=7, which=grid)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all. Letters that the font lacks are drawn as boxes."""
    FigureCanvasAgg(figure)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=120)
