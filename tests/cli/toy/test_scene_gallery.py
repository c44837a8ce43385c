"""The gallery of scenes: every caption in its row, what was read in words and as outlines, right or wrong."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mmdit_cli.output.figures import save_figure
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.plots import RIGHT, WRONG
from mmdit_cli.toy.scene_gallery import in_words, scene_gallery
from mmdit_cli.toy.scenes.oracle import read
from mmdit_cli.toy.scenes.scene import CATEGORIES, COLOURS, SHAPES, SIZES
from mmdit_cli.toy.scenes.source import Scenes


def drawn(count: int) -> Samples:
    batch = Scenes(16).batch(count, seed=1, stream=2, index=0)
    return Samples(batch, {"image": batch.data["image"].clone()})


def text_of(text: str) -> str:
    return " ".join(text.split())


def frames(figure: Figure) -> list[str]:
    return [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes if axes.images]


def test_every_picture_stands_in_its_categorys_row_with_its_caption_and_what_was_read() -> None:
    samples = drawn(12)
    figure = scene_gallery(samples, title="t")
    assert len(figure.axes) == 12 and frames(figure) == [RIGHT] * 12
    rows = [axes.texts[0].get_text() for axes in figure.axes[::2]]
    assert rows == list(CATEGORIES)
    for index, axes in enumerate(figure.axes):
        place = index // 2 + len(CATEGORIES) * (index % 2)  # by row: a category's first caption, then its second
        assert text_of(axes.get_title()) == samples.batch.captions[place].replace(" ,", ",")
        objects = [row for row in samples.batch.attributes["image"][place].view(-1, 3).tolist() if row[0] >= 0]
        words = [f"{SIZES[size]} {list(COLOURS)[colour]} {SHAPES[shape]}" for shape, colour, size in objects]
        assert text_of(axes.get_xlabel()) == ", ".join(words)
        assert len(axes.patches) == len(objects)


def test_what_is_wrong_not_read_or_not_finite_is_shown_so(tmp_path: Path) -> None:
    samples = drawn(6)
    samples.data["image"][0, :, :8, :8] = -0.8
    samples.data["image"][0, :, 2:6, 2:6] = 0.9  # a white square
    samples.data["image"][1] = torch.nan
    figure = scene_gallery(samples)
    assert frames(figure)[:2] == [WRONG, WRONG] and frames(figure)[2:] == [RIGHT] * 4
    assert "?" in [text.get_text() for text in figure.axes[0].texts] and "?" in figure.axes[0].get_xlabel()
    assert in_words(read(torch.zeros(1, 3, 16, 16)), 0) == "nothing"
    save_figure(figure, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")
