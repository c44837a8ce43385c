"""`mmdit profile --mode sample`."""

from __future__ import annotations

from collections.abc import Sequence

from mmdit_cli.model_parts.sampling_flops import SamplingFlops
from mmdit_cli.output.console import stage_progress
from mmdit_cli.profile.ceiling_cache import known_ceilings
from mmdit_cli.profile.conditions import CoreWatch, judge
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.sampling_profile import profile_sampling, sampling_work
from mmdit_cli.profile.sampling_times import sampling_tables
from mmdit_cli.request.request import Request
from mmdit_cli.request.sweep import PointConfig, over_grid


def sampling_command(request: Request, grid: Sequence[PointConfig], settings: Settings) -> None:
    """Measure sampling runs at every point, and show them.

    Raises:
        UserError: a network can't be sampled from, or does not fit into memory.
    """
    watch, (meter, cache) = CoreWatch(), known_ceilings(settings)
    with stage_progress() as on_progress:

        def counted(at: PointConfig) -> SamplingFlops:
            on_progress(f"{at.config.name}: counting FLOPs", 0, None)
            return sampling_work(at.config, settings, at.point)

        done = over_grid(request, grid, counted)
        configs, work = [at.config for at, _ in done], [flops for _, flops in done]
        results = profile_sampling(configs, work, settings, meter=meter, watch=watch, on_progress=on_progress)
    conditions = judge(results, watch, on_cpu=settings.device.type == "cpu", by_component=False)
    if conditions.quiet:
        cache.save(meter.rates(), cache.measured if meter.known else None)
    request.show(
        results, lambda width: sampling_tables(results, width, conditions), conditions=conditions, configs=configs
    )
