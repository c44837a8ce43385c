"""Pictures of a run: PNG files with the right things on them; drawing needs no window and leaves no state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmdit_cli.output.figures import save_figure
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.plots import RIGHT, WRONG, _smooth, comparison_plot, curve_plot, sample_plot
from mmdit_cli.toy.world import World
from tests.support.paths import ROOT


def samples(count: int, *, sound: bool = True) -> Samples:
    batch = World(sound=sound).batch(count, seed=0, stream=0, index=0)
    return Samples(batch, {name: x.clone() for name, x in batch.data.items()})


def records(steps: int) -> list[dict[str, object]]:
    logged: list[dict[str, object]] = [
        {"step": s, "loss": 2 / s, "losses": {"image": 2 / s}} for s in range(1, steps + 1)
    ]
    return [*logged, {"step": steps, "accuracy": {"image": 0.5}}]


@pytest.mark.parametrize("count", [1, 3, 8, 11])
@pytest.mark.parametrize("sound", [False, True])
def test_every_sample_is_drawn_under_its_caption(count: int, sound: bool) -> None:
    figure = sample_plot(samples(count, sound=sound))
    assert len(figure.axes) == count * (2 if sound else 1)
    texts = [" ".join(text.get_text().split()) for text in figure.texts]
    for caption in samples(count, sound=sound).batch.captions:
        assert caption.replace(" ,", ",").replace(" :", ":") in texts


def test_right_and_wrong_are_marked_by_sign_and_colour() -> None:
    drawn = samples(2)
    drawn.data["audio"][1] = drawn.data["audio"][0].flip(0) * 0.9 + 0.3
    drawn.data["image"][1] = torch.nan
    figure = sample_plot(drawn)
    marks = {text.get_text(): text.get_color() for text in figure.texts if "image" in text.get_text()}
    assert marks == {"✓ image   ✓ audio": RIGHT, "✗ image   ✗ audio": WRONG}


def test_a_sample_that_is_not_finite_can_be_saved(tmp_path: Path) -> None:
    drawn = samples(2)
    drawn.data["image"][0], drawn.data["audio"][0] = torch.nan, torch.inf
    save_figure(sample_plot(drawn), tmp_path / "samples.png")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_curves_are_of_each_modality_and_of_the_accuracy() -> None:
    losses, accuracy = curve_plot(records(30), title="a run").axes
    assert [line.get_label() for line in losses.lines if not line.get_label().startswith("_")] == ["image"]
    assert accuracy.lines[0].get_ydata() == [0.5]
    assert losses.get_title() == "a run"


def test_each_of_many_accuracies_has_a_line_that_is_told_from_the_others() -> None:
    names = ["single", "two", "counting", "colours", "position", "binding", "mean"]
    _, accuracy = curve_plot([*records(3), {"step": 3, "accuracy": dict.fromkeys(names, 0.5)}]).axes
    assert {*names} <= {line.get_label() for line in accuracy.lines}
    assert len({(line.get_color(), line.get_linestyle()) for line in accuracy.lines}) == len(accuracy.lines)


def test_a_run_without_evaluations_has_the_loss_alone() -> None:
    assert len(curve_plot(records(5)[:-1]).axes) == 1


def test_smoothing_keeps_a_constant_and_the_mean_of_a_line() -> None:
    assert _smooth([3.0] * 7) == [3.0] * 7
    line = [float(i) for i in range(101)]
    assert _smooth(line)[50] == pytest.approx(50)
    assert _smooth([]) == []


@pytest.mark.slow
def test_training_imports_matplotlib_only_to_draw_and_pyplot_never() -> None:
    code = (
        "import mmdit_cli.toy.training, sys; assert 'matplotlib' not in sys.modules; "
        "import mmdit_cli.toy.plots; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_comparison_draws_every_run_thin_and_the_mean_of_whole_runs_thick() -> None:
    def run(steps: int, value: float) -> list[dict[str, object]]:
        logged: list[dict[str, object]] = [{"step": s, "loss": value} for s in range(1, steps + 1)]
        return [*logged, {"step": steps, "accuracy": {"image": value / 4}}]

    designs = {"a": [run(4, 1.0), run(4, 3.0), run(2, 9.0)], "b": [run(4, 2.0)]}  # the third stopped on its way
    figure = comparison_plot(designs, {"a": 10, "b": 30}, target=0.9)
    loss, by_flops, accuracy, _ = figure.axes
    thick = {line.get_label(): line for line in loss.lines if line.get_linewidth() > 1}
    assert set(thick) == {"a", "b"} and len(loss.lines) == 6
    assert list(thick["a"].get_ydata()) == [2.0] * 4
    (band,) = loss.collections  # of the design with several runs
    (outline,) = [path.vertices[:, 1] for path in band.get_paths()]
    assert (outline.min(), outline.max()) == (1.0, 3.0)
    costs = {line.get_label(): list(line.get_xdata()) for line in by_flops.lines if line.get_linewidth() > 1}
    assert costs == {"a": [10, 20, 30, 40], "b": [30, 60, 90, 120]}
    assert [text.get_text() for text in by_flops.get_legend().get_texts()] == ["a", "b"]
    means = [list(line.get_ydata()) for line in accuracy.lines if line.get_linewidth() > 1]
    assert means == [[0.5], [0.5]]
