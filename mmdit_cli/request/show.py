"""How every command shows its results: tables on standard output, or the JSON document, or both a table and a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmdit_cli.output.document import emit, make_document
from mmdit_cli.request.request import Request

if TYPE_CHECKING:
    from rich.console import RenderableType


def show(request: Request, results: Sequence[Any], tables: Callable[[int], list[RenderableType]], **extra: Any) -> None:
    """Print the tables (made for a width), unless `--json` asks for the document, and write `--report`."""
    document = make_document(request, results, **extra)
    if not request.json:
        from mmdit_cli.output.console import stdout
        from mmdit_cli.output.tables import header

        console = stdout()
        console.print(header(document))
        for table in tables(console.width):
            console.print(table)
    emit(request, document)
