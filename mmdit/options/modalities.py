"""A modality's options: how it comes in and goes out, where it stands, and what refines it before the joint blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Gt, MinLen

from mmdit.options.fields import BY_KIND, Count, Flag, Number, OptionError, Options, Text, Whole, option
from mmdit.options.parts import AttentionOptions, FeedForwardOptions, Kernel, ModulationOptions, check_kernel


@dataclass(frozen=True, kw_only=True)
class LinearInput(Options):
    """A sequence `b n dim`, normed if asked for, projected to the stream's width."""

    kind: Literal["linear"] = "linear"
    dim: Whole = option(sentence="Width of what comes in.", example="4096", gt=0)
    norm: Literal["none", "rms"] = option("none", "An RMS norm before the projection.")
    bias: Flag = option(True, "Whether the projection has a bias.")
    positions: Literal["none", "sincos"] = option("none", "What is added to tell the place.")
    norm_eps: Number | None = option(
        None, "Added to the variance in the norm; null: norm_eps of the model.", later=True, ge=0
    )

    def check(self) -> Iterator[OptionError]:
        if self.norm == "none" and self.norm_eps is not None:
            yield OptionError(("norm_eps",), "there is no norm; set norm: rms, or leave norm_eps unset")


@dataclass(frozen=True, kw_only=True)
class MlpInput(Options):
    """A sequence `b n dim` through linears with an activation between them, to the stream's width."""

    kind: Literal["mlp"] = "mlp"
    dim: Whole = option(sentence="Width of what comes in.", example="4096", gt=0)
    hidden: tuple[Annotated[Whole, Gt(0)], ...] = option(
        sentence="Widths between the linears.", example="[512]", min_length=1
    )
    activation: Literal["gelu", "gelu_tanh", "silu"] = option("gelu", "What stands between the linears.")
    norm: Literal["none", "layer"] = option("none", "A layer norm with weights before them.")
    norm_out: Literal["none", "layer"] = option("none", "The same behind them.")
    norm_eps: Number = option(1e-5, "Added to the variance in these norms.", ge=0)

    def check(self) -> Iterator[OptionError]:
        if self.norm == self.norm_out == "none" and self.norm_eps != MlpInput.norm_eps:
            yield OptionError(("norm_eps",), "there is no norm; set norm or norm_out: layer, or leave norm_eps unset")


@dataclass(frozen=True, kw_only=True)
class FeedForwardInput(Options):
    """A sequence `b n dim` through a projection, an activation and a feedforward, to the stream's width (MMAudio)."""

    kind: Literal["feedforward"] = "feedforward"
    dim: Whole = option(sentence="Width of what comes in.", example="4096", gt=0)
    kernel: Kernel = option(1, "Over how many tokens the projection is a convolution, an odd number.")
    activation: Literal["none", "gelu", "gelu_tanh", "silu", "selu"] = option(
        "silu", "What stands behind the projection (MMAudio's first version: selu, or none)."
    )
    feedforward: FeedForwardOptions | None = option(None, "The feedforward; null: as the modality's in the blocks.")
    period: Count = option(0, "Learned places, added to what comes in, that begin anew after so many tokens; 0: none.")
    empty: Count = option(
        0, "Learned tokens that may stand in place of what comes in (`MMDiTModel.empty`): so many, or 1 for all."
    )
    statistics: Flag = option(
        False, "Keep mean and standard deviation of each channel with the weights (`MMDiTModel.normalize`)."
    )

    def check(self) -> Iterator[OptionError]:
        yield from check_kernel("kernel", self.kernel)
        if self.feedforward is not None and isinstance(self.feedforward.kernel, dict):
            yield OptionError(("feedforward", "kernel"), "an input is of one modality; set one number")


