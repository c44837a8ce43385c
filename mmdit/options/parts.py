"""The parts of a model: of a block, of a modality's two ends, of the conditioning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MultipleOf

from mmdit.options.fields import Count, Flag, Number, OptionError, Options, Text, Whole, option

# ------------------------------------------------------------------------------------------------ parts of a block

PLAIN = ("plain", "nested")  # residuals of one stream
Kernel = Annotated[Whole, Ge(1)]  # tokens that a projection over time sees


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Options):
    """What the attention of every block is made of."""

    kind: Literal["standard", "adaptive"] = option(
        "standard",
        "Standard attention, or adaptive: every projection keeps several weights, which a gate mixes per head.",
        keywords={"num_adaptive_weights": 1},
        made=lambda weights: "adaptive" if weights > 1 else "standard",
        types=(Whole,),
    )
    num_adaptive_weights: Whole = option(
        1, "Weight matrices that each projection holds; 1 is standard attention.", ge=1
    )
    gating: Literal["token", "sample"] = option(
        "token",
        "Where the gate of adaptive weights comes from: each token, or the conditioning vector of the sample.",
    )
    softclamp: Number | None = option(
        None,
        "Clamp the logits to +-value by a tanh. No fused kernel can, so that the scores are held in memory.",
        keywords={"softclamp_value": 50.0, "softclamp": False},
        made=lambda value, clamped: value if clamped else None,
        types=(Annotated[Number, Gt(0)], Flag),
        gt=0,
    )
    flash_attn: Flag | None = option(
        None,
        "Unset or true: `scaled_dot_product_attention`, which picks a fused kernel; false: the formula written out.",
        later=True,
    )
    bias: Flag = option(False, "Whether the attention's projections have a bias.")
    qk_norm_scale: Literal["per_head", "shared"] = option(
        "per_head",
        "Whether `qk_rmsnorm` learns a scale for each head, or one that all heads share (SD3.5).",
        keywords={"qk_norm_shared": False},
        made=lambda shared: "shared" if shared else "per_head",
        types=(Flag,),
    )
    qk_layernorm: Flag = option(False, "Queries and keys through a layer norm without weights (AuraFlow).")
    qk_norm_eps: Number | None = option(
        None, "Added to the variance in the norms of queries and keys; null: norm_eps (MMAudio).", later=True, ge=0
    )
    out_kernel: Kernel | dict[Text, Kernel] = option(
        1,
        "Over how many tokens the out projection is a convolution, an odd number; or by modality, 1 where it is not "
        "named (MMAudio: 3).",
        later=True,
    )

    kv_heads: Whole | None = option(
        None,
        "Heads of keys and values, each for as many heads of queries (Lumina-Image); unset: as many.",
        keywords={},
        later=True,
        gt=0,
    )
    scale: Number | None = option(
        None,
        "What the logits are multiplied by; null: 1 / sqrt(dim_head). muP wants it to fall as 1 / dim_head.",
        keywords={},
        later=True,
        gt=0,
    )
    out_gate: Flag | Literal["per_head"] = option(
        False,
        "Multiply what it gives by the sigmoid of a linear of what it reads, before the out projection: each feature "
        "of each head (Qiu et al. 2025; Krea 2), or per_head each head.",
        keywords={},
        later=True,
    )

    def of_modality(self, name: str) -> AttentionOptions:
        """The same where that modality is the only one."""
        return self if isinstance(self.out_kernel, int) else replace(self, out_kernel=self.out_kernel.get(name, 1))

    def check(self) -> Iterator[OptionError]:
        if self.kind == "adaptive" and self.num_adaptive_weights < 2:
            message = "kind 'adaptive' mixes at least 2 weights; set num_adaptive_weights >= 2"
            yield OptionError(("num_adaptive_weights",), message)
        if self.kind == "standard" and self.num_adaptive_weights != 1:
            message = "kind 'standard' has 1 weight; set kind: adaptive to mix several"
            yield OptionError(("num_adaptive_weights",), message)
        if self.kind == "standard" and self.gating != "token":
            yield OptionError(("gating",), "gating is a setting of kind 'adaptive'")
        if self.kv_heads is not None and self.kind == "adaptive":
            message = "adaptive weights are mixed for each head, so that keys and values have as many heads as queries"
            yield OptionError(("kv_heads",), message)
        if self.flash_attn and self.softclamp is not None:
            yield OptionError(("flash_attn",), "no fused kernel can soft-clamp the logits; leave flash_attn unset")
        yield from check_kernel("out_kernel", self.out_kernel)
        if self.kind == "adaptive" and self.out_kernel != 1:
            yield OptionError(("out_kernel",), "kind 'adaptive' has no convolution; leave out_kernel at 1")


@dataclass(frozen=True, kw_only=True)
class NetworkAttentionOptions(AttentionOptions):
    """The same of a whole network, some of whose blocks have a second one."""

    dual: tuple[Count, ...] = option(
        (),
        "Blocks with a second attention, over the last modality alone (SD3.5-medium).",
        keywords="dual_blocks",
    )


@dataclass(frozen=True, kw_only=True)
class ResidualOptions(Options):
    """How a block's branches are added to its tokens."""

    kind: Literal["plain", "nested", "hyper_connections", "manifold_hyper_connections"] = option(
        "plain",
        "Hyper-connections (Zhu et al. 2024) and their manifold-constrained form (Xie et al. 2025) have several "
        "streams; nested: the stream keeps what the feedforward makes of the attention, not the attention (AuraFlow).",
        keywords={"residual": None, "num_residual_streams": 1},
        made=lambda kind, streams: kind or ("plain" if streams == 1 else "manifold_hyper_connections"),
        types=(Any, Whole),
    )
    streams: Whole = option(1, "Residual streams of each token.", keywords="num_residual_streams", ge=1)
    dynamic: Flag = option(
        True, "Whether the mixing of the streams depends on the tokens.", keywords="dynamic_residual"
    )

    def check(self) -> Iterator[OptionError]:
        if self.kind in PLAIN and self.streams != 1:
            message = f"kind {self.kind!r} has 1 stream, got {self.streams}; set kind: hyper_connections"
            yield OptionError(("streams",), message)
        if self.kind in PLAIN and not self.dynamic:
            yield OptionError(("dynamic",), f"kind {self.kind!r} mixes no streams; set kind: hyper_connections")
        if self.kind not in PLAIN and self.streams < 2:
            yield OptionError(("streams",), f"kind {self.kind!r} needs at least 2 streams, got {self.streams}")


