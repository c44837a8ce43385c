"""Real digits: a strict split, captions that name what is shown, a judge that reads digits it never saw."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdit.config.file import validate_mapping
from mmdit.options import as_data
from mmdit_cli.app import main
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from mmdit_cli.toy import digits
from mmdit_cli.toy.data import NULL
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.digits import DIGITS, HELD_OUT_WORDINGS, MAX_WORDS, VOCABULARY, VOCABULARY_SIZE, WORDINGS, Digits
from mmdit_cli.toy.training import train
from tests.support.paths import CONFIGS
from tests.support.toy import CPU, judged

CONFIG = CONFIGS / "toy-digits.yaml"
PLACE: dict[str, int] = {"seed": 3, "stream": 1, "index": 7}
WORDS = {index: word for word, index in VOCABULARY.items()}


@pytest.fixture
def data() -> Digits:
    pytest.importorskip("sklearn")
    return Digits()


def changed(section: str, modality: str = "", /, **values: Any) -> ToolConfig:
    """The shipped config with some values of a section, or of a modality's end, in place of its own."""
    config = as_data(load_tool_config(CONFIG))
    (config["model"]["modalities"][modality][section] if modality else config[section]).update(values)
    return validate_mapping(config, ToolConfig, source="test")


def rows_of(pictures: torch.Tensor) -> set[tuple[float, ...]]:
    return set(map(tuple, pictures.flatten(1).tolist()))


def test_every_picture_is_in_one_part_and_half_of_them_are_for_training(data: Digits) -> None:
    places = torch.cat(list(data.parts.values()))
    assert places.sort().values.tolist() == list(range(1797))
    assert {name: len(rows) for name, rows in data.parts.items()} == {"training": 906, "judging": 595, "testing": 296}


def test_no_picture_of_one_part_is_repeated_in_another(data: Digits) -> None:
    pictures, _ = digits.load()
    assert len(rows_of(pictures)) == 1797


def test_every_part_has_every_digit_about_equally_often(data: Digits) -> None:
    _, labels = digits.load()
    for rows in data.parts.values():
        counts = labels[rows].bincount(minlength=10)
        assert counts.max() - counts.min() <= 6


def test_pictures_are_grey_8_by_8_from_minus_one_to_one(data: Digits) -> None:
    pictures = data.batch(200, **PLACE).data["image"]
    assert pictures.shape == (200, 1, 8, 8)
    assert (pictures.min(), pictures.max()) == (-1, 1)


def test_training_draws_only_pictures_of_its_own_part_and_all_of_them(data: Digits) -> None:
    pictures, _ = digits.load()
    assert rows_of(data.batch(12000, **PLACE).data["image"]) == rows_of(pictures[data.parts["training"]])


def test_the_judge_is_tested_on_each_picture_of_the_third_part_once(data: Digits) -> None:
    pictures, labels = digits.load()
    real, rows = data.real(1000, **PLACE), data.parts["testing"]
    assert torch.equal(real.data["image"], pictures[rows])
    assert torch.equal(real.attributes["image"][:, 0], labels[rows])


def test_the_same_seed_stream_and_index_draw_the_same_batch(data: Digits) -> None:
    first, again = data.batch(16, **PLACE), Digits().batch(16, **PLACE)
    assert first.captions == again.captions
    assert torch.equal(first.data["image"], again.data["image"])


@pytest.mark.parametrize("other", [{"seed": 4}, {"stream": 2}, {"index": 8}])
def test_another_seed_stream_or_index_draws_another_batch(other: dict[str, int], data: Digits) -> None:
    assert not torch.equal(data.batch(16, **PLACE).data["image"], data.batch(16, **PLACE | other).data["image"])


@pytest.mark.parametrize("held_out", [False, True])
def test_a_caption_is_decoded_back_to_the_digit_that_its_picture_shows(held_out: bool, data: Digits) -> None:
    batch = data.batch(300, **PLACE, held_out=held_out)
    ids, mask = data.encode(batch.captions)
    for caption, row, real, (label,) in zip(batch.captions, ids, mask, batch.attributes["image"].tolist(), strict=True):
        words = [WORDS[index] for index in row[real].tolist()]
        assert " ".join(words) == caption
        assert [word for word in words if word in DIGITS] == [DIGITS[label]]


def test_captions_differ_in_length_and_their_pads_are_masked(data: Digits) -> None:
    captions = data.batch(300, **PLACE).captions
    ids, mask = data.encode(captions)
    assert mask.sum(dim=1).tolist() == [len(caption.split()) for caption in captions]
    assert len(set(mask.sum(dim=1).tolist())) >= 4
    assert torch.equal(mask, ids != 0)