@dataclass(frozen=True, kw_only=True)
class PatchInput(Options):
    """An image `b c h w` cut into squares, with a 2D table of positions cropped at its centre; or a video `b c f h w`
    cut into boxes."""

    kind: Literal["patches"] = "patches"
    channels: Whole = option(sentence="Channels of the image.", example="16", gt=0)
    patch: Annotated[Whole, Gt(0)] | Annotated[tuple[Annotated[Whole, Gt(0)], ...], MinLen(3)] = option(
        sentence="Pixels a side of a patch; of a video [frames, rows, columns] of it.", example="2"
    )
    bias: Flag = option(True, "Whether the projection has a bias.")
    positions: Literal["none", "sincos", "learned"] | None = option(
        None, "What is added to tell the place; null: sincos, or none where the modality turns by its rotary place."
    )
    max_size: Whole = option(192, "Patches a side of the position table.", gt=0)
    base_size: Whole | None = option(
        None, "Patches a side that span the table's unit; null: max_size (positions 0, 1, 2, ...).", gt=0
    )
    bottleneck: Whole | None = option(
        None,
        "Width between two linears that project a patch, for large patches of pixels (JiT; PRX-7B); null: one linear.",
        later=True,
        gt=0,
    )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Those of a patch: rows and columns, of a video frames, rows and columns."""
        return (self.patch, self.patch) if isinstance(self.patch, int) else self.patch

    def check(self) -> Iterator[OptionError]:
        if len(self.sizes) > 3:
            message = f"of a video these are frames, rows and columns, got {len(self.sizes)}"
            yield OptionError(("patch",), message)


@dataclass(frozen=True, kw_only=True)
class TokenInput(Options):
    """Integer token ids `b n`, embedded, with learned positions."""

    kind: Literal["tokens"] = "tokens"
    vocabulary: Whole = option(sentence="Number of different ids.", example="256", gt=0)
    max_length: Whole = option(sentence="Most tokens of a sample.", example="128", gt=0)


AnyInput = LinearInput | MlpInput | FeedForwardInput | PatchInput | TokenInput


HEAD_PARTS = "What the conditioning gives the final norm (scale: Lumina-Image, Z-Image; none: JoyImage-Edit)."
HEAD_EPS = "Added to the variance in the final norm; null: norm_eps of the model."


@dataclass(frozen=True, kw_only=True)
class HeadOptions(Options):
    """A modality's output: an adaptive final norm, and a projection."""

    norm: Flag = option(True, "False: modulated as it is (AuraFlow).")
    bias: Flag = option(True, "Whether the projection has a bias.")
    parts: Literal["shift_scale", "scale", "none"] = option("shift_scale", HEAD_PARTS, later=True)
    norm_eps: Number | None = option(None, HEAD_EPS, later=True, ge=0)

    def check(self) -> Iterator[OptionError]:
        if not self.norm and self.norm_eps is not None:
            yield OptionError(("norm_eps",), "there is no norm; set norm: true, or leave norm_eps unset")


@dataclass(frozen=True, kw_only=True)
class LinearOutput(HeadOptions):
    """Adaptive final norm, then a projection to `b n dim`."""

    first = ("kind", "dim")

    kind: Literal["linear"] = "linear"
    dim: Whole = option(sentence="Width of what goes out.", example="64", gt=0)
    kernel: Kernel = option(
        1, "Over how many tokens the projection is a convolution, an odd number (MMAudio: 7).", later=True
    )

    def check(self) -> Iterator[OptionError]:
        yield from check_kernel("kernel", self.kernel)
        yield from super().check()


@dataclass(frozen=True, kw_only=True)
class PatchOutput(HeadOptions):
    """Adaptive final norm, then a projection to patches, put together to `b c h w` (of a video `b c f h w`)."""

    first = ("kind", "channels")

    kind: Literal["patches"] = "patches"
    channels: Whole = option(sentence="Channels of the image.", example="16", gt=0)


@dataclass(frozen=True, kw_only=True)
class ModalityRotary(Options):
    """Where a modality's tokens stand on the rotary axes; on the others they stand at 0."""

    axes: tuple[Count, ...] = option(
        sentence="An image has its rows on the first and its columns on the second, a video its frames before them; a "
        "sequence counts tokens on each.",
        example="[0, 1]",
    )
    start: tuple[Number, ...] | None = option(
        None, "Where it begins, on every axis of the network, its own or not (LongCat-Image); null: at 0.", min_length=1
    )
    centered: Flag = option(False, "An image's rows and columns are counted from its middle (Qwen-Image).")
    after: Text | None = option(
        None,
        "On its axes it begins behind this modality's last token that is valid, row or column (Qwen-Image, "
        "LongCat-Image-Edit).",
    )
    after_axes: tuple[Count, ...] | None = option(
        None, "Axes on which it does so instead of on its own (Lumina-Image).", later=True, min_length=1
    )
    scale: Number = option(1, "Distance of two tokens, to align sequences of different rates in time.", gt=0)
    span: Whole | None = option(
        None,
        "An image's rows, and its columns, are spread over so many places, whatever their number: row i of n stands at "
        "floor(i * span / n) (CogView4: 256).",
        later=True,
        gt=0,
    )


