"""The world's judge: right on real data, at chance on noise, and not fooled by what is not finite."""

from __future__ import annotations

import pytest
import torch

from mmdit_cli.toy.world import TABLES, World, combinations, renderings
from tests.support.toy import judged

MODALITIES = ["image", "audio"]
WORLD = World(sound=True)


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_rendering_is_read_back_as_its_combination(modality: str) -> None:
    assert torch.equal(WORLD.read(modality, renderings(modality)), combinations(modality))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_a_little_noise_changes_nothing(modality: str, noise: float) -> None:
    data = renderings(modality)
    found = judged(WORLD, modality, data + noise * torch.randn_like(data), combinations(modality))
    assert found.accuracy == {modality: 1}


@pytest.mark.parametrize("modality", MODALITIES)
def test_noise_scores_at_chance(modality: str) -> None:
    batch = WORLD.batch(8000, seed=0, stream=0, index=0)
    noise = torch.randn_like(batch.data[modality])
    accuracy = judged(WORLD, modality, noise, batch.attributes[modality]).accuracy[modality]
    spread = (WORLD.chance()[modality] / 8000) ** 0.5
    assert abs(accuracy - WORLD.chance()[modality]) < 5 * spread


@pytest.mark.parametrize("modality", MODALITIES)
def test_one_wrong_attribute_makes_a_sample_wrong_and_the_others_stay_right(modality: str) -> None:
    data, wanted = renderings(modality), combinations(modality).clone()
    wanted[:, 0] = (wanted[:, 0] + 1) % len(next(iter(TABLES[modality].values())))
    result = judged(WORLD, modality, data, wanted)
    assert result.accuracy == {modality: 0}
    assert list(result.per_attribute[modality].values()) == [0] + [1] * (wanted.shape[1] - 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_sample_that_is_not_finite_has_nothing_right(bad: float) -> None:
    data = renderings("image").clone()
    data[3, 0, 0, 0] = bad
    right = judged(WORLD, "image", data, combinations("image")).hits["image"]
    assert not right[3].any()
    assert right.all(dim=1).sum() == len(data) - 1


@pytest.mark.parametrize("modality", MODALITIES)
def test_chance_is_one_over_the_number_of_combinations(modality: str) -> None:
    count = 1
    for values in TABLES[modality].values():
        count *= len(values)
    assert WORLD.chance()[modality] == 1 / count
