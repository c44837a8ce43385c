"""The speed benchmark's own parts, on tiny sizes: no time is measured here."""

from __future__ import annotations

import pytest
import torch

from benchmarks.published.peak_bytes import peak_bytes
from benchmarks.speed import document
from benchmarks.speed.goals import Goal, Line, is_met, shown
from benchmarks.speed.sides import Size, block_products, block_runs, check_equal, our_block, timed
from mmdit_cli.profile.statistics import compare


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("size", [Size(128, 3, 8), Size(256, 3, 8, batch=2, flux=True)], ids=str)
def test_both_sides_compute_the_same_with_the_same_weights(size, mode):
    runs = block_runs(size, torch.float32, mode)  # raises where they differ
    assert set(runs) == {"ours", "diffusers"}
    for run in (*runs.values(), block_products(size, torch.float32, mode)):
        assert timed(run)() > 0


def test_sides_that_differ_are_not_timed():
    x = torch.randn(2, 3)
    check_equal([x], [x + 1e-6], torch.float32)
    with pytest.raises(RuntimeError, match="the sides do not compute the same"):
        check_equal([x], [x + 0.01], torch.float32)
    with pytest.raises(RuntimeError, match="nan apart"):
        check_equal([x * torch.nan], [x], torch.float32)


def test_the_bare_products_are_the_blocks_own():
    from torch.utils.flop_counter import FlopCounterMode

    size = Size(128, 3, 8)
    block = our_block(size).to("meta")
    with torch.device("meta"), FlopCounterMode(display=False) as ours:
        tokens = [torch.randn(1, n, 128) for n in (3, 8)]
        block(modality_tokens=tokens, time_cond=torch.randn(1, 128))
    bare = block_products(size, torch.float32, "forward", device="meta")
    with FlopCounterMode(display=False) as theirs:
        bare()
    assert ours.get_total_flops() == theirs.get_total_flops() > 0


def test_the_peak_is_what_is_held_at_once():
    x = torch.zeros(100)

    def call():
        y = x + 1  # 400 bytes
        z = torch.cat([y, y])  # and 800
        del y
        return z.sum() + torch.zeros(300).sum()  # 800 and 1200, and two sums

    assert peak_bytes(call, x) == 800 + 1200 + 2 * 4


def ratio(*times):
    return compare(times, [1.0] * len(times), to="other")


def test_a_goal_of_one_is_missed_only_where_noise_does_not_explain_it():
    assert is_met(ratio(*[0.9] * 8), 1.0) and is_met(ratio(*[0.95, 1.1] * 4), 1.0)
    assert not is_met(ratio(*[1.02, 1.03] * 4), 1.0)
    assert is_met(ratio(1.01, 1.01), 1.0) and not is_met(ratio(1.05, 1.05), 1.0)
    assert is_met(ratio(*[1.09] * 8), 1.1) and not is_met(ratio(*[1.11] * 8), 1.1)


def test_a_line_of_the_document_shows_goal_figure_and_verdict(monkeypatch):
    monkeypatch.setattr(document, "about", lambda: "a machine")
    figure, goal = shown(Goal("diffusers", 1.0), ratio(*[0.5] * 8), {"ours": 12.345})
    assert figure == "0.500 (0.500 to 0.500) of diffusers, 12.35 ms" and goal == "≤ 1 of diffusers"
    text = document.markdown([Line("a block", figure, goal, False, "dense")])
    assert (
        f"| a block | {figure} | {goal} | **no** |" in text
        and "Written by `python -m benchmarks.speed --write docs/reports/benchmarks.md` on a machine." in text
    )
