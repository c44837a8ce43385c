"""The MMDiT block of Esser et al. 2024 (arXiv 2403.03206), for any number of modalities."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import check_conditioning, check_tokens
from mmdit.layers.feedforward import FeedForward
from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.masks import Masks, enter_masked
from mmdit.layers.modulation import (
    ATTENTION_PARTS,
    DUAL_PARTS,
    FEEDFORWARD_PARTS,
    BlockModulation,
    Conditioning,
    OwnModulation,
    make_modulation,
)
from mmdit.layers.norms import AdaptiveNorm, make_norm, make_norm_behind
from mmdit.layers.residuals import make_residual
from mmdit.layers.runs import over_runs
from mmdit.options import BlockOptions
from mmdit.options.fields import Count, Size, Text, Whole, takes
from mmdit.options.modality_keywords import by_modality, modality_indexes, modality_labels
from mmdit.packing import Packing


@takes(BlockOptions)
class MMDiTBlock(nn.Module):
    """One MMDiT block (Esser et al. 2024, Figure 2b) over N modalities.

    Every modality has its own modulation, norms, projections and feedforward; the attention is one, over all tokens.

    Args:
        options: what it is; or as keywords: dim_cond, dim_joint_attn, heads, qk_rmsnorm, num_residual_streams, ...
        dim_modalities: width of each modality's tokens.
        discard: indexes of modalities not needed after this block: attended to, not updated, returned as None.
        static: those of them whose tokens are read as they are: neither normed nor modulated (PRX's text).
        skip_feedforward: indexes of modalities without a feedforward in this block.
        dual: indexes of modalities with a second attention, over their own tokens alone (SD3.5-medium).
        layer_index: place of the block in the network; decides which stream hyper-connections read at first.
        modality_names: what errors and tables call the modalities.
        kinds: of a block of one modality, the names of the kinds of tokens in it, each of which has a modulation of its
            own; the call then takes their `modulations`.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    routed = False  # whether its network takes tokens past it in training

    def __init__(
        self,
        options: BlockOptions | None = None,
        *,
        dim_modalities: Sequence[Size],
        discard: Sequence[Whole] = (),
        static: Sequence[Whole] = (),
        skip_feedforward: Sequence[Whole] = (),
        dual: Sequence[Whole] = (),
        layer_index: Count = 0,
        modality_names: Sequence[Text] | None = None,
        kinds: Sequence[Text] = (),
        **keywords: Any,
    ) -> None:
        super().__init__()
        options = BlockOptions.of(options, keywords, type(self).__name__)
        self.dim_modalities = dims = tuple(dim_modalities)
        self.modality_names = names = modality_labels(modality_names, len(dims))
        self.dim_cond = options.dim_cond
        self.kinds = tuple(kinds) or names  # of which there is a modulation each
        self.shares_modulation = options.modulation.shared or len(self.kinds) > len(names)
        self.token_dims = 3 if options.residual.streams == 1 else 4
        indexes = range(len(dims))
        discarded = modality_indexes(discard, len(dims), "discard")
        if keywords:  # those of a whole network speak of its last block
            options.check_unused(discarded)
        as_they_are = modality_indexes(static, len(dims), "static")
        if not as_they_are <= discarded:
            raise ValueError("static modalities are not updated either; name them in discard as well")
        no_feedforward = modality_indexes(skip_feedforward, len(dims), "skip_feedforward")
        self.dual = sorted(modality_indexes(dual, len(dims), "dual"))
        if discarded.intersection(self.dual):
            raise ValueError("a modality that this block discards can't have a second attention in it")
        self.updated = [i for i in indexes if i not in discarded]
        self.fed = [i for i in self.updated if i not in no_feedforward]
        by_modality(options.feedforward.kernel, names, "kernel")
        # what has weights, though a published checkpoint may hold more than is read
        written = indexes if options.unused_weights == "all" else self.updated
        holds_feedforward = [i for i in written if i not in no_feedforward]

        def modulation(i: int) -> nn.Module:
            # no gate where nothing is written
            parts: tuple[str, ...] = ATTENTION_PARTS if i in written else ATTENTION_PARTS[:2]
            parts += FEEDFORWARD_PARTS if i in holds_feedforward else ()
            parts += DUAL_PARTS if i in self.dual else ()
            return make_modulation(dims[i], () if i in as_they_are else parts, options)

        def second(i: int) -> nn.Module:
            return JointAttention(options.of_modality(names[i]), dim_inputs=[dims[i]], names=[names[i]])

        def feedforward(i: int) -> nn.Module:
            return FeedForward(dims[i], options.feedforward.of_modality(names[i]))

        def norm(i: int) -> nn.Module:
            return AdaptiveNorm(nn.Identity()) if i in as_they_are else make_norm(dims[i], options)

        def norm_behind(i: int) -> nn.Module:
            return make_norm_behind(dims[i], options)

        def residual(i: int, sublayer: int) -> nn.Module:
            place = dict(layer_index=2 * layer_index + sublayer, sublayer=sublayer)
            return make_residual(options.residual, dims[i], writes=i in self.updated, **place)

        def where(chosen: Sequence[int], make: Callable[[int], nn.Module]) -> nn.ModuleList:
            return nn.ModuleList(make(i) if i in chosen else nn.Identity() for i in indexes)

        self.modulations = nn.ModuleList(modulation(0 if kinds else i) for i in range(len(self.kinds)))
        self.attn_residuals = where(indexes, lambda i: residual(i, 0))
        self.attn_norms = where(indexes, norm)
        self.joint_attn = JointAttention(options, dim_inputs=dims, discard=sorted(discarded), names=names)
        self.attn_norms_behind = where(written, norm_behind)
        self.dual_attns = where(self.dual, second)
        self.ff_residuals = where(self.fed, lambda i: residual(i, 1))
        self.ff_norms = where(holds_feedforward, norm)
        self.feedforwards = where(holds_feedforward, feedforward)
        self.ff_norms_behind = where(holds_feedforward, norm_behind)

    def forward(
        self,
        *,
        modality_tokens: Sequence[Tensor],
        modality_masks: Sequence[Tensor | None] | Masks | None = None,
        time_cond: Conditioning | Sequence[Conditioning] | None = None,
        modulations: Sequence[BlockModulation] | OwnModulation | None = None,
        rotary: Sequence[Tensor | None] | None = None,
        skip_feedforward: Collection[int] = (),
        packing: Packing | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Run the block.

        Args:
            modality_tokens: N tensors `b n_i d_i` (`b n_i s d_i` with s residual streams).
            modality_masks: N masks `b n_i`, bool, True = valid, or None. What stands at masked positions, nan
                and inf included, changes nothing.
            time_cond: conditioning `b dim_cond`, or one for each modality, which may be `b n_i dim_cond` (a vector for
                each token) or `ConditioningRuns`.
            modulations: one for each modality, where they are not the block's own (with `packing`, spread already); or
                what makes them by the block's own `modulate`, whose weights are then read within this call.
            rotary: the places of each modality's tokens, `n_i d/2 2` from a `RotaryTable`, or None.
            skip_feedforward: modalities whose feedforward is left out of this call.
            packing: the tokens are packed, `1 T_i d_i` without padding (see `Packing`), and there are no masks.

        Returns:
            N tensors shaped as they came, None for a discarded modality.

        Raises:
            ValueError: a shape, a mask's dtype, the conditioning or an index is wrong; it names the modality, got and
                wanted.
        """
        check_tokens(modality_tokens, self.dim_modalities, self.modality_names, "modality_tokens", dims=self.token_dims)
        batch = modality_tokens[0].shape[0] if packing is None else packing.batch
        lengths = [x.shape[1] for x in modality_tokens] if packing is None else packing.padded or None
        conds = check_conditioning(time_cond, self.dim_cond, batch, self.modality_names, lengths=lengths)
        modality_indexes(skip_feedforward, len(self.modality_names), "skip_feedforward")
        modality_tokens, masks, conds = enter_masked(modality_tokens, modality_masks, self.modality_names, conds)
        tokens: list[Tensor | None] = list(modality_tokens)

        # conditioning vector -> shift, scale and gate of every modality
        if modulations is None and self.shares_modulation:
            raise ValueError("this block's modulation is shared, or one of several kinds of tokens; pass modulations")
        if modulations is None:
            modulations = [own.spread(packing, i) for i, own in enumerate(self.modulate(conds))]
        mod = modulations(self.modulate) if callable(modulations) else modulations

        # norm and modulate, each for itself; ONE attention over all tokens; gate and residual
        reads = [residual.width(x) for residual, x in zip(self.attn_residuals, modality_tokens, strict=True)]
        normed = [
            norm(x, m.attn_shift, m.attn_scale) for norm, (x, _), m in zip(self.attn_norms, reads, mod, strict=True)
        ]
        gating = conds if self.joint_attn.dim_cond else None
        attended = self.joint_attn(normed, masks, gating, rotary, packing)
        branches = zip(attended, self.attn_norms_behind, self.attn_residuals, mod, strict=True)
        for i, (out, behind, residual, m) in enumerate(branches):
            if i not in self.updated:
                continue
            out, gate = behind(out), m.attn_gate
            if i in self.dual:
                # SD3.5-medium's second attention reads the same tokens with a modulation of its own
                normed_again = [self.attn_norms[i](reads[i][0], m.dual_shift, m.dual_scale)]
                turns = None if rotary is None else [rotary[i]]
                own = None if packing is None else packing.only(i)
                gating = conds[i : i + 1] if self.dual_attns[i].dim_cond else None
                (second,) = self.dual_attns[i](normed_again, masks.only(i), gating, turns, own)
                out, gate = _added(m, out, behind(second)), None
            tokens[i] = residual.depth(reads[i][1], out, gate)

        # norm and modulate, feedforward, gate and residual, each for itself
        valid = masks.valid(packing)
        sublayers = zip(self.ff_norms, self.feedforwards, self.ff_norms_behind, self.ff_residuals, mod, strict=True)
        for i, (norm, feedforward, behind, residual, m) in enumerate(sublayers):
            if i not in self.fed or i in skip_feedforward:
                continue
            x, state = residual.width(tokens[i], modality_tokens[i])
            out = behind(feedforward(norm(x, m.ff_shift, m.ff_scale), valid[i]))
            tokens[i] = residual.depth(state, out, m.ff_gate)

        return tuple(x if i in self.updated else None for i, x in enumerate(tokens))

    def modulate(self, conds: Sequence[Conditioning | None]) -> list[BlockModulation]:
        """The block's own modulation of each modality, from its conditioning."""
        return [modulation(cond) for modulation, cond in zip(self.modulations, conds, strict=True)]


def _added(mod: BlockModulation, first: Tensor, second: Tensor) -> Tensor:
    """Both attentions' outputs, each with its gate."""
    if mod.attn_gate is None or mod.dual_gate is None:
        return first + second
    return over_runs(_gated_sum, first, second, mod.attn_gate, mod.dual_gate)


def _gated_sum(first: Tensor, second: Tensor, gate: Tensor, other_gate: Tensor) -> Tensor:
    return torch.addcmul(gate * first, other_gate, second)
