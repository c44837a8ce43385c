"""The single-stream block of FLUX: all tokens as one sequence, attention and feedforward side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmdit.layers.arguments import check_conditioning, check_tokens
from mmdit.layers.feedforward import FeedForward
from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.masks import Masks, enter_masked
from mmdit.layers.modulation import ATTENTION_PARTS, BlockModulation, Conditioning, OwnModulation, make_modulation
from mmdit.layers.norms import make_norm, make_norm_behind
from mmdit.layers.residuals import make_residual
from mmdit.options import BlockOptions
from mmdit.options.fields import Count, Size, Text, takes
from mmdit.packing import Packing

JOINED = "joined"  # what tables call the one stream


@takes(BlockOptions)
class ParallelBlock(nn.Module):
    """`x + gate * (attention(y) + feedforward(y))` with `y = modulate(norm(x))`, over one sequence.

    Attention and feedforward read the same tokens and are summed (Dehghani et al. 2023, arXiv 2302.05442, section 2.1;
    the single-stream blocks of FLUX). The bias of the sum is the feedforward's: the out projection has none.

    It is called as an `MMDiTBlock` of one modality is, whose options it takes.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    def __init__(
        self,
        options: BlockOptions | None = None,
        *,
        dim: Size,
        name: Text = JOINED,
        layer_index: Count = 0,
        **keywords: Any,
    ) -> None:
        super().__init__()
        options = BlockOptions.of(options, keywords, type(self).__name__)
        self.dim, self.modality_names, self.dim_cond = dim, (name,), options.dim_cond
        self.token_dims = 3 if options.residual.streams == 1 else 4
        self.shares_modulation = options.modulation.shared
        self.modulation = make_modulation(dim, ATTENTION_PARTS, options)
        self.residual: Any = make_residual(options.residual, dim, layer_index=layer_index)
        self.norm, self.norm_behind = make_norm(dim, options), make_norm_behind(dim, options)
        self.attn = JointAttention(options, dim_inputs=[dim], names=[name], out_bias=False)
        self.feedforward = FeedForward(dim, options.feedforward.of_modality(name))

    def modulate(self, conds: Sequence[Conditioning | None]) -> list[BlockModulation]:
        """The block's own modulation, from the conditioning."""
        return [self.modulation(cond) for cond in conds]

    def forward(
        self,
        *,
        modality_tokens: Sequence[Tensor],
        modality_masks: Sequence[Tensor | None] | Masks | None = None,
        time_cond: Conditioning | Sequence[Conditioning] | None = None,
        modulations: Sequence[BlockModulation] | OwnModulation | None = None,
        rotary: Sequence[Tensor | None] | None = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor]:
        """Run the block; every argument is that of `MMDiTBlock.forward` with one modality.

        Raises:
            ValueError: a shape, a mask's dtype or the conditioning is wrong; it names got and wanted.
        """
        check_tokens(modality_tokens, [self.dim], self.modality_names, "modality_tokens", dims=self.token_dims)
        batch = modality_tokens[0].shape[0] if packing is None else packing.batch
        lengths = [x.shape[1] for x in modality_tokens] if packing is None else packing.padded or None
        conds = check_conditioning(time_cond, self.dim_cond, batch, self.modality_names, lengths=lengths)
        (tokens,), masks, conds = enter_masked(modality_tokens, modality_masks, self.modality_names, conds)
        if modulations is None and self.shares_modulation:
            raise ValueError("this block shares its modulation with others; pass modulations")
        if modulations is None:
            modulations = [self.modulate(conds)[0].spread(packing, 0)]
        (mod,) = modulations(self.modulate) if callable(modulations) else modulations

        x, state = self.residual.width(tokens)
        normed = self.norm(x, mod.attn_shift, mod.attn_scale)
        (valid,) = masks.valid(packing)
        (attended,) = self.attn([normed], masks, conds if self.attn.dim_cond else None, rotary, packing)
        out = self.norm_behind(attended + self.feedforward(normed, valid))
        return (self.residual.depth(state, out, mod.attn_gate),)
