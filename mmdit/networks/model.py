"""The whole network: ends of each modality, timestep and pooled conditioning, and the transformer between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import as_vector, check_names, described
from mmdit.layers.attention import join_masks
from mmdit.layers.masks import Masks
from mmdit.layers.modulation import Conditioning, ConditioningRuns, NetworkModulation
from mmdit.networks import ragged
from mmdit.networks.embeddings import VectorEmbed, make_embed, make_timestep_embed, own_dtype
from mmdit.networks.input_masks import given_masks, with_sizes
from mmdit.networks.output_heads import make_head
from mmdit.networks.pads import PadTokens, pack_with_pads
from mmdit.networks.places import RotaryPlaces
from mmdit.networks.ragged import Given
from mmdit.networks.refiner import Refiner
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions
from mmdit.packing import Packing


class MMDiTModel(nn.Module):
    """A network from its inputs' own forms to its outputs' (Esser et al. 2024, Figure 2a), built from a config.

    Timestep, guidance scale and pooled vector become the conditioning; each input is embedded to tokens, refined where
    the config says so, and given its place; the transformer runs; each modality with an output head is brought back to
    its form.
    """

    def __init__(self, config: ModelOptions) -> None:
        super().__init__()
        self.config = config
        self.modality_names = tuple(config.modalities)
        dim_cond, eps = config.dim_cond, config.norm_eps
        # behind the tokens of a modality stand those of its further inputs
        self.streams = {name: (name, *(modality.inputs or ())) for name, modality in config.modalities.items()}
        self.inputs = nn.ModuleDict(
            {
                each: make_embed(config.inputs[each], config.modalities[name].dim, eps=eps)
                for name, stream in self.streams.items()
                for each in stream
            }
        )
        self.pads = nn.ModuleDict({name: PadTokens(m.pad, m.dim) for name, m in config.modalities.items() if m.pad})
        self.multiples = [None if m.pad is None else m.pad.multiple for m in config.modalities.values()]
        self.refiners = nn.ModuleDict(
            {name: Refiner(config, name) for name, m in config.modalities.items() if m.refiner}
        )
        own = {name: m for name, m in config.modalities.items() if m.references and m.references.own}
        self.reference_inputs = nn.ModuleDict({name: make_embed(m.input, m.dim, eps=eps) for name, m in own.items()})
        self.reference_refiners = nn.ModuleDict({name: Refiner(config, name) for name, m in own.items() if m.refiner})
        self.type_embeds = nn.ModuleDict(
            {
                name: nn.Embedding(len(self.streams[name]), m.dim)
                for name, m in config.modalities.items()
                if m.type_embedding
            }
        )
        # at timestep 0: the references of some modalities, and some modalities
        self.clean = {name for name, m in config.modalities.items() if m.references is not None and m.references.clean}
        self.still = {name for name, m in config.modalities.items() if m.clean}
        self.time_embed = make_timestep_embed(config.timestep, dim_cond)
        self.guidance_embed = make_timestep_embed(config.guidance, dim_cond)
        pooled = config.pooled
        self.pooled_embed = None if pooled is None or dim_cond is None else VectorEmbed(pooled.dim, dim_cond)
        self.places = None if config.rotary is None else RotaryPlaces(config)
        # whose masks are read apart from the transformer's
        self.read_masks = {*self.refiners, *(m.rotary.after for m in config.modalities.values() if m.rotary)} - {None}
        self.transformer = MMDiT(config)
        heads = {name: make_head(modality, config) for name, modality in config.modalities.items()}
        self.outputs = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def forward(
        self,
        inputs: Mapping[str, Given],
        timestep: Tensor | float | Mapping[str, Tensor | float] | None = None,
        pooled: Tensor | None = None,
        masks: Mapping[str, Tensor] | Packing | None = None,
        guidance: Tensor | float | None = None,
        modulation: NetworkModulation | None = None,
        references: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> dict[str, Any]:
        """Run the network.

        Args:
            inputs: by modality: an image `b c h w`, a video `b c f h w`, a sequence `b n d`, token ids `b n`; and by
                their own names a modality's further `inputs`. Or a list of `b` tensors without the batch dimension,
                each of its own size; with `varlen` nothing is computed for the padding.
            timestep: `b` or a number for all samples; or for each modality (each may be noised by its own amount) such
                a one, or `b n`, one for each of its tokens, those of its further inputs, its references and its pad
                tokens included: 0 for a frame that is given.
            pooled: `b dim`, where the config has `pooled`.
            masks: by the name of an input, `b n` bool, True = valid; inputs may be left out, and those given as lists
                must be. What stands at masked positions, nan and inf included, changes nothing. Or a `Packing` of
                them, where those of further inputs stand behind their modality's own.
            guidance: `b` or a number for all samples, the guidance scale, where the config has `guidance`.
            modulation: one of `precompute_modulation`, in place of timestep, pooled and guidance.
            references: by modality, where its config has `references`, further images `b c h' w'`, each of its own
                size: all of their tokens are valid, none is returned, and a `Packing` of the masks counts them.

        Returns:
            By modality what its output head gives, tokens where it has none, in a list where a list came in; discarded
            modalities are absent, and so are the tokens of further inputs.

        Raises:
            ValueError: a modality is missing or unknown, or a shape is wrong; it names the modality, got and wanted.
        """
        check_names(inputs, "inputs", tuple(self.inputs), complete=True)
        batch = ragged.batch_of(inputs)
        behind = self._embed_references(references or {}, inputs, batch)
        given = given_masks(masks, self.streams, inputs, behind)
        embedded = {name: ragged.embed(self.inputs[name], inputs[name], name, given.get(name)) for name in self.inputs}
        tokens = {name: x for name, (x, _) in embedded.items()}
        lengths = {name: each for name, (_, each) in embedded.items()}
        if modulation is None:
            like = tokens[self.modality_names[0]]
            conds = self._conditioning(timestep, pooled, guidance, batch, like, self.clean.intersection(behind))
        else:
            if timestep is not None or pooled is not None or guidance is not None:
                raise ValueError("modulation takes the place of timestep, pooled and guidance; pass it alone")
            conds, timestep = self._known(modulation, batch), modulation.timestep.expand(batch)

        given_lengths = [tokens[name].shape[1] for name in self.modality_names]
        packing = self._packing(masks, tokens, lengths)
        valid = with_sizes(given, tokens, lengths, tokens if packing is None or self.pads else self.read_masks)
        for name, pad in self.pads.items():
            tokens[name], valid[name] = pad(tokens[name], valid[name])
        own = [tokens[name].shape[1] for name in self.modality_names]
        of_own = self._of_own_tokens(conds, own)
        places = [None] * len(own) if self.places is None else self.places(inputs, references, valid)
        for name, cond, n, place in zip(self.modality_names, of_own, own, places, strict=True):
            if name in self.refiners:
                t = timestep[name] if isinstance(timestep, Mapping) else timestep
                t = 0.0 if name in self.still else t
                turned = None if place is None else place[..., :n, :]
                tokens[name] = self.refiners[name](tokens[name], inputs[name], valid[name], t, cond, turned)
        for name in behind.keys() & self.reference_refiners.keys():
            i = self.modality_names.index(name)
            cond, place = self._of_references(conds, own)[i], places[i]
            turned = None if place is None else place[..., own[i] :, :]
            behind[name] = self.reference_refiners[name](behind[name], behind[name], None, None, cond, turned)
        joined = [self._join(name, tokens, valid, behind.get(name)) for name in self.modality_names]
        whole, masked = [x for x, _ in joined], Masks(tuple(mask for _, mask in joined), filled=True)
        if packing is not None and self.pads:  # which one of what was given does not count
            packing = pack_with_pads(packing, masked.by_modality, self.multiples)
        outs = self.transformer(
            modality_tokens=whole,
            modality_masks=packing or masked,
            time_cond=None if conds[0] is None else self._of_all_tokens(conds, own, whole),
            modality_positions=None if self.places is None else places,
            modulation=None if modulation is None else modulation.stack,
        )

        result, heads = {}, dict(self.outputs.items())
        for name, x, n, cond in zip(self.modality_names, outs, given_lengths, of_own, strict=True):
            if x is not None:
                known = None if modulation is None else modulation.heads.get(name)
                result[name] = ragged.head(heads.get(name), x[:, :n], cond, inputs[name], lengths[name], known)
        return result

    def precompute_modulation(
        self,
        timesteps: Tensor,
        pooled: Tensor | None = None,
        guidance: Tensor | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> list[NetworkModulation]:
        """What the conditioning decides at every step of a sampler, from one pass over the modulations' weights.

        Shifts, scales and gates depend on timestep, pooled vector and guidance alone, so they need not be computed anew
        for each step: the modulations hold about a third of the parameters of an SD3 block, which the steps then don't
        read. The result holds steps x b x (width of all modulations) numbers.

        Args:
            timesteps: `s`, in the network's unit, each for all samples and modalities.
            pooled, guidance: as in the call, `b dim` and `b`. Where the network has neither, or they have a batch of 1,
                the result serves any batch.
            dtype: what the network computes in; None: that of `pooled`, or else of its first weight that is not stored
                as something else (float8, say).

        Returns:
            One for each timestep: `net(inputs, modulation=them[i])`.

        Raises:
            ValueError: a shape is wrong, or the network has no timestep.
        """
        if self.time_embed is None or not isinstance(timesteps, Tensor) or timesteps.ndim != 1:
            wanted = (
                "this model has no timestep" if self.time_embed is None else "timesteps must have the shape (steps,)"
            )
            raise ValueError(f"precompute_modulation: {wanted}, got {described(timesteps)}")
        steps, given = len(timesteps), [x for x in (pooled, guidance) if x is not None]
        batch = max((len(x) for x in given), default=1)
        if any(len(x) not in (1, batch) for x in given):
            raise ValueError(f"pooled and guidance must have one batch, got {' and '.join(str(len(x)) for x in given)}")
        every = [
            None if x is None else x.expand(batch, *x.shape[1:]).repeat(steps, *(1,) * (x.ndim - 1))
            for x in (pooled, guidance)
        ]
        if dtype is None:
            dtype = own_dtype(self) if pooled is None else pooled.dtype
        like = timesteps.new_empty(0, dtype=dtype)
        t = timesteps.repeat_interleave(batch)
        conds: Any = self._conditioning(t, every[0], every[1], steps * batch, like, self.clean)
        plain = {name: c[:, 0] if c.ndim == 3 else c for name, c in zip(self.modality_names, conds, strict=True)}
        heads = {name: head.modulate(plain[name]) for name, head in self.outputs.items()}  # type: ignore[operator]
        kept = conds if self.clean or self.still else conds[:1]
        stack = self.transformer.modulate(kept if len(kept) > 1 else kept[0])
        whole = NetworkModulation(tuple(kept), stack, heads, t)
        return [whole.rows(step * batch, (step + 1) * batch) for step in range(steps)]

    def _known(self, modulation: NetworkModulation, batch: int) -> list[Tensor | None]:
        """The conditioning vectors of a modulation computed before."""
        cond = modulation.conds[0]
        if len(cond) not in (1, batch):
            raise ValueError(f"modulation is for a batch of {len(cond)}, got inputs with one of {batch}")
        conds = [each.expand(batch, *each.shape[1:]) for each in modulation.conds]
        return [*conds] if len(conds) > 1 else [*conds] * len(self.modality_names)

    def _embed_references(
        self, references: Mapping[str, Sequence[Tensor]], inputs: Mapping[str, Given], batch: int
    ) -> dict[str, Tensor]:
        """Tokens `b n d` of all images of a modality, by its name."""
        check_names(references, "references", self.modality_names, complete=False)
        if references and not all(isinstance(x, Tensor) for x in inputs.values()):
            raise ValueError("references go with inputs that are tensors, not lists of samples of their own sizes")
        embedded = {}
        for name, images in references.items():
            if self.config.modalities[name].references is None:
                raise ValueError(f"references: {name} takes none; set model.modalities.{name}.references in the config")
            embed = self.reference_inputs[name] if name in self.reference_inputs else self.inputs[name]
            each = [embed(image, f"references: {name}[{index}]") for index, image in enumerate(images)]
            for index, tokens in enumerate(each):
                if len(tokens) != batch:
                    raise ValueError(
                        f"references: {name}[{index}] has a batch of {len(tokens)}, but the inputs have one of {batch}"
                    )
            if each:
                embedded[name] = torch.cat(each, dim=1)
        return embedded

    def _join(
        self, name: str, tokens: Mapping[str, Tensor], valid: Mapping[str, Tensor | None], references: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """A modality's tokens, those of its further inputs and of its references behind them, and which are valid."""
        parts, masks = [tokens[each] for each in self.streams[name]], [valid.get(each) for each in self.streams[name]]
        if name in self.type_embeds:
            types = self.type_embeds[name](torch.arange(len(parts), device=parts[0].device))
            parts = [x + types[i] for i, x in enumerate(parts)]
        if references is not None:
            parts, masks = [*parts, references], [*masks, None]
        if len(parts) == 1:
            return parts[0], masks[0]
        return torch.cat(parts, dim=1), join_masks(masks, [x.shape[1] for x in parts], parts[0])

    def _packing(
        self,
        masks: Mapping[str, Tensor] | Packing | None,
        tokens: Mapping[str, Tensor],
        lengths: Mapping[str, tuple[int, ...] | None],
    ) -> Packing | None:
        """The one given, or that of samples of different sizes where nothing else is masked."""
        if isinstance(masks, Packing):
            if any(lengths.values()):
                raise ValueError("masks: samples of different sizes are packed by their own sizes; pass no Packing")
            return masks
        longer = len(tokens) > len(self.streams) or bool(self.pads)
        if masks or longer or not self.transformer.varlen or not any(lengths.values()):
            return None
        padded = [x.shape[1] for x in tokens.values()]
        first = tokens[self.modality_names[0]]
        return Packing.from_lengths(list(lengths.values()), padded, len(first), first.device)

    def _of_own_tokens(self, conds: Sequence[Tensor | None], own: Sequence[int]) -> list[Tensor | None]:
        """The conditioning of each modality's own tokens, which its refiner and its head read."""
        return [
            cond if cond is None or cond.ndim == 2 else cond[:, 0] if name in self.clean else cond[:, :n]
            for name, cond, n in zip(self.modality_names, conds, own, strict=True)
        ]

    def _of_references(self, conds: Sequence[Tensor | None], own: Sequence[int]) -> list[Tensor | None]:
        """That of each modality's references."""
        return [
            cond if cond is None or cond.ndim == 2 else cond[:, 1] if name in self.clean else cond[:, n:]
            for name, cond, n in zip(self.modality_names, conds, own, strict=True)
        ]

    def _of_all_tokens(
        self, conds: Sequence[Tensor | None], own: Sequence[int], whole: Sequence[Tensor]
    ) -> list[Conditioning | None]:
        """That of each modality's tokens, of which those from `own` on are of its references where these are clean."""
        return [
            cond
            if cond is None or cond.ndim == 2 or name not in self.clean
            else ConditioningRuns(cond, (n, x.shape[1] - n))
            for name, cond, n, x in zip(self.modality_names, conds, own, whole, strict=True)
        ]

    def _conditioning(
        self,
        timestep: Tensor | float | Mapping[str, Tensor | float] | None,
        pooled: Tensor | None,
        guidance: Tensor | float | None,
        batch: int,
        like: Tensor,
        clean: Collection[str],
    ) -> list[Tensor | None]:
        """For each modality a vector, `b dim_cond`, in the dtype and on the device of `like`; `b n dim_cond` where each
        token has a timestep; `b 2 dim_cond`, its own and that of timestep 0, where its references are `clean`."""
        if self.time_embed is None:
            if timestep is not None or pooled is not None or guidance is not None:
                raise ValueError(
                    "this model has no timestep in its config, so no timestep, pooled or guidance may be passed"
                )
            return [None] * len(self.modality_names)
        if timestep is None:
            raise ValueError("timestep is missing: this model is conditioned on it; pass a tensor of shape (batch,)")
        parts: tuple[tuple[str, Any, nn.Module | None], ...] = (
            ("guidance", guidance, self.guidance_embed),
            ("a pooled vector", pooled, self.pooled_embed),
        )
        for what, given, embed in parts:
            if (given is None) != (embed is None):
                wanted = "was built without" if embed is None else "needs"
                raise ValueError(f"this model {wanted} {what}, got {'none' if given is None else described(given)}")

        def of_number(embed: nn.Module, given: object, argument: str, each_token: bool = False) -> Tensor:
            numbers = as_vector(given, argument, batch, like.device, each_token=each_token)
            vector: Tensor = embed(numbers, like.dtype)
            return vector

        extra: Tensor | int = 0
        if self.guidance_embed is not None:
            extra = of_number(self.guidance_embed, guidance, "guidance")
        if self.pooled_embed is not None:
            shape = (batch, self.pooled_embed.dim_in)
            if not isinstance(pooled, Tensor) or pooled.shape != shape:
                raise ValueError(f"pooled must have the shape (batch, dim) = {shape}, got {described(pooled)}")
            extra = extra + self.pooled_embed(pooled.to(like.dtype))
        if isinstance(timestep, Mapping):
            check_names(timestep, "timestep", self.modality_names, complete=True)
            conds = []
            for name in self.modality_names:
                vectors = of_number(self.time_embed, timestep[name], f"timestep of {name}", name not in clean)
                conds.append(vectors + (extra[:, None] if vectors.ndim == 3 and isinstance(extra, Tensor) else extra))
        else:
            conds = [of_number(self.time_embed, timestep, "timestep") + extra] * len(self.modality_names)
        if clean or self.still:
            at_zero = of_number(self.time_embed, 0.0, "timestep") + extra
            conds = [at_zero if n in self.still else c for n, c in zip(self.modality_names, conds, strict=True)]
            named = zip(self.modality_names, conds, strict=True)
            conds = [torch.stack([c, at_zero], dim=1) if n in clean else c for n, c in named]
        return [*conds]
