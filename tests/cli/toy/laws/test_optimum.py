"""The size that is best for a budget, against the closed form of Hoffmann et al. 2022, equation 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mmdit_cli.toy.laws import optimum as optimum_module
from mmdit_cli.toy.laws.optimum import Trained, optimum
from tests.support.marks import slow_but


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimum_module, "REPLICATES", 60)


N = np.repeat([2.4e5, 5.7e5, 1.1e6, 1.9e6, 4.6e6], 3)
D = np.tile([3e4, 6e4, 1.2e5], 5)
E, A, B, ALPHA, BETA, PER = 0.03, 20.0, 30.0, 0.5, 0.8, 6.0


def trained(own: float = 0.0, seeds: int = 3) -> Trained:
    loss = E + A * N**-ALPHA + B * D**-BETA
    noise = np.random.default_rng(0).standard_normal((len(N), seeds))
    return Trained([f"c{i}" for i in range(len(N))], N, D, PER * N, loss[:, None] * (1 + own * noise), 64)


def closed_form(budget: float) -> float:
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return float(ratio * (budget / PER) ** (BETA / (ALPHA + BETA)))


@pytest.mark.parametrize("budget", slow_but([6e11, 1e12], 1e12))
def test_the_best_size_is_that_of_the_closed_form(budget: float) -> None:
    found = optimum("d", trained(), budget)
    assert found.parameters.value == pytest.approx(closed_form(budget), rel=0.03)
    assert found.samples == pytest.approx(budget / (PER * found.parameters.value), rel=1e-6)
    assert found.steps == round(found.samples / 64) and found.determined and not found.beyond
    assert N[int(found.nearest[1:])] == min({*N}, key=lambda n: abs(np.log(n / found.parameters.value)))


def test_with_noise_it_is_within_its_interval() -> None:
    found = optimum("d", trained(own=0.003), 3e11)
    assert found.parameters.low <= closed_form(3e11) <= found.parameters.high
    assert found.exponents["parameters"].low <= ALPHA <= found.exponents["parameters"].high
    assert found.lack_of_fit is not None and found.lack_of_fit > 0.01


def test_what_lies_beyond_what_was_trained_is_said() -> None:
    assert optimum("d", trained(), 1e17).beyond


@pytest.mark.slow
def test_losses_that_length_does_not_change_determine_nothing() -> None:
    known: Any = trained()
    flat = replace(known, table=np.broadcast_to((E + A * N**-ALPHA)[:, None], (15, 3)).copy())
    assert not optimum("d", flat, 3e11).determined
