"""From an attention's options to a block's and a whole model's; each holds those below it, and the rules among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from mmdit.options.fields import Count, Flag, Number, OptionError, Options, Text, Whole, option
from mmdit.options.modalities import AnyInput, LinearInput, MlpInput, ModalityOptions
from mmdit.options.modality_keywords import NAMED, NAMED_TYPES, by_names, distinct, for_each
from mmdit.options.norm import NormOptions
from mmdit.options.parts import (
    AttentionOptions,
    ClassLabelOptions,
    FeedForwardOptions,
    GuidanceOptions,
    ModulationOptions,
    NetworkAttentionOptions,
    PooledOptions,
    ResidualOptions,
    RotaryOptions,
    SingleStreamOptions,
    TimestepOptions,
)
from mmdit.options.rotary_rules import check_rotary
from mmdit.options.routing import RoutingOptions, check_routing
from mmdit.options.sequence_rules import check_sequences
from mmdit.options.values import hints_of

DEFAULT_HEADS, DEFAULT_DIM_HEAD = 8, 64
TWO = ("text", "image")


@dataclass(frozen=True, kw_only=True)
class JointAttentionOptions(Options):
    """What a `JointAttention` is."""

    dim_cond: Whole | None = option(
        None, "Width of the conditioning vector; unset: plain layer norms with weights, and no gates.", gt=0
    )
    dim_joint_attn: Whole | None = option(
        None, "heads x dim_head: any two of the three decide the third (default: 8 heads of 64).", gt=0
    )
    heads: Whole | None = option(None, "Attention heads.", gt=0)
    dim_head: Whole | None = option(None, "Features of a head.", gt=0)
    qk_rmsnorm: Flag = option(False, "RMS norm of queries and keys per head, with a learned scale.")
    attention: AttentionOptions = option(AttentionOptions(), "What the attention is made of.")
    norm_eps: Number = option(1e-6, "Added to the variance in the norms.", ge=0)
    unused_weights: Literal["none", "queries", "all"] = option(
        "none",
        "Which weights of a discarded modality to keep in the last joint block though nothing reads them, because "
        "published checkpoints hold them: its query projection (SD3), or all of it (Qwen-Image).",
    )

    def check_unused(self, discarded: Collection[int]) -> None:
        """Raises OptionError where weights are kept that would be unused, and all are used."""
        if self.unused_weights != "none" and not discarded:
            message = "unused weights are those of a discarded modality; set discard"
            raise OptionError(("unused_weights",), message)

    @property
    def head_sizes(self) -> tuple[int, int]:
        """`(heads, dim_head)`, of which any two sizes decide the third."""
        if self.dim_joint_attn is None:
            return self.heads or DEFAULT_HEADS, self.dim_head or DEFAULT_DIM_HEAD
        if self.heads is not None:
            return self.heads, self.dim_joint_attn // self.heads
        dim_head = self.dim_head or DEFAULT_DIM_HEAD
        return self.dim_joint_attn // dim_head, dim_head

    def check(self) -> Iterator[OptionError]:
        width, (heads, dim_head) = self.dim_joint_attn, self.head_sizes
        if width is not None and self.heads is not None and self.dim_head is not None:
            if self.heads * self.dim_head != width:
                message = f"dim_joint_attn must be heads * dim_head = {self.heads} * {self.dim_head} = "
                yield OptionError(("dim_joint_attn",), f"{message}{self.heads * self.dim_head}, got {width}")
        elif width is not None and heads * dim_head != width:
            name, size = ("heads", heads) if self.heads is not None else ("dim_head", dim_head)
            yield OptionError(("dim_joint_attn",), f"dim_joint_attn must be a multiple of {name}={size}, got {width}")
        if heads and heads % (kv_heads := self.attention.kv_heads or heads):
            message = f"each head of keys and values serves as many of the {heads} heads, got {kv_heads}"
            yield OptionError(("attention", "kv_heads"), message)
        if self.qk_rmsnorm and self.attention.qk_layernorm:
            message = "queries and keys have one norm; set either qk_rmsnorm or qk_layernorm"
            yield OptionError(("attention", "qk_layernorm"), message)
        if self.attention.qk_norm_eps is not None and not (self.qk_rmsnorm or self.attention.qk_layernorm):
            message = "queries and keys have no norm; set qk_rmsnorm or qk_layernorm, or leave qk_norm_eps unset"
            yield OptionError(("attention", "qk_norm_eps"), message)
        if self.attention.gating == "sample" and self.dim_cond is None:
            message = "gating 'sample' comes from the conditioning vector, so set dim_cond"
            yield OptionError(("attention", "gating"), message)
        if self.unused_weights != "none" and self.attention.kind == "adaptive":
            message = "no published checkpoint is adaptive; leave unused_weights at none"
            yield OptionError(("unused_weights",), message)


@dataclass(frozen=True, kw_only=True)
class BlockOptions(JointAttentionOptions):
    """What an `MMDiTBlock` is."""

    residual: ResidualOptions = option(ResidualOptions(), "How branches are added to the tokens.")
    feedforward: FeedForwardOptions = option(
        FeedForwardOptions(),
        "The feedforward of every modality; as keywords: mult, dim_hidden, kind, bias, dropout, kernel.",
        keywords={"ff_kwargs": None},
        made=FeedForwardOptions.of_published,
        types=(dict[Text, Any] | FeedForwardOptions | None,),
    )
    norm: NormOptions = option(NormOptions(), "The norms of attention and feedforward.", later=True)
    modulation: ModulationOptions = option(ModulationOptions(), "From the conditioning to shifts, scales and gates.")
    adaln: Literal["zero", "identity"] = option(
        "zero", "Gates start at 0, as in DiT, or at 1, as in the published `mmdit` package."
    )

    def check(self) -> Iterator[OptionError]:
        yield from super().check()
        if self.modulation != ModulationOptions() and self.dim_cond is None:
            yield OptionError(("modulation",), "modulation comes from the conditioning vector, so set dim_cond")
        if self.adaln == "identity" and not self.modulation.bias:
            message = "adaln 'identity' starts the gates at 1 by their bias; set bias: true"
            yield OptionError(("modulation", "bias"), message)
        if self.adaln == "identity" and self.modulation.gate == "tanh":
            yield OptionError(("modulation", "gate"), "adaln 'identity' starts the gates at 1, which no tanh reaches")

    def of_modality(self, name: str) -> BlockOptions:
        """Those of a block of that modality alone."""
        own = {each.name: getattr(self, each.name) for each in fields(BlockOptions)}
        alone = dict(attention=self.attention.of_modality(name), feedforward=self.feedforward.of_modality(name))
        return BlockOptions(**own | alone)

    @property
    def modulates_norms(self) -> bool:
        """Whether the conditioning scales what is normed; the norms have weights of their own where it does not."""
        return self.dim_cond is not None and self.modulation.parts != "gate"


def _single_stream(kind: Any, depth: int) -> SingleStreamOptions | None:
    if depth:
        return SingleStreamOptions(depth=depth, kind=kind)
    if kind != "parallel":
        raise OptionError((), f"there are no such blocks; set single_stream_depth as well, got {kind!r}")
    return None


def _rotary(axes: tuple[int, ...] | None, theta: float) -> RotaryOptions | None:
    if axes is None and theta != RotaryOptions.theta:
        raise OptionError(("theta",), f"there are no axes that it is of; set rotary_axes as well, got {theta}")
    return None if axes is None else RotaryOptions(axes=axes, theta=theta)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(BlockOptions):
    """What a network is: an `MMDiT`, or an `MMDiTModel` where it has inputs, outputs or a timestep."""

    first: ClassVar[tuple[str, ...]] = ("variant", "depth", "modalities")

    variant: Literal["two_modality", "generalized"] = option(
        "generalized", "two_modality: text and image, called by name; generalized: any modalities.", keywords={}
    )
    depth: Whole = option(sentence="Number of joint blocks; 0: those of single_stream alone.", example="24", ge=0)
    attention: NetworkAttentionOptions = option(NetworkAttentionOptions(), "What the attention is made of.")
    modalities: dict[Text, ModalityOptions] = option(
        sentence="The modalities (as keywords: their widths and names), in the order of the joint sequence.",
        example="{text: {dim: 768}, image: {dim: 512}}",
        keywords=NAMED,
        made=lambda dims, names: {
            name: ModalityOptions(dim=dim) for name, dim in zip(distinct(dims, names), dims, strict=True)
        },
        types=NAMED_TYPES,
        min_length=1,
    )
    rotary: RotaryOptions | None = option(
        None,
        "Rotary positions; as keywords the forward then takes `modality_positions`.",
        keywords={"rotary_axes": None, "rotary_theta": 10_000.0},
        made=_rotary,
        types=(tuple[Whole, ...] | None, Annotated[Number, Gt(0)]),
    )
    single_stream: SingleStreamOptions | None = option(
        None,
        "Blocks that follow, over all tokens as one stream: parallel (FLUX) or sequential (AuraFlow).",
        keywords={"single_stream": "parallel", "single_stream_depth": 0},
        made=_single_stream,
        types=(hints_of(SingleStreamOptions)["kind"], Whole),
    )
    routing: RoutingOptions | None = option(
        None, "In training a share of the tokens skips some of the joint blocks.", keywords={}, later=True
    )
    register_tokens: Count | dict[Text, Count] = option(
        0,
        "Learned tokens in front of every modality (two_modality: of the image), or by modality; dropped at the end.",
        **for_each("num_register_tokens", 0, Count),
    )
    discard: tuple[Text, ...] = option(
        (),
        "Modalities not needed after the last block, which then holds only what the others attend to.",
        **by_names("discard"),
    )
    skip_last_feedforward: tuple[Text, ...] | None = option(
        None,
        "Modalities without a feedforward in the last block; unset: text for two_modality, none for generalized.",
        **by_names("skip_last_feedforward"),
    )
    final_norm: Flag | dict[Text, Flag] | None = option(
        None,
        "An RMS norm on the tokens that come out, or by modality; unset: where a modality has no output head, whose "
        "norm would repeat it. Of two_modality only the image has one.",
        **for_each("final_norms", True, Flag),
    )
    timestep: TimestepOptions | None = option(None, "Makes the conditioning vector of the timestep.", keywords={})
    guidance: GuidanceOptions | None = option(None, "Adds the guidance scale to it.", keywords={})
    pooled: PooledOptions | None = option(None, "Adds a vector of the sample to it.", keywords={})
    class_labels: ClassLabelOptions | None = option(
        None,
        "Adds a learned vector of the sample's class to it (DiT; in Qwen-Image-Layered there are two).",
        keywords={},
        later=True,
    )
    means: tuple[Text, ...] = option(
        (),
        "Adds the means of these modalities' embedded tokens, a linear each and a feedforward of their sum (MMAudio).",
        keywords={},
        later=True,
    )
    checkpoint_activations: Flag = option(
        False, "Recompute each block in the backward pass instead of keeping its activations."
    )
    varlen: Flag = option(
        False,
        "Where masks leave tokens out, pack the others and compute those alone: same outputs, zeros at the padding. To "
        "torch.compile and torch.export the lengths are constants.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.modalities)

    @property
    def is_whole_network(self) -> bool:
        """Whether this is a whole network (`MMDiTModel`) rather than a bare transformer."""
        ends = any(m.input or m.output or m.refiner or m.inputs for m in self.modalities.values())
        return ends or self.timestep is not None

    @property
    def inputs(self) -> dict[str, AnyInput | None]:
        """By the name under which it is given, every input: the modalities', their further ones, their conditions."""
        named = {name: m.input for name, m in self.modalities.items()}
        for m in self.modalities.values():
            named |= {**(m.inputs or {}), **(m.conditions or {})}
        return named

    @property
    def streamed(self) -> tuple[str, ...]:
        """The modalities in the single-stream blocks, in the order of the joint sequence."""
        single = self.single_stream
        chosen = () if single is None else single.modalities or self.names
        return tuple(name for name in self.names if name in chosen)

    @property
    def routed(self) -> tuple[str, ...]:
        """The modalities some of whose tokens skip blocks in training."""
        if self.routing is None:
            return ()
        return self.routing.modalities or tuple(name for name in self.names if name not in self.discard)

    def refiner(self, name: str) -> ModelOptions:
        """The stack of blocks that refines a modality."""
        modality, (heads, dim_head) = self.modalities[name], self.head_sizes
        refiner = modality.refiner
        assert refiner is not None
        attention = (refiner.attention or self.attention).of_modality(name)
        qk_rmsnorm = self.qk_rmsnorm if refiner.qk_rmsnorm is None else refiner.qk_rmsnorm
        if refiner.attention is None and not qk_rmsnorm and not attention.qk_layernorm:
            attention = replace(attention, qk_norm_eps=None)
        conditioned = refiner.conditioning != "none"
        parallel = refiner.kind == "parallel"
        return ModelOptions(
            depth=0 if parallel else refiner.depth,
            single_stream=SingleStreamOptions(depth=refiner.depth, kind="parallel") if parallel else None,
            modalities={name: ModalityOptions(dim=modality.dim)},
            dim_cond=self.dim_cond if conditioned else None,
            heads=refiner.heads or heads,
            dim_head=refiner.dim_head or dim_head,
            qk_rmsnorm=qk_rmsnorm,
            attention=NetworkAttentionOptions(
                **{each.name: getattr(attention, each.name) for each in fields(AttentionOptions)}
            ),
            norm_eps=self.norm_eps,
            norm=self.norm,
            rotary=None if modality.rotary is None else self.rotary,
            residual=self.residual,
            feedforward=(refiner.feedforward or self.feedforward).of_modality(name),
            modulation=refiner.modulation or (self.modulation if conditioned else ModulationOptions()),
            adaln=self.adaln,
            final_norm=False,
            checkpoint_activations=self.checkpoint_activations,
        )

    @property
    def registers(self) -> list[int]:
        """Register tokens of each modality."""
        if isinstance(self.register_tokens, dict):
            return [self.register_tokens.get(name, 0) for name in self.names]
        two = self.variant == "two_modality"
        return [0 if two and name == "text" else self.register_tokens for name in self.names]

    @property
    def normed(self) -> list[bool]:
        """Whether each modality has a final norm."""
        if isinstance(self.final_norm, dict):
            return [self.final_norm.get(name, False) for name in self.names]
        headed = [self.final_norm is None and m.output is not None for m in self.modalities.values()]
        kept = [self.variant == "generalized" or name == "image" for name in self.names]
        return [self.final_norm is not False and keep and not head for keep, head in zip(kept, headed, strict=True)]

    @property
    def without_last_feedforward(self) -> tuple[str, ...]:
        if self.skip_last_feedforward is None:
            return ("text",) if self.variant == "two_modality" and "text" not in self.streamed else ()
        return self.skip_last_feedforward

    def indexes(self, names: Collection[str]) -> list[int]:
        """The places of modalities."""
        return sorted(self.names.index(name) for name in names)

    # ------------------------------------------------------------------------------------------------------- rules

    def check(self) -> Iterator[OptionError]:
        yield from super().check()
        names = self.names
        if self.variant == "two_modality" and names != TWO:
            message = f"two_modality needs exactly text, image in this order, got {', '.join(names)}"
            yield OptionError(("modalities",), message)
        yield from self._check_names()
        if set(self.discard) == set(names):
            message = "every modality is discarded, so nothing would come out; keep at least one"
            yield OptionError(("discard",), message)
        for index, block in enumerate(self.attention.dual):
            if block >= self.depth:
                message = f"block {block} does not exist; depth is {self.depth}"
                yield OptionError(("attention", "dual", index), message)
        for key in ("shared", "table"):
            if self.attention.dual and getattr(self.modulation, key):
                message = "the second attention of attention.dual has no shared modulation"
                yield OptionError(("modulation", key), message)
        if self.modulation.table and len({modality.dim for modality in self.modalities.values()}) > 1:
            got = ", ".join(f"{name} {modality.dim}" for name, modality in self.modalities.items())
            message = f"one modulation is that of all modalities, so their widths must be equal, got {got}"
            yield OptionError(("modulation", "table"), message)
        if self.modulation.table and self.attention.gating == "sample":
            message = "gating 'sample' is of the conditioning vector, which blocks with a table don't see"
            yield OptionError(("modulation", "table"), message)
        if self.depth - 1 in self.attention.dual and names[-1] in {*self.discard}.difference(self.streamed):
            message = f"the last block discards {names[-1]!r}, so it can't attend to it again"
            yield OptionError(("attention", "dual"), message)
        if self.unused_weights != "none" and not self.discard:
            message = "unused weights are those of a discarded modality; set discard"
            yield OptionError(("unused_weights",), message)
        yield from self._check_conditioning()
        yield from self._check_single_stream()
        yield from check_sequences(self)
        yield from check_rotary(self)
        yield from check_routing(self)
        for name in self.names:
            yield from self._check_streams(name)
            yield from self._check_static(name)

    def _check_names(self) -> Iterator[OptionError]:
        known = ", ".join(self.names)
        for key in ("discard", "skip_last_feedforward", "register_tokens", "final_norm"):
            value = getattr(self, key)
            for place, name in enumerate(value if isinstance(value, (dict, tuple)) else ()):
                if name not in self.names:
                    at = (key, name if isinstance(value, dict) else place)
                    yield OptionError(at, f"{name!r} is no modality; the modalities are {known}")
        if self.variant == "two_modality":
            if isinstance(self.register_tokens, dict) and self.register_tokens.get("text"):
                message = "two_modality has register tokens before the image alone"
                yield OptionError(("register_tokens", "text"), message)
            if isinstance(self.final_norm, dict) and self.final_norm.get("text"):
                yield OptionError(("final_norm", "text"), "two_modality has a final norm of the image alone")
            if "image" in (self.skip_last_feedforward or ()):
                message = "two_modality can skip the last feedforward of text alone"
                yield OptionError(("skip_last_feedforward",), message)

    def _check_streams(self, name: str) -> Iterator[OptionError]:
        modality, at = self.modalities[name], ("modalities", name)
        typed = [1 + len(m.inputs or ()) for m in self.modalities.values() if m.type_embedding]
        if modality.type_embedding and sum(typed) == 1:
            message = "type embeddings tell several inputs apart; set inputs as well, or another modality's"
            yield OptionError((*at, "type_embedding"), message)
        if modality.refiner is None:
            return
        conditioning = modality.refiner.conditioning
        if conditioning == "own" and (self.timestep is None or not isinstance(modality.input, (LinearInput, MlpInput))):
            message = "it is made of the timestep and of an input of kind linear or mlp; set timestep and input"
            yield OptionError((*at, "refiner", "conditioning"), message)
        elif conditioning == "network" and self.dim_cond is None:
            message = "the network has no conditioning; set dim_cond, or conditioning: none"
            yield OptionError((*at, "refiner", "conditioning"), message)
        else:
            try:
                self.refiner(name)
            except OptionError as error:
                yield from (OptionError((*at, "refiner", *each.at), each.message) for each in error.all)

    def _check_static(self, name: str) -> Iterator[OptionError]:
        if not self.modalities[name].static:
            return
        for wrong, message in (
            (name not in self.discard, f"no block updates it; set discard: [{name}]"),
            (name in self.streamed, "the single-stream blocks would update it; set single_stream.modalities to others"),
            (self.unused_weights != "none", "it has no unused weights; leave unused_weights at none"),
        ):
            if wrong:
                yield OptionError(("modalities", name, "static"), message)

    def _check_conditioning(self) -> Iterator[OptionError]:
        for name in self.discard:
            if name in self.modalities and self.modalities[name].output is not None:
                message = f"{name!r} is discarded, so it can have no output head"
                yield OptionError(("modalities", name, "output"), message)
        for key in ("timestep", "guidance", "pooled", "class_labels", "means"):
            if not getattr(self, key):
                continue
            if self.dim_cond is None:
                message = f"{key} conditions the blocks through dim_cond, which is null; set it"
                yield OptionError((key,), message)
            if self.timestep is None:
                yield OptionError((key,), f"{key} is added to the timestep embedding; set timestep as well")
        for name, modality in self.modalities.items():
            if self.dim_cond is None and getattr(modality.output, "parts", "shift_scale") != "shift_scale":
                message = "it comes from the conditioning vector, so set dim_cond and timestep"
                yield OptionError(("modalities", name, "output", "parts"), message)
            for key in ("clean", "clean_frames"):
                if getattr(modality, key) and self.timestep is None:
                    yield OptionError(("modalities", name, key), "there is no timestep to be 0; set timestep")
        placed = any(modality.rotary is not None for modality in self.modalities.values())  # which asks for an input
        if (self.is_whole_network or placed) and self.dim_cond is not None and self.timestep is None:
            message = "missing: a model with inputs makes its conditioning vector of the timestep, as timestep: {}"
            yield OptionError(("timestep",), message)

        for i, (name, modality) in enumerate(self.modalities.items()):
            references = modality.references is not None and modality.references.clean
            for at, what, there in (
                (("references", "clean"), "clean references have a timestep of their own", references),
                (("clean_frames",), "frames that are given have a timestep of their own", modality.clean_frames),
            ):
                if there and self.registers[i]:
                    message = f"{what}, which does not go with register tokens in front of {name!r}"
                    yield OptionError(("modalities", name, *at), message)
                if there and self.attention.gating == "sample":
                    message = f"{what}, which does not go with one gate of the sample (attention.gating)"
                    yield OptionError(("modalities", name, *at), message)

    def _check_single_stream(self) -> Iterator[OptionError]:
        if self.single_stream is None:
            if not self.depth:
                yield OptionError(("depth",), "there would be no block at all; set depth > 0, or single_stream")
            return
        widths = {name: self.modalities[name].dim for name in self.streamed}
        if len({*widths.values()}) > 1:
            got = ", ".join(f"{name} {dim}" for name, dim in widths.items())
            message = f"one stream holds all tokens, so their widths must be equal, got {got}"
            yield OptionError(("single_stream",), message)
        by_modality, shared = self.single_stream.modulation == "by_modality", self.modulation.shared
        if by_modality and not self.dim_cond:
            message = "it comes from the conditioning vector, so set dim_cond"
            yield OptionError(("single_stream", "modulation"), message)
        if by_modality and not shared and self.single_stream.kind == "parallel":
            message = "in parallel blocks each modality has one for all of them; set modulation: {shared: true}"
            yield OptionError(("single_stream", "modulation"), message)
        for name, modality in self.modalities.items():
            apart = modality.references
            if by_modality and apart and apart.own and not (apart.clean and shared):
                message = "modulated by weights of their own they are conditioned for themselves, by the same in all "
                message += "blocks; set clean: true, and modulation: {shared: true}"
                yield OptionError(("modalities", name, "references", "own"), message)
            if self.single_stream.modulation == "by_modality" and apart and apart.own and modality.clean_frames:
                message = "modulated by weights of their own they go with no frames that are given; leave it at 0"
                yield OptionError(("modalities", name, "clean_frames"), message)
        if not self.depth:
            for key, default in (("unused_weights", "none"), ("skip_last_feedforward", None)):
                if getattr(self, key) not in (default, ()):
                    yield OptionError((key,), "depth is 0, so there is no joint block whose weights these are")
            if apart_of := [name for name in self.names if name not in {*self.streamed, *self.means}]:
                message = f"depth is 0, so {', '.join(apart_of)} would be in no block; name it here, or set depth"
                yield OptionError(("single_stream", "modalities"), message)
        if self.unused_weights != "none" and {*self.discard}.issubset(self.streamed):
            message = "the single-stream blocks read every modality, so no weight is unused"
            yield OptionError(("unused_weights",), message)
        if {*(self.skip_last_feedforward or ())}.intersection(self.streamed):
            message = "the single-stream blocks read what the last feedforward gives"
            yield OptionError(("skip_last_feedforward",), message)
