"""What a network is conditioned on, and the conditioning vectors of its modalities' tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmdit.layers.arguments import as_labels, as_vector, check_device, check_names, described
from mmdit.layers.masks import fill_masked
from mmdit.layers.modulation import Conditioning, ConditioningRuns, NetworkModulation
from mmdit.networks import ragged
from mmdit.networks.embeddings import MeansEmbed, make_pooled_embed, make_timestep_embed, own_dtype, stretched
from mmdit.networks.ragged import Given
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions


class Conditions(NamedTuple):
    """What a call of a network is conditioned on, besides its inputs; see `MMDiTModel.forward`."""

    timestep: Tensor | float | Mapping[str, Tensor | float] | None = None
    pooled: Tensor | None = None
    guidance: Tensor | float | None = None
    class_labels: Tensor | int | None = None
    second_timestep: Tensor | float | None = None

    def __bool__(self) -> bool:
        return any(each is not None for each in self)


def _alone(vector: Tensor, second: Tensor | None) -> Tensor:
    return vector


def _sum(vector: Tensor, second: Tensor) -> Tensor:
    return vector + (second if vector.ndim == 2 else second.unsqueeze(1))


def _mean(vector: Tensor, second: Tensor) -> Tensor:
    return _sum(vector, second) / 2


# what is made of a timestep's vectors, b d or b n d, and the second's, b d
WITH_SECOND: dict[str | None, Callable[..., Tensor]] = {None: _alone, "sum": _sum, "mean": _mean}


class Conditioned(nn.Module):
    """The conditioning of `MMDiTModel`, and what is computed of it before a sampler's steps.

    A class to derive from rather than a part, so that its weights are called what those of the network are.
    """

    modality_names: tuple[str, ...]
    conditions: dict[str, tuple[str, ...]]  # by modality, its inputs that condition its tokens
    inputs: nn.ModuleDict
    outputs: nn.ModuleDict
    transformer: MMDiT

    def _embed_conditions(self, config: ModelOptions) -> None:
        """Make what embeds them."""
        dim_cond = config.dim_cond
        # at timestep 0: the first frames of some modalities, the references of some, and some modalities
        self.clean_frames = {name: m.clean_frames for name, m in config.modalities.items() if m.clean_frames}
        self.clean = {name for name, m in config.modalities.items() if m.references is not None and m.references.clean}
        self.still = {name for name, m in config.modalities.items() if m.clean}
        second = None if config.timestep is None else config.timestep.second
        self.time_embed = make_timestep_embed(config.timestep, dim_cond)
        self.second_time_embed = make_timestep_embed(config.timestep if second else None, dim_cond)
        self.with_second = WITH_SECOND[second]
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
        second_timesteps: Tensor | None = None,
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
            second_timesteps: `s`, where each step ends, where the config has `timestep.second`.
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
        second = second_timesteps
        self._check_conditions(Conditions(timesteps, pooled, guidance, class_labels, second), timesteps.device)
        if isinstance(class_labels, int):
            class_labels = torch.full((1,), class_labels, device=timesteps.device)
        steps, given = len(timesteps), [x for x in (pooled, guidance, class_labels) if x is not None]
        batch = max((len(x) for x in given), default=1)
        if any(len(x) not in (1, batch) for x in given):
            got = " and ".join(str(len(x)) for x in given)
            raise ValueError(f"pooled, guidance and class_labels must have one batch, got {got}")
        every: Any = [
            None if x is None else x.expand(batch, *x.shape[1:]).repeat(steps, *(1,) * (x.ndim - 1))
            for x in (pooled, guidance, class_labels)
        ]
        if dtype is None:
            dtype = own_dtype(self.time_embed, own_dtype(self) if pooled is None else pooled.dtype)
        like = timesteps.new_empty(0, dtype=dtype)
        t = timesteps.repeat_interleave(batch)
        if second is not None:
            second = as_vector(second, "second_timesteps", steps, timesteps.device).repeat_interleave(batch)
        conds: Any = self._conditioning(
            Conditions(t, every[0], every[1], every[2], second), steps * batch, like, self.clean
        )
        plain = dict(zip(self.modality_names, self._of_own_tokens(conds, self.clean), strict=True))
        heads = {name: head.modulate(plain[name]) for name, head in self.outputs.items()}  # type: ignore[operator]
        kept = conds if self.clean_frames or self.clean or self.still else conds[:1]
        stack = self.transformer.modulate(kept if len(kept) > 1 else kept[0])
        whole = NetworkModulation(tuple(kept), stack, heads, t)
        return [whole.rows(step * batch, (step + 1) * batch) for step in range(steps)]

    def _known(
        self, modulation: NetworkModulation, given: Conditions, inputs: Mapping[str, Given], batch: int
    ) -> list[Tensor | None]:
        """The conditioning vectors of a modulation computed before."""
        if given:
            raise ValueError(f"modulation takes the place of {', '.join(given._fields)}; pass it alone")
        if not all(isinstance(inputs[name], Tensor) for name in self.clean_frames):
            raise ValueError("modulation: in a list each sample has first frames of another size; pass the timestep")
        cond = modulation.conds[0]
        if len(cond) not in (1, batch):
            raise ValueError(f"modulation is for a batch of {len(cond)}, got inputs with one of {batch}")
        conds = [each.expand(batch, *each.shape[1:]) for each in modulation.conds]
        return [*conds] if len(conds) > 1 else [*conds] * len(self.modality_names)

    def _of_own_tokens(
        self, conds: Sequence[Tensor | None], clean: Collection[str], own: Mapping[str, int] = MappingProxyType({})
    ) -> list[Tensor | None]:
        """The conditioning of each modality's own tokens, which its refiner and its head read."""

        def of_own(name: str, cond: Tensor | None) -> Tensor | None:
            if cond is None or cond.ndim == 2:
                return cond
            runs = name in self.clean_frames or name in clean
            return cond[:, int(name in self.clean_frames)] if runs else cond[:, : own[name]]

        return [of_own(name, cond) for name, cond in zip(self.modality_names, conds, strict=True)]

    def _of_references(self, name: str, cond: Tensor | None, own: int) -> Tensor | None:
        """That of a modality's references."""
        runs = name in self.clean_frames or name in self.clean
        return cond if cond is None or cond.ndim == 2 else cond[:, -1] if runs else cond[:, own:]

    def _of_all_tokens(
        self,
        conds: Sequence[Tensor | None],
        inputs: Mapping[str, Given],
        whole: Sequence[Tensor],
        tokens: Mapping[str, Tensor],
        valid: Mapping[str, Tensor | None],
        clean: Collection[str],
    ) -> list[Conditioning | None]:
        """That of each modality's tokens, where first frames or references are clean in runs: those of the frames, its
        own, and behind these those of the references; its `conditions` are added."""
        of_all: list[Conditioning | None] = []
        for name, cond, x in zip(self.modality_names, conds, whole, strict=True):
            n = tokens[name].shape[1]
            if cond is not None and (name in self.clean_frames or name in clean):
                of_all.append(self._in_runs(name, cond, inputs[name], n, x.shape[1], name in clean))
                continue
            if cond is not None:
                more = [stretched(tokens[each], n, valid[each], valid[name]) for each in self.conditions[name]]
                cond = sum(more, cond.unsqueeze(1) if more and cond.ndim == 2 else cond)
            of_all.append(cond)
        return of_all

    def _in_runs(self, name: str, cond: Tensor, given: Given, own: int, total: int, clean: bool) -> Conditioning:
        """The vectors `b k d` for a modality's first frames, the rest of its `own` tokens, and its references if these
        are `clean`, where it has `total` tokens."""
        end = own if clean else total
        behind = (total - own,) if clean else ()
        if name not in self.clean_frames:
            return ConditioningRuns(cond, (end, *behind))
        sizes: Any = self.inputs[name].sizes

        def first(video: Tensor) -> int:
            frames, *sides = (length // size for length, size in zip(video.shape[-3:], sizes, strict=True))
            return min(self.clean_frames[name], frames) * math.prod(sides)

        if isinstance(given, Tensor):
            return ConditioningRuns(cond, (first(given), end - first(given), *behind))
        of_frames = ragged.first_of(tuple(map(first, given)), own, cond.device)  # in each sample another number
        return torch.where(of_frames.unsqueeze(-1), cond[:, :1], cond[:, 1:])

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
        of its tokens, of which `streams` tells the number and the mask, has a timestep; `b k dim_cond` where not all
        of its tokens are at its timestep: of first frames that are given, its own, and of `clean` references."""
        time_embed = self.time_embed
        if time_embed is None:
            if given:
                raise ValueError(
                    "this model has no timestep in its config, so no timestep, pooled, guidance or class_labels may be "
                    "passed"
                )
            return [None] * len(self.modality_names)
        timestep, pooled, guidance, class_labels, second_timestep = given
        if timestep is None:
            raise ValueError("timestep is missing: this model is conditioned on it; pass a tensor of shape (batch,)")
        self._check_conditions(given, like.device, batch)

        def of_number(
            embed: nn.Module, number: object, argument: str, tokens: int | None = None, mask: Tensor | None = None
        ) -> Tensor:
            numbers = as_vector(number, argument, batch, like.device, tokens=tokens)
            vector: Tensor = embed(fill_masked(numbers, mask) if numbers.ndim == 2 else numbers, like.dtype)
            return vector

        second = None
        if self.second_time_embed is not None:
            second = of_number(self.second_time_embed, second_timestep, "second_timestep")

        def of_time(number: object, argument: str = "timestep", *each_token: Any) -> Tensor:
            return self.with_second(of_number(time_embed, number, argument, *each_token), second)

        further = {} if means is None else {"means": means}
        if self.guidance_embed is not None:
            further["guidance"] = of_number(self.guidance_embed, guidance, "guidance")
        if self.pooled_embed is not None and pooled is not None:
            further["pooled"] = self.pooled_embed(pooled, like.dtype)
        if self.class_embed is not None:
            labels = as_labels(
                class_labels, "class_labels", batch, like.device, classes=self.class_embed.num_embeddings
            )
            further["class_labels"] = self.class_embed(labels).to(like.dtype)
        extra = sum(further.values())
        if isinstance(timestep, Mapping):
            check_names(timestep, "timestep", self.modality_names, complete=True)
            conds = []
            for name in self.modality_names:
                each_token = () if name in clean or name in self.clean_frames else streams[name]
                vectors = of_time(timestep[name], f"timestep of {name}", *each_token)
                conds.append(vectors + (extra[:, None] if vectors.ndim == 3 and isinstance(extra, Tensor) else extra))
        else:
            conds = [of_time(timestep) + extra] * len(self.modality_names)
        if clean or self.still or self.clean_frames:
            zero = of_time(0.0)
            at_zero = zero + extra
            for i, name in enumerate(self.modality_names):
                own = at_zero if name in self.still else conds[i]
                unguided = [x for what, x in further.items() if what != "guidance"]
                frames = [zero + sum(unguided)] if name in self.clean_frames else []
                behind = [at_zero] if name in clean else []
                conds[i] = torch.stack([*frames, own, *behind], dim=1) if frames or behind else own
        return [*conds]

    def _check_conditions(self, conditions: Conditions, device: torch.device, batch: int | None = None) -> None:
        """That there are those which the network was built with, of their shapes; `batch`: None where it may be any."""
        _, pooled, guidance, class_labels, second = conditions
        parts = (
            ("guidance", guidance, self.guidance_embed),
            ("a pooled vector", pooled, self.pooled_embed),
            ("class_labels", class_labels, self.class_embed),
            ("a second timestep", second, self.second_time_embed),
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
