"""`mmdit export`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.request.flags import OneConfig, common_options
from mmdit_cli.request.request import Request
from mmdit_cli.request.weights_layout import LAYOUTS, LayoutName

NAME = "export"
FP8: dict[str | None, Literal["fp8", "fp8-scaled"]] = {"fp8": "fp8", "fp8-scaled": "fp8-scaled"}
DIFFUSERS_SHARD = "10GB"  # what its save_pretrained writes at most into a file
PROGRAMS: dict[str, Literal["pt2", "onnx"]] = {".pt2": "pt2", ".onnx": "onnx"}


@common_options(NAME, config=OneConfig)
def command(
    request: Request,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PATH", help="The file (or folder of shards) to write.")],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="PATH",
            help="A safetensors file, a folder of shards, a train-toy run, or org/repo[/FILE] of the Hugging Face Hub. "
            "Default: those of --config where that is one; else fresh weights.",
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Of a run: the weights as they were trained, not their average.")
    ] = False,
    from_: Annotated[
        LayoutName | None,
        typer.Option(
            "--from", metavar="LAYOUT", help=f"Whose names the weights have: {LAYOUTS}. Default: they are recognized."
        ),
    ] = None,
    to: Annotated[
        LayoutName | None,
        typer.Option(
            "--to",
            metavar="LAYOUT",
            help="Whose names to write. Default: mmdit. To diffusers, --out is a folder "
            "that from_pretrained opens, unless it ends in .safetensors.",
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:SCALE]",
            help="Merge a LoRA of kohya's, diffusers' or peft's into the weights. Repeatable.",
        ),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option("--max-shard-size", metavar="SIZE", help="Write a folder of files of at most SIZE, such as 5GB."),
    ] = None,
    format: Annotated[
        Literal["safetensors", "pt2", "onnx"] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="safetensors; or a program: pt2 (torch.export) or onnx. Default: as the name of --out ends.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file or folder of shards.")] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="fp32, bf16 or fp16; or the blocks' matrices in fp8 (e4m3fn), with scales by fp8-scaled. "
            "Default: fp32; where names are converted, as it is.",
        ),
    ] = None,
) -> None:
    """Write a model's weights with its config inside, reload them and compare.

    --to converts a file to the names of another implementation, tensor by tensor. Weights in fp8 or int8 are brought to
    floating point.
    --format pt2 and onnx write programs that need no mmdit, for any batch and any number of tokens, with a mask for
    each modality of run.mask.

    Example: mmdit export -c configs/flux.1-dev.yaml --weights flux1-dev.safetensors --out model.safetensors
    """
    if to == "diffusers" and max_shard_size is None and out.suffix != ".safetensors":
        max_shard_size = DIFFUSERS_SHARD  # a folder
    kind: str = PROGRAMS.get(out.suffix, "safetensors") if format is None else format
    if weights is None and (os.path.isdir(request.configs[0]) or request.configs[0].endswith(".safetensors")):
        weights = request.configs[0]
    fp8 = FP8.get(dtype)
    if kind != "safetensors":
        given = {"--from": from_, "--to": to, "--max-shard-size": max_shard_size, "--dtype": fp8}
        given["--lora"] = lora[0] if lora else None
        for option, value in given.items():
            if value is not None:
                raise UserError(f"{option} {value}: is for --format safetensors; convert first, then export the result")

    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's name for huge pages: writing takes 0.7 of the time

    from mmdit_cli.export.layout_change import convert_weights
    from mmdit_cli.export.lora_option import lora_file
    from mmdit_cli.export.preconditions import Export
    from mmdit_cli.export.program_export import export_program
    from mmdit_cli.export.tables import export_tables
    from mmdit_cli.export.weights_export import export_model
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.output.console import message, stage_progress
    from mmdit_cli.request.hub_weights import from_hub
    from mmdit_cli.request.targets import check_apart, check_target

    check_apart({"config": request.configs}, out=out, report=request.report)
    check_apart({"weights": weights}, report=request.report)  # which --out may replace, with --force
    files = tuple(map(lora_file, lora or ()))
    check_apart({"lora": [str(path) for path, _ in files]}, out=out, report=request.report)
    (loaded,), torch_device = request.load_configs(), request.torch_device
    torch_dtype = None if dtype is None or fp8 else request.dtype_beside(*map(str, FP8))
    folder = max_shard_size is not None or (kind == "onnx" and out.suffix != ".onnx")
    downloaded = None
    if weights is not None:
        before = partial(check_target, out, "--out", force=force, folder=folder)
        downloaded = from_hub("--weights", weights, before=before)
    with stage_progress() as on_progress, without_compiler() if kind == "safetensors" else nullcontext():
        asked = Export(
            out=out,
            weights=downloaded.path if downloaded else None if weights is None else Path(weights),
            origin=downloaded.source if downloaded else None,
            raw=raw,
            seed=request.seed,
            dtype=torch_dtype,
            fp8=fp8,
            lora=files,
            device=torch_device,
            force=force,
            max_shard_size=max_shard_size,
            on_progress=on_progress,
            on_message=message,
        )
        if kind != "safetensors":
            result = export_program(loaded, asked, format=kind)
        elif from_ or to or fp8 or lora:
            result = convert_weights(loaded, asked, source=from_, target=to or "mmdit")
        elif (found := asked.layout(loaded.model)) != "mmdit":
            result = convert_weights(loaded, asked, source=found, target="mmdit")
        else:
            result = export_model(loaded, asked)
    request.show([result], lambda _: export_tables(result))
