"""The MMDiT block and transformer of Esser et al. 2024 (arXiv 2403.03206), for any number of modalities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdit.checks import check_conditioning, check_count, check_masks, check_tokens, modality_indexes, modality_labels
from mmdit.feedforward import FeedForward, feedforward_options
from mmdit.hyper_connections import ExpandStreams, ReduceStreams, make_residual
from mmdit.joint_attention import JointAttention
from mmdit.modulation import ATTENTION_PARTS, DUAL_PARTS, FEEDFORWARD_PARTS, Modulation, NoModulation
from mmdit.norms import AdaptiveLayerNorm, RMSNorm
from mmdit.registers import make_registers


class MMDiTBlock(nn.Module):
    """One MMDiT block (Esser et al. 2024, Figure 2b) over N modalities.

    Every modality has its own modulation, norms, projections and feedforward; the attention is one, over all tokens.

    Args:
        dim_modalities: width of each modality's tokens.
        dim_cond: width of the conditioning vector; None: plain layer norms with weights, and no gates.
        dim_joint_attn, heads, dim_head: `dim_joint_attn = heads * dim_head`; any two decide the third.
        qk_rmsnorm, qk_norm_shared, flash_attn, softclamp, softclamp_value, num_adaptive_weights, gating, bias,
            unused_queries: see `JointAttention`.
        num_residual_streams: above 1, hyper-connections; the tokens are then `b n s d`.
        residual: plain, hyper_connections or manifold_hyper_connections; None: plain for one stream, else manifold.
        dynamic_residual: whether the mixing of hyper-connections depends on the tokens.
        ff_kwargs: options of `FeedForward` (mult, kind, bias, dropout).
        adaln: "zero": gates start at 0, as in DiT; "identity": at 1.
        norm_eps: added to the variance in the norms.
        discard: indexes of modalities not needed after this block: attended to, not updated, returned as None.
        skip_feedforward: indexes of modalities without a feedforward in this block.
        dual: indexes of modalities with a second attention, over their own tokens alone (SD3.5-medium).
        layer_index: place of the block in the network; decides which stream hyper-connections read at first.
        modality_names: what errors and tables call the modalities.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    def __init__(
        self,
        *,
        dim_modalities: Sequence[int],
        dim_cond: int | None = None,
        dim_joint_attn: int | None = None,
        heads: int | None = None,
        dim_head: int | None = None,
        qk_rmsnorm: bool = False,
        qk_norm_shared: bool = False,
        flash_attn: bool | None = None,
        softclamp: bool = False,
        softclamp_value: float = 50.0,
        num_adaptive_weights: int = 1,
        gating: str = "token",
        bias: bool = False,
        unused_queries: bool = False,
        num_residual_streams: int = 1,
        residual: str | None = None,
        dynamic_residual: bool = True,
        ff_kwargs: dict[str, Any] | None = None,
        adaln: str = "zero",
        norm_eps: float = 1e-6,
        discard: Sequence[int] = (),
        skip_feedforward: Sequence[int] = (),
        dual: Sequence[int] = (),
        layer_index: int = 0,
        modality_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.dim_modalities = tuple(dim_modalities)
        self.modality_names = modality_labels(modality_names, len(self.dim_modalities))
        self.dim_cond = dim_cond
        self.token_dims = 3 if num_residual_streams == 1 else 4
        indexes = range(len(self.dim_modalities))
        discarded = modality_indexes(discard, len(indexes), "discard")
        no_feedforward = modality_indexes(skip_feedforward, len(indexes), "skip_feedforward")
        self.dual = sorted(modality_indexes(dual, len(indexes), "dual"))
        self.updated = [i for i in indexes if i not in discarded]
        self.fed = [i for i in self.updated if i not in no_feedforward]
        if discarded.intersection(self.dual):
            raise ValueError("a modality that this block discards can't have a second attention in it")

        attention: dict[str, Any] = dict(
            dim_joint_attn=dim_joint_attn,
            heads=heads,
            dim_head=dim_head,
            qk_rmsnorm=qk_rmsnorm,
            qk_norm_shared=qk_norm_shared,
            norm_eps=norm_eps,
            flash_attn=flash_attn,
            softclamp=softclamp,
            softclamp_value=softclamp_value,
            num_adaptive_weights=num_adaptive_weights,
            gating=gating,
            dim_cond=dim_cond,
            bias=bias,
        )
        ff_options = feedforward_options(ff_kwargs)
        residual = residual or ("plain" if num_residual_streams == 1 else "manifold_hyper_connections")

        def modulation(i: int) -> nn.Module:
            if dim_cond is None:
                return NoModulation()
            # no gate where nothing is written
            parts: tuple[str, ...] = ATTENTION_PARTS if i in self.updated else ATTENTION_PARTS[:2]
            parts += FEEDFORWARD_PARTS if i in self.fed else ()
            parts += DUAL_PARTS if i in self.dual else ()
            return Modulation(dim_cond, self.dim_modalities[i], parts, adaln=adaln)

        def norm(i: int) -> nn.Module:
            return AdaptiveLayerNorm(self.dim_modalities[i], conditioned=dim_cond is not None, eps=norm_eps)

        def connection(i: int, sublayer: int) -> nn.Module:
            return make_residual(
                residual,
                self.dim_modalities[i],
                streams=num_residual_streams,
                layer_index=2 * layer_index + sublayer,
                dynamic=dynamic_residual,
                writes=i in self.updated,
            )

        def second_attention(i: int) -> nn.Module:
            return JointAttention(dim_inputs=[self.dim_modalities[i]], names=[self.modality_names[i]], **attention)

        def where(chosen: Sequence[int], make: Any) -> nn.ModuleList:
            return nn.ModuleList(make(i) if i in chosen else nn.Identity() for i in indexes)

        self.modulations = where(indexes, modulation)
        self.attn_residuals = where(indexes, lambda i: connection(i, 0))
        self.attn_norms = where(indexes, norm)
        self.joint_attn = JointAttention(
            dim_inputs=self.dim_modalities,
            discard=sorted(discarded),
            unused_queries=unused_queries,
            names=self.modality_names,
            **attention,
        )
        self.dual_attns = where(self.dual, second_attention)
        self.ff_residuals = where(self.fed, lambda i: connection(i, 1))
        self.ff_norms = where(self.fed, norm)
        self.feedforwards = where(self.fed, lambda i: FeedForward(self.dim_modalities[i], **ff_options))

    def forward(
        self,
        *,
        modality_tokens: Sequence[Tensor],
        modality_masks: Sequence[Tensor | None] | None = None,
        time_cond: Tensor | Sequence[Tensor] | None = None,
        skip_feedforward: Collection[int] = (),
    ) -> tuple[Tensor | None, ...]:
        """Run the block.

        Args:
            modality_tokens: N tensors `b n_i d_i` (`b n_i s d_i` with s residual streams).
            modality_masks: N masks `b n_i`, bool, True = valid, or None; masked tokens are attended to by none.
            time_cond: conditioning `b dim_cond`, or one such tensor for each modality.
            skip_feedforward: modalities whose feedforward is left out of this call.

        Returns:
            N tensors shaped as they came, None for a discarded modality.

        Raises:
            ValueError: a shape, a mask's dtype, the conditioning or an index is wrong; it names the modality, got and
                wanted.
        """
        check_count(modality_tokens, self.modality_names, "modality_tokens")
        check_tokens(modality_tokens, self.dim_modalities, self.modality_names, dims=self.token_dims)
        conds = check_conditioning(time_cond, self.dim_cond, modality_tokens, self.modality_names)
        modality_indexes(skip_feedforward, len(self.modality_names), "skip_feedforward")
        tokens: list[Tensor | None] = list(modality_tokens)

        # conditioning vector -> shift, scale and gate of every modality
        mod = [modulation(cond) for modulation, cond in zip(self.modulations, conds, strict=True)]

        # norm and modulate, each for itself; ONE attention over all tokens; gate and residual
        reads = [residual.width(x) for residual, x in zip(self.attn_residuals, modality_tokens, strict=True)]
        normed = [
            norm(x, m.attn_shift, m.attn_scale) for norm, (x, _), m in zip(self.attn_norms, reads, mod, strict=True)
        ]
        attended = self.joint_attn(normed, modality_masks, conds if self.joint_attn.dim_cond else None)
        for i in self.updated:
            out, gate = attended[i], mod[i].attn_gate
            if i in self.dual:
                out, gate = self._add_second_attention(i, out, reads[i][0], mod[i], modality_masks, conds[i]), None
            tokens[i] = self.attn_residuals[i].depth(reads[i][1], out, gate)

        # norm and modulate, feedforward, gate and residual, each for itself
        for i in self.fed:
            if i in skip_feedforward:
                continue
            x, state = self.ff_residuals[i].width(tokens[i])
            out = self.feedforwards[i](self.ff_norms[i](x, mod[i].ff_shift, mod[i].ff_scale))
            tokens[i] = self.ff_residuals[i].depth(state, out, mod[i].ff_gate)

        return tuple(x if i in self.updated else None for i, x in enumerate(tokens))

    def _add_second_attention(
        self, i: int, out: Tensor, x: Tensor, mod: Any, masks: Sequence[Tensor | None] | None, cond: Tensor | None
    ) -> Tensor:
        """SD3.5-medium's second attention reads the same tokens with a modulation of its own; the two are summed."""
        attention = self.dual_attns[i]
        normed = self.attn_norms[i](x, mod.dual_shift, mod.dual_scale)
        (second,) = attention([normed], None if masks is None else [masks[i]], cond if attention.dim_cond else None)
        if mod.attn_gate is None:
            return out + second
        return torch.addcmul(mod.attn_gate * out, mod.dual_gate, second)


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
        checkpoint_activations: recompute each block in the backward pass instead of keeping its activations.
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
        norm_eps: float = 1e-6,
        checkpoint_activations: bool = False,
        modality_names: Sequence[str] | None = None,
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.dim_modalities = tuple(dim_modalities)
        count = len(self.dim_modalities)
        self.modality_names = modality_labels(modality_names, count)
        self.checkpoint_activations = checkpoint_activations
        discarded = modality_indexes(discard, count, "discard")
        for block in dual_blocks:
            if not 0 <= block < depth:
                raise ValueError(f"dual_blocks holds block indexes below depth={depth}, got {block}")

        registers = _for_each(num_register_tokens, count, "num_register_tokens", self.modality_names)
        self.registers = nn.ModuleList(
            make_registers(dim, number) for dim, number in zip(self.dim_modalities, registers, strict=True)
        )
        self.expand_streams, self.reduce_streams = (
            ExpandStreams(num_residual_streams),
            ReduceStreams(num_residual_streams),
        )
        self.blocks = nn.ModuleList(
            MMDiTBlock(
                dim_modalities=self.dim_modalities,
                num_residual_streams=num_residual_streams,
                norm_eps=norm_eps,
                discard=sorted(discarded) if index == depth - 1 else (),
                skip_feedforward=skip_last_feedforward if index == depth - 1 else (),
                dual=(count - 1,) if index in dual_blocks else (),
                layer_index=index,
                modality_names=self.modality_names,
                **block_kwargs,
            )
            for index in range(depth)
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
        modality_masks: Sequence[Tensor | None] | None = None,
        time_cond: Tensor | Sequence[Tensor] | None = None,
        skip_last_feedforward: Collection[int] = (),
    ) -> tuple[Tensor | None, ...]:
        """Run the stack.

        Args:
            modality_tokens: N tensors `b n_i d_i`.
            modality_masks: N masks `b n_i`, bool, True = valid, or None; masked tokens are attended to by none.
            time_cond: conditioning `b dim_cond`, or one such tensor for each modality.
            skip_last_feedforward: modalities whose feedforward in the last block is left out of this call.

        Returns:
            N tensors `b n_i d_i`, None for a discarded modality. What stands at masked positions means nothing.

        Raises:
            ValueError: a shape, a mask's dtype or the conditioning is wrong; it names the modality, got and wanted.
        """
        check_count(modality_tokens, self.modality_names, "modality_tokens")
        check_tokens(modality_tokens, self.dim_modalities, self.modality_names)
        given = check_masks(modality_masks, modality_tokens, self.modality_names)

        tokens, masks = [], []
        for registers, x, mask in zip(self.registers, modality_tokens, given, strict=True):
            x, mask = registers(x, mask)
            tokens.append(self.expand_streams(x))
            masks.append(mask)

        for block in self.blocks:
            last = block is self.blocks[-1]
            arguments: dict[str, Any] = dict(
                modality_tokens=tokens,
                modality_masks=masks,
                time_cond=time_cond,
                skip_feedforward=skip_last_feedforward if last else (),
            )
            if self.checkpoint_activations and torch.is_grad_enabled():
                tokens = checkpoint(block, use_reentrant=False, **arguments)
            else:
                tokens = block(**arguments)

        return tuple(
            None if x is None else norm(self.reduce_streams(x)[:, registers.count :])
            for x, norm, registers in zip(tokens, self.final_norms, self.registers, strict=True)
        )


def _for_each(value: Any, count: int, argument: str, names: Sequence[str]) -> tuple[Any, ...]:
    """`value` for every modality, or its own for each."""
    if isinstance(value, (int, bool)):
        return (value,) * count
    if len(value) != count:
        raise ValueError(f"{argument} must be one value or one for each of {', '.join(names)}, got {len(value)}")
    return tuple(value)
