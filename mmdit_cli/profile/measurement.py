"""The measurement of a profile: rounds of calls, their memory and components, and the machine's ceilings in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from mmdit_cli.model_parts.components import find_components
from mmdit_cli.output.units import flops as flop_text
from mmdit_cli.output.units import seconds as seconds_text
from mmdit_cli.profile.ceilings import CeilingMeter
from mmdit_cli.profile.early_end import EarlyEnd, EndedEarly
from mmdit_cli.profile.groups import groups_that_fit
from mmdit_cli.profile.kernels import write_trace
from mmdit_cli.profile.least_work import count_work
from mmdit_cli.profile.profile_result import ProfileResult, make_result
from mmdit_cli.profile.profile_settings import Progress, Settings
from mmdit_cli.profile.statistics import is_known
from mmdit_cli.profile.subject import Subject, build_calls
from mmdit_cli.profile.timing import Rounds, Stopwatch, warm_up
from mmdit_cli.request.targets import writing
from mmdit_cli.request.tool_config import ToolConfig

MOST_GEMMS = 6  # of the models' own products, that ceilings are tried with
SLOW = 60.0  # seconds of a call, of which is told before it is made
TOLERANCE = 0.02  # of a median, to which it is to be known
PAUSES = 0.05  # of the time, that go to looks at the ceilings
CUDA_SECONDS, CUDA_AGAIN = 2.0, 0.5  # of looking at the ceilings before and after: unknown, and known from earlier


def profile_configs(
    configs: Sequence[ToolConfig],
    settings: Settings,
    *,
    points: Sequence[dict[str, Any]] | None = None,
    meter: CeilingMeter | None = None,
    watch: AbstractContextManager[object] | None = None,
    on_progress: Progress = lambda stage, done, total: None,
    on_message: Callable[[str], None] = lambda text: None,
    on_results: Callable[[Callable[[], list[ProfileResult]]], bool] = lambda make: False,
    early: EarlyEnd | None = None,
) -> list[ProfileResult]:
    """Profile each config's model, in rounds of all of them, against the machine's ceilings.

    As many configs share their rounds as fit in memory together; configs with the same model share its weights.

    Args:
        points: for each config, the values of the sweep that led to it.
        meter: measures the ceilings, which it may know already; None: one that knows nothing.
        watch: entered while rounds are measured.
        on_progress: told the stage, what is done and the total (None where it is not known).
        on_message: told of a call that will take long, for no call is cut short.
        on_results: given what makes the results known so far, between two calls, from when a config's first two are
            made; whether it did something that takes a while.
        early: asked between calls whether to end with these.

    Raises:
        UserError: the trace can't be written.
    """
    device, dtype, train = settings.device, settings.dtype, settings.mode == "train"
    subjects = []
    for config, point in zip(configs, points or [{}] * len(configs), strict=True):
        on_progress(f"{config.name}: counting FLOPs and bytes", 0, None)
        subjects.append(Subject(config, point, count_work(config, train=train, device=device, dtype=dtype)))
    meter = meter or CeilingMeter(device, dtype)
    meter.add(list(dict.fromkeys(gemm for s in subjects for gemm in s.work.gemms))[:MOST_GEMMS])
    on_progress("ceilings", 0, None)
    meter.start()
    if device.type == "cuda":  # while nothing else holds its memory
        meter.spend(CUDA_AGAIN if meter.known else CUDA_SECONDS)
    peak = meter.ceilings().gemm_flops_per_s
    for s in subjects:
        if (least := s.work.total_flops / peak) > SLOW:
            work = flop_text(s.work.total_flops)
            on_message(
                f"{s.config.name}: a call takes {work}, here {seconds_text(least)} or more, and several are made"
            )
    weights = [(s.model_key(settings), s.work.weight_bytes) for s in subjects]
    groups = groups_that_fit(weights, device, train=train)
    reference = {index: subjects[group[0]] for group in groups for index in group}
    early = early or EarlyEnd()

    def known() -> list[ProfileResult]:
        ceilings, measured = meter.ceilings(), [(i, s) for i, s in enumerate(subjects) if s.memory is not None]
        return [make_result(s, settings, ceilings, reference[index]) for index, s in measured]

    def see() -> bool:
        if early.pressed():
            raise EndedEarly
        return on_results(known)

    try:
        for group in groups:
            _measure([subjects[index] for index in group], settings, meter, watch or nullcontext(), on_progress, see)
    except EndedEarly:
        early.reason = "key"
    except KeyboardInterrupt:
        if not early.interruptible or all(subject.memory is None for subject in subjects):
            raise
        early.reason = "interrupt"
    if early.reason is None:
        on_progress("ceilings", 0, None)
        if device.type == "cuda":
            meter.spend(CUDA_AGAIN if meter.known else CUDA_SECONDS)
        meter.finish()
    return known()


def _measure(
    subjects: list[Subject],
    settings: Settings,
    meter: CeilingMeter,
    watch: AbstractContextManager[object],
    on_progress: Progress,
    see: Callable[[], bool],
) -> None:
    """Time, attribute and weigh configs that fit in memory together."""
    device, attribution = settings.device, attribution_of(settings)
    calls = list(build_calls(subjects, settings))
    hooked = [s.hooked for s in subjects if s.hooked is not None]
    for subject, call in zip(subjects, calls, strict=True):
        on_progress(f"{subject.config.name}: first calls", 0, None)
        subject.warm_up = [Stopwatch(device)(call)]
        subject.weigh(call, settings, tells_shares=attribution == "hooks")
        see()
    on_progress("ceilings", 0, None)
    meter.survey()
    stopwatch = Stopwatch(device, cold=settings.cold)
    for subject, call in zip(subjects, calls, strict=True):
        name = subject.config.name
        subject.warm_up = warm_up(
            call,
            stopwatch,
            times=subject.warm_up,
            max_seconds=settings.max_seconds / 3,
            on_run=lambda runs, name=name: on_progress(f"{name}: warming up", runs, None),  # type: ignore[misc]
        )
    eager = [call.uncompiled() for call in calls] if settings.compile else []
    for call in eager:
        call()
    beside: list[Callable[[], object]] = [*(hooked if attribution == "hooks" else eager)]
    rounds = Rounds(calls, stopwatch, beside=beside, seed=settings.seed)
    for subject, times in zip(subjects, rounds.times, strict=True):
        subject.times = times
    for subject, times in zip(subjects, rounds.others if eager else (), strict=False):
        subject.eager = times
    names, looks = ", ".join(dict.fromkeys(s.config.name for s in subjects)), Looks(meter)

    def pause(count: int) -> bool:
        on_progress(f"{names}: measuring", count, settings.repeats)
        shown = see()
        return (device.type == "cpu" and looks.due()) or shown

    with watch:
        rounds.run(
            repeats=settings.repeats,
            max_seconds=settings.max_seconds,
            known=lambda: all(is_known(subject.runs, TOLERANCE) for subject in subjects),
            beside_known=lambda: all(
                is_known(subject.eager, TOLERANCE) if eager else subject.hooked is None or subject.hooked.known
                for subject in subjects
            ),
            pause=pause,
        )
    if attribution == "kernels":
        for subject, call in zip(subjects, calls, strict=True):
            on_progress(f"{subject.config.name}: components", 0, None)
            subject.ask_kernels(call, settings, stopwatch)
    if settings.trace is not None:
        with writing("--trace", settings.trace):
            write_trace(calls[-1], find_components(calls[-1].model), device, settings.trace, before=stopwatch.evict)
    for follower in hooked:
        follower.release()


def attribution_of(settings: Settings) -> Literal["hooks", "kernels"] | None:
    """What tells which component takes the time; nothing does in a compiled model."""
    if settings.compile:
        return None
    return "kernels" if settings.device.type == "cuda" else "hooks"


class Looks:
    """Looks at the ceilings when they are due, for a small share of the time."""

    def __init__(self, meter: CeilingMeter) -> None:
        self.meter, self.began, self.spent = meter, time.perf_counter(), 0.0

    def due(self) -> bool:
        """Look, if it is due; whether it was."""
        begin = time.perf_counter()
        if self.spent > PAUSES * (begin - self.began):
            return False
        self.meter.look()
        self.spent += time.perf_counter() - begin
        return True
