"""How long a sampling run takes, by each way to make it, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import torch

from mmdit.config import build
from mmdit_cli.memory.measured import measure_memory
from mmdit_cli.memory.precheck import check_fits
from mmdit_cli.model_parts.components import OTHER, Component, find_components
from mmdit_cli.model_parts.follower import FORWARD
from mmdit_cli.model_parts.sampling_flops import MODULATION_KINDS, SamplingFlops, WayFlops, count_sampling
from mmdit_cli.model_parts.sampling_run import SETUP, Guidance, Modulation, SamplingRun, Way
from mmdit_cli.profile.breakdown import middle_runs
from mmdit_cli.profile.ceilings import CeilingMeter, Ceilings
from mmdit_cli.profile.clock import Parts
from mmdit_cli.profile.early_end import EarlyEnd, EndedEarly
from mmdit_cli.profile.hooked_call import HookedCall
from mmdit_cli.profile.measurement import TOLERANCE, Looks
from mmdit_cli.profile.profile_settings import Progress, Settings
from mmdit_cli.profile.statistics import Latency, Ratio, compare, is_known, summarize
from mmdit_cli.profile.timing import FEWEST_ROUNDS, Rounds, Stopwatch
from mmdit_cli.request.tool_config import ToolConfig

FEWEST_STEPS = 2  # of a run that stands for a longer one
NETWORK = "network"


@dataclass(frozen=True)
class WayProfile:
    """A run by one way: milliseconds of the whole, of what precedes the steps and of a step, and what that makes a
    sample. `shares` of the time: `modulation` (with what it is made of), the rest of the `network`, and the `sampler`
    (guidance and Euler's step); empty on a GPU. `ratio`: to the first way. `peak_bytes`: memory at most."""

    guidance: Guidance
    modulation: Modulation
    calls_per_step: int
    run_ms: Latency
    setup_ms: float
    step_ms: float
    seconds_per_sample: float
    samples_per_hour: float
    ratio: Ratio | None
    shares: dict[str, float]
    flops: int
    utilization: float
    peak_bytes: int


@dataclass(frozen=True)
class SamplingProfile:
    """Sampling runs of one config, or of one sweep point: `latency_ms`, `seconds_per_sample`, `samples_per_hour`,
    `flops` and `utilization` are those of the `fastest` of the `ways`.

    `measured_steps`: of the `steps`, so many were made in each run that was measured; what precedes them was done for
    all, and each further step takes as long as these. `tokens` are those of a sample as they come in.
    """

    config: str
    point: dict[str, Any]
    mode: Literal["sample"]
    steps: int
    measured_steps: int
    guidance: float
    batch_size: int
    tokens: dict[str, int]
    valid_tokens: dict[str, int]
    packed: bool
    parameters: int
    flops: int
    latency_ms: Latency
    seconds_per_sample: float
    samples_per_hour: float
    utilization: float
    ceiling: Ceilings
    fastest: int
    ways: list[WayProfile]
    convention: str


class TimedRun:
    """A run whose setup and steps are timed apart: `last` is a pair of them, and `seconds` has those that were kept."""

    def __init__(self, run: SamplingRun, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.run, self.device, self.clock = run, device, clock
        self.last = (0.0, 0.0)
        self.seconds: list[tuple[float, float]] = []

    def __call__(self) -> None:
        began = {}

        def mark(phase: str) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            began[phase] = self.clock()

        self.run(mark)
        mark("end")
        self.last = began[FORWARD] - began[SETUP], began["end"] - began[FORWARD]


def whole_runs(seconds: Sequence[tuple[float, float]], longer: float) -> list[float]:
    """Seconds of runs of all steps, from those of setup and of the steps that were taken, of which there are `longer`
    as many."""
    return [setup + steps * longer for setup, steps in seconds]


def sampling_work(config: ToolConfig, settings: Settings, point: dict[str, Any] | None = None) -> SamplingFlops:
    """What sampling runs of a config take, by each way.

    Raises:
        UserError: the network can't be sampled from, or does not fit into memory.
    """
    counted = count_sampling(config, dtype=settings.dtype, point=point)
    samples = config.run.batch_size * max(2 if way.guidance == "one batch" else 1 for way in counted.ways)
    largest = replace(config, run=replace(config.run, batch_size=samples))
    check_fits(largest, "forward", settings.dtype, settings.device)
    return counted


def profile_sampling(
    configs: Sequence[ToolConfig],
    work: Sequence[SamplingFlops],
    settings: Settings,
    *,
    meter: CeilingMeter | None = None,
    watch: AbstractContextManager[object] | None = None,
    on_progress: Progress = lambda stage, done, total: None,
    on_results: Callable[[Callable[[], list[SamplingProfile]]], bool] = lambda make: False,
    early: EarlyEnd | None = None,
) -> list[SamplingProfile]:
    """Profile sampling runs of each config: its ways in rounds together, one config after the other.

    Args:
        work: of each config, `sampling_work`.
        meter, watch, on_progress, on_results, early: as `profile_configs`.
    """
    meter, early = meter or CeilingMeter(settings.device, settings.dtype), early or EarlyEnd()
    on_progress("ceilings", 0, None)
    meter.survey()
    measured: list[_Ways] = []

    def known() -> list[SamplingProfile]:
        ceilings = meter.ceilings()
        return [ways.result(ceilings) for ways in measured if ways.known]

    def see() -> bool:
        if not any(ways.known for ways in measured):
            return False
        if early.pressed():
            raise EndedEarly
        return on_results(known)

    try:
        for config, flops in zip(configs, work, strict=True):
            measured.append(_Ways(config, flops, settings, on_progress, see))
            measured[-1].measure(meter, watch or nullcontext())
    except EndedEarly:
        early.reason = "key"
    except KeyboardInterrupt:
        if not early.interruptible or not any(ways.known for ways in measured):
            raise
        early.reason = "interrupt"
    if early.reason is None:
        on_progress("ceilings", 0, None)
        meter.finish()
    return known()


class _Ways:
    """The ways of one config: measured while its model is there, and put into a result then and afterwards."""

    def __init__(
        self,
        config: ToolConfig,
        flops: SamplingFlops,
        settings: Settings,
        on_progress: Progress,
        see: Callable[[], bool],
    ) -> None:
        self.config, self.flops, self.settings, self.on_progress, self.see = config, flops, settings, on_progress, see
        self.taken = config.run.steps
        self.seconds: list[list[tuple[float, float]]] = []  # of setup and of the steps that were taken, by way
        self.parts: list[list[Parts]] = []
        self.kinds: dict[str, str] = {}
        self.peaks: list[int] = []

    @property
    def known(self) -> bool:
        """Whether every way was measured once or more."""
        return bool(self.seconds) and all(self.seconds)

    def measure(self, meter: CeilingMeter, watch: AbstractContextManager[object]) -> None:
        """Measure, and let the model go."""
        config, settings, name = self.config, self.settings, self.config.name
        torch.manual_seed(settings.seed)
        with torch.device(settings.device):
            model: Any = build(config.model, dtype=settings.dtype)
        runs = []
        for way in self.flops.ways:
            self.on_progress(f"{name}: first runs", 0, None)
            chosen = Way(way.guidance, way.modulation)
            given: Any = dict(device=settings.device, dtype=settings.dtype, seed=settings.seed)
            run = TimedRun(SamplingRun(model, config, chosen, taken=1, **given), settings.device)
            self.peaks.append(measure_memory(model, run.run, settings.device).peak)
            run()
            runs.append(run)
            self.see()
        self.taken = self._steps(sum(sum(run.last) for run in runs))
        for run in runs:
            run.run.taken = self.taken
        components = find_components(model)
        self.kinds = {component.name: component.kind for component in components}
        followed = [Component(NETWORK, None, [model]), *components]
        hooked = [HookedCall(run.run, followed, train=False) for run in runs]
        on_cpu, looks = settings.device.type == "cpu", Looks(meter)
        stopwatch = Stopwatch(settings.device)

        def timed(call: Callable[[], object]) -> float:
            seconds = stopwatch(call)
            if isinstance(call, TimedRun):
                call.seconds.append(call.last)
            return seconds

        rounds = Rounds(runs, timed, beside=hooked if on_cpu else [], seed=settings.seed)

        def pause(count: int) -> bool:
            self.on_progress(f"{name}: measuring", count, settings.repeats)
            shown = self.see()
            return (on_cpu and looks.due()) or shown

        self.seconds, self.parts = [run.seconds for run in runs], [call.runs for call in hooked]
        with watch:
            rounds.run(
                repeats=settings.repeats,
                max_seconds=settings.max_seconds,
                known=lambda: all(is_known(self._whole(index), TOLERANCE) for index in range(len(runs))),
                beside_known=lambda: all(call.known or len(call.runs) >= FEWEST_ROUNDS for call in hooked),
                pause=pause,
            )

    def _whole(self, way: int) -> list[float]:
        """Seconds of runs of all steps."""
        return whole_runs(self.seconds[way], self.config.run.steps / self.taken)

    def _steps(self, seconds: float) -> int:
        """How many steps a measured run makes, where one step by each way takes so long: all of them, if as many rounds
        as are wanted at least are made in the time that there is."""
        room = self.settings.max_seconds * len(self.flops.ways) / (2 * FEWEST_ROUNDS)
        return min(self.config.run.steps, max(FEWEST_STEPS, int(room / max(seconds, 1e-9))))

    def result(self, ceilings: Ceilings) -> SamplingProfile:
        """What was measured."""
        ways = [self._way(index, way, ceilings) for index, way in enumerate(self.flops.ways)]
        fastest = min(range(len(ways)), key=lambda index: ways[index].run_ms.median)
        best, flops = ways[fastest], self.flops
        return SamplingProfile(
            config=flops.config,
            point=flops.point,
            mode="sample",
            steps=flops.steps,
            measured_steps=self.taken,
            guidance=flops.guidance,
            batch_size=flops.batch_size,
            tokens=flops.tokens,
            valid_tokens=flops.valid_tokens,
            packed=flops.packed,
            parameters=flops.parameters,
            flops=best.flops,
            latency_ms=best.run_ms,
            seconds_per_sample=best.seconds_per_sample,
            samples_per_hour=best.samples_per_hour,
            utilization=best.utilization,
            ceiling=ceilings,
            fastest=fastest,
            ways=ways,
            convention=flops.convention,
        )

    def _way(self, index: int, way: WayFlops, ceilings: Ceilings) -> WayProfile:
        whole, (setup, steps) = self._whole(index), map(median, zip(*self.seconds[index], strict=True))
        latency = summarize(whole)
        seconds = latency.median / 1e3
        per_sample = seconds / self.flops.batch_size
        first = f"{self.flops.ways[0].guidance}, modulation {self.flops.ways[0].modulation}"
        return WayProfile(
            guidance=way.guidance,
            modulation=way.modulation,
            calls_per_step=way.calls_per_step,
            run_ms=latency,
            setup_ms=setup * 1e3,
            step_ms=steps / self.taken * 1e3,
            seconds_per_sample=per_sample,
            samples_per_hour=3600 / per_sample,
            ratio=self._ratio(whole, to=first) if index else None,
            shares=self._shares(self.parts[index]) if self.parts[index] else {},
            flops=way.flops,
            utilization=way.flops / seconds / ceilings.gemm_flops_per_s,
            peak_bytes=self.peaks[index],
        )

    def _ratio(self, seconds: list[float], *, to: str) -> Ratio:
        """To the first way, over the rounds that both were measured in."""
        first = self._whole(0)
        rounds = min(len(seconds), len(first))
        return compare(seconds[:rounds], first[:rounds], to=to)

    def _shares(self, runs: Sequence[Parts]) -> dict[str, float]:
        """Of a run of all steps, from parts of runs of fewer."""
        longer, spent = self.flops.steps / self.taken, {"modulation": 0.0, NETWORK: 0.0, "sampler": 0.0}
        for parts in middle_runs(runs):
            for (phase, name), count in parts.items():
                kind = "sampler" if name == OTHER else NETWORK
                kind = "modulation" if self.kinds.get(name) in MODULATION_KINDS or phase == SETUP else kind
                spent[kind] += count * (longer if phase == FORWARD else 1)
        total = sum(spent.values()) or 1.0
        return {kind: count / total for kind, count in spent.items()}
