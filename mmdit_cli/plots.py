"""Pictures of results. Figures are made without pyplot, so that nothing global is touched and no window is needed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from mmdit_cli.toy.evaluate import Samples

RIGHT, WRONG = "#1a7f37", "#cf222e"
COLUMNS = 4


def sample_plot(samples: Samples) -> Figure:
    """A grid of drawn pictures under their captions, with the tone below where there is one; the frame and the mark say
    whether the oracle read every attribute right."""
    count, sound = len(samples.batch.captions), "audio" in samples.data
    rows = -(-count // COLUMNS)
    figure = _figure(2.6 * COLUMNS, rows * (3.3 if sound else 2.75) + 0.3)
    heights = [3, 1] if sound else [3]
    outer = figure.add_gridspec(rows, COLUMNS)
    for index, caption in enumerate(samples.batch.captions):
        cell = outer[index // COLUMNS, index % COLUMNS].subgridspec(len(heights), 1, height_ratios=heights)
        picture = figure.add_subplot(cell[0])
        picture.imshow(_as_picture(samples.data["image"][index]), interpolation="nearest")
        picture.set_title("\n".join(textwrap.wrap(caption, 34)), fontsize=7)
        _mark(picture, bool(samples.right["image"][index]))
        if sound:
            tone = figure.add_subplot(cell[1])
            tone.plot(samples.data["audio"][index].flatten().numpy(), linewidth=0.6, color="#0969da")
            tone.set_ylim(-1.2, 1.2)
            _mark(tone, bool(samples.right["audio"][index]))
    return figure


def loss_plot(losses: Sequence[float], name: str) -> Figure:
    """The loss by step, each and smoothed, on a logarithmic axis."""
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, linewidth=0.6, alpha=0.4, color="#0969da", label="each step")
    axes.plot(steps, _smoothed(losses), linewidth=1.6, color="#0969da", label="mean of 20 steps")
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=name)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _as_picture(image: torch.Tensor) -> np.ndarray:
    return ((image.nan_to_num().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()


def _mark(axes: Axes, is_right: bool) -> None:
    colour = RIGHT if is_right else WRONG
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=1.5)
    text = "right" if is_right else "wrong"
    axes.set_ylabel(text, fontsize=7, color=colour)


def _smoothed(losses: Sequence[float], window: int = 20) -> list[float]:
    return [sum(part) / len(part) for part in (losses[max(0, i - window + 1) : i + 1] for i in range(len(losses)))]
