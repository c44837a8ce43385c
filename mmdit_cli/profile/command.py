"""`mmdit profile`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.request.flags import SweepOption, common_options
from mmdit_cli.request.request import Request

NAME = "profile"


@common_options(NAME)
def command(
    request: Request,
    mode: Annotated[
        Literal["forward", "train"], typer.Option("--mode", help="A forward pass, or a training step with AdamW.")
    ] = "forward",
    compile: Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")] = False,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, max=1_000_000, metavar="N", help="Measured runs. Default: until sure to 2%."),
    ] = None,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=0.0, metavar="S", help="Longest time to measure one config.")
    ] = 10.0,
    cold: Annotated[bool, typer.Option("--cold", help="Flush the caches before each run, as for rare calls.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Estimate the memory only; no model is built, and no device is needed.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="With --estimate: does it fit in, say, 80GB?")
    ] = None,
    sweep: SweepOption = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw the roofline, or with --sweep time and memory (PNG)."),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a Chrome trace of one call (JSON).")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="An earlier --report, .json. Exit 1 where a figure is worse."),
    ] = None,
    tolerance: Annotated[
        str, typer.Option("--tolerance", metavar="SHARE", help="How much worse than --baseline is still the same.")
    ] = "5%",
) -> None:
    """Measure latency, memory and utilization, and which component takes the time.

    Example: mmdit profile -c configs/two-modality.yaml --mode train
    """
    from mmdit_cli.request.sweep import load_grid

    if not math.isfinite(max_seconds):
        raise UserError(f"--max-seconds {max_seconds}: expected a number of seconds")

    if estimate or memory is not None:
        from mmdit_cli.profile.estimate_command import estimate_command

        if plot is not None or trace is not None or baseline is not None:
            raise UserError("--estimate measures nothing; leave out --plot, --trace and --baseline")
        return estimate_command(request, load_grid(request, sweep), mode=mode, memory=memory)

    from mmdit_cli.output.console import stage_progress
    from mmdit_cli.profile.baseline import compare_with_baseline, find_earlier, load_baseline, parse_tolerance
    from mmdit_cli.profile.growth import fit_growth
    from mmdit_cli.profile.measurement import Settings, profile_configs
    from mmdit_cli.profile.tables import change_tables, profile_tables
    from mmdit_cli.request.targets import check_apart, check_target

    share, earlier = parse_tolerance(tolerance), None if baseline is None else load_baseline(baseline, NAME)
    if trace is not None:
        check_target(trace, "--trace")
        check_apart(trace=trace, report=request.report, config=request.configs, baseline=baseline)
        if len(request.configs) > 1 or sweep:
            raise UserError("--trace: is of one config; give --config once, and no --sweep")
    if plot is not None:
        check_target(plot, "--plot", suffixes=(".png",))
    grid, torch_device, torch_dtype = load_grid(request, sweep), request.torch_device, request.torch_dtype
    if earlier is not None:
        find_earlier([{"config": each.config.name, "point": each.point, "mode": mode} for each in grid], earlier)
    with stage_progress() as on_progress:
        results = profile_configs(
            [point.config for point in grid],
            Settings(
                mode=mode,
                device=torch_device,
                dtype=torch_dtype,
                seed=request.seed,
                compile=compile,
                cold=cold,
                repeats=repeats,
                max_seconds=max_seconds,
                trace=trace,
            ),
            points=[point.point for point in grid],
            on_progress=on_progress,
        )
    changes = []
    if earlier is not None:
        changes = compare_with_baseline(request.document(results)["results"], earlier, share)
    growth = fit_growth(results) if sweep else []
    more: dict[str, Any] = {} if earlier is None else {"baseline": changes}
    if sweep:
        more["growth"] = growth
    if plot is not None:
        from mmdit_cli.output.figures import save_figure
        from mmdit_cli.profile.plots import profile_plot

        save_figure(profile_plot(results), plot)
    request.show(results, lambda width: [*profile_tables(results, width, growth), *change_tables(changes)], **more)
    worse = [f"{c.config}: {c.figure} is {c.ratio:.3g} x the baseline's" for c in changes if c.verdict == "worse"]
    if worse:
        raise CheckFailed("; ".join(worse))
