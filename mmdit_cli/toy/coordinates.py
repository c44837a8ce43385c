"""The coordinate check: how far the first steps move activations, by component and width (Yang et al. 2022, arXiv
2203.03466, appendix D.1). Under muP it is as far at any width; under the standard parametrization wide networks are
moved further, until a learning rate that suits a narrow one breaks them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.follower import tensors_of
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.data_fit import predict, world_of
from mmdit_cli.toy.evaluation import SEEN
from mmdit_cli.toy.flow import interpolate
from mmdit_cli.toy.parametrization import at_width, logits_scale
from mmdit_cli.toy.trainer import Trainer

Parametrization = Literal["standard", "mup"]
COMPONENTS = (
    *("embedding", "conditioning", "modulation", "qkv projection", "attention", "out projection", "feedforward"),
    "output head",
)
TIMES, STEPS, SEEDS = (1, 2, 4), 5, 3  # widths over the base width; training steps; seeds that are averaged
FLAT = 0.25  # of the exponent of width, up to which a change counts as one that width does not decide


@dataclass(frozen=True)
class Moved:
    """How far a component's outputs are from where they were before training, after so many steps: the mean over
    coordinates, and over seeds."""

    parametrization: Parametrization
    component: str
    width: int
    step: int
    change: float


@dataclass(frozen=True)
class Growth:
    """With which power of the width a component's change grows, after the last step; `flat` where about none."""

    parametrization: Parametrization
    component: str
    exponent: float
    flat: bool


@dataclass(frozen=True)
class CoordinateCheck:
    """What `moved` in networks of several widths, and how that grows with them."""

    config: str
    widths: list[int]
    steps: int
    seeds: int
    growth: list[Growth]
    moved: list[Moved]


def coordinate_check(
    config: ToolConfig,
    device: torch.device,
    *,
    first_seed: int = 0,
    on_progress: Callable[[str, int, int | None], None] = lambda *told: None,
) -> CoordinateCheck:
    """Take the first steps of the config in both parametrizations, at its `train.mup.base_width` and above.

    Raises:
        UserError: it is not one of the toy's worlds, or can't be of these widths.
    """
    base = config.train.mup.base_width
    kinds, widths = get_args(Parametrization), [base * times for times in TIMES]
    settings = replace(config.train, warmup_steps=0, steps=max(config.train.steps, 100 * STEPS))
    runs = [(kind, width, seed) for kind in kinds for width in widths for seed in range(first_seed, first_seed + SEEDS)]
    found: dict[tuple[Parametrization, str, int, int], list[float]] = {}
    for number, (kind, width, seed) in enumerate(runs):
        on_progress("coordinate check", number, len(runs))
        own = replace(_of_width(config, width, kind), train=replace(settings, parametrization=kind))
        for step, changes in enumerate(_changes(own, seed, device), start=1):
            for component, change in changes.items():
                found.setdefault((kind, component, width, step), []).append(change)
    moved = [Moved(*key, statistics.fmean(values)) for key, values in found.items()]
    components = list(dict.fromkeys(each.component for each in moved))
    growth = [_growth(kind, component, moved) for component in components for kind in kinds]
    return CoordinateCheck(config.name, widths, STEPS, SEEDS, growth, moved)


def _of_width(config: ToolConfig, width: int, kind: Parametrization) -> ToolConfig:
    """Wider by more heads, or where the base's heads are named, by wider ones, whose logits muP scales."""
    head = config.train.mup.base_dim_head
    if head is None:
        return replace(config, model=at_width(config.model, width))
    wide = head * width // config.train.mup.base_width
    model = at_width(config.model, width, wide)
    scale = logits_scale(wide, head) if kind == "mup" else None
    return replace(config, model=replace(model, attention=replace(model.attention, scale=scale)))


def _changes(config: ToolConfig, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
    """After each step, how far each component's outputs of a batch have moved."""
    world, settings, generator = world_of(config), config.train, torch.Generator().manual_seed(seed)
    trainer = Trainer(config, world, device=device, dtype=torch.float32, seed=seed)
    batch = world.batch(settings.batch_size, seed=seed, stream=SEEN, index=3)
    ids, mask = (x.to(device) for x in world.encode(batch.captions))
    t = torch.rand(settings.batch_size, generator=generator)
    noise = {name: torch.randn(x.shape, generator=generator) for name, x in batch.data.items()}
    noisy = {name: interpolate(x, noise[name], t).to(device) for name, x in batch.data.items()}
    times = dict.fromkeys(noisy, t.to(device))

    def outputs() -> dict[str, list[Tensor]]:
        trainer.model.eval()  # what dropout changes is no step's work
        with torch.no_grad(), _recorded(trainer) as kept:
            predict(trainer.model, noisy, times, ids, mask, per_modality=settings.timesteps.per_modality)
        trainer.model.train()
        return kept

    before = outputs()
    for _ in range(STEPS):
        trainer.step()
        after = outputs()
        yield {
            name: statistics.fmean((x - y).abs().mean().item() for x, y in zip(after[name], before[name], strict=True))
            for name in before
        }


@contextmanager
def _recorded(trainer: Trainer) -> Iterator[dict[str, list[Tensor]]]:
    """What each kind of component gives in a call, over all modalities and blocks."""
    kept: dict[str, list[Tensor]] = {}

    def keep(kind: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            kept.setdefault(kind, []).extend(x.clone() for x in tensors_of(output) if x.is_floating_point())

        return hook

    handles = [
        module.register_forward_hook(keep(each.kind))
        for each in find_components(trainer.model)
        if each.kind in COMPONENTS
        for module in each.modules
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _growth(kind: Parametrization, component: str, moved: Sequence[Moved]) -> Growth:
    own = [m for m in moved if (m.parametrization, m.component, m.step) == (kind, component, STEPS)]
    changes = np.maximum([m.change for m in own], 1e-30)  # where nothing moves at all
    slope, _ = np.polyfit(np.log([m.width for m in own]), np.log(changes), 1)
    return Growth(kind, component, float(slope), abs(float(slope)) <= FLAT)
