"""Plots of how loss and errors fall with size, as `train-toy --law` fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdit_cli.output.page.plots import Axis, Curves, Plot, Series

UNITS = {"training FLOPs": "FLOP"}


def law_plots(report: Mapping[str, Any]) -> list[Plot]:
    """A plot for each figure and variable: each design's sizes, its law, and the band of that."""
    kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for law in report.get("laws") or ():
        kinds.setdefault((law["figure"], law["variable"]), []).append(law)
    about = "Marks: sizes, the mean over seeds. Curves: the laws, to twice the largest size, and their 95 % bands."
    plots: list[Plot] = []
    for (figure, variable), laws in kinds.items():
        series = []
        for number, law in enumerate(laws):
            name = law["design"] if law["steps"] is None else f"{law['design']}, {law['steps']:,} steps"
            curve = [(p["x"], p["value"]) for p in law["curve"]]
            band = [(p["x"], p["low"], p["high"]) for p in law["curve"]]
            sizes = [(p["x"], p["mean"]) for p in law["points"]]
            texts = [p["config"] for p in law["points"]]
            series.append(Series(name, curve, band=band, colour=number, marks=False))
            series.append(Series(name, sizes, texts, colour=number, line=False))
        axes = Axis(variable, UNITS.get(variable, ""), log=True), Axis(figure, log=True)
        plots.append(Curves(f"{figure} by {variable}", about, *axes, series))
    return plots
