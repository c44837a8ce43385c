"""What a config's model has to do with the toy's data: whether it fits them, and one call of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from mmdit.options import LinearInput, LinearOutput, ModelOptions, PatchInput, PatchOutput, TokenInput
from mmdit.sampling import Tensors
from mmdit_cli.errors import UserError
from mmdit_cli.request.tool_config import RunConfig, ToolConfig
from mmdit_cli.toy import digits, world
from mmdit_cli.toy.data import ToyData
from mmdit_cli.toy.scenes import captions
from mmdit_cli.toy.scenes.scene import CATEGORIES
from mmdit_cli.toy.scenes.source import Scenes
from mmdit_cli.toy.world import FRAME, SAMPLES

SCENE_SIZE = 16  # pixels a side, where train.picture_size does not say
TIMESTEP_RANGE = 1000  # networks take t as 0..1000, divided by their config's timestep.scale


@dataclass(frozen=True)
class DataNeeds:
    """What a model's ends must be for a data set."""

    vocabulary: int
    max_words: int
    channels: int
    size: int  # of the square picture, in pixels
    sound: bool  # may it have tones beside the pictures
    sound_needed: bool = False


NEEDS = {
    "world": DataNeeds(world.VOCABULARY_SIZE, world.MAX_WORDS, channels=3, size=world.SIZE, sound=True),
    "echo": DataNeeds(
        world.VOCABULARY_SIZE, world.MAX_WORDS, channels=3, size=world.SIZE, sound=True, sound_needed=True
    ),
    "scenes": DataNeeds(captions.VOCABULARY_SIZE, captions.MAX_WORDS, channels=3, size=SCENE_SIZE, sound=True),
    "digits": DataNeeds(digits.VOCABULARY_SIZE, digits.MAX_WORDS, channels=1, size=digits.SIZE, sound=False),
}


def world_of(config: ToolConfig) -> ToyData:
    """The data set that `train.data` names, with the modalities that the config has.

    Raises:
        UserError: a modality or one of its ends is not the data set's, by key and with what is wanted; or the package
            that holds the data is not installed.
    """
    data, needs = config.train.data, _needs(config)
    for problem in [*_problems(config.model, needs), *_setting_problems(config)]:
        raise UserError(f"{config.name}: train-toy can't train this model on train.data={data}: {problem}")
    drawn = [name for name in config.model.modalities if name != "text"]
    unknown = [name for name in config.train.loss_weights if name not in drawn]
    if unknown:
        raise UserError(f"{config.name}: train.loss_weights.{unknown[0]}: expected {' or '.join(drawn)}")
    if data == "digits":
        return digits.Digits()
    if data == "scenes":
        return Scenes(needs.size, sound="audio" in drawn)
    return world.World(sound="audio" in drawn, echo=data == "echo")


