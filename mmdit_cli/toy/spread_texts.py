"""Figures over seeds as people read them: to two digits of their standard deviation."""

from __future__ import annotations

import math

from mmdit_cli.output import units as f
from mmdit_cli.toy.seed_statistics import Spread


def spread_text(figure: Spread | None) -> str:
    """`0.0374 ± 0.0012`: to two digits of the standard deviation."""
    if figure is None:
        return f.MISSING
    if not figure.sd:
        return f.number(figure.mean) + ("" if figure.sd is None else " ± 0")
    shown = decimals(figure.sd)
    return f"{figure.mean:,.{shown}f} ± {figure.sd:,.{shown}f}"


def share_text(figure: Spread | None) -> str:
    if figure is None:
        return f.MISSING
    return f.percent(figure.mean) + ("" if figure.sd is None else f" ± {100 * figure.sd:.1f} pp")


def decimals(value: float) -> int:
    """Decimals that show two digits of a value."""
    return min(8, max(0, 1 - math.floor(math.log10(value)))) if value > 0 and math.isfinite(value) else 2
