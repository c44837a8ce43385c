"""Rectified flow as in Esser et al. 2024: the straight path, its velocity, and the densities of t.

t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdit.sampling import shift_timesteps
from mmdit_cli.request.train_config import TimestepDensity


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


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """`(1 - t) data + t noise`, `t`: b (eq. 13)."""
    return torch.lerp(data, noise, t.to(data.dtype).reshape(-1, *(1,) * (data.ndim - 1)))


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """What the network learns, `noise - data`: the path's derivative by t."""
    return noise - data
