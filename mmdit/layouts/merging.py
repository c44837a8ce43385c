"""LoRAs merged into weights of any layout: each in whichever layout's names it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mmdit.layouts.adapters import Adapter
from mmdit.layouts.language import LayoutError
from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import Weights
from mmdit.layouts.registry import LAYOUTS
from mmdit.options import ModelOptions
from mmdit.weights.header import CheckpointError, named
from mmdit.weights.matching import listed
from mmdit.weights.writer import TensorSpec

__all__ = ["FittedAdapter", "find_targets", "merged"]

# what may stand before a target's name, dots written as underscores
PREFIXES = ("base_model_model_", "lora_unet_", "lora_transformer_", "model_diffusion_model_", "diffusion_model_")
PIPELINE = "transformer_"  # of diffusers; our own names may begin with it, too


@dataclass(frozen=True)
class FittedAdapter:
    """An adapter whose targets are found in a model.

    Args:
        layout: whose names its targets have.
        targets: the adapter's names by those of the weights that they change, in the layout.
        scale: what its changes are multiplied with.
    """

    adapter: Adapter
    layout: Layout
    targets: Mapping[str, str]
    scale: float = 1.0

    @property
    def changed(self) -> set[str]:
        """The weights of ours that it changes."""
        return {ours for name in self.targets for ours in self.layout.made_of(name)}

    def change(self, ours: str) -> Tensor:
        """What it adds to one of `changed`, in float32."""

        def read(name: str) -> Tensor:
            if name in self.targets:
                return self.adapter.change(self.targets[name]).reshape(self.layout.theirs[name])
            return torch.zeros(self.layout.theirs[name])

        return self.layout.to_ours(ours, read) * self.scale


def find_targets(adapter: Adapter, config: ModelOptions, scale: float = 1.0) -> FittedAdapter:
    """Find an adapter's targets in a model, in the layout that has most of them.

    Raises:
        CheckpointError: it is for another model: some are not there, or have other sizes.
    """
    best: tuple[Layout, dict[str, str]] | None = None
    for name in LAYOUTS:
        try:
            layout = Layout(name, config)
        except LayoutError:
            continue
        weights = {
            key.removesuffix(".weight").replace(".", "_"): key for key in layout.theirs if key.endswith(".weight")
        }
        found = {}
        for target in adapter.targets:
            if weight := next((weights[key] for key in _keys(target) if key in weights), None):
                found[weight] = target
        if best is None or len(found) > len(best[1]):
            best = layout, found
    assert best is not None  # our own layout has a place for every model
    layout, found = best
    missing = sorted(adapter.targets.keys() - found.values())
    problems = [
        f"{named(target)} changes {_sizes(adapter, target)}, the model's is {list(layout.theirs[weight])}"
        for weight, target in found.items()
        if not _fits(adapter, target, layout.theirs[weight])
    ]
    if missing:
        some = f"{len(missing):,} of its {len(adapter.targets):,} targets are not in the model"
        problems.insert(0, f"{some}, {named(missing[0])} first")
    if problems:
        raise CheckpointError(f"{adapter.path}: is a LoRA for another model: {listed(problems)}")
    return FittedAdapter(adapter, layout, found, scale)


def merged(ours: Weights, adapters: Sequence[FittedAdapter], dtype: torch.dtype | None = None) -> Weights:
    """Our weights with adapters added, in float32; then in `dtype`, or (None) as they were."""
    specs = {name: TensorSpec(dtype or spec.dtype, spec.shape) for name, spec in ours.specs.items()}
    changed = [(adapter, adapter.changed) for adapter in adapters]

    def read(name: str) -> Tensor:
        x = ours.read(name)
        changes = [adapter.change(name) for adapter, names in changed if name in names]
        return sum(changes, x.float()).to(specs[name].dtype) if changes else x.to(specs[name].dtype)

    return Weights(specs, read, ours.origin)


def _keys(target: str) -> list[str]:
    """A target's name as a layout may have it, dots written as underscores: whole, and without what stands before."""
    keys = [target.replace(".", "_")]
    for prefix in PREFIXES:
        keys += [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    return [*keys, *(key.removeprefix(PIPELINE) for key in keys if key.startswith(PIPELINE))]


def _fits(adapter: Adapter, target: str, shape: tuple[int, ...]) -> bool:
    down, up = adapter.shapes(target)
    return len(shape) > 1 and up[0] == shape[0] and prod(down[1:]) == prod(shape[1:])


def _sizes(adapter: Adapter, target: str) -> list[int]:
    down, up = adapter.shapes(target)
    return [up[0], *down[1:]]
