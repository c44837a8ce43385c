"""What a run drew for the same captions over training: kept, found again, and shown by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmdit_cli.toy import progress
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.progress_plot import COLUMNS, ROWS, progress_plot
from mmdit_cli.toy.training import train
from mmdit_cli.toy.world import World
from tests.support.marks import slow_but
from tests.support.toy import CPU, tiny


def samples(count: int = 8, *, sound: bool = False) -> Samples:
    batch = World(sound=sound).batch(count, seed=0, stream=0, index=0)
    return Samples(batch, {name: x.clone() for name, x in batch.data.items()})


@pytest.mark.parametrize("sound", [False, True])
def test_what_is_kept_is_found_again_up_to_a_step(sound: bool, tmp_path: Path) -> None:
    first, later = samples(sound=sound), samples(sound=sound)
    later.data["image"] *= 0.5
    progress.keep(tmp_path, 20, later)
    progress.keep(tmp_path, 5, first)
    found = progress.kept(tmp_path, first.batch, until=20)
    assert list(found) == [5, 20]
    assert all(torch.equal(found[20].data[name], x) for name, x in later.data.items())
    assert list(progress.kept(tmp_path, first.batch, until=19)) == [5]


def test_what_is_damaged_or_of_other_captions_is_left_out(tmp_path: Path) -> None:
    progress.keep(tmp_path, 1, samples(4))
    progress.keep(tmp_path, 2, samples(8))
    progress.place_of(tmp_path, 3, ".safetensors").write_bytes(b"no tensors")
    assert list(progress.kept(tmp_path, samples(8).batch, until=9)) == [2]
    assert progress.kept(tmp_path / "nowhere", samples(8).batch, until=9) == {}


LONG = list(range(10, 400, 10))


@pytest.mark.parametrize("steps", slow_but([[3], [1, 2, 3], LONG], LONG), ids=len)
def test_the_picture_has_a_column_for_each_step_or_an_even_choice_of_them(steps: list[int]) -> None:
    figure = progress_plot({step: samples() for step in steps}, title="t")
    shown = min(len(steps), COLUMNS)
    assert len(figure.axes) == ROWS * shown
    titles = [axes.get_title() for axes in figure.axes[:shown]]
    assert titles[0] == f"step {steps[0]:,}" and titles[-1] == f"step {steps[-1]:,}"
    labels = [" ".join(axes.get_ylabel().split()) for axes in figure.axes[::shown]]
    assert labels == [caption.replace(" ,", ",").replace(" :", ":") for caption in samples().batch.captions[:ROWS]]


@pytest.mark.slow
def test_a_run_that_was_evaluated_on_the_way_shows_its_progress(tmp_path: Path) -> None:
    result = train(tiny(steps=2, evaluate_every=1), device=CPU, run_dir=tmp_path / "run")
    assert result is not None and Path(result.files["progress"]).read_bytes().startswith(b"\x89PNG")
    assert progress.place_of(tmp_path / "run", 1, ".safetensors").is_file()
