"""Plots of training runs: loss and accuracy by step and by training FLOPs, the mean over seeds with its band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmdit_cli.output.page.plots import Axis, Curves, Plot, Series
from mmdit_cli.output.run_files import RunFiles

POINTS = 240  # of a curve: as many as a screen shows
REACH = 0.02  # of a curve, to either side, that a smoothed value is the mean of
RUNS = 40  # drawn by themselves; of more the band alone

Designs = Mapping[str, Sequence[RunFiles]]
Curve = dict[float, float]  # a value by step


def training_plots(designs: Designs, step_flops: Mapping[str, float] | None = None) -> list[Plot]:
    """Loss, and the accuracy of each modality.

    Args:
        designs: by name, the runs of all seeds.
        step_flops: by name, model FLOPs of a training step, where they are known.
    """
    plots: list[Plot] = []
    losses = {name: [_smooth(_values(run, "loss")) for run in runs] for name, runs in designs.items()}
    about = "Smoothed over 4 % of the steps. "
    plots += _curves("loss", about, losses, log=True)
    if step_flops and losses.keys() <= step_flops.keys():
        scaled = {
            name: [{step * step_flops[name]: value for step, value in curve.items()} for curve in curves]
            for name, curves in losses.items()
        }
        plots += _curves("loss by training FLOPs", about, scaled, x=Axis("training", "FLOP"), log=True)
    records = [record for runs in designs.values() for run in runs for record in run.records]
    for modality in dict.fromkeys(name for record in records for name in record.get("accuracy", ())):
        curves = {name: [_values(run, "accuracy", modality) for run in runs] for name, runs in designs.items()}
        shares = {name: [{s: 100 * v for s, v in c.items()} for c in own] for name, own in curves.items()}
        plots += _curves(f"accuracy, {modality}", "As the oracle reads it. ", shares, unit="%", marks=True)
    return plots


def _curves(
    title: str,
    about: str,
    designs: Mapping[str, Sequence[Curve]],
    *,
    x: Axis = Axis("step"),  # noqa: B008
    unit: str = "",
    log: bool = False,
    marks: bool = False,
) -> list[Plot]:
    series: list[Series] = []
    known = {name: [curve for curve in curves if curve] for name, curves in designs.items()}
    several = any(len(curves) > 1 for curves in known.values())
    alone = several and sum(map(len, known.values())) <= RUNS
    for number, (name, curves) in enumerate(known.items()):
        if not curves:
            continue
        for curve in curves if alone and len(curves) > 1 else ():
            series.append(Series(name, _points(curve), colour=number, marks=False, quiet=True))
        end = max(max(curve) for curve in curves)
        whole = [curve for curve in curves if max(curve) == end]  # one that stopped early has no part in the mean
        mean, band = _together(whole)
        series.append(Series(name, mean, band=band if len(whole) > 1 else [], colour=number, marks=marks))
    if not series:
        return []
    about += "The mean over seeds, each run faintly, and the band from the lowest to the highest." if several else ""
    return [Curves(title, about.strip(), x, Axis(title.partition(" by ")[0], unit, log=log), series)]


def _together(curves: Sequence[Curve]) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Mean and band at the steps that all share."""
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    rows = [[curve[step] for curve in curves] for step in steps]
    mean = [(_short(s), _short(float(np.mean(row)))) for s, row in zip(steps, rows, strict=True)]
    return mean, [(_short(s), _short(min(row)), _short(max(row))) for s, row in zip(steps, rows, strict=True)]


def _points(curve: Curve) -> list[tuple[float, float]]:
    return [(_short(step), _short(value)) for step, value in curve.items()]


def _short(value: float) -> float:
    """To five digits, which a screen does not tell from more."""
    return float(f"{value:.5g}")


def _values(run: RunFiles, key: str, name: str | None = None) -> Curve:
    """A run's finite values by step."""
    found: Curve = {}
    for record in run.records:
        value = record.get(key)
        if name is not None:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, (int, float)) and np.isfinite(value):
            found[record["step"]] = float(value)
    return found


def _smooth(curve: Curve) -> Curve:
    """Means over a window that is cut at the ends, at as many steps as a screen shows."""
    steps, values = list(curve), np.array(list(curve.values()))
    reach, total = round(REACH * len(steps)), np.concatenate([[0.0], np.cumsum(values)])
    kept = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(POINTS, len(steps)))}) if steps else []
    ends = [(max(0, i - reach), min(len(steps), i + reach + 1)) for i in kept]
    return {steps[i]: float(total[b] - total[a]) / (b - a) for i, (a, b) in zip(kept, ends, strict=True)}
