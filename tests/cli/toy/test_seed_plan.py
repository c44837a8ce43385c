"""Seeds that are added until a comparison is decided: which, and how often they decide wrongly."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import stdtrit

from mmdit_cli.errors import UserError
from mmdit_cli.toy.seed_plan import SeedPlan, read_seeds
from mmdit_cli.toy.seed_statistics import paired_difference

EXPERIMENTS = 10_000


def decided_after(differences: np.ndarray, plan: SeedPlan) -> np.ndarray:
    """After how many seeds each row of differences is decided, by the textbook's formula; 0: never."""
    n = np.arange(1, plan.most + 1)
    mean = differences.cumsum(axis=1) / n
    squares = (differences**2).cumsum(axis=1) - n * mean**2
    found = np.zeros(len(differences), int)
    for seeds in range(plan.most, 2, -1):
        sd = np.sqrt(squares[:, seeds - 1] / (seeds - 1))
        apart = abs(mean[:, seeds - 1]) > stdtrit(seeds - 1, 1 - plan.level(seeds) / 2) * sd / math.sqrt(seeds)
        found[apart] = seeds
    return found


def null(draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], most: int) -> float:
    draws = draw(np.random.default_rng(most), (EXPERIMENTS, most))
    return float((decided_after(draws, SeedPlan(0, most, auto=True)) > 0).mean())


@pytest.mark.parametrize("most", [4, 5, 6, 8, 12, 30])  # of 3 there is one look, by Student's own interval
def test_of_ten_thousand_comparisons_of_equals_at_most_one_in_twenty_is_decided(most: int) -> None:
    assert null(lambda rng, shape: rng.normal(size=shape), most) <= 0.05


@pytest.mark.parametrize("most", [3, 8, 30])
def test_all_looks_together_spend_five_percent(most: int) -> None:
    plan = SeedPlan(0, most, auto=True)
    spent = [plan.level(n) for n in range(3, most + 1)]
    assert sum(spent) == pytest.approx(0.05) and spent == sorted(spent) and spent[0] > 0


@pytest.mark.slow
@pytest.mark.parametrize("most", [4, 8, 30])
@pytest.mark.parametrize("kind", ["laplace", "uniform", "skewed"])
def test_differences_that_are_not_normal_are_decided_wrongly_about_as_rarely(kind: str, most: int) -> None:
    draw = {
        "laplace": lambda rng, shape: rng.laplace(size=shape),
        "uniform": lambda rng, shape: rng.uniform(-1, 1, size=shape),
        "skewed": lambda rng, shape: rng.exponential(size=shape) - rng.exponential(0.5, size=shape) - 0.5,
    }[kind]
    assert null(draw, most) <= 0.06


def test_the_simulated_decisions_are_those_of_the_comparison() -> None:
    plan = SeedPlan(0, 8, auto=True)
    draws = np.random.default_rng(0).normal(1.5, 1.0, size=(50, 8))
    for row, found in zip(draws, decided_after(draws, plan), strict=True):
        first = next(
            (
                n
                for n in range(1, 9)
                if paired_difference(
                    "loss", list(row[:n]), [0.0] * n, to="a", lower_is_better=True, level=plan.level(n)
                ).verdict
                == "worse"
            ),
            0,
        )
        assert first == found


def test_designs_are_trained_until_each_is_decided_and_no_longer() -> None:
    asked = []
    rounds = SeedPlan(5, 6, auto=True).rounds("abc", 1, lambda design: design == "b" and len(asked) > 1)
    for wanted in rounds:
        asked.append("".join(f"{design}{seed}" for design, seed in wanted))
    assert asked == ["a5b5c5a6b6c6a7b7c7", "a8b8c8", "a9c9", "a10c10"]


def test_seeds_of_a_round_keep_all_jobs_busy() -> None:
    rounds = [list(each) for each in SeedPlan(0, 6, auto=True).rounds("ab", 4, lambda design: False)]
    assert [[seed for _, seed in each[::2]] for each in rounds] == [[0, 1, 2], [3, 4], [5]]


def test_a_number_of_seeds_is_one_round_of_all() -> None:
    (wanted,) = SeedPlan(3, 2).rounds("ab", 1, lambda design: True)
    assert wanted == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]


@pytest.mark.parametrize("asked", ["0", "-1", "1001", "two", "3.0", "", "٣", "9" * 5000])
def test_what_is_no_number_of_seeds_is_refused(asked: str) -> None:
    with pytest.raises(UserError, match="expected a whole number from 1 to 1000, or auto"):
        read_seeds(asked, None, first=0)


def test_seeds_beyond_64_bits_and_a_limit_of_a_fixed_number_are_refused() -> None:
    assert read_seeds("auto", None, first=0) == SeedPlan(0, 8, auto=True)
    assert read_seeds("1", None, first=(1 << 64) - 1).most == 1
    with pytest.raises(UserError, match="no number of 64 bits"):
        read_seeds("auto", 3, first=(1 << 64) - 2)
    with pytest.raises(UserError, match="--max-seeds is for --seeds auto"):
        read_seeds("3", 5, first=0)
