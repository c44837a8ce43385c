"""Tables as text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import RenderableType

from mmdit_cli.output.console import PlainConsole


def printed(tables: Sequence[RenderableType], width: int = 120) -> str:
    console = PlainConsole(width=width, file=io.StringIO(), record=True)
    for table in tables:
        console.print(table)
    return console.export_text()
