"""A call that is timed with its components followed by hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmdit_cli.model_parts.components import Component
from mmdit_cli.profile.breakdown import shares_within
from mmdit_cli.profile.clock import Attribution, Parts, cost_of_marks
from mmdit_cli.profile.kernels import PhasedCall

MOST_RUNS = 20
KNOWN_SHARE = 0.005  # of the call: how far a component's share may be off
NEGLIGIBLE = 0.005  # of a call, that hooks may take for its time to count as the model's own


class HookedCall:
    """Runs a call and leaves the parts of its time, in nanoseconds, in `runs`.

    `calls`: those of each component in a run. `negligible`: the hooks took so little that the runs' times are those of
    the call without them.
    """

    def __init__(self, call: PhasedCall, components: Sequence[Component], *, train: bool) -> None:
        self.call, self.components = call, components
        self.parameters = {component.name: component.parameters for component in components}
        self.runs: list[Parts] = []
        self.calls: dict[str, int] = {}
        self.negligible = False
        self.mark_ns = cost_of_marks(train=train)

    def __call__(self) -> None:
        parts, marks = self.follow()
        self.runs.append(parts)
        self.negligible = marks * self.mark_ns <= NEGLIGIBLE * sum(parts.values())

    def follow(self, begins: Callable[[str], None] = lambda phase: None) -> tuple[Parts, int]:
        """The parts of one run, and how many marks told them apart; its phases are told as they begin."""
        with Attribution(self.components) as attribution:

            def start(phase: str) -> None:
                begins(phase)
                attribution.start(phase)

            self.call(start)
            parts = attribution.finish()
        self.calls = dict(attribution.calls)
        return parts, attribution.marked

    def release(self) -> None:
        """Let go of the call and of the components' modules, and so of their memory."""
        self.components = [Component(component.kind, component.modality) for component in self.components]
        del self.call

    @property
    def seconds(self) -> list[float]:
        """Of each run."""
        return [sum(parts.values()) / 1e9 for parts in self.runs]

    @property
    def known(self) -> bool:
        """Whether each component's share is known well enough, or was measured often."""
        if len(self.runs) >= MOST_RUNS:
            return True
        within = shares_within(self.runs)
        return bool(within) and max(within.values()) <= KNOWN_SHARE
