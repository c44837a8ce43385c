"""What a profile says of one config."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmdit_cli.memory.measured import MemoryUse
from mmdit_cli.model_parts.compiling import CompileGain, compile_gain
from mmdit_cli.model_parts.flop_count import CONVENTION
from mmdit_cli.model_parts.timed_call import Mode
from mmdit_cli.profile.breakdown import ComponentProfile, component_rows, shares_within
from mmdit_cli.profile.ceilings import Ceilings
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.roofline import Bound, bound
from mmdit_cli.profile.statistics import Latency, Ratio, compare, summarize
from mmdit_cli.profile.subject import Subject


@dataclass(frozen=True)
class ProfileResult:
    """One config's profile, or one sweep point's: `point` holds the swept values.

    `tokens` are those of a sample as they come in, and `valid_tokens` those of them that are no padding; `tokens_per_s`
    and `valid_tokens_per_s` likewise. `packed`: the padding is left out of the work (`varlen`), so that `flops` are of
    valid tokens.
    `latency_ms` is that of the model as it is; `caches` says whether runs found the caches as the run before had left
    them. The components' shares come from runs of their own among the others, with hooks, or on CUDA from kernel times;
    `instrumented` is the latency of those runs over that of the others in the same rounds, and where the hooks took
    next to nothing, they are among the runs of `latency_ms` (`hooked_runs` of them). `phases_ms`: forward, and in
    training backward and optimizer. `bound`: of the whole, with weights, inputs and outputs through memory once (see
    `count_work`). `ratio`: to the first config, where several were measured.
    """

    config: str
    point: dict[str, Any]
    mode: Mode
    compiled: bool
    compile_seconds: float | None
    compile_gain: CompileGain | None
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
    hooked_runs: int
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


def make_result(subject: Subject, settings: Settings, ceilings: Ceilings, reference: Subject) -> ProfileResult:
    """The result of what is known so far: a call's time while there are no rounds yet is that of the fastest of the
    calls before them, of 0 runs. `reference`: what the ratio is to, itself where there is none."""
    work, memory, hooked = subject.work, subject.memory, subject.hooked
    assert memory is not None and hooked is not None
    latency = replace(summarize(subject.known_runs), runs=len(subject.runs))
    seconds, flops, shares = latency.median / 1e3, work.total_flops, subject.shares
    phases: dict[str, float] = defaultdict(float)
    for (phase, _), share in shares.items():
        phases[phase] += share * latency.median
    valid = subject.config.valid_tokens()
    return ProfileResult(
        config=subject.config.name,
        point=subject.point,
        mode=settings.mode,
        compiled=settings.compile,
        compile_seconds=subject.warm_up[0] - seconds if settings.compile else None,
        compile_gain=compile_gain(subject.warm_up[0], subject.runs, subject.eager) if subject.eager else None,
        caches="cold" if settings.cold else "warm",
        batch_size=work.batch_size,
        tokens=work.tokens,
        valid_tokens=valid,
        packed=subject.config.model.varlen,
        parameters=work.parameters,
        flops=flops,
        latency_ms=latency,
        phases_ms=dict(phases),
        instrumented=_ratio(hooked.seconds, subject.times, to="uninstrumented"),
        hooked_runs=len(subject.hooked_runs),
        attributed_by=None if not shares else "kernels" if subject.kernels else "hooks",
        samples_per_s=work.batch_size / seconds,
        tokens_per_s=work.batch_size * sum(work.tokens.values()) / seconds,
        valid_tokens_per_s=work.batch_size * sum(valid.values()) / seconds,
        achieved_flops_per_s=flops / seconds,
        ceiling=ceilings,
        utilization=flops / seconds / ceilings.gemm_flops_per_s,
        bound=bound(flops, work.whole, ceilings, model_bytes=work.weight_bytes, seconds=seconds),
        memory_bytes=memory,
        ratio=None if reference is subject else _ratio(subject.times, reference.times, to=reference.config.name),
        components=component_rows(
            shares,
            seconds,
            hooked.components,
            hooked.parameters,
            hooked.calls,
            work,
            ceilings,
            shares_within(hooked.runs),
        )
        if shares
        else [],
        convention=CONVENTION,
    )


def _ratio(seconds: list[float], reference: list[float], *, to: str) -> Ratio | None:
    """Over the rounds that both were measured in; None where there is none."""
    rounds = min(len(seconds), len(reference))
    return compare(seconds[:rounds], reference[:rounds], to=to) if rounds else None
