"""The profile of a model: time, memory, FLOPs and how close they come to what the machine can do."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from mmdit.config import build
from mmdit.options import as_data
from mmdit_cli.memory.measured import MemoryUse, measure_memory
from mmdit_cli.model_parts.components import Component, find_components
from mmdit_cli.model_parts.flop_count import CONVENTION
from mmdit_cli.model_parts.timed_call import Call, Mode
from mmdit_cli.output.units import flops as flop_text
from mmdit_cli.output.units import seconds as seconds_text
from mmdit_cli.profile.breakdown import ComponentProfile, component_rows, device_parts, mean_parts
from mmdit_cli.profile.ceilings import Ceilings, best_of, measure_ceilings
from mmdit_cli.profile.clock import Attribution, Parts
from mmdit_cli.profile.groups import groups_that_fit
from mmdit_cli.profile.kernels import kernel_parts, write_trace
from mmdit_cli.profile.least_work import ModelWork, count_work
from mmdit_cli.profile.roofline import Bound, bound
from mmdit_cli.profile.statistics import Latency, Ratio, compare, summarize
from mmdit_cli.profile.timing import Stopwatch, run_rounds, warm_up
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.targets import writing
from mmdit_cli.request.tool_config import ToolConfig

Progress = Callable[[str, int, int | None], None]
CPU = torch.device("cpu")
MOST_GEMMS = 6  # of the models' own products, that ceilings are tried with
SLOW = 60.0  # seconds of a call, of which is told before it is made


@dataclass(frozen=True)
class ProfileResult:
    """One config's profile, or one sweep point's: `point` holds the swept values.

    `tokens` are those of a sample as they come in, and `valid_tokens` those of them that are no padding; `tokens_per_s`
    and `valid_tokens_per_s` likewise. `packed`: the padding is left out of the work (`varlen`), so that `flops` are of
    valid tokens.
    `latency_ms` is that of the model as it is; `caches` says whether runs found the caches as the run before had left
    them. The components' shares come from runs of their own among the others, with hooks, or on CUDA from kernel times;
    `instrumented` is the latency of those runs over that of the others in the same rounds. `phases_ms`: forward, and in
    training backward and optimizer. `bound`: of the whole, with weights, inputs and outputs through memory once (see
    `count_work`). `ratio`: to the first config, where several were measured.
    """

    config: str
    point: dict[str, Any]
    mode: Mode
    compiled: bool
    compile_seconds: float | None
    caches: Literal["warm", "cold"]
    batch_size: int
    tokens: dict[str, int]
    valid_tokens: dict[str, int]
    packed: bool
    parameters: int
    flops: int
    latency_ms: Latency
    phases_ms: dict[str, float]
    instrumented: Ratio | None
    attributed_by: Literal["hooks", "kernels"] | None
    samples_per_s: float
    tokens_per_s: float
    valid_tokens_per_s: float
    achieved_flops_per_s: float
    ceiling: Ceilings
    utilization: float
    bound: Bound
    memory_bytes: MemoryUse
    ratio: Ratio | None
    components: list[ComponentProfile]
    convention: str


@dataclass
class _Subject:
    """What is measured of one config, as it comes in."""

    config: ToolConfig
    point: dict[str, Any]
    work: ModelWork
    times: list[float] = field(default_factory=list)
    first_seconds: float = 0.0
    instrumented: list[float] = field(default_factory=list)
    shares: Parts = field(default_factory=dict)
    components: list[Component] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    memory: MemoryUse | None = None


@dataclass(frozen=True)
class Settings:
    """How to measure.

    `repeats`: rounds; None: until each median is known to 2 % or `max_seconds` a config are up. `cold`: with the caches
    flushed before each run. `trace`: where a Chrome trace of one call of the last config goes.
    """

    mode: Mode = "forward"
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    seed: int = 0
    compile: bool = False
    cold: bool = False
    repeats: int | None = None
    max_seconds: float = 10.0
    trace: Path | None = None


def profile_configs(
    configs: Sequence[ToolConfig],
    settings: Settings,
    *,
    points: Sequence[dict[str, Any]] | None = None,
    watch: AbstractContextManager[object] | None = None,
    on_progress: Progress = lambda stage, done, total: None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[ProfileResult]:
    """Profile each config's model, in rounds of all of them, against one measurement of the machine's ceilings.

    As many configs share their rounds as fit in memory together; configs with the same model share its weights.

    Args:
        points: for each config, the values of the sweep that led to it.
        watch: entered while rounds are measured.
        on_progress: told the stage, what is done and the total (None where it is not known).
        on_message: told of a call that will take long, for no call is cut short.

    Raises:
        UserError: the trace can't be written.
    """
    device, dtype, train = settings.device, settings.dtype, settings.mode == "train"
    subjects = []
    for config, point in zip(configs, points or [{}] * len(configs), strict=True):
        on_progress(f"{config.name}: counting FLOPs and bytes", 0, None)
        subjects.append(_Subject(config, point, count_work(config, train=train, device=device, dtype=dtype)))
    gemms = list(dict.fromkeys(gemm for s in subjects for gemm in s.work.gemms))[:MOST_GEMMS]
    on_progress("ceilings", 0, None)
    ceilings = measure_ceilings(device, dtype, gemms=gemms)
    for s in subjects:
        if (least := s.work.total_flops / ceilings.gemm_flops_per_s) > SLOW:
            work = flop_text(s.work.total_flops)
            on_message(
                f"{s.config.name}: a call takes {work}, here {seconds_text(least)} or more, and several are made"
            )
    groups = groups_that_fit([(_model_key(s, settings), s.work.weight_bytes) for s in subjects], device, train=train)
    for group in groups:
        _measure([subjects[index] for index in group], settings, watch or nullcontext(), on_progress)
    on_progress("ceilings", 0, None)
    ceilings = best_of(ceilings, measure_ceilings(device, dtype, gemms=gemms))
    reference = {index: subjects[group[0]] for group in groups for index in group}
    return [_result(s, settings, ceilings, reference[index]) for index, s in enumerate(subjects)]


def _measure(
    subjects: list[_Subject], settings: Settings, watch: AbstractContextManager[object], on_progress: Progress
) -> None:
    """Time, attribute and weigh configs that fit in memory together."""
    device = settings.device
    calls = list(_calls(subjects, settings))
    stopwatch = Stopwatch(device, cold=settings.cold)
    for subject, call in zip(subjects, calls, strict=True):
        name = subject.config.name
        times = warm_up(
            call,
            stopwatch,
            max_seconds=settings.max_seconds / 3,
            on_run=lambda runs, name=name: on_progress(f"{name}: warming up", runs, None),  # type: ignore[misc]
        )
        subject.first_seconds = times[0]
        subject.components = find_components(call.model)
    hooked = [] if settings.compile else [_Hooked(call, s) for call, s in zip(calls, subjects, strict=True)]
    names = ", ".join(dict.fromkeys(s.config.name for s in subjects))
    with watch:
        taken, _ = run_rounds(
            calls,
            stopwatch,
            repeats=settings.repeats,
            max_seconds=settings.max_seconds,
            seed=settings.seed,
            beside=hooked if device.type == "cpu" else [],
            on_round=lambda rounds: on_progress(f"{names}: measuring", rounds, settings.repeats),
        )
    for index, subject in enumerate(subjects):
        on_progress(f"{subject.config.name}: components and memory", 0, None)
        subject.times = taken[index]
        if hooked:
            hooked[index].attribute(settings, stopwatch)
    if settings.trace is not None:
        with writing("--trace", settings.trace):
            write_trace(calls[-1], subjects[-1].components, device, settings.trace, before=stopwatch.evict)
    del stopwatch  # and its buffer, which is none of the model's memory
    for subject, call in zip(subjects, calls, strict=True):
        subject.memory = measure_memory(call.model, call, device, optimizer=call.optimizer)


def _calls(subjects: list[_Subject], settings: Settings) -> Iterator[Call]:
    """Something to time for each; the same model is built once."""
    built: dict[str, Call] = {}
    for subject in subjects:
        config, key = subject.config, _model_key(subject, settings)
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
        yield call


class _Hooked:
    """A call with its components followed by hooks; every run leaves the parts of its time."""

    def __init__(self, call: Call, subject: _Subject) -> None:
        self.call, self.subject = call, subject
        self.runs: list[Parts] = []

    def __call__(self) -> None:
        with Attribution(self.subject.components) as attribution:
            self.call(attribution.start)
            self.runs.append(attribution.finish())
        self.subject.calls = dict(attribution.calls)

    def attribute(self, settings: Settings, stopwatch: Stopwatch) -> None:
        """Put the components' shares into the subject: from the hooked runs, or on CUDA from the kernels' times."""
        subject = self.subject
        if settings.device.type == "cuda":
            self()  # for the number of calls
            seconds = kernel_parts(self.call, subject.components, settings.device, before=stopwatch.evict)
            if seconds:  # without a kernel nothing is known, and not that the device was idle
                subject.shares = device_parts(seconds, summarize(subject.times).median / 1e3)
            return
        subject.shares = mean_parts(self.runs)
        subject.instrumented = [sum(parts.values()) / 1e9 for parts in self.runs]


def _model_key(subject: _Subject, settings: Settings) -> str:
    """What configs of the same model have in common; a compiled model is each config's own."""
    return f"{id(subject)}" if settings.compile else json.dumps(as_data(subject.config.model))


