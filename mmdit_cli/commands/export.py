"""`mmdit export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdit_cli import options as o

NAME = "export"


def command(
    config: o.ConfigOption,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The file (or folder of shards) to write.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="PATH",
            help="A safetensors file, a folder of shards or a train-toy run. Default: fresh weights.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Of a run: the weights as they were trained, not their average.")
    ] = False,
    max_shard_size: Annotated[
        str | None,
        typer.Option("--max-shard-size", metavar="SIZE", help="Write a folder of files of at most SIZE, such as 5GB."),
    ] = None,
    format: Annotated[Literal["safetensors"], typer.Option("--format", help="The kind of file.")] = "safetensors",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file or folder of shards.")] = False,
    set_: o.SetOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "fp32",
    seed: o.SeedOption = 0,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """Write a model's weights with its config inside, reload them and compare.

    Example: mmdit export -c configs/two-modality.yaml --out model.safetensors
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    from mmdit_cli.commands._show import show
    from mmdit_cli.console import stage_progress
    from mmdit_cli.export import export_model
    from mmdit_cli.tables import export_tables

    (loaded,), torch_device, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    with stage_progress() as on_progress:
        result = export_model(
            loaded,
            out=out,
            weights=weights,
            raw=raw,
            max_shard_size=max_shard_size,
            seed=seed,
            dtype=torch_dtype,
            device=torch_device,
            force=force,
            on_progress=on_progress,
            on_message=lambda message: print(message, file=sys.stderr),
        )
    show(request, [result], lambda _: export_tables(result))
