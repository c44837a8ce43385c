"""Time by component: a running clock that is switched from component to component as modules begin and end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmdit_cli.measure.components import OTHER, Component

Clock = Callable[[], int]


class Attribution:
    """Splits a call's time among components without overlap: at every moment exactly one of them, or `other`, runs.

    Forward: a module's hooks begin and end its component. Backward: a component begins when the gradient of its
    output is there and ends when those of its inputs are. Only components are instrumented, never what is inside them.
    """

    def __init__(
        self, components: list[Component], device: torch.device, clock: Callable[[], int] | None = None
    ) -> None:
        self.components = components
        self.cuda = device.type == "cuda"
        self.device = device
        self.clock = clock or time.perf_counter_ns
        self.calls: dict[str, int] = defaultdict(int)
        self.marks: list[tuple[Any, str]] = []  # (moment, what runs from then on)
        self.phase = ""
        self.handles: list[Any] = []

    def __enter__(self) -> Attribution:
        for component in self.components:
            for module in component.modules:
                self.handles += [
                    module.register_forward_pre_hook(self._begin(component.name), with_kwargs=True),
                    module.register_forward_hook(self._end(component.name), with_kwargs=True),
                ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def mark(self, name: str) -> None:
        """From now on, `name` runs."""
        if self.cuda:
            moment: Any = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = self.clock()
        self.marks.append((moment, self.phase + name))

    def start(self, phase: str = "") -> None:
        """A new phase of the call (forward, backward, optimizer); what runs is `other` until a component begins."""
        self.phase = phase
        self.mark(OTHER)

    def finish(self) -> dict[str, float]:
        """Seconds by name since the first mark; forgets the marks."""
        self.mark("")
        if self.cuda:
            torch.cuda.synchronize(self.device)
        seconds: dict[str, float] = defaultdict(float)
        for (begin, name), (end, _) in zip(self.marks[:-1], self.marks[1:], strict=True):
            seconds[name] += begin.elapsed_time(end) / 1e3 if self.cuda else (end - begin) / 1e9
        self.marks, self.phase = [], ""
        return dict(seconds)

    def _begin(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.calls[name] += 1
            self.mark(name)
            if torch.is_grad_enabled():
                self._end_backward(name, [t for t in _tensors([args, kwargs]) if t.requires_grad])

        return hook

    def _end(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self.mark(OTHER)
            if torch.is_grad_enabled():
                for tensor in _tensors(output):
                    if tensor.requires_grad:
                        tensor.register_hook(lambda grad: self.mark(name))

        return hook

    def _end_backward(self, name: str, inputs: list[Tensor]) -> None:
        """A component's backward has ended once all its inputs have their gradients. One of them may be waiting for
        other uses, and another component may have begun meanwhile: then there is nothing left to end."""
        waiting = len(inputs)

        def arrived(grad: Tensor) -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and self.marks and self.marks[-1][1] == self.phase + name:
                self.mark(OTHER)

        for tensor in inputs:
            tensor.register_hook(arrived)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
