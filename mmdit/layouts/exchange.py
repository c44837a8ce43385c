"""Weights brought from one layout to another in groups of tensors that are made of each other: each is read once, and
what was made of it is brought back and compared before it is handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mmdit.layouts.layout import Layout
from mmdit.layouts.layout_files import Weights, our_weights, their_weights
from mmdit.weights.header import CheckpointError

__all__ = ["Exchange"]

ROUNDINGS = 4  # units in the last place of 1 that a gamma may differ by
CHUNK = 1 << 20  # elements whose differences are held at a time
TABLE = 2.0**-4  # what a table that is computed anew may differ by: the source's dtype, fp8 at worst, rounds it


@dataclass
class Group:
    """Names of the source and of the target that depend on each other and on no others."""

    sources: dict[str, None] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)


class Exchange:
    """A source's weights under the names of a target.

    Attributes:
        weights: the target's. They are cheapest in the order of `order`, where those of a group follow each other.
        order: all names of the target.
        changed: of each tensor of the source whose bits do not come back, so far: its largest difference.

    Args:
        source: the weights to bring.
        change: what is to be done to them under our names, if anything: then that is what comes back.
        path: what is written, for messages.
    """

    def __init__(
        self,
        source: Weights,
        layout: Layout,
        target: Layout,
        change: Callable[[Weights], Weights] | None = None,
        *,
        path: Path,
    ) -> None:
        self._layouts, self._path = (layout, target), path
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._source = self._keeping("source", source)
        ours = self._keeping("ours", our_weights(self._source, layout))
        if change is not None:
            ours = self._keeping("changed", change(ours))
            self._source = self._keeping("changed source", their_weights(ours, layout))
        made = self._keeping("made", their_weights(ours, target))
        self._back = their_weights(our_weights(made, target, checked=False), layout)
        self._made, self.weights = made, Weights(made.specs, self._read, source.origin)
        self._groups = _groups(_needed(source, layout, target))
        self._group_of = {name: group for group in self._groups for name in group.targets}
        self._current: Group | None = None
        self._compared: set[int] = set()
        self.order = [name for group in self._groups for name in group.targets]
        self.changed: dict[str, float] = {}

    def compare_rest(self) -> None:
        """Compare what no tensor of the target is made of: tables that the source stores and we compute."""
        grouped = {name for group in self._groups for name in group.sources}
        for name in self._source.specs.keys() - grouped:
            self._compare(name)
        self._kept.clear()

    def _keeping(self, stage: str, weights: Weights) -> Weights:
        """The same, each read once as long as a group is worked on."""

        def read(name: str) -> Tensor:
            key = stage, name
            if key not in self._kept:
                self._kept[key] = weights.read(name)
            return self._kept[key]

        return Weights(weights.specs, read, weights.origin)

    def _read(self, name: str) -> Tensor:
        group = self._group_of[name]
        if group is not self._current:
            self._kept.clear()
            self._current = group
            if id(group) not in self._compared:  # two files may share a group
                for each in group.sources:
                    self._compare(each)
                self._compared.add(id(group))
        return self._made.read(name)

    def _compare(self, name: str) -> None:
        """A tensor of the source with what comes back of the target.

        Raises:
            CheckpointError: they differ by more than the layouts round.
        """
        wanted, got = self._source.read(name), self._back.read(name)
        if got.dtype == wanted.dtype and torch.equal(_bits(got), _bits(wanted)):
            return
        largest, allowed = 0.0, True
        for mine, theirs in zip(wanted.reshape(-1).split(CHUNK), got.reshape(-1).split(CHUNK), strict=True):
            difference = (theirs.double() - mine.double()).abs()
            largest = max(largest, difference.max().item())
            allowed = allowed and bool((difference <= self._allowed(name, mine)).all())
        self.changed[name] = largest
        if not allowed:
            raise CheckpointError(
                f"{self._path}: {name} came back changed by {largest:g}, so nothing was written; please report it"
            )

    def _allowed(self, name: str, wanted: Tensor) -> Tensor:
        """What each element of a tensor of the source may come back changed by."""
        source, target = self._layouts
        if name in source.tables:
            return torch.tensor(TABLE)
        if name in source.rounded or name in target.rounded:
            return ROUNDINGS * torch.finfo(wanted.dtype).eps * wanted.double().abs().clamp(min=1)
        return torch.zeros(())


def _needed(source: Weights, layout: Layout, target: Layout) -> Iterator[tuple[str, dict[str, None]]]:
    """Each name of the target, and the tensors of the source that it is made of."""
    seen: dict[str, None] = {}
    with torch.device("meta"):
        meta = {name: torch.empty(spec.shape, dtype=spec.dtype) for name, spec in source.specs.items()}

        def read(name: str) -> Tensor:
            seen[name] = None
            return meta[name]

        made = their_weights(our_weights(Weights(source.specs, read), layout), target)
        for name in made.specs:
            seen.clear()
            made.read(name)
            yield name, dict(seen)


def _groups(needed: Iterator[tuple[str, Mapping[str, None]]]) -> list[Group]:
    """The groups, by the order of their first targets."""
    groups: dict[int, Group] = {}
    group_of: dict[str, Group] = {}
    for target, sources in needed:
        joined = Group()
        for group in list({id(group_of[name]): group_of[name] for name in sources if name in group_of}.values()):
            joined.sources |= group.sources
            joined.targets += group.targets
            del groups[id(group)]
        joined.sources |= sources
        joined.targets.append(target)
        groups[id(joined)] = joined
        group_of |= dict.fromkeys(joined.sources, joined)
    return list(groups.values())


def _bits(x: Tensor) -> Tensor:
    """In words of eight bytes where they are whole, which are compared four times as fast as bytes."""
    data = x.contiguous().reshape(-1).view(torch.uint8)
    whole = data.numel() % 8 == 0 and data.storage_offset() % 8 == 0
    return data.view(torch.int64) if whole else data
