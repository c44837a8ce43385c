"""The document of the muP benchmark, and its picture."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure

from benchmarks.mup.transfer import JUDGED, KINDS, RATES, WIDTHS, Transfer
from mmdit_cli.output.figures import INK, MARKERS, SERIES, style_axes
from mmdit_cli.toy.coordinate_plot import NAMES
from mmdit_cli.toy.coordinates import CoordinateCheck, Parametrization

ABOUT = """# Does the best learning rate stay as a network widens?

Written by `python -m benchmarks.mup --write docs/reports/mup.md` with torch {version} on {device}. Under muP
(`train.parametrization: mup`, [Yang et al. 2022](https://arxiv.org/abs/2203.03466), of MMDiT
[Zheng et al. 2025](https://arxiv.org/abs/2505.15270)) the best learning rate of a narrow network is to be that of a
wide one, within a step of the grid; under the standard parametrization it is to fall. That is of the rate alone: which
parametrization ends with the lesser loss, each at its own best, is another question, and the losses beside the rates
answer it.

## Learning rates

`{config}`, {steps} steps of {batch}, at widths of {widths} (heads of 16 features, so that their number grows),
{seeds}. Loss: of the network at the end, on {judged} samples that all share{spread}; the least of each
column is bold.

"""
COORDINATES = """
![Loss over the learning rate, by width, in both parametrizations](mup-transfer.png)

## How far the first steps move activations

`mmdit train-toy --config {config} --coordinate-check`: the mean change of each component's outputs after {steps} steps
at the config's learning rate, over {seeds} seeds, and the power of the width with which it grows.

"""


def document(found: Transfer, moved: CoordinateCheck) -> str:
    """Both checks as Markdown."""
    seeds = len(next(iter(found.losses.values())))
    about = ABOUT.format(
        version=torch.__version__,
        device="the CPU" if found.device == "cpu" else f"a GPU ({found.device})",
        config="ablations/attention/standard",
        steps=found.config.train.steps,
        batch=found.config.train.batch_size,
        widths=" and ".join(map(str, WIDTHS)),
        seeds=f"{seeds} seeds" if seeds > 1 else "1 seed",
        spread=", the mean over seeds and in brackets their range" if seeds > 1 else "",
        judged=JUDGED,
    )
    columns = [(kind, width) for kind in KINDS for width in WIDTHS]
    lines = ["| learning rate | " + " | ".join(f"{NAMES[kind]}, {width}" for kind, width in columns) + " |"]
    lines += ["| --- " * (1 + len(columns)) + "|"]
    for rate in RATES:
        cells = []
        for kind, width in columns:
            mean, losses = found.mean(kind, width, rate), found.losses[kind, width, rate]
            text = f"{mean:.4f} ({min(losses):.4f} to {max(losses):.4f})" if seeds > 1 else f"{mean:.4f}"
            text = text if math.isfinite(mean) else "diverged"
            cells.append(f"**{text}**" if rate == found.best(kind, width) else text)
        lines.append(f"| {rate} | " + " | ".join(cells) + " |")
    lines += ["", *(_said(found, kind) for kind in KINDS)]
    table = [
        "| component | " + " | ".join(f"{NAMES[kind]}, grows as" for kind in KINDS) + " |",
        "| --- " * (1 + len(KINDS)) + "|",
    ]
    exponents = {(each.component, each.parametrization): each.exponent for each in moved.growth}
    for component in dict.fromkeys(each.component for each in moved.growth):
        cells = [f"width ^ {exponents[component, kind]:.2f}" for kind in KINDS]
        table.append(f"| {component} | " + " | ".join(cells) + " |")
    check = COORDINATES.format(config="ablations/attention/standard", steps=moved.steps, seeds=moved.seeds)
    picture = "\n![Change of each component's outputs over the width](mup-coordinates.png)\n"
    return about + "\n".join(lines) + "\n" + check + "\n".join(table) + "\n" + picture


def _said(found: Transfer, kind: Parametrization) -> str:
    narrow, wide = (found.best(kind, width) for width in (WIDTHS[0], WIDTHS[-1]))
    apart = found.moved(kind)
    verdict = "it stays within a step of the grid" if abs(apart) <= 1 else f"it moves by {abs(apart)} steps of the grid"
    if rate_at_end := [rate for rate in (narrow, wide) if rate in (RATES[0], RATES[-1])]:
        verdict += f", of which {rate_at_end[0]} is an end"
    losses = [found.mean(kind, width, rate) for width, rate in ((WIDTHS[0], narrow), (WIDTHS[-1], wide))]
    return (
        f"- {NAMES[kind]}: best at {narrow} at a width of {WIDTHS[0]} (loss {losses[0]:.4f}), at {wide} at "
        f"{WIDTHS[-1]} (loss {losses[1]:.4f}): {verdict}."
    )


def transfer_plot(found: Transfer) -> Figure:
    """A panel for each parametrization, a line for each width; the best of each marked."""
    figure = Figure(figsize=(4.2 * len(KINDS), 3.4), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(KINDS), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, KINDS, strict=True):
        for index, width in enumerate(WIDTHS):
            x = [rate for rate in RATES if math.isfinite(found.mean(kind, width, rate))]
            y = [found.mean(kind, width, rate) for rate in x]
            low, high = ([end(found.losses[kind, width, rate]) for rate in x] for end in (min, max))
            colour, marker = SERIES[index], MARKERS[index]
            axes.plot(x, y, marker=marker, color=colour, markersize=4, linewidth=1.6, label=f"width {width}")
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.axvline(found.best(kind, width), color=colour, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set(xscale="log", yscale="log", xlabel="learning rate")
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axes.set_xticks([], minor=True)
        axes.set_title(NAMES[kind], fontsize=9, color=INK)
        style_axes(axes)
    panels[0].set_ylabel(f"loss after {found.config.train.steps} steps")
    panels[0].legend(fontsize=7, frameon=False)
    return figure
