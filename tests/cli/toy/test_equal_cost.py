"""Designs with as many steps as cost the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.request.train_config import AlignmentConfig, OptimizerConfig
from mmdit_cli.toy import equal_cost
from mmdit_cli.toy.equal_cost import StepFlops, at_equal_cost, step_seconds
from mmdit_cli.toy.kept_plan import KeptPlan
from mmdit_cli.toy.seed_plan import SeedPlan
from tests.support.fake_runs import named
from tests.support.toy import CPU


def test_steps_are_those_that_cost_what_the_first_does() -> None:
    small, large, step_flops = named("a", steps=100), named("b", depth=2, steps=7), StepFlops()
    grids = [[PointConfig(config, {})] for config in (small, large)]
    ((first,), (second,)) = at_equal_cost(grids, small, step_flops)
    assert first.config == small
    wanted = 100 * step_flops(small) / step_flops(large)
    assert second.config.train.steps == round(wanted) and 40 < wanted < 70
    ((tiny,),) = at_equal_cost([grids[1]], small, lambda config: 1.0 if config is small else 1e9)
    assert tiny.config.train.steps == 1


def test_a_step_is_timed_on_so_many_threads_and_kept_for_a_comparison_that_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 1.0, 0.0, 3.0, 0.0, 2.0])
    monkeypatch.setattr(equal_cost, "TIMED", 3)
    monkeypatch.setattr(equal_cost.time, "perf_counter", lambda: next(times))
    before = torch.get_num_threads()
    measured: list[float] = []

    def measure(config: object) -> float:
        measured.append(step_seconds(named("a"), CPU, torch.float32, 1))
        return measured[-1]

    plan = KeptPlan(tmp_path)
    plan.keep_seeds(SeedPlan(0, 3))
    assert plan.kept_seconds(named("a"), measure) == 2.0 == KeptPlan(tmp_path).kept_seconds(named("a"), measure)
    assert plan.kept_seconds(named("b", learning_rate=0.5), measure) == 2.0  # a step costs no less at another rate
    assert measured == [2.0] and torch.get_num_threads() == before
    (tmp_path / "plan.json").write_text('{"step_seconds": null}')
    assert KeptPlan(tmp_path).kept_seconds(named("a"), lambda config: 5.0) == 5.0


@pytest.mark.parametrize(
    "other",
    [
        {"optimizer": OptimizerConfig(kind="muon")},
        {"compile": True},
        {"alignment": AlignmentConfig(early=0, late=1)},
        {"parametrization": "mup"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_steps_of_another_kind_are_timed_apart(other: Any, tmp_path: Path) -> None:
    plan, times = KeptPlan(tmp_path), iter([1.0, 2.0])
    config = named("a", depth=2)
    assert plan.kept_seconds(config, lambda config: next(times)) == 1.0
    config = replace(config, train=replace(config.train, **other))
    assert plan.kept_seconds(config, lambda config: next(times)) == 2.0
