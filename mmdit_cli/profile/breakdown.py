"""Where a call's time goes: the parts that instrumented runs or kernels show, put to the uninstrumented time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdit_cli.model_parts.components import OTHER, Component
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD, OPTIMIZER
from mmdit_cli.model_parts.intervals import FEWEST_PAIRS, mean_interval
from mmdit_cli.profile.ceilings import Ceilings
from mmdit_cli.profile.clock import Parts
from mmdit_cli.profile.least_work import ModelWork
from mmdit_cli.profile.roofline import Bound, bound
from mmdit_cli.profile.traffic import Traffic

IDLE = "device idle"


@dataclass(frozen=True)
class ComponentProfile:
    """One component: milliseconds of one call of the model, forward and backward, its share of the whole, calls, FLOPs,
    parameters, and how fast it could be. `share_within`: the share may be off by so much, at 95 %; None where that is
    not known."""

    name: str
    kind: str
    modality: str | None
    calls: int
    time_ms: float
    forward_ms: float
    backward_ms: float
    share: float
    flops: int
    parameters: int
    flops_per_s: float
    bound: Bound | None
    share_within: float | None = None


def middle_runs(runs: Sequence[Parts]) -> list[Parts]:
    """The middle half of the runs, by their totals."""
    ordered = sorted(runs, key=lambda parts: sum(parts.values()))
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut]


def mean_parts(runs: Sequence[Parts]) -> Parts:
    """The parts of the middle half of the runs, as shares that add up to 1 and not a bit more."""
    shares: Parts = defaultdict(float)
    middle = middle_runs(runs)
    total = sum(sum(parts.values()) for parts in middle) * (1 + 1e-12)
    for parts in middle:
        for part, count in parts.items():
            shares[part] += count / total
    return dict(shares)


def shares_within(runs: Sequence[Parts]) -> dict[str, float]:
    """How far each row's share of these runs may be off: half of the 95 % interval of the mean over the middle half.
    Empty for too few runs."""
    shares = []
    for parts in middle_runs(runs):
        total, by_row = sum(parts.values()), Counter[str]()
        for (phase, name), count in parts.items():
            by_row[OPTIMIZER if phase == OPTIMIZER else name] += count  # type: ignore[assignment]
        shares.append({name: count / total for name, count in by_row.items()})
    if len(shares) < FEWEST_PAIRS:
        return {}
    names = {name for each in shares for name in each}
    intervals = {name: mean_interval([each.get(name, 0.0) for each in shares]) for name in names}
    return {name: (high - low) / 2 for name, interval in intervals.items() if interval for low, high in [interval]}


def device_parts(seconds: Parts, latency: float) -> Parts:
    """The shares of kernel times in a latency; what they leave of it the device waited. Where they exceed it, as
    kernels that overlap do, they are shares of their sum."""
    busy = sum(seconds.values())
    parts = {part: t / max(busy, latency) for part, t in seconds.items()}
    return parts | {(FORWARD, IDLE): 1 - busy / latency} if busy < latency else parts


def component_rows(
    shares: Parts,
    seconds: float,
    components: Sequence[Component],
    parameters: Mapping[str, int],
    calls: Mapping[str, int],
    work: ModelWork,
    ceilings: Ceilings,
    within: Mapping[str, float],
) -> list[ComponentProfile]:
    """A row for each component, for what lies outside of them, and for the optimizer; they add up to `seconds`.

    Args:
        within: how far each row's share may be off.
    """
    parameters = {**parameters, OTHER: work.parameters - sum(parameters.values())}

    def row(component: Component, forward: float, backward: float, spent: float, calls: int) -> ComponentProfile:
        name, flops = component.name, work.flops_of(component.name)
        moved = work.traffic.get(name, Traffic())
        limit = bound(flops, moved, ceilings, model_bytes=work.weight_bytes, seconds=spent)
        return ComponentProfile(
            name=name,
            kind=component.kind,
            modality=component.modality,
            calls=calls,
            time_ms=spent * 1e3,
            forward_ms=forward * 1e3,
            backward_ms=backward * 1e3,
            share=spent / seconds,
            flops=flops,
            parameters=parameters.get(name, 0),
            flops_per_s=flops / spent if spent else 0.0,
            bound=limit if limit.ms else None,
            share_within=within.get(name),
        )

    rows = []
    for component in (*components, Component(OTHER, None)):
        forward, backward = (shares.get((phase, component.name), 0.0) * seconds for phase in (FORWARD, BACKWARD))
        rows.append(row(component, forward, backward, forward + backward, calls.get(component.name, 0)))
    for (phase, name), share in shares.items():
        if phase == OPTIMIZER:
            rows.append(row(Component(OPTIMIZER, None), 0.0, 0.0, share * seconds, 1))
        elif name == IDLE:
            rows.append(row(Component(IDLE, None), 0.0, 0.0, share * seconds, 0))
    return rows
