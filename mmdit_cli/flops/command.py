"""`mmdit flops`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.request.completion import card_names
from mmdit_cli.request.flags import (
    GuidanceOption,
    MatchOption,
    StepsOption,
    SweepOption,
    VaryOption,
    common_options,
    with_sampling,
)
from mmdit_cli.request.request import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmdit_cli.request.budget import Budget

NAME = "flops"
UTILIZATION = "40%"


@common_options(NAME)
def command(
    request: Request,
    mode: Annotated[
        Literal["train", "sample"],
        typer.Option("--mode", help="A forward pass and a training step, or a whole sampling run."),
    ] = "train",
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    elementwise: Annotated[
        bool, typer.Option("--elementwise", help="Softmax and elementwise work too, apart from the totals.")
    ] = False,
    sweep: SweepOption = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw where FLOPs and parameters go: .png, .svg, .pdf."),
    ] = None,
    match: MatchOption = None,
    vary: VaryOption = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="N", help="Samples to train on, as 1e9: steps, FLOPs, hours.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="FLOPS", help="Model FLOPs to train with, as 5e22.")
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            metavar="NAME",
            help="Hours on this card, as h100, at the peak of --dtype, or as h100:tf32.",
            autocompletion=card_names,
        ),
    ] = None,
    card_flops: Annotated[
        str | None, typer.Option("--card-flops", metavar="N", help="Dense FLOP/s of a card of your own, as 989e12.")
    ] = None,
    cards: Annotated[
        int | None, typer.Option("--cards", min=1, max=10_000_000, metavar="N", help="Number of cards. Default: 1.")
    ] = None,
    utilization: Annotated[
        str | None,
        typer.Option(
            "--utilization", metavar="SHARE", help=f"Share of the peak that model FLOPs reach. Default: {UTILIZATION}."
        ),
    ] = None,
) -> None:
    """Count FLOPs and parameters by component and modality, with no memory and for any size.

    The model runs on the meta device, so that --device changes nothing but the report. --images or --budget turns the
    count into training steps, and --card into hours.

    Example: mmdit flops -c configs/sd3-medium.yaml --images 1e9 --card h100 --cards 256 --dtype bf16
    """
    torch_dtype, _ = request.torch_dtype, request.torch_device
    request = with_sampling(request, mode, steps, guidance)
    wanted = read_budget(images, budget, card, card_flops, cards, utilization, request.dtype)

    if mode == "sample" and (wanted is not None or elementwise or plot is not None):
        raise UserError("--mode sample: leave out --elementwise, --images, --budget and --plot; they are of one call")

    from mmdit_cli.flops.sampling_tables import sampling_flops_tables
    from mmdit_cli.flops.tables import flops_tables
    from mmdit_cli.model_parts.flop_count import count_flops
    from mmdit_cli.model_parts.matching import matched_grid
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.model_parts.sampling_flops import count_sampling
    from mmdit_cli.request.size_limits import possible
    from mmdit_cli.request.sweep import PointConfig, over_grid
    from mmdit_cli.request.targets import PICTURES, check_apart, check_target

    def counted(at: PointConfig) -> Any:
        with possible(at.config):
            if mode == "sample":
                return count_sampling(at.config, dtype=torch_dtype, point=at.point)
            return count_flops(at.config, dtype=torch_dtype, elementwise=elementwise, budget=wanted, point=at.point)

    if plot is not None:
        check_target(plot, "--plot", suffixes=PICTURES)
    check_apart({"config": request.configs}, plot=plot, report=request.report)
    with without_compiler():
        done = over_grid(request, matched_grid(request, sweep, match, vary), counted)
    results, configs = [result for _, result in done], [point.config for point, _ in done]
    if mode == "sample":
        return request.show(results, lambda width: sampling_flops_tables(results, width), configs=configs)

    def draw() -> Figure:
        from mmdit_cli.flops.plots import flops_plot

        return flops_plot(results)

    request.show(
        results,
        lambda width: flops_tables(results, width),
        picture=None if plot is None else (plot, draw),
        configs=configs,
    )


def read_budget(
    images: str | None,
    budget: str | None,
    card: str | None,
    card_flops: str | None,
    cards: int | None,
    utilization: str | None,
    dtype: str,
) -> Budget | None:
    """The budget that the options describe; None where they describe none.

    Raises:
        UserError: an option is no number or contradicts another.
    """
    from mmdit_cli.request.budget import Budget, Hardware
    from mmdit_cli.request.cards import Card, find_card
    from mmdit_cli.request.numbers import read_number, read_share

    on_cards = {"--card": card, "--card-flops": card_flops, "--cards": cards, "--utilization": utilization}
    given = [option for option, value in on_cards.items() if value is not None]
    if images is not None and budget is not None:
        raise UserError("--images and --budget: give one of them, the other follows from it")
    if images is None and budget is None:
        if given:
            raise UserError(
                f"{given[0]} says where a budget is spent; give the budget as --images 1e9 or --budget 5e22"
            )
        return None
    if card is not None and card_flops is not None:
        raise UserError("--card and --card-flops: give one of them")
    if card is None and card_flops is None and given:
        raise UserError(f"{given[0]}: of which card? Give --card h100 or --card-flops 989e12")
    hardware = None
    if given:
        share = read_share(UTILIZATION if utilization is None else utilization, "--utilization")
        if card_flops is None:
            named = find_card(card or "", dtype)
        else:
            named = Card("own card", dtype, read_number(card_flops, "--card-flops"))
        hardware = Hardware(named, cards or 1, share)
    if images is not None:
        return Budget(samples=int(read_number(images, "--images", whole=True)), hardware=hardware)
    return Budget(flops=read_number(budget or "", "--budget"), hardware=hardware)
