"""Which component runs at each moment, forward and backward: for clocks, counters, traces and memory alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdit_cli.model_parts.components import OTHER, Component

if TYPE_CHECKING:
    from typing_extensions import Self

FORWARD, BACKWARD, OPTIMIZER = PHASES = ("forward", "backward", "optimizer")
NO_SEQUENCE = 2**63  # an AccumulateGrad has no place in the sequence of autograd's nodes

Place = tuple[str, str]  # phase and component


class Follower:
    """Follows a model's call through its components. At every moment exactly one of them, or `other`, runs.

    Forward: a module's hooks enter and leave its component. Backward: so do the autograd nodes that were made while the
    module ran. Only components are instrumented, never what is inside them. A subclass says what entering and leaving
    mean, in `entered` and `left`.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self.components = components
        self.phase = FORWARD
        self.running = _Call(OTHER, 0, 0)
        self.calls: Counter[str] = Counter()  # forward calls by component
        self.stack: list[_Call] = []  # what goes on when the one that runs has ended
        self.handles: list[Any] = []

    @property
    def place(self) -> Place:
        """What runs now."""
        return self.phase, self.running.name

    def entered(self) -> None:
        """`self.running` runs from now on."""

    def left(self) -> None:
        """What ran has ended, and `self.running` goes on."""

    def __enter__(self) -> Self:
        for component in self.components:
            for module in component.modules:
                self.handles += [
                    module.register_forward_pre_hook(self._begin(component.name)),
                    module.register_forward_hook(self._end),
                ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def start(self, phase: str = FORWARD) -> None:
        """A new phase of the call; what runs is `other` until a component is entered."""
        self._leave_to(0)
        self.phase, self.running = phase, _Call(OTHER, 0, 0)
        self.entered()

    def _enter(self, call: _Call) -> None:
        self.stack.append(self.running)
        self.running = call
        self.entered()

    def _leave_to(self, depth: int) -> None:
        while len(self.stack) > depth:
            self.running = self.stack.pop()
            self.left()

    def _begin(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.calls[name] += self.phase == FORWARD  # a recomputed activation is no call of the model's own
            sequence = torch.autograd._get_sequence_nr() if torch.is_grad_enabled() else 0
            self._enter(_Call(name, self.calls.total(), sequence))

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        ended = self.running
        self._leave_to(len(self.stack) - 1)
        if torch.is_grad_enabled() and self.phase == FORWARD:
            for node in _nodes_since(ended.first_node, tensors_of(output)):
                self._follow(node, ended)

    def _follow(self, node: Node, call: _Call) -> None:
        """The call's backward runs while the node does. What the node recomputes (checkpointing) may be broken off
        inside a component, so that leaving goes down to where entering began."""
        depth = 0

        def begin(grads: Any) -> None:
            nonlocal depth
            depth = len(self.stack)
            self._enter(call)

        def end(grad_inputs: Any, grad_outputs: Any) -> None:
            self._leave_to(depth)

        node.register_prehook(begin)
        node.register_hook(end)


class FollowingMode(TorchDispatchMode):
    """Sees every operator while it is active, and by its `follower` which component runs it."""

    def __init__(self, components: Sequence[Component]) -> None:
        super().__init__()
        self.follower = Follower(components)

    def __enter__(self) -> Self:
        self.follower.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.follower.__exit__()


class _Call(NamedTuple):
    """One call of a component: its number among all calls, and the place in autograd's sequence where it began."""

    name: str
    number: int
    first_node: int


def _nodes_since(sequence: int, outputs: Iterable[Tensor]) -> set[Node]:
    """The autograd nodes behind the outputs that were made at or after a place in the sequence."""
    found: set[Node] = set()
    waiting = [x.grad_fn for x in outputs if x.grad_fn is not None]
    while waiting:
        node = waiting.pop()
        if node in found or not sequence <= node._sequence_nr() < NO_SEQUENCE:
            continue
        found.add(node)
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]