def _result(subject: _Subject, settings: Settings, ceilings: Ceilings, reference: _Subject) -> ProfileResult:
    work, latency = subject.work, summarize(subject.times)
    assert subject.memory is not None
    seconds, flops = latency.median / 1e3, work.total_flops
    phases: dict[str, float] = defaultdict(float)
    for (phase, _), share in subject.shares.items():
        phases[phase] += share * latency.median
    valid = subject.config.valid_tokens()
    instrumented = None
    if subject.instrumented:
        plain = subject.times[: len(subject.instrumented)]
        instrumented = compare(subject.instrumented, plain, to="uninstrumented")
    return ProfileResult(
        config=subject.config.name,
        point=subject.point,
        mode=settings.mode,
        compiled=settings.compile,
        compile_seconds=subject.first_seconds - seconds if settings.compile else None,
        caches="cold" if settings.cold else "warm",
        batch_size=work.batch_size,
        tokens=work.tokens,
        valid_tokens=valid,
        packed=subject.config.model.varlen,
        parameters=work.parameters,
        flops=flops,
        latency_ms=latency,
        phases_ms=dict(phases),
        instrumented=instrumented,
        attributed_by=None if not subject.shares else "kernels" if settings.device.type == "cuda" else "hooks",
        samples_per_s=work.batch_size / seconds,
        tokens_per_s=work.batch_size * sum(work.tokens.values()) / seconds,
        valid_tokens_per_s=work.batch_size * sum(valid.values()) / seconds,
        achieved_flops_per_s=flops / seconds,
        ceiling=ceilings,
        utilization=flops / seconds / ceilings.gemm_flops_per_s,
        bound=bound(flops, work.whole, ceilings, model_bytes=work.weight_bytes, seconds=seconds),
        memory_bytes=subject.memory,
        ratio=None if reference is subject else compare(subject.times, reference.times, to=reference.config.name),
        components=component_rows(subject.shares, seconds, subject.components, subject.calls, work, ceilings)
        if subject.shares
        else [],
        convention=CONVENTION,
    )
