"""What tables are made of: a declared row or column says what it is called and what it shows of a result.

A table is a view of a result; it computes nothing that the JSON does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mmdit_cli.output import units as f
from mmdit_cli.output.console import can_draw, printable

BAR = 8  # cells of a bar
NEVER = 1e9  # wider than any screen
KINDS: dict[str, dict[str, Any]] = {
    "text": {"overflow": "fold"},
    "name": {"overflow": "fold", "min_width": 8},
    "word": {"no_wrap": True},
    "number": {"justify": "right", "no_wrap": True},
    "figure": {"justify": "right", "overflow": "fold"},  # that may wrap
    "bar": {"no_wrap": True, "min_width": BAR},
}


class Row(NamedTuple):
    """A figure of several results that stand side by side; shown `when` they have it."""

    label: str
    cell: Callable[[Any], str]
    bold: bool = False
    when: bool = True


class Column(NamedTuple):
    """A figure of records that stand one below the other; shown on screens of `width` columns and more."""

    heading: str
    cell: Callable[[Any], str | Text]
    width: float = 0
    kind: Literal["text", "name", "word", "number", "figure", "bar"] = "number"


def side_by_side(title: str, results: Sequence[Any], rows: Iterable[Row]) -> Table:
    """A column for each result, under the name of its config."""

    def column(result: Any) -> Column:
        return Column(result.config, lambda row: row.cell(result), kind="figure")

    columns = [Column("", lambda row: row.label, kind="text"), *map(column, results)]
    shown = (row for row in rows if row.when)
    return listing(title, shown, columns, style=lambda row: "bold" if row.bold else None, tight=False)


def listing(
    title: str,
    records: Iterable[Any],
    columns: Iterable[Column],
    width: float = NEVER,
    *,
    style: Callable[[Any], str | None] = lambda record: None,
    tight: bool = True,
    headed: bool = True,
) -> Table:
    """A row for each record, on a screen of `width` columns (without: as many as there are). What has no room is named
    below."""
    columns = list(columns)
    shown = [column for column in columns if column.width <= width and column.width != NEVER]
    table = _Folding(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=tight)
    table.show_header = headed
    for column in shown:
        table.add_column(column.heading, **KINDS[column.kind])
    for record in records:
        table.add_row(*(column.cell(record) for column in shown), style=style(record))
    if hidden := [column.heading for column in columns if width < column.width < NEVER and column.heading]:
        table.caption = f"no room in {width:.0f} columns: {', '.join(hidden)}"
        table.caption_justify = "left"
    return table


def pairs(title: str, rows: Iterable[tuple[str, str]], *, bold: Sequence[str] = ()) -> Table:
    """Names and values; those whose names begin as one of `bold` stand out."""
    columns = [Column("", lambda row: row[0], kind="text"), Column("", lambda row: row[1], kind="text")]
    style = lambda row: "bold" if row[0].startswith(tuple(bold)) else None  # noqa: E731
    return listing(title, rows, columns, style=style, tight=False, headed=False)


def header(document: dict[str, Any]) -> RenderableType:
    """What the figures were made with."""
    mixed = document.get("precision") == "mixed"
    parts = [
        f"{document['device_name']} ({document['device']}, {document['threads']} threads)",
        f"mixed precision: fp32 weights, {document['dtype']} autocast" if mixed else document["dtype"],
        f"torch {document['torch_version']}",
        f"mmdit {document['mmdit_version']}",
        f"seed {document['seed']}",
    ]
    return note((" · " if can_draw() else " | ").join(parts))


def share_bar(share: float) -> str:
    return f.bar(share, BAR, ascii_only=not can_draw())


def tokens_text(tokens: dict[str, int]) -> str:
    return "(" + " + ".join(map(str, tokens.values())) + ")"


def has_padding(results: Sequence[Any]) -> bool:
    """Whether any result's batch has tokens that are not valid."""
    return any(result.valid_tokens != result.tokens for result in results)


def padding_notes(results: Sequence[Any]) -> list[str]:
    """Which tokens the FLOPs are of; nothing where all are valid."""
    if not has_padding(results):
        return []
    kinds = {result.packed for result in results if result.valid_tokens != result.tokens}
    valid = dict.fromkeys(tokens_text(result.valid_tokens) for result in results)
    text = {
        (True,): "FLOPs are of valid tokens alone (varlen leaves the padding out)",
        (False,): "FLOPs are of all tokens, the padding included",
    }.get(tuple(kinds), "FLOPs are of valid tokens where varlen leaves the padding out, and of all tokens elsewhere")
    return [f"Padding: {', '.join(valid)} of a sample's tokens are valid. {text}."]


def unlike_batches(results: Sequence[Any]) -> list[str]:
    """That configs side by side (no points of a sweep) are given other batches; nothing where they are alike."""
    batches = {(result.batch_size, tuple(result.tokens.items())) for result in results if not result.point}
    if len(batches) < 2:
        return []
    return ["Other batch × tokens: ratios are of whole batches, not of the same work. Compare a sample's or a token's."]


def note(text: str) -> Text:
    return styled(text, "dim")


def styled(text: str, style: str) -> Text:
    """A text in a style; what a user named in it is spelled as the console spells it."""
    return Text(printable(text, keep=""), style=style)


class _Folding(Table):
    """A table whose cells fold where the screen is too narrow for their figures, so that none is cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.__rich_measure__(console, options.update(max_width=10_000)).minimum > options.max_width:
            for column in self.columns:
                column.no_wrap, column.overflow, column.min_width = False, "fold", None
        yield from super().__rich_console__(console, options)
