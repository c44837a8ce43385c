"""From a config to random inputs of the right shapes, types and masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdit.options import PatchInput, TokenInput
from mmdit.packing import Packing
from mmdit_cli.errors import UserError
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.free_memory import free_memory
from mmdit_cli.request.tool_config import ToolConfig

MASK_BYTES = 9  # of a token: its mask, and its index among those kept


@dataclass(frozen=True)
class ModelInputs:
    """Arguments for one call of a model: `model(**inputs.kwargs)`."""

    kwargs: dict[str, Any]
    batch_size: int
    tokens: dict[str, int]  # of one sample, by modality
    by_modality: dict[str, Tensor]  # their own tensors, and those of further inputs


def example_inputs(
    config: ToolConfig,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    batch_size: int | None = None,
) -> ModelInputs:
    """Random inputs as the config's `run` section describes them. On the meta device they have shapes alone.

    A mask has its valid tokens first, as a tokenizer pads: the config's share of the length, in every sample. On
    the meta device, where masks have no values, `varlen` is given the `Packing` that it would make of them.
    """
    batch = batch_size or config.run.batch_size
    names = tuple(config.model.modalities)
    draw = _Draw(torch.device(device), dtype, seed)
    tokens = {name: config.tokens_of(name) for name in config.model.inputs}
    data = {name: _input(config, name, batch, draw) for name in tokens}
    masks = {name: _mask(config, name, batch, draw.device) for name in config.run.mask}
    packing = None
    if draw.device.type == "meta" and config.model.varlen and masks:
        packing = _packing(config, tokens, batch)
        masks = {}  # whose values nobody could read
    kwargs: dict[str, Any]
    if config.model.is_whole_network:
        kwargs = {"inputs": data, "masks": packing or masks or None}
        if config.model.timestep is not None:
            kwargs["timestep"] = draw.uniform(batch) * 1000 / config.model.timestep.scale
            if config.model.timestep.second is not None:
                kwargs["second_timestep"] = kwargs["timestep"] / 2
        if config.model.pooled is not None:
            kwargs["pooled"] = draw.normal(batch, config.model.pooled.dim)
        if config.model.guidance is not None:
            kwargs["guidance"] = draw.uniform(batch) + 3  # about what pictures are made with
        if config.model.class_labels is not None:
            kwargs["class_labels"] = draw.integers(config.model.class_labels.classes, batch)
        if config.run.references:
            kwargs["references"] = {
                name: [_image(config, name, batch, draw, reference=True) for _ in range(count)]
                for name, count in config.run.references.items()
            }
        return ModelInputs(kwargs, batch, config.all_tokens(), data)
    if config.model.variant == "two_modality":
        kwargs = {f"{name}_tokens": x for name, x in data.items()}
        kwargs |= {"masks": packing} if packing else {f"{name}_mask": m for name, m in masks.items()}
    else:
        kwargs = {"modality_tokens": tuple(data.values())}
        kwargs["modality_masks"] = packing or (tuple(masks.get(name) for name in names) if masks else None)
    if config.model.dim_cond is not None:
        kwargs["time_cond"] = draw.normal(batch, config.model.dim_cond)
    return ModelInputs(kwargs, batch, config.all_tokens(), data)


def outputs_by_name(config: ToolConfig, output: Any) -> dict[str, Tensor]:
    """What a model returned, by modality, without the discarded ones."""
    named = output if isinstance(output, dict) else dict(zip(config.model.modalities, output, strict=True))
    return {name: x for name, x in named.items() if x is not None}


class _Draw:
    """Random tensors from one seed, drawn on the CPU so that every device sees the same numbers."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return self._drawn(torch.randn, shape, self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        return self._drawn(torch.rand, shape, torch.float32)

    def integers(self, high: int, *shape: int) -> Tensor:
        return self._drawn(partial(torch.randint, high), shape, torch.long)

    def _drawn(self, draw: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.device.type == "meta":
            return torch.empty(shape, device="meta", dtype=dtype)
        return draw(shape, generator=self.generator).to(self.device, dtype)


def _input(config: ToolConfig, name: str, batch: int, draw: _Draw) -> Tensor:
    end, tokens = config.model.inputs[name], config.tokens_of(name)
    if isinstance(end, TokenInput):
        return draw.integers(end.vocabulary, batch, tokens)
    if isinstance(end, PatchInput):
        return _image(config, name, batch, draw)
    return draw.normal(batch, tokens, config.model.modalities[name].dim if end is None else end.dim)


def _image(config: ToolConfig, name: str, batch: int, draw: _Draw, *, reference: bool = False) -> Tensor:
    end: Any = config.model.inputs[name]
    grid = config.patch_grid(name)
    if reference and len(grid) == 3:
        grid = (1, *grid[1:])
    return draw.normal(batch, end.channels, *(count * size for count, size in zip(grid, end.sizes, strict=True)))


def _packing(config: ToolConfig, tokens: dict[str, int], batch: int) -> Packing | None:
    """What the model packs by; None where nothing is padded."""
    cpu = torch.device("cpu")
    needed = sum(batch * count * MASK_BYTES for name, count in tokens.items() if name in config.run.mask)
    if (free := free_memory(cpu)) is not None and needed > free:
        raise UserError(
            f"{config.name}: packing a batch of {batch} needs {bytes_(needed)} of memory for its masks and "
            f"{bytes_(free)} are free; lower run.batch_size or run.tokens"
        )
    total = config.all_tokens()
    masks: list[Tensor | None] = []
    for name, modality in config.model.modalities.items():
        stream = [name, *(modality.inputs or ())]
        if config.run.mask.keys().isdisjoint(stream):
            masks.append(None)
            continue
        joined = torch.cat([_mask(config, each, batch, cpu) for each in stream], dim=1)
        masks.append(F.pad(joined, (0, total[name] - joined.shape[1]), value=True))  # references are valid everywhere
    packing = Packing.from_masks(masks, list(total.values()), batch)
    return packing.map(lambda index: index.to("meta")) if packing.has_padding else None


def _mask(config: ToolConfig, name: str, batch: int, device: torch.device) -> Tensor:
    tokens = config.tokens_of(name)
    valid = torch.arange(tokens, device="cpu") < tokens - config.padded_of(name)  # on meta it would import sympy
    return valid.expand(batch, tokens).to(device)
