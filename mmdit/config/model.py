"""The model's configuration as data, and `build`, which turns it into a module.

The schema holds what a *model* is. What the tool feeds and how it trains one (`run:` and `train:` in a file) belongs to
the tool; here those two sections pass through unread, so that `build("file.yaml")` works on any config file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from mmdit.config.file import ConfigError, load_config, validate_mapping
from mmdit.config.sections import (
    AttentionConfig,
    FeedForwardConfig,
    GuidanceConfig,
    LinearInput,
    LinearOutput,
    ModalityConfig,
    ModalityRotary,
    ModulationConfig,
    Names,
    NonNegativeInt,
    PatchInput,
    PatchOutput,
    PooledConfig,
    ResidualConfig,
    RotaryConfig,
    Section,
    SingleStreamConfig,
    TimestepConfig,
    TokenInput,
    wrong,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "AttentionConfig",
    "Config",
    "ConfigError",
    "FeedForwardConfig",
    "GuidanceConfig",
    "LinearInput",
    "LinearOutput",
    "ModalityConfig",
    "ModalityRotary",
    "ModelConfig",
    "ModulationConfig",
    "PatchInput",
    "PatchOutput",
    "PooledConfig",
    "ResidualConfig",
    "RotaryConfig",
    "SingleStreamConfig",
    "TimestepConfig",
    "TokenInput",
    "as_config",
    "build",
    "wrong",
]

# --------------------------------------------------------------------------------------------------- the whole model


# The largest published model has 60 for each of two modalities. Thousands would overflow the stack: torch frees a
# graph by recursion.
MAX_BLOCKS = 512


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
    rotary: RotaryConfig | None = None
    residual: ResidualConfig = ResidualConfig()
    feedforward: FeedForwardConfig = FeedForwardConfig()
    single_stream: SingleStreamConfig | None = None
    modulation: ModulationConfig = ModulationConfig()
    adaln: Literal["zero", "identity"] = "zero"
    norm_eps: PositiveFloat = 1e-6
    register_tokens: NonNegativeInt | dict[str, NonNegativeInt] = 0
    discard: Names = ()  # modalities not needed after the last block
    # what published checkpoints hold for a discarded modality in the last joint block, and nothing reads: its query
    # projection (SD3) or all of it (Qwen-Image)
    unused_weights: Literal["none", "queries", "all"] = "none"
    skip_last_feedforward: Names | None = None  # null: text for two_modality, none for generalized
    final_norm: bool | None = None  # null: on where a modality has no output head, whose norm would repeat it
    timestep: TimestepConfig | None = None
    guidance: GuidanceConfig | None = None
    pooled: PooledConfig | None = None
    checkpoint_activations: bool = False  # recompute each block in the backward pass
    varlen: bool = False  # where masks leave tokens out, compute the others alone

    @model_validator(mode="after")
    def _parts_match(self) -> ModelConfig:
        names = tuple(self.modalities)
        single = 0 if self.single_stream is None else self.single_stream.depth
        if (blocks := self.depth * len(names) + single) > MAX_BLOCKS:  # each is built, though without memory
            count = f"{self.depth} x {len(names)} modalities" + (f" + {single}" if single else "")
            raise wrong(
                ("single_stream", "depth") if single > self.depth * len(names) else ("depth",),
                f"expected at most {MAX_BLOCKS} blocks of a modality in all, got {count} = {blocks}",
            )
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
        for key in ("timestep", "guidance", "pooled"):
            if getattr(self, key) is None:
                continue
            if self.dim_cond is None:
                raise wrong((key,), f"{key} conditions the blocks through dim_cond, which is null; set it")
            if self.timestep is None:
                raise wrong((key,), f"{key} is added to the timestep embedding; set timestep as well")
        if self.has_ends and self.dim_cond is not None and self.timestep is None:
            raise wrong(("timestep",), "a model with ends makes its conditioning from the timestep; set timestep")
        self._check_modulation()
        self._check_single_stream()
        self._check_heads()
        self._check_rotary()
        return self

    def _check_modulation(self) -> None:
        if self.modulation != ModulationConfig() and self.dim_cond is None:
            raise wrong(("modulation",), "modulation comes from the conditioning vector, so set dim_cond")
        if self.adaln == "identity" and not self.modulation.bias:
            raise wrong(("modulation", "bias"), "adaln 'identity' starts the gates at 1 by their bias; set bias: true")
        if self.qk_rmsnorm and self.attention.qk_layernorm:
            raise wrong(("attention", "qk_layernorm"), "queries and keys have one norm; qk_rmsnorm is on")
        if self.attention.dual and self.modulation.shared:
            raise wrong(("modulation", "shared"), "the second attention of attention.dual has no shared modulation")
        last = tuple(self.modalities)[-1]
        if self.depth - 1 in self.attention.dual and last in self.discard and self.single_stream is None:
            raise wrong(("attention", "dual"), f"the last block discards {last!r}, so it can't attend to it again")
        if self.unused_weights != "none":
            if not self.discard:
                raise wrong(("unused_weights",), "unused weights are those of a discarded modality; set discard")
            if self.attention.kind == "adaptive":
                raise wrong(("unused_weights",), "no published checkpoint is adaptive; leave unused_weights at none")

    def _check_single_stream(self) -> None:
        if self.single_stream is None:
            return
        if len({modality.dim for modality in self.modalities.values()}) > 1:
            widths = ", ".join(f"{name} {modality.dim}" for name, modality in self.modalities.items())
            raise wrong(("single_stream",), f"one stream holds all tokens, so their widths must be equal, got {widths}")
        if self.unused_weights != "none":
            raise wrong(("unused_weights",), "the single-stream blocks read every modality, so no weight is unused")
        if self.skip_last_feedforward:
            raise wrong(("skip_last_feedforward",), "the single-stream blocks read what the last feedforward gives")

    def _check_heads(self) -> None:
        from mmdit.layers.heads import resolve_heads

        try:
            resolve_heads(dim_joint_attn=self.dim_joint_attn, heads=self.heads, dim_head=self.dim_head)
        except ValueError as error:
            key = next(k for k in ("dim_joint_attn", "heads", "dim_head") if getattr(self, k) is not None)
            raise wrong((key,), str(error)) from None

    def _check_rotary(self) -> None:
        from mmdit.layers.heads import resolve_heads

        for name, modality in self.modalities.items():
            at, place = ("modalities", name, "rotary"), modality.rotary
            if place is None:
                continue
            if self.rotary is None:
                raise wrong(at, "the model has no rotary axes; set rotary: {axes: [...]} below model")
            for index, axis in enumerate(place.axes):
                if axis >= len(self.rotary.axes):
                    raise wrong((*at, "axes", index), f"axis {axis} does not exist; there are {len(self.rotary.axes)}")
            other = None if place.after is None else self.modalities.get(place.after)
            if place.after is not None and (other is None or other.rotary is None or other.rotary.after):
                raise wrong((*at, "after"), f"{place.after!r} is no modality with a rotary place of its own")
            if len(set(place.axes)) != len(place.axes) or not place.axes:
                raise wrong((*at, "axes"), f"its axes must be one or more, all different, got {list(place.axes)}")
            if modality.input is None:
                raise wrong(at, f"{name!r} needs an input, which knows where its tokens are")
        if self.rotary is None:
            return
        _, dim_head = resolve_heads(dim_joint_attn=self.dim_joint_attn, heads=self.heads, dim_head=self.dim_head)
        if sum(self.rotary.axes) != dim_head:
            raise wrong(
                ("rotary", "axes"),
                f"the axes share dim_head = {dim_head} features, got a sum of {sum(self.rotary.axes)}",
            )
        if all(modality.rotary is None for modality in self.modalities.values()):
            raise wrong(("rotary",), "no modality has a place on the rotary axes; set rotary below one of modalities")

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
    from mmdit.config.build import build_model

    return build_model(as_config(config).model)
