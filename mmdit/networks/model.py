"""The whole network: ends of each modality, timestep and pooled conditioning, and the transformer between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import as_vector, described
from mmdit.layers.masks import Masks
from mmdit.layers.modulation import NetworkModulation
from mmdit.networks import ragged
from mmdit.networks.embeddings import VectorEmbed, make_embed, make_timestep_embed, own_dtype
from mmdit.networks.output_heads import make_head
from mmdit.networks.places import RotaryPlaces
from mmdit.networks.ragged import Given
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions
from mmdit.packing import Packing


class MMDiTModel(nn.Module):
    """A network from its inputs' own forms to its outputs' (Esser et al. 2024, Figure 2a), built from a config.

    Timestep, guidance scale and pooled vector become the conditioning; each input is embedded to tokens and given its
    place; the transformer runs; each modality with an output head is brought back to its form.
    """

    def __init__(self, config: ModelOptions) -> None:
        super().__init__()
        self.config = config
        self.modality_names = tuple(config.modalities)
        dim_cond, eps = config.dim_cond, config.norm_eps
        self.inputs = nn.ModuleDict(
            {name: make_embed(modality, eps=eps) for name, modality in config.modalities.items()}
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
        timestep: Tensor | float | Mapping[str, Tensor | float] | None = None,
        pooled: Tensor | None = None,
        masks: Mapping[str, Tensor] | Packing | None = None,
        guidance: Tensor | float | None = None,
        modulation: NetworkModulation | None = None,
    ) -> dict[str, Any]:
        """Run the network.

        Args:
            inputs: by modality: an image `b c h w`, a sequence `b n d`, token ids `b n`. Or a list of `b` tensors
                without the batch dimension, each of its own size; with `varlen` nothing is computed for the padding.
            timestep: `b` or a number for all samples, or one such for each modality (each may be noised by its own
                amount).
            pooled: `b dim`, where the config has `pooled`.
            masks: by modality, `b n` bool, True = valid; modalities may be left out, and those given as lists must be.
                What stands at masked positions, nan and inf included, changes nothing. Or a `Packing` of them.
            guidance: `b` or a number for all samples, the guidance scale, where the config has `guidance`.
            modulation: one of `precompute_modulation`, in place of timestep, pooled and guidance.

        Returns:
            By modality what its output head gives, tokens where it has none, in a list where a list came in; discarded
            modalities are absent.

        Raises:
            ValueError: a modality is missing or unknown, or a shape is wrong; it names the modality, got and wanted.
        """
        self._check_names(inputs, "inputs", complete=True)
        ordered = [inputs[name] for name in self.modality_names]
        batch = ragged.batch_of(inputs)
        valid = self._given_masks(masks)
        embedded = [
            ragged.embed(self.inputs[name], inputs[name], name, valid.get(name)) for name in self.modality_names
        ]
        tokens, lengths = zip(*embedded, strict=True)
        if modulation is None:
            conds = self._conditioning(timestep, pooled, guidance, batch, tokens[0])
        else:
            if timestep is not None or pooled is not None or guidance is not None:
                raise ValueError("modulation takes the place of timestep, pooled and guidance; pass it alone")
            conds = self._known(modulation, batch)

        outs = self.transformer(
            modality_tokens=tokens,
            modality_masks=self._masks(masks, tokens, dict(zip(self.modality_names, lengths, strict=True))),
            time_cond=None if conds[0] is None else conds,
            modality_positions=None if self.places is None else self.places(inputs),
            modulation=None if modulation is None else modulation.stack,
        )

        result, heads = {}, dict(self.outputs.items())
        for name, x, cond, given, own in zip(self.modality_names, outs, conds, ordered, lengths, strict=True):
            if x is not None:
                known = None if modulation is None else modulation.heads.get(name)
                result[name] = ragged.head(heads.get(name), x, cond, given, own, known)
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
        cond = self._conditioning(timesteps.repeat_interleave(batch), every[0], every[1], steps * batch, like)[0]
        assert cond is not None
        heads = {name: head.modulate(cond) for name, head in self.outputs.items()}  # type: ignore[operator]
        whole = NetworkModulation((cond,), self.transformer.modulate(cond), heads)
        return [whole.rows(step * batch, (step + 1) * batch) for step in range(steps)]

    def _known(self, modulation: NetworkModulation, batch: int) -> list[Tensor | None]:
        """The conditioning vectors of a modulation computed before."""
        cond = modulation.conds[0]
        if len(cond) not in (1, batch):
            raise ValueError(f"modulation is for a batch of {len(cond)}, got inputs with one of {batch}")
        conds = [each.expand(batch, -1) for each in modulation.conds]
        return [*conds] if len(conds) > 1 else [*conds] * len(self.modality_names)

    def _given_masks(self, masks: Mapping[str, Tensor] | Packing | None) -> dict[str, Tensor | None]:
        """Those of the inputs, by name."""
        if isinstance(masks, Packing):
            return {name: masks.mask(i) for i, name in enumerate(self.modality_names)}
        self._check_names(masks or {}, "masks", complete=False)
        return {**(masks or {})}

    def _masks(
        self,
        masks: Mapping[str, Tensor] | Packing | None,
        tokens: Sequence[Tensor],
        lengths: Mapping[str, tuple[int, ...] | None],
    ) -> Packing | Masks | None:
        """Those given, and those of modalities whose samples have lengths of their own."""
        if isinstance(masks, Packing):
            if any(lengths.values()):
                raise ValueError("masks: samples of different sizes are packed by their own sizes; pass no Packing")
            return masks
        given = {} if masks is None else masks
        self._check_names(given, "masks", complete=False)
        if any(lengths.values()) and self.transformer.varlen and not given:
            return Packing.from_lengths(
                list(lengths.values()), [x.shape[1] for x in tokens], len(tokens[0]), tokens[0].device
            )
        made = {
            name: ragged.mask_of(own, x.shape[1], x.device)
            for x, (name, own) in zip(tokens, lengths.items(), strict=True)
        }
        for name, own in lengths.items():
            if own is not None and name in given:
                raise ValueError(f"{name} is a list of samples, whose sizes say what is valid; leave it out of masks")
        return Masks(tuple(given.get(name, made[name]) for name in self.modality_names), filled=True)

    def _conditioning(
        self,
        timestep: Tensor | float | Mapping[str, Tensor | float] | None,
        pooled: Tensor | None,
        guidance: Tensor | float | None,
        batch: int,
        like: Tensor,
    ) -> list[Tensor | None]:
        """One `b dim_cond` vector for each modality, in the dtype and on the device of `like`."""
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

        def of_number(embed: nn.Module, given: object, argument: str) -> Tensor:
            vector: Tensor = embed(as_vector(given, argument, batch, like.device), like.dtype)
            return vector

        extra: Tensor | int = 0
        if self.guidance_embed is not None:
            extra = of_number(self.guidance_embed, guidance, "guidance")
        if self.pooled_embed is not None:
            shape = (batch, self.pooled_embed.dim_in)
            if not isinstance(pooled, Tensor) or pooled.shape != shape:
                raise ValueError(f"pooled must have the shape (batch, dim) = {shape}, got {described(pooled)}")
            extra = extra + self.pooled_embed(pooled.to(like.dtype))
        if not isinstance(timestep, Mapping):
            return [of_number(self.time_embed, timestep, "timestep") + extra] * len(self.modality_names)
        self._check_names(timestep, "timestep", complete=True)
        times = {name: f"timestep of {name}" for name in self.modality_names}
        return [of_number(self.time_embed, timestep[name], said) + extra for name, said in times.items()]

    def _check_names(self, given: Mapping[str, Any], argument: str, *, complete: bool) -> None:
        if not isinstance(given, Mapping):
            raise ValueError(f"{argument} must be a mapping by modality, got {described(given)}")
        unknown = [name for name in given if name not in self.modality_names]
        missing = [name for name in self.modality_names if name not in given] if complete else []
        if unknown or missing:
            wanted = ", ".join(self.modality_names)
            raise ValueError(f"{argument} must be named {wanted}, got {', '.join(given) or 'none'}")
