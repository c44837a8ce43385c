"""A measurement that ends before it is done, with what is known by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mmdit_cli.profile.profile_result import ProfileResult


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

    def notices(self, results: Sequence[ProfileResult], asked: int) -> list[str]:
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
