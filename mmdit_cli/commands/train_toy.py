"""`mmdit train-toy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmdit_cli import options as o

NAME = "train-toy"


def command(
    config: o.ConfigsOption,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Training steps. Default: train.steps."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Where the run goes. Default: runs/NAME-TIME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")] = False,
    set_: o.SetOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "fp32",
    seed: o.SeedOption = 0,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """Train on a small world of captions, pictures and sounds, and score what it learned to draw.

    Rectified flow. bf16 trains under autocast. Ctrl-C saves and says how to go on.

    Example: mmdit train-toy -c configs/toy-two-modality.yaml
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    from mmdit_cli.commands._show import show
    from mmdit_cli.console import training_progress
    from mmdit_cli.errors import UserError
    from mmdit_cli.tables import train_tables
    from mmdit_cli.toy.train import train

    configs, torch_device, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    if run_dir is not None and len(configs) > 1:
        raise UserError("--run-dir is one run's folder; leave it out to train several configs")
    if resume and run_dir is None:
        raise UserError("--resume needs the run's folder; pass --run-dir DIR")
    results = []
    for loaded in configs:
        with training_progress(loaded.name) as on_progress:
            results.append(
                train(
                    loaded,
                    device=torch_device,
                    dtype=torch_dtype,
                    seed=seed,
                    steps=steps,
                    run_dir=run_dir,
                    resume=resume,
                    on_progress=on_progress,
                    command_line=["mmdit", *sys.argv[1:]],
                )
            )
    show(request, results, lambda _: train_tables(results))
