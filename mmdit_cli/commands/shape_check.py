"""`mmdit shape-check`."""

from __future__ import annotations

from typing import Annotated

import typer

from mmdit_cli import options as o

NAME = "shape-check"


def command(
    config: o.ConfigOption,
    all_layers: Annotated[bool, typer.Option("--all", help="Show every layer, not blocks alone.")] = False,
    set_: o.SetOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "fp32",
    seed: o.SeedOption = 0,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """Check that every modality comes out as it went in, and show each layer's shapes.

    The model runs on the meta device. Exits 1 where a shape is wrong.

    Example: mmdit shape-check -c configs/sd3.5-medium.yaml
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    from mmdit_cli.commands._show import show
    from mmdit_cli.errors import CheckFailed
    from mmdit_cli.measure.shapes import check_shapes
    from mmdit_cli.tables import shape_tables

    (loaded,), _, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    result = check_shapes(loaded, dtype=torch_dtype)
    show(request, [result], lambda _: shape_tables(result, every_layer=all_layers))
    if not result.ok:
        raise CheckFailed("; ".join(result.problems))
