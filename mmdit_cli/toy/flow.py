"""Rectified flow as in Esser et al. 2024: the straight path, its velocity, and the densities of t.

t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdit.sampling import LEAST_SHARE, Predicted, share_of, shift_timesteps
from mmdit_cli.request.train_config import PredictionConfig, TimestepDensity


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


def target(data: Tensor, noise: Tensor, predicted: Predicted) -> Tensor:
    """What is right; the velocity is `noise - data`, the path's derivative by t."""
    return {"velocity": noise - data, "noise": noise, "data": data}[predicted]


def prediction_error(output: Tensor, data: Tensor, noise: Tensor, t: Tensor, prediction: PredictionConfig) -> Tensor:
    """What the network gives less what is right, both turned into what the loss is of, but for the sign (Li & He 2025,
    arXiv 2511.13720, Table 1); the turn divides by 0.05 at least, as there. `output`, `data`, `noise`: b ...; `t`: b.
    """
    error = output - target(data, noise, prediction.output)
    if prediction.loss == prediction.output:
        return error
    share = share_of(prediction.loss, t) / share_of(prediction.output, t).clamp(min=LEAST_SHARE)
    return error * share.reshape(-1, *(1,) * (error.ndim - 1))
