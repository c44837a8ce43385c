"""The model's configuration as data, and `build`, which turns it into a module.

The schema holds what a *model* is. What the tool feeds and how it trains one (`run:` and `train:` in a file) belongs to
the tool; here those two sections pass through unread, so that `build("file.yaml")` works on any config file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from mmdit.config_file import ConfigError, load_config, validate_mapping

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "AttentionConfig",
    "Config",
    "ConfigError",
    "FeedForwardConfig",
    "LinearInput",
    "LinearOutput",
    "ModalityConfig",
    "ModelConfig",
    "PatchInput",
    "PatchOutput",
    "PooledConfig",
    "ResidualConfig",
    "TimestepConfig",
    "TokenInput",
    "as_config",
    "build",
    "wrong",
]

NonNegativeInt = Annotated[int, Field(ge=0)]
Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list is as good as a tuple; its items stay strict
Indexes = Annotated[tuple[NonNegativeInt, ...], Field(strict=False)]


class Section(BaseModel):
    """A part of the config: immutable, no unknown keys, no silent conversion (`true` is not 1, `"4"` is not 4)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def wrong(at: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """A validation error pinned to the key at the path `at` below the section that raises it."""
    return PydanticCustomError("value_error", "{message}", {"message": message, "at": at})


# ---------------------------------------------------------------------------------------------- ends of a modality


class LinearInput(Section):
    """A sequence `b n dim` projected to the stream's width."""

    kind: Literal["linear"]
    dim: PositiveInt
    positions: Literal["none", "sincos"] = "none"


class PatchInput(Section):
    """An image `b c h w` cut into `patch` x `patch` squares, with a 2D sine-cosine table cropped at its centre."""

    kind: Literal["patches"]
    channels: PositiveInt
    patch: PositiveInt
    positions: Literal["none", "sincos"] = "sincos"
    max_size: PositiveInt = 192  # patches a side of the position table
    base_size: PositiveInt | None = (
        None  # patches a side that span the table's unit; null: max_size (positions 0, 1, 2, ...)
    )


class TokenInput(Section):
    """Integer token ids `b n`, embedded, with learned positions."""

    kind: Literal["tokens"]
    vocabulary: PositiveInt
    max_length: PositiveInt


class LinearOutput(Section):
    """Adaptive final norm, then a projection to `b n dim`."""

    kind: Literal["linear"]
    dim: PositiveInt


class PatchOutput(Section):
    """Adaptive final norm, then a projection to patches, put together to `b c h w`."""

    kind: Literal["patches"]
    channels: PositiveInt


class ModalityConfig(Section):
    dim: PositiveInt
    input: Annotated[LinearInput | PatchInput | TokenInput, Field(discriminator="kind")] | None = None
    output: Annotated[LinearOutput | PatchOutput, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _ends_match(self) -> ModalityConfig:
        if isinstance(self.output, PatchOutput) and not isinstance(self.input, PatchInput):
            raise wrong(("output", "kind"), "output 'patches' puts an image together, so it needs input kind 'patches'")
        positions = isinstance(self.input, (PatchInput, LinearInput)) and self.input.positions == "sincos"
        multiple = 4 if isinstance(self.input, PatchInput) else 2
        if positions and self.dim % multiple:
            raise wrong(("dim",), f"sine-cosine positions need a dim that is a multiple of {multiple}, got {self.dim}")
        return self


# ------------------------------------------------------------------------------------------------ parts of a block


class AttentionConfig(Section):
    kind: Literal["standard", "adaptive"] = "standard"
    num_adaptive_weights: PositiveInt = 1
    gating: Literal["token", "sample"] = "token"
    softclamp: PositiveFloat | None = None
    bias: bool = False
    qk_norm_scale: Literal["per_head", "shared"] = "per_head"  # shared: one scale for all heads (SD3.5)
    dual: Indexes = ()  # blocks with a second attention over the last modality alone
    unused_queries: bool = False  # keep the query weights that published checkpoints hold for a discarded modality

    @model_validator(mode="after")
    def _weights_match_kind(self) -> AttentionConfig:
        if self.kind == "adaptive" and self.num_adaptive_weights < 2:
            raise wrong(
                ("num_adaptive_weights",), "kind 'adaptive' mixes at least 2 weights; set num_adaptive_weights >= 2"
            )
        if self.kind == "standard" and self.num_adaptive_weights != 1:
            raise wrong(("num_adaptive_weights",), "kind 'standard' has 1 weight; set kind: adaptive to mix several")
        if self.kind == "standard" and self.gating != "token":
            raise wrong(("gating",), "gating is a setting of kind 'adaptive'")
        return self


class ResidualConfig(Section):
    kind: Literal["plain", "hyper_connections", "manifold_hyper_connections"] = "plain"
    streams: PositiveInt = 1
    dynamic: bool = True  # false: the mixing weights are parameters alone and do not depend on the tokens

    @model_validator(mode="after")
    def _streams_match_kind(self) -> ResidualConfig:
        if self.kind == "plain" and self.streams != 1:
            raise wrong(("streams",), f"kind 'plain' has 1 stream, got {self.streams}; set kind: hyper_connections")
        if self.kind != "plain" and self.streams < 2:
            raise wrong(("streams",), f"kind {self.kind!r} needs at least 2 streams, got {self.streams}")
        return self


class FeedForwardConfig(Section):
    mult: PositiveFloat = 4
    kind: Literal["gelu", "gelu_tanh", "silu", "geglu", "swiglu"] = "gelu"
    bias: bool = True


class TimestepConfig(Section):
    frequencies: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    scale: PositiveFloat = 1  # the timestep is multiplied by this: 1 for 0..1000, 1000 for 0..1


class PooledConfig(Section):
    dim: PositiveInt


# --------------------------------------------------------------------------------------------------- the whole model


class ModelConfig(Section):
    variant: Literal["two_modality", "generalized"] = "generalized"
    depth: PositiveInt
    modalities: dict[str, ModalityConfig] = Field(min_length=1)
    dim_cond: PositiveInt | None = None
    dim_joint_attn: PositiveInt | None = None
    heads: PositiveInt | None = None
    dim_head: PositiveInt | None = None
    qk_rmsnorm: bool = False
    attention: AttentionConfig = AttentionConfig()
    residual: ResidualConfig = ResidualConfig()
    feedforward: FeedForwardConfig = FeedForwardConfig()
    adaln: Literal["zero", "identity"] = "zero"
    norm_eps: PositiveFloat = 1e-6
    register_tokens: NonNegativeInt | dict[str, NonNegativeInt] = 0
    discard: Names = ()  # modalities not needed after the last block
    skip_last_feedforward: Names | None = None  # null: text for two_modality, none for generalized
    final_norm: bool | None = None  # null: on where a modality has no output head, whose norm would repeat it
    timestep: TimestepConfig | None = None
    pooled: PooledConfig | None = None
    checkpoint_activations: bool = False  # recompute each block in the backward pass

    @model_validator(mode="after")
    def _parts_match(self) -> ModelConfig:
        names = tuple(self.modalities)
        for name in names:
            if not name.isidentifier() or name in _taken_names():
                raise wrong(("modalities", name), f"{name!r} can't name a modality; take a word such as audio")
        if self.variant == "two_modality" and names != ("text", "image"):
            raise wrong(
                ("modalities",), f"two_modality needs exactly text, image in this order, got {', '.join(names)}"
            )
        for key in ("discard", "skip_last_feedforward"):
            for index, name in enumerate(getattr(self, key) or ()):
                if name not in names:
                    raise wrong((key, index), f"{name!r} is no modality; the modalities are {', '.join(names)}")
        if isinstance(self.register_tokens, dict):
            for name in self.register_tokens:
                if name not in names:
                    raise wrong(("register_tokens", name), f"{name!r} is no modality; they are {', '.join(names)}")
        if self.variant == "two_modality":
            if isinstance(self.register_tokens, dict) and self.register_tokens.get("text"):
                raise wrong(("register_tokens", "text"), "two_modality has register tokens before the image alone")
            if "image" in (self.skip_last_feedforward or ()):
                raise wrong(("skip_last_feedforward",), "two_modality can skip the last feedforward of text alone")
        if set(self.discard) == set(names):
            raise wrong(("discard",), "every modality is discarded, so nothing would come out; keep at least one")
        for index, block in enumerate(self.attention.dual):
            if block >= self.depth:
                raise wrong(("attention", "dual", index), f"block {block} does not exist; depth is {self.depth}")
        for name in self.discard:
            if self.modalities[name].output is not None:
                raise wrong(("modalities", name, "output"), f"{name!r} is discarded, so it can have no output head")
        if self.attention.gating == "sample" and self.dim_cond is None:
            raise wrong(("attention", "gating"), "gating 'sample' comes from the conditioning vector, so set dim_cond")
        if self.dim_cond is None and (self.timestep or self.pooled):
            key = "timestep" if self.timestep else "pooled"
            raise wrong((key,), f"{key} conditions the blocks through dim_cond, which is null; set it")
        if self.pooled and not self.timestep:
            raise wrong(("pooled",), "pooled is added to the timestep embedding; set timestep as well")
        if self.has_ends and self.dim_cond is not None and self.timestep is None:
            raise wrong(("timestep",), "a model with ends makes its conditioning from the timestep; set timestep")
        self._check_heads()
        return self

    def _check_heads(self) -> None:
        from mmdit.heads import resolve_heads

        try:
            resolve_heads(dim_joint_attn=self.dim_joint_attn, heads=self.heads, dim_head=self.dim_head)
        except ValueError as error:
            key = next(k for k in ("dim_joint_attn", "heads", "dim_head") if getattr(self, k) is not None)
            raise wrong((key,), str(error)) from None

    @property
    def has_ends(self) -> bool:
        """Whether this config describes a whole network (`MMDiTModel`) rather than a bare transformer."""
        ends = any(m.input is not None or m.output is not None for m in self.modalities.values())
        return ends or self.timestep is not None


@cache
def _taken_names() -> frozenset[str]:
    """What a `ModuleDict` of modalities has by itself."""
    from torch import nn

    return frozenset(dir(nn.ModuleDict()))


class Config(Section):
    """A config file as the library reads it. The tool's own schema narrows `run` and `train`."""

    name: str = Field(default="model", min_length=1)
    model: ModelConfig
    run: Any = None
    train: Any = None


def as_config(config: str | Path | Mapping[str, Any] | Config | ModelConfig) -> Config:
    """Read a config from a path, a mapping (`{"model": {...}}` or the model section alone) or a config object.

    Raises:
        ConfigError: the file can't be read or a key is wrong; the message names `file:line:column` and the key.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, ModelConfig):
        return Config(model=config)
    if isinstance(config, Mapping):
        return validate_mapping(config if "model" in config else {"model": config}, Config, source="config")
    return load_config(config, Config)


def build(config: str | Path | Mapping[str, Any] | Config | ModelConfig) -> nn.Module:
    """A model from a config: the bare `MMDiT`, or `MMDiTModel` where the config has ends.

    Build under `torch.device("meta")` to get its shapes without memory.

    Raises:
        ConfigError: the file can't be read or a key is wrong; the message names `file:line:column` and the key.
    """
    from mmdit.model import build_model

    return build_model(as_config(config).model)
