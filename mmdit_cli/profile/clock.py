"""A running clock's total, split among components."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmdit_cli.model_parts.components import Component
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD, Follower, Place

Parts = dict[Place, float]


class Attribution(Follower):
    """Splits what a clock counts during a call among phases and components, without overlap and without a gap.

    Args:
        clock: any count that only rises: nanoseconds, or FLOPs.
    """

    def __init__(self, components: Sequence[Component], clock: Callable[[], int] = time.perf_counter_ns) -> None:
        super().__init__(components)
        self.clock = clock
        self.marks: list[tuple[int, str, str]] = []  # the count, and what runs from then on
        self.marked = 0  # how many there were in all

    def entered(self) -> None:
        self.marks.append((self.clock(), self.phase, self.running.name))

    left = entered

    def finish(self) -> Parts:
        """What was counted since the first mark, by phase and component, in the clock's unit; forgets the marks."""
        self._leave_to(0)
        ends = [count for count, _, _ in self.marks[1:]] + [self.clock()]
        parts: Parts = defaultdict(int)
        for (begin, phase, name), end in zip(self.marks, ends, strict=True):
            parts[phase, name] += end - begin
        self.marked += len(self.marks)
        self.marks, self.phase = [], FORWARD
        return dict(parts)


def cost_of_marks(*, train: bool, clock: Callable[[], int] = time.perf_counter_ns, tries: int = 3) -> float:
    """What attribution itself takes for each of its marks, in the clock's unit: the least of several tries of a chain
    of modules that do next to nothing, followed and not."""
    chain = nn.Sequential(*(_Negation() for _ in range(64)))
    x = torch.zeros(1, requires_grad=train)

    def call(start: Callable[[str], None]) -> int:
        begin = clock()
        start(FORWARD)
        with torch.set_grad_enabled(train):
            y = chain(x)
        if train:
            start(BACKWARD)
            y.sum().backward()
        return clock() - begin

    alone = min(call(lambda phase: None) for _ in range(tries))
    spent, marks = [], 0
    for _ in range(tries):
        with Attribution([Component("chain", None, [*chain])], clock) as attribution:
            spent.append(call(attribution.start))
            attribution.finish()
        marks = attribution.marked
    return max(0.0, min(spent) - alone) / marks


class _Negation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x
