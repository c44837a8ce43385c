"""`mmdit shape-check`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.request.flags import common_options
from mmdit_cli.request.request import Request
from mmdit_cli.request.weights_layout import LAYOUTS, LayoutName

NAME = "shape-check"


@common_options(NAME, config=None)
def command(
    request: Request,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="A YAML file, a shipped config's name, a run, weights, or - (stdin). Without it: what --weights are.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="PATH",
            help="Check the names and shapes in a safetensors file (or shards) too. Or org/repo[/FILE] of the Hub.",
        ),
    ] = None,
    from_: Annotated[
        LayoutName | None,
        typer.Option(
            "--from", metavar="LAYOUT", help=f"Whose names the file has: {LAYOUTS}. Default: they are recognized."
        ),
    ] = None,
    all_layers: Annotated[bool, typer.Option("--all", help="Show every layer, not blocks alone.")] = False,
) -> None:
    """Check that every modality comes out as it went in, and show each layer's shapes. Or say what --weights are.

    The model runs on the meta device, and of --weights the header alone is read. Exits 1 where a shape is wrong, or
    where the weights are those of no config.

    Example: mmdit shape-check --weights flux1-dev.safetensors
    """
    if config is None:
        _identify(request, weights, from_)
        return
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.request.hub_weights import headers_of
    from mmdit_cli.request.targets import check_apart
    from mmdit_cli.shape_check.shapes import check_shapes
    from mmdit_cli.shape_check.tables import shape_tables
    from mmdit_cli.shape_check.weights import check_weights, with_weights

    check_apart({"config": request.configs, "weights": weights}, report=request.report)
    (loaded,), _, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    with without_compiler():
        result = check_shapes(loaded, dtype=torch_dtype)
    if weights is not None:
        with headers_of("--weights", weights) as held:
            result = with_weights(result, held.told(check_weights(loaded.model, held.path, from_)))
    request.show([result], lambda _: shape_tables(result, every_layer=all_layers), configs=[loaded])
    if not result.ok:
        raise CheckFailed(": ".join(result.problems[:2]) if weights is not None else result.problems[0])


def _identify(request: Request, weights: str | None, layout: str | None) -> None:
    if weights is None:
        raise UserError("shape-check: of what? Name a model by --config, or a file by --weights, or both to compare")
    if request.overrides:
        raise UserError(f"--set {request.overrides[0]}: changes a config; name it by --config")
    if layout is not None:
        raise UserError(f"--from {layout}: is for weights beside a --config; alone, they are recognized")
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.request.hub_weights import headers_of
    from mmdit_cli.request.targets import check_apart
    from mmdit_cli.shape_check.identity import identify
    from mmdit_cli.shape_check.identity_tables import identity_tables

    check_apart({"weights": weights}, report=request.report)
    with headers_of("--weights", weights) as held, without_compiler():
        result = held.told(identify(held.path))
        result = replace(result, next=tuple(held.possible(each) for each in result.next))
    request.show([result], lambda _: identity_tables(result), headed=False)
    if not result.ok:
        raise CheckFailed(f"{result.file}: {result.problems[0]}")
