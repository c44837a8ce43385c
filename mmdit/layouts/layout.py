"""Other implementations' names for our weights, and the way there and back.

A layout is a list of rules, each a line such as

    joint_attn.to_qkv.1.linear = attn.to_q + attn.to_k + attn.to_v

which says that our tensor on the left is the tensors on the right, one below the other (`+`) or side by side (`|`). A
name without `.weight` or `.bias` stands for both. `swap(...)` and its like are named operations, each with its inverse;
`name[2/6]` is the third sixth of a tensor's rows, `name[:-1]` a slice of them. As every rule can be read from left to
right and from right to left, a conversion there and back gives the same bits. The lines are in `layout_tables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from mmdit.config import build
from mmdit.layers.positions import SinCos2D
from mmdit.layouts.families import diffusers, flux, prefixes, stability
from mmdit.layouts.lucidrains import lucidrains
from mmdit.options import ModelOptions, PatchInput
from mmdit.weights.matching import listed, misfits

__all__ = ["LAYOUTS", "Layout", "LayoutError", "from_layout", "to_layout"]

TABLES: dict[str, Callable[[ModelOptions], list[str] | str]] = {
    "diffusers": diffusers,
    "stability": stability,
    "flux": flux,
    "lucidrains": lucidrains,
}
LAYOUTS = ("mmdit", *TABLES)
Read = Callable[[str], Tensor]  # a tensor by its name


class LayoutError(ValueError):
    """A layout that has no place for a model, or tensors that are not those of a layout."""


# -------------------------------------------------------------------------------------------------------- operations


@dataclass(frozen=True)
class Operation:
    """`write` makes theirs of ours, `read` ours of theirs, which then takes the shape given."""

    write: Callable[[Tensor], Tensor]
    read: Callable[[Tensor, torch.Size], Tensor]
    exact: bool = True  # whether there and back gives the same bits


def _reshaped(write: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(write, lambda x, shape: x.reshape(shape))


def _swap(x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2)[::-1])


def _operations(config: ModelOptions) -> dict[str, Operation]:
    image = next((m for m in config.modalities.values() if isinstance(m.input, PatchInput)), None)
    sizes: dict[str, int] = {}
    if image is not None and isinstance(image.input, PatchInput):
        sizes = dict(c=image.input.channels, p=image.input.patch, q=image.input.patch)
    patch = {key: sizes[key] for key in ("p", "q") if key in sizes}
    return {
        # the two halves of the rows change places: scale and shift, value and gate
        "swap": Operation(_swap, lambda x, shape: _swap(x)),
        # a patch's values, channels last in ours and first in theirs
        "patch": Operation(
            lambda x: rearrange(x, "(p q c) ... -> (c p q) ...", **patch),
            lambda x, shape: rearrange(x, "(c p q) ... -> (p q c) ...", **patch),
        ),
        # a convolution's kernel, where ours is a linear on the patch; the bias is the same
        "conv": _reshaped(lambda x: rearrange(x, "o (c p q) -> o c p q", **sizes) if x.ndim == 2 else x),
        # theirs multiply by a gamma where we multiply by 1 + scale: the bias differs by 1, the weight does not
        "gamma": Operation(
            lambda x: x + 1 if x.ndim == 1 else x,
            lambda x, shape: x - 1 if x.ndim == 1 else x,
            exact=False,
        ),
        "one_less": Operation(lambda x: x - 1, lambda x, shape: x + 1, exact=False),
        "transposed": Operation(lambda x: x.T, lambda x, shape: x.T),
        "transposed_batch": Operation(lambda x: x.T[None], lambda x, shape: x[0].T),
        "batch": _reshaped(lambda x: x.flatten(0, -2)[None]),  # ... d -> 1 n d
        "flat": _reshaped(lambda x: x.flatten()),
        "scalar": _reshaped(lambda x: x.reshape(())),
        "column": _reshaped(lambda x: x.reshape(-1, 1)),
        "cube": _reshaped(lambda x: x.reshape(-1, 1, 1)),
    }


# ------------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Term:
    """A tensor, or some of its rows, and the operations around it, the outermost first."""

    name: str
    rows: slice
    operations: tuple[Operation, ...] = ()

    def write(self, x: Tensor) -> Tensor:
        for operation in reversed(self.operations):
            x = operation.write(x)
        return x

    def read(self, x: Tensor, like: Tensor) -> Tensor:
        """`like`: what `write` began with."""
        shapes = [like]
        for operation in reversed(self.operations):
            shapes.append(operation.write(shapes[-1]))
        for operation, before in zip(self.operations, reversed(shapes[:-1]), strict=True):
            x = operation.read(x, before.shape)
        return x


@dataclass(frozen=True)
class Rule:
    """`cat(ours, dim) = cat(theirs, dim)`, each term after its own operations; several theirs are equal in size.

    `shapes` are meta tensors of our model, from which the sizes on both sides follow.
    """

    ours: tuple[Term, ...]
    theirs: tuple[Term, ...]
    dim: int
    shapes: Mapping[str, Tensor]

    def to_theirs(self, index: int, read: Read) -> Tensor:
        """Theirs number `index`, from ours."""
        joined = _cat([self._written(term, read) for term in self.ours], self.dim)
        part = joined if len(self.theirs) == 1 else joined.chunk(len(self.theirs), self.dim)[index]
        return self.theirs[index].write(part)

    def to_ours(self, index: int, read: Read) -> Tensor:
        """The rows of ours number `index`, from theirs."""
        written = [self._written(term, self.shapes.__getitem__) for term in self.ours]
        like = _cat(written, self.dim)
        parts = [like] if len(self.theirs) == 1 else like.chunk(len(self.theirs), self.dim)
        joined = _cat(
            [term.read(read(term.name), part) for term, part in zip(self.theirs, parts, strict=True)], self.dim
        )
        if len(self.ours) > 1:
            joined = joined.split([x.shape[self.dim] for x in written], self.dim)[index]
        term = self.ours[index]
        return term.read(joined, self.shapes[term.name][term.rows])

    def _written(self, term: Term, read: Read) -> Tensor:
        x = read(term.name)
        return term.write(x if term.rows == slice(None) else x[term.rows])


def _cat(tensors: list[Tensor], dim: int) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]
    dtypes = sorted({str(x.dtype).removeprefix("torch.") for x in tensors})
    if len(dtypes) > 1:
        raise LayoutError(
            f"tensors that are one in the other layout have several dtypes ({', '.join(dtypes)}); convert to one first"
        )
    return torch.cat(tensors, dim)


class Layout:
    """The names and shapes of a model's weights in another implementation, and each from those of the other side.

    Args:
        name: one of `LAYOUTS`.
        config: the model.

    Raises:
        LayoutError: the layout has no place for this model, or for one of its tensors.
    """

    def __init__(self, name: str, config: ModelOptions) -> None:
        if name not in LAYOUTS:
            raise LayoutError(f"layout must be one of {', '.join(LAYOUTS)}, got {name!r}")
        self.name, self.config = name, config
        with torch.device("meta"):
            self._shapes = dict(build(config).state_dict())
        self.ours = {key: tuple(x.shape) for key, x in self._shapes.items()}
        self._rules = list(self._make_rules())
        self._pieces = self._cover()
        self._theirs = {term.name: (rule, i) for rule in self._rules for i, term in enumerate(rule.theirs)}
        self.theirs = {
            name: tuple(rule.to_theirs(i, self._shapes.__getitem__).shape) for name, (rule, i) in self._theirs.items()
        }
        inexact = [
            rule for rule in self._rules if not all(o.exact for t in (*rule.ours, *rule.theirs) for o in t.operations)
        ]
        self.rounded = frozenset(term.name for rule in inexact for term in (*rule.ours, *rule.theirs))
        self.tables = self._fixed()
        self.theirs |= self.tables
        self.prefixes = prefixes(name)

    def to_ours(self, name: str, read: Read) -> Tensor:
        """Our tensor `name`, from theirs."""
        return _cat([rule.to_ours(index, read) for rule, index in self._pieces[name]], 0)

    def to_theirs(self, name: str, read: Read) -> Tensor:
        """Their tensor `name`, from ours."""
        if name in self.tables:
            return self._table(name).to(read(next(iter(self.ours))).dtype)
        rule, index = self._theirs[name]
        return rule.to_theirs(index, read).contiguous()

    def check_table(self, name: str, x: Tensor) -> None:
        """A table that we compute must be the one in the file.

        Raises:
            LayoutError: it is another one.
        """
        # half a unit in the last place of bfloat16 near 1 is 2^-9; other tables differ by about 1
        rows = zip(x.split(1024, dim=1), self._table(name).split(1024, dim=1), strict=True)  # it may be of 1 GB
        if not all(torch.allclose(part.float(), wanted, atol=2**-7) for part, wanted in rows):
            raise LayoutError(
                f"{name} is not the sine-cosine table of this config; check max_size and base_size of the image's input"
            )

    # ------------------------------------------------------------------------------------------------------- making

    def _make_rules(self) -> Iterator[Rule]:
        operations = _operations(self.config)
        if self.name == "mmdit":
            yield from (
                Rule((Term(key, slice(None)),), (Term(key, slice(None)),), 0, self._shapes) for key in self._shapes
            )
            return
        lines = TABLES[self.name](self.config)
        if isinstance(lines, str):
            raise LayoutError(f"the layout {self.name!r} has no place for this model: {lines}")
        for line in lines:
            left, right = (side.strip() for side in line.split(" = "))
            for suffix in ("", ".weight", ".bias"):
                ours, theirs = (_parse(side, suffix, operations) for side in (left, right))
                found = [term.name in self._shapes for term in ours]
                if not any(found):
                    continue
                if not all(found):
                    missing = ", ".join(term.name for term, there in zip(ours, found, strict=True) if not there)
                    raise LayoutError(f"the layout {self.name!r} has no place for this model: it lacks {missing}")
                yield Rule(tuple(self._resolved(term) for term in ours), theirs, 1 if "|" in line else 0, self._shapes)

    def _resolved(self, term: Term) -> Term:
        """`[2/6]` as rows, now that the tensor's size is known."""
        rows = term.rows
        if isinstance(rows.step, str):
            size = len(self._shapes[term.name]) // int(rows.step)
            rows = slice(rows.start * size, (rows.start + 1) * size)
        return Term(term.name, rows, term.operations)

    def _cover(self) -> dict[str, list[tuple[Rule, int]]]:
        """For each of our tensors the rules that give its rows, in their order."""
        pieces: dict[str, list[tuple[int, int, Rule, int]]] = {name: [] for name in self._shapes}
        for rule in self._rules:
            for index, term in enumerate(rule.ours):
                start, stop, _ = term.rows.indices(len(self._shapes[term.name]) if self._shapes[term.name].ndim else 1)
                pieces[term.name].append((start, stop, rule, index))
        for name, found in pieces.items():
            found.sort(key=lambda piece: piece[0])
            ends = [0, *(stop for _, stop, _, _ in found)]
            size = len(self._shapes[name]) if self._shapes[name].ndim else 1
            if [start for start, *_ in found] != ends[:-1] or ends[-1] != size:
                raise LayoutError(f"the layout {self.name!r} has no place for {name} of this model")
        return {name: [(rule, index) for _, _, rule, index in found] for name, found in pieces.items()}

    def _fixed(self) -> dict[str, tuple[int, ...]]:
        """What only they store: tables of fixed positions, and an empty tensor where there are no register tokens."""
        if self.name == "lucidrains":
            two = self.config.variant == "two_modality" and "register_tokens" not in self.theirs
            return {"register_tokens": (0, self.config.modalities["image"].dim)} if two else {}
        image = self.config.modalities.get("image")
        name = {"diffusers": "pos_embed.pos_embed", "stability": "pos_embed"}.get(self.name)
        if (
            name is None
            or image is None
            or not isinstance(image.input, PatchInput)
            or image.input.positions != "sincos"
        ):
            return {}
        return {name: (1, image.input.max_size**2, image.dim)}

    def _table(self, name: str) -> Tensor:
        if self.name == "lucidrains":
            return torch.empty(self.tables[name])
        image = self.config.modalities["image"]
        assert isinstance(image.input, PatchInput)
        size = image.input.max_size
        positions = SinCos2D(image.dim, max_size=size, base_size=image.input.base_size)
        return positions(torch.zeros(1, size, size, image.dim)).reshape(self.tables[name])


