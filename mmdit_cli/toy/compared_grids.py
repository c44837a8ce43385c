"""What is compared: every config at the values that are tried for it, or each point of a sweep as its own design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmdit_cli.request.request import Request
from mmdit_cli.request.sweep import PointConfig, over_grid, short_names, value_text
from mmdit_cli.toy.comparability import distinct
from mmdit_cli.toy.data_fit import world_of


def distinct_grids(files: Sequence[str], grids: Sequence[Sequence[PointConfig]]) -> list[list[PointConfig]]:
    """The grids with names that differ, as `distinct` makes them."""
    named = distinct([grid[0].config for grid in grids], files)
    return [
        [replace(each, config=replace(each.config, name=first.name)) for each in grid]
        for grid, first in zip(grids, named, strict=True)
    ]


def swept(request: Request, grids: Sequence[Sequence[PointConfig]]) -> list[list[PointConfig]]:
    """A design for each point of each config, named by its values. Those that can't be trained are left out, and noted.

    Raises:
        UserError: none can be trained.
    """
    points = [each for grid in distinct_grids(request.configs, grids) for each in grid]
    points = [each for each, _ in over_grid(request, points, lambda each: world_of(each.config))]
    names = short_names([each.point for each in points])
    texts = [" ".join(f"{names[key]}={value_text(value)}" for key, value in each.point.items()) for each in points]
    wanted = [replace(p.config, name=f"{p.config.name} {text}") for p, text in zip(points, texts, strict=True)]
    named = distinct(wanted, [config.name for config in wanted])
    return [[replace(each, config=config)] for each, config in zip(points, named, strict=True)]
