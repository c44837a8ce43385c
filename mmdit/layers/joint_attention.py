"""Joint attention: each modality projects for itself, all attend over the joined sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import check_conditioning, check_tokens
from mmdit.layers.attention import join_masks, make_attention
from mmdit.layers.masks import Masks, enter_masked
from mmdit.layers.neighbours import make_neighbours
from mmdit.layers.norms import make_head_norm
from mmdit.layers.output_gate import NoOutputGate, make_output_gate
from mmdit.layers.projections import make_projections
from mmdit.layers.rotary import rotate
from mmdit.options import JointAttentionOptions
from mmdit.options.fields import Flag, Size, Text, Whole, takes
from mmdit.options.modality_keywords import by_modality, modality_indexes, modality_labels
from mmdit.packing import Packing


@takes(JointAttentionOptions)
class JointAttention(nn.Module):
    """One attention over the concatenation of N sequences, each with its own q, k, v and out projection.

    Args:
        options: what it is; or as keywords: dim_joint_attn, heads, dim_head, qk_rmsnorm, softclamp, ...
        dim_inputs: width of each input sequence.
        out_bias: whether the out projections have a bias; None: as the others.
        discard: indexes of inputs that are attended to but not updated; they have keys and values only, but for what
            `unused_weights` keeps.
        names: what errors call the inputs.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    def __init__(
        self,
        options: JointAttentionOptions | None = None,
        *,
        dim_inputs: Sequence[Size],
        out_bias: Flag | None = None,
        discard: Sequence[Whole] = (),
        names: Sequence[Text] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__()
        options = JointAttentionOptions.of(options, keywords, type(self).__name__)
        attention, unused = options.attention, options.unused_weights
        self.dim_inputs = tuple(dim_inputs)
        self.names = modality_labels(names, len(self.dim_inputs), what="input")
        self.heads, self.dim_head = options.head_sizes
        kernels = by_modality(attention.out_kernel, self.names, "out_kernel")
        self.beside = [make_neighbours(kernel) for kernel in kernels]
        self.dim_cond = options.dim_cond if attention.gating == "sample" else None  # what the gates come from
        self.discard = modality_indexes(discard, len(self.dim_inputs), "discard")
        if keywords:  # those of a whole network speak of its last block
            options.check_unused(self.discard)
        if len(self.discard) == len(self.dim_inputs):
            raise ValueError("every input is discarded, so nothing would come out; keep at least one")

        self.gates, self.to_qkv, self.to_out = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.q_norms, self.k_norms, self.out_gates = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, dim in enumerate(self.dim_inputs):
            discarded = index in self.discard
            bias = attention.bias if out_bias is None else out_bias
            kernel = kernels[index]
            gate, qkv, out = make_projections(dim, options, out_bias=bias, discarded=discarded, out_kernel=kernel)
            self.gates.append(gate)
            self.to_qkv.append(qkv)
            self.to_out.append(nn.Identity() if out is None else out)
            self.out_gates.append(NoOutputGate() if out is None else make_output_gate(dim, options))
            self.q_norms.append(make_head_norm(options) if unused != "none" or not discarded else nn.Identity())
            self.k_norms.append(make_head_norm(options, attention.kv_heads))
        self.attend = make_attention(attention, self.heads)

    def forward(
        self,
        inputs: Sequence[Tensor],
        masks: Sequence[Tensor | None] | Masks | None = None,
        cond: Tensor | Sequence[Tensor] | None = None,
        rotary: Sequence[Tensor | None] | None = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Attend over all inputs together.

        Args:
            inputs: N tensors `b n_i d_i`.
            masks: N masks `b n_i`, bool, True = valid, None = all valid. What stands at masked positions, nan and inf
                included, changes nothing; outputs there are finite and mean nothing. A sample with no valid token in
                any input gives zeros (with `bias`, that of `to_out`).
            cond: `b dim_cond`, or one for each input; for `gating="sample"` alone.
            rotary: N tables `n_i d/2 2` of a `RotaryTable`, None where nothing turns.
            packing: the inputs are packed, `1 T_i d_i` without padding; masks may not be given as well.

        Returns:
            N tensors shaped as the inputs, None for a discarded one.

        Raises:
            ValueError: a count, width, batch, mask shape or mask dtype is wrong; it names the input, got and wanted.
        """
        check_tokens(inputs, self.dim_inputs, self.names, "inputs")
        inputs, entered, _ = enter_masked(inputs, masks, self.names)
        if packing is not None:
            packing.check_packed(inputs, entered.by_modality, self.names)
        batch = inputs[0].shape[0] if packing is None else packing.batch
        conds = check_conditioning(cond, self.dim_cond, batch, self.names, argument="cond")

        turns = (None,) * len(inputs) if rotary is None else rotary

        # each modality for itself: queries, keys, values, their norms and places  (b n_i h d)
        gates = [gate(x, c) for gate, x, c in zip(self.gates, inputs, conds, strict=True)]
        queries, keys, values = [], [], []
        each = zip(inputs, gates, turns, self.to_qkv, self.q_norms, self.k_norms, strict=True)
        for index, (x, gate, turn, to_qkv, q_norm, k_norm) in enumerate(each):
            *query, key, value = self._project(to_qkv, x, gate, index, packing)
            queries += [rotate(q_norm(q), turn) for q in query]
            keys.append(rotate(k_norm(key), turn))
            values.append(value)

        # all together: one attention over the joined sequence  (b N h d)
        kept = [index for index in range(len(inputs)) if index not in self.discard]
        if packing is None:
            lengths = [x.shape[1] for x in inputs]
            q, k, v = (_join(parts, torch.cat) for parts in (queries, keys, values))
            attended = self.attend(q, k, v, join_masks(list(entered.by_modality), lengths, q)).transpose(1, 2)
            pieces = attended.split([lengths[index] for index in kept], dim=1)
        else:
            q = _join(queries, partial(packing.join, modalities=kept))
            k, v = (_join(parts, packing.join) for parts in (keys, values))
            attended = self.attend(q, k, v, segments=packing.segments(kept, q.device))
            pieces = packing.split(attended.transpose(1, 2), kept)

        # each for itself again
        outs: list[Tensor | None] = [None] * len(inputs)
        valid = entered.valid(packing)
        for index, piece in zip(kept, pieces, strict=True):
            gated = self.out_gates[index](piece, inputs[index])
            beside = self.beside[index](gated, valid[index])
            outs[index] = self._project(self.to_out[index], beside, gates[index], index, packing)
        return tuple(outs)

    def _project(
        self, projection: nn.Module, x: Tensor, gate: Tensor | None, index: int, packing: Packing | None
    ) -> Any:
        """With a weight of its own for each sample, packed samples are taken one by one."""
        if packing is None or gate is None or self.dim_cond is None:
            return projection(x, gate)
        return packing.by_sample(projection, x, gate, index)


def _join(parts: list[Tensor], join: Callable[..., Tensor]) -> Tensor:
    """`b n_i h d` each -> `b h N d`.

    On the CPU heads are first in memory too: attention reads a head's rows 4 to 11 % faster so. A GPU's kernels give
    their result the layout of the queries, so that tokens stay first in memory and the out projection needs no copy.
    """
    if len(parts) == 1:
        return parts[0].transpose(1, 2)
    if parts[0].device.type == "cpu":
        return join([x.transpose(1, 2) for x in parts], dim=2)
    return join(parts, dim=1).transpose(1, 2)
