"""What is measured of one config, as it comes in, and the calls that are measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmdit.config import build
from mmdit.options import as_data
from mmdit_cli.memory.measured import MemoryUse, measure_memory
from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.timed_call import Call
from mmdit_cli.profile.breakdown import device_parts, mean_parts
from mmdit_cli.profile.clock import Parts
from mmdit_cli.profile.hooked_call import HookedCall
from mmdit_cli.profile.kernels import kernel_parts
from mmdit_cli.profile.least_work import ModelWork
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.statistics import summarize
from mmdit_cli.profile.timing import Stopwatch
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig


@dataclass
class Subject:
    """A config at a point, and what is known of it so far.

    `warm_up`: seconds of the calls before the rounds, and `first_parts` those of one of them. `times`: seconds of the
    calls as they are, by round; `eager` those of the same calls uncompiled, where the others are compiled; `hooked`
    follows others of the same rounds.
    """

    config: ToolConfig
    point: dict[str, Any]
    work: ModelWork
    warm_up: list[float] = field(default_factory=list)
    first_parts: Parts = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    eager: list[float] = field(default_factory=list)
    hooked: HookedCall | None = None
    kernels: Parts = field(default_factory=dict)
    memory: MemoryUse | None = None

    @property
    def hooked_runs(self) -> list[float]:
        """Seconds of the calls with hooks that tell the latency as the others do."""
        return self.hooked.seconds if self.hooked is not None and self.hooked.negligible else []

    @property
    def runs(self) -> list[float]:
        """Seconds of the calls that tell the latency."""
        return self.times + self.hooked_runs

    @property
    def known_runs(self) -> list[float]:
        """The same; before there are any, the fastest of those before the rounds."""
        return self.runs or [min(self.warm_up)]

    @property
    def shares(self) -> Parts:
        """Of a call, by phase and component; empty where they are not known."""
        if self.kernels:
            return device_parts(self.kernels, summarize(self.known_runs).median / 1e3)
        runs = self.hooked.runs if self.hooked is not None else []
        runs = runs or [self.first_parts] * bool(self.first_parts)
        return mean_parts(runs) if runs else {}

    def model_key(self, settings: Settings) -> str:
        """What configs of the same model have in common; a compiled model is each config's own."""
        return f"{id(self)}" if settings.compile else json.dumps(as_data(self.config.model))

    def weigh(self, call: Call, settings: Settings, *, tells_shares: bool) -> None:
        """Measure the memory of a call, which warms up as others do, and where hooks tell them, its components' first
        shares."""

        def followed(begins: Callable[[str], None]) -> None:
            assert self.hooked is not None
            parts, _ = self.hooked.follow(begins)
            self.first_parts = parts if tells_shares else {}

        def timed(begins: Callable[[str], None]) -> None:
            measured = call if settings.compile else followed
            self.warm_up.append(Stopwatch(settings.device)(lambda: measured(begins)))

        self.memory = measure_memory(call.model, timed, settings.device, optimizer=call.optimizer)

    def ask_kernels(self, call: Call, settings: Settings, stopwatch: Stopwatch) -> None:
        """Take the components' times from the device's own kernels."""
        assert self.hooked is not None
        self.kernels = kernel_parts(call, self.hooked.components, settings.device, before=stopwatch.evict)


def build_calls(subjects: Sequence[Subject], settings: Settings) -> Iterator[Call]:
    """Something to time for each; the same model is built once."""
    built: dict[str, Call] = {}
    for subject in subjects:
        config, key = subject.config, subject.model_key(settings)
        if (twin := built.get(key)) is None:
            torch.manual_seed(settings.seed)
            with torch.device(settings.device):
                model = build(config.model, dtype=settings.dtype)
        inputs = example_inputs(config, device=settings.device, dtype=settings.dtype, seed=settings.seed)
        call = Call(
            model if twin is None else twin.model,
            inputs,
            config,
            settings.mode,
            compile=settings.compile,
            optimizer=None if twin is None else twin.optimizer,
        )
        built.setdefault(key, call)
        subject.hooked = HookedCall(call, find_components(call.model), train=settings.mode == "train")
        yield call
