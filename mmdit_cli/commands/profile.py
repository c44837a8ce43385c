"""`mmdit profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdit_cli import options as o

NAME = "profile"


def command(
    config: o.ConfigsOption,
    mode: Annotated[
        Literal["forward", "train"], typer.Option("--mode", help="A forward pass, or a training step with AdamW.")
    ] = "forward",
    compile: Annotated[bool, typer.Option("--compile", help="Run the model through torch.compile.")] = False,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, metavar="N", help="Measured runs. Default: until sure to 2%."),
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
    set_: o.SetOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "fp32",
    seed: o.SeedOption = 0,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """Measure latency, memory and utilization, and which component takes the time.

    Example: mmdit profile -c configs/two-modality.yaml --mode train
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    if estimate or memory is not None:
        from mmdit_cli.estimate_cli import estimate_command

        return estimate_command(request, request.load_configs(), mode=mode, memory=memory)

    from mmdit_cli.baseline import compare, load_baseline, parse_tolerance
    from mmdit_cli.commands._show import show
    from mmdit_cli.console import stage_progress
    from mmdit_cli.document import check_target, make_document
    from mmdit_cli.errors import CheckFailed, UserError
    from mmdit_cli.measure.profile import Settings, profile_configs
    from mmdit_cli.tables import change_tables, profile_tables

    share, earlier = parse_tolerance(tolerance), None if baseline is None else load_baseline(baseline, NAME)
    if trace is not None:
        check_target(trace, "--trace")
        if len(config) > 1:
            raise UserError("--trace: is of one config; give --config once")
    configs, torch_device, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    with stage_progress() as on_progress:
        results = profile_configs(
            configs,
            Settings(
                mode=mode,
                device=torch_device,
                dtype=torch_dtype,
                seed=seed,
                compile=compile,
                cold=cold,
                repeats=repeats,
                max_seconds=max_seconds,
                trace=trace,
            ),
            on_progress=on_progress,
        )
    changes = []
    if earlier is not None:
        changes = compare(make_document(request, results)["results"], earlier, share)
    more = {} if earlier is None else {"baseline": changes}
    show(request, results, lambda width: [*profile_tables(results, width), *change_tables(changes)], **more)
    worse = [f"{c.config}: {c.figure} is {c.ratio:.3g} x the baseline's" for c in changes if c.verdict == "worse"]
    if worse:
        raise CheckFailed("; ".join(worse))
