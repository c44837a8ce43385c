"""`mmdit profile`."""

from __future__ import annotations

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
    estimate: Annotated[bool, typer.Option("--estimate", help="Estimate the memory; no model is built.")] = False,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="With --estimate: does it fit in, say, 80GB?")
    ] = None,
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

    from mmdit_cli.commands._show import show
    from mmdit_cli.console import stage_progress
    from mmdit_cli.measure.profile import profile_configs
    from mmdit_cli.tables import profile_tables

    configs, torch_device, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    with stage_progress() as on_progress:
        results = profile_configs(
            configs,
            mode=mode,
            device=torch_device,
            dtype=torch_dtype,
            seed=seed,
            compile=compile,
            repeats=repeats,
            max_seconds=max_seconds,
            on_progress=on_progress,
        )
    show(request, results, lambda width: profile_tables(results, width))
