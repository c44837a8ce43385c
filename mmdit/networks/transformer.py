"""The MMDiT of Esser et al. 2024 (arXiv 2403.03206): a stack of `MMDiTBlock`s, for any number of modalities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdit.layers.arguments import (
    check_conditioning,
    check_count,
    check_masks,
    check_positions,
    check_tokens,
    modality_indexes,
    modality_labels,
)
from mmdit.layers.modulation import ATTENTION_PARTS, FEEDFORWARD_PARTS, BlockModulation, Modulation, StackModulation
from mmdit.layers.norms import RMSNorm
from mmdit.layers.registers import make_registers
from mmdit.layers.residuals import ExpandStreams, ReduceStreams
from mmdit.layers.rotary import RotaryTable
from mmdit.networks.block import MMDiTBlock
from mmdit.networks.parallel_block import JOINED, ParallelBlock
from mmdit.networks.sequences import Packed, Padded
from mmdit.packing import Packing

__all__ = ["MMDiT", "MMDiTBlock"]

SINGLE_STREAMS = ("parallel", "sequential")


class MMDiT(nn.Module):
    """A stack of `MMDiTBlock`s over N modalities.

    Args:
        depth: number of blocks.
        dim_modalities: width of each modality's tokens.
        num_residual_streams: above 1, hyper-connections between `depth` blocks; expanded and reduced here.
        num_register_tokens: learned tokens in front of every modality, or a number for each; dropped at the end.
        final_norms: an RMS norm on the tokens that come out, for all modalities or for each.
        discard: indexes of modalities not needed after the last block, which then holds only what the others attend to.
        skip_last_feedforward: indexes of modalities without a feedforward in the last block.
        dual_blocks: blocks with a second attention over the last modality alone (SD3.5-medium).
        single_stream_depth: blocks that follow, over all tokens as one stream with one set of weights.
        single_stream: "parallel" (`ParallelBlock`, FLUX) or "sequential" (an `MMDiTBlock` of one modality, AuraFlow).
        shared_modulation: one modulation for all joint blocks and one for all single-stream blocks (FLUX.2).
        rotary_axes, rotary_theta: see `RotaryTable`; the forward then takes `modality_positions`.
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
        varlen: where masks leave tokens out, pack the others and compute those alone (see `Packing`). Same outputs;
            at the padding they are zeros. The lengths are constants to `torch.compile` and `torch.export`: compile
            networks that run padded, or on few different lengths.
        modality_names: what errors and tables call the modalities.
        **block_kwargs: see `MMDiTBlock`.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    def __init__(
        self,
        *,
        depth: int,
        dim_modalities: Sequence[int],
        num_residual_streams: int = 1,
        num_register_tokens: int | Sequence[int] = 0,
        final_norms: bool | Sequence[bool] = True,
        discard: Sequence[int] = (),
        skip_last_feedforward: Sequence[int] = (),
        dual_blocks: Sequence[int] = (),
        unused_weights: str = "none",
        single_stream_depth: int = 0,
        single_stream: str = "parallel",
        shared_modulation: bool = False,
        rotary_axes: Sequence[int] | None = None,
        rotary_theta: float = 10_000.0,
        norm_eps: float = 1e-6,
        checkpoint_activations: bool = False,
        varlen: bool = False,
        modality_names: Sequence[str] | None = None,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.dim_modalities = tuple(dim_modalities)
        count = len(self.dim_modalities)
        self.modality_names = modality_labels(modality_names, count)
        self.checkpoint_activations, self.varlen = checkpoint_activations, varlen
        self.discarded = discarded = modality_indexes(discard, count, "discard")
        for block in dual_blocks:
            if not 0 <= block < depth:
                raise ValueError(f"dual_blocks holds block indexes below depth={depth}, got {block}")
        if single_stream not in SINGLE_STREAMS:
            raise ValueError(f"single_stream must be one of {', '.join(SINGLE_STREAMS)}, got {single_stream!r}")
        if single_stream_depth < 0:
            raise ValueError(f"single_stream_depth must be at least 0, got {single_stream_depth}")
        if single_stream_depth and (skip_last_feedforward or unused_weights != "none"):
            raise ValueError("single-stream blocks read all of every modality: skip_last_feedforward, unused_weights")
        if single_stream_depth and len(set(self.dim_modalities)) > 1:
            raise ValueError(f"single-stream blocks need modalities of one width, got {self.dim_modalities}")
        if shared_modulation and dual_blocks:
            raise ValueError("shared_modulation leaves no modulation for the second attention of dual_blocks")

        registers = _for_each(num_register_tokens, count, "num_register_tokens", self.modality_names)
        self.registers = nn.ModuleList(
            make_registers(dim, number) for dim, number in zip(self.dim_modalities, registers, strict=True)
        )
        self.expand_streams, self.reduce_streams = (
            ExpandStreams(num_residual_streams),
            ReduceStreams(num_residual_streams),
        )
        self.rotary = None if rotary_axes is None else RotaryTable(rotary_axes, theta=rotary_theta)
        block_kwargs |= dict(num_residual_streams=num_residual_streams, norm_eps=norm_eps)
        self.dim_cond: int | None = block_kwargs.get("dim_cond")
        self.sample_gated = block_kwargs.get("gating") == "sample" and block_kwargs.get("num_adaptive_weights", 1) > 1
        self.shared_modulations = nn.ModuleList()
        self.shared_single_modulation: Modulation | None = None
        if shared_modulation:
            self._share_modulations(single_stream_depth > 0, single_stream == "parallel", block_kwargs)
        # the single-stream blocks read every modality, so the last joint block then discards none
        last = depth - 1 if not single_stream_depth else None
        self.blocks = nn.ModuleList(
            MMDiTBlock(
                dim_modalities=self.dim_modalities,
                discard=sorted(discarded) if index == last else (),
                unused_weights=unused_weights,
                skip_feedforward=skip_last_feedforward if index == last else (),
                dual=(count - 1,) if index in dual_blocks else (),
                layer_index=index,
                modality_names=self.modality_names,
                **block_kwargs,
            )
            for index in range(depth)
        )
        dim_head = self.blocks[0].joint_attn.dim_head  # type: ignore[union-attr]
        if rotary_axes is not None and sum(rotary_axes) != dim_head:
            raise ValueError(f"rotary_axes must add up to dim_head = {dim_head}, got {tuple(rotary_axes)}")
        self.single_blocks = nn.ModuleList(
            ParallelBlock(dim=self.dim_modalities[0], layer_index=2 * depth + index, **block_kwargs)
            if single_stream == "parallel"
            else MMDiTBlock(
                dim_modalities=self.dim_modalities[:1],
                modality_names=[JOINED],
                layer_index=depth + index,
                **block_kwargs,
            )
            for index in range(single_stream_depth)
        )
        normed = _for_each(final_norms, count, "final_norms", self.modality_names)
        self.final_norms = nn.ModuleList(
            RMSNorm(dim, eps=norm_eps) if has_norm and index not in discarded else nn.Identity()
            for index, (dim, has_norm) in enumerate(zip(self.dim_modalities, normed, strict=True))
        )

    def forward(
        self,
        *,
        modality_tokens: Sequence[Tensor],
        modality_masks: Sequence[Tensor | None] | Packing | None = None,
        time_cond: Tensor | Sequence[Tensor] | None = None,
        modality_positions: Sequence[Tensor | None] | None = None,
        skip_last_feedforward: Collection[int] = (),
        modulation: StackModulation | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Run the stack.

        Args:
            modality_tokens: N tensors `b n_i d_i`.
            modality_masks: N masks `b n_i`, bool, True = valid, or None; masked tokens are attended to by none. Or a
                `Packing` of them, which is used whether or not `varlen` is set.
            time_cond: conditioning `b dim_cond`, or one such tensor for each modality.
            modality_positions: with `rotary_axes`, the coordinates of each modality's tokens on them, `n_i a` (or
                `b n_i a`), or None for one whose tokens don't turn. Register tokens stand at 0.
            skip_last_feedforward: modalities whose feedforward in the last block is left out of this call.
            modulation: what `modulate` made of the same `time_cond` before.

        Returns:
            N tensors `b n_i d_i`, None for a discarded modality. What stands at masked positions means nothing.

        Raises:
            ValueError: a shape, a mask's dtype or the conditioning is wrong; it names the modality, got and wanted.
        """
        check_count(modality_tokens, self.modality_names, "modality_tokens")
        check_tokens(modality_tokens, self.dim_modalities, self.modality_names)
        batch = modality_tokens[0].shape[0]
        conds = check_conditioning(time_cond, self.dim_cond, batch, self.modality_names)
        self._check_positions(modality_positions, modality_tokens)
        sequences = self._sequences(modality_masks, modality_tokens)

        tokens: Sequence[Any] = [self.expand_streams(sequences.enter(x, i)) for i, x in enumerate(modality_tokens)]
        tables = self._rotary_tables(modality_positions, sequences)
        known = self._shared(conds) if modulation is None else self._checked(modulation, batch)
        mods: Sequence[BlockModulation] | None = None  # a block makes its own
        for index, block in enumerate(self.blocks):
            if index < len(known.blocks):  # one that is shared is there for the first
                mods = sequences.spread(known.blocks[index])
            tokens = self._run(
                block,
                modality_tokens=tokens,
                modality_masks=sequences.masks,
                time_cond=time_cond,
                modulations=mods,
                rotary=tables,
                packing=sequences.packing,
                skip_feedforward=skip_last_feedforward if block is self.blocks[-1] else (),
            )
        if self.single_blocks:
            tokens = self._single_stream(tokens, sequences, conds, tables, known)

        return tuple(
            None if x is None or i in self.discarded else norm(sequences.leave(self.reduce_streams(x), i))
            for i, (x, norm) in enumerate(zip(tokens, self.final_norms, strict=True))
        )

    def modulate(self, time_cond: Tensor | Sequence[Tensor]) -> StackModulation:
        """What the conditioning, `b dim_cond` or one for each modality, decides in every block: `b 1 d` each.

        It depends on the conditioning alone, so that of all steps of a sampler can be computed in one call.

        Raises:
            ValueError: the conditioning is wrong, or the model was built without.
        """
        first = time_cond if isinstance(time_cond, Tensor) else time_cond[0]
        conds = check_conditioning(time_cond, self.dim_cond, len(first), self.modality_names)
        if self.dim_cond is None:
            raise ValueError("modulate: this model was built without conditioning (dim_cond is None)")
        distinct, shared = _distinct(conds), self._shared(conds)
        return StackModulation(
            shared.blocks or tuple(tuple(block.modulate(conds)) for block in self.blocks),
            shared.single_blocks
            or tuple(tuple(block.modulate([cond])[0] for cond in distinct) for block in self.single_blocks),
        )

    def _checked(self, modulation: StackModulation, batch: int) -> StackModulation:
        """Of as many blocks as there are (or shared by all), for the batch or any."""
        for given, blocks in ((modulation.blocks, self.blocks), (modulation.single_blocks, self.single_blocks)):
            if len(given) not in ({0, 1, len(blocks)} if len(blocks) and not self.shared_modulations else {0, 1}):
                raise ValueError(f"modulation is that of {len(given)} blocks, but this stack has {len(blocks)}")
        rows = {len(part) for block in modulation.blocks for mod in block for part in mod if part is not None}
        if not rows <= {1, batch}:
            raise ValueError(f"modulation is for a batch of {max(rows)}, got tokens with one of {batch}")
        return modulation

    def _shared(self, conds: Sequence[Tensor | None]) -> StackModulation:
        """What all joint blocks share, and all single-stream blocks."""
        joint = tuple(make(cond) for make, cond in zip(self.shared_modulations, conds, strict=False))
        single: tuple[BlockModulation, ...] = ()
        if self.shared_single_modulation is not None:
            single = tuple(self.shared_single_modulation(cond) for cond in _distinct(conds))
        return StackModulation((joint,) if joint else (), (single,) if single else ())

    def _run(self, block: nn.Module, **arguments: Any) -> Any:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, use_reentrant=False, **arguments)
        return block(**arguments)

    def _single_stream(
        self,
        tokens: Sequence[Tensor],
        sequences: Padded | Packed,
        conds: Sequence[Tensor | None],
        tables: Sequence[Tensor | None] | None,
        known: StackModulation,
    ) -> Sequence[Tensor]:
        """All tokens as one sequence, and apart again."""
        joined, table = sequences.join(tokens, tables)
        # every token is modulated by its modality's vector, where they have different ones
        distinct = _distinct(conds)
        if len(distinct) > 1 and self.sample_gated:
            raise ValueError("gating 'sample' has one gate for the joined tokens; pass one time_cond for all")
        for index, block in enumerate(self.single_blocks):
            if index < len(known.single_blocks):  # one that is shared is there for the first
                mods = sequences.join_modulations(known.single_blocks[index])
            elif not known.single_blocks:
                mods = sequences.join_modulations([block.modulate([cond])[0] for cond in distinct])
            (joined,) = self._run(
                block,
                modality_tokens=[joined],
                modality_masks=sequences.masks,
                time_cond=conds[0],
                modulations=[mods],
                rotary=[table],
                packing=sequences.packing,
            )
        return sequences.split(joined)

    def _sequences(self, masks: Sequence[Tensor | None] | Packing | None, tokens: Sequence[Tensor]) -> Padded | Packed:
        """Packed where that is asked for and saves anything."""
        lengths, batch = [x.shape[1] for x in tokens], tokens[0].shape[0]
        registers: Any = self.registers
        if isinstance(masks, Packing):
            masks.check(tokens)
            return Packed(masks, registers)
        checked = check_masks(masks, tokens, self.modality_names)
        if not self.varlen or not batch or all(mask is None for mask in checked):
            return Padded(checked, registers)
        packing = Packing.from_masks(checked, lengths, batch)
        return Packed(packing, registers) if packing.has_padding else Padded([None] * len(lengths), registers)

    def _check_positions(self, positions: Sequence[Tensor | None] | None, tokens: Sequence[Tensor]) -> None:
        if (positions is None) != (self.rotary is None):
            wanted = "was built without rotary_axes" if self.rotary is None else "has rotary_axes and needs them"
            got = "none" if positions is None else f"{len(positions)}"
            raise ValueError(f"modality_positions: this model {wanted}, got {got}")
        if positions is not None and self.rotary is not None:
            check_positions(positions, tokens, len(self.rotary.axes), self.modality_names)

    def _rotary_tables(
        self, positions: Sequence[Tensor | None] | None, sequences: Padded | Packed
    ) -> list[Tensor | None] | None:
        """The table of each modality's tokens, its register tokens first."""
        if positions is None or self.rotary is None:
            return None
        places = [sequences.coordinates(place, i) for i, place in enumerate(positions)]
        return [None if place is None else self.rotary(place) for place in places]

    def _share_modulations(self, single: bool, parallel: bool, options: dict[str, Any]) -> None:
        """Take the modulations out of the blocks, into two that all joint and all single-stream blocks share."""
        if self.dim_cond is None:
            raise ValueError("shared_modulation needs dim_cond, got None")
        kwargs = dict(adaln=options.get("adaln", "zero"), bias=options.get("modulation_bias", True))
        parts: tuple[str, ...] = ATTENTION_PARTS + FEEDFORWARD_PARTS
        self.shared_modulations.extend(Modulation(self.dim_cond, dim, parts, **kwargs) for dim in self.dim_modalities)
        if single:
            parts = ATTENTION_PARTS if parallel else parts
            self.shared_single_modulation = Modulation(self.dim_cond, self.dim_modalities[0], parts, **kwargs)
        options["own_modulation"] = False


def _distinct(conds: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """One vector for all modalities is the rule."""
    return conds[:1] if all(cond is conds[0] for cond in conds) else conds


def _for_each(value: Any, count: int, argument: str, names: Sequence[str]) -> tuple[Any, ...]:
    """`value` for every modality, or its own for each."""
    if isinstance(value, (int, bool)):
        return (value,) * count
    if len(value) != count:
        raise ValueError(f"{argument} must be one value or one for each of {', '.join(names)}, got {len(value)}")
    return tuple(value)
