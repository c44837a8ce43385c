"""`mmdit flops`."""

from __future__ import annotations

from mmdit_cli import options as o

NAME = "flops"


def command(
    config: o.ConfigsOption,
    set_: o.SetOption = None,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "fp32",
    seed: o.SeedOption = 0,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """Count FLOPs and parameters by component, with no memory and for any size.

    The model runs on the meta device, so that --device changes nothing but the report.

    Example: mmdit flops -c configs/sd3-medium.yaml -c configs/sd3.5-large.yaml
    """
    request = o.make_request(NAME, config, set_, device, dtype, seed, json, report)

    from mmdit_cli.commands._show import show
    from mmdit_cli.measure.flops import count_flops
    from mmdit_cli.tables import flops_tables

    configs, _, torch_dtype = request.load_configs(), request.torch_device, request.torch_dtype
    results = [count_flops(config, dtype=torch_dtype) for config in configs]
    show(request, results, lambda width: flops_tables(results, width))
