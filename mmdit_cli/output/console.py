"""Where output goes: results to standard output, progress and messages to standard error."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

WIDE = 10_000  # off a terminal a table takes the width it needs, so that no cell is cut


class PlainConsole(Console):
    """A console for which no text is markup: what a user named `[bold]` or `:cat:` is printed as it was written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep=""), **options)

    def on_broken_pipe(self) -> None:  # the app decides what a reader who has gone away means; rich's own exits with 1
        raise BrokenPipeError


def stdout() -> Console:
    """The console for results: the width of the terminal or of COLUMNS; a table's natural one in a pipe or a file."""
    if not can_draw() and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="mmdit-spell")
    if sys.stdout.isatty():
        return PlainConsole()
    columns = _columns()
    return PlainConsole(width=columns or WIDE, soft_wrap=columns is None)


def stderr() -> Console:
    """The console for progress and messages."""
    return PlainConsole(stderr=True)


SPELLED = {"×": "x", "µ": "u", "·": "|", "…": "..."}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What a terminal without Unicode shows for the few signs that tables use."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SPELLED.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("mmdit-spell", _spell)


def can_draw() -> bool:
    """Whether standard output takes the block characters of a bar."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    return encoding.startswith("utf")


def is_one_of_several() -> bool:
    """Whether this is one of torchrun's processes. Others set RANK, too."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1") and "MASTER_ADDR" in os.environ


def is_main() -> bool:
    """Whether this is the process that prints: alone, or the first of torchrun's."""
    return not is_one_of_several() or os.environ.get("RANK", "0") == "0"


def printable(text: str, keep: str = "\n") -> str:
    """The text with every control character and mark of direction spelled out: what a user named moves no cursor and
    turns nothing around. Those of `keep` stay."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def error(message: str) -> None:
    """One message on standard error, as it is: a path or a value in it is no markup."""
    message = printable(message)
    prefix = "error: "
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    _to_stderr(f"\x1b[31m{prefix}\x1b[0m{message}" if colour else prefix + message)


def message(text: str) -> None:
    """One line on standard error."""
    _to_stderr(printable(text))


def _to_stderr(text: str) -> None:
    with suppress(OSError):  # full, or closed by its reader: no reason to stop the work
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr)


def _columns() -> int | None:
    """The width that a user asked for by COLUMNS, where there is no terminal to ask."""
    return shutil.get_terminal_size().columns if os.environ.get("COLUMNS") else None


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A line on standard error that says what is being done; silent where standard error is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield lambda stage, done, total: None
        return
    text = TextColumn("{task.description}", markup=False)
    with Progress(
        SpinnerColumn(), text, BarColumn(bar_width=20), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("starting", total=None)
        current = ""

        def show(stage: str, done: int, total: int | None) -> None:
            nonlocal current
            if stage != current:
                progress.reset(task, description=stage, total=total)
                current = stage
            progress.update(task, completed=done, description=f"{stage} {done}" if done else stage)

        yield show


OnProgress = Callable[[int, int, float, float, float], None]  # step, steps, loss, steps a second, seconds left


@contextmanager
def training_progress(name: str) -> Iterator[OnProgress]:
    """A live bar on standard error: step, loss, steps/s, time left; a line every tenth of the way off a terminal."""
    with training_bars() as follow:
        yield follow(0, name)


@contextmanager
def training_bars() -> Iterator[Callable[[int, str], OnProgress]]:
    """Such a bar for each of several trainings side by side: `follow(slot, name)` gives what shows the one of that
    name, in the place of the one that was in the slot before."""
    console = stderr()
    if not console.is_terminal:
        yield lambda slot, name: lambda *progress: _training_line(name, *progress)
        return
    text = TextColumn("{task.description} {task.completed}/{task.total} loss {task.fields[loss]:.4f}", markup=False)
    rest = TextColumn("{task.fields[rate]:.1f} steps/s, {task.fields[left]:.0f} s left", markup=False)
    with Progress(text, BarColumn(bar_width=20), rest, console=console, transient=True) as progress:
        bars: dict[int, Any] = {}

        def follow(slot: int, name: str) -> OnProgress:
            if slot in bars:
                progress.remove_task(bars[slot])
            bar = progress.add_task(printable(name, keep=""), total=None, loss=float("nan"), rate=0.0, left=0.0)
            bars[slot] = bar
            return lambda step, steps, loss, rate, left: progress.update(
                bar, completed=step, total=steps, loss=loss, rate=rate, left=left
            )

        yield follow


def _training_line(name: str, step: int, steps: int, loss: float, rate: float, left: float) -> None:
    if step == steps or step % max(1, steps // 10) == 0:
        message(f"{name} {step}/{steps} loss {loss:.4f}, {rate:.1f} steps/s, {left:.0f} s left")
