"""A sampling run as something to time and to count: from noise to data, by each of the ways that lead there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from mmdit.networks.model import MMDiTModel
from mmdit.options import PatchInput, PatchOutput, TokenInput
from mmdit.sampling import Tensors, Timesteps, Velocity, guide, network_velocity, sample, timestep_grid
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.follower import FORWARD
from mmdit_cli.request.inputs import ModelInputs, example_inputs
from mmdit_cli.request.tool_config import ToolConfig

SETUP = "setup"  # the phase before the steps, in which modulations may be computed
NO_GUIDANCE = 1.0

Guidance = Literal["none", "embedded", "one batch", "two calls"]
Modulation = Literal["before", "each step"]


@dataclass(frozen=True)
class Way:
    """How a run is made.

    `guidance`: with and without the condition in one batch of twice the samples, or in two calls; `embedded` in the
    network, which is told the scale; or none. `modulation`: computed for all steps before them, or in each.
    """

    guidance: Guidance
    modulation: Modulation

    @property
    def calls(self) -> int:
        """Of the network in a step."""
        return 2 if self.guidance == "two calls" else 1


def sampling_ways(config: ToolConfig) -> list[Way]:
    """The ways in which the config's network can be sampled from, as `run.guidance` says.

    Raises:
        UserError: it can't be.
    """
    drawn, model = drawn_modalities(config), config.model
    if model.guidance is not None:
        guidance: tuple[Guidance, ...] = ("embedded",)
    else:
        guidance = ("none",) if config.run.guidance == NO_GUIDANCE else ("one batch", "two calls")
    on_inputs = bool(model.means) or any(m.conditions for m in model.modalities.values())
    known = len(drawn) == 1 and not on_inputs
    modulations: tuple[Modulation, ...] = ("before", "each step") if known else ("each step",)
    return [Way(each, modulation) for each in guidance for modulation in modulations]


def drawn_modalities(config: ToolConfig) -> list[str]:
    """What a run draws: the modalities with an output.

    Raises:
        UserError: there are none, the network has no timestep, or what comes out is no velocity of what goes in.
    """
    model = config.model
    drawn = [name for name, m in model.modalities.items() if m.output is not None and name not in model.discard]
    if model.timestep is None or not drawn:
        raise UserError(
            f"{config.name}: --mode sample needs a network that draws: with model.timestep, and a modality with an "
            "output; try toy-two-modality, or another of `mmdit configs`"
        )
    for name in drawn:
        if isinstance(model.inputs[name], TokenInput):
            raise UserError(f"{config.name}: --mode sample: {name} goes in as ids, which follow no velocity")
        if further_channels(config, name) is None:
            raise UserError(f"{config.name}: --mode sample: what comes out of {name} is no velocity of what goes in")
    return drawn


def further_channels(config: ToolConfig, name: str) -> int | None:
    """How many channels of an image's input stand behind those that are drawn; None where what comes out of a modality
    is no part of what goes in."""
    end, output = config.model.inputs[name], config.model.modalities[name].output
    if isinstance(end, PatchInput) and isinstance(output, PatchOutput):
        more = end.channels - output.channels
        return more if more >= 0 else None
    width = config.model.modalities[name].dim if end is None else getattr(end, "dim", None)
    return 0 if width == getattr(output, "dim", None) else None


class SamplingRun:
    """Euler steps of a rectified flow under `inference_mode`, with random conditions of the config's sizes.

    Args:
        taken: steps that are made, of the `run.steps` for which modulations are computed before; None: all of them.
    """

    def __init__(
        self,
        model: MMDiTModel,
        config: ToolConfig,
        way: Way,
        *,
        taken: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.model, self.config, self.way = model, config, way
        self.drawn = drawn_modalities(config)
        self.grid = timestep_grid(config.run.steps)
        self.taken = config.run.steps if taken is None else taken
        batch, make = config.run.batch_size, partial(example_inputs, config, device=device, dtype=dtype)
        whole = batch * (2 if way.guidance == "one batch" else 1)
        self.given = [make(seed=seed + call, batch_size=whole) for call in range(way.calls)]
        self.noise, self.channels = {}, {}
        for name in self.drawn:
            x, more = self.given[0].by_modality[name], further_channels(config, name) or 0
            self.noise[name] = x[:batch, : x.shape[1] - more]
            if more:
                self.channels[name] = x[:, x.shape[1] - more :]
        model.eval().requires_grad_(False)

    def __call__(self, phase: Callable[[str], None] = lambda name: None) -> Tensors:
        """One run; `phase` is told when what precedes the steps begins, and when they do."""
        phase(SETUP)
        with torch.inference_mode():
            velocity = self._guided([self._velocity(given) for given in self.given])
            phase(FORWARD)
            return sample(velocity, self.noise, sigmas=self.grid[: self.taken + 1])

    def _velocity(self, given: ModelInputs) -> Velocity:
        """That of the network under a call's conditions."""
        kwargs = given.kwargs
        before = self.way.modulation == "before"
        ends = self.config.model.timestep is not None and self.config.model.timestep.second is not None
        return network_velocity(
            self.model,
            {name: x for name, x in kwargs["inputs"].items() if name not in self.drawn},
            pooled=kwargs.get("pooled"),
            masks=kwargs.get("masks"),
            guidance=float(self.config.run.guidance) if "guidance" in kwargs else None,
            references=kwargs.get("references"),
            channels=self.channels,
            sigmas=(self.grid if ends else self.grid[:-1]) if before else None,
            class_labels=kwargs.get("class_labels"),
        )

    def _guided(self, velocities: list[Velocity]) -> Velocity:
        scale, (first, *others) = float(self.config.run.guidance), velocities

        def in_one_batch(x: Tensors, t: Any) -> Tensors:
            twice = Timesteps({name: torch.cat([each, each]) for name, each in t.items()}, t.value, t.until)
            out = first({name: torch.cat([each, each]) for name, each in x.items()}, twice)
            halves = {name: each.chunk(2) for name, each in out.items()}
            return guide({n: h[0] for n, h in halves.items()}, {n: h[1] for n, h in halves.items()}, scale)

        def in_two_calls(x: Tensors, t: Tensors) -> Tensors:
            return guide(first(x, t), others[0](x, t), scale)

        return {"one batch": in_one_batch, "two calls": in_two_calls}.get(self.way.guidance, first)