def test_held_out_wordings_have_no_word_that_training_does_not_show() -> None:
    trained = {word for wording in WORDINGS for word in wording.split()}
    assert {word for wording in HELD_OUT_WORDINGS for word in wording.split()} <= trained
    assert not set(HELD_OUT_WORDINGS) & set(WORDINGS)


def test_captions_fit_the_vocabulary_and_the_longest_length() -> None:
    assert max(len(wording.split()) for wording in (*WORDINGS, *HELD_OUT_WORDINGS)) <= MAX_WORDS
    assert sorted(VOCABULARY.values()) == list(range(1, VOCABULARY_SIZE))
    assert NULL in VOCABULARY


def test_the_judge_reads_real_digits_that_it_never_saw(data: Digits) -> None:
    pictures, labels = digits.load()
    for part in ("training", "testing"):
        rows = data.parts[part]
        assert judged(data, "image", pictures[rows], labels[rows][:, None]).accuracy["image"] > 0.95


def test_the_judge_is_fitted_on_pictures_of_its_own_part_alone(data: Digits) -> None:
    pictures, _ = digits.load()
    known = torch.from_numpy(data.judge.support_vectors_).float() / 8 - 1  # ink counts 0..16
    assert rows_of(known) <= rows_of(pictures[data.parts["judging"]])


def test_the_judge_reads_noise_at_chance(data: Digits) -> None:
    batch = data.batch(8000, **PLACE)
    noise = torch.randn_like(batch.data["image"])
    accuracy = judged(data, "image", noise, batch.attributes["image"]).accuracy["image"]
    assert abs(accuracy - data.chance()["image"]) < 5 * (data.chance()["image"] / 8000) ** 0.5


def test_a_picture_that_is_not_finite_has_nothing_right(data: Digits) -> None:
    batch = data.real(50, **PLACE)
    pictures = batch.data["image"].clone()
    pictures[3, 0, 0, 0] = torch.nan
    before, after = (
        judged(data, "image", x, batch.attributes["image"]).right["image"] for x in (batch.data["image"], pictures)
    )
    assert before[3] and not after[3]
    assert torch.equal(before[4:], after[4:])


@pytest.mark.slow
def test_a_run_trains_judges_and_draws_grey_pictures(tmp_path: Path, data: Digits) -> None:
    few = {"steps": 4, "batch_size": 8, "evaluate_every": 2, "evaluation_samples": 8, "sampler": {"steps": 2}}
    result = train(changed("train", **few), device=CPU, run_dir=tmp_path / "run")
    assert result.chance == {"image": 0.1}
    assert list(result.per_attribute["image"]) == ["digit"]
    assert result.oracle_real["image"] > 0.95 and result.oracle_noise["image"] < 0.2
    assert result.agreement == result.accuracy["image"] == result.per_attribute["image"]["digit"]
    assert Path(result.files["samples"]).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "progress" / "step-00000002.png").exists()


def test_without_scikit_learn_one_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits.load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # an import of it raises ImportError
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mmdit", "train-toy", "--config", str(CONFIG)])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert "pip install 'mmdit-cli[digits]'" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_the_world_needs_no_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    world = world_of(load_tool_config(CONFIGS / "toy-two-modality.yaml"))
    assert world.modalities == ("image",)


@pytest.mark.parametrize(
    ("section", "modality", "values", "named"),
    [
        ("input", "text", {"vocabulary": 9}, "model.modalities.text.input .* vocabulary: 27, max_length: 12"),
        ("input", "image", {"channels": 3}, "model.modalities.image.input .* 1 channel .* divides 8"),
        ("input", "image", {"patch": 3}, "model.modalities.image.input .* divides 8"),
        ("input", "image", {"patch": 1}, "model.modalities.image.input.max_size must be 8"),
        ("output", "image", {"channels": 3}, "model.modalities.image.output .* channels: 1"),
        ("train", "", {"data": "world"}, "train.data=world: model.modalities.text.input"),
        ("train", "", {"loss_weights": {"audio": 2.0}}, "train.loss_weights.audio: expected image$"),
    ],
)
def test_a_config_that_does_not_fit_the_digits_is_refused_by_key(
    section: str, modality: str, values: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        world_of(changed(section, modality, **values))


def test_digits_have_no_sound() -> None:
    config = load_tool_config(CONFIGS / "toy-generalized.yaml", ["train.data=digits"])
    with pytest.raises(UserError, match="must be text and image, got text, image, audio"):
        world_of(config)


@pytest.mark.slow
def test_the_shipped_config_learns_to_write_what_it_is_asked_for(tmp_path: Path, data: Digits) -> None:
    result = train(load_tool_config(CONFIG), device=CPU, seed=20240305, run_dir=tmp_path / "run")
    assert result.accuracy["image"] >= 0.9
    assert result.held_out["image"] >= 0.9
