"""Weights on the disk in any layout: checked by their headers, and read under the names of another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmdit.layouts.language import Read
from mmdit.layouts.layout import Layout
from mmdit.layouts.names import is_prefix, prefixes_of
from mmdit.layouts.recognition import changed_by_lora, recognize_layout
from mmdit.layouts.registry import LAYOUTS
from mmdit.weights.contents import kind_of
from mmdit.weights.header import CheckpointError
from mmdit.weights.matching import listed, unreadable
from mmdit.weights.quantized import QUANTIZATION
from mmdit.weights.reader import WeightFiles
from mmdit.weights.writer import TensorSpec, specs_of

ADAPTER = "it is a LoRA, which changes weights and holds none: name the weights, and this file with --lora"
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

    def cast(self, dtype: torch.dtype) -> Weights:
        """The same in another floating-point type."""
        specs = {name: TensorSpec(dtype, spec.shape) for name, spec in self.specs.items()}
        return Weights(specs, lambda name: self.read(name).to(dtype), self.origin)


class LayoutFiles:
    """A file, or shards, in a layout; `given`: its path, or the same opened.

    Attributes:
        prefix: what stands before every name.
        left_aside: tensors of something else, such as the autoencoder in the official file of a whole pipeline.
        problems: how the rest differs from what the config's model needs; empty where it fits.
    """

    def __init__(self, given: str | Path | WeightFiles, layout: Layout) -> None:
        self.files, self.layout = given if isinstance(given, WeightFiles) else WeightFiles(given), layout
        held = self.files.tensors
        self.prefix = max(prefixes_of(held), key=lambda prefix: sum(prefix + name in held for name in layout.theirs))
        under = {name.removeprefix(self.prefix): info for name, info in held.items() if name.startswith(self.prefix)}
        own = {name: info for name, info in under.items() if name in layout.theirs or kind_of(name) is None}
        self.left_aside = sorted(held.keys() - {self.prefix + name for name in own})
        self.problems = [ADAPTER] if changed_by_lora(held) else unreadable(layout.theirs, own)

    def weights(self, dtype: torch.dtype | None = None) -> Weights:
        """The tensors under the layout's own names.

        Args:
            dtype: what they are rounded to.

        Raises:
            CheckpointError: they are not those of the config's model.
        """
        if self.problems:
            raise CheckpointError(f"{self.files.path}: {self._misfit()}")
        specs = {name: self.files.spec(self.prefix + name) for name in self.layout.theirs}
        if dtype is not None:
            specs = {name: TensorSpec(dtype, spec.shape) for name, spec in specs.items()}
        return Weights(specs, lambda name: self.files.copy(self.prefix + name, dtype), self._origin())

    def _origin(self) -> Origin | None:
        if self.layout.name != "mmdit":
            kept = {key: text for key, text in self.files.metadata.items() if key != QUANTIZATION}
            return Origin(self.layout.name, self.prefix, kept)
        try:
            origin = Origin(**json.loads(self.files.metadata[SOURCE]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        texts = origin.metadata.items() if isinstance(origin.metadata, dict) else [(None, None)]
        good = origin.layout in LAYOUTS and all(isinstance(part, str) for item in texts for part in item)
        return origin if good and is_prefix(origin.prefix) else None

    def _misfit(self) -> str:
        """The problems in one line, or the layout that would fit better."""
        name, (other, _) = self.layout.name, recognize_layout(self.files.tensors, self.layout.config)
        if other not in (None, name):
            return f"has the names of the layout {other}, not of {name}"
        return f"does not fit the config in the layout {name}: {listed(self.problems)}"


def our_weights(theirs: Weights, layout: Layout, *, checked: bool = True) -> Weights:
    """A layout's tensors under our names.

    Args:
        checked: whether its tables of positions are those that the config gives.

    Raises:
        LayoutError: a table is another one.
    """
    for name in layout.tables if checked else ():
        layout.check_table(name, theirs.read(name))
    return _renamed(theirs, layout.ours, layout.to_ours)


def their_weights(ours: Weights, layout: Layout) -> Weights:
    """Our tensors under a layout's names."""
    return _renamed(ours, layout.theirs, layout.to_theirs)


def _renamed(given: Weights, names: Iterable[str], make: Callable[[str, Read], Tensor]) -> Weights:
    with torch.device("meta"):
        meta = {name: torch.empty(spec.shape, dtype=spec.dtype) for name, spec in given.specs.items()}
        specs = specs_of({name: make(name, meta.__getitem__) for name in names})
    return Weights(specs, lambda name: make(name, given.read), given.origin)
