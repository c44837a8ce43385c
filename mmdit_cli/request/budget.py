"""A training budget, in samples or in FLOPs, turned into steps and into hours on named cards."""

from __future__ import annotations

from dataclasses import dataclass

from mmdit_cli.request.cards import Card


@dataclass(frozen=True)
class Hardware:
    """What the budget is spent on. `utilization` is the share of the cards' peak that model FLOPs reach (MFU)."""

    card: Card
    cards: int
    utilization: float


@dataclass(frozen=True)
class Budget:
    """How much to train: `samples`, or model `flops`; the other is None."""

    samples: int | None = None
    flops: float | None = None
    hardware: Hardware | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """What a budget comes to.

    `flops` are model FLOPs, forward and backward of every sample; `executed_flops` has what fused attention and
    checkpointed activations compute again as well. `hours` are of the clock, `card_hours` of all cards together; at
    these hours the cards execute `executed_utilization` of their peak. They are None where no card was named.
    """

    samples: int
    steps: int
    flops: int
    executed_flops: int
    card: str | None = None
    precision: str | None = None
    cards: int | None = None
    card_flops_per_s: float | None = None
    utilization: float | None = None
    executed_utilization: float | None = None
    hours: float | None = None
    card_hours: float | None = None


def plan_training(budget: Budget, *, batch_size: int, step_flops: int, executed_step_flops: int) -> TrainingPlan:
    """Steps, FLOPs and hours of a budget, for a model whose step over `batch_size` samples (all cards together) does
    `step_flops` model FLOPs.

    A budget in samples rounds the last step up and counts no FLOPs for what it lacks; one in FLOPs takes whole steps.

    Raises:
        ValueError: the FLOPs don't reach for one step.
    """
    if budget.samples is not None:
        samples, steps = budget.samples, -(-budget.samples // batch_size)
    else:
        steps = int((budget.flops or 0) // step_flops)
        samples = steps * batch_size
        if not steps:
            raise ValueError(
                f"--budget {budget.flops:g}: one step over a batch of {batch_size} takes {step_flops:.3g} FLOPs"
            )
    # the FLOPs of a batch are a sample's times its size, so the division leaves nothing
    flops, executed = samples * step_flops // batch_size, samples * executed_step_flops // batch_size
    if budget.hardware is None:
        return TrainingPlan(samples, steps, flops, executed)
    card, cards, utilization = budget.hardware.card, budget.hardware.cards, budget.hardware.utilization
    hours = flops / (card.flops_per_s * cards * utilization) / 3600
    return TrainingPlan(
        samples=samples,
        steps=steps,
        flops=flops,
        executed_flops=executed,
        card=card.name,
        precision=card.precision,
        cards=cards,
        card_flops_per_s=card.flops_per_s,
        utilization=utilization,
        executed_utilization=utilization * executed / flops,
        hours=hours,
        card_hours=hours * cards,
    )
