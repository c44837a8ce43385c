"""`mmdit plan`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.request.completion import card_names
from mmdit_cli.request.flags import common_options
from mmdit_cli.request.request import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "plan"
UTILIZATION = "40%"
MOST_PROCESSES = 4  # each holds half a gigabyte
WAYS = "fsdp,hsdp,tp=2,ulysses=2"


@common_options(NAME)
def command(
    request: Request,
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="NAME", help="The card, as h100.", autocompletion=card_names),
    ] = None,
    gpus: Annotated[str, typer.Option("--gpus", metavar="N1,N2", help="Numbers of cards to plan for.")] = "1,8,64",
    gpus_per_node: Annotated[
        int, typer.Option("--gpus-per-node", min=1, max=1024, metavar="N", help="Cards that one machine has.")
    ] = 8,
    parallel: Annotated[
        str,
        typer.Option(
            "--parallel",
            metavar="WAYS",
            help="Ways to cut: ddp, fsdp, hsdp, each alone and with each tp=N, ulysses=N.",
        ),
    ] = WAYS,
    batch_per_gpu: Annotated[
        int | None,
        typer.Option(
            "--batch-per-gpu", min=1, max=1 << 20, metavar="N", help="Samples of each process. Default: run.batch_size."
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="N", help="Samples to train on, as 1e9: hours, card hours.")
    ] = None,
    price: Annotated[
        str | None, typer.Option("--price", metavar="N", help="Of a card hour, in your currency: what --images cost.")
    ] = None,
    utilization: Annotated[
        str,
        typer.Option(
            "--utilization",
            metavar="SHARE",
            help="Share of the card's peak that computing reaches, or a --report, .json, of profile --mode train.",
        ),
    ] = UTILIZATION,
    card_flops: Annotated[
        str | None, typer.Option("--card-flops", metavar="N", help="Dense FLOP/s of a card of your own, as 989e12.")
    ] = None,
    card_memory: Annotated[
        str | None, typer.Option("--card-memory", metavar="SIZE", help="Memory of a card, as 80GB.")
    ] = None,
    within_node: Annotated[
        str | None,
        typer.Option("--within-node", metavar="N", help="Bytes/s that a card sends to others of its node, as 450e9."),
    ] = None,
    between_nodes: Annotated[
        str | None,
        typer.Option("--between-nodes", metavar="N", help="Bytes/s that a card sends to other nodes, as 50e9."),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="DTYPE", help="What is computed in: bf16, fp16 or fp32.")
    ] = "bf16",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw memory and time over numbers of cards: .png, .svg, .pdf."),
    ] = None,
) -> None:
    """Plan a training on many cards: memory, time, communication and price, for each way to cut the network.

    Nothing runs and no card is needed: the network is really cut, without its weights.

    Example: mmdit plan -c sd3.5-large --card h100 --gpus 8,64,1024 --images 1e9 --price 2.5
    """
    torch_dtype, _ = request.torch_dtype, request.torch_device

    from mmdit_cli.output.console import stage_progress
    from mmdit_cli.plan.compute_share import read_compute_share
    from mmdit_cli.plan.machine import OwnNumbers, read_machine
    from mmdit_cli.plan.plans import PlanResult, Wanted, make_plans
    from mmdit_cli.plan.tables import plan_tables
    from mmdit_cli.plan.ways import read_gpus, read_ways
    from mmdit_cli.request.numbers import read_number
    from mmdit_cli.request.sweep import PointConfig, load_grid, over_grid
    from mmdit_cli.request.targets import PICTURES, check_apart, check_target

    own = OwnNumbers(card_flops, card_memory, within_node, between_nodes)
    machine = read_machine(card, own, gpus_per_node, request.dtype)
    if price is not None and images is None:
        raise UserError("--price: of how many samples? Give --images 1e9")
    share, measured_by = read_compute_share(utilization, machine)
    wanted = Wanted(
        gpus=read_gpus(gpus),
        ways=read_ways(parallel),
        machine=machine,
        dtype=torch_dtype,
        compute_share=share,
        measured_by=measured_by,
        batch_per_gpu=batch_per_gpu,
        images=None if images is None else int(read_number(images, "--images", whole=True)),
        price=None if price is None else read_number(price, "--price"),
    )
    if plot is not None:
        check_target(plot, "--plot", suffixes=PICTURES)
    check_apart({"config": request.configs}, plot=plot, report=request.report)

    with stage_progress() as on_progress:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

        def planned(point: PointConfig) -> PlanResult:
            return make_plans(
                point.config,
                wanted,
                lambda text: on_progress(text, 0, None),
                processes=min(MOST_PROCESSES, cores),
            )

        done = over_grid(request, load_grid(request, None), planned)
    results = [result for _, result in done]

    def draw() -> Figure:
        from mmdit_cli.plan.plots import plan_plot

        return plan_plot(results)

    request.show(
        results,
        lambda width: plan_tables(results, width),
        picture=None if plot is None else (plot, draw),
        configs=[point.config for point, _ in done],
    )