def as_fed(config: ToolConfig) -> ToolConfig:
    """The config with what training feeds its model as its `run`: the data's own tokens, captions at their longest."""
    needs, image = _needs(config), config.model.modalities["image"].input
    assert isinstance(image, PatchInput) and isinstance(image.patch, int)  # world_of has refused others
    tokens = {"text": needs.max_words, "image": (needs.size // image.patch) ** 2, "audio": SAMPLES // FRAME}
    known = {name: tokens[name] for name in config.model.modalities}
    return replace(config, run=RunConfig(batch_size=config.train.batch_size, tokens=known, mask={"text": 1.0}))


def longest_caption(config: ToolConfig) -> int:
    """Words that no caption of the data exceeds."""
    return _needs(config).max_words


def predict(model: nn.Module, x: Tensors, times: Tensors, ids: Tensor, mask: Tensor, *, per_modality: bool) -> Tensors:
    """What the model gives: of each modality the velocity, or what else `train.prediction` says.

    Args:
        x: noisy data by modality.
        times: t in [0, 1] by modality, each `b`.
        ids: the captions' word ids `b n`; mask: `b n` bool, True = a word.
        per_modality: pass each modality's own t (the text's is 0), not the one they share.
    """
    timestep = cast(ModelOptions, getattr(model, "module", model).config).timestep
    scale = TIMESTEP_RANGE / (timestep.scale if timestep else 1)
    scaled = {name: t * scale for name, t in times.items()}
    shared = next(iter(scaled.values()))
    t = {"text": shared.new_zeros(shared.shape), **scaled} if per_modality else shared
    out: Tensors = model({"text": ids, **x}, t, masks={"text": mask})
    return out


def _needs(config: ToolConfig) -> DataNeeds:
    needs = NEEDS[config.train.data]
    return replace(needs, size=config.train.picture_size or SCENE_SIZE) if config.train.data == "scenes" else needs


def _setting_problems(config: ToolConfig) -> list[str]:
    """What of `train` the data set can't do, in words."""
    settings = config.train
    if settings.data != "scenes":
        return ["train.picture_size is for train.data=scenes; leave it out"] if settings.picture_size else []
    if settings.evaluation_samples < len(CATEGORIES):
        return [f"train.evaluation_samples must be {len(CATEGORIES)} or more, one for each category of caption"]
    return []


def _problems(model: ModelOptions, needs: DataNeeds) -> list[str]:
    """What keeps a model from learning the data, in words."""
    known = {"text and image": ["image", "text"], "text, image and audio": ["audio", "image", "text"]}
    allowed = ([] if needs.sound_needed else ["text and image"]) + (["text, image and audio"] if needs.sound else [])
    if sorted(model.modalities) not in [known[names] for names in allowed]:
        return [f"model.modalities must be {', or '.join(allowed)}, got {', '.join(model.modalities)}"]
    problems = []
    text, image, audio = (model.modalities.get(name) for name in ("text", "image", "audio"))
    words = text.input if text else None
    if not isinstance(words, TokenInput) or words.vocabulary < needs.vocabulary or words.max_length < needs.max_words:
        wanted = f"kind: tokens, vocabulary: {needs.vocabulary}, max_length: {needs.max_words}"
        problems.append(f"model.modalities.text.input must be {{{wanted}}}, or larger")
    if image:
        end, head, channels = (
            image.input,
            image.output,
            "1 channel" if needs.channels == 1 else f"{needs.channels} channels",
        )
        sizes = end.sizes if isinstance(end, PatchInput) else ()
        if not isinstance(end, PatchInput) or end.channels != needs.channels or len(sizes) > 2 or needs.size % sizes[0]:
            problems.append(
                f"model.modalities.image.input must be patches of {channels} whose size divides {needs.size}"
            )
        elif end.positions == "sincos" and needs.size // sizes[0] > end.max_size:
            problems.append(f"model.modalities.image.input.max_size must be {needs.size // sizes[0]} or more")
        if not isinstance(head, PatchOutput) or head.channels != needs.channels:
            problems.append(f"model.modalities.image.output must be {{kind: patches, channels: {needs.channels}}}")
    if audio:
        wave, head = audio.input, audio.output
        shape = f"{SAMPLES // FRAME} tokens of {FRAME} samples"
        if not isinstance(wave, LinearInput) or wave.dim != FRAME:
            problems.append(f"model.modalities.audio.input must be {{kind: linear, dim: {FRAME}}} ({shape})")
        if not isinstance(head, LinearOutput) or head.dim != FRAME:
            problems.append(f"model.modalities.audio.output must be {{kind: linear, dim: {FRAME}}} ({shape})")
    if model.timestep is None:
        problems.append("model.timestep is missing; set it to {frequencies: 256, scale: 1000}")
    problems += [
        f"model.modalities.{name}.{key} must be left out: the data has nothing for them"
        for name, modality in model.modalities.items()
        for key in ("inputs", "conditions")
        if getattr(modality, key)
    ]
    if model.pooled is not None:
        problems.append("model.pooled must be left out: the captions have no pooled vector")
    if model.class_labels is not None:
        problems.append("model.class_labels must be left out: the data has captions instead")
    if model.guidance is not None:
        problems.append("model.guidance must be left out: no sample was drawn at a guidance scale")
    if model.timestep is not None and model.timestep.second is not None:
        problems.append("model.timestep.second must be left out: a flow is trained at one timestep")
    return problems
