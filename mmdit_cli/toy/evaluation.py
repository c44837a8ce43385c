"""Draws samples from a trained model and has the oracle read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.sampling import Tensors, as_velocity, guide, sample
from mmdit_cli.request.train_config import TrainConfig
from mmdit_cli.toy.data import NULL, Batch, ToyData, hash_seed
from mmdit_cli.toy.data_fit import predict

# streams of captions and noise that training never draws from
SEEN, HELD_OUT, SHOWN, STARTS, AGAIN = 101, 102, 103, 104, 105
CHUNK = 256  # samples drawn at a time


@dataclass(frozen=True)
class Samples:
    """What was drawn for a batch of captions, and whether each sample is right, by modality."""

    batch: Batch
    data: dict[str, Tensor]

    @cached_property
    def finite(self) -> dict[str, Tensor]:
        """The data, with zeros for what is not finite."""
        return {name: x.nan_to_num(posinf=0.0, neginf=0.0) for name, x in self.data.items()}

    @cached_property
    def hits(self) -> dict[str, Tensor]:
        """`b a` by modality: 1 where an attribute is as asked for, 0 where not, NaN where the caption does not say. A
        sample that is not finite shows none."""
        found = {}
        for name, x in self.data.items():
            hits = self.batch.source.check(self.batch, name, self.finite[name])
            found[name] = hits * x.flatten(1).isfinite().all(dim=1, keepdim=True)
        return found

    @property
    def right(self) -> dict[str, Tensor]:
        """`b` bool by modality: all attributes are as asked for."""
        return {name: (each != 0).all(dim=1) for name, each in self.hits.items()}

    @cached_property
    def reads(self) -> dict[str, list[str]]:
        """What the judge reads of each sample, in words, by modality."""
        return {name: self.batch.source.in_words(name, x) for name, x in self.finite.items()}

    def verdict(self, name: str, index: int) -> bool | None:
        """Whether a sample is right; None where its caption asks nothing that the judge understands."""
        return None if self.hits[name][index].isnan().all() else bool(self.right[name][index])

    @property
    def accuracy(self) -> dict[str, float]:
        """The share of right samples, by what the data set tells apart: the modality, or the kind of caption."""
        return self.batch.source.shares(self.batch, self.right)

    @property
    def per_attribute(self) -> dict[str, dict[str, float]]:
        """The share of samples that show each attribute as asked for, of those that are asked for it, by modality."""
        names = self.batch.source.attributes
        shares = {n: zip(names(n), x.nanmean(dim=0).tolist(), strict=True) for n, x in self.hits.items()}
        return {n: {name: share for name, share in each if not math.isnan(share)} for n, each in shares.items()}


@torch.inference_mode()
def draw(
    model: nn.Module,
    batch: Batch,
    settings: TrainConfig,
    *,
    seed: int,
    device: torch.device,
    given: Sequence[str] = (),
    captions: bool = True,
) -> Samples:
    """Sample every modality for a batch of captions, with classifier-free guidance: away from what no caption gives, or
    where captions are not given, from what the given modalities would give were they noise (Bao et al. 2023, eq. 6).

    Args:
        given: modalities to be taken from the batch as they are; the others are drawn to go with them. This needs a
            model that was trained with `timesteps.per_modality`.
        captions: whether the captions are given; False: as if there were none.

    Raises:
        ValueError: something is given to a model whose modalities share one timestep.
    """
    if given and not settings.timesteps.per_modality:
        raise ValueError("to draw one modality from another, train with train.timesteps.per_modality=true")
    generator = torch.Generator().manual_seed(hash_seed(seed, STARTS))
    noise = {name: torch.randn(x.shape, generator=generator) for name, x in batch.data.items()}
    parts = []
    for start in range(0, len(batch.captions), CHUNK):
        part = slice(start, start + CHUNK)
        begin = {name: x[part].to(device) for name, x in noise.items()}
        fixed = {name: batch.data[name][part].to(device) for name in given}
        texts = batch.captions[part] if captions else [NULL] * len(batch.captions[part])
        parts.append(_draw_chunk(model, batch.source, texts, begin, fixed, settings, device))
    return Samples(batch, {name: torch.cat([p[name] for p in parts]).float().cpu() for name in parts[0]})


def _draw_chunk(
    model: nn.Module,
    source: ToyData,
    captions: list[str],
    noise: Tensors,
    given: Tensors,
    settings: TrainConfig,
    device: torch.device,
) -> Tensors:
    captioned = any(caption != NULL for caption in captions)
    guided = settings.sampler.guidance != 1 and (captioned or bool(given))
    count = len(captions)
    ids, mask = (x.to(device) for x in source.encode([*captions, *([NULL] * count if guided else [])]))
    unknown = {} if captioned else {name: noise[name] for name in given}  # in the half that guidance leads away from
    begin = {name: x for name, x in noise.items() if name not in given}

    def velocity(x: Tensors, times: Tensors) -> Tensors:
        if guided:  # with what is given and without it, in one call
            x = {name: torch.cat([v, unknown.get(name, v)]) for name, v in x.items()}
            times = {name: torch.cat([t, torch.ones_like(t) if name in unknown else t]) for name, t in times.items()}
        out = predict(model, x, times, ids, mask, per_modality=settings.timesteps.per_modality)
        out = {n: as_velocity(each, x[n], times[n], settings.prediction.output) for n, each in out.items()}
        if not guided:
            return out
        with_caption = {name: v[:count] for name, v in out.items()}
        without = {name: v[count:] for name, v in out.items()}
        return guide(with_caption, without, settings.sampler.guidance)

    sampler = settings.sampler
    return sample(velocity, begin, steps=sampler.steps, kind=sampler.kind, shift=settings.shift, given=given)


def evaluate(
    model: nn.Module, world: ToyData, settings: TrainConfig, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """Score the model, and the ruler itself: the judge on real data that it was not fitted on, and on noise.

    Returns:
        what `TrainResult` says of it: `accuracy`, `held_out`, `chance`, `agreement`, `per_attribute`, `coverage`,
        `oracle_real` and `oracle_noise`.
    """
    seen, held_out = (
        draw(
            model,
            world.batch(settings.evaluation_samples, seed=seed, stream=stream, index=0, held_out=stream == HELD_OUT),
            settings,
            seed=seed,
            device=device,
        )
        for stream in (SEEN, HELD_OUT)
    )

    def again() -> Tensors:
        return draw(model, seen.batch, settings, seed=hash_seed(seed, AGAIN), device=device).finite

    real = world.real(max(1000, settings.evaluation_samples), seed=seed, stream=SEEN, index=1)
    generator = torch.Generator().manual_seed(hash_seed(seed, STARTS, 1))
    noise = {name: torch.randn(x.shape, generator=generator) for name, x in real.data.items()}
    return {
        "accuracy": seen.accuracy,
        "held_out": held_out.accuracy,
        "chance": world.chance(),
        "agreement": torch.stack(list(seen.right.values())).all(dim=0).float().mean().item(),
        "per_attribute": seen.per_attribute,
        "coverage": world.coverage(seen.batch, seen.finite, again),
        "oracle_real": Samples(real, real.data).accuracy,
        "oracle_noise": Samples(real, noise).accuracy,
    }
