"""Joint attention: each modality projects for itself, all attend over the joined sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import check_conditioning, check_count, check_masks, check_tokens, modality_labels
from mmdit.layers.attention import join_masks, make_attention
from mmdit.layers.heads import resolve_heads
from mmdit.layers.norms import HeadLayerNorm, MultiHeadRMSNorm
from mmdit.layers.projections import UNUSED_WEIGHTS, make_projections
from mmdit.layers.rotary import rotate
from mmdit.packing import Packing


class JointAttention(nn.Module):
    """One attention over the concatenation of N sequences, each with its own q, k, v and out projection.

    Args:
        dim_inputs: width of each input sequence.
        dim_joint_attn, heads, dim_head: `dim_joint_attn = heads * dim_head`; any two decide the third
            (default 8 heads of 64).
        qk_rmsnorm: learned RMS norm of queries and keys per head; `qk_norm_shared` learns one scale for all heads.
        qk_layernorm: a layer norm without weights instead.
        flash_attn: None or True: `scaled_dot_product_attention`; False: the explicit formula.
        softclamp, softclamp_value: clamp the logits to +-value by a tanh (slower: the explicit formula).
        num_adaptive_weights: weight matrices that each projection holds and a gate mixes; 1 is standard attention.
        gating: "token" takes the gate from each token, "sample" from the conditioning vector (needs `dim_cond`).
        bias: whether the projections have one; `out_bias` says otherwise for the out projection.
        discard: indexes of inputs that are attended to but not updated; they have keys and values only.
        unused_weights: what to keep for the discarded inputs though nothing reads it, because published checkpoints
            hold it: "none", "queries" (SD3) or "all" (Qwen-Image: the out projection as well).
        names: what errors call the inputs.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    def __init__(
        self,
        *,
        dim_inputs: Sequence[int],
        dim_joint_attn: int | None = None,
        heads: int | None = None,
        dim_head: int | None = None,
        qk_rmsnorm: bool = False,
        qk_norm_shared: bool = False,
        qk_layernorm: bool = False,
        norm_eps: float = 1e-6,
        flash_attn: bool | None = None,
        softclamp: bool = False,
        softclamp_value: float = 50.0,
        num_adaptive_weights: int = 1,
        gating: str = "token",
        dim_cond: int | None = None,
        bias: bool = False,
        out_bias: bool | None = None,
        discard: Sequence[int] = (),
        unused_weights: str = "none",
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.dim_inputs = tuple(dim_inputs)
        self.names = modality_labels(names, len(self.dim_inputs), what="input")
        self.heads, self.dim_head = resolve_heads(dim_joint_attn=dim_joint_attn, heads=heads, dim_head=dim_head)
        self.dim_cond = dim_cond if gating == "sample" and num_adaptive_weights > 1 else None
        self.discard = frozenset(discard)
        if len(self.discard) == len(self.dim_inputs):
            raise ValueError("every input is discarded, so nothing would come out; keep at least one")
        if unused_weights not in UNUSED_WEIGHTS:
            raise ValueError(f"unused_weights must be one of {', '.join(UNUSED_WEIGHTS)}, got {unused_weights!r}")
        if qk_rmsnorm and qk_layernorm:
            raise ValueError("queries and keys have one norm; set either qk_rmsnorm or qk_layernorm")

        self.gates, self.to_qkv, self.to_out = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.q_norms, self.k_norms = nn.ModuleList(), nn.ModuleList()
        for index, dim in enumerate(self.dim_inputs):
            discarded = index in self.discard
            gate, qkv, out = make_projections(
                dim,
                heads=self.heads,
                dim_head=self.dim_head,
                num_weights=num_adaptive_weights,
                gating=gating,
                dim_cond=dim_cond,
                bias=bias,
                out_bias=bias if out_bias is None else out_bias,
                discarded=discarded,
                unused_weights=unused_weights,
            )
            self.gates.append(gate)
            self.to_qkv.append(qkv)
            self.to_out.append(nn.Identity() if out is None else out)
            for norms, needed in ((self.q_norms, unused_weights != "none" or not discarded), (self.k_norms, True)):
                norm: nn.Module = nn.Identity()
                if needed and qk_rmsnorm:
                    norm = MultiHeadRMSNorm(self.dim_head, heads=self.heads, shared=qk_norm_shared, eps=norm_eps)
                elif needed and qk_layernorm:
                    norm = HeadLayerNorm(eps=norm_eps)
                norms.append(norm)
        self.attend = make_attention(flash_attn=flash_attn, softclamp_value=softclamp_value if softclamp else None)

    def forward(
        self,
        inputs: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        cond: Tensor | Sequence[Tensor] | None = None,
        rotary: Sequence[Tensor | None] | None = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Attend over all inputs together.

        Args:
            inputs: N tensors `b n_i d_i`.
            masks: N masks `b n_i`, bool, True = valid, None = all valid. Outputs at masked positions are finite and
                mean nothing. A sample with no valid token in any input gives zeros (with `bias`, that of `to_out`).
            cond: `b dim_cond`, or one for each input; for `gating="sample"` alone.
            rotary: N tables `n_i d/2 2` of a `RotaryTable`, None where nothing turns.
            packing: the inputs are packed, `1 T_i d_i` without padding; masks may not be given as well.

        Returns:
            N tensors shaped as the inputs, None for a discarded one.

        Raises:
            ValueError: a count, width, batch, mask shape or mask dtype is wrong; it names the input, got and wanted.
        """
        check_count(inputs, self.names, "inputs")
        check_tokens(inputs, self.dim_inputs, self.names)
        masks = check_masks(masks, inputs, self.names)
        if packing is not None:
            packing.check_packed(inputs, masks, self.names)
        batch = inputs[0].shape[0] if packing is None else packing.batch
        conds = check_conditioning(cond, self.dim_cond, batch, self.names, argument="cond")

        turns = (None,) * len(inputs) if rotary is None else rotary

        # each modality for itself: queries, keys, values, their norms and places  (b n_i h d)
        gates = [gate(x, c) for gate, x, c in zip(self.gates, inputs, conds, strict=True)]
        queries, keys, values = [], [], []
        for index, (x, gate) in enumerate(zip(inputs, gates, strict=True)):
            *query, key, value = self._project(self.to_qkv[index], x, gate, index, packing)
            queries += [rotate(self.q_norms[index](q), turns[index]) for q in query]
            keys.append(rotate(self.k_norms[index](key), turns[index]))
            values.append(value)

        # all together: one attention over the joined sequence  (b N h d)
        kept = [index for index in range(len(inputs)) if index not in self.discard]
        if packing is None:
            lengths = [x.shape[1] for x in inputs]
            q, k, v = (_join(parts) for parts in (queries, keys, values))
            attended = self.attend(q, k, v, join_masks(list(masks), lengths, q)).transpose(1, 2)
            pieces = attended.split([lengths[index] for index in kept], dim=1)
        else:
            q = packing.join(_heads_first(queries), kept, dim=2)
            k, v = (packing.join(_heads_first(parts), dim=2) for parts in (keys, values))
            attended = self.attend(q, k, v, segments=packing.segments(kept, q.device))
            pieces = packing.split(attended.transpose(1, 2), kept)

        # each for itself again
        outs: list[Tensor | None] = [None] * len(inputs)
        for index, piece in zip(kept, pieces, strict=True):
            outs[index] = self._project(self.to_out[index], piece, gates[index], index, packing)
        return tuple(outs)

    def _project(
        self, projection: nn.Module, x: Tensor, gate: Tensor | None, index: int, packing: Packing | None
    ) -> Any:
        """With a weight of its own for each sample, packed samples are taken one by one."""
        if packing is None or gate is None or self.dim_cond is None:
            return projection(x, gate)
        return packing.by_sample(projection, x, gate, index)


def _join(parts: list[Tensor]) -> Tensor:
    """`b n_i h d` each -> `b h N d`, heads first in memory too: attention reads a head's rows 4 to 11 % faster so."""
    turned = _heads_first(parts)
    return turned[0] if len(turned) == 1 else torch.cat(turned, dim=2)


def _heads_first(parts: list[Tensor]) -> list[Tensor]:
    return [x.transpose(1, 2) for x in parts]  # b n h d -> b h n d