@dataclass(frozen=True, kw_only=True)
class FeedForwardOptions(Options):
    """The feedforward of every modality in every block."""

    mult: Number = option(4, "Hidden width over the stream's.", gt=0)
    dim: Whole | None = option(None, "Hidden width; null: mult times the stream's.", keywords="dim_hidden", ge=1)
    kind: Literal["gelu", "gelu_tanh", "silu", "geglu", "geglu_tanh", "swiglu"] = option(
        "gelu", "The activation; geglu, geglu_tanh and swiglu multiply by it (Shazeer 2020)."
    )
    bias: Flag = option(True, "Whether both linears have a bias.")
    dropout: Number = option(0.0, "Share of hidden features dropped in training.", later=True, ge=0, le=1)
    kernel: Kernel | dict[Text, Kernel] = option(
        1,
        "Over how many tokens its linears are convolutions, an odd number; or by modality, 1 where it is not named "
        "(MMAudio: 3).",
        later=True,
    )

    def check(self) -> Iterator[OptionError]:
        yield from check_kernel("kernel", self.kernel)

    def of_modality(self, name: str) -> FeedForwardOptions:
        """The same where that modality is the only one."""
        return self if isinstance(self.kernel, int) else replace(self, kernel=self.kernel.get(name, 1))

    @classmethod
    def of_published(cls, ff_kwargs: Mapping[str, Any] | FeedForwardOptions | None) -> FeedForwardOptions:
        """From `ff_kwargs`, in which the published package's spelling works too: there `glu`, `swish` and `no_bias` are
        flags; here the first two name a `kind` and the last is `bias=False`."""
        if isinstance(ff_kwargs, FeedForwardOptions):
            return ff_kwargs
        given = dict(ff_kwargs or {})
        if "glu" in given or "swish" in given:
            if "kind" in given:
                raise OptionError((), "give either kind or the flags glu and swish, not both")
            kinds = {(False, False): "gelu", (False, True): "silu", (True, False): "geglu", (True, True): "swiglu"}
            given["kind"] = kinds[bool(given.pop("glu", False)), bool(given.pop("swish", False))]
        if "no_bias" in given:
            given["bias"] = not given.pop("no_bias")
        if unknown := [key for key in given if key not in cls.keywords()]:
            known = ", ".join([*cls.keywords(), "glu", "swish", "no_bias"])
            raise OptionError((), f"unknown {', '.join(unknown)}; known are {known}")
        return cls.of(None, given, "ff_kwargs")


