"""What a measurement shows while it goes on: its tables on a terminal, or what is being done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from mmdit_cli.output.console import stage_progress, stdout
from mmdit_cli.output.live import live_tables
from mmdit_cli.profile.early_end import EarlyEnd
from mmdit_cli.profile.profile_settings import Progress


@dataclass(frozen=True)
class Onlooker:
    """Whom a measurement tells what it does, and asks between calls whether to end.

    `on_results` is given what makes the results known so far, and says whether it did something that takes a while.
    """

    early: EarlyEnd
    on_progress: Progress = lambda stage, done, total: None
    on_results: Callable[[Callable[[], list[Any]]], bool] = lambda make: False


@contextmanager
def looked_on(tables: Callable[[list[Any], int], Sequence[RenderableType]], *, json: bool) -> Iterator[Onlooker]:
    """One who draws the tables of the results so far, made for a width, where standard output is a terminal; any key,
    and Ctrl-C, ends with what is known then."""
    console = stdout()
    if console.is_terminal and not json:
        with live_tables(console) as live:
            yield Onlooker(
                EarlyEnd(live.pressed, interruptible=True),
                live.progress,
                lambda make: live.show(lambda: tables(make(), console.width)),
            )
    else:
        with stage_progress() as on_progress:
            yield Onlooker(EarlyEnd(), on_progress)
