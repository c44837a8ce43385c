"""A running clock's total, split among components."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from mmdit_cli.model_parts.components import Component
from mmdit_cli.model_parts.follower import FORWARD, Follower, Place

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
        self.marks, self.phase = [], FORWARD
        return dict(parts)
