"""What a process sends to others: every collective operation that runs, with its bytes.

Bytes are those that a ring sends (Thakur, Rabenseifner & Gropp 2005, https://doi.org/10.1177/1094342005051521, sections
4.1 to 4.5): of n processes each sends (n - 1) / n of what is gathered or scattered, and twice that of what is reduced
for all. Reductions within switches (SHARP) send less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all"]
Ranks = tuple[int, ...]

# where an operator has the whole of what is gathered or scattered: `out`, or the place among its arguments
OPERATORS: dict[str, tuple[Kind, int | Literal["out"]]] = {
    "c10d::_allgather_base_": ("all_gather", 0),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::allreduce_": ("all_reduce", 0),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", "out"),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
    "_c10d_functional::all_to_all_single": ("all_to_all", 0),
}
SILENT = {"_c10d_functional::wait_tensor", "_c10d_functional::_wrap_tensor_autograd"}


class Collective(NamedTuple):
    """A kind of operation among some processes, of all of which `ranks` has the numbers, this one's among them.
    `by`: `fsdp` computes beside it; a layer that asks, waits."""

    kind: Kind
    by: Literal["fsdp", "layer"]
    ranks: Ranks


class Traffic(NamedTuple):
    """`calls` of a collective; `payload`: bytes that are gathered, scattered, reduced, or given to others and oneself;
    `kept`: of an exchange, those given to oneself."""

    calls: int = 0
    payload: int = 0
    kept: int = 0

    def plus(self, other: Traffic, times: int = 1) -> Traffic:
        return Traffic(*(a + times * b for a, b in zip(self, other, strict=True)))

    def sent(self, collective: Collective) -> float:
        """Bytes that each process sends."""
        count = len(collective.ranks)
        if collective.kind == "all_to_all":
            return self.payload - self.kept
        return self.payload * (count - 1) / count * (2 if collective.kind == "all_reduce" else 1)


class CollectiveCounter(TorchDispatchMode):
    """Sums the collectives that run while it is active, by the `place` of each.

    Raises:
        NotImplementedError: an operation that it does not know.
    """

    def __init__(self, place: Callable[[], tuple[str, int]] = lambda: ("", 0)) -> None:
        super().__init__()
        self.place = place
        self.by_place: dict[tuple[str, int], dict[Collective, Traffic]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name.startswith(("c10d::", "_c10d_functional::")) and name not in SILENT:
            self._count(name, [*args, *(kwargs or {}).values()], out)
        return out

    def total(self) -> dict[Collective, Traffic]:
        """Of all places together."""
        found: dict[Collective, Traffic] = {}
        for each in self.by_place.values():
            for collective, traffic in each.items():
                found[collective] = found.get(collective, Traffic()).plus(traffic)
        return found

    def _count(self, name: str, given: Sequence[Any], out: Any) -> None:
        if name not in OPERATORS:
            raise NotImplementedError(f"the bytes of {name} are not known")
        kind, where = OPERATORS[name]
        tensor = out if where == "out" else given[where]
        size = sum(x.numel() * x.element_size() for x in ([tensor] if isinstance(tensor, Tensor) else tensor))
        ranks = tuple(dist.get_process_group_ranks(_group(given)))
        kept = 0
        if kind == "all_to_all":
            splits = given[2]
            kept = splits[ranks.index(dist.get_rank())] * (size // max(1, tensor.numel()))
        here = self.by_place.setdefault(self.place(), {})
        collective = Collective(kind, "fsdp" if name.startswith("c10d::") else "layer", ranks)
        here[collective] = here.get(collective, Traffic()).plus(Traffic(1, size, kept))


def _group(given: Sequence[Any]) -> dist.ProcessGroup:
    for each in given:
        if isinstance(each, torch.ScriptObject):
            try:
                return dist.ProcessGroup.unbox(each)
            except (RuntimeError, TypeError):  # the operation's kind of reduction
                continue
    names = [each for each in given if isinstance(each, str)]
    return dist.distributed_c10d._resolve_process_group(names[-1])  # type: ignore[arg-type]
