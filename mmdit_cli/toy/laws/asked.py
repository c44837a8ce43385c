"""What `--law` and `--law-budget` ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdit_cli.errors import UserError
from mmdit_cli.request.numbers import read_number
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.toy.laws.shapes import Member, check_sizes
from mmdit_cli.toy.seed_plan import By


@dataclass(frozen=True)
class LawAsked:
    """That laws are to be fitted; `budget`: FLOPs that are to be spent best."""

    budget: float | None = None


def read_law(
    law: bool, budget: str | None, grids: Sequence[Sequence[PointConfig]], *, tuned: bool, by: By, auto: bool
) -> LawAsked | None:
    """None where no law is asked for.

    Args:
        grids: of each design its points, with names that differ.

    Raises:
        UserError: the budget is none, or what is compared has no laws: too few sizes or lengths, or runs that can't be
            held against each other.
    """
    if not law:
        if budget is not None:
            raise UserError("--law-budget is for --law")
        return None
    if by != "steps":
        raise UserError(f"--law: leave out --by {by}; laws by parameters are of sizes that are trained equally long")
    if auto:
        raise UserError("--law is of sizes that all have the same seeds; give --seeds N in place of auto")
    asked = LawAsked(None if budget is None else read_number(budget, "--law-budget"))
    members = [Member(grid[0].config.name, grid[0].config, grid[0].point) for grid in grids]
    check_sizes(members, tuned=tuned, budget=budget is not None)
    return asked
