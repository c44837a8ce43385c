"""A picture of what a run drew for the same captions as it went on.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from mmdit_cli.output.figures import INK
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.plots import RIGHT, WRONG, frame, pixels, wrapped

ROWS, COLUMNS, CELL, CAPTION = 6, 8, 0.9, 1.5  # captions, steps, and the inches of a picture and of a caption


def progress_plot(shown: Mapping[int, Samples], *, title: str = "") -> Figure:
    """A row for each of the first captions, a column for each step, evenly chosen, the first and the last among them;
    frames are green where the sample is right.

    Args:
        shown: by step, the samples of one batch.
    """
    steps = sorted(shown)
    if len(steps) > COLUMNS:
        steps = [steps[round(index * (len(steps) - 1) / (COLUMNS - 1))] for index in range(COLUMNS)]
    captions = shown[steps[0]].batch.captions[:ROWS]
    width, height = CAPTION + CELL * len(steps), 0.6 + CELL * len(captions)
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.suptitle(title, fontsize=9, color=INK, y=1 - 0.12 / height)
    edges = {"left": CAPTION / width, "right": 0.99, "top": 1 - 0.5 / height, "bottom": 0.05 / height}
    spaced = {**edges, "hspace": 0.08, "wspace": 0.08}
    grid = figure.subplots(len(captions), len(steps), squeeze=False, gridspec_kw=spaced)
    for column, step in enumerate(steps):
        samples = shown[step]
        right = samples.right["image"]
        grid[0, column].set_title(f"step {step:,}", fontsize=7, color=INK)
        for row in range(len(captions)):
            axes = grid[row, column]
            axes.imshow(pixels(samples.data["image"][row]), interpolation="nearest")
            frame(axes, RIGHT if right[row] else WRONG)
    for row, caption in enumerate(captions):
        grid[row, 0].set_ylabel(
            "\n".join(wrapped(caption)), fontsize=6.5, color=INK, rotation=0, ha="right", va="center", labelpad=4
        )
    return figure
