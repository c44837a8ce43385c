"""The whole network: ends of each modality, timestep and pooled conditioning, and the transformer between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import check_masks
from mmdit.layers.attention import join_masks
from mmdit.layers.modulation import NetworkModulation
from mmdit.networks import ragged
from mmdit.networks.embeddings import VectorEmbed, make_embed, make_timestep_embed
from mmdit.networks.output_heads import make_head
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
        self.refiners = nn.ModuleDict(
            {name: Refiner(config, name) for name, m in config.modalities.items() if m.refiner}
        )
        self.type_embeds = nn.ModuleDict(
            {
                name: nn.Embedding(len(self.streams[name]), m.dim)
                for name, m in config.modalities.items()
                if m.type_embedding
            }
        )
        self.time_embed = make_timestep_embed(config.timestep, dim_cond)
        self.guidance_embed = make_timestep_embed(config.guidance, dim_cond)
        pooled = config.pooled
        self.pooled_embed = None if pooled is None or dim_cond is None else VectorEmbed(pooled.dim, dim_cond)
        self.places = None if config.rotary is None else RotaryPlaces(config)
        self.transformer = MMDiT(config)
        heads = {name: make_head(modality, config) for name, modality in config.modalities.items()}
        self.outputs = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def forward(
        self,
        inputs: Mapping[str, Given],
        timestep: Tensor | Mapping[str, Tensor] | None = None,
        pooled: Tensor | None = None,
        masks: Mapping[str, Tensor] | Packing | None = None,
        guidance: Tensor | None = None,
        modulation: NetworkModulation | None = None,
        references: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> dict[str, Any]:
        """Run the network.

        Args:
            inputs: by modality: an image `b c h w`, a video `b c f h w`, a sequence `b n d`, token ids `b n`; and by
                their own names a modality's further `inputs`. Or a list of `b` tensors without the batch dimension,
                each of its own size; with `varlen` nothing is computed for the padding.
            timestep: `b`, or one such tensor for each modality (each may be noised by its own amount).
            pooled: `b dim`, where the config has `pooled`.
            masks: by the name of an input, `b n` bool, True = valid; inputs may be left out, and those given as lists
                must be. Or a `Packing` of them, where those of further inputs stand behind their modality's own.
            guidance: `b`, the guidance scale, where the config has `guidance`.
            modulation: one of `precompute_modulation`, in place of timestep, pooled and guidance.
            references: by modality, where its config has `references`, further images `b c h' w'`, each of its own
                size: all of their tokens are valid, none is returned, and a `Packing` of the masks counts them.

        Returns:
            By modality what its output head gives, tokens where it has none, in a list where a list came in; discarded
            modalities are absent, and so are the tokens of further inputs.

        Raises:
            ValueError: a modality is missing or unknown, or a shape is wrong; it names the modality, got and wanted.
        """
        self._check_names(inputs, "inputs", tuple(self.inputs), complete=True)
        batch = ragged.batch_of(inputs)
        if modulation is None:
            conds = self._conditioning(timestep, pooled, guidance, batch)
        else:
            if timestep is not None or pooled is not None or guidance is not None:
                raise ValueError("modulation takes the place of timestep, pooled and guidance; pass it alone")
            conds, timestep = self._known(modulation, batch), modulation.timestep.expand(batch)

        embedded = {name: ragged.embed(self.inputs[name], inputs[name], name) for name in self.inputs}
        tokens = {name: x for name, (x, _) in embedded.items()}
        lengths = {name: each for name, (_, each) in embedded.items()}
        own = [tokens[name].shape[1] for name in self.modality_names]
        packing, valid = self._masks(masks, tokens, lengths)
        for name, cond in zip(self.modality_names, conds, strict=True):
            if name in self.refiners:
                t = timestep[name] if isinstance(timestep, Mapping) else timestep
                tokens[name] = self.refiners[name](tokens[name], inputs[name], valid[name], t, cond)
        behind = self._embed_references(references, inputs, batch) if references else {}
        joined = [self._join(name, tokens, valid, behind.get(name, [])) for name in self.modality_names]
        outs = self.transformer(
            modality_tokens=[x for x, _ in joined],
            modality_masks=packing or [mask for _, mask in joined],
            time_cond=None if conds[0] is None else conds,
            modality_positions=None if self.places is None else self.places(inputs, references),
            modulation=None if modulation is None else modulation.stack,
        )

        result, heads = {}, dict(self.outputs.items())
        for name, x, n, cond in zip(self.modality_names, outs, own, conds, strict=True):
            if x is not None:
                known = None if modulation is None else modulation.heads.get(name)
                result[name] = ragged.head(heads.get(name), x[:, :n], cond, inputs[name], lengths[name], known)
        return result

    def precompute_modulation(
        self, timesteps: Tensor, pooled: Tensor | None = None, guidance: Tensor | None = None
    ) -> list[NetworkModulation]:
        """What the conditioning decides at every step of a sampler, from one pass over the modulations' weights.

        Shifts, scales and gates depend on timestep, pooled vector and guidance alone, so they need not be computed anew
        for each step: the modulations hold about a third of the parameters of an SD3 block, which the steps then don't
        read. The result holds steps x b x (width of all modulations) numbers.

        Args:
            timesteps: `s`, in the network's unit, each for all samples and modalities.
            pooled, guidance: as in the call, `b dim` and `b`. Where the network has neither, or they have a batch of 1,
                the result serves any batch.

        Returns:
            One for each timestep: `net(inputs, modulation=them[i])`.

        Raises:
            ValueError: a shape is wrong, or the network has no timestep.
        """
        if self.time_embed is None or timesteps.ndim != 1:
            wanted = (
                "this model has no timestep" if self.time_embed is None else "timesteps must have the shape (steps,)"
            )
            raise ValueError(f"precompute_modulation: {wanted}, got {tuple(timesteps.shape)}")
        steps, given = len(timesteps), [x for x in (pooled, guidance) if x is not None]
        batch = max((len(x) for x in given), default=1)
        if any(len(x) not in (1, batch) for x in given):
            raise ValueError(f"pooled and guidance must have one batch, got {' and '.join(str(len(x)) for x in given)}")
        every = [
            None if x is None else x.expand(batch, *x.shape[1:]).repeat(steps, *(1,) * (x.ndim - 1))
            for x in (pooled, guidance)
        ]
        cond = self._conditioning(timesteps.repeat_interleave(batch), every[0], every[1], steps * batch)[0]
        assert cond is not None
        heads = {name: head.modulate(cond) for name, head in self.outputs.items()}  # type: ignore[operator]
        whole = NetworkModulation((cond,), self.transformer.modulate(cond), heads, timesteps.repeat_interleave(batch))
        return [whole.rows(step * batch, (step + 1) * batch) for step in range(steps)]

    def _known(self, modulation: NetworkModulation, batch: int) -> list[Tensor | None]:
        """The conditioning vectors of a modulation computed before."""
        cond = modulation.conds[0]
        if len(cond) not in (1, batch):
            raise ValueError(f"modulation is for a batch of {len(cond)}, got inputs with one of {batch}")
        conds = [each.expand(batch, -1) for each in modulation.conds]
        return [*conds] if len(conds) > 1 else [*conds] * len(self.modality_names)

    def _embed_references(
        self, references: Mapping[str, Sequence[Tensor]], inputs: Mapping[str, Given], batch: int
    ) -> dict[str, list[Tensor]]:
        """Tokens `b n d` of each image, by modality."""
        self._check_names(references, "references", self.modality_names, complete=False)
        if not all(isinstance(x, Tensor) for x in inputs.values()):
            raise ValueError("references go with inputs that are tensors, not lists of samples of their own sizes")
        embedded: dict[str, list[Tensor]] = {}
        for name, images in references.items():
            if self.config.modalities[name].references is None:
                raise ValueError(f"references: {name} takes none; set model.modalities.{name}.references in the config")
            for index, image in enumerate(images):
                tokens = self.inputs[name](image, f"references: {name}[{index}]")
                if len(tokens) != batch:
                    raise ValueError(
                        f"references: {name}[{index}] has a batch of {len(tokens)}, but the inputs have one of {batch}"
                    )
                embedded.setdefault(name, []).append(tokens)
        return embedded

    def _join(
        self,
        name: str,
        tokens: Mapping[str, Tensor],
        valid: Mapping[str, Tensor | None],
        references: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """A modality's tokens, those of its further inputs and of its references behind them, and which are valid."""
        parts, masks = [tokens[each] for each in self.streams[name]], [valid[each] for each in self.streams[name]]
        if name in self.type_embeds:
            types = self.type_embeds[name](torch.arange(len(parts), device=parts[0].device))
            parts = [x + types[i] for i, x in enumerate(parts)]
        parts, masks = [*parts, *references], [*masks, *(None for _ in references)]
        if len(parts) == 1:
            return parts[0], masks[0]
        return torch.cat(parts, 1), join_masks(masks, [x.shape[1] for x in parts], parts[0])

    def _masks(
        self,
        masks: Mapping[str, Tensor] | Packing | None,
        tokens: Mapping[str, Tensor],
        lengths: Mapping[str, tuple[int, ...] | None],
    ) -> tuple[Packing | None, dict[str, Tensor | None]]:
        """Those given, and those of inputs whose samples have lengths of their own; with a packing, what it says."""
        first = next(iter(tokens.values()))
        if isinstance(masks, Packing):
            if any(lengths.values()):
                raise ValueError("masks: samples of different sizes are packed by their own sizes; pass no Packing")
            return masks, self._of_packing(masks, tokens)
        made = {name: ragged.mask_of(lengths[name], x.shape[1], x.device) for name, x in tokens.items()}
        if any(lengths.values()) and self.transformer.varlen and not masks and tokens.keys() == self.streams.keys():
            padded = [x.shape[1] for x in tokens.values()]
            return Packing.from_lengths(list(lengths.values()), padded, len(first), first.device), made
        given = masks or {}
        self._check_names(given, "masks", tuple(tokens), complete=False)
        for name, own in lengths.items():
            if own is not None and name in given:
                raise ValueError(f"{name} is a list of samples, whose sizes say what is valid; leave it out of masks")
        check_masks([given.get(name) for name in tokens], list(tokens.values()), list(tokens))
        return None, {name: given.get(name, made[name]) for name in tokens}

    def _of_packing(self, packing: Packing, tokens: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """By input, what a packing says is valid of its tokens, where a refiner reads it."""
        valid: dict[str, Tensor | None] = dict.fromkeys(tokens)
        for i, name in enumerate(self.modality_names):
            mask = packing.mask(i) if name in self.refiners else None
            valid[name] = None if mask is None else mask[:, : tokens[name].shape[1]]
        return valid

    def _conditioning(
        self,
        timestep: Tensor | Mapping[str, Tensor] | None,
        pooled: Tensor | None,
        guidance: Tensor | None,
        batch: int,
    ) -> list[Tensor | None]:
        """One `b dim_cond` vector for each modality."""
        if self.time_embed is None:
            if timestep is not None or pooled is not None or guidance is not None:
                raise ValueError(
                    "this model has no timestep in its config, so no timestep, pooled or guidance may be passed"
                )
            return [None] * len(self.modality_names)
        if timestep is None:
            raise ValueError("timestep is missing: this model is conditioned on it; pass a tensor of shape (batch,)")
        if (pooled is None) != (self.pooled_embed is None):
            wanted = "needs" if self.pooled_embed else "was built without"
            raise ValueError(
                f"this model {wanted} a pooled vector, got {'none' if pooled is None else tuple(pooled.shape)}"
            )
        if isinstance(timestep, Mapping):
            self._check_names(timestep, "timestep", self.modality_names, complete=True)
        for t in timestep.values() if isinstance(timestep, Mapping) else (timestep,):
            if t.shape != (batch,):
                raise ValueError(f"timestep must have the shape (batch,) = ({batch},), got {tuple(t.shape)}")
        extra = self._guidance(guidance, batch) + self._pooled(pooled, batch)
        if isinstance(timestep, Mapping):
            return [self.time_embed(timestep[name]) + extra for name in self.modality_names]
        return [self.time_embed(timestep) + extra] * len(self.modality_names)

    def _guidance(self, guidance: Tensor | None, batch: int) -> Tensor | int:
        if (guidance is None) != (self.guidance_embed is None):
            wanted = "needs" if self.guidance_embed else "was built without"
            raise ValueError(f"this model {wanted} guidance, got {'none' if guidance is None else 'one'}")
        if guidance is None or self.guidance_embed is None:
            return 0
        if guidance.shape != (batch,):
            raise ValueError(f"guidance must have the shape (batch,) = ({batch},), got {tuple(guidance.shape)}")
        return self.guidance_embed(guidance)

    def _pooled(self, pooled: Tensor | None, batch: int) -> Tensor | int:
        if pooled is None or self.pooled_embed is None:
            return 0
        wanted = (batch, self.pooled_embed.linear_in.in_features)
        if pooled.shape != wanted:
            raise ValueError(f"pooled must have the shape (batch, dim) = {wanted}, got {tuple(pooled.shape)}")
        return self.pooled_embed(pooled)

    def _check_names(self, given: Mapping[str, Any], argument: str, names: Sequence[str], *, complete: bool) -> None:
        unknown = [name for name in given if name not in names]
        missing = [name for name in names if name not in given] if complete else []
        if unknown or missing:
            raise ValueError(f"{argument} must be named {', '.join(names)}, got {', '.join(given) or 'none'}")
