"""Statistics of paired runs against figures by hand."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from mmdit_cli.model_parts.intervals import mean_interval
from mmdit_cli.toy.seed_statistics import paired_difference, spread

ALIKE = "can't be told apart"


@pytest.mark.parametrize(
    ("freedom", "printed"),
    [(2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_students_quantile_is_that_of_printed_tables(freedom: int, printed: float) -> None:
    values = [float(i) for i in range(freedom + 1)]
    low, high = mean_interval(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(printed * error, abs=5e-4 * error)


def test_the_interval_leaves_out_the_truth_once_in_twenty_times() -> None:
    draws = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    found = [paired_difference("loss", x, [0.0] * 4, to="a", lower_is_better=True) for x in draws]
    missed = sum(each.verdict != ALIKE for each in found) / len(found)
    assert missed == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 4000) ** 0.5)


def test_mean_and_spread_are_those_by_hand() -> None:
    found = spread([1.0, 2.0, 6.0])
    assert (found.mean, found.sd, found.min, found.max, found.n) == (3.0, pytest.approx(7**0.5), 1.0, 6.0, 3)
    assert spread([2.0]).sd is None


def test_a_paired_difference_is_that_by_hand() -> None:
    # differences -0.3, -0.2, -0.4: mean -0.3, sd 0.1, reach 4.3027 x 0.1 / sqrt(3) = 0.24841
    found = paired_difference("loss", [0.7, 1.8, 2.6], [1.0, 2.0, 3.0], to="a", lower_is_better=True)
    assert (found.mean, found.sd) == pytest.approx((-0.3, 0.1))
    assert (found.low, found.high) == pytest.approx((-0.54841, -0.05159), abs=1e-5)
    assert found.verdict == "better"
    assert paired_difference("x", [0.7, 1.8, 2.6], [1, 2, 3], to="a", lower_is_better=False).verdict == "worse"


def test_what_seeds_share_does_not_widen_the_interval_of_their_difference() -> None:
    reference = [1.0, 50.0, 900.0]
    found = paired_difference("loss", [x - 0.5 for x in reference], reference, to="a", lower_is_better=True)
    assert found.verdict == "better" and found.sd == pytest.approx(0, abs=1e-9)


def test_one_or_two_pairs_give_no_interval_and_no_verdict() -> None:
    for n in (1, 2):
        found = paired_difference("loss", [0.0, 0.1][:n], [9.0, 9.1][:n], to="a", lower_is_better=True)
        assert (found.n, found.low, found.high, found.verdict) == (n, None, None, None)


def test_one_sample_more_in_every_run_is_no_better_accuracy() -> None:
    values, reference = [0.75, 0.5, 0.25], [0.5, 0.25, 0.0]
    step = paired_difference("accuracy", values, reference, to="a", lower_is_better=False, resolution=0.25)
    assert (step.low, step.high, step.verdict) == (0.0, 0.5, ALIKE)
    finer = paired_difference("accuracy", values, reference, to="a", lower_is_better=False, resolution=0.125)
    assert finer.verdict == "better"