@dataclass(frozen=True, kw_only=True)
class PadOptions(Options):
    """A learned token behind a modality's own, as valid as they are, as often as it takes."""

    multiple: Whole = option(sentence="Each sample is filled up to a multiple of this many tokens.", example="32", ge=2)


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(Options):
    """Images given beside the one that is drawn: embedded as it is, behind it in the sequence, and not returned."""

    axis: Count = option(
        0,
        "The rotary axis on which they stand apart; beside a video it may be that of its frames (Qwen-Image-Layered).",
    )
    start: Number = option(1, "Where the first stands on it, from the image's own place.")
    step: Number = option(1, "How far behind it each of the others stands (FLUX.2: 10).")
    clean: Flag = option(False, "Their timestep is 0, whatever that of the image (Qwen-Image-Edit-2511).")
    own: Flag = option(
        False,
        "They are embedded and refined, and in a single_stream with modulation: by_modality modulated, by weights of "
        "their own (FLUX.3).",
        later=True,
    )


@dataclass(frozen=True, kw_only=True)
class RefinerOptions(Options):
    """Blocks over one modality alone, before the joint ones. What is unset is as in these."""

    depth: Whole = option(sentence="Number of these blocks.", example="2", ge=1)
    kind: Literal["sequential", "parallel"] = option(
        "sequential", "Attention before the feedforward, or beside it (FLUX.3).", later=True
    )
    conditioning: Literal["none", "network", "own"] = option(
        "network",
        "What modulates them: nothing, the network's vector, or one of their own, of the timestep and of the mean of "
        "what comes in (HunyuanVideo).",
    )
    heads: Whole | None = option(None, "Attention heads.", gt=0)
    dim_head: Whole | None = option(None, "Features of a head.", gt=0)
    qk_rmsnorm: Flag | None = option(None, "RMS norm of queries and keys.")
    attention: AttentionOptions | None = option(None, "What the attention is made of.")
    feedforward: FeedForwardOptions | None = option(None, "The feedforward.")
    modulation: ModulationOptions | None = option(None, "From the conditioning to shifts, scales and gates.")

    def check(self) -> Iterator[OptionError]:
        for part, key in (("feedforward", "kernel"), ("attention", "out_kernel")):
            if isinstance(getattr(getattr(self, part), key, 1), dict):
                yield OptionError((part, key), "a refiner is of one modality; set one number")


