"""Tables that are drawn again and again in one place while their figures become known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live

from mmdit_cli.output.keys import watched_keys
from mmdit_cli.output.tables import note

if TYPE_CHECKING:
    from rich.console import Console

PERIOD = 0.5  # seconds from one drawing to the next
HINT = "any key ends with what is known"


class LiveTables:
    """Draws when it is told to and at most every half second: a thread of its own would take time of what is measured.

    Args:
        pressed: whether a key was.
        draw: puts what it is given in the place of what it was given before.
    """

    def __init__(
        self,
        draw: Callable[[RenderableType], None],
        pressed: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.draw, self.pressed, self.clock = draw, pressed, clock
        self.tables: Sequence[RenderableType] = ()
        self.stage, self.done = "", 0
        self.next = clock()

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Say what is being done."""
        new, self.stage = stage != self.stage, stage
        self.done = done
        if new:
            self._draw()

    def show(self, make: Callable[[], Sequence[RenderableType]]) -> bool:
        """Draw the tables, if the last time is long enough ago; whether it was."""
        if self.clock() < self.next:
            return False
        self.tables = make()
        self._draw()
        self.next = self.clock() + PERIOD
        return True

    def _draw(self) -> None:
        stage = f"{self.stage} {self.done}" if self.done else self.stage
        # above them, for what a low screen cuts off is at the end
        self.draw(Group(note(f"{stage} ({HINT})" if self.tables else stage), *self.tables))


@contextmanager
def live_tables(console: Console) -> Iterator[LiveTables]:
    """Tables on a terminal, which leaves no trace of them in the end."""
    live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)

    def draw(tables: RenderableType) -> None:
        live.update(tables, refresh=True)

    with watched_keys() as pressed, live:
        yield LiveTables(draw, pressed)
