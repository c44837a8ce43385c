"""A model's weights under the names of another implementation, and the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from mmdit.config.construct import build_on_meta
from mmdit.layouts.language import LayoutError, Read, Rule, Term, join, rules_of
from mmdit.layouts.operations import TABLES, operations_for
from mmdit.layouts.registry import LAYOUTS, PREFIXES, lines_for
from mmdit.options import ModelOptions
from mmdit.weights.matching import listed, misfits

__all__ = ["Layout", "from_layout", "to_layout"]


class Layout:
    """The names and shapes of a model's weights in another implementation, and each from those of the other side.

    Attributes:
        ours, theirs: the shapes by name.
        tables: what of theirs is none of ours but computed: functions that make it, of up to 1 GB.
        rounded: the names, on both sides, of tensors that may come back with other last bits.
        prefix: what is written before all of their names.

    Args:
        name: one of `LAYOUTS`.
        config: the model.

    Raises:
        LayoutError: the layout has no place for this model, or for one of its tensors.
    """

    def __init__(self, name: str, config: ModelOptions) -> None:
        if name not in LAYOUTS:
            raise LayoutError(f"layout must be one of {', '.join(LAYOUTS)}, got {name!r}")
        self.name, self.config, self.prefix = name, config, PREFIXES.get(name, "")
        self._shapes: dict[str, Tensor] = dict(build_on_meta(config).state_dict())
        self.ours = {key: tuple(x.shape) for key, x in self._shapes.items()}
        self.tables: dict[str, Callable[[], Tensor]] = {}
        try:
            rules = self._rules()
        except LayoutError as error:
            raise LayoutError(f"the layout {name!r} has no place for this model: {error}") from None
        self._theirs = {term.name: (rule, i) for rule in rules for i, term in enumerate(rule.theirs)}
        self._pieces = self._cover(rules)
        self.rounded = frozenset(t.name for rule in rules if not rule.exact for t in (*rule.ours, *rule.theirs))
        meta = self._shapes.__getitem__
        self.theirs = {key: tuple(rule.to_theirs(i, meta).shape) for key, (rule, i) in self._theirs.items()}
        self.tables = {key: make for key, make in self.tables.items() if key not in self.theirs}
        with torch.device("meta"):
            self.theirs |= {key: tuple(make().shape) for key, make in self.tables.items()}

    def to_ours(self, name: str, read: Read) -> Tensor:
        """Our tensor `name`, from theirs."""
        return join([rule.to_ours(index, read) for rule, index in self._pieces[name]], 0)

    def to_theirs(self, name: str, read: Read) -> Tensor:
        """Their tensor `name`, from ours."""
        if name in self.tables:
            return self.tables[name]().to(read(next(iter(self.ours))))  # its dtype and device
        rule, index = self._theirs[name]
        return rule.to_theirs(index, read).contiguous()

    def made_of(self, name: str) -> tuple[str, ...]:
        """The tensors of ours that are in their tensor `name`; none where it is a table."""
        return () if name in self.tables else tuple(term.name for term in self._theirs[name][0].ours)

    def check_table(self, name: str, x: Tensor) -> None:
        """A table that we compute must be the one in the file.

        Raises:
            LayoutError: it is another one.
        """
        if x.is_meta:
            return
        table = self.tables[name]()  # it may be of 1 GB
        if torch.equal(x, table.to(x)):
            return
        # half a unit in the last place of fp8 (e5m2) near 1 is 2^-4; other tables differ by about 1
        rows = zip(x.split(1024, dim=1), table.split(1024, dim=1), strict=True)
        if not all(((part.float() - wanted.to(x.device)).abs() <= 2**-4).all() for part, wanted in rows):
            raise LayoutError(
                f"{name} is not the sine-cosine table of this config; check max_size and base_size of the image's input"
            )

    def _rules(self) -> list[Rule]:
        if self.name == "mmdit":
            terms = [Term(key, slice(None)) for key in self._shapes]
            return [Rule((term,), (term,), 0, self._shapes) for term in terms]
        rules: list[Rule] = []
        operations = operations_for(self.config)
        for line in lines_for(self.name, self.config):
            left, right = line.split(" = ")
            if left in TABLES:
                self.tables[right] = partial(TABLES[left], self.config)
            else:
                rules += rules_of(line, operations, self._shapes)
        return rules

    def _cover(self, rules: list[Rule]) -> dict[str, list[tuple[Rule, int]]]:
        """For each of our tensors the rules that give its rows, in their order."""
        lengths = {name: len(x) if x.ndim else 1 for name, x in self._shapes.items()}
        pieces: dict[str, list[tuple[int, int, Rule, int]]] = {name: [] for name in lengths}
        for rule in rules:
            for index, term in enumerate(rule.ours):
                start, stop, _ = term.rows.indices(lengths[term.name])
                pieces[term.name].append((start, stop, rule, index))
        for name, found in pieces.items():
            found.sort(key=lambda piece: piece[0])
            if [0, *(stop for _, stop, _, _ in found)] != [*(start for start, *_ in found), lengths[name]]:
                raise LayoutError(f"the layout {self.name!r} has no place for {name} of this model")
        return {name: [(rule, index) for _, _, rule, index in found] for name, found in pieces.items()}


def from_layout(tensors: Mapping[str, Tensor], config: ModelOptions, layout: str) -> dict[str, Tensor]:
    """Our state dict, from one in another layout; its tensors may share memory with those that were given.

    Raises:
        LayoutError: a tensor is missing, left over or of another shape, or the layout has no place for the model.
    """
    known = Layout(layout, config)
    _check(tensors, known.theirs, layout)
    for name in known.tables:
        known.check_table(name, tensors[name])
    return {name: known.to_ours(name, tensors.__getitem__) for name in known.ours}


def to_layout(tensors: Mapping[str, Tensor], config: ModelOptions, layout: str) -> dict[str, Tensor]:
    """A state dict in another layout, from ours; its tensors may share memory with those that were given.

    Raises:
        LayoutError: a tensor is missing, left over or of another shape, or the layout has no place for the model.
    """
    known = Layout(layout, config)
    _check(tensors, known.ours, "mmdit")
    return {name: known.to_theirs(name, tensors.__getitem__) for name in known.theirs}


def _check(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], layout: str) -> None:
    problems = misfits(wanted, {name: tuple(x.shape) for name, x in tensors.items()})
    if problems:
        raise LayoutError(f"not the layout {layout!r} of this config: {listed(problems)}")
