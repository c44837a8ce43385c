"""Each design's own best value, found on seeds that the comparison does not have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmdit_cli.errors import CheckFailed
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.toy.runs import InTurns, PlannedRun
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.trainer import Diverged
from mmdit_cli.toy.tuning import at_end, tune
from mmdit_cli.toy.tuning_tables import tuning_tables
from tests.support.fake_runs import fake_train, named
from tests.support.tables import printed

RATE = "train.learning_rate"
BEST = {"a": 0.01, "b": 0.1}


def grid(name: str, *values: float, **settings: Any) -> list[PointConfig]:
    return [PointConfig(named(name, learning_rate=value, **settings), {RATE: value}) for value in values]


def trained(planned: PlannedRun, *tell: Any) -> TrainResult:
    """Losses are least at the design's best rate, and spread by seed; above 1 nothing is learned."""
    name, rate = planned.config.name, planned.config.train.learning_rate
    if rate > 1:
        raise Diverged("the loss is nan")
    loss = abs(rate - BEST[name]) + 0.001 * (planned.seed % 10)
    return fake_train({(name, planned.seed): loss}, [])(planned)  # type: ignore[no-any-return]


def test_each_design_gets_its_own_best_value_on_seeds_apart(tmp_path: Path) -> None:
    asked: list[PlannedRun] = []

    def train(planned: PlannedRun, *tell: Any) -> TrainResult:
        asked.append(planned)
        return trained(planned)

    grids = [grid("a", 0.001, 0.01, 0.1), grid("b", 0.001, 0.01, 0.1)]
    best, tuning = tune(grids, first=7, seeds=2, folder=tmp_path, runner=InTurns(train))
    assert [config.train.learning_rate for config in best] == [0.01, 0.1]
    assert tuning.seeds == [1007, 1008] == sorted({each.seed for each in asked})
    assert len({each.folder for each in asked}) == 12 and {each.folder.parent for each in asked} == {
        tmp_path / "tuning"
    }
    assert [[name for name, _ in each] for each in [[(p.config.name, p.seed) for p in asked[:6]]]] == [list("aaabbb")]
    a, b = tuning.designs
    assert (a.best, a.at_end, b.best, b.at_end) == ({RATE: 0.01}, [], {RATE: 0.1}, [RATE])
    assert a.candidates[0].figure.mean == pytest.approx(0.009 + 0.0075) and a.figure == "loss"
    text = " ".join(printed(tuning_tables(tuning, 80), 80).split())
    assert f"b: the best {RATE}, 0.1, lies at the end of what was tried" in text and "a: the best" not in text
    assert "Tuned on seeds 1007 to 1008, which the comparison below does not have" in text


def test_a_value_with_which_runs_fail_is_not_the_best_and_one_that_finishes_is_needed(tmp_path: Path) -> None:
    _, tuning = tune([grid("b", 0.01, 10.0)], first=0, seeds=1, folder=tmp_path / "x", runner=InTurns(trained))
    assert tuning.designs[0].best == {RATE: 0.01} and [each.seed for each in tuning.failures] == [1000]
    assert "0 of 1" in printed(tuning_tables(tuning, 80))
    with pytest.raises(CheckFailed, match="--tune: no run of b finished: the loss is nan"):
        tune([grid("b", 5.0, 10.0)], first=0, seeds=1, folder=tmp_path / "y", runner=InTurns(trained))


def test_values_that_change_what_the_loss_is_are_compared_by_accuracy(tmp_path: Path) -> None:
    def train(planned: PlannedRun, *tell: Any) -> TrainResult:
        shift = planned.config.train.shift
        result = fake_train({("a", planned.seed): shift}, [])(planned)
        return replace(result, accuracy={"image": shift / 4, "audio": 0.5})

    points = [PointConfig(named("a", shift=value), {"train.shift": value}) for value in (1.0, 2.0, 3.0)]
    best, tuning = tune([points], first=0, seeds=1, folder=tmp_path, runner=InTurns(train))
    assert best[0].train.shift == 3.0 and tuning.designs[0].figure == "accuracy"
    assert tuning.designs[0].candidates[2].figure.mean == pytest.approx((0.75 + 0.5) / 2)
    assert "equals" not in printed(tuning_tables(tuning, 120), 120)
    alike = [PointConfig(named("a", shift=2.0), {"train.shift": 2.0}), *points[1:2]]
    _, tuning = tune([alike], first=0, seeds=1, folder=tmp_path / "alike", runner=InTurns(train))
    assert "first of 2 equals" in printed(tuning_tables(tuning, 120), 120)


def test_only_numbers_have_an_end() -> None:
    points = [{"x": x, "kind": kind} for x in (1, 2, 3) for kind in ("a", "b")]
    assert at_end({"x": 2, "kind": "a"}, points) == []
    assert at_end({"x": 3, "kind": "a"}, points) == ["x"]
    assert at_end({"x": 1, "kind": True}, [{"x": 1, "kind": True}, {"x": 1, "kind": False}]) == []
