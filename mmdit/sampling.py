"""Sampling a rectified flow (Liu et al. 2022; Esser et al. 2024, section 2): from noise to data along the velocity.

t = 1 is noise, t = 0 is data, and the network gives `noise - data`, as SD3, FLUX, Qwen-Image and AuraFlow do.

    velocity = network_velocity(net, {"text": prompt}, pooled=pooled)
    image = sample(velocity, {"image": torch.randn(1, 16, 128, 128)}, steps=28, shift=3.0)["image"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmdit.layers.arguments import check_names
from mmdit.layers.modulation import NetworkModulation
from mmdit.networks.embeddings import own_dtype
from mmdit.networks.model import MMDiTModel
from mmdit.packing import Packing

__all__ = ["as_velocity", "guide", "network_velocity", "sample", "shift_timesteps", "timestep_grid"]

Tensors = dict[str, Tensor]
Predicted = Literal["velocity", "noise", "data"]
Velocity = Callable[[Tensors, Tensors], Tensors]  # (x, t) by modality -> dx / dt by modality
TRAINING_TIMESTEPS = 1000  # what published networks without a scale of their own count noise in
LEAST_SHARE = 0.05  # of noise or data, by which what a network says of it is divided


class Timesteps(dict[str, Tensor]):
    """The `t` that `sample` gives a velocity, and its value as a number, so that no step reads one from a device;
    `until`: where the step ends that follows this velocity alone."""

    def __init__(self, by_modality: Tensors, value: float, until: float | None = None) -> None:
        super().__init__(by_modality)
        self.value = float(np.float32(value))  # as in the tensors
        self.until = None if until is None else float(np.float32(until))


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Timesteps moved toward noise (`shift` > 1) or data (< 1), 0 and 1 staying in place (eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def timestep_grid(steps: int, *, shift: float = 1.0) -> list[float]:
    """The values of t that `sample` goes through, from 1 to 0: in equal sizes before the `shift`."""
    return shift_timesteps(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()


def guide(conditional: Tensors, unconditional: Tensors, scale: float) -> Tensors:
    """Classifier-free guidance (Ho & Salimans 2022): away from what no caption would give. Scale 1: the conditional."""
    return {name: torch.lerp(unconditional[name], conditional[name], scale) for name in conditional}


def share_of(predicted: Predicted, t: Tensor) -> Tensor:
    """How much a change of the velocity `v` changes what is predicted of noisy data `z`, whatever the sign: data are
    `z - t v`, noise is `z + (1 - t) v`.

    Raises:
        ValueError: there is no such prediction.
    """
    shares = {"velocity": torch.ones_like(t), "noise": 1 - t, "data": t}
    if predicted not in shares:
        raise ValueError(f"predicted must be {', '.join(shares)}, got {predicted!r}")
    return shares[predicted]


def as_velocity(output: Tensor, x: Tensor, t: Tensor, predicted: Predicted) -> Tensor:
    """The velocity that a network's prediction of the noise or of the data means (Li & He 2025, arXiv 2511.13720, JiT,
    Table 1).

    As there, what it is divided by, `1 - t` or `t`, is 0.05 at least.

    Args:
        output: what the network gives for `x`, `b ...`; x: noisy data, shaped alike; t: `b`, in [0, 1].
    """
    if predicted == "velocity":
        return output
    share = share_of(predicted, t).clamp(min=LEAST_SHARE).reshape(-1, *(1,) * (x.ndim - 1))
    return (output - x if predicted == "noise" else x - output) / share


def network_velocity(
    net: MMDiTModel,
    condition: Mapping[str, Tensor] | None = None,
    *,
    pooled: Tensor | None = None,
    masks: Mapping[str, Tensor] | Packing | None = None,
    guidance: Tensor | float | None = None,
    references: Mapping[str, Sequence[Tensor]] | None = None,
    channels: Mapping[str, Tensor] | None = None,
    frames: Mapping[str, Tensor] | None = None,
    sigmas: Iterable[float] | Tensor | None = None,
    class_labels: Tensor | int | None = None,
    predicted: Predicted = "velocity",
) -> Velocity:
    """The velocity that a network gives for the modalities that are drawn, under conditions that stay the same.

    The network's timestep is t in its own unit: t itself where its config scales it by 1000, else 1000 t. Modalities
    that `sample` is `given` are clean and have the timestep 0; the `condition` has that of the noise. A second
    timestep, where the network has one, is the t to which `sample` goes by an Euler step, as in diffusers' pipelines.

    Args:
        condition: the modalities that are not drawn, such as a prompt's tokens `b n d`.
        pooled, masks, guidance, references, class_labels: see `MMDiTModel`. A `Packing` of the masks is read once,
            rather than at every step.
        channels: by modality, `b c h w` of further channels behind those that are drawn: a masked picture and its mask
            (FLUX.1 Fill), or a guide (FLUX.1 Canny).
        frames: by modality, `b c f h w` of frames before those that are drawn: an image that a video begins with
            (HunyuanVideo-I2V of 16 channels, whose first frame has the timestep 0).
        sigmas: values of t (`timestep_grid`) whose modulations are computed now, and not again at each step (see
            `MMDiTModel.precompute_modulation`); of use where one modality is drawn, none is `given`, and gradients
            are not wanted, in `sample` or with t on the CPU: a GPU is not asked for the value of t.
        predicted: what the network gives: see `as_velocity`.
    """
    scale = 1.0 if net.config.timestep is None else net.config.timestep.scale

    # the sampler's state may be wider than what the network computes in, which its conditions tell before its weights
    told = [c for c in (*(condition or {}).values(), pooled) if c is not None]
    dtype = next((c.dtype for c in told if c.is_floating_point()), own_dtype(net))
    check_names(channels or {}, "channels", net.modality_names, complete=False)
    check_names(frames or {}, "frames", net.modality_names, complete=False)
    before = {name: given.shape[2] for name, given in (frames or {}).items()}

    def drawn(out: Tensors, x: Tensors, t: Tensors) -> Tensors:
        alone = {name: out[name] for name in x if name in out}
        alone |= {name: alone[name][:, :, count:] for name, count in before.items()}
        return {name: as_velocity(each, x[name], t[name], predicted) for name, each in alone.items()}

    second = net.config.timestep is not None and net.config.timestep.second is not None
    unit = TRAINING_TIMESTEPS / scale
    known: dict[tuple[float | None, float | None], NetworkModulation] = {}
    if sigmas is not None:
        device = next(iter((*told, *net.parameters()))).device  # weights may be kept elsewhere than where they are used
        numbers = [float(np.float32(value)) for value in _numbers(sigmas)]
        steps: list[Any] = [*pairwise(numbers)] if second else [(number, None) for number in numbers]
        grid = torch.tensor(numbers, dtype=torch.float32, device=device) * unit
        ends: Any = dict(second_timesteps=grid[1:]) if second else {}
        with torch.no_grad():
            made = net.precompute_modulation(grid[: len(steps)], pooled, guidance, class_labels, dtype=dtype, **ends)
        known = dict(zip(steps, made, strict=True))

    def velocity(x: Tensors, t: Tensors) -> Tensors:
        until = getattr(t, "until", None) if second else None
        if second and until is None:
            raise ValueError(
                "this network has a second timestep, where the step ends, which only sample with kind='euler' tells it"
            )
        inputs = {**(condition or {}), **{n: v.to(dtype) if v.is_floating_point() else v for n, v in x.items()}}
        inputs |= {name: torch.cat([given.to(dtype), inputs[name]], 2) for name, given in (frames or {}).items()}
        inputs |= {name: torch.cat([inputs[name], more.to(dtype)], 1) for name, more in (channels or {}).items()}
        if known and len(t) == 1:
            modulation = known.get((_value(t), until))
            if modulation is not None:
                return drawn(net(inputs, masks=masks, modulation=modulation, references=references), x, t)
        times = {name: value * unit for name, value in t.items()}
        noisiest = torch.stack(list(times.values())).amax(dim=0)
        each = {name: times.get(name, noisiest) for name in net.modality_names}
        t_given = noisiest if len(times) == 1 else each
        end = None if until is None else until * unit
        further: Any = dict(references=references, class_labels=class_labels, second_timestep=end)
        return drawn(net(inputs, t_given, pooled, masks, guidance, **further), x, t)

    return velocity


def sample(
    velocity: Velocity,
    noise: Mapping[str, Tensor],
    *,
    steps: int | None = None,
    sigmas: Iterable[float] | Tensor | None = None,
    kind: str = "euler",
    shift: float = 1.0,
    given: Mapping[str, Tensor] | None = None,
) -> Tensors:
    """Follow the velocity from noise at t = 1 to data at t = 0, in Euler or Heun steps.

    Args:
        steps: their number, in equal sizes before the `shift` (`timestep_grid`).
        sigmas: the values of t themselves instead, from the first to the last: a sequence, an array or a tensor.
        noise: what the modalities to be drawn begin with. Their types are those in which the velocity sees them and the
            result comes out; in between the state is kept in float32 at least, and so are the timesteps.
        given: modalities that are known: the velocity sees them clean, at t = 0, and they stay as they are.

    Returns:
        The modalities that were drawn.
    """
    if not isinstance(noise, Mapping) or not noise:
        raise ValueError(f"noise must be a mapping of one or more modalities to tensors, got {noise!r:.60}")
    known = dict(given or {})
    like = next(iter(noise.values()))
    size: dict[str, Any] = dict(size=(len(like),), dtype=torch.float32, device=like.device)
    clean = {name: torch.full(fill_value=0.0, **size) for name in known}

    def at(x: Tensors, t: float, until: float | None = None) -> Tensors:
        times = {name: torch.full(fill_value=t, **size) for name in x}
        seen = {name: value.to(noise[name].dtype) for name, value in x.items()}
        return velocity({**known, **seen}, Timesteps({**clean, **times}, t, until))

    if (steps is None) == (sigmas is None):
        raise ValueError(f"give either steps or sigmas, got steps={steps} and sigmas={sigmas}")
    if kind not in ("euler", "heun"):
        raise ValueError(f"kind must be euler or heun, got {kind!r}")
    if steps is not None and (not isinstance(steps, Integral) or steps < 1):
        raise ValueError(f"steps must be a whole number >= 1, got {steps!r}")
    grid = timestep_grid(steps, shift=shift) if steps is not None else _numbers(sigmas)
    if len(grid) < 2:
        raise ValueError(f"sigmas must be two or more values of t, from the first to the last, got {grid}")
    # half precision would round the state at every step: 3 % after 28 of them
    x = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in noise.items()}
    for t, t_next in pairwise(grid):
        first = at(x, t, t_next if kind == "euler" else None)
        euler = {name: x[name] + (t_next - t) * first[name].to(x[name].dtype) for name in x}
        if kind == "heun":
            second = at(euler, t_next)
            x = {name: x[name] + (t_next - t) / 2 * (first[name].to(x[name].dtype) + second[name]) for name in x}
        else:
            x = euler
    return {name: value.to(noise[name].dtype) for name, value in x.items()}


def _value(t: Tensors) -> float | None:
    """The one value of these timesteps; None where they differ, or where only a device could tell."""
    if isinstance(t, Timesteps):
        return t.value
    if any(each.device.type != "cpu" for each in t.values()):
        return None
    values = {value for each in t.values() for value in each.float().tolist()}
    return values.pop() if len(values) == 1 else None


def _numbers(values: Iterable[float] | Tensor | None) -> list[float]:
    """A sequence, an array or a tensor as numbers on the host."""
    listed = values.tolist() if isinstance(values, Tensor) else () if values is None else values
    return [float(value) for value in listed]
