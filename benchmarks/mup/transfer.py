"""Losses of a narrow and a wide network over learning rates, in both parametrizations."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from mmdit.weights.atomic import write_atomic
from mmdit_cli.output.console import message
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from mmdit_cli.toy.coordinates import Parametrization
from mmdit_cli.toy.data_fit import predict, world_of
from mmdit_cli.toy.evaluation import SEEN
from mmdit_cli.toy.flow import interpolate, target
from mmdit_cli.toy.parametrization import at_width
from mmdit_cli.toy.trainer import Diverged, Trainer

BASE = "ablations/attention/standard"  # two blocks, 64 wide, heads of 16
WIDTHS = (64, 256)
RATES = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
KINDS: tuple[Parametrization, ...] = get_args(Parametrization)
JUDGED = 256  # samples of the last loss, the same for all

Point = tuple[Parametrization, int, float]  # its parametrization, width and learning rate


@dataclass(frozen=True)
class Transfer:
    """The last loss of each point by seed, on samples that all share; infinite where a run diverged."""

    config: ToolConfig
    device: str
    losses: Mapping[Point, list[float]]

    def mean(self, kind: Parametrization, width: int, rate: float) -> float:
        """Over seeds."""
        return statistics.fmean(self.losses[kind, width, rate])

    def best(self, kind: Parametrization, width: int) -> float:
        """The learning rate of the least loss in the mean."""
        return min(RATES, key=lambda rate: self.mean(kind, width, rate))

    def moved(self, kind: Parametrization) -> int:
        """Steps of the grid by which the best learning rate of the wide network lies below that of the narrow one."""
        narrow, wide = (RATES.index(self.best(kind, width)) for width in (WIDTHS[0], WIDTHS[-1]))
        return narrow - wide


def transfer(folder: Path, device: torch.device, *, steps: int, batch: int, seeds: int) -> Transfer:
    """Train every point with every seed. What the folder holds of such runs is not trained again."""
    warm = f"train.warmup_steps={steps // 8}"
    config = load_tool_config(BASE, [f"train.steps={steps}", f"train.batch_size={batch}", warm])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"losses-{steps}-{batch}.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    found: dict[Point, list[float]] = {}
    for seed in range(seeds):
        for point in ((kind, width, rate) for width in WIDTHS for rate in RATES for kind in KINDS):
            kind = KINDS[0] if point[1] == config.train.mup.base_width else point[0]  # where both are one, to the bit
            name = " ".join(map(str, (kind, *point[1:], seed)))
            if name not in known:
                known[name] = _loss(config, point, seed, device)
                write_atomic(path, json.dumps(known, indent=2).encode())
                message(f"{name}: {known[name]:.4f}")
            found.setdefault(point, []).append(known[name])
    return Transfer(config, str(device), found)


def _loss(config: ToolConfig, point: Point, seed: int, device: torch.device) -> float:
    """Of a run at its end."""
    kind, width, rate = point
    settings = replace(config.train, learning_rate=rate, parametrization=kind)
    own = replace(config, model=at_width(config.model, width), train=settings)
    trainer = Trainer(own, world_of(own), device=device, dtype=torch.float32, seed=seed)
    try:
        for _ in range(settings.steps):
            trainer.step()
    except Diverged:
        return math.inf
    generator = torch.Generator().manual_seed(0)
    batch = trainer.world.batch(JUDGED, seed=0, stream=SEEN, index=4)
    ids, mask = trainer.world.encode(batch.captions)
    t = torch.rand(JUDGED, generator=generator)
    x = batch.data["image"]
    noise = torch.randn(x.shape, generator=generator)
    noisy = {"image": interpolate(x, noise, t).to(device)}
    with torch.no_grad():
        times = {"image": t.to(device)}
        velocity = predict(trainer.model, noisy, times, ids.to(device), mask.to(device), per_modality=False)
    return (velocity["image"].cpu() - target(x, noise, "velocity")).square().mean().item()
