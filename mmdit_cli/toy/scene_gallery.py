"""Pictures of scenes under their captions, a row for each category, with what the oracle reads drawn in.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, Polygon, Rectangle

from mmdit_cli.output.figures import FAINT, INK
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.plots import RIGHT, WRONG, frame, pixels, wrapped
from mmdit_cli.toy.scenes.oracle import NO_OBJECT, Reading, objects_in_words, read
from mmdit_cli.toy.scenes.renderer import SQUARE
from mmdit_cli.toy.scenes.scene import CATEGORIES, EMPTY, QUARTERS, SHAPES
from mmdit_cli.toy.scenes.source import SceneBatch

CELL, MARGIN, TEXT = 1.5, 0.7, 0.62  # inches: a picture, what is left of them, and the lines around each
COLUMNS = 6  # pictures in a row


def scene_gallery(samples: Samples, *, title: str = "") -> Figure:
    """A row for each category: captions, pictures framed green or red, the outlines of the objects that were read, and
    in words what they are."""
    batch = samples.batch
    assert isinstance(batch, SceneBatch)
    rows = [(batch.wanted.category == index).nonzero()[:COLUMNS, 0].tolist() for index in range(len(CATEGORIES))]
    rows = [row for row in rows if row]
    columns = max(map(len, rows))
    reading, right = read(samples.data["image"].nan_to_num(posinf=0.0, neginf=0.0)), samples.right["image"]
    height = 0.35 + len(rows) * (CELL + TEXT)
    figure = Figure(figsize=(MARGIN + CELL * columns, height), facecolor="white")
    figure.suptitle(title, fontsize=9, color=INK, y=1 - 0.12 / height)
    grid = figure.subplots(
        len(rows),
        columns,
        squeeze=False,
        gridspec_kw={
            "left": MARGIN / (MARGIN + CELL * columns),
            "right": 0.995,
            "top": 1 - 0.72 / height,
            "bottom": 0.22 / height,
            "hspace": TEXT / CELL,
            "wspace": 0.06,
        },
    )
    for row, places in zip(rows, grid, strict=True):
        name = CATEGORIES[int(batch.wanted.category[row[0]])]
        places[0].text(-0.12, 0.5, name, transform=places[0].transAxes, ha="right", va="center", fontsize=8, color=INK)
        for index, axes in zip_longest(row, places):
            if index is None:
                axes.set_axis_off()
                continue
            axes.imshow(pixels(samples.data["image"][index]), extent=(0, 2, 2, 0), interpolation="nearest")
            frame(axes, RIGHT if right[index] else WRONG)
            axes.set_title("\n".join(wrapped(batch.captions[index])), fontsize=6, color=INK, pad=3)
            axes.set_xlabel("\n".join(wrapped(in_words(reading, index))), fontsize=6, color=FAINT, labelpad=2)
            draw_reading(axes, reading, index)
    return figure


def in_words(reading: Reading, index: int) -> str:
    """What was read of a picture: `large red square, ?`, by quarter."""
    return ", ".join(filter(None, objects_in_words(reading.values[index]))) or NO_OBJECT


def draw_reading(axes: Axes, reading: Reading, index: int) -> None:
    """The outline of each object that was read, and a question mark in a quarter that could not be; the picture is 2 by
    2."""
    for quarter in range(QUARTERS):
        shape = int(reading.values[index, quarter, 0])
        y, x = quarter // 2 + 0.5, quarter % 2 + 0.5
        if shape >= 0:
            down, right = (reading.place[index, quarter] / 2).tolist()
            axes.add_patch(_outline(shape, x + right, y + down, float(reading.radius[index, quarter]) / 2))
        elif shape != EMPTY:
            axes.text(x, y, "?", ha="center", va="center", fontsize=9, color="white")


def _outline(shape: int, x: float, y: float, r: float) -> Patch:
    style: dict[str, Any] = {"fill": False, "edgecolor": "white", "linewidth": 0.9}
    if SHAPES[shape] == "circle":
        return Circle((x, y), r, **style)
    if SHAPES[shape] == "square":
        half = SQUARE * r
        return Rectangle((x - half, y - half), 2 * half, 2 * half, **style)
    return Polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], **style)
