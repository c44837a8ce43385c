"""A measurement that ends before it is done, with what is known by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from mmdit_cli.profile.statistics import Latency


class Timed(Protocol):
    """A result that has a latency."""

    @property
    def latency_ms(self) -> Latency: ...


class EndedEarly(Exception):
    """Raised between two calls, where a key was pressed."""


class EarlyEnd:
    """Whether a measurement is to end early, and by what it did (`reason`).

    Args:
        pressed: whether a key was.
        interruptible: Ctrl-C ends it so as well, and is left to the caller where nothing is known yet.
    """

    def __init__(self, pressed: Callable[[], bool] = lambda: False, *, interruptible: bool = False) -> None:
        self.pressed, self.interruptible = pressed, interruptible
        self.reason: Literal["key", "interrupt"] | None = None

    def say_interrupted(self) -> None:
        """Raises KeyboardInterrupt where Ctrl-C ended it, after what is known was shown."""
        if self.reason == "interrupt":
            raise KeyboardInterrupt("interrupted: the figures above are of what was measured until then")

    def notices(self, results: Sequence[Timed], asked: int) -> list[str]:
        """What stands above the results of so many configs or points, if it ended early."""
        if self.reason is None:
            return []
        by = {"key": "a key", "interrupt": "Ctrl-C"}[self.reason]
        fewest = min(result.latency_ms.runs for result in results)
        found = [f"Ended early, by {by}: times are of {fewest} runs or more, and as uncertain as that makes them."]
        if not fewest:
            found = [f"Ended early, by {by}: times are of warming up where there are no runs, and may be far off."]
        if missing := asked - len(results):
            found.append(f"{missing} of {asked} configs or points were not measured.")
        return found
