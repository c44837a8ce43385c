"""`train:` in a config file: what train-toy trains on and how, all with defaults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from mmdit.options import OptionError, Options, option
from mmdit.options.fields import Flag, Number, Text, Whole

MODE_SCALE_LIMIT = 1.7519  # 2 / (pi - 2), rounded down: above it the mode map is no longer monotonic


@dataclass(frozen=True, kw_only=True)
class TimestepDensity(Options):
    """How training draws t in (0, 1); t = 1 is noise (Esser et al. 2024, section 3.1)."""

    kind: Literal["uniform", "logit_normal", "mode", "cosmap"] = option("logit_normal", "The density of t.")
    mean: Number = option(0.0, "Of logit_normal: m.")
    std: Number = option(1.0, "Of logit_normal: s.", gt=0)
    scale: Number = option(1.29, "Of mode: s.", ge=-1.0, le=MODE_SCALE_LIMIT)
    per_modality: Flag = option(
        False, "Each modality is noised by a t of its own, so that any may be given to draw the others."
    )


@dataclass(frozen=True, kw_only=True)
class SamplerConfig(Options):
    """How samples are drawn from noise."""

    steps: Whole = option(20, "Steps from noise to data.", gt=0)
    kind: Literal["euler", "heun"] = option("euler", "The method of integration.")
    guidance: Number = option(2.0, "Classifier-free guidance; 1: none.", ge=0)


@dataclass(frozen=True, kw_only=True)
class MupConfig(Options):
    """Of which width both parametrizations are one."""

    base_width: Whole = option(64, "Of the widest stream.", gt=0)
    base_dim_head: Whole | None = option(
        None, "Features of a head there; null: as many, so that a wider network has more heads.", gt=0
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Options):
    """What updates the weights."""

    kind: Literal["adamw", "muon"] = option(
        "adamw",
        "AdamW; or Muon for the matrices within the blocks, and AdamW for the rest (Jordan et al. 2024; torch 2.9 on), "
        "with steps of one size, so that both take the same learning rate (Liu et al. 2025, arXiv 2502.16982).",
    )
    momentum: Number = option(0.95, "Of muon.", ge=0, lt=1)

    def check(self) -> Iterator[OptionError]:
        if self.kind != "muon" and self.momentum != type(self).momentum:
            yield OptionError(
                ("momentum",), f"momentum is of kind 'muon'; AdamW has moments of its own, got {self.kind}"
            )


@dataclass(frozen=True, kw_only=True)
class PredictionConfig(Options):
    """What the network predicts, and where its error is measured (Li & He 2025, arXiv 2511.13720, JiT: all nine)."""

    output: Literal["velocity", "noise", "data"] = option(
        "velocity", "What the network gives; samples follow the velocity that it means."
    )
    loss: Literal["velocity", "noise", "data"] = option(
        "velocity", "Of what the loss is the squared error, after the output is turned into it."
    )


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(Options):
    """Representations that are aligned in training, without another network."""

    kind: Literal["layer_sync"] = option(
        "layer_sync",
        "Tokens behind an early block are drawn toward where those behind a later one point, which take no gradient "
        "from it (LayerSync: Haghighi et al. 2025, arXiv 2510.12581).",
    )
    weight: Number = option(0.2, "Of `1 - cosine`, beside the loss, which is logged without it.", gt=0)
    early: Whole = option(sentence="The early block, from 0 on.", example="1", ge=0)
    late: Whole = option(sentence="The later one.", example="3", ge=1)

    def check(self) -> Iterator[OptionError]:
        if self.late <= self.early:
            yield OptionError(("late",), f"it is behind the early block {self.early}, got {self.late}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Options):
    """How train-toy trains."""

    data: Literal["world", "echo", "digits", "scenes"] = option(
        "world",
        "Shapes and tones drawn on the fly; tones that tell of their picture; real handwritten digits; scenes of up to "
        "four objects, whose captions leave much free.",
    )
    picture_size: Whole | None = option(
        None, "Of scenes: pixels a side, 16 or 32; null: 16.", later=True, ge=16, le=32, multiple_of=16
    )
    steps: Whole = option(600, "Training steps.", gt=0)
    batch_size: Whole = option(64, "Samples a step.", gt=0)
    learning_rate: Number = option(2e-3, "Of the optimizer, after the warm-up.", gt=0)
    weight_decay: Number = option(0.01, "Of the optimizer.", ge=0)
    optimizer: OptimizerConfig = option(OptimizerConfig(), "What updates the weights.", later=True)
    warmup_steps: Whole = option(50, "Steps in which the learning rate rises.", ge=0)
    clip_grad_norm: Number = option(1.0, "Largest norm of the gradients.", gt=0)
    ema_decay: Number = option(0.99, "Of the weights' average, which is what draws.", ge=0, lt=1)
    caption_dropout: Number = option(
        0.1, "Share of captions left out, which classifier-free guidance needs.", ge=0, lt=1
    )
    shift: Number = option(1.0, "Of the timesteps, toward noise where above 1 (Esser et al. 2024, eq. 23).", gt=0)
    compile: Flag = option(
        False, "Runs the network through torch.compile, and says after how many steps that pays.", later=True
    )
    loss_weights: dict[Text, Annotated[Number, Gt(0)]] = option({}, "By modality; 1 where it says nothing.")
    parametrization: Literal["standard", "mup"] = option(
        "standard",
        "How initialization and learning rates depend on the widths; mup: so that the best learning rate does not "
        "(Yang et al. 2022, arXiv 2203.03466; of MMDiT: arXiv 2505.15270).",
        later=True,
    )
    mup: MupConfig = option(MupConfig(), "Of parametrization mup.", later=True)
    timesteps: TimestepDensity = option(TimestepDensity(), "How timesteps are drawn.")
    prediction: PredictionConfig = option(PredictionConfig(), "What is predicted.", later=True)
    alignment: AlignmentConfig | None = option(None, "Aligns early representations with later ones.", later=True)
    sampler: SamplerConfig = option(SamplerConfig(), "How samples are drawn.")
    evaluation_samples: Whole = option(256, "Drawn at the end, of captions as trained on and of held-out ones.", gt=0)
    evaluate_every: Whole = option(200, "Steps between evaluations on the way; 0: only at the end.", ge=0)
    checkpoint_every: Whole = option(200, "Steps between checkpoints.", gt=0)

    def check(self) -> Iterator[OptionError]:
        if self.optimizer.kind == "muon" and self.parametrization == "mup":
            message = "the learning rates of mup are AdamW's; take kind: adamw, or parametrization: standard"
            yield OptionError(("optimizer", "kind"), message)
