"""`mmdit train-toy --coordinate-check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.errors import UserError
from mmdit_cli.output import units as f
from mmdit_cli.output.console import stage_progress
from mmdit_cli.output.tables import Column, listing, note
from mmdit_cli.request.request import Request
from mmdit_cli.request.targets import PICTURES, check_apart, check_target
from mmdit_cli.toy.coordinates import CoordinateCheck, Growth, coordinate_check

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_coordinates(request: Request, plot: Path | None, others: Mapping[str, object]) -> None:
    """Check one config, and show what was found.

    Args:
        others: further options, by name, with what was given; they are of trainings.

    Raises:
        UserError: there are several configs or further options, or the config can't be trained at these widths.
    """
    if given := [name for name, value in others.items() if value]:
        raise UserError(f"--coordinate-check takes the first steps by itself, in fp32; leave out {given[0]}")
    if len(request.configs) != 1:
        raise UserError("--coordinate-check is of one config; give one --config")
    if plot is not None:
        check_target(plot, "--plot", suffixes=PICTURES)
        check_apart({"config": request.configs}, plot=plot, report=request.report)
    (config,) = request.load_configs()
    if config.train.optimizer.kind != "adamw":
        raise UserError(f"--coordinate-check: muP says how AdamW is scaled, got {config.train.optimizer.kind}")
    with stage_progress() as on_progress:
        result = coordinate_check(config, request.torch_device, first_seed=request.seed, on_progress=on_progress)
    picture = None if plot is None else (plot, lambda: _picture(result))
    request.say_unused()
    request.show([result], lambda width: coordinate_tables(result, width), picture=picture)


def coordinate_tables(result: CoordinateCheck, width: int) -> Sequence[RenderableType]:
    first, last = result.widths[0], result.widths[-1]
    moved = {(m.parametrization, m.component, m.width): m.change for m in result.moved if m.step == result.steps}
    columns = [
        Column("component", lambda g: g.component, kind="text"),
        Column("parametrization", lambda g: g.parametrization, kind="text"),
        *(
            Column(f"at {at}", lambda g, at=at: f.number(moved[g.parametrization, g.component, at]), 70)  # type: ignore[misc]
            for at in result.widths
        ),
        Column("grows as", lambda g: f"width ^ {g.exponent:.2f}"),
        Column(" ", _verdict, kind="text"),
    ]
    about = (
        f"How far {result.steps} steps move what each component gives: the mean over its coordinates and "
        f"{result.seeds} seeds, at widths of {first} to {last}. Flat: within ±0.25 of the power 0."
    )
    return [listing(f"{result.config}: coordinate check", result.growth, columns, width), note(about)]


def _verdict(growth: Growth) -> str:
    return "flat" if growth.flat else "grows" if growth.exponent > 0 else "shrinks"


def _picture(result: CoordinateCheck) -> Figure:
    from mmdit_cli.toy.coordinate_plot import coordinate_plot

    return coordinate_plot(result)
