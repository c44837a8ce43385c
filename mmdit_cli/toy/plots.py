"""Pictures of training runs: what they drew, their curves, and those of several side by side.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from torch import Tensor
from torch.nn.functional import avg_pool1d

from mmdit_cli.output.figures import FAINT, INK, SERIES, plain, style_axes

if TYPE_CHECKING:
    from mmdit_cli.toy.evaluation import Samples

RIGHT, WRONG = "#1a7f37", "#cf222e"
COLOUR_OF = {True: RIGHT, False: WRONG, None: FAINT}  # None: the caption does not say
MARK_OF = {True: "✓", False: "✗", None: "–"}
COLUMNS, CELL = 8, 1.55  # samples in a row, and the inches that each takes
CAPTION_LINES, CAPTION_WIDTH = 5, 24


def sample_plot(samples: Samples, *, title: str = "", reads: bool = False) -> Figure:
    """A grid of samples under their captions: picture above waveform, framed and marked by whether all is right.

    Args:
        reads: say what the oracle reads of each, in words.
    """
    captions = samples.batch.captions
    said = [_said(samples, index) if reads else [_marks(samples, index)] for index in range(len(captions))]
    columns = min(len(captions), COLUMNS)
    rows = -(-len(captions) // columns)
    heights = [1.0 if x.ndim == 4 else 0.4 for x in samples.data.values()]
    text = 0.11 * (1 + max(map(len, said)) + max(len(wrapped(caption)) for caption in captions))
    cell = CELL * sum(heights) + text
    top = 0.35 if title else 0.05
    figure = Figure(figsize=(CELL * columns, cell * rows + top), facecolor="white")
    figure.suptitle(title, fontsize=9, color=INK, y=1 - 0.12 / figure.get_figheight())
    for index, caption in enumerate(captions):
        row, column = divmod(index, columns)
        bottom = cell * (rows - row - 1)
        for line, (name, x) in enumerate(samples.data.items()):
            axes = _axes(figure, CELL * column, bottom + CELL * sum(heights[line + 1 :]), heights[line])
            _draw_sample(axes, x[index], COLOUR_OF[samples.verdict(name, index)])
        x_middle, y_text = CELL * (column + 0.5), bottom + CELL * sum(heights)
        style: dict[str, Any] = dict(ha="center", va="bottom", fontsize=6.5, linespacing=1.15)
        width, height = figure.get_size_inches()
        figure.text(x_middle / width, y_text / height, "\n".join(said[index]), color=_colour(samples, index), **style)
        text_above = "\n".join(wrapped(caption))
        figure.text(
            x_middle / width, (y_text + 0.02 + 0.11 * len(said[index])) / height, text_above, color=INK, **style
        )
    return figure


def _marks(samples: Samples, index: int) -> str:
    """Of each modality whether it is right: `✓ image   ✗ audio`."""
    return "   ".join(f"{MARK_OF[samples.verdict(name, index)]} {name}" for name in samples.data)


def _said(samples: Samples, index: int) -> list[str]:
    """The same with what the oracle reads in place of the names."""
    return [
        line
        for name, each in samples.reads.items()
        for line in wrapped(f"{MARK_OF[samples.verdict(name, index)]} {each[index]}")
    ]


def _colour(samples: Samples, index: int) -> str:
    """Wrong where anything is, and right where all is that is asked for."""
    verdicts = {samples.verdict(name, index) for name in samples.data}
    return COLOUR_OF[False if False in verdicts else True if True in verdicts else None]


def curve_plot(records: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Loss by step, faint as measured and strong as smoothed, for each modality; below it the accuracy, where known.

    Args:
        records: a run's metrics: `step` with `loss` and `losses` by modality, or with `accuracy` by modality.
    """
    losses, accuracies = (_names(records, key) for key in ("losses", "accuracy"))
    figure = Figure(figsize=(6.4, 5.6 if accuracies else 3.8), facecolor="white", layout="constrained")
    ratios = [3, 2] if accuracies else [1]
    panels: list[Axes] = list(figure.subplots(len(ratios), 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0])
    for colour, name in zip(SERIES, losses, strict=False):
        steps, values = _points(records, "losses", name)
        panels[0].plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        panels[0].plot(steps, _smooth(values), color=colour, linewidth=1.6, label=plain(name))
    panels[0].set(yscale="log", ylabel="loss (mean squared error)")
    for index, name in enumerate(accuracies):
        line = ("-", "--")[index // len(SERIES) % 2]
        style: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "linestyle": line}
        panels[1].plot(*_points(records, "accuracy", name), marker="o", markersize=3, label=plain(name), **style)
        panels[1].set(ylim=(-0.03, 1.03), ylabel="accuracy (all attributes)")
    for axes in panels:
        style_axes(axes)
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
    panels[-1].set_xlabel("step")
    panels[0].set_title(title, fontsize=9, color=INK)
    return figure


def _axes(figure: Figure, left: float, bottom: float, height: float) -> Axes:
    """Axes at a place in inches, a margin smaller than their cell."""
    width, total = figure.get_size_inches()
    gap = 0.05
    return figure.add_axes(
        ((left + gap) / width, (bottom + gap) / total, (CELL - 2 * gap) / width, (CELL * height - 2 * gap) / total)
    )


