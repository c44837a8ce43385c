"""`train:` in a config file: what train-toy trains on and how, all with defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mmdit.config import Section


class TimestepDensity(Section):
    """How training draws t in (0, 1); t = 1 is noise (Esser et al. 2024, section 3.1)."""

    kind: Literal["uniform", "logit_normal", "mode", "cosmap"] = "logit_normal"
    mean: float = 0.0  # logit_normal: m
    std: PositiveFloat = 1.0  # logit_normal: s
    scale: float = Field(default=1.29, ge=-1.0, le=1.7519)  # mode: s, between -1 and 2 / (pi - 2)


class SamplerConfig(Section):
    """How pictures are drawn from noise."""

    steps: PositiveInt = 20
    kind: Literal["euler", "heun"] = "euler"
    guidance: NonNegativeFloat = 2.0  # 1: none


class TrainConfig(Section):
    steps: PositiveInt = 600
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup_steps: NonNegativeInt = 50
    clip_grad_norm: PositiveFloat = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shift: PositiveFloat = 1.0  # of the timesteps, toward noise where above 1 (Esser et al. 2024, eq. 23)
    loss_weights: dict[str, PositiveFloat] = Field(default_factory=dict)  # by modality; 1 where it says nothing
    timesteps: TimestepDensity = TimestepDensity()
    sampler: SamplerConfig = SamplerConfig()
    evaluation_samples: PositiveInt = 128
    checkpoint_every: PositiveInt = 200
