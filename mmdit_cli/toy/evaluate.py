"""Draws samples from a trained model and has the oracle read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmdit_cli.toy.flow import guide, sample
from mmdit_cli.toy.oracle import Score, chance, right, score
from mmdit_cli.toy.settings import TrainConfig
from mmdit_cli.toy.world import NULL, Batch, World, encode, hash_seed

EVALUATION, HELD_OUT = 101, 102  # streams of captions that training never draws from


@dataclass(frozen=True)
class Evaluation:
    """Scores by modality, on captions whose combinations training showed and on those it never did."""

    seen: dict[str, Score]
    held_out: dict[str, Score]
    chance: dict[str, float]
    oracle_real: dict[str, float]
    oracle_noise: dict[str, float]


@dataclass(frozen=True)
class Samples:
    """What was drawn for a batch of captions, and whether each sample is right, by modality."""

    batch: Batch
    data: dict[str, Tensor]
    right: dict[str, Tensor]


@torch.no_grad()
def draw(
    model: nn.Module, world: World, batch: Batch, settings: TrainConfig, *, seed: int, device: torch.device
) -> Samples:
    """Sample every modality for a batch of captions, with classifier-free guidance."""
    generator = torch.Generator().manual_seed(hash_seed(seed, EVALUATION, len(batch.captions)))
    noise = {name: torch.randn(x.shape, generator=generator).to(device) for name, x in batch.data.items()}
    null_ids, null_mask = encode([NULL] * len(batch.captions))
    ids = torch.cat([batch.ids, null_ids]).to(device)
    mask = torch.cat([batch.mask, null_mask]).to(device)
    guidance, half = settings.sampler.guidance, len(batch.captions)

    def velocity(x: dict[str, Tensor], t: Tensor) -> dict[str, Tensor]:
        if guidance == 1:
            return model({"text": ids[:half], **x}, t, masks={"text": mask[:half]})
        twice = {name: torch.cat([value, value]) for name, value in x.items()}
        out = model({"text": ids, **twice}, torch.cat([t, t]), masks={"text": mask})
        named = {name: value[:half] for name, value in out.items()}
        return guide(named, {name: value[half:] for name, value in out.items()}, guidance)

    drawn = sample(velocity, noise, steps=settings.sampler.steps, kind=settings.sampler.kind, shift=settings.shift)
    data = {name: x.float().cpu() for name, x in drawn.items()}
    return Samples(batch, data, {name: right(name, x, batch.attributes[name]) for name, x in data.items()})


def evaluate(model: nn.Module, world: World, settings: TrainConfig, *, seed: int, device: torch.device) -> Evaluation:
    """Score the model, and the ruler itself: the oracle on real data and on noise."""
    was_training = model.training
    model.eval()
    scores = []
    for stream, held_out in ((EVALUATION, False), (HELD_OUT, True)):
        batch = world.batch(settings.evaluation_samples, seed=seed, stream=stream, index=0, held_out=held_out)
        samples = draw(model, world, batch, settings, seed=seed, device=device)
        scores.append({name: score(world, name, x, batch.attributes[name]) for name, x in samples.data.items()})
    model.train(was_training)
    seen, held_out_scores = scores
    generator = torch.Generator().manual_seed(hash_seed(seed, HELD_OUT, 1))
    noise = {name: torch.randn(x.shape, generator=generator) for name, x in batch.data.items()}
    return Evaluation(
        seen=seen,
        held_out=held_out_scores,
        chance={name: chance(name) for name in world.modalities},
        oracle_real={n: score(world, n, x, batch.attributes[n]).accuracy for n, x in batch.data.items()},
        oracle_noise={n: score(world, n, x, batch.attributes[n]).accuracy for n, x in noise.items()},
    )
