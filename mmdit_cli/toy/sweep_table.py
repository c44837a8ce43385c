"""The points of a sweep of trainings, one a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing
from mmdit_cli.toy.spread_texts import share_text, spread_text

if TYPE_CHECKING:
    from rich.table import Table

    from mmdit_cli.toy.comparison import Comparison


def is_sweep(comparison: Comparison) -> bool:
    """Whether its designs are the points of a sweep; those of a tuning are the best of each design's."""
    return comparison.tuning is None and any(design.point for design in comparison.designs)


def sweep_table(comparison: Comparison, width: int) -> Table:
    """What each point costs, and what it learned; the differences from the first are in the document."""
    names = dict.fromkeys(name for design in comparison.designs for name in design.accuracy)
    shown = ["mean"] if "mean" in names else list(names)
    columns = [
        Column("point", lambda d: d.config, kind="text"),
        Column("parameters", lambda d: f.count(d.parameters)),
        Column("FLOPs a step", lambda d: f.flops(d.step_flops), 100),
        Column("time a step", lambda d: f.seconds(d.step_seconds), 110),
        Column("steps", lambda d: f"{d.steps:,}", 80),
        Column("finished", lambda d: f"{len(d.seeds)} of {d.runs}", 80, kind="figure"),
        Column("loss", lambda d: spread_text(d.loss), kind="figure"),
        *(Column(name, lambda d, name=name: share_text(d.accuracy.get(name)), kind="figure") for name in shown),  # type: ignore[misc]
    ]
    return listing("points", comparison.designs, columns, width)
