"""`mmdit profile --mode sample`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmdit_cli.model_parts.sampling_flops import SamplingFlops
from mmdit_cli.profile.ceiling_cache import known_ceilings
from mmdit_cli.profile.conditions import CoreWatch, judge
from mmdit_cli.profile.live_profile import looked_on
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.sampling_profile import profile_sampling, sampling_work
from mmdit_cli.profile.sampling_times import sampling_tables
from mmdit_cli.request.request import Request
from mmdit_cli.request.sweep import PointConfig, over_grid


def sampling_command(request: Request, grid: Sequence[PointConfig], settings: Settings) -> None:
    """Measure sampling runs at every point, and show them.

    Raises:
        UserError: a network can't be sampled from, or does not fit into memory.
        KeyboardInterrupt: Ctrl-C on a terminal, after what was measured is shown.
    """
    watch, (meter, cache) = CoreWatch(), known_ceilings(settings)
    with looked_on(sampling_tables, json=request.json) as onlooker:

        def counted(at: PointConfig) -> SamplingFlops:
            onlooker.on_progress(f"{at.config.name}: counting FLOPs", 0, None)
            return sampling_work(at.config, settings, at.point)

        done = over_grid(request, grid, counted)
        configs, work = [at.config for at, _ in done], [flops for _, flops in done]
        results = profile_sampling(configs, work, settings, meter=meter, watch=watch, **vars(onlooker))
    conditions = judge(results, watch, on_cpu=settings.device.type == "cpu", by_component=False)
    ended = onlooker.early.notices(results, len(configs))
    conditions = replace(conditions, ended_early=bool(ended), notices=[*ended, *conditions.notices])
    if conditions.quiet and not ended:
        cache.save(meter.rates(), cache.measured if meter.known else None)
    request.show(
        results, lambda width: sampling_tables(results, width, conditions), conditions=conditions, configs=configs
    )
    onlooker.early.say_interrupted()