@dataclass(frozen=True, kw_only=True)
class ModulationOptions(Options):
    """From the conditioning vector to the shifts, scales and gates of the blocks."""

    bias: Flag = option(True, "Whether the modulations have a bias.", keywords="modulation_bias")
    shared: Flag = option(
        False,
        "One modulation for all joint blocks, and one for all single-stream blocks (FLUX.2).",
        keywords={"shared_modulation": False, "own_modulation": True},
        made=lambda shared, own: shared or not own,
        types=(Flag, Flag),
    )
    parts: Literal["shift_scale_gate", "scale_gate", "gate"] = option(
        "shift_scale_gate",
        "What it gives each norm and branch; with gates alone the norms have weights (HunyuanVideo's refiner).",
        keywords={},
        later=True,
    )
    gate: Literal["plain", "tanh"] = option(
        "plain", "What is done to the gates (tanh: Lumina-Image, Z-Image).", keywords={}, later=True
    )
    activation: Literal["silu", "none"] = option(
        "silu", "What is done to the conditioning vector before (none: Z-Image, Ideogram 4).", keywords={}, later=True
    )
    table: Flag = option(
        False,
        "One modulation for the whole network, to which each block adds a learned table for each of its modalities "
        "(adaLN-single: PixArt-alpha, Chen et al. 2023; JoyImage-Edit).",
        keywords={},
        later=True,
    )

    def check(self) -> Iterator[OptionError]:
        if self.table and self.shared:
            yield OptionError(("table",), "with a table a block has a modulation of its own; leave shared at false")


