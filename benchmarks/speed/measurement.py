"""Rows are built, warmed up, timed in rounds, and compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.speed.goals import Goal, Line, Row, is_met, shown
from benchmarks.speed.startup import comparisons
from mmdit_cli.profile.statistics import compare
from mmdit_cli.profile.timing import run_rounds

MOST_SECONDS = 90.0  # of a row, beyond which fewer rounds than six must do


def measure(row: Row) -> Iterator[Line]:
    """Build, warm up, time in rounds, compare."""
    times: dict[str, list[float]] = {}
    for build in range(row.builds):
        sides = row.build()
        for side in sides.values():
            side()
            side()
        calls: Any = list(sides.values())
        taken = run_rounds(calls, _itself, max_seconds=row.seconds / row.builds, tolerance=0.004, seed=build)
        while len(taken[0]) * row.builds < 6 and sum(map(sum, taken)) < MOST_SECONDS:  # an interval takes six
            more = run_rounds(calls, _itself, repeats=1, seed=len(taken[0]))
            taken = [a + b for a, b in zip(taken, more, strict=True)]
        for name, each in zip(sides, taken, strict=True):
            times.setdefault(name, []).extend(each)
        if build == row.builds - 1 and row.peaks is not None:
            peaks = row.peaks()
        row.close()
    medians = {name: median(each) * 1e3 for name, each in times.items()}
    goal_of = {goal.of: goal for goal in row.goals}
    for name in (name for name in times if name != "ours"):
        ratio = compare(times["ours"], times[name], to=name)
        goal = goal_of.get(name)
        figure, wanted = shown(goal or Goal(name), ratio, medians)
        yield Line(row.name, figure, wanted if goal else "", goal is None or is_met(ratio, goal.most), row.section)
    if row.peaks is not None:
        limits = {goal.of: goal for goal in row.peak_goals}
        for name, size in peaks.items():
            if name != "ours":
                share, limit = peaks["ours"] / size, limits.get(name)
                figure = f"peak {share:.2f} of {name}, {peaks['ours'] / 1e6:.1f} MB"
                goal_text = f"≤ {limit.most:.2f} of {name}" if limit else ""
                yield Line(row.name, figure, goal_text, limit is None or share <= limit.most, row.section)


def _itself(side: Any) -> float:
    """A side measures its own seconds."""
    return side()


def start_up() -> Iterator[Line]:
    for name, other, ours, theirs, most, note in comparisons():
        ratio = compare(ours, theirs, to=other)
        figure, goal = shown(Goal(other, most), ratio, {"ours": median(ours) * 1e3})
        known = most < math.inf
        yield Line(name, f"{figure}{note and f', {note}'}", goal if known else "", is_met(ratio, most), "start-up")
