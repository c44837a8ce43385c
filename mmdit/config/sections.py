"""The sections of a model's config: the ends of a modality, the parts of a block, the conditioning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

LARGEST = 1 << 32  # of sizes and counts; what they multiply to is checked where it is known
NonNegativeInt = Annotated[int, Field(ge=0)]
Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list is as good as a tuple; its items stay strict
Indexes = Annotated[tuple[NonNegativeInt, ...], Field(strict=False)]


class Section(BaseModel):
    """A part of the config: immutable, no unknown keys, no silent conversion (`true` is not 1, `"4"` is not 4)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sizes_are_possible(self) -> Section:
        for key, value in self:
            for at, size in value.items() if isinstance(value, dict) else [(None, value)]:
                if isinstance(size, int) and size > LARGEST:
                    raise wrong((key,) if at is None else (key, at), f"expected a number <= {LARGEST}, got {size}")
        return self


def wrong(at: tuple[str | int, ...], message: str) -> PydanticCustomError:
    """A validation error pinned to the key at the path `at` below the section that raises it."""
    return PydanticCustomError("value_error", "{message}", {"message": message, "at": at})


# ---------------------------------------------------------------------------------------------- ends of a modality


class LinearInput(Section):
    """A sequence `b n dim`, normed if asked for, projected to the stream's width."""

    kind: Literal["linear"]
    dim: PositiveInt
    norm: Literal["none", "rms"] = "none"
    bias: bool = True
    positions: Literal["none", "sincos"] = "none"


class PatchInput(Section):
    """An image `b c h w` cut into `patch` x `patch` squares, with a 2D table of positions cropped at its centre."""

    kind: Literal["patches"]
    channels: PositiveInt
    patch: PositiveInt
    bias: bool = True
    positions: Literal["none", "sincos", "learned"] = "sincos"
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
    norm: bool = True  # false: modulated as it is (AuraFlow)
    bias: bool = True


class PatchOutput(Section):
    """Adaptive final norm, then a projection to patches, put together to `b c h w`."""

    kind: Literal["patches"]
    channels: PositiveInt
    norm: bool = True
    bias: bool = True


class ModalityRotary(Section):
    """Where a modality's tokens stand on the rotary axes; on the others they stand at 0.

    An image has its rows on the first of `axes` and its columns on the second; a sequence counts its tokens on each.
    """

    axes: Indexes
    centered: bool = False  # an image's rows and columns are counted from its middle (Qwen-Image)
    after: str | None = None  # a sequence is counted from behind this modality's last row or column (Qwen-Image)
    scale: PositiveFloat = 1  # distance of two tokens, to align sequences of different rates in time


class ModalityConfig(Section):
    dim: PositiveInt
    input: Annotated[LinearInput | PatchInput | TokenInput, Field(discriminator="kind")] | None = None
    output: Annotated[LinearOutput | PatchOutput, Field(discriminator="kind")] | None = None
    rotary: ModalityRotary | None = None  # null: not rotated

    @model_validator(mode="after")
    def _ends_match(self) -> ModalityConfig:
        if isinstance(self.output, PatchOutput) and not isinstance(self.input, PatchInput):
            raise wrong(("output", "kind"), "output 'patches' puts an image together, so it needs input kind 'patches'")
        positions = isinstance(self.input, (PatchInput, LinearInput)) and self.input.positions == "sincos"
        multiple = 4 if isinstance(self.input, PatchInput) else 2
        if positions and self.dim % multiple:
            raise wrong(("dim",), f"sine-cosine positions need a dim that is a multiple of {multiple}, got {self.dim}")
        if self.rotary is not None:
            image = isinstance(self.input, PatchInput)
            if image and len(self.rotary.axes) != 2:
                raise wrong(("rotary", "axes"), "an image needs two axes: that of its rows and that of its columns")
            if image and self.rotary.after is not None:
                raise wrong(("rotary", "after"), "after is for sequences; an image's rows and columns begin at 0")
            if image and self.rotary.scale != 1:
                raise wrong(("rotary", "scale"), "scale is for sequences; an image's rows and columns are 1 apart")
            if not image and self.rotary.centered:
                raise wrong(("rotary", "centered"), "centered is for images (input kind 'patches')")
        return self


# ------------------------------------------------------------------------------------------------ parts of a block


class AttentionConfig(Section):
    kind: Literal["standard", "adaptive"] = "standard"
    num_adaptive_weights: PositiveInt = 1
    gating: Literal["token", "sample"] = "token"
    softclamp: PositiveFloat | None = None
    bias: bool = False
    qk_norm_scale: Literal["per_head", "shared"] = "per_head"  # shared: one scale for all heads (SD3.5)
    qk_layernorm: bool = False  # queries and keys through a layer norm without weights (AuraFlow)
    dual: Indexes = ()  # blocks with a second attention over the last modality alone

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
    # nested: what attention gives is seen by the feedforward, but not kept in the stream (AuraFlow)
    kind: Literal["plain", "nested", "hyper_connections", "manifold_hyper_connections"] = "plain"
    streams: PositiveInt = 1
    dynamic: bool = True  # false: the mixing weights are parameters alone and do not depend on the tokens

    @model_validator(mode="after")
    def _streams_match_kind(self) -> ResidualConfig:
        single = self.kind in ("plain", "nested")
        if single and self.streams != 1:
            raise wrong(
                ("streams",), f"kind {self.kind!r} has 1 stream, got {self.streams}; set kind: hyper_connections"
            )
        if not single and self.streams < 2:
            raise wrong(("streams",), f"kind {self.kind!r} needs at least 2 streams, got {self.streams}")
        return self


class FeedForwardConfig(Section):
    mult: PositiveFloat = 4
    dim: PositiveInt | None = None  # hidden width; null: mult times the stream's
    kind: Literal["gelu", "gelu_tanh", "silu", "geglu", "swiglu"] = "gelu"
    bias: bool = True


class ModulationConfig(Section):
    bias: bool = True
    shared: bool = False  # one modulation for all joint blocks, and one for all single-stream blocks (FLUX.2)


class SingleStreamConfig(Section):
    """Blocks after the joint ones, over all tokens as one stream, with one set of weights for all modalities."""

    depth: PositiveInt
    kind: Literal["parallel", "sequential"] = (
        "parallel"  # attention beside the feedforward (FLUX), or before (AuraFlow)
    )


class RotaryConfig(Section):
    """Rotary positions (Su et al. 2021): each axis turns its own share of a head's features."""

    axes: Annotated[tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...], Field(strict=False, min_length=1)]
    theta: PositiveFloat = 10_000


class TimestepConfig(Section):
    frequencies: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    scale: PositiveFloat = 1  # the timestep is multiplied by this: 1 for 0..1000, 1000 for 0..1
    bias: bool = True


class GuidanceConfig(TimestepConfig):
    """The guidance scale as a further condition, for models distilled from guided ones (FLUX.1-dev)."""


class PooledConfig(Section):
    dim: PositiveInt
