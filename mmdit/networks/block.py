"""The MMDiT block of Esser et al. 2024 (arXiv 2403.03206), for any number of modalities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import check_conditioning, check_count, check_tokens, modality_indexes, modality_labels
from mmdit.layers.feedforward import FeedForward, feedforward_options
from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.modulation import (
    ATTENTION_PARTS,
    DUAL_PARTS,
    FEEDFORWARD_PARTS,
    BlockModulation,
    Modulation,
    NoModulation,
)
from mmdit.layers.norms import AdaptiveLayerNorm
from mmdit.layers.residuals import make_residual
from mmdit.packing import Packing


class MMDiTBlock(nn.Module):
    """One MMDiT block (Esser et al. 2024, Figure 2b) over N modalities.

    Every modality has its own modulation, norms, projections and feedforward; the attention is one, over all tokens.

    Args:
        dim_modalities: width of each modality's tokens.
        dim_cond: width of the conditioning vector; None: plain layer norms with weights, and no gates.
        dim_joint_attn, heads, dim_head: `dim_joint_attn = heads * dim_head`; any two decide the third.
        qk_rmsnorm, qk_norm_shared, qk_layernorm, flash_attn, softclamp, softclamp_value, num_adaptive_weights, gating,
            bias: see `JointAttention`.
        num_residual_streams: above 1, hyper-connections; the tokens are then `b n s d`.
        residual: plain, nested (see `NestedResidual`), hyper_connections or manifold_hyper_connections; None: plain for
            one stream, else manifold.
        dynamic_residual: whether the mixing of hyper-connections depends on the tokens.
        ff_kwargs: options of `FeedForward` (mult, dim_hidden, kind, bias, dropout).
        adaln: "zero": gates start at 0, as in DiT; "identity": at 1.
        modulation_bias: whether the modulations have one.
        own_modulation: False for a block that is called with the `modulations` that several blocks share.
        norm_eps: added to the variance in the norms.
        discard: indexes of modalities not needed after this block: attended to, not updated, returned as None.
        unused_weights: what to keep for them though nothing reads it, because published checkpoints hold it: "none",
            "queries" (SD3) or "all" (Qwen-Image).
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
        qk_layernorm: bool = False,
        flash_attn: bool | None = None,
        softclamp: bool = False,
        softclamp_value: float = 50.0,
        num_adaptive_weights: int = 1,
        gating: str = "token",
        bias: bool = False,
        num_residual_streams: int = 1,
        residual: str | None = None,
        dynamic_residual: bool = True,
        ff_kwargs: dict[str, Any] | None = None,
        adaln: str = "zero",
        modulation_bias: bool = True,
        own_modulation: bool = True,
        norm_eps: float = 1e-6,
        discard: Sequence[int] = (),
        unused_weights: str = "none",
        skip_feedforward: Sequence[int] = (),
        dual: Sequence[int] = (),
        layer_index: int = 0,
        modality_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.dim_modalities = tuple(dim_modalities)
        self.modality_names = modality_labels(modality_names, len(self.dim_modalities))
        self.dim_cond = dim_cond
        self.shares_modulation = dim_cond is not None and not own_modulation
        self.token_dims = 3 if num_residual_streams == 1 else 4
        indexes = range(len(self.dim_modalities))
        discarded = modality_indexes(discard, len(indexes), "discard")
        no_feedforward = modality_indexes(skip_feedforward, len(indexes), "skip_feedforward")
        self.dual = sorted(modality_indexes(dual, len(indexes), "dual"))
        self.updated = [i for i in indexes if i not in discarded]
        self.fed = [i for i in self.updated if i not in no_feedforward]
        # what has weights, though a published checkpoint may hold more than is read
        written = indexes if unused_weights == "all" else self.updated
        holds_feedforward = [i for i in written if i not in no_feedforward]
        if discarded.intersection(self.dual):
            raise ValueError("a modality that this block discards can't have a second attention in it")

        attention: dict[str, Any] = dict(
            dim_joint_attn=dim_joint_attn,
            heads=heads,
            dim_head=dim_head,
            qk_rmsnorm=qk_rmsnorm,
            qk_norm_shared=qk_norm_shared,
            qk_layernorm=qk_layernorm,
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
            if dim_cond is None or not own_modulation:
                return NoModulation()
            # no gate where nothing is written
            parts: tuple[str, ...] = ATTENTION_PARTS if i in written else ATTENTION_PARTS[:2]
            parts += FEEDFORWARD_PARTS if i in holds_feedforward else ()
            parts += DUAL_PARTS if i in self.dual else ()
            return Modulation(dim_cond, self.dim_modalities[i], parts, adaln=adaln, bias=modulation_bias)

        def norm(i: int) -> nn.Module:
            return AdaptiveLayerNorm(self.dim_modalities[i], conditioned=dim_cond is not None, eps=norm_eps)

        def connection(i: int, sublayer: int) -> nn.Module:
            return make_residual(
                "plain" if residual == "nested" and sublayer == 0 else residual,
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
            unused_weights=unused_weights,
            names=self.modality_names,
            **attention,
        )
        self.dual_attns = where(self.dual, second_attention)
        self.ff_residuals = where(self.fed, lambda i: connection(i, 1))
        self.ff_norms = where(holds_feedforward, norm)
        self.feedforwards = where(holds_feedforward, lambda i: FeedForward(self.dim_modalities[i], **ff_options))

    def forward(
        self,
        *,
        modality_tokens: Sequence[Tensor],
        modality_masks: Sequence[Tensor | None] | None = None,
        time_cond: Tensor | Sequence[Tensor] | None = None,
        modulations: Sequence[BlockModulation] | None = None,
        rotary: Sequence[Tensor | None] | None = None,
        skip_feedforward: Collection[int] = (),
        packing: Packing | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Run the block.

        Args:
            modality_tokens: N tensors `b n_i d_i` (`b n_i s d_i` with s residual streams).
            modality_masks: N masks `b n_i`, bool, True = valid, or None; masked tokens are attended to by none.
            time_cond: conditioning `b dim_cond`, or one such tensor for each modality.
            modulations: one for each modality, where they are not the block's own (with `packing`, spread already).
            rotary: the places of each modality's tokens, `n_i d/2 2` from a `RotaryTable`, or None.
            skip_feedforward: modalities whose feedforward is left out of this call.
            packing: the tokens are packed, `1 T_i d_i` without padding (see `Packing`), and there are no masks.

        Returns:
            N tensors shaped as they came, None for a discarded modality.

        Raises:
            ValueError: a shape, a mask's dtype, the conditioning or an index is wrong; it names the modality, got and
                wanted.
        """
        check_count(modality_tokens, self.modality_names, "modality_tokens")
        check_tokens(modality_tokens, self.dim_modalities, self.modality_names, dims=self.token_dims)
        batch = modality_tokens[0].shape[0] if packing is None else packing.batch
        conds = check_conditioning(time_cond, self.dim_cond, batch, self.modality_names)
        modality_indexes(skip_feedforward, len(self.modality_names), "skip_feedforward")
        tokens: list[Tensor | None] = list(modality_tokens)

        # conditioning vector -> shift, scale and gate of every modality
        if modulations is None and self.shares_modulation:
            raise ValueError("this block shares its modulation with others; pass modulations")
        mod = modulations
        if mod is None:
            mod = [own.spread(packing, i) for i, own in enumerate(self.modulate(conds))]

        # norm and modulate, each for itself; ONE attention over all tokens; gate and residual
        reads = [residual.width(x) for residual, x in zip(self.attn_residuals, modality_tokens, strict=True)]
        normed = [
            norm(x, m.attn_shift, m.attn_scale) for norm, (x, _), m in zip(self.attn_norms, reads, mod, strict=True)
        ]
        gating = conds if self.joint_attn.dim_cond else None
        attended = self.joint_attn(normed, modality_masks, gating, rotary, packing)
        for i in self.updated:
            out, gate = attended[i], mod[i].attn_gate
            if i in self.dual:
                second = self._second_attention(i, reads[i][0], mod[i], modality_masks, conds, rotary, packing)
                out, gate = self._add_second(mod[i], out, second), None
            tokens[i] = self.attn_residuals[i].depth(reads[i][1], out, gate)

        # norm and modulate, feedforward, gate and residual, each for itself
        for i in self.fed:
            if i in skip_feedforward:
                continue
            x, state = self.ff_residuals[i].width(tokens[i], modality_tokens[i])
            out = self.feedforwards[i](self.ff_norms[i](x, mod[i].ff_shift, mod[i].ff_scale))
            tokens[i] = self.ff_residuals[i].depth(state, out, mod[i].ff_gate)

        return tuple(x if i in self.updated else None for i, x in enumerate(tokens))

    def modulate(self, conds: Sequence[Tensor | None]) -> list[BlockModulation]:
        """The block's own modulation of each modality, from its conditioning `b dim_cond`."""
        return [modulation(cond) for modulation, cond in zip(self.modulations, conds, strict=True)]

    def _second_attention(
        self,
        i: int,
        x: Tensor,
        mod: BlockModulation,
        masks: Sequence[Tensor | None] | None,
        conds: Sequence[Tensor | None],
        rotary: Sequence[Tensor | None] | None,
        packing: Packing | None,
    ) -> Tensor:
        """SD3.5-medium's second attention reads the same tokens with a modulation of its own."""
        attention = self.dual_attns[i]
        normed = self.attn_norms[i](x, mod.dual_shift, mod.dual_scale)
        (second,) = attention(
            [normed],
            None if masks is None else [masks[i]],
            conds[i] if attention.dim_cond else None,
            None if rotary is None else [rotary[i]],
            None if packing is None else packing.only(i),
        )
        return second

    def _add_second(self, mod: BlockModulation, first: Tensor, second: Tensor) -> Tensor:
        """Both, each with its gate."""
        if mod.attn_gate is None or mod.dual_gate is None:
            return first + second
        return torch.addcmul(mod.attn_gate * first, mod.dual_gate, second)
