from __future__ import annotations

import pytest

from mmdit_cli.flops.plots import flops_plot
from mmdit_cli.model_parts.flop_count import count_flops
from tests.support.command_lines import in_this_process
from tests.support.small_configs import config


def test_the_bars_are_the_components_flops_and_parameters():
    results = [count_flops(config()), count_flops(config(depth=3))]
    axes = flops_plot(results).axes
    assert len(axes) == 4
    for row, result in enumerate(results):
        flops, parameters = ([bar.get_width() for bar in each.patches] for each in axes[2 * row : 2 * row + 2])
        assert flops == [c.flops for c in result.components] and sum(flops) == result.forward_flops
        assert parameters == [c.parameters for c in result.components] and sum(parameters) == result.parameters


@pytest.mark.slow
def test_a_sweep_is_drawn_over_its_first_number():
    points = [{"model.depth": depth, "model.final_norm": norm} for depth in (2, 1) for norm in (True, False)]
    results = [count_flops(config(depth=p["model.depth"], final_norm=p["model.final_norm"]), point=p) for p in points]
    flops, parameters = flops_plot(results).axes
    assert [line.get_label() for line in flops.lines] == ["final_norm true", "final_norm false"]
    assert list(flops.lines[0].get_xdata()) == [1, 2]
    assert list(parameters.lines[0].get_ydata()) == [results[2].parameters, results[0].parameters]


@pytest.mark.parametrize("suffix", ["svg"])
def test_the_command_draws(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = in_this_process(f"mmdit flops -c adaptive --set model.depth=1 --plot x.{suffix}")
    assert code == 0 and (tmp_path / f"x.{suffix}").exists(), err
    assert in_this_process("mmdit flops -c adaptive --plot x.gif")[0] == 2
