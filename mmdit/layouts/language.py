"""The language in which a layout says what its tensors are in ours.

A layout is a list of lines such as

    joint_attn.to_qkv.1.linear = attn.to_q + attn.to_k + attn.to_v

which says that our tensor on the left is the tensors on the right, one below the other (`+`) or side by side (`|`). A
name without `.weight` or `.bias` stands for both. `swap(...)` and its like are named operations, each with its inverse;
`name[2/6]` is the third sixth of a tensor's rows, `name[:-1]` a slice of them. As every line can be read from left to
right and from right to left, a conversion there and back gives the same bits. A line of which we have no tensor says
nothing. `sincos() = name` is what they store and we compute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Read = Callable[[str], Tensor]  # a tensor by its name


class LayoutError(ValueError):
    """A layout that has no place for a model, or tensors that are not those of a layout."""


@dataclass(frozen=True)
class Operation:
    """`write` makes theirs of ours, `read` ours of theirs, which then takes the shape given."""

    write: Callable[[Tensor], Tensor]
    read: Callable[[Tensor, torch.Size], Tensor]
    exact: bool = True  # whether there and back gives the same bits


@dataclass(frozen=True)
class Term:
    """A tensor, or some of its rows, and the operations around it, the outermost first."""

    name: str
    rows: slice
    operations: tuple[Operation, ...] = ()

    def write(self, x: Tensor) -> Tensor:
        """Theirs, from our rows."""
        for operation in reversed(self.operations):
            x = operation.write(x)
        return x

    def read(self, x: Tensor, like: Tensor) -> Tensor:
        """Our rows, from theirs; `like`: what `write` began with."""
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

    @property
    def exact(self) -> bool:
        """Whether there and back gives the same bits."""
        return all(operation.exact for term in (*self.ours, *self.theirs) for operation in term.operations)

    def to_theirs(self, index: int, read: Read) -> Tensor:
        """Theirs number `index`, from ours."""
        joined = join([self._written(term, read) for term in self.ours], self.dim)
        part = joined if len(self.theirs) == 1 else joined.chunk(len(self.theirs), self.dim)[index]
        return self.theirs[index].write(part)

    def to_ours(self, index: int, read: Read) -> Tensor:
        """The rows of ours number `index`, from theirs."""
        written = [self._written(term, self.shapes.__getitem__) for term in self.ours]
        like = join(written, self.dim)
        parts = [like] if len(self.theirs) == 1 else like.chunk(len(self.theirs), self.dim)
        joined = join(
            [term.read(read(term.name), part) for term, part in zip(self.theirs, parts, strict=True)], self.dim
        )
        if len(self.ours) > 1:
            joined = joined.split([x.shape[self.dim] for x in written], self.dim)[index]
        term = self.ours[index]
        return term.read(joined, self.shapes[term.name][term.rows])

    def _written(self, term: Term, read: Read) -> Tensor:
        x = read(term.name)
        return term.write(x if term.rows == slice(None) else x[term.rows])


def rules_of(line: str, operations: Mapping[str, Operation], shapes: Mapping[str, Tensor]) -> Iterator[Rule]:
    """What a line says of the names in it, of their `.weight` and of their `.bias`, as far as the model has them.

    Args:
        operations: by the names that the line may use.
        shapes: meta tensors of our model.

    Raises:
        LayoutError: the model has some of the tensors on the left and not all.
        ValueError: it is no line of the language.
    """
    left, right = line.split(" = ")
    for suffix in ("", ".weight", ".bias"):
        ours, theirs = (
            tuple(_term(text.strip(), suffix, operations, shapes) for text in re.split(r"[+|]", side))
            for side in (left, right)
        )
        missing = [term.name for term in ours if term.name not in shapes]
        if len(missing) == len(ours):
            continue
        if missing:
            raise LayoutError(f"it lacks {', '.join(missing)}")
        yield Rule(ours, theirs, 1 if "|" in line else 0, shapes)


def _term(text: str, suffix: str, operations: Mapping[str, Operation], shapes: Mapping[str, Tensor]) -> Term:
    if called := re.fullmatch(r"(\w+)\((.*)\)", text):
        inner = _term(called[2], suffix, operations, shapes)
        return Term(inner.name, inner.rows, (operations[called[1]], *inner.operations))
    match = re.fullmatch(r"([\w.-]+)(?:\[([^\]]+)\])?", text)
    if match is None:
        raise ValueError(f"not a term of a layout: {text!r}")
    name, rows = match[1] + suffix, match[2]
    return Term(name, _rows(rows, len(shapes[name])) if rows and name in shapes else slice(None))


def _rows(text: str, length: int) -> slice:
    """`2/6` is the third of six equal parts, `:-1` all but the last row."""
    if "/" not in text:
        return slice(*(int(end) if end else None for end in text.split(":")))
    index, parts = map(int, text.split("/"))
    size = length // parts
    return slice(index * size, (index + 1) * size)


def join(tensors: list[Tensor], dim: int) -> Tensor:
    """`torch.cat`, of tensors of one dtype. What was split is the whole again, which is not copied.

    Raises:
        LayoutError: they have several.
    """
    if len(tensors) == 1:
        return tensors[0]
    dtypes = sorted({str(x.dtype).removeprefix("torch.") for x in tensors})
    if len(dtypes) > 1:
        raise LayoutError(
            f"tensors that are one in the other layout have several dtypes ({', '.join(dtypes)}); convert to one first"
        )
    if tensors[0].is_meta:  # whose own `torch.cat` imports sympy, which takes longer than all of a layout
        shape = list(tensors[0].shape)
        shape[dim] = sum(x.shape[dim] for x in tensors)
        return tensors[0].new_empty(shape)
    whole = None if any(x.requires_grad for x in tensors) else _unsplit(tensors, dim)
    return torch.cat(tensors, dim) if whole is None else whole


def _unsplit(tensors: list[Tensor], dim: int) -> Tensor | None:
    """What these are the parts of, where they lie one behind the other in the memory of one tensor."""
    first, strides = tensors[0], tensors[0].stride()
    shape, memory = list(first.shape), first.untyped_storage().data_ptr()
    for x in tensors[1:]:
        place = first.storage_offset() + shape[dim] * strides[dim]
        shape[dim] += x.shape[dim]
        fits = x.stride() == strides and [*x.shape[:dim], shape[dim], *x.shape[dim + 1 :]] == shape
        if not fits or x.storage_offset() != place or x.untyped_storage().data_ptr() != memory:
            return None
    return first.as_strided(shape, strides, first.storage_offset())
