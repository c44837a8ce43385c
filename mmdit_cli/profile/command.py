"""`mmdit profile`."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmdit_cli.errors import CheckFailed, UserError
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
from mmdit_cli.request.spreading import check_several

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "profile"
MAX_SECONDS, TOLERANCE = 6.0, "5%"


@common_options(NAME)
def command(
    request: Request,
    mode: Annotated[
        Literal["forward", "train", "sample"],
        typer.Option("--mode", help="A forward pass, a training step with AdamW, or a whole sampling run."),
    ] = "forward",
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    compile: Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")] = False,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, max=1_000_000, metavar="N", help="Measured runs. Default: until sure to 2%."),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option("--max-seconds", min=0.0, metavar="S", help="Longest time to measure one config. Default: 6."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, metavar="N", help="Threads of the processor. Default: torch's.")
    ] = None,
    cold: Annotated[bool, typer.Option("--cold", help="Flush the caches before each run, as for rare calls.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure the machine's ceilings anew, whatever earlier runs found.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Estimate the memory only; no model is built, and no device is needed.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="--estimate, and does it fit in, say, 80GB?")
    ] = None,
    precision: Annotated[
        Literal["pure", "mixed"] | None,
        typer.Option("--precision", help="--estimate: weights in --dtype, or float32 under autocast. Default: mixed."),
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "sgd", "muon"] | None,
        typer.Option("--optimizer", help="--estimate: what trains. Default: adamw."),
    ] = None,
    ema: Annotated[
        bool | None, typer.Option("--ema/--no-ema", help="--estimate: an average of the weights. Default: with it.")
    ] = None,
    trainable: Annotated[
        str | None,
        typer.Option("--trainable", metavar="NAMES", help="--estimate: weights that are trained: '*.to_qkv.*'."),
    ] = None,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            "--lora-rank",
            min=1,
            max=65536,
            metavar="N",
            help="--estimate: training a LoRA, of attention and feedforward or of what --trainable names.",
        ),
    ] = None,
    sweep: SweepOption = None,
    match: MatchOption = None,
    vary: VaryOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw the roofline, or with --sweep time and memory: .png, .svg, .pdf."
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace of one call (JSON).")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="An earlier --report, .json. Exit 1 where a figure is worse."),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="SHARE", help="How much worse than --baseline is the same. Default: 5%."),
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            "--parallel",
            metavar="KINDS",
            help="Under torchrun, with --mode train: ddp, fsdp, hsdp, tp=N, ulysses=N, some by commas. Default: ddp.",
        ),
    ] = None,
) -> None:
    """Measure latency, memory and utilization, and which component takes the time.

    Under torchrun a training step spread over the processes: time, communication and memory of each.

    Example: mmdit profile -c configs/two-modality.yaml --mode train
    """
    if max_seconds is not None and not math.isfinite(max_seconds):
        raise UserError(f"--max-seconds {max_seconds}: expected a number of seconds")
    asked: dict[str, Any] = {
        "--compile": compile or None,
        "--repeats": repeats,
        "--max-seconds": max_seconds,
        "--threads": threads,
        "--cold": cold or None,
        "--fresh": fresh or None,
    }
    asked |= {"--plot": plot, "--trace": trace, "--baseline": baseline, "--tolerance": tolerance}
    given = [option for option, value in asked.items() if value is not None]
    if (estimate or memory is not None) and given:
        raise UserError(f"--estimate measures nothing; leave out {', '.join(given)}")

    of_one = {name: asked[name] for name in ("--compile", "--cold", "--fresh", "--plot", "--trace", "--baseline")}
    of_one |= {"--estimate": estimate, "--memory": memory, "--sweep": sweep, "--match": match, "--vary": vary}
    spread = check_several(mode, parallel, of_one | {"--tolerance": tolerance})

    kept: dict[str, Any] = {"precision": precision, "optimizer": optimizer, "ema": ema, "trainable": trainable}
    kept |= {"lora_rank": lora_rank}
    kept = {option: value for option, value in kept.items() if value is not None}
    if lora_rank is not None:
        mode = "train"
    if kept and not (mode == "train" and (estimate or memory is not None)):
        raise UserError(f"--{next(iter(kept)).replace('_', '-')} is for --estimate with --mode train")

    if mode == "sample":
        refuse = {"--estimate": estimate or None, "--memory": memory}
        refuse |= {option: asked[option] for option in ("--compile", "--cold", "--plot", "--trace", "--baseline")}
        if wrong := [option for option, value in refuse.items() if value is not None]:
            raise UserError(f"--mode sample: {wrong[0]} is for a forward pass or a training step")
    request = with_sampling(request, mode, steps, guidance)
    of_call: Literal["forward", "train"] = "train" if mode == "train" else "forward"

    from mmdit_cli.model_parts.matching import matched_grid

    if estimate or memory is not None:
        from mmdit_cli.memory.training import TRAINED
        from mmdit_cli.model_parts.hidden_matrices import check_muon
        from mmdit_cli.profile.estimate_command import estimate_command

        if optimizer == "muon":
            check_muon("--optimizer muon")
        training = replace(TRAINED, **kept)
        grid = matched_grid(request, sweep, match, vary)
        return estimate_command(request, grid, mode=of_call, memory=memory, training=training)

    from mmdit_cli.memory.precheck import check_fits
    from mmdit_cli.model_parts.compiling import check_compiler
    from mmdit_cli.output.console import message
    from mmdit_cli.profile.baseline import parse_tolerance, worse_figures
    from mmdit_cli.profile.grid_profile import profile_grid
    from mmdit_cli.profile.live_profile import looked_on
    from mmdit_cli.profile.profile_settings import Settings
    from mmdit_cli.profile.tables import change_tables, profile_tables
    from mmdit_cli.request.earlier_document import read_document
    from mmdit_cli.request.sweep import PointConfig, over_grid
    from mmdit_cli.request.targets import PICTURES, check_apart, check_target

    if threads is not None:
        set_threads(threads)
    share = parse_tolerance(TOLERANCE if tolerance is None else tolerance)
    if tolerance is not None and baseline is None:
        raise UserError("--tolerance is for --baseline; give an earlier --report, .json")
    earlier = None if baseline is None else read_document(baseline, "--baseline", NAME)
    if trace is not None:
        check_target(trace, "--trace")
        if len(request.configs) > 1 or sweep:
            raise UserError("--trace: is of one config; give --config once, and no --sweep")
    if plot is not None:
        check_target(plot, "--plot", suffixes=PICTURES)
    check_apart({"config": request.configs, "baseline": baseline}, trace=trace, plot=plot, report=request.report)
    settings = Settings(
        mode=of_call,
        device=request.torch_device,
        dtype=request.torch_dtype,
        seed=request.seed,
        compile=compile,
        cold=cold,
        repeats=repeats,
        max_seconds=MAX_SECONDS if max_seconds is None else max_seconds,
        fresh=fresh,
        trace=trace,
    )

    if spread:
        from mmdit_cli.profile.spread_command import spread_command

        return spread_command(request, settings, parallel)
    if compile:
        check_compiler(settings.device, "--compile")
    grid = matched_grid(request, sweep, match, vary)
    if mode == "sample":
        from mmdit_cli.profile.sampling_command import sampling_command

        return sampling_command(request, grid, settings)

    def fits(point: PointConfig) -> None:
        check_fits(point.config, of_call, settings.dtype, settings.device)

    grid = [point for point, _ in over_grid(request, grid, fits)]
    shared: dict[str, Any] = dict(earlier=earlier, run=request.document([]), tolerance=share, on_message=message)
    with looked_on(profile_tables, json=request.json) as onlooker:
        profile = profile_grid(grid, settings, **vars(onlooker), **shared)
    results, changes, growth, conditions = profile.results, profile.changes, profile.growth, profile.conditions
    more: dict[str, Any] = {"conditions": conditions} | ({} if earlier is None else {"baseline": changes})
    if sweep:
        more["growth"] = growth
    more["configs"] = [point.config for point in grid]

    def draw() -> Figure:
        from mmdit_cli.profile.plots import profile_plot

        return profile_plot(results)

    request.show(
        results,
        lambda width: [*profile_tables(results, width, growth, conditions), *change_tables(changes)],
        picture=None if plot is None else (plot, draw),
        **more,
    )
    onlooker.early.say_interrupted()
    if worse := worse_figures(changes):
        raise CheckFailed(worse)


def set_threads(count: int) -> None:
    """Let torch compute with so many.

    Raises:
        UserError: the machine has fewer cores, so that threads would wait for each other.
    """
    import torch

    if count > (cores := os.cpu_count() or count):
        raise UserError(f"--threads {count}: this machine has {cores} cores")
    torch.set_num_threads(count)
