"""What a config's model has to do with the toy world: which world it can learn, and one call of it."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmdit.config import LinearInput, LinearOutput, ModelConfig, PatchInput, PatchOutput, TokenInput
from mmdit.sampling import Tensors
from mmdit_cli.errors import UserError
from mmdit_cli.schema import ToolConfig
from mmdit_cli.toy.world import FRAME, MAX_WORDS, SAMPLES, SIZE, VOCABULARY_SIZE, World

TIMESTEP_RANGE = 1000  # networks take t as 0..1000, divided by their config's timestep.scale


def world_of(config: ToolConfig) -> World:
    """The world whose modalities the config has: pictures, or pictures and tones.

    Raises:
        UserError: a modality or one of its ends is not the world's; it names the key and what is wanted.
    """
    for problem in _problems(config.model):
        raise UserError(f"{config.name}: train-toy can't train this model: {problem}")
    unknown = [name for name in config.train.loss_weights if name not in ("image", "audio")]
    if unknown:
        raise UserError(f"{config.name}: train.loss_weights.{unknown[0]}: expected image or audio")
    return World(sound="audio" in config.model.modalities)


def predict(model: nn.Module, x: Tensors, times: Tensors, ids: Tensor, mask: Tensor, *, per_modality: bool) -> Tensors:
    """The model's velocity.

    Args:
        x: noisy data by modality.
        times: t in [0, 1] by modality, each `b`.
        ids: the captions' word ids `b n`; mask: `b n` bool, True = a word.
        per_modality: pass each modality's own t (the text's is 0), not the one they share.
    """
    timestep = cast(ModelConfig, model.config).timestep
    scale = TIMESTEP_RANGE / (timestep.scale if timestep else 1)
    scaled = {name: t * scale for name, t in times.items()}
    shared = next(iter(scaled.values()))
    t = {"text": shared.new_zeros(shared.shape), **scaled} if per_modality else shared
    velocity: Tensors = model({"text": ids, **x}, t, masks={"text": mask})
    return velocity


def _problems(model: ModelConfig) -> list[str]:
    """What keeps a model from learning the world, in words."""
    names = sorted(model.modalities)
    if names not in (["image", "text"], ["audio", "image", "text"]):
        return [f"model.modalities must be text and image, or text, image and audio, got {', '.join(model.modalities)}"]
    problems = []
    text, image, audio = (model.modalities.get(name) for name in ("text", "image", "audio"))
    words = text.input if text else None
    if not isinstance(words, TokenInput) or words.vocabulary < VOCABULARY_SIZE or words.max_length < MAX_WORDS:
        wanted = f"kind: tokens, vocabulary: {VOCABULARY_SIZE}, max_length: {MAX_WORDS}"
        problems.append(f"model.modalities.text.input must be {{{wanted}}}, or larger")
    if image:
        end, head = image.input, image.output
        if not isinstance(end, PatchInput) or end.channels != 3 or SIZE % end.patch:
            problems.append(f"model.modalities.image.input must be patches of 3 channels whose size divides {SIZE}")
        elif end.positions == "sincos" and SIZE // end.patch > end.max_size:
            problems.append(f"model.modalities.image.input.max_size must be {SIZE // end.patch} or more")
        if not isinstance(head, PatchOutput) or head.channels != 3:
            problems.append("model.modalities.image.output must be {kind: patches, channels: 3}")
    if audio:
        wave, head = audio.input, audio.output
        shape = f"{SAMPLES // FRAME} tokens of {FRAME} samples"
        if not isinstance(wave, LinearInput) or wave.dim != FRAME:
            problems.append(f"model.modalities.audio.input must be {{kind: linear, dim: {FRAME}}} ({shape})")
        if not isinstance(head, LinearOutput) or head.dim != FRAME:
            problems.append(f"model.modalities.audio.output must be {{kind: linear, dim: {FRAME}}} ({shape})")
    if model.timestep is None:
        problems.append("model.timestep is missing; set it to {frequencies: 256, scale: 1000}")
    if model.pooled is not None:
        problems.append("model.pooled must be left out: the captions have no pooled vector")
    return problems
