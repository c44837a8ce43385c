"""The toy world: what its captions say is what its pictures and tones show, and every draw is its seed's."""

from __future__ import annotations

import pytest
import torch

from mmdit_cli.toy.data import NULL
from mmdit_cli.toy.world import (
    MAX_WORDS,
    TABLES,
    VOCABULARY_SIZE,
    World,
    combination_index,
    combinations,
    renderings,
    split,
)

MODALITIES = ["image", "audio"]


def test_there_are_at_least_96_pictures_and_each_is_unlike_every_other() -> None:
    pictures = renderings("image").flatten(1)
    distances = torch.cdist(pictures, pictures).fill_diagonal_(torch.inf)
    assert len(pictures) >= 96
    assert distances.min() > 1


@pytest.mark.parametrize("modality", MODALITIES)
def test_data_lies_in_minus_one_to_one(modality: str) -> None:
    data = renderings(modality)
    assert data.min() >= -1 and data.max() <= 1


def test_pictures_are_16_by_16_and_tones_16_tokens_of_16_samples() -> None:
    data = World(sound=True).batch(5, seed=0, stream=0, index=0).data
    assert {name: tuple(x.shape) for name, x in data.items()} == {"image": (5, 3, 16, 16), "audio": (5, 16, 16)}


def test_the_picture_world_is_silent() -> None:
    assert set(World(sound=False).batch(2, seed=0, stream=0, index=0).data) == {"image"}


@pytest.mark.parametrize("sound", [False, True])
def test_the_same_seed_stream_and_index_draw_the_same_batch(sound: bool) -> None:
    first, again = (World(sound=sound).batch(16, seed=3, stream=1, index=7) for _ in range(2))
    assert first.captions == again.captions
    assert all(torch.equal(first.data[name], again.data[name]) for name in first.data)


@pytest.mark.parametrize("other", [{"seed": 4}, {"stream": 2}, {"index": 8}])
def test_another_seed_stream_or_index_draws_another_batch(other: dict[str, int]) -> None:
    place = {"seed": 3, "stream": 1, "index": 7}
    world = World(sound=False)
    assert world.batch(16, **place).captions != world.batch(16, **place | other).captions


def test_a_batch_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    World(sound=True).batch(4, seed=0, stream=0, index=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_caption_names_every_attribute_of_its_sample() -> None:
    batch = World(sound=True).batch(64, seed=1, stream=0, index=0)
    for modality, rows in batch.attributes.items():
        for caption, row in zip(batch.captions, rows.tolist(), strict=True):
            for values, value in zip(TABLES[modality].values(), row, strict=True):
                assert any(wording in caption for wording in list(values.values())[value])


def test_captions_of_one_combination_differ_in_wording_and_length() -> None:
    batch = World(sound=False).batch(2000, seed=1, stream=0, index=0)
    index = combination_index("image", batch.attributes["image"])
    captions = {caption for caption, i in zip(batch.captions, index.tolist(), strict=True) if i == index[0]}
    assert len(captions) >= 4
    assert len({len(caption.split()) for caption in captions}) >= 3


def test_a_sample_is_the_rendering_of_its_attributes() -> None:
    batch = World(sound=True).batch(32, seed=5, stream=0, index=0)
    for modality, data in batch.data.items():
        for x, row in zip(data, batch.attributes[modality], strict=True):
            (place,) = torch.where((combinations(modality) == row).all(dim=1))
            assert torch.equal(x, renderings(modality)[place[0]])


def test_training_never_shows_a_held_out_combination() -> None:
    batch = World(sound=True).batch(4000, seed=2, stream=0, index=0)
    for modality, rows in batch.attributes.items():
        shown = set(map(tuple, rows.tolist()))
        assert shown == set(map(tuple, split(modality, held_out=False).tolist()))
        assert not shown & set(map(tuple, split(modality, held_out=True).tolist()))


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_value_of_every_attribute_is_among_the_held_out_combinations(modality: str) -> None:
    hidden = split(modality, held_out=True)
    for column, values in zip(hidden.T, TABLES[modality].values(), strict=True):
        assert set(column.tolist()) == set(range(len(values)))


def test_asking_for_held_out_combinations_gives_only_these() -> None:
    batch = World(sound=True).batch(500, seed=2, stream=0, index=0, held_out=True)
    for modality, rows in batch.attributes.items():
        assert set(map(tuple, rows.tolist())) == set(map(tuple, split(modality, held_out=True).tolist()))


def test_a_pitch_repeats_at_its_own_number_of_cycles() -> None:
    table = combinations("audio")
    steady = (table[:, 1] == 1) & (table[:, 2] == 0)
    spectrum = torch.fft.rfft(renderings("audio")[steady].flatten(1)).abs()
    assert spectrum.argmax(dim=1).tolist() == [4, 8, 16, 32]


def test_a_pad_is_masked_and_a_word_is_not() -> None:
    ids, mask = World(sound=True).encode(["red disc , small , top left", NULL])
    assert mask.sum(dim=1).tolist() == [7, 1]
    assert torch.equal(mask, ids != 0)


def test_a_given_length_only_adds_pads() -> None:
    captions = World(sound=True).batch(8, seed=0, stream=0, index=0).captions
    ids, _ = World(sound=True).encode(captions)
    longer, mask = World(sound=True).encode(captions, length=MAX_WORDS + 3)
    assert torch.equal(longer[:, : ids.shape[1]], ids)
    assert not mask[:, ids.shape[1] :].any()


@pytest.mark.parametrize("sound", [False, True])
def test_captions_fit_the_vocabulary_and_the_longest_length(sound: bool) -> None:
    captions = World(sound=sound).batch(3000, seed=0, stream=0, index=0).captions
    ids, _ = World(sound=True).encode(captions)
    assert ids.max() < VOCABULARY_SIZE
    assert ids.shape[1] <= MAX_WORDS