@dataclass(frozen=True, kw_only=True)
class SingleStreamOptions(Options):
    """Blocks after the joint ones, over all tokens as one stream, with one set of weights for all modalities in it."""

    depth: Whole = option(sentence="Number of these blocks.", example="4", ge=1)
    kind: Literal["parallel", "sequential"] = option(
        "parallel", "Attention beside the feedforward (FLUX), or before it (AuraFlow)."
    )
    modalities: tuple[Text, ...] | None = option(
        None,
        "Those in the stream; the others stay as the joint blocks leave them (MMAudio: the audio alone). null: all.",
        keywords={},
        later=True,
        min_length=1,
    )
    modulation: Literal["joined", "by_modality"] = option(
        "joined",
        "One modulation for all tokens, or one for those of each modality (CogView4; with modulation.shared FLUX.3).",
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class RotaryOptions(Options):
    """Rotary positions (Su et al. 2021): each axis turns its own share of a head's features."""

    axes: tuple[Annotated[Whole, Ge(2), MultipleOf(2)], ...] = option(
        sentence="Features of a head that each axis turns; they add up to dim_head.", example="[32, 32]", min_length=1
    )
    theta: Number = option(10_000, "The longest wavelength is about 2 pi theta.", gt=0)
    ladder: Literal["own", "shared"] = option(
        "own",
        "The frequencies of each axis are its own, or all take turns at those of one axis (Qwen3-VL, Ideogram 4).",
        later=True,
    )

    def check(self) -> Iterator[OptionError]:
        count, pairs = len(self.axes), sum(self.axes) // 2
        for index, share in enumerate(self.axes):
            most = 2 * ((pairs - index - 1) // count + 1)
            if self.ladder == "shared" and index and share > most:
                message = f"one in {count} of {pairs} frequencies is its own, so that it has {most} features at most"
                yield OptionError(("axes", index), f"{message}, got {share}; the first axis has the rest")


# ------------------------------------------------------------------------------------------------------ conditioning


@dataclass(frozen=True, kw_only=True)
class NumberOptions(Options):
    """A number's sinusoid, and the MLP that makes the conditioning vector of it (DiT, section 3.2)."""

    frequencies: Whole = option(256, "Sines and cosines of it.", ge=2, multiple_of=2)
    scale: Number = option(1, "It is multiplied by this: 1 for 0..1000, 1000 for 0..1.", gt=0)
    bias: Flag = option(True, "Whether the MLP has a bias.")
    fastest: Number | None = option(
        None,
        "Angular frequency of the fastest wave, of a number in 0..1000, multiplied in where MMAudio (10) does; the "
        "slowest is 10,000 times as slow. null: 1.",
        later=True,
        gt=0,
    )
    hidden: Whole | None = option(None, "Width between its linears; null: that of what comes out.", later=True, gt=0)
    dim: Whole | None = option(
        None,
        "Width of what comes out, which another linear and a silu then make the conditioning vector of (Ideogram 4); "
        "null: it is that vector.",
        later=True,
        gt=0,
    )
    waves: Literal["dit", "ddpm"] = option(
        "dit",
        "Cosines first, of frequencies from 1 to just above 1/10000; or sines first, down to it (DDPM, Ideogram 4).",
        later=True,
    )

    def check(self) -> Iterator[OptionError]:
        if self.fastest is not None and self.waves != "dit":
            yield OptionError(("waves",), "fastest says which waves there are, cosines first; leave waves at dit")
        if self.waves == "ddpm" and self.frequencies < 4:
            message = f"waves 'ddpm' are of two frequencies at least, so 4 or more, got {self.frequencies}"
            yield OptionError(("frequencies",), message)


@dataclass(frozen=True, kw_only=True)
class TimestepOptions(NumberOptions):
    """The same of a timestep, and of the one where the step ends, which a network for few steps is told too (mean
    flows, Geng et al. 2025, arXiv 2505.13447)."""

    second: Literal["mean", "sum"] | None = option(
        None,
        "A second timestep, where the step ends, has an MLP of its own, and what both give is averaged (the distilled "
        "HunyuanImage-2.1) or added (the distilled HunyuanVideo-1.5, FLUX.3-klein); null: there is none.",
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions(NumberOptions):
    """The guidance scale as a further condition, for models distilled from guided ones (FLUX.1-dev)."""


@dataclass(frozen=True, kw_only=True)
class PooledOptions(Options):
    """A vector a sample, such as the pooled text, added to the conditioning."""

    dim: Whole = option(sentence="Its width.", example="2048", gt=0)
    frequencies: Whole | None = option(
        None,
        "It is of numbers, such as sizes in pixels: so many sines and cosines of each are embedded (CogView4: 256; "
        "PRX-7B: 128).",
        later=True,
        ge=2,
        multiple_of=2,
    )


@dataclass(frozen=True, kw_only=True)
class ClassLabelOptions(Options):
    """A sample's class, of which a learned vector is added to the conditioning (DiT)."""

    classes: Whole = option(
        sentence="Number of different labels, that of no class included where there is one.", example="1001", gt=0
    )


# ------------------------------------------------------------------------------------------------------ their rules


def check_kernel(key: str, kernel: int | Mapping[str, int]) -> Iterator[OptionError]:
    """A convolution is centred on its token."""
    named = {(): kernel} if isinstance(kernel, int) else {(name,): size for name, size in kernel.items()}
    for at, size in named.items():
        if size % 2 == 0:
            yield OptionError((key, *at), f"as many tokens on either side make an odd number, got {size}")
