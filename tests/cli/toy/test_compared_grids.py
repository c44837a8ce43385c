"""Which designs a sweep makes."""

from __future__ import annotations

from typing import Any

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.request.request import Request
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.toy.compared_grids import distinct_grids, swept
from tests.support.fake_runs import named


def request(*files: str) -> Request:
    return Request("train-toy", list(files), [], "cpu", "fp32", 0, False, None)


def points(name: str, key: str, *values: Any) -> list[PointConfig]:
    return [PointConfig(named(name, **{key: value}), {f"train.{key}": value}) for value in values]


def test_each_point_is_a_design_named_by_its_config_and_values() -> None:
    grids = [points("a", "learning_rate", 0.001, 0.01), points("a", "learning_rate", 0.1)]
    designs = swept(request("x.yaml", "y.yaml"), grids)
    assert [[each.config.name for each in design] for design in designs] == [
        ["x learning_rate=0.001"],
        ["x learning_rate=0.01"],
        ["y learning_rate=0.1"],
    ]
    assert [design[0].config.train.learning_rate for design in designs] == [0.001, 0.01, 0.1]
    tuned = distinct_grids(["x.yaml", "y.yaml"], grids)
    assert [[each.config.name for each in grid] for grid in tuned] == [["x", "x"], ["y"]]


def test_a_point_that_cannot_be_trained_is_left_out_and_named() -> None:
    asked = request("x.yaml")
    (left,) = swept(asked, [points("a", "data", "world", "digits")])
    assert left[0].config.name == "a data=world"
    (note,) = asked.footnotes
    assert note.startswith("Left out: a with train.data=digits: a: train-toy can't train this model")
    with pytest.raises(UserError, match="can't train this model on train.data=digits"):
        swept(request("x.yaml"), [points("a", "data", "digits")])