@dataclass(frozen=True, kw_only=True)
class ModalityOptions(Options):
    """One modality: the width of its tokens, and how they come in and go out."""

    dim: Whole = option(sentence="Width of its tokens.", example="512", gt=0)
    input: Annotated[AnyInput, BY_KIND] | None = option(
        None, "How it is embedded; null: tokens come at the stream's width."
    )
    pad: PadOptions | None = option(
        None,
        "Pad tokens that are learned (Z-Image). On the rotary axes a sequence's count on, an image's stand at 0.",
        later=True,
    )
    refiner: RefinerOptions | None = option(
        None, "Blocks over what is embedded, before the joint ones (HunyuanVideo).", later=True
    )
    inputs: dict[Text, Annotated[LinearInput | MlpInput, BY_KIND]] | None = option(
        None,
        "Further sequences, given under names of their own: their tokens stand behind these and are not returned "
        "(HunyuanImage-2.1's second text encoder).",
        later=True,
    )
    conditions: dict[Text, Annotated[LinearInput | MlpInput | FeedForwardInput, BY_KIND]] | None = option(
        None,
        "Sequences given under names of their own, embedded to dim_cond, stretched to the length of its tokens, and "
        "added to the conditioning of each in the blocks (MMAudio's synchronization with the video).",
        later=True,
    )
    type_embedding: Flag = option(
        False,
        "Add a learned vector to its tokens (Ideogram 4), and another to those of each of `inputs` (HunyuanVideo-1.5).",
        later=True,
    )
    output: Annotated[LinearOutput | PatchOutput, BY_KIND] | None = option(
        None, "How its tokens go out; null: as they are."
    )
    rotary: ModalityRotary | None = option(None, "Where its tokens stand on the rotary axes; null: they don't turn.")
    clean: Flag = option(False, "Its timestep is 0, whatever that of the others (FLUX.3's text).", later=True)
    clean_frames: Count = option(
        0,
        "Of a video: so many first frames, of patches, are given, so that in the blocks their timestep is 0, and no "
        "guidance scale conditions them (HunyuanVideo-I2V of 16 channels).",
        later=True,
    )
    static: Flag = option(
        False,
        "Its tokens give keys and values to every joint block, and are neither normed, modulated nor updated there "
        "(PRX's text); it is to be in discard.",
        later=True,
    )
    references: ReferenceOptions | None = option(
        None, "Images to edit or to draw from, which the call may be given (FLUX.1-Kontext, Qwen-Image-Edit)."
    )

    def __post_init__(self) -> None:
        if isinstance(self.input, PatchInput) and self.input.positions is None:
            positions: Literal["none", "sincos"] = "sincos" if self.rotary is None else "none"
            object.__setattr__(self, "input", replace(self.input, positions=positions))
        super().__post_init__()

    def check(self) -> Iterator[OptionError]:
        image = isinstance(self.input, PatchInput)
        sides = len(self.input.sizes) if isinstance(self.input, PatchInput) else 0
        if isinstance(self.output, PatchOutput) and not image:
            message = "output 'patches' puts an image together, so it needs input kind 'patches'"
            yield OptionError(("output", "kind"), message)
        multiple = 4 if image else 2
        if getattr(self.input, "positions", None) == "sincos" and self.dim % multiple:
            message = f"sine-cosine positions need a dim that is a multiple of {multiple}, got {self.dim}"
            yield OptionError(("dim",), message)
        if self.references is not None and (not image or self.rotary is None):
            message = (
                "references are further images of one with rotary positions; it needs input kind 'patches', and rotary"
            )
            yield OptionError(("references",), message)
        if sides == 3 and self.input.positions != "none":  # type: ignore[union-attr]
            message = "a video has no table of positions; set positions: none, and rotary to tell the place"
            yield OptionError(("input", "positions"), message)
        if self.clean_frames and (sides < 3 or self.pad is not None or self.refiner is not None or self.conditions):
            message = "they are those of a video: set three sizes of input.patch, and no pad, refiner or conditions"
            yield OptionError(("clean_frames",), message)
        if self.pad is not None and (
            self.input is None or self.references is not None or self.inputs or self.conditions
        ):
            message = "pad tokens stand behind what an input gives: set one, and no references, inputs or conditions"
            yield OptionError(("pad",), message)
        if self.inputs and self.rotary is not None:
            message = "the tokens of further inputs have no places, so those of a modality that has them don't turn"
            yield OptionError(("inputs",), message)
        if self.conditions and (self.inputs or self.references):
            message = "they are of its own tokens in time; a modality with further inputs or references has others too"
            yield OptionError(("conditions",), message)
        if (place := self.rotary) is None:
            return
        if len(set(place.axes)) != len(place.axes) or not place.axes:
            message = f"its axes must be one or more, all different, got {list(place.axes)}"
            yield OptionError(("rotary", "axes"), message)
        for key, wrong, message in (
            (
                "axes",
                image and len(place.axes) != sides,
                "an image needs two axes: that of its rows and that of its columns"
                + ("; a video three, that of its frames first" if sides == 3 else ""),
            ),
            ("centered", not image and place.centered, "centered is for images (input kind 'patches')"),
            ("span", not image and place.span, "span is for images (input kind 'patches')"),
            ("span", place.centered and place.span, "rows are centered or spread over a span; set one of the two"),
            ("after_axes", place.after_axes and not place.after, "behind which modality? set after as well"),
        ):
            if wrong:
                yield OptionError(("rotary", key), message)
