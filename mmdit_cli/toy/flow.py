"""Rectified flow as in Esser et al. 2024: the straight path, its velocity, the densities of t, and the samplers.

t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmdit_cli.toy.settings import TimestepDensity

Tensors = dict[str, Tensor]
Velocity = Callable[[Tensors, Tensor], Tensors]


def sample_timesteps(density: TimestepDensity, uniform: Tensor, normal: Tensor, *, shift: float = 1.0) -> Tensor:
    """Training timesteps in (0, 1) from uniform and normal draws (section 3.1, eq. 19 to 21; shift: eq. 23)."""
    match density.kind:
        case "uniform":
            t = uniform
        case "logit_normal":
            t = torch.sigmoid(density.mean + density.std * normal)
        case "mode":
            t = 1 - uniform - density.scale * (torch.cos(math.pi / 2 * uniform) ** 2 - 1 + uniform)
        case "cosmap":
            t = 1 - 1 / (torch.tan(math.pi / 2 * uniform) + 1)
    return shift * t / (1 + (shift - 1) * t)


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """`(1 - t) data + t noise`, `t`: b (eq. 13)."""
    return torch.lerp(data, noise, _like(t, data))


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """What the network learns, `noise - data`: the path's derivative by t."""
    return noise - data


def guide(conditional: Tensors, unconditional: Tensors, scale: float) -> Tensors:
    """Classifier-free guidance (Ho & Salimans 2022): away from what no caption would give."""
    return {name: torch.lerp(unconditional[name], conditional[name], scale) for name in conditional}


def sample(
    velocity: Velocity, noise: Mapping[str, Tensor], *, steps: int, kind: str = "euler", shift: float = 1.0
) -> Tensors:
    """Follow the velocity from noise at t = 1 to data at t = 0, in `steps` Euler or Heun steps, even but for the shift."""
    x = dict(noise)
    batch = next(iter(x.values())).shape[0]
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    grid = shift * grid / (1 + (shift - 1) * grid)

    def at(x: Tensors, t: float) -> Tensors:
        return velocity(x, torch.full((batch,), t, device=next(iter(x.values())).device))

    for t, t_next in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        first = at(x, t)
        euler = {name: x[name] + (t_next - t) * first[name] for name in x}
        if kind == "heun" and t_next > 0:
            second = at(euler, t_next)
            x = {name: x[name] + (t_next - t) / 2 * (first[name] + second[name]) for name in x}
        else:
            x = euler
    return x


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
