"""A budget of FLOPs, samples and hours."""

from __future__ import annotations

import math

import pytest

from mmdit_cli.request.budget import Budget, Hardware, plan_training
from mmdit_cli.request.cards import Card


def test_samples_become_steps_rounded_up_and_only_their_own_flops():
    plan = plan_training(Budget(samples=1001), batch_size=100, step_flops=700, executed_step_flops=800)
    assert (plan.samples, plan.steps, plan.flops, plan.executed_flops) == (1001, 11, 7007, 8008)
    assert plan.hours is plan.card is None


def test_flops_become_whole_steps():
    plan = plan_training(Budget(flops=7e3 + 650), batch_size=100, step_flops=700, executed_step_flops=800)
    assert (plan.samples, plan.steps, plan.flops, plan.executed_flops) == (1000, 10, 7000, 8000)


def test_hours_are_flops_over_what_the_cards_reach():
    # 3.6e18 FLOPs on 4 cards of 1e14 FLOP/s at a quarter of it: 1e14 FLOP/s in all, 36,000 s
    hardware = Hardware(Card("own card", "bf16", 1e14), cards=4, utilization=0.25)
    plan = plan_training(
        Budget(samples=36, hardware=hardware), batch_size=2, step_flops=2 * 10**17, executed_step_flops=3 * 10**17
    )
    assert math.isclose(plan.hours, 10) and math.isclose(plan.card_hours, 40)
    assert math.isclose(plan.executed_utilization, 0.375)


def test_a_budget_below_one_step_is_refused_with_what_a_step_takes():
    with pytest.raises(ValueError, match=r"--budget 699: one step over a batch of 100 takes 700"):
        plan_training(Budget(flops=699), batch_size=100, step_flops=700, executed_step_flops=700)
