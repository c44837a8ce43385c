"""The whole network: ends of each modality, timestep and pooled conditioning, and the transformer between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import check_names
from mmdit.layers.attention import join_masks
from mmdit.layers.masks import Masks
from mmdit.layers.modulation import NetworkModulation
from mmdit.networks import ragged
from mmdit.networks.conditioning import Conditioned, Conditions
from mmdit.networks.embeddings import PatchEmbed, make_embed
from mmdit.networks.hub_methods import HubMethods
from mmdit.networks.input_masks import given_masks, with_sizes
from mmdit.networks.output_heads import make_head
from mmdit.networks.pads import PadTokens, pack_with_pads
from mmdit.networks.places import RotaryPlaces
from mmdit.networks.ragged import Given
from mmdit.networks.refiner import Refiner
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions
from mmdit.packing import Packing


class MMDiTModel(Conditioned, HubMethods):
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
        self._embed_conditions(config)
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
        second_timestep: Tensor | float | None = None,
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
            modulation: one of `precompute_modulation`, in place of timestep, second_timestep, pooled, guidance and
                class_labels.
            references: by modality, where its config has `references`, further images `b c h' w'` (beside a video
                `b c f' h' w'`), each of its own size: all of their tokens are valid, none is returned, and a `Packing`
                of the masks counts them.
            class_labels: `b` integers or one for all samples, where the config has `class_labels`.
            second_timestep: `b` or a number for all samples, in the unit of the timestep: where the step ends, where
                the config has `timestep.second`.

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
        conditions = Conditions(timestep, pooled, guidance, class_labels, second_timestep)
        if modulation is None:
            conds = self._conditioning(conditions, batch, like, clean, every, means)
        else:
            conds, clean = self._known(modulation, conditions, inputs, batch), self.clean
            timestep = modulation.timestep.expand(batch)

        own = [tokens[name].shape[1] for name in self.modality_names]
        of_own = self._of_own_tokens(conds, clean, dict(zip(self.modality_names, own, strict=True)))
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
            cond, place = self._of_references(name, conds[i], own[i]), places[i]
            turned = None if place is None else place[..., own[i] :, :]
            behind[name] = self.reference_refiners[name](behind[name], behind[name], None, None, cond, turned)
        whole = [self._join(name, tokens, behind) for name in self.modality_names]
        ordered = tuple(masked.values())
        if packing is not None and self.pads:  # which one of what was given does not count
            packing = pack_with_pads(packing, ordered, self.multiples)
        outs = self.transformer(
            modality_tokens=whole,
            modality_masks=packing or Masks(ordered, filled=True),
            time_cond=None if conds[0] is None else self._of_all_tokens(conds, inputs, whole, tokens, valid, clean),
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
                if tokens.shape[0] != batch:
                    got = f"has a batch of {tokens.shape[0]}, but the inputs have one of {batch}"
                    raise ValueError(f"references: {name}[{index}] {got}")
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
