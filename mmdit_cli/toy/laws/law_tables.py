"""Laws as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, note, styled
from mmdit_cli.toy.laws.advantage import Advantage
from mmdit_cli.toy.laws.optimum import Optimum
from mmdit_cli.toy.laws.power_law import Known, PowerLaw
from mmdit_cli.toy.laws.report import LawReport


def law_tables(report: LawReport, width: int) -> list[RenderableType]:
    """The laws; whether one design's advantage lasts; how a budget is best spent."""
    parts: list[RenderableType] = [_laws(report, width)] if report.laws else []
    parts += [_advantages(report, width)] if report.advantages else []
    parts += [_optima(report, width)] if report.optima else []
    parts += [styled(text, "yellow") for text in report.notes]
    return [*parts, *map(note, _notes(report))]


def _laws(report: LawReport, width: int) -> Table:
    several = any(law.steps is None for law in report.laws) or len({law.steps for law in report.laws}) > 1
    columns = [
        Column("design", lambda law: law.design, kind="text"),
        Column("figure", lambda law: law.figure, kind="text"),
        Column("by", lambda law: law.variable, kind="text"),
        *([Column("steps", _length, 80)] if several else []),
        Column("points", lambda law: f"{len(law.points)}", 100),
        Column("exponent", _exponent, kind="figure"),
        Column("floor", lambda law: _known(law.floor, f.number) if law.determined else "", 80, kind="figure"),
        Column("at twice the largest", lambda law: _known(_last(law), f.number), 100, kind="figure"),
        Column("R²", lambda law: f"{law.r_squared:.3f}", 100),
        Column("fits", _fits, 80),
    ]
    return listing("laws: floor + coefficient × size ^ -exponent", report.laws, columns, width)


def _length(law: PowerLaw) -> str:
    return "cheapest" if law.steps is None else f"{law.steps:,}"


def _exponent(law: PowerLaw) -> str:
    return _known(law.exponent, f.number) if law.determined else "not known"


def _last(law: PowerLaw) -> Known:
    end = law.curve[-1]
    return Known(end.value, end.low, end.high)


def _fits(law: PowerLaw | Optimum) -> str:
    if law.lack_of_fit is None:
        return f.MISSING
    return f"{'yes' if law.lack_of_fit >= 0.05 else 'no'} (p {law.lack_of_fit:.2g})"


def _advantages(report: LawReport, width: int) -> Table:
    columns = [
        Column("design", lambda x: x.design, kind="text"),
        Column("on", lambda x: f"{x.figure} by {x.variable}", kind="text"),
        Column("at the smallest", lambda x: _known(x.at_smallest, _gain(x)), 60, kind="figure"),
        Column("at the largest", lambda x: _known(x.at_largest, _gain(x)), 60, kind="figure"),
        Column("change", lambda x: _known(x.change, _gain(x)), 100, kind="figure"),
        Column("its difference", lambda x: x.trend, kind="text"),
    ]
    return listing(f"with size, against {report.advantages[0].to}", report.advantages, columns, width)


def _gain(x: Advantage) -> Callable[[float], str]:
    unit = "%" if x.figure == "loss" else " pp"
    return lambda value: f"{100 * value:+.1f}{unit}"


def _optima(report: LawReport, width: int) -> Table:
    columns = [
        Column("design", lambda x: x.design, kind="text"),
        Column("parameters", lambda x: _known(x.parameters, f.count), kind="figure"),
        Column("steps", lambda x: f"{x.steps:,}"),
        Column("loss", lambda x: _known(x.loss, f.number), 80, kind="figure"),
        Column("fits", _fits, 80),
        Column("nearest", lambda x: x.nearest, kind="text"),
        Column(" ", _reach, kind="text"),
    ]
    return listing(f"best for {f.flops(report.optima[0].budget)} of training", report.optima, columns, width)


def _reach(x: Optimum) -> str:
    if not x.determined:
        return "not known: the fit does not tell"
    return "beyond what was trained" if x.beyond else ""


def _known(x: Known, show: Callable[[float], str]) -> str:
    return f"{show(x.value)} ({show(x.low)} to {show(x.high)})"


def _notes(report: LawReport) -> Iterator[str]:
    if report.laws:
        yield (
            "Laws: least squares over all exponents; 95% intervals by a parametric bootstrap of what seeds and points "
            "shift."
        )
    if report.laws or report.optima:
        yield "Fits: whether points lie as far off as the noise of runs alone would put them."
    if report.advantages:
        yield (
            "Advantage: runs held against those of the nearest size of the other on the same seed, and a line through "
            "that; as a share of the other's loss or in percentage points. Stays: any change is surely less than half."
        )
    if report.optima:
        yield (
            "Best size: L(N, D) = E + A N^-a + B D^-b of the last losses by parameters and samples (Hoffmann et al. "
            "2022, third approach), at the learning rates of these configs."
        )
