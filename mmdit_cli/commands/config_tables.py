"""`mmdit configs` as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, note, tokens_text

if TYPE_CHECKING:
    from mmdit_cli.commands.shipped_sizes import ShippedConfig


def config_tables(sizes: Sequence[ShippedConfig], width: int) -> list[RenderableType]:
    """On a narrow screen with fewer columns."""
    columns = (
        Column("name", lambda s: s.config, kind="text"),
        Column("params", lambda s: f.count(s.parameters)),
        Column("bf16", lambda s: f.bytes_(s.weight_bytes["bf16"]), 56),
        Column("blocks", lambda s: str(s.blocks), 64),
        Column("tokens", lambda s: tokens_text(s.tokens), 88, "word"),
        Column("about", lambda s: s.about, 120, "text"),
    )
    table = listing("configs that --config takes", sizes, columns, width, tight=False)
    return [table, note("mmdit configs NAME prints the file.")]
