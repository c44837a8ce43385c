"""What training on some numbers of cards would need, for each way to cut the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from mmdit.parallel import MeshLayout
from mmdit_cli.memory.rank_estimate import RankMemory, RankStep, with_copies
from mmdit_cli.model_parts.flop_count import count_flops, recomputed_flops
from mmdit_cli.output.units import bytes_
from mmdit_cli.plan.cuts import Cuts, Cutter, cut_all
from mmdit_cli.plan.links import SentBytes, seconds, sent_bytes
from mmdit_cli.plan.machine import Machine
from mmdit_cli.plan.ways import layouts
from mmdit_cli.request.spreading import Spreading
from mmdit_cli.request.tool_config import ToolConfig

STEPPED = 7 * 4  # bytes that fused AdamW moves a parameter: reads it, its gradient and two moments, writes three
AS_CHEAP = 1.005  # what costs so little more is as cheap


@dataclass(frozen=True)
class StepSeconds:
    """`compute`: forward and backward. `overlapped`: what FSDP sends runs beside it, the rest waits; `sequential`:
    nothing runs beside anything. `optimizer`: its state through memory once, 0 where the memory's speed is unknown."""

    compute: float
    communication: float
    optimizer: float
    overlapped: float
    sequential: float


@dataclass(frozen=True)
class Plan:
    """One way to train. `parallel` is what `--parallel` takes; `layout` is None where there is none, and the figures
    are None where the network can't be cut so: `why` says it, or why it does not fit.

    `batch`: samples of a step, all cards together. `memory_bytes` and `communication_bytes` are of the first process;
    others differ by a token of each modality, and by what the processes do not divide. `utilization`: model FLOPs over
    the cards' peak; `efficiency`: samples/s over those of as many cards that compute the passes of a step and
    nothing else: they send and recompute nothing, and have no optimizer.
    `hours`, `card_hours` and `cost` are of all images.
    """

    gpus: int
    parallel: str
    layout: MeshLayout | None
    batch: int | None
    checkpoint_activations: bool
    memory_bytes: RankMemory | None
    fits: bool
    why: str | None
    communication_bytes: SentBytes | None
    step_s: StepSeconds | None
    samples_per_s: float | None
    utilization: float | None
    efficiency: float | None
    hours: float | None = None
    card_hours: float | None = None
    cost: float | None = None
    cheapest: bool = False


@dataclass(frozen=True)
class PlanResult:
    """A config's plans. `compute_share`: of the cards' peak, that computing reaches; `measured_by`: the report that it
    was measured in, None where it was stated. `images`, `price` (of a card hour): what was asked."""

    config: str
    parameters: int
    tokens: dict[str, int]
    step_flops_per_sample: float
    batch_per_gpu: int
    machine: Machine
    compute_share: float
    measured_by: str | None
    images: int | None
    price: float | None
    plans: list[Plan]


@dataclass(frozen=True)
class Wanted:
    """What is planned for: numbers of cards, ways to cut, samples for each process (None: the config's; those along
    `context` and `tensor` share theirs), and as in `PlanResult`."""

    gpus: Sequence[int]
    ways: Sequence[Spreading]
    machine: Machine
    dtype: torch.dtype
    compute_share: float
    measured_by: str | None = None
    batch_per_gpu: int | None = None
    images: int | None = None
    price: float | None = None


def make_plans(
    config: ToolConfig, wanted: Wanted, on_progress: Callable[[str], None] = lambda text: None, *, processes: int = 1
) -> PlanResult:
    """Every number of cards by every way. Where what the activations take does not fit, blocks are recomputed.

    Args:
        processes: that cut the network side by side.

    Raises:
        UserError: no way is for so few cards, a bandwidth is not known, or the model's sizes are beyond any machine.
        CheckFailed: a process died.
    """
    wanted.machine.check(wanted.gpus[-1])
    ways = [
        (gpus, text, layout)
        for gpus in wanted.gpus
        for text, layout in layouts(wanted.ways, gpus, wanted.machine.gpus_per_node).items()
    ]
    planner = _Planner(config, wanted, on_progress)
    planner.cut([layout for _, _, layout in ways if not isinstance(layout, str)], processes)
    plans = [planner.plan(*way) for way in ways]
    return PlanResult(
        config=config.name,
        parameters=planner.parameters,
        tokens=config.all_tokens(),
        step_flops_per_sample=planner.model_flops,
        batch_per_gpu=planner.batch,
        machine=wanted.machine,
        compute_share=wanted.compute_share,
        measured_by=wanted.measured_by,
        images=wanted.images,
        price=wanted.price,
        plans=_marked(plans),
    )


