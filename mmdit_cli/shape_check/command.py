"""`mmdit shape-check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmdit_cli.request.flags import OneConfig, common_options
from mmdit_cli.request.request import Request
from mmdit_cli.request.weights_layout import LAYOUTS, LayoutName

NAME = "shape-check"


@common_options(NAME, config=OneConfig)
def command(
    request: Request,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="PATH", help="Check the names and shapes in a safetensors file (or shards) too."
        ),
    ] = None,
    from_: Annotated[
        LayoutName, typer.Option("--from", metavar="LAYOUT", help=f"Whose names the file has: {LAYOUTS}.")
    ] = "mmdit",
    all_layers: Annotated[bool, typer.Option("--all", help="Show every layer, not blocks alone.")] = False,
) -> None:
    """Check that every modality comes out as it went in, and show each layer's shapes.

    The model runs on the meta device, and of --weights the header alone is read. Exits 1 where a shape is wrong.

    Example: mmdit shape-check -c configs/sd3.5-medium.yaml --weights sd3.5_medium.safetensors --from stability
    """
    from mmdit_cli.errors import CheckFailed
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.request.targets import check_apart
    from mmdit_cli.shape_check.shapes import check_shapes
    from mmdit_cli.shape_check.tables import shape_tables
    from mmdit_cli.shape_check.weights import check_weights, with_weights

    check_apart({"config": request.configs, "weights": weights}, report=request.report)
    (loaded,), _, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    with without_compiler():
        result = check_shapes(loaded, dtype=torch_dtype)
    if weights is not None:
        result = with_weights(result, check_weights(loaded.model, weights, from_))
    request.show([result], lambda _: shape_tables(result, every_layer=all_layers), configs=[loaded])
    if not result.ok:
        raise CheckFailed(": ".join(result.problems[:2]) if weights is not None else result.problems[0])
