"""The whole network: ends of each modality, timestep and pooled conditioning, and the transformer between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import as_labels, as_vector, check_device, check_names, described
from mmdit.layers.attention import join_masks
from mmdit.layers.masks import Masks, fill_masked
from mmdit.layers.modulation import Conditioning, ConditioningRuns, NetworkModulation
from mmdit.networks import ragged
from mmdit.networks.embeddings import (
    MeansEmbed,
    PatchEmbed,
    VectorEmbed,
    make_embed,
    make_timestep_embed,
    own_dtype,
    stretched,
)
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

    Timestep, guidance scale, pooled vector and class become the conditioning; each input is embedded to tokens, refined
    where the config says so, and given its place; the transformer runs; each modality with an output head is brought
    back to its form.
    """

    def __init__(self, config: ModelOptions) -> None:
        super().__init__()
        self.config = config
        self.modality_names = tuple(config.modalities)
        dim_cond, eps = config.dim_cond, config.norm_eps
        # behind the tokens of a modality stand those of its further inputs
        self.streams = {name: (name, *(modality.inputs or ())) for name, modality in config.modalities.items()}
        self.conditions = {name: tuple(modality.conditions or ()) for name, modality in config.modalities.items()}

        self.inputs = nn.ModuleDict()
        for name, modality in config.modalities.items():
            feedforward = config.feedforward.of_modality(name)
            widths = dict.fromkeys(self.streams[name], modality.dim) | dict.fromkeys(
                self.conditions[name], dim_cond or 0
            )
            for each, dim in widths.items():
                self.inputs[each] = make_embed(config.inputs[each], dim, eps=eps, feedforward=feedforward)
        # whose masks are read beside a packing of them
        self.masked = {*config.means, *(each for conditions in self.conditions.values() for each in conditions)}
        for name, m in config.modalities.items():
            if m.refiner or m.conditions or getattr(m.output, "kernel", 1) > 1:
                self.masked.add(name)
            if m.rotary is not None and m.rotary.after is not None:
                self.masked.add(m.rotary.after)
        self.pads = nn.ModuleDict({name: PadTokens(m.pad, m.dim) for name, m in config.modalities.items() if m.pad})
        self.multiples = [None if m.pad is None else m.pad.multiple for m in config.modalities.values()]
        self.refiners = nn.ModuleDict(
            {name: Refiner(config, name) for name, m in config.modalities.items() if m.refiner}
        )
        own = {name: m for name, m in config.modalities.items() if m.references and m.references.own}
        self.reference_inputs = nn.ModuleDict(
            {
                name: make_embed(m.input, m.dim, eps=eps, feedforward=config.feedforward.of_modality(name))
                for name, m in own.items()
            }
        )
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
        labels = config.class_labels
        self.class_embed = None if labels is None or dim_cond is None else nn.Embedding(labels.classes, dim_cond)
        dims = {name: config.modalities[name].dim for name in config.means}
        self.means_embed = MeansEmbed(dims, dim_cond, config.feedforward) if dims and dim_cond else None
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
        references: Mapping[str, Sequence[Tensor]] | None = None,
        class_labels: Tensor | int | None = None,
    ) -> dict[str, Any]:
        """Run the network.

        Args:
            inputs: by modality: an image `b c h w`, a video `b c f h w`, a sequence `b n d`, token ids `b n`; and by
                their own names a modality's further `inputs` and its `conditions`. Or a list of `b` tensors without the
                batch dimension, each of its own size; with `varlen` nothing is computed for the padding.
            timestep: `b` or a number for all samples; or for each modality (each may be noised by its own amount) such
                a one, or `b n`, one for each of its tokens, those of its further inputs, its references and its pad
                tokens included: 0 for a frame that is given.
            pooled: `b dim`, where the config has `pooled`.
            masks: by the name of an input, `b n` bool, True = valid; inputs may be left out, and those given as lists
                must be. What stands at masked positions, nan and inf included, changes nothing. Or a `Packing` of
                them, where those of further inputs stand behind their modality's own.
            guidance: `b` or a number for all samples, the guidance scale, where the config has `guidance`.
            modulation: one of `precompute_modulation`, in place of timestep, pooled, guidance and class_labels.
            references: by modality, where its config has `references`, further images `b c h' w'` (beside a video
                `b c f' h' w'`), each of its own size: all of their tokens are valid, none is returned, and a `Packing`
                of the masks counts them.
            class_labels: `b` integers or one for all samples, where the config has `class_labels`.

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
        packing = self._packing(masks, tokens, lengths)
        valid = with_sizes(given, tokens, lengths, tokens if packing is None or self.pads else self.masked)
        means = None if modulation is not None or self.means_embed is None else self.means_embed(tokens, valid)
        given_lengths = [tokens[name].shape[1] for name in self.modality_names]
        given_valid = dict(valid)  # without pad tokens
        for name, pad in self.pads.items():
            tokens[name], valid[name] = pad(tokens[name], valid[name])
        every = {name: self._joined_mask(name, tokens, valid, behind) for name in self.modality_names}
        if packing is not None and not self.pads:
            every = {name: (count, packing.mask(i)) for i, (name, (count, _)) in enumerate(every.items())}
        like, clean = tokens[self.modality_names[0]], self.clean.intersection(behind)
        if modulation is None:
            conds = self._conditioning(timestep, pooled, guidance, class_labels, batch, like, clean, every, means)
        else:
            if any(each is not None for each in (timestep, pooled, guidance, class_labels)):
                raise ValueError(
                    "modulation takes the place of timestep, pooled, guidance and class_labels; pass it alone"
                )
            conds, timestep, clean = self._known(modulation, batch), modulation.timestep.expand(batch), self.clean

        own = [tokens[name].shape[1] for name in self.modality_names]
        of_own = self._of_own_tokens(conds, own, clean)
        masked = {name: mask for name, (_, mask) in every.items()}
        places: list[Tensor | None] = [None] * len(own)
        if self.places is not None:
            grids = {name: given_valid[name] for name in self.pads if isinstance(self.inputs[name], PatchEmbed)}
            places = self.places(inputs, references, masked | grids)  # an image's pad tokens have no place on its grid
        for name, cond, n, place in zip(self.modality_names, of_own, own, places, strict=True):
            if name in self.refiners:
                t = timestep[name] if isinstance(timestep, Mapping) else timestep
                t = 0.0 if name in self.still else t
                turned = None if place is None else place[..., :n, :]
                tokens[name] = self.refiners[name](
                    tokens[name], inputs[name], valid[name], t, cond, turned, given_valid[name]
                )
        for name in behind.keys() & self.reference_refiners.keys():
            i = self.modality_names.index(name)
            cond, place = self._of_references(conds, own)[i], places[i]
            turned = None if place is None else place[..., own[i] :, :]
            behind[name] = self.reference_refiners[name](behind[name], behind[name], None, None, cond, turned)
        whole = [self._join(name, tokens, behind) for name in self.modality_names]
        ordered = tuple(masked.values())
        if packing is not None and self.pads:  # which one of what was given does not count
            packing = pack_with_pads(packing, ordered, self.multiples)
        outs = self.transformer(
            modality_tokens=whole,
            modality_masks=packing or Masks(ordered, filled=True),
            time_cond=None if conds[0] is None else self._of_all_tokens(conds, own, whole, tokens, valid, clean),
            modality_positions=None if self.places is None else places,
            modulation=None if modulation is None else modulation.stack,
        )

        result, heads = {}, dict(self.outputs.items())
        for name, x, n, cond, mask in zip(self.modality_names, outs, given_lengths, of_own, ordered, strict=True):
            if x is not None:
                known = None if modulation is None else modulation.heads.get(name)
                own_mask = given_valid[name] if name in self.pads else None if mask is None else mask[:, :n]
                form = inputs[name], lengths[name]
                result[name] = ragged.head(heads.get(name), x[:, :n], cond, *form, known, own_mask)
        return result

    def precompute_modulation(
        self,
        timesteps: Tensor,
        pooled: Tensor | None = None,
        guidance: Tensor | float | None = None,
        class_labels: Tensor | int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> list[NetworkModulation]:
        """What the conditioning decides at every step of a sampler, from one pass over the modulations' weights.

        Shifts, scales and gates depend on timestep, pooled vector, guidance and class alone, so they need not be
        computed anew for each step: the modulations hold about a third of the parameters of an SD3 block, which the
        steps then don't read. The result holds steps x b x (width of all modulations) numbers.

        Args:
            timesteps: `s`, in the network's unit, each for all samples and modalities.
            pooled, guidance, class_labels: as in the call, `b dim`, `b` and `b`. Where the network has none of them, or
                they have a batch of 1, the result serves any batch.
            dtype: what the network computes in; None: that of the weights that embed the timestep, where these are not
                stored as something else (float8, say), or else of `pooled`, or else of its other weights.

        Returns:
            One for each timestep: `net(inputs, modulation=them[i])`.

        Raises:
            ValueError: a shape is wrong, or the network has no timestep, or it is conditioned on its inputs too.
        """
        if self.time_embed is None or not isinstance(timesteps, Tensor) or timesteps.ndim != 1:
            wanted = (
                "this model has no timestep" if self.time_embed is None else "timesteps must have the shape (steps,)"
            )
            raise ValueError(f"precompute_modulation: {wanted}, got {described(timesteps)}")
        if self.means_embed is not None or any(self.conditions.values()):
            raise ValueError("precompute_modulation: this model is conditioned on its inputs too, which it isn't given")
        if isinstance(guidance, (int, float)):
            guidance = as_vector(guidance, "guidance", 1, timesteps.device)
        self._check_conditions(pooled, guidance, class_labels, timesteps.device)
        if isinstance(class_labels, int):
            class_labels = torch.full((1,), class_labels, device=timesteps.device)
        steps, given = len(timesteps), [x for x in (pooled, guidance, class_labels) if x is not None]
        batch = max((len(x) for x in given), default=1)
        if any(len(x) not in (1, batch) for x in given):
            got = " and ".join(str(len(x)) for x in given)
            raise ValueError(f"pooled, guidance and class_labels must have one batch, got {got}")
        every: list[Any] = [
            None if x is None else x.expand(batch, *x.shape[1:]).repeat(steps, *(1,) * (x.ndim - 1))
            for x in (pooled, guidance, class_labels)
        ]
        if dtype is None:
            dtype = own_dtype(self.time_embed, own_dtype(self) if pooled is None else pooled.dtype)
        like = timesteps.new_empty(0, dtype=dtype)
        t = timesteps.repeat_interleave(batch)
        conds: Any = self._conditioning(t, every[0], every[1], every[2], steps * batch, like, self.clean)
        plain = {name: c[:, 0] if c.ndim == 3 else c for name, c in zip(self.modality_names, conds, strict=True)}
        heads = {name: head.modulate(plain[name]) for name, head in self.outputs.items()}  # type: ignore[operator]
        kept = conds if self.clean or self.still else conds[:1]
        stack = self.transformer.modulate(kept if len(kept) > 1 else kept[0])
        whole = NetworkModulation(tuple(kept), stack, heads, t)
        return [whole.rows(step * batch, (step + 1) * batch) for step in range(steps)]

    def empty(self, name: str, batch: int = 1, length: int | None = None) -> Tensor:
        """The learned tokens in place of an input that is not given, `b n dim`, as classifier-free guidance wants them.

        Args:
            length: tokens; None: as many as are learned.

        Raises:
            ValueError: the input has none, or another number of them.
        """
        learned = self._kept(name, "empty", "empty")
        length = len(learned) if length is None else length
        if len(learned) not in (1, length):
            raise ValueError(f"{name} has {len(learned)} learned tokens in its place, got a length of {length}")
        return learned.expand(batch, length, -1)

    def normalize(self, name: str, x: Tensor) -> Tensor:
        """Data `b n dim` as the network takes them: less their mean, over their deviation, which it keeps.

        Raises:
            ValueError: it keeps none of this input.
        """
        return (x - self._kept(name, "mean", "statistics")) / self._kept(name, "deviation", "statistics")

    def unnormalize(self, name: str, x: Tensor) -> Tensor:
        """The reverse of `normalize`."""
        return x * self._kept(name, "deviation", "statistics") + self._kept(name, "mean", "statistics")

    def _kept(self, name: str, what: str, key: str) -> Tensor:
        """What the embedding of an input keeps, where its option `key` says so."""
        kept = getattr(self.inputs[name], what, None) if name in self.inputs else None
        if not isinstance(kept, Tensor):
            have = [each for each, embed in self.inputs.items() if getattr(embed, what, None) is not None]
            raise ValueError(f"{name} keeps no {key}, as its input's option of this name says; got {have or 'none'}")
        return kept

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

    def _joined_mask(
        self,
        name: str,
        tokens: Mapping[str, Tensor],
        valid: Mapping[str, Tensor | None],
        references: Mapping[str, Tensor],
    ) -> tuple[int, Tensor | None]:
        """How many tokens a modality has with those behind its own, and which of them are valid."""
        masks = [valid.get(each) for each in self.streams[name]]
        parts = [tokens[each] for each in self.streams[name]]
        if name in references:
            parts, masks = [*parts, references[name]], [*masks, None]
        lengths = [x.shape[1] for x in parts]
        return sum(lengths), masks[0] if len(parts) == 1 else join_masks(masks, lengths, parts[0])

    def _join(self, name: str, tokens: Mapping[str, Tensor], references: Mapping[str, Tensor]) -> Tensor:
        """A modality's tokens, those of its further inputs and of its references behind them."""
        parts = [tokens[each] for each in self.streams[name]]
        if name in self.type_embeds:
            types = self.type_embeds[name](torch.arange(len(parts), device=parts[0].device))
            parts = [x + types[i] for i, x in enumerate(parts)]
        parts += [references[name]] if name in references else []
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

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

    def _of_own_tokens(
        self, conds: Sequence[Tensor | None], own: Sequence[int], clean: Collection[str]
    ) -> list[Tensor | None]:
        """The conditioning of each modality's own tokens, which its refiner and its head read."""
        return [
            cond if cond is None or cond.ndim == 2 else cond[:, 0] if name in clean else cond[:, :n]
            for name, cond, n in zip(self.modality_names, conds, own, strict=True)
        ]

    def _of_references(self, conds: Sequence[Tensor | None], own: Sequence[int]) -> list[Tensor | None]:
        """That of each modality's references."""
        return [
            cond if cond is None or cond.ndim == 2 else cond[:, 1] if name in self.clean else cond[:, n:]
            for name, cond, n in zip(self.modality_names, conds, own, strict=True)
        ]

    def _of_all_tokens(
        self,
        conds: Sequence[Tensor | None],
        own: Sequence[int],
        whole: Sequence[Tensor],
        tokens: Mapping[str, Tensor],
        valid: Mapping[str, Tensor | None],
        clean: Collection[str],
    ) -> list[Conditioning | None]:
        """That of each modality's tokens, of which those from `own` on are of its references where these are clean; its
        `conditions` are added."""
        of_all: list[Conditioning | None] = []
        for name, cond, n, x in zip(self.modality_names, conds, own, whole, strict=True):
            if cond is not None and cond.ndim == 3 and name in clean:
                of_all.append(ConditioningRuns(cond, (n, x.shape[1] - n)))
                continue
            if cond is not None:
                more = [stretched(tokens[each], n, valid[each], valid[name]) for each in self.conditions[name]]
                cond = sum(more, cond.unsqueeze(1) if more and cond.ndim == 2 else cond)
            of_all.append(cond)
        return of_all

    def _conditioning(
        self,
        timestep: Tensor | float | Mapping[str, Tensor | float] | None,
        pooled: Tensor | None,
        guidance: Tensor | float | None,
        class_labels: Tensor | int | None,
        batch: int,
        like: Tensor,
        clean: Collection[str],
        streams: Mapping[str, tuple[int, Tensor | None]] = MappingProxyType({}),
        means: Tensor | None = None,
    ) -> list[Tensor | None]:
        """For each modality a vector, `b dim_cond`, in the dtype and on the device of `like`; `b n dim_cond` where each
        of its tokens, of which `streams` tells the number and the mask, has a timestep; `b 2 dim_cond`, its own and
        that of timestep 0, where its references are `clean`."""
        if self.time_embed is None:
            if any(each is not None for each in (timestep, pooled, guidance, class_labels)):
                raise ValueError(
                    "this model has no timestep in its config, so no timestep, pooled, guidance or class_labels may be "
                    "passed"
                )
            return [None] * len(self.modality_names)
        if timestep is None:
            raise ValueError("timestep is missing: this model is conditioned on it; pass a tensor of shape (batch,)")
        self._check_conditions(pooled, guidance, class_labels, like.device, batch)

        def of_number(
            embed: nn.Module, given: object, argument: str, tokens: int | None = None, mask: Tensor | None = None
        ) -> Tensor:
            numbers = as_vector(given, argument, batch, like.device, tokens=tokens)
            vector: Tensor = embed(fill_masked(numbers, mask) if numbers.ndim == 2 else numbers, like.dtype)
            return vector

        extra: Tensor | int = 0 if means is None else means
        if self.guidance_embed is not None:
            extra = extra + of_number(self.guidance_embed, guidance, "guidance")
        if self.pooled_embed is not None and pooled is not None:
            extra = extra + self.pooled_embed(pooled.to(like.dtype))
        if self.class_embed is not None:
            labels = as_labels(
                class_labels, "class_labels", batch, like.device, classes=self.class_embed.num_embeddings
            )
            extra = extra + self.class_embed(labels).to(like.dtype)
        if isinstance(timestep, Mapping):
            check_names(timestep, "timestep", self.modality_names, complete=True)
            conds = []
            for name in self.modality_names:
                each_token = () if name in clean else streams[name]
                vectors = of_number(self.time_embed, timestep[name], f"timestep of {name}", *each_token)
                conds.append(vectors + (extra[:, None] if vectors.ndim == 3 and isinstance(extra, Tensor) else extra))
        else:
            conds = [of_number(self.time_embed, timestep, "timestep") + extra] * len(self.modality_names)
        if clean or self.still:
            at_zero = of_number(self.time_embed, 0.0, "timestep") + extra
            conds = [at_zero if n in self.still else c for n, c in zip(self.modality_names, conds, strict=True)]
            named = zip(self.modality_names, conds, strict=True)
            conds = [torch.stack([c, at_zero], dim=1) if n in clean else c for n, c in named]
        return [*conds]

    def _check_conditions(
        self,
        pooled: object,
        guidance: object,
        class_labels: object,
        device: torch.device,
        batch: int | None = None,
    ) -> None:
        """That there are those which the network was built with, of their shapes; `batch`: None where it may be any."""
        parts = (
            ("guidance", guidance, self.guidance_embed),
            ("a pooled vector", pooled, self.pooled_embed),
            ("class_labels", class_labels, self.class_embed),
        )
        for what, given, embed in parts:
            if (given is None) != (embed is None):
                wanted = "was built without" if embed is None else "needs"
                raise ValueError(f"this model {wanted} {what}, got {'none' if given is None else described(given)}")
        if self.guidance_embed is not None and batch is None:
            as_vector(
                guidance, "guidance", len(guidance) if isinstance(guidance, Tensor) and guidance.ndim else 1, device
            )
        if self.pooled_embed is not None:
            shape, dim = tuple(pooled.shape) if isinstance(pooled, Tensor) else (), self.pooled_embed.dim_in
            if len(shape) != 2 or shape[1] != dim or batch not in (None, shape[0]):
                wanted = f"({'batch' if batch is None else batch}, {dim})"
                raise ValueError(f"pooled must have the shape (batch, dim) = {wanted}, got {described(pooled)}")
            check_device(pooled, "pooled", device)  # type: ignore[arg-type]