class _Planner:
    """Prices what was cut; the network's FLOPs are counted once."""

    def __init__(self, config: ToolConfig, wanted: Wanted, on_progress: Callable[[str], None]) -> None:
        self.config, self.wanted, self.on_progress = config, wanted, on_progress
        on_progress(f"{config.name}: counting FLOPs")
        plain = count_flops(
            replace(config, model=replace(config.model, checkpoint_activations=False)), dtype=wanted.dtype
        )
        recomputed = recomputed_flops(config, wanted.dtype, plain.backward_flops)
        self.parameters, self.batch = plain.parameters, wanted.batch_per_gpu or config.run.batch_size
        self.model_flops = plain.step_flops / plain.batch_size
        self.flops = {False: self.model_flops, True: self.model_flops + recomputed / plain.batch_size}
        self.cuts: dict[MeshLayout, Cuts] = {}

    def cut(self, layouts: Sequence[MeshLayout], processes: int) -> None:
        """Cut the network for each layout that differs by more than its number of copies."""
        wanted, few = self.wanted, list(dict.fromkeys(map(_one_copy, layouts)))
        make = partial(Cutter, self.config, wanted.dtype, self.batch, wanted.machine.memory)
        named = f"{self.config.name}: cutting it in {len(few)} ways"
        self.cuts = cut_all(make, few, processes, lambda done: self.on_progress(f"{named}, {done} done"))

    def plan(self, gpus: int, text: str, layout: MeshLayout | str) -> Plan:
        if isinstance(layout, str):
            return _impossible(gpus, text, None, layout)
        few = _one_copy(layout)
        checkpoint, step = list(self.cuts[few].items())[-1]
        if isinstance(step, str):
            return _impossible(gpus, text, layout, step)
        return self._priced(gpus, text, layout, checkpoint, step if few == layout else with_copies(step, layout))

    def _priced(self, gpus: int, text: str, layout: MeshLayout, checkpoint: bool, step: RankStep) -> Plan:
        wanted, machine = self.wanted, self.wanted.machine
        batch = self.batch * layout.replicate * layout.shard
        took = self._seconds(layout, checkpoint, step)
        rate = batch / took.overlapped
        alone = machine.flops_per_s * wanted.compute_share / self.model_flops
        hours = None if wanted.images is None else -(-wanted.images // batch) * took.overlapped / 3600
        fits = step.memory.peak <= machine.memory
        return Plan(
            gpus=gpus,
            parallel=text,
            layout=layout,
            batch=batch,
            checkpoint_activations=checkpoint,
            memory_bytes=step.memory,
            fits=fits,
            why=None if fits else f"needs {bytes_(step.memory.peak)} of {bytes_(machine.memory)}",
            communication_bytes=sent_bytes(step.sent, machine.gpus_per_node),
            step_s=took,
            samples_per_s=rate,
            utilization=rate * self.model_flops / (gpus * machine.flops_per_s),
            efficiency=rate / (gpus * alone),
            hours=hours,
            card_hours=None if hours is None else hours * gpus,
            cost=None if hours is None or wanted.price is None else hours * gpus * wanted.price,
        )

    def _seconds(self, layout: MeshLayout, checkpoint: bool, step: RankStep) -> StepSeconds:
        machine = self.wanted.machine
        rate = machine.flops_per_s * self.wanted.compute_share
        compute = self.flops[checkpoint] * self.batch / (layout.context * layout.tensor) / rate
        each = {collective: seconds(collective, traffic, machine) for collective, traffic in step.sent.items()}
        beside = sum(took for collective, took in each.items() if collective.by == "fsdp")
        communication = sum(each.values())
        moved = step.memory.weights / 4 * STEPPED
        optimizer = 0.0 if machine.memory_bytes_per_s is None else moved / machine.memory_bytes_per_s
        return StepSeconds(
            compute=compute,
            communication=communication,
            optimizer=optimizer,
            overlapped=max(compute, beside) + (communication - beside) + optimizer,
            sequential=compute + communication + optimizer,
        )


def _one_copy(layout: MeshLayout) -> MeshLayout:
    """Of a layout of several; itself where each process has whole weights, whose gradients all of them sum."""
    return layout if layout.shard * layout.context == 1 else replace(layout, replicate=1)


def _impossible(gpus: int, text: str, layout: MeshLayout | None, why: str) -> Plan:
    return Plan(gpus, text, layout, None, False, None, False, why, None, None, None, None, None)


def _marked(plans: Sequence[Plan]) -> list[Plan]:
    """The cheapest of those that fit, by card seconds a sample; of several, that of the fewest cards, the fastest."""
    fitting = {i: plan.gpus / plan.samples_per_s for i, plan in enumerate(plans) if plan.fits and plan.samples_per_s}
    if not fitting:
        return [*plans]
    as_cheap = [i for i, cost in fitting.items() if cost <= AS_CHEAP * min(fitting.values())]
    best = min(as_cheap, key=lambda i: (plans[i].gpus, fitting[i]))
    return [replace(plan, cheapest=i == best) for i, plan in enumerate(plans)]
