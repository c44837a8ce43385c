"""What tables are made of: the house style of their heads, columns and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from mmdit_cli.output import units as f
from mmdit_cli.output.console import can_draw

BAR = 8  # cells of a bar


def side_by_side(title: str, results: Sequence[Any]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for result in results:
        table.add_column(result.config, justify="right", overflow="fold")
    return table


def pairs(title: str) -> Table:
    """A table of names and values."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    return table


class Columns:
    """A table of components. Each cell comes with its heading and the width of screen from which on it is shown."""

    def __init__(self, title: str, width: int) -> None:
        self.width = width
        self.table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )

    def add(self, cells: Sequence[tuple[str, str, int]]) -> None:
        shown = [(heading, text) for heading, text, needs in cells if self.width >= needs]
        if not self.table.columns:
            for index, (heading, _) in enumerate(shown):
                style = {"no_wrap": True, "min_width": BAR} if not heading else {"justify": "right", "no_wrap": True}
                self.table.add_column(heading, **({"overflow": "fold"} if index == 0 else style))
        self.table.add_row(*(text for _, text in shown))


def bar(share: float) -> str:
    return f.bar(share, BAR, ascii_only=not can_draw())


def tokens_text(tokens: dict[str, int]) -> str:
    return "(" + " + ".join(str(count) for count in tokens.values()) + ")"


def shapes_text(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("×".join(str(size) for size in shape) for shape in shapes)


def note(text: str) -> Text:
    return Text(text, style="dim")
