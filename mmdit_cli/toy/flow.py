"""Rectified flow as in Esser et al. 2024: the straight path, its velocity, the densities of t, and the samplers.

t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from mmdit_cli.toy.settings import TimestepDensity

Tensors = dict[str, Tensor]
Velocity = Callable[[Tensors, Tensors], Tensors]  # (x, t) by modality -> dx / dt by modality


def sample_timesteps(density: TimestepDensity, uniform: Tensor, normal: Tensor, *, shift: float = 1.0) -> Tensor:
    """Training timesteps in (0, 1) from uniform and normal draws (section 3.1: eq. 19, 20, 21; shift: eq. 23)."""
    match density.kind:
        case "uniform":
            t = uniform
        case "logit_normal":
            t = torch.sigmoid(density.mean + density.std * normal)
        case "mode":
            t = 1 - uniform - density.scale * (torch.cos(math.pi / 2 * uniform) ** 2 - 1 + uniform)
        case "cosmap":
            t = 1 - 1 / (torch.tan(math.pi / 2 * uniform) + 1)
    return shift_timesteps(t, shift)


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Timesteps moved toward noise (`shift` > 1) or data (< 1), 0 and 1 staying in place (eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """`(1 - t) data + t noise`, `t`: b (eq. 13)."""
    return torch.lerp(data, noise, t.to(data.dtype).reshape(-1, *(1,) * (data.ndim - 1)))


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """What the network learns, `noise - data`: the path's derivative by t."""
    return noise - data


def guide(conditional: Tensors, unconditional: Tensors, scale: float) -> Tensors:
    """Classifier-free guidance (Ho & Salimans 2022): away from what no caption would give. Scale 1: the conditional."""
    return {name: torch.lerp(unconditional[name], conditional[name], scale) for name in conditional}


def sample(
    velocity: Velocity,
    noise: Mapping[str, Tensor],
    *,
    steps: int,
    kind: str = "euler",
    shift: float = 1.0,
    given: Mapping[str, Tensor] | None = None,
) -> Tensors:
    """Follow the velocity from noise at t = 1 to data at t = 0, in Euler or Heun steps of equal (shifted) size.

    Args:
        noise: what the modalities to be drawn begin with.
        given: modalities that are known: the velocity sees them clean, at t = 0, and they stay as they are.

    Returns:
        The modalities that were drawn.
    """
    known, x = dict(given or {}), dict(noise)
    like = next(iter(x.values()))
    clean = {name: torch.zeros(len(like), device=like.device) for name in known}

    def at(x: Tensors, t: float) -> Tensors:
        times = {name: torch.full((len(like),), t, device=like.device) for name in x}
        return velocity({**known, **x}, {**clean, **times})

    grid = shift_timesteps(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()
    for t, t_next in pairwise(grid):
        first = at(x, t)
        euler = {name: x[name] + (t_next - t) * first[name] for name in x}
        if kind == "heun":
            second = at(euler, t_next)
            x = {name: x[name] + (t_next - t) / 2 * (first[name] + second[name]) for name in x}
        else:
            x = euler
    return x
