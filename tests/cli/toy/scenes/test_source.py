"""`train.data: scenes` as train-toy sees it: batches, scores by category with chance beside them, and their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmdit.config.shipped import shipped_configs
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy import evaluation
from mmdit_cli.toy.data_fit import as_fed, world_of
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.scenes.scene import CATEGORIES
from mmdit_cli.toy.scenes.source import HELD_OUT, MEAN, Scenes
from mmdit_cli.toy.training import train
from tests.support.toy import CPU, tiny

SCENES = Scenes(16)
PLACE: dict[str, Any] = {"seed": 4, "stream": 7, "index": 2}


def test_a_batch_is_a_pure_function_of_its_place() -> None:
    first, again = SCENES.batch(30, **PLACE), SCENES.batch(30, **PLACE)
    assert first.captions == again.captions and torch.equal(first.data["image"], again.data["image"])
    assert torch.equal(first.attributes["image"], again.attributes["image"])
    assert first.captions != SCENES.batch(30, **{**PLACE, "index": 3}).captions
    assert first.data["image"].shape == (30, 3, 16, 16) and Scenes(32).batch(2, **PLACE).data["image"].shape[-1] == 32


def test_categories_take_turns_so_that_every_batch_has_all() -> None:
    counts = sum(torch.bincount(SCENES.batch(10, seed=0, stream=0, index=i).wanted.category) for i in range(6))
    assert counts.tolist() == [10] * len(CATEGORIES)
    held_out = SCENES.batch(9, **PLACE, held_out=True).wanted.category
    assert set(held_out.tolist()) == set(HELD_OUT)


def test_real_scenes_score_one_and_scenes_of_other_captions_chance() -> None:
    batch = SCENES.batch(1200, **PLACE)
    real = Samples(batch, batch.data)
    assert real.accuracy == dict.fromkeys([*CATEGORIES, MEAN], 1.0)
    assert all(share == 1 for share in real.per_attribute["image"].values())
    others = Samples(batch, {"image": batch.data["image"].roll(len(CATEGORIES), dims=0)}).accuracy
    for name, chance in SCENES.chance().items():
        assert abs(others[name] - chance) < 5 * (chance / 200) ** 0.5
    assert max(SCENES.chance().values()) < 0.35
    noise = Samples(batch, {"image": torch.randn_like(batch.data["image"])})
    assert max(noise.accuracy.values()) <= 0.01


def test_a_sample_that_is_not_finite_is_wrong_and_the_others_stay_right() -> None:
    batch = SCENES.batch(12, **PLACE)
    data = batch.data["image"].clone()
    data[3, 0, 0, 0], data[7, 1, 2, 3] = torch.nan, torch.inf
    samples = Samples(batch, {"image": data})
    assert [i for i, right in enumerate(samples.right["image"].tolist()) if not right] == [3, 7]
    covered = SCENES.coverage(batch, samples.finite, lambda: samples.finite)
    assert max(each.drawn for each in covered.values()) <= 1


def scenes_config(**settings: Any) -> Any:
    """A tiny network that scenes fit; `picture_size` and the like are of `train`."""
    return tiny(**{"data": "scenes", "evaluation_samples": 12, **settings})


@pytest.mark.usefixtures("bare_training")
def test_a_run_scores_every_category_beside_chance_real_scenes_and_noise(tmp_path: Path) -> None:
    result = train(scenes_config(steps=2), device=CPU, run_dir=tmp_path / "run")
    assert result is not None
    for scores in (result.accuracy, result.chance, result.oracle_real, result.oracle_noise):
        assert set(scores) == {*CATEGORIES, MEAN}
    assert set(result.held_out) == {*(CATEGORIES[index] for index in HELD_OUT), MEAN}
    assert min(result.oracle_real.values()) >= 0.995 and max(result.oracle_noise.values()) <= 0.01
    assert all(each.real > each.chance and 0 <= each.drawn <= 1 for each in result.coverage.values())
    assert all(each.repeated is not None and 0 <= each.repeated <= 1 for each in result.coverage.values())
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count('"binding"') == 2  # accuracy, and held out


def test_captions_are_drawn_twice_from_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, int]] = []

    def draw(model: Any, batch: Any, settings: Any, *, seed: int, device: Any) -> Samples:
        drawn.append((batch, seed))
        return Samples(batch, SCENES.batch(len(batch.captions), seed=seed, stream=1, index=0).data)

    monkeypatch.setattr(evaluation, "draw", draw)
    settings = scenes_config(evaluation_samples=120).train
    found = evaluation.evaluate(torch.nn.Identity(), SCENES, settings, seed=3, device=CPU)
    (seen, one), (held_out, _), (again, other) = drawn
    assert seen is again is not held_out and one != other
    assert all(each.repeated < 0.75 for each in found["coverage"].values())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"data": "world", "picture_size": 16}, "train.picture_size is for train.data=scenes"),
        ({"picture_size": 32}, "max_size must be 4 or more"),  # the tiny network takes 2 x 2 patches of 8 pixels
        ({"evaluation_samples": 5}, "train.evaluation_samples must be 6 or more"),
    ],
)
def test_what_scenes_can_not_be_is_refused_by_key(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        world_of(scenes_config(**settings))


def test_the_shipped_config_fits_and_is_counted_with_its_pictures_tokens() -> None:
    config = load_tool_config(shipped_configs()["toy-scenes"])
    world = world_of(config)
    assert isinstance(world, Scenes) and world.size == 16
    assert as_fed(config).run.tokens["image"] == config.run.tokens["image"]


@pytest.mark.slow
def test_the_shipped_config_learns_all_six_categories(tmp_path: Path) -> None:
    """A quarter of an hour of one core; the counterpart of the table in docs/cli/train-toy.md."""
    result = train(
        load_tool_config(shipped_configs()["toy-scenes"]), device=CPU, seed=20240305, run_dir=tmp_path / "run"
    )
    assert result is not None and min(result.oracle_real.values()) >= 0.995
    beyond = {name: result.accuracy[name] - result.chance[name] for name in CATEGORIES}
    assert min(beyond.values()) >= 0.15 and result.accuracy[MEAN] >= 0.6, beyond