def _draw_sample(axes: Axes, x: Tensor, colour: str) -> None:
    """A picture `3 h w` or `1 h w` in [-1, 1], or a tone `n d` as one waveform, in a frame."""
    if x.ndim == 3:
        axes.imshow(pixels(x), interpolation="nearest")
    else:
        axes.plot(x.flatten().numpy(), color=INK, linewidth=0.5)
        axes.set_ylim(-1.15, 1.15)
        axes.margins(x=0)
    frame(axes, colour)


def pixels(x: Tensor) -> Any:
    """A picture `3 h w` or `1 h w` in [-1, 1] as an array `h w 3` in [0, 1]; one channel is grey."""
    return ((x.nan_to_num() + 1) / 2).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()


def frame(axes: Axes, colour: str) -> None:
    """A coloured frame, and no ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=1.4)


def wrapped(caption: str) -> list[str]:
    return textwrap.wrap(
        caption.replace(" ,", ",").replace(" :", ":"), CAPTION_WIDTH, max_lines=CAPTION_LINES, placeholder=" ..."
    )


def _smooth(values: Sequence[float], share: float = 0.02) -> list[float]:
    """The mean over a window of 2 % of the curve to either side, cut at its ends."""
    if not values:
        return []
    reach = round(share * len(values))
    line = torch.tensor([values], dtype=torch.float64)
    smooth: list[float] = avg_pool1d(line, 2 * reach + 1, 1, reach, count_include_pad=False)[0].tolist()
    return smooth


def comparison_plot(
    designs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], step_flops: Mapping[str, int], *, target: float
) -> Figure:
    """Loss by step and by training FLOPs, thin for each run and thick for the mean over a design's runs, in the band
    from the lowest to the highest; below it the accuracy of each modality, with the target.

    Args:
        designs: by name, each run's metrics.
        step_flops: by name, model FLOPs of a training step.
    """
    modalities = _names([record for each in designs.values() for run in each for record in run], "accuracy")
    figure = Figure(figsize=(9.6, 3.4 + 1.9 * len(modalities)), facecolor="white", layout="constrained")
    heights = [3.0] + [2.0] * len(modalities)
    panels = figure.subplots(len(heights), 2, squeeze=False, sharex="col", sharey="row", height_ratios=heights)
    for index, (name, each) in enumerate(designs.items()):
        style: dict[str, Any] = {
            "color": SERIES[index % len(SERIES)],
            "linestyle": ("-", "--", ":", "-.")[index // len(SERIES) % 4],
        }
        for axes, cost in zip(panels.T, (1, step_flops[name]), strict=True):
            _draw_curves(axes[0], [_smoothed(run) for run in each], cost, name, style)
            for panel, modality in zip(axes[1:], modalities, strict=True):
                _draw_curves(panel, [_points(run, "accuracy", modality) for run in each], cost, name, style, marker="o")
    panels[0, 0].set(yscale="log", ylabel="loss")
    for panel, modality in zip(panels[1:, 0], modalities, strict=True):
        panel.set(ylim=(-0.03, 1.03), ylabel=f"accuracy, {modality}")
    for panel in panels[1:].flat:
        panel.axhline(target, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    for panel in panels.flat:
        style_axes(panel)
    if panels[0, 1].lines:
        panels[0, 1].legend(fontsize=7, frameon=False)
    panels[-1, 1].xaxis.set_major_formatter(EngFormatter(sep=" "))
    for panel, label in zip(panels[-1], ("step", "training FLOPs"), strict=True):
        panel.set_xlabel(label)
    return figure


def _draw_curves(
    axes: Axes,
    curves: Sequence[tuple[list[int], list[float]]],
    cost: int,
    label: str,
    style: Mapping[str, Any],
    marker: str = "",
) -> None:
    """Each run's curve, thin, and thick the mean of those that came as far as the longest, in their band."""
    curves = [(steps, values) for steps, values in curves if steps]
    for steps, values in curves:
        axes.plot([step * cost for step in steps], values, alpha=0.35, linewidth=0.7, **style)
    if curves:
        end = max(steps[-1] for steps, _ in curves)
        whole = [dict(zip(steps, values, strict=True)) for steps, values in curves if steps[-1] == end]
        shared = [step for step in whole[0] if all(step in values for values in whole)]
        x, each = [step * cost for step in shared], [[values[step] for values in whole] for step in shared]
        mean = [sum(values) / len(values) for values in each]
        axes.plot(x, mean, linewidth=1.8, label=plain(label), marker=marker, markersize=3, **style)
        if len(whole) > 1:
            axes.fill_between(x, [*map(min, each)], [*map(max, each)], color=style["color"], alpha=0.15, linewidth=0)


def _smoothed(run: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[float]]:
    losses = [(record["step"], record["loss"]) for record in run if "loss" in record]
    return [step for step, _ in losses], _smooth([loss for _, loss in losses])


def _names(records: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The modalities that records tell of under a key."""
    return list(dict.fromkeys(name for record in records for name in record.get(key, ())))


def _points(run: Sequence[Mapping[str, Any]], key: str, name: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[key][name]) for record in run if name in record.get(key, ())]
    return [step for step, _ in found], [value for _, value in found]
