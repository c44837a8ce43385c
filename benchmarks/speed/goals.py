"""What is timed side by side, the goal of each comparison, and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.speed.sides import Side
from mmdit_cli.profile.statistics import Ratio


@dataclass(frozen=True)
class Goal:
    """`side` may take at most `most` times what `of` takes. A goal of 1 is met where noise can't tell the two apart."""

    of: str
    most: float = math.inf
    side: str = "ours"


@dataclass(frozen=True)
class Row:
    """Sides to be timed in rounds; `build` makes them afresh: where tensors lie changes a time by some percent."""

    section: str
    name: str
    build: Callable[[], dict[str, Side]]
    goals: tuple[Goal, ...] = ()
    seconds: float = 3.0
    builds: int = 2
    close: Callable[[], None] = field(default=lambda: None)
    peaks: Callable[[], dict[str, int]] | None = None
    peak_goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Line:
    """A comparison as it is shown."""

    name: str
    figure: str
    goal: str = ""
    met: bool = True
    section: str = ""

    def __str__(self) -> str:
        verdict = "    " if not self.goal else "ok  " if self.met else "MISS"
        return f"{verdict}  {self.name}: {self.figure}{f' (goal {self.goal})' if self.goal else ''}"


def is_met(ratio: Ratio, most: float) -> bool:
    """A goal of 1 is missed only where noise does not explain it."""
    return ratio.ratio <= most or (most == 1.0 and (ratio.low or 0.98 * ratio.ratio) <= 1.0)


def shown(goal: Goal, ratio: Ratio, milliseconds: dict[str, float]) -> tuple[str, str]:
    spread = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
    took = f"{milliseconds[goal.side]:.4g} ms"
    return f"{ratio.ratio:.3f}{spread} of {goal.of}, {took}", f"≤ {goal.most:.3g} of {goal.of}"
