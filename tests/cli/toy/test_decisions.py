"""Comparisons whose seeds are added until each is decided."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.flop_count import FlopsResult, count_flops
from mmdit_cli.toy import designs
from mmdit_cli.toy.comparison import Comparison, compare_designs
from mmdit_cli.toy.comparison_tables import compare_tables
from mmdit_cli.toy.kept_plan import KeptPlan
from mmdit_cli.toy.runs import InTurns
from mmdit_cli.toy.seed_plan import SeedPlan
from tests.support.fake_runs import fake_train, named
from tests.support.tables import printed


@pytest.fixture(autouse=True)
def _counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(designs, "count_flops", lambda config: counted())


@cache
def counted() -> FlopsResult:
    return count_flops(named("a"))


PLAN = SeedPlan(0, 6, auto=True)
NOISE = (0.0, 0.01, -0.01, 0.02, -0.02, 0.01)  # of each seed
SHIFT = {"a": 0.0, "better": -0.5, "alike": 0.0}


def losses() -> dict[tuple[str, int], float]:
    return {
        (name, seed): 1 + shift + noise * (name != "a")
        for name, shift in SHIFT.items()
        for seed, noise in enumerate(NOISE)
    }


def compared(folder: Path, ran: list[tuple[str, int]]) -> Comparison:
    runner = InTurns(fake_train(losses(), ran))
    return compare_designs([named(name) for name in SHIFT], PLAN, folder=folder, runner=runner)[1]


def test_a_clear_design_is_decided_after_three_seeds_and_an_equal_one_after_none(tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []
    found = compared(tmp_path, ran)
    assert [sum(name == each for name, _ in ran) for each in SHIFT] == [6, 3, 6]
    better, alike = found.decisions
    assert (better.config, better.to, better.figure, better.decided, better.n) == ("better", "a", "loss", True, 3)
    assert better.verdict == "better" and better.low < better.mean < better.high < 0
    assert (alike.decided, alike.n, alike.verdict) == (False, 6, "can't be told apart")
    assert [(design.runs, len(design.seeds)) for design in found.designs] == [(6, 6), (3, 3), (6, 6)]
    assert found.seeds == [0, 1, 2, 3, 4, 5] and found.plan == PLAN
    (loss, *_) = found.designs[1].differences  # the table's interval is that of the decision
    assert (loss.low, loss.high) == (better.low, better.high)
    text = printed(compare_tables(found, 120))
    assert "decided against a?" in text and "after 3 seeds" in text and "not after 6" in text


def test_designs_whose_losses_are_not_the_same_quantity_are_decided_on_accuracy(tmp_path: Path) -> None:
    runner = InTurns(fake_train({(name, seed): 0.5 for name in "ab" for seed in range(3)}, []))
    configs = [named("a"), named("b", shift=3.0)]
    _, found = compare_designs(configs, SeedPlan(0, 3, auto=True), folder=tmp_path, runner=runner)
    (only,) = found.decisions
    assert (only.figure, only.decided, only.n) == ("accuracy, image", False, 3)


def test_a_design_that_never_finishes_is_not_decided(tmp_path: Path) -> None:
    runner = InTurns(fake_train({("a", seed): 0.5 for seed in range(3)}, []))
    _, found = compare_designs([named("a"), named("b")], SeedPlan(0, 3, auto=True), folder=tmp_path, runner=runner)
    (only,) = found.decisions
    assert (only.figure, only.decided, only.n, only.mean) == ("loss", False, 0, None) and len(found.failures) == 3
    text = printed(compare_tables(found, 120))
    assert "no: 3 runs failed" in text and "--seeds 3" not in text


def test_a_design_of_which_a_run_failed_is_past_deciding_and_gets_no_more_seeds(tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []
    found = {each: loss for each, loss in losses().items() if each != ("better", 1)}
    runner = InTurns(fake_train(found, ran))
    _, comparison = compare_designs([named(name) for name in SHIFT], PLAN, folder=tmp_path, runner=runner)
    failed, alike = comparison.decisions
    assert (failed.failed, failed.decided, failed.n) == (1, False, 2) and len(comparison.failures) == 1
    assert (alike.failed, alike.n) == (0, 6) and [seed for name, seed in ran if name == "better"] == [0, 1, 2]


def test_a_design_that_was_decided_stays_so_where_the_first_fails_with_a_later_seed(tmp_path: Path) -> None:
    found = {each: loss for each, loss in losses().items() if each != ("a", 4)}
    runner = InTurns(fake_train(found, []))
    _, comparison = compare_designs([named(name) for name in SHIFT], PLAN, folder=tmp_path, runner=runner)
    better, alike = comparison.decisions
    assert (better.failed, better.decided, better.n) == (0, True, 3)
    assert (alike.failed, alike.decided, alike.n) == (1, False, 4)


def test_a_sweeps_table_has_a_line_for_each_point_on_80_columns(tmp_path: Path) -> None:
    names = ("ladder-1 place=before", "ladder-1 place=around")
    runner = InTurns(fake_train({(name, seed): 0.5 + seed for name in names for seed in range(3)}, []))
    points = [{"model.norm.place": name.rpartition("=")[2]} for name in names]
    _, found = compare_designs(
        [named(name) for name in names], SeedPlan(0, 3), folder=tmp_path, runner=runner, points=points
    )
    lines = printed(compare_tables(found, 80), 80).splitlines()
    assert all(any(name in line and "3 of 3" in line and "100% ± 0.0 pp" in line for line in lines) for name in names)


def test_a_plan_that_shares_out_its_errors_is_kept_to(tmp_path: Path) -> None:
    KeptPlan(tmp_path).keep_seeds(PLAN)
    KeptPlan(tmp_path).keep_seeds(PLAN)
    for other in (SeedPlan(0, 8, auto=True), SeedPlan(0, 6), SeedPlan(1, 6, auto=True)):
        with pytest.raises(UserError, match="was begun with --seeds auto --max-seeds 6, and how often it may be wrong"):
            KeptPlan(tmp_path).keep_seeds(other)
    (tmp_path / "plan.json").write_text("{}")  # as a write that was cut short elsewhere may leave it
    KeptPlan(tmp_path).keep_seeds(SeedPlan(0, 3))
    KeptPlan(tmp_path).keep_seeds(SeedPlan(0, 5))  # of a fixed number more may be added
    assert json.loads((tmp_path / "plan.json").read_text())["seeds"]["most"] == 5
    with pytest.raises(UserError, match="begun with --seeds 5"):
        KeptPlan(tmp_path).keep_seeds(PLAN)


def test_seeds_that_are_added_after_a_look_are_said_to_be(tmp_path: Path) -> None:
    three, five = SeedPlan(0, 3), SeedPlan(0, 5)
    KeptPlan(tmp_path).keep_seeds(three)
    KeptPlan(tmp_path).keep_seeds(five)  # nobody has seen what the three gave
    assert KeptPlan(tmp_path).looks(five) == []
    for asked in (five, three, three):
        KeptPlan(tmp_path).keep_look(asked)
    KeptPlan(tmp_path).keep_seeds(SeedPlan(0, 4))  # and stopped before it was shown
    plan = KeptPlan(tmp_path)
    assert plan.looks(five) == ["--seeds 3"] and plan.looks(SeedPlan(0, 7)) == ["--seeds 5", "--seeds 3"]
    runner = InTurns(fake_train(losses(), []))
    configs = [named("a"), named("alike")]
    _, found = compare_designs(configs, five, folder=tmp_path / "runs", runner=runner, looks=plan.looks(five))
    assert "Shown before with --seeds 3:" in printed(compare_tables(found, 200), 200)
