"""The MMDiT of Esser et al. 2024 (arXiv 2403.03206): a stack of `MMDiTBlock`s, for any number of modalities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdit.layers.arguments import (
    check_conditioning,
    check_positions,
    check_tokens,
)
from mmdit.layers.masks import Masks, check_masks, fill_conditioning
from mmdit.layers.modulation import (
    ATTENTION_PARTS,
    FEEDFORWARD_PARTS,
    BlockModulation,
    Conditioning,
    ConditioningRuns,
    Modulate,
    ModulationOfKinds,
    OwnModulation,
    StackModulation,
    WholeModulation,
    make_modulation,
    make_whole_modulation,
)
from mmdit.layers.norms import RMSNorm
from mmdit.layers.registers import make_registers
from mmdit.layers.residuals import ExpandStreams, ReduceStreams
from mmdit.layers.rotary import make_rotary
from mmdit.networks.block import MMDiTBlock
from mmdit.networks.parallel_block import JOINED, ParallelBlock
from mmdit.networks.sequences import Packed, Padded
from mmdit.networks.token_routing import Route, make_routing
from mmdit.options import ModelOptions
from mmdit.options.fields import takes
from mmdit.packing import Packing


@takes(ModelOptions)
class MMDiT(nn.Module):
    """A stack of `MMDiTBlock`s over N modalities, and of single-stream blocks where there are any.

    Args:
        options: what it is; or as keywords: depth, dim_modalities, num_register_tokens, final_norms, discard, ..., and
            those of `MMDiTBlock`.

    Raises:
        ValueError: sizes contradict one another, or an option excludes another.
    """

    def __init__(self, options: ModelOptions | None = None, **keywords: Any) -> None:
        super().__init__()
        options = ModelOptions.of(options, keywords, type(self).__name__)
        dims = self.dim_modalities = tuple(modality.dim for modality in options.modalities.values())
        names = self.modality_names = options.names
        self.checkpoint_activations, self.varlen = options.checkpoint_activations, options.varlen
        self.dim_cond, self.sample_gated = options.dim_cond, options.attention.gating == "sample"
        self.discarded = frozenset(options.indexes(options.discard))
        self.streamed = options.indexes(options.streamed)  # in the single-stream blocks
        static = options.indexes([name for name, modality in options.modalities.items() if modality.static])

        self.registers = nn.ModuleList(map(make_registers, dims, options.registers))
        self.expand_streams = ExpandStreams(options.residual.streams)
        self.reduce_streams = ReduceStreams(options.residual.streams)
        self.rotary = make_rotary(options.rotary)
        single = options.single_stream
        self.by_modality = single is not None and single.modulation == "by_modality"
        parallel = single is not None and single.kind == "parallel"
        every = ATTENTION_PARTS if parallel and not options.depth else ATTENTION_PARTS + FEEDFORWARD_PARTS
        self.whole_modulation = make_whole_modulation(dims[0], every, options)
        if isinstance(self.whole_modulation, WholeModulation):  # it is what the blocks are conditioned by
            options = replace(options, dim_cond=self.whole_modulation.linear.out_features)
        # one modulation for all joint blocks, and one for all single-stream blocks, or for each modality in these
        self.shares_modulation = options.modulation.shared
        self.shared_modulations, self.shared_single_modulations = nn.ModuleList(), nn.ModuleList()
        self.shared_single_modulation: nn.Module | None = None
        if options.modulation.shared:
            joint = {i: () if i in static else every for i in range(len(dims))} if options.depth else {}
            self.shared_modulations.extend(make_modulation(dims[i], p, options, shared=True) for i, p in joint.items())
            if single is not None:
                parts = ATTENTION_PARTS if parallel else every
                if single.modulation == "joined":
                    self.shared_single_modulation = make_modulation(dims[self.streamed[0]], parts, options, shared=True)
                else:
                    modalities = list(options.modalities.values())
                    for i in self.streamed:
                        apart, made = modalities[i].references, make_modulation(dims[i], parts, options, shared=True)
                        if apart is not None and apart.own:
                            made = ModulationOfKinds([made, make_modulation(dims[i], parts, options, shared=True)])
                        self.shared_single_modulations.append(made)

        self.routing = make_routing(options)

        def block(index: int) -> nn.Module:
            last = index == options.depth - 1
            made = MMDiTBlock(
                options,
                dim_modalities=dims,
                # what the single-stream blocks read is not discarded before them
                discard=sorted(self.discarded.difference(self.streamed)) if last else static,
                static=static,
                skip_feedforward=options.indexes(options.without_last_feedforward) if last else (),
                dual=(len(dims) - 1,) if index in options.attention.dual else (),
                layer_index=index,
                modality_names=names,
            )
            made.routed = options.routing is not None and options.routing.start <= index < options.routing.end
            return made

        def single_block(index: int) -> nn.Module:
            first, *others = self.streamed
            name, dim = JOINED if others else names[first], dims[first]
            own = options.of_modality(names[first])  # of several no one has a convolution
            if parallel:
                return ParallelBlock(own, dim=dim, name=name, layer_index=2 * options.depth + index)
            return MMDiTBlock(
                own,
                dim_modalities=[dim],
                layer_index=options.depth + index,
                modality_names=[name],
                kinds=options.streamed if self.by_modality else (),
            )

        self.blocks = nn.ModuleList(map(block, range(options.depth)))
        self.single_blocks = nn.ModuleList(map(single_block, range(0 if single is None else single.depth)))
        self.final_norms = nn.ModuleList(
            RMSNorm(dim, eps=options.norm_eps) if normed and i not in self.discarded else nn.Identity()
            for i, (dim, normed) in enumerate(zip(dims, options.normed, strict=True))
        )

    def forward(
        self,
        *,
        modality_tokens: Sequence[Tensor],
        modality_masks: Sequence[Tensor | None] | Masks | Packing | None = None,
        time_cond: Conditioning | Sequence[Conditioning] | None = None,
        modality_positions: Sequence[Tensor | None] | None = None,
        skip_last_feedforward: Collection[int] = (),
        modulation: StackModulation | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Run the stack.

        Args:
            modality_tokens: N tensors `b n_i d_i`.
            modality_masks: N masks `b n_i`, bool, True = valid, or None. What stands at masked positions, nan and
                inf included, changes nothing. Or a `Packing` of them, which is used whether or not `varlen` is set.
            time_cond: conditioning `b dim_cond`, or one for each modality, which may be `b n_i dim_cond` (a vector for
                each token) or `ConditioningRuns`.
            modality_positions: with `rotary_axes`, the coordinates of each modality's tokens on them, `n_i a` (or
                `b n_i a`), or None for one whose tokens don't turn. Register tokens stand at 0.
            skip_last_feedforward: modalities whose feedforward in the last block is left out of this call.
            modulation: what `modulate` made of the same `time_cond` before.

        Returns:
            N tensors `b n_i d_i`, None for a discarded modality. What stands at masked positions means nothing.

        Raises:
            ValueError: a shape, a mask's dtype or the conditioning is wrong; it names the modality, got and wanted.
        """
        check_tokens(modality_tokens, self.dim_modalities, self.modality_names, "modality_tokens")
        batch = modality_tokens[0].shape[0]
        lengths = [x.shape[1] for x in modality_tokens]
        conds = check_conditioning(time_cond, self.dim_cond, batch, self.modality_names, lengths=lengths)
        self._check_per_token(conds)
        self._check_positions(modality_positions, modality_tokens)
        sequences = self._sequences(modality_masks, modality_tokens)
        if any(isinstance(cond, Tensor) and cond.ndim == 3 for cond in conds):
            time_cond = conds = fill_conditioning(conds, sequences.valid)  # type: ignore[assignment]
        time_cond, conds = self.whole_modulation(time_cond, conds)

        tokens: Sequence[Any] = [self.expand_streams(sequences.enter(x, i)) for i, x in enumerate(modality_tokens)]
        tables = self._rotary_tables(modality_positions, sequences)
        known = self._shared(conds) if modulation is None else self._checked(modulation, batch)
        mods: Sequence[BlockModulation] | None = None  # a block makes its own
        route: Route | None = None  # while some tokens skip blocks, in training
        routing = self.routing if self.training else None
        if routing is not None:
            routing.check(conds, self.modality_names)
        for index, block in enumerate(self.blocks):
            if index < len(known.blocks):  # one that is shared is there for the first
                mods = sequences.spread(_along(known.blocks[index], conds))
            if routing is not None and block.routed and route is None:
                route = routing.leave(tokens, sequences, tables)
                tokens = route.tokens
            elif route is not None and not block.routed:
                tokens, route = route.rejoin(tokens), None
            updated = self._run(
                block,
                tokens,
                modality_masks=sequences.masks if route is None else route.masks,
                time_cond=time_cond,
                modulations=mods,
                rotary=tables if route is None else route.tables,
                packing=sequences.packing,
                skip_feedforward=skip_last_feedforward if block is self.blocks[-1] else (),
            )
            tokens = [x if new is None else new for x, new in zip(tokens, updated, strict=True)]  # static ones stay
        if route is not None:
            tokens = route.rejoin(tokens)
        if self.single_blocks:
            tokens = self._single_stream(tokens, sequences, conds, tables, known)

        return tuple(
            None if x is None or i in self.discarded else sequences.leave(norm(self.reduce_streams(x)), i)
            for i, (x, norm) in enumerate(zip(tokens, self.final_norms, strict=True))
        )

    def modulate(self, time_cond: Tensor | Sequence[Tensor]) -> StackModulation:
        """What the conditioning, `b dim_cond` or one for each modality, decides in every block: `b 1 d` each. Of the
        `k` vectors of runs, `b k dim_cond`: `b k d`.

        It depends on the conditioning alone, so that of all steps of a sampler can be computed in one call.

        Raises:
            ValueError: the conditioning is wrong, or the model was built without.
        """
        first = time_cond if isinstance(time_cond, Tensor) else time_cond[0]
        given = [time_cond] * len(self.modality_names) if isinstance(time_cond, Tensor) else time_cond
        vectors = [x.shape[1] if x.ndim == 3 else 1 for x in given]
        conds = check_conditioning(time_cond, self.dim_cond, len(first), self.modality_names, lengths=vectors)
        if self.dim_cond is None:
            raise ValueError("modulate: this model was built without conditioning (dim_cond is None)")
        _, conds = self.whole_modulation(time_cond, conds)
        of_stream, shared = self._of_stream(conds), self._shared(conds)
        return StackModulation(
            shared.blocks or tuple(tuple(block.modulate(conds)) for block in self.blocks),
            shared.single_blocks
            or tuple(tuple(self._of_single(block.modulate, of_stream)) for block in self.single_blocks),
        )

    def _checked(self, modulation: StackModulation, batch: int) -> StackModulation:
        """Of as many blocks as there are (or shared by all), for the batch or any."""
        for given, blocks in ((modulation.blocks, self.blocks), (modulation.single_blocks, self.single_blocks)):
            if len(given) not in (0, min(1, len(blocks)) if self.shares_modulation else len(blocks)):
                raise ValueError(f"modulation is that of {len(given)} blocks, but this stack has {len(blocks)}")
        every = (*modulation.blocks, *modulation.single_blocks)
        rows = {len(part) for block in every for mod in block for part in mod if part is not None}
        if not rows <= {1, batch}:
            raise ValueError(f"modulation is for a batch of {max(rows)}, got tokens with one of {batch}")
        return modulation

    def _shared(self, conds: Sequence[Conditioning | None]) -> StackModulation:
        """What all joint blocks share, and all single-stream blocks."""
        conds = [cond.vectors if isinstance(cond, ConditioningRuns) else cond for cond in conds]
        joint = tuple(make(cond) for make, cond in zip(self.shared_modulations, conds, strict=False))
        single: tuple[BlockModulation, ...] = ()
        if self.shared_single_modulation is not None:
            single = tuple(self.shared_single_modulation(cond) for cond in _distinct(self._of_stream(conds)))
        elif self.shared_single_modulations:
            of_stream = zip(self.shared_single_modulations, self._of_stream(conds), strict=True)
            single = tuple(make(cond) for make, cond in of_stream)
        return StackModulation((joint,) if joint else (), (single,) if single else ())

    def _run(self, block: nn.Module, tokens: Sequence[Tensor], **arguments: Any) -> Any:
        if not self.checkpoint_activations or not torch.is_grad_enabled():
            return block(modality_tokens=tokens, **arguments)

        def run(*tokens: Tensor) -> Any:
            return block(modality_tokens=tokens, **arguments)

        # the random state that dropout draws from again is kept for the devices of what is passed by position
        return checkpoint(run, *tokens, use_reentrant=False)

    def _single_stream(
        self,
        tokens: Sequence[Tensor],
        sequences: Padded | Packed,
        conds: Sequence[Conditioning | None],
        tables: Sequence[Tensor | None] | None,
        known: StackModulation,
    ) -> Sequence[Tensor]:
        """All tokens, or those of some modalities, as one sequence, and apart again."""
        sequences, conds = sequences.only(self.streamed), self._of_stream(conds)
        stream = sequences.join(self._of_stream(tokens), None if tables is None else self._of_stream(tables))
        x = stream.tokens
        # every token is modulated by its modality's vector, where they have different ones
        if len(_distinct(conds)) > 1 and self.sample_gated:
            raise ValueError("gating 'sample' has one gate for the joined tokens; pass one time_cond for all")

        def own(modulate: Modulate) -> list[BlockModulation]:
            return [sequences.join_modulations(self._of_single(modulate, conds), stream)]

        mods: Sequence[BlockModulation] | OwnModulation = own
        for index, block in enumerate(self.single_blocks):
            if index < len(known.single_blocks):  # one that is shared is there for the first
                mods = [sequences.join_modulations(_along(known.single_blocks[index], conds), stream)]
            (x,) = self._run(
                block,
                [x],
                modality_masks=stream.masks,
                time_cond=_vector(conds[0]),
                modulations=mods,
                rotary=[stream.table],
                packing=stream.packing,
            )
        split = dict(zip(self.streamed, sequences.split(x, stream), strict=True))
        return [split.get(i, each) for i, each in enumerate(tokens)]

    def _of_single(self, modulate: Any, conds: Sequence[Conditioning | None]) -> list[BlockModulation]:
        """A single-stream block's own modulations: of each modality where each has one, or of each distinct vector."""
        if self.by_modality:
            return modulate(conds)
        return [modulate([cond])[0] for cond in _distinct(conds)]

    def _of_stream(self, of_all: Sequence[Any]) -> list[Any]:
        """What belongs to the modalities in the single-stream blocks."""
        return [of_all[i] for i in self.streamed]

    def _sequences(
        self, masks: Sequence[Tensor | None] | Masks | Packing | None, tokens: Sequence[Tensor]
    ) -> Padded | Packed:
        """Packed where that is asked for and saves anything."""
        lengths, batch = [x.shape[1] for x in tokens], tokens[0].shape[0]
        registers: Any = self.registers
        if isinstance(masks, Packing):
            masks.check(tokens)
            return Packed(masks, registers)
        checked = check_masks(masks, tokens, self.modality_names)
        given = [mask for mask in checked.by_modality if mask is not None]
        if not self.varlen or not batch or not given or given[0].is_meta:  # where masks have no values
            return Padded(checked, registers)
        packing = Packing.from_masks(checked.by_modality, lengths, batch)
        return Packed(packing, registers) if packing.has_padding else Padded(Masks((None,) * len(lengths)), registers)

    def _check_per_token(self, conds: Sequence[Conditioning | None]) -> None:
        stream = dict(zip(self.streamed, self.shared_single_modulations, strict=False))
        for i, (cond, name) in enumerate(zip(conds, self.modality_names, strict=True)):
            if cond is None or (isinstance(cond, Tensor) and cond.ndim == 2):
                continue
            if self.registers[i].count or self.sample_gated:
                other = "register tokens, which have none" if self.registers[i].count else "gating 'sample'"
                raise ValueError(f"time_cond for {name}: a vector for each token does not go with {other}")
            if isinstance(cond, Tensor) and isinstance(stream.get(i), ModulationOfKinds):
                message = "a vector for each token does not go with references.own and modulation: by_modality"
                raise ValueError(f"time_cond for {name}: {message}; pass one for each sample")

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


def _distinct(conds: Sequence[Conditioning | None]) -> Sequence[Conditioning | None]:
    """One vector `b d` for all modalities is the rule."""
    vectors = all(cond is None or (isinstance(cond, Tensor) and cond.ndim == 2) for cond in conds)
    return conds[:1] if vectors and all(cond is conds[0] for cond in conds) else conds


def _along(mods: Sequence[BlockModulation], conds: Sequence[Conditioning | None]) -> Sequence[BlockModulation]:
    """Those made of the vectors of runs before, for every token."""
    return [
        mod.along(cond.lengths) if isinstance(cond, ConditioningRuns) else mod
        for mod, cond in zip(mods, conds, strict=False)
    ]


def _vector(cond: Conditioning | None) -> Tensor | None:
    """One for a whole stream, whose modulation is known."""
    x = cond.vectors if isinstance(cond, ConditioningRuns) else cond
    return x[:, :1].sum(dim=1) if x is not None and x.ndim == 3 else x
