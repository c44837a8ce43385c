"""`train:` in a config file: what train-toy trains on and how, all with defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmdit.config.model import Section

MODE_SCALE_LIMIT = 1.7519  # 2 / (pi - 2), rounded down: above it the mode map is no longer monotonic


class TimestepDensity(Section):
    """How training draws t in (0, 1); t = 1 is noise (Esser et al. 2024, section 3.1)."""

    kind: Literal["uniform", "logit_normal", "mode", "cosmap"] = "logit_normal"
    mean: float = 0.0  # logit_normal: m
    std: PositiveFloat = 1.0  # logit_normal: s
    scale: float = Field(default=1.29, ge=-1.0, le=MODE_SCALE_LIMIT)  # mode: s
    per_modality: bool = False  # each modality is noised by a t of its own, so that any may be given to draw the others


class SamplerConfig(Section):
    """How samples are drawn from noise."""

    steps: PositiveInt = 20
    kind: Literal["euler", "heun"] = "euler"
    guidance: NonNegativeFloat = 2.0  # classifier-free; 1: none


class TrainConfig(Section):
    # shapes and tones drawn on the fly; tones that tell of their picture; real handwritten digits
    data: Literal["world", "echo", "digits"] = "world"
    steps: PositiveInt = 600
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup_steps: NonNegativeInt = 50
    clip_grad_norm: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # what classifier-free guidance needs
    shift: PositiveFloat = 1.0  # of the timesteps, toward noise where above 1 (Esser et al. 2024, eq. 23)
    loss_weights: dict[str, PositiveFloat] = Field(default_factory=dict)  # by modality; 1 where it says nothing
    timesteps: TimestepDensity = TimestepDensity()
    sampler: SamplerConfig = SamplerConfig()
    evaluation_samples: PositiveInt = 256  # at the end, of captions as trained on and of held-out ones
    evaluate_every: NonNegativeInt = 200  # steps between evaluations on the way; 0: only at the end
    checkpoint_every: PositiveInt = 200
