"""Pictures of profiles: the roofline of each config, or what a sweep measured.

Importing this imports matplotlib: do so where a picture is drawn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from mmdit_cli.output import units as f
from mmdit_cli.output.figures import FAINT, INK, MARKERS, SERIES, plain, style_axes
from mmdit_cli.profile.breakdown import ComponentProfile
from mmdit_cli.profile.growth import swept_variables, variable_of
from mmdit_cli.profile.profile_result import ProfileResult
from mmdit_cli.request.sweep import in_lines

LINEAR = "qkv projection, output gate, out projection, feedforward, embedding, output head, modulation"
KINDS = {  # what components of a kind are drawn as
    "linear": ("o", tuple(LINEAR.split(", "))),
    "attention": ("s", ("attention", "second attention")),
    "others": ("^", ()),
}
NAMED = 6  # components with most of the time, that are named in a roofline


def profile_plot(results: Sequence[ProfileResult]) -> Figure:
    """A sweep's time and memory where something numeric was swept, else a roofline for each config."""
    if any(result.point for result in results) and swept_variables(results):
        return sweep_plot(results)
    return roofline_plot(results)


def roofline_plot(results: Sequence[ProfileResult]) -> Figure:
    """Reached FLOP/s over FLOPs a byte, under the ceilings that were measured in the same run (Williams et al. 2009).

    A marker's area is the component's share of the time; the star is the whole call. Only work with FLOPs is drawn.
    """
    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=((6.8 if columns == 1 else 5.4) * columns, 4.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    limits = _limits(results)
    for each, result in itertools.zip_longest(axes, results):
        if result is None:
            each.set_axis_off()
        else:
            _roofline(each, result, *limits)
    return figure


def _limits(results: Sequence[ProfileResult]) -> tuple[tuple[float, float], tuple[float, float]]:
    """What all pictures span: intensities, and FLOP/s."""
    x = [result.bound.intensity for result in results]
    y = [result.achieved_flops_per_s for result in results]
    for result in results:
        x.append(result.ceiling.gemm_flops_per_s / result.ceiling.bytes_per_s)
        y.append(result.ceiling.gemm_flops_per_s)
        for row in _with_flops(result):
            x.append(row.bound.intensity if row.bound else x[0])
            y.append(row.flops_per_s)
    return (min(x) / 3, max(x) * 3), (min(y) / 4, max(y) * 2)


def _with_flops(result: ProfileResult) -> list[ComponentProfile]:
    return [row for row in result.components if row.bound is not None and row.flops and row.time_ms]


def _roofline(axes: Axes, result: ProfileResult, x: tuple[float, float], y: tuple[float, float]) -> None:
    rows = _with_flops(result)
    gemm, slow = result.ceiling.gemm_flops_per_s, result.ceiling.bytes_per_s
    for stream in result.ceiling.streams[:-1]:  # faster memories, which hold less
        _roof(axes, gemm, stream.bytes_per_s, x, FAINT, 0.6)
    _roof(axes, gemm, slow, x, INK, 1.4)
    style: dict[str, Any] = dict(fontsize=6.5, color=INK, textcoords="offset points")
    axes.annotate(f"products: {f.rate(gemm, 'FLOP')}", (x[1], gemm), xytext=(0, 2), ha="right", **style)
    ridge = (gemm / slow, gemm)
    axes.annotate(f"memory: {f.rate(slow, 'B')}", ridge, xytext=(0, -24), ha="left", **style)
    fastest = max(result.ceiling.streams, key=lambda stream: stream.bytes_per_s)
    place = (gemm / fastest.bytes_per_s, gemm)
    style["color"] = FAINT
    axes.annotate(f"caches, to {f.rate(fastest.bytes_per_s, 'B')}", place, xytext=(0, 2), ha="left", **style)
    for colour, (label, (marker, kinds)) in zip(SERIES, KINDS.items(), strict=False):
        others = [kind for _, group in KINDS.values() for kind in group]
        chosen = [row for row in rows if (row.kind in kinds if kinds else row.kind not in others)]
        if chosen:
            axes.scatter(
                [row.bound.intensity for row in chosen if row.bound],
                [row.flops_per_s for row in chosen],
                s=[25 + 400 * row.share for row in chosen],
                marker=marker,
                color=colour,
                alpha=0.75,
                linewidths=0,
                label=label,
            )
    whole = (result.bound.intensity, result.achieved_flops_per_s)
    axes.scatter(whole[:1], whole[1:], marker="*", s=90, color=INK, zorder=3, label="the whole")
    named = sorted(rows, key=lambda row: -row.time_ms)[:NAMED]
    lines = []
    for number, row in enumerate(named, start=1):
        if row.bound:
            at = (row.bound.intensity, row.flops_per_s)
            axes.annotate(str(number), at, fontsize=5.5, color="white", ha="center", va="center", zorder=4)
            share, limit = f.percent(row.share), f.percent(row.bound.of_measured)
            lines.append(f"{number}  {row.name}: {share} of the time, {limit} of its limit")
    axes.text(0.02, 0.02, "\n".join(lines), fontsize=6, color=INK, transform=axes.transAxes, va="bottom")
    axes.set(xscale="log", yscale="log", xlim=x, ylim=y)
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("intensity, FLOP per byte")
    axes.set_ylabel("reached, FLOP/s")
    title = f"{result.config}, {result.mode}: {f.percent(result.utilization)} of the products' ceiling"
    axes.set_title(title, fontsize=8, color=INK)
    axes.legend(fontsize=6, frameon=False, loc="lower right", markerscale=0.6)
    style_axes(axes, "major")


def _roof(axes: Axes, gemm: float, rate: float, x: tuple[float, float], colour: str, width: float) -> None:
    ridge = gemm / rate
    axes.plot([x[0], ridge, x[1]], [x[0] * rate, gemm, gemm], color=colour, linewidth=width, zorder=1)


def sweep_plot(results: Sequence[ProfileResult]) -> Figure:
    """Latency, memory and utilization over the first numeric variable that was swept; a line for each config and value
    of the others."""
    (variable, places), *_ = swept_variables(results).items()
    lines = in_lines(results, places, lambda key: _belongs(key, variable))
    panels: list[tuple[str, str, Callable[[ProfileResult], float]]] = [
        ("latency", "s", lambda r: r.latency_ms.median / 1e3),
        ("peak memory", "B", lambda r: r.memory_bytes.peak),
        ("utilization", "", lambda r: 100 * r.utilization),
    ]
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    for axes, (label, unit, value) in zip(figure.subplots(1, 3), panels, strict=True):
        for (name, points), colour, marker in zip(lines.items(), itertools.cycle(SERIES), itertools.cycle(MARKERS)):
            x, y = [place for place, _ in points], [value(result) for _, result in points]
            axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2, label=plain(name))
            if label == "latency":
                low = [(r.latency_ms.ci_low or r.latency_ms.median) / 1e3 for _, r in points]
                high = [(r.latency_ms.ci_high or r.latency_ms.median) / 1e3 for _, r in points]
                axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set_xscale("log")
        if unit:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(EngFormatter(unit=unit))
        else:
            axes.set_ylim(0, 100)
        axes.set_xticks(sorted(set(places)), [f.number(x) for x in sorted(set(places))])
        axes.minorticks_off()
        axes.set_title(f"{label}, % of the products' ceiling" if not unit else label, fontsize=8, color=INK)
        axes.set_xlabel(variable)
        style_axes(axes, "major")
    if len(lines) > 1:
        figure.axes[0].legend(fontsize=6.5, frameon=False)
    configs = ", ".join(dict.fromkeys(result.config for result in results))
    figure.suptitle(f"{configs}, {results[0].mode}", fontsize=9, color=INK)
    return figure


def _belongs(key: str, variable: str) -> bool:
    return variable == key or variable == variable_of(key)
