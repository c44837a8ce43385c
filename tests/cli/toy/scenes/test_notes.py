"""Scenes as sound: what the notes are, that they are heard again, and what is none."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from mmdit.config.shipped import shipped_configs
from mmdit_cli.request.tool_config import load_tool_config
from mmdit_cli.toy.data_fit import as_fed, world_of
from mmdit_cli.toy.scenes.notes import hear, notes_in_words
from mmdit_cli.toy.scenes.scene import EMPTY, UNREAD
from mmdit_cli.toy.scenes.source import Scenes
from mmdit_cli.toy.training import train
from tests.support.marks import slow_but
from tests.support.toy import CPU

BOTH = Scenes(16, sound=True)
LEVELS = [0.05 * i for i in range(10)]  # of a soft note's peak of 0.25 at least


def batch(size=600, **more):
    return BOTH.batch(size, **({"seed": 3, "stream": 1, "index": 0} | more))


def score(given, data):
    return (BOTH.check(given, "audio", data) != 0).all(dim=1).float().mean().item()


def test_a_note_is_its_quarters_object():
    given = batch(60)
    values = given.attributes["image"].unflatten(1, (4, 3))
    notes = given.data["audio"].reshape(60, 4, 64)
    time = (torch.arange(64) + 0.5) / 64
    for note, (shape, _, size) in zip(notes.flatten(0, 1), values.flatten(0, 1).tolist(), strict=True):
        wave = (math.pi * time).sin() * (2 * math.pi * (4, 8, 16)[max(shape, 0)] * time).sin()
        peak = float(note @ wave / wave.square().sum())
        torch.testing.assert_close(note, peak * wave)
        low, high = ((0.25, 0.45), (0.75, 1.0))[max(size, 0)]
        assert peak == 0 if shape == EMPTY else low - 1e-5 <= peak <= high + 1e-5


def test_pictures_are_those_without_sound():
    silent = Scenes(16).batch(12, seed=3, stream=1, index=0)
    assert torch.equal(silent.data["image"], batch(12).data["image"]) and silent.captions == batch(12).captions
    assert "sound" not in Scenes(16).chance() and set(silent.data) == {"image"}


@pytest.mark.parametrize("held_out", slow_but([False, True], True))
def test_real_sound_is_heard_and_goes_with_its_picture(held_out):
    given = batch(held_out=held_out)
    read = {name: BOTH.read(name, x) for name, x in given.data.items()}
    assert torch.equal(read["audio"], given.attributes["audio"]) and score(given, given.data["audio"]) == 1
    assert BOTH.belong_together(read).all()
    assert BOTH.belong_together(read | {"audio": read["audio"].roll(1, 0)}).float().mean() < 0.2


def test_noise_is_no_sound_and_other_scenes_score_chance():
    given = batch(3000)
    assert score(given, torch.randn(3000, 16, 16)) <= 0.01
    assert score(given, given.data["audio"].roll(6, 0)) == pytest.approx(BOTH.chance()["sound"], abs=0.03)


def test_the_score_falls_smoothly_as_noise_is_added():
    given, noise = batch(), torch.randn(600, 16, 16)
    scores = [score(given, given.data["audio"] + level * noise) for level in LEVELS]
    assert scores[0] == 1 and scores[2] > 0.97 and scores[-1] < 0.05
    falls = [a - b for a, b in pairwise(scores)]
    assert min(falls) > -0.03 and max(falls) < 0.5


def test_a_loud_hiss_is_unread_and_words_say_so():
    notes = torch.zeros(1, 4, 64)
    notes[0, 1] = torch.randn(64)
    notes[0, 2] = (
        batch()
        .data["audio"]
        .reshape(-1, 64)[batch().attributes["image"].unflatten(1, (4, 3))[..., 0].flatten() == 1][0]
    )
    heard = hear(notes.reshape(1, 16, 16))
    assert heard[0, :, 0].tolist() == [EMPTY, UNREAD, 1, EMPTY]
    assert notes_in_words(heard[0]).startswith("-, ?, ") and notes_in_words(heard[0]).endswith("middle, -")
    assert BOTH.in_words("audio", torch.zeros(1, 16, 16)) == ["silence"]


@pytest.mark.usefixtures("bare_training")
def test_the_shipped_config_learns_and_is_scored(tmp_path):
    small = [
        "train.steps=2",
        "train.batch_size=6",
        "train.evaluation_samples=6",
        "train.sampler.steps=2",
        "model.depth=1",
    ]
    config = load_tool_config(shipped_configs()["toy-scenes-sound"], small)
    assert world_of(config).modalities == ("image", "audio")
    assert as_fed(config).run.tokens == {"text": 24, "image": 16, "audio": 16}
    result = train(config, device=CPU, run_dir=tmp_path / "run")
    assert set(result.accuracy) == set(result.chance) == set(result.oracle_real) >= {"position", "mean", "sound"}
    assert result.oracle_real["sound"] == 1 and result.oracle_noise["sound"] < 0.02
    assert {"number", "shape", "relation"} <= set(
        result.per_attribute["audio"]
    ) and "colour" not in result.per_attribute["audio"]
