"""`mmdit profile` in one of several processes, which torchrun has started."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from mmdit_cli.model_parts.processes import Processes, processes
from mmdit_cli.output.console import is_main, stage_progress
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.spread_profile import profile_spread
from mmdit_cli.profile.spread_tables import spread_tables
from mmdit_cli.request.request import Request

DEFAULT = "ddp"


def spread_command(request: Request, settings: Settings, parallel: str | None) -> None:
    """Measure each config's training step, and show what all processes found.

    Raises:
        UserError: the processes can't be arranged so.
        CheckFailed: another process has ended.
    """
    configs = request.load_configs()
    with processes(settings.device, parallel or DEFAULT) as (group, device):
        assert isinstance(group, Processes)
        for config in configs:  # before the first is measured
            group.check(config.model)
        own = replace(settings, device=device)
        with stage_progress() if is_main() else nullcontext(lambda stage, done, total: None) as on_progress:
            found = [profile_spread(config, own, group, on_progress=on_progress) for config in configs]
    results = [result for result in found if result is not None]
    if results:
        request.show(results, lambda width: spread_tables(results, width), configs=configs)
