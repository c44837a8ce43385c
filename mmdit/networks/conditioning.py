"""What a network is conditioned on, and the conditioning vectors of its modalities' tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import as_labels, as_vector, check_device, check_names, described
from mmdit.layers.masks import fill_masked
from mmdit.layers.modulation import Conditioning, ConditioningRuns, NetworkModulation
from mmdit.networks.embeddings import MeansEmbed, make_pooled_embed, make_timestep_embed, own_dtype, stretched
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions


class Conditions(NamedTuple):
    """What a call of a network is conditioned on, besides its inputs; see `MMDiTModel.forward`."""

    timestep: Tensor | float | Mapping[str, Tensor | float] | None = None
    pooled: Tensor | None = None
    guidance: Tensor | float | None = None
    class_labels: Tensor | int | None = None

    def __bool__(self) -> bool:
        return any(each is not None for each in self)


class Conditioned(nn.Module):
    """The conditioning of `MMDiTModel`, and what is computed of it before a sampler's steps.

    A class to derive from rather than a part, so that its weights are called what those of the network are.
    """

    modality_names: tuple[str, ...]
    conditions: dict[str, tuple[str, ...]]  # by modality, its inputs that condition its tokens
    outputs: nn.ModuleDict
    transformer: MMDiT

    def _embed_conditions(self, config: ModelOptions) -> None:
        """Make what embeds them."""
        dim_cond = config.dim_cond
        # at timestep 0: the references of some modalities, and some modalities
        self.clean = {name for name, m in config.modalities.items() if m.references is not None and m.references.clean}
        self.still = {name for name, m in config.modalities.items() if m.clean}
        self.time_embed = make_timestep_embed(config.timestep, dim_cond)
        self.guidance_embed = make_timestep_embed(config.guidance, dim_cond)
        self.pooled_embed = make_pooled_embed(config.pooled, dim_cond)
        labels = config.class_labels
        self.class_embed = None if labels is None or dim_cond is None else nn.Embedding(labels.classes, dim_cond)
        dims = {name: config.modalities[name].dim for name in config.means}
        self.means_embed = MeansEmbed(dims, dim_cond, config.feedforward) if dims and dim_cond else None

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
        conds: Any = self._conditioning(Conditions(t, *every), steps * batch, like, self.clean)
        plain = {name: c[:, 0] if c.ndim == 3 else c for name, c in zip(self.modality_names, conds, strict=True)}
        heads = {name: head.modulate(plain[name]) for name, head in self.outputs.items()}  # type: ignore[operator]
        kept = conds if self.clean or self.still else conds[:1]
        stack = self.transformer.modulate(kept if len(kept) > 1 else kept[0])
        whole = NetworkModulation(tuple(kept), stack, heads, t)
        return [whole.rows(step * batch, (step + 1) * batch) for step in range(steps)]

    def _known(self, modulation: NetworkModulation, given: Conditions, batch: int) -> list[Tensor | None]:
        """The conditioning vectors of a modulation computed before."""
        if given:
            raise ValueError("modulation takes the place of timestep, pooled, guidance and class_labels; pass it alone")
        cond = modulation.conds[0]
        if len(cond) not in (1, batch):
            raise ValueError(f"modulation is for a batch of {len(cond)}, got inputs with one of {batch}")
        conds = [each.expand(batch, *each.shape[1:]) for each in modulation.conds]
        return [*conds] if len(conds) > 1 else [*conds] * len(self.modality_names)

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
        given: Conditions,
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
            if given:
                raise ValueError(
                    "this model has no timestep in its config, so no timestep, pooled, guidance or class_labels may be "
                    "passed"
                )
            return [None] * len(self.modality_names)
        timestep, pooled, guidance, class_labels = given
        if timestep is None:
            raise ValueError("timestep is missing: this model is conditioned on it; pass a tensor of shape (batch,)")
        self._check_conditions(pooled, guidance, class_labels, like.device, batch)

        def of_number(
            embed: nn.Module, number: object, argument: str, tokens: int | None = None, mask: Tensor | None = None
        ) -> Tensor:
            numbers = as_vector(number, argument, batch, like.device, tokens=tokens)
            vector: Tensor = embed(fill_masked(numbers, mask) if numbers.ndim == 2 else numbers, like.dtype)
            return vector

        extra: Tensor | int = 0 if means is None else means
        if self.guidance_embed is not None:
            extra = extra + of_number(self.guidance_embed, guidance, "guidance")
        if self.pooled_embed is not None and pooled is not None:
            extra = extra + self.pooled_embed(pooled, like.dtype)
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
