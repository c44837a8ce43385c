"""Weights on the disk in any layout: checked by their headers, and read under the names of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmdit.config.model import ModelConfig
from mmdit.layouts.language import LayoutError
from mmdit.layouts.layout import Layout
from mmdit.layouts.registry import LAYOUTS, prefixes
from mmdit.weights.header import CheckpointError
from mmdit.weights.matching import listed, unreadable
from mmdit.weights.reader import WeightFiles
from mmdit.weights.writer import TensorSpec

__all__ = ["SOURCE", "LayoutFiles", "Origin", "Weights", "nearest_layout", "our_weights", "their_weights"]

SOURCE = "mmdit_converted_from"  # in our files: the layout, prefix and metadata of the one that was converted


@dataclass(frozen=True)
class Origin:
    """Of a file in another layout: what it had beside its tensors, so that it can come back as it was."""

    layout: str
    prefix: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class Weights:
    """Tensors by name, each read when it is asked for; `specs` is known beforehand."""

    specs: Mapping[str, TensorSpec]
    read: Callable[[str], Tensor]
    origin: Origin | None = None


class LayoutFiles:
    """A file, or shards, in a layout.

    Attributes:
        prefix: what stands before every name.
        left_aside: tensors without the prefix, such as the autoencoder in the official file of a whole pipeline.
        problems: how the rest differs from what the config's model needs; empty where it fits.
    """

    def __init__(self, path: str | Path, layout: Layout) -> None:
        self.files, self.layout = WeightFiles(path), layout
        held = self.files.tensors
        self.prefix = max(layout.prefixes, key=lambda prefix: sum(prefix + name in held for name in layout.theirs))
        self.left_aside = sorted(name for name in held if not name.startswith(self.prefix))
        own = {name.removeprefix(self.prefix): held[name] for name in held if name.startswith(self.prefix)}
        self.problems = unreadable(layout.theirs, own)

    def weights(self) -> Weights:
        """The tensors under the layout's own names.

        Raises:
            CheckpointError: they are not those of the config's model.
        """
        if self.problems:
            raise CheckpointError(self.explain())
        specs = {name: self.files.spec(self.prefix + name) for name in self.layout.theirs}
        return Weights(specs, lambda name: self.files.copy(self.prefix + name), self._origin())

    def _origin(self) -> Origin | None:
        if self.layout.name != "mmdit":
            return Origin(self.layout.name, self.prefix, dict(self.files.metadata))
        try:
            origin = Origin(**json.loads(self.files.metadata[SOURCE]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        texts = origin.metadata.items() if isinstance(origin.metadata, dict) else [(None, None)]
        good = origin.layout in LAYOUTS and all(isinstance(part, str) for item in texts for part in item)
        return origin if good and origin.prefix in prefixes(origin.layout) else None

    def explain(self) -> str:
        """The problems in one line, or the layout that would fit better."""
        other = nearest_layout(self.files, self.layout.config)
        if other not in (None, self.layout.name):
            return f"{self.files.path}: has the names of the layout {other}, not of {self.layout.name}"
        return f"{self.files.path}: does not fit the config in the layout {self.layout.name}: {listed(self.problems)}"


def nearest_layout(files: WeightFiles, config: ModelConfig) -> str | None:
    """The layout that shares most names with a file, None where none has half of its own there."""
    best, share = None, 0.5
    for name in LAYOUTS:
        try:
            layout = Layout(name, config)
        except LayoutError:
            continue
        for prefix in layout.prefixes:
            found = sum(prefix + key in files.tensors for key in layout.theirs) / len(layout.theirs)
            if found > share:
                best, share = name, found
    return best


def our_weights(theirs: Weights, layout: Layout) -> Weights:
    """A layout's tensors under our names.

    Raises:
        LayoutError: a table of positions in the file is not the one that the config gives.
    """
    for name in layout.tables:
        layout.check_table(name, theirs.read(name))
    specs = {
        name: TensorSpec(layout.to_ours(name, _on_meta(theirs.specs)).dtype, shape)
        for name, shape in layout.ours.items()
    }
    return Weights(specs, lambda name: layout.to_ours(name, theirs.read), theirs.origin)


def their_weights(ours: Weights, layout: Layout) -> Weights:
    """Our tensors under a layout's names."""
    first = next(iter(ours.specs.values())).dtype
    specs = {
        name: TensorSpec(first if name in layout.tables else layout.to_theirs(name, _on_meta(ours.specs)).dtype, shape)
        for name, shape in layout.theirs.items()
    }
    return Weights(specs, lambda name: layout.to_theirs(name, ours.read), ours.origin)


def _on_meta(specs: Mapping[str, TensorSpec]) -> Callable[[str], Tensor]:
    return lambda name: torch.empty(specs[name].shape, dtype=specs[name].dtype, device="meta")