_TERM = re.compile(r"(?P<name>[\w.]+)(?:\[(?P<rows>[^\]]+)\])?$")


def _parse(side: str, suffix: str, operations: Mapping[str, Operation]) -> tuple[Term, ...]:
    return tuple(_term(text.strip(), suffix, operations) for text in re.split(r"[+|]", side))


def _term(text: str, suffix: str, operations: Mapping[str, Operation]) -> Term:
    called = re.match(r"(\w+)\((.*)\)$", text)
    if called:
        inner = _term(called[2], suffix, operations)
        return Term(inner.name, inner.rows, (operations[called[1]], *inner.operations))
    match = _TERM.match(text)
    if match is None:
        raise ValueError(f"not a term of a layout: {text!r}")
    rows = slice(None)
    if match["rows"]:
        if "/" in match["rows"]:
            index, parts = match["rows"].split("/")
            rows = slice(int(index), None, parts)
        else:
            rows = slice(*(int(end) if end else None for end in match["rows"].split(":")))
    return Term(match["name"] + suffix, rows)


# ------------------------------------------------------------------------------------------------------ state dicts


def from_layout(tensors: Mapping[str, Tensor], config: ModelOptions, layout: str) -> dict[str, Tensor]:
    """Our state dict, from one in another layout.

    Raises:
        LayoutError: a tensor is missing, left over or of another shape, or the layout has no place for the model.
    """
    known = Layout(layout, config)
    _check(tensors, known.theirs, layout)
    for name in known.tables:
        known.check_table(name, tensors[name])
    return {name: known.to_ours(name, tensors.__getitem__) for name in known.ours}


def to_layout(tensors: Mapping[str, Tensor], config: ModelOptions, layout: str) -> dict[str, Tensor]:
    """A state dict in another layout, from ours.

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
