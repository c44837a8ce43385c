"""Which config a file's names and shapes fit: of the shipped ones the nearest, with what has to be set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmdit.config import Config, ConfigError
from mmdit.config.file import load_config
from mmdit.layouts.layout import Layout
from mmdit.layouts.names import first_blocks, shortened, stem
from mmdit.layouts.published_names import published_with
from mmdit.options import ModelOptions, PatchInput
from mmdit.weights.header import TensorInfo
from mmdit.weights.matching import unreadable

__all__ = ["Fit", "fit"]

Held = Mapping[str, TensorInfo]
UNBUILT = (ValueError, RuntimeError, TypeError, OverflowError)  # of sizes that a file may claim
PACKED = ("U8", "I32", "U32")  # dtypes that hold several weights an element
JOINT, SINGLE = "transformer.blocks.0.", "transformer.single_blocks.0."


@dataclass(frozen=True)
class Fit:
    """How a config fits a file.

    Attributes:
        configs: the shipped configs that do, all with the same weights; or the nearest one.
        overrides: what has to be set, as `KEY=VALUE`.
        tables: which of the tensors of the model that they make are tables, and no weights.
        doubts: what the file can't tell of it.
        problems: how its tensors differ all the same; empty where it fits.
    """

    configs: tuple[str, ...]
    overrides: tuple[str, ...]
    tables: tuple[str, ...]
    doubts: tuple[str, ...]
    problems: tuple[str, ...]


def fit(layout: str, configs: Iterable[str], held: Held) -> Fit:
    """The nearest of some shipped configs. Where the tensors are those of one as it is, nothing is built or read.

    Args:
        held: tensors by their names in the layout, without a prefix.
    """
    configs = list(configs)
    shapes = {name: info.shape for name, info in held.items()}
    known = published_with(layout, shapes)
    if known is not None and (names := tuple(name for name in configs if name in known.configs)):
        return Fit(names, (), known.tables, (), tuple(unreadable(shapes, held)))
    return _nearest(layout, configs, held)


def _nearest(layout: str, configs: Iterable[str], held: Held) -> Fit:
    found = sorted((_Candidate(layout, name, held) for name in configs), key=lambda each: len(each.changes))
    fitting: list[_Candidate] = []
    misfits = {}
    for each in found:
        if fitting and len(each.changes) > len(fitting[0].changes):
            break
        misfits[each] = each.misfits()
        if not misfits[each] and each.model not in [other.model for other in fitting]:
            fitting.append(each)
    best = fitting[0] if fitting else min(found, key=misfits.__getitem__)
    names, whole = tuple(each.name for each in fitting) or (best.name,), best.whole()
    problems = [f"its sizes are those of no {best.name}"] if whole is None else unreadable(whole.theirs, held)
    tables = () if whole is None else tuple(sorted(whole.tables))
    return Fit(names, tuple(best.overrides()), tables, tuple(best.doubts), tuple(problems))


class _Candidate:
    """A shipped config, changed as the file has it."""

    def __init__(self, layout: str, name: str, held: Held) -> None:
        self.layout, self.name, self.held = layout, name, held
        self.base = load_config(name, Config).model
        self.places: dict[str, list[str]] = {}
        self.lists: dict[str, str] = {}  # what the blocks are called, by what ours are
        for ours, theirs in first_blocks(layout, self.base):
            if len(ours) < 2:
                self.places.setdefault(stem("".join(ours)), []).extend(theirs)
            for kind in (JOINT, SINGLE):
                if ours and ours[0].startswith(kind) and ".0." in theirs[0]:
                    self.lists.setdefault(kind, theirs[0].partition(".0.")[0] + ".")
        self.doubts: list[str] = []
        self.changes = {
            f"model.{key}": value
            for key, value in self._measured()
            if value is not None and value != _value(self.base, key)
        }

    @cached_property
    def model(self) -> ModelOptions | None:
        """None where no config has these sizes."""
        if not self.changes:
            return self.base
        try:
            return load_config(self.name, Config, overrides=self.overrides()).model
        except ConfigError as error:
            self.doubts.append(f"no config has these sizes: {str(error).splitlines()[0]}")
            return None

    def misfits(self) -> float:
        """How many names and shapes of the ends and of the first blocks differ: of a model that is built small, for the
        number of blocks is right already."""
        if self.model is None:
            return math.inf
        try:
            wanted = Layout(self.layout, shortened(self.model)).theirs
        except UNBUILT:
            return math.inf
        ours, theirs = self._first(wanted), self._first({name: info.shape for name, info in self.held.items()})
        return len(ours.items() ^ theirs.items())

    def overrides(self) -> list[str]:
        return [f"{key}={_written(value)}" for key, value in self.changes.items()]

    def whole(self) -> Layout | None:
        try:
            return None if self.model is None else Layout(self.layout, self.model)
        except UNBUILT:
            return None

    def _first(self, names: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in names.items()
            if not any(name.startswith(each) and not name.startswith(f"{each}0.") for each in self.lists.values())
        }

    # ------------------------------------------------------------------------------------------- what the shapes say

    def _shape(self, ours: str) -> tuple[int, int] | None:
        """Rows of all of theirs that are one of ours, and the size of a row; None where they are not there."""
        infos = [self.held.get(f"{name}.weight", self.held.get(name)) for name in self.places.get(ours, ())]
        shapes = [info.shape for info in infos if info is not None and info.shape and info.dtype not in PACKED]
        if not shapes or len(shapes) < len(infos):
            return None
        return sum(shape[0] for shape in shapes), math.prod(shapes[0][1:])

    def _rows(self, *ours: str) -> int | None:
        return next((shape[0] for shape in map(self._shape, ours) if shape is not None), None)

    def _columns(self, *ours: str) -> int | None:
        return next((shape[1] for shape in map(self._shape, ours) if shape is not None), None)

    def _blocks(self, kind: str, within: str = "") -> list[int]:
        """The numbers of the blocks, or of those that hold a tensor."""
        start = self.lists.get(kind, "\0")
        names = (name[len(start) :] for name in self.held if name.startswith(start) and within in name)
        numbers = {name.partition(".")[0] for name in names}
        return sorted(int(number) for number in numbers if number.isdecimal() and len(number) < 5)

    def _measured(self) -> Iterator[tuple[str, Any]]:
        """Keys of the config's model and what the file's shapes give them; None: they do not tell."""
        base = self.base
        last = len(base.modalities) - 1
        if base.depth:
            yield "depth", len(self._blocks(JOINT)) or None
        if base.single_stream is not None and base.single_stream.depth:
            yield "single_stream.depth", len(self._blocks(SINGLE)) or None
        if base.attention.dual and (dual := self.places.get(f"{JOINT}dual_attns.{last}.to_out.0.linear")):
            yield "attention.dual", tuple(self._blocks(JOINT, dual[0].partition(".0.")[2]))
        for name, modality in base.modalities.items():
            at, end = f"modalities.{name}", modality.input
            yield f"{at}.dim", self._rows(f"inputs.{name}.linear")
            columns, rows = self._columns(f"inputs.{name}.linear"), self._rows(f"outputs.{name}.linear")
            if isinstance(end, PatchInput):
                yield f"{at}.input.channels", columns and columns // math.prod(end.sizes)
                yield f"{at}.output.channels", rows and rows // math.prod(end.sizes)
                yield f"{at}.input.max_size", self._table(end)
            elif hasattr(end, "dim"):
                yield f"{at}.input.dim", columns and columns // getattr(end, "kernel", 1)
        yield "dim_cond", self._rows("time_embed.narrowed.0", "time_embed.linear_out")
        if base.pooled is not None and base.pooled.frequencies is None:
            yield "pooled.dim", self._columns("pooled_embed.linear_in")
        if base.guidance is not None and self._rows("guidance_embed.linear_in") is None:
            yield "guidance", "null"
        yield from self._heads(last)

    def _heads(self, last: int) -> Iterator[tuple[str, Any]]:
        """What the last modality's attention and feedforward tell, in a joint block or a single one."""
        parts = [f"{JOINT}joint_attn.{{}}.{last}", f"{SINGLE}joint_attn.{{}}.0", f"{SINGLE}attn.{{}}.0"]
        width = self._columns(*(f"{part.format('to_out')}.linear" for part in parts))
        (heads, before), told = self.base.head_sizes, self._rows(*(part.format("q_norms") for part in parts))
        dim_head = told or before
        if width is not None and told is None and width != heads * before:
            self.doubts.append("model.heads: no tensor tells how many there are")
            dim_head = before if width % before == 0 else width // heads
        if width is not None:
            yield "heads", width // dim_head
        yield "dim_head", dim_head
        if self.base.feedforward.dim is not None:
            inner = (f"{JOINT}feedforwards.{last}", f"{SINGLE}feedforwards.0", f"{SINGLE}feedforward")
            yield "feedforward.dim", self._columns(*(f"{part}.proj_out" for part in inner))
        if self.base.rotary is not None and dim_head != before:
            axes = [size * dim_head // before // 2 * 2 for size in self.base.rotary.axes]
            axes[-1] += dim_head - sum(axes)
            yield "rotary.axes", tuple(axes)
            guess = f"{axes} is a guess, in the shares of {self.name}"
            self.doubts.append(f"model.rotary.axes: no tensor tells it; {guess}")

    def _table(self, image: PatchInput) -> int | None:
        """The rows of a square table of positions that the file holds."""
        stored = [*self.places.get("", ()), *self.places.get("inputs.image.positions.table", ())]
        info = next((self.held[name] for name in stored if name in self.held), None)
        if info is None or len(info.shape) < 2:
            return None
        size = math.isqrt(math.prod(info.shape[:-1]))  # theirs 1 n d, ours h w d
        if size != image.max_size and image.base_size is not None:
            self.doubts.append("model.modalities.image.input.base_size: only the values of the table tell it")
        return size


def _value(options: Any, key: str) -> Any:
    for part in key.split("."):
        options = options[part] if isinstance(options, Mapping) else getattr(options, part, None)
    return options


def _written(value: Any) -> str:
    return str(list(value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
