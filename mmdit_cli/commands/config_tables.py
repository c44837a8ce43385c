"""`mmdit configs` as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit.config.yaml_text import to_line
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, Row, listing, note, side_by_side, tokens_text

if TYPE_CHECKING:
    from mmdit_cli.commands.config_contents import DifferingConfig
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
    return [table, note("mmdit configs NAME prints the file, with --resolved whole where it extends another.")]


def difference_tables(configs: Sequence[DifferingConfig]) -> list[RenderableType]:
    """A row for each key that is not the same in all."""
    keys = list(configs[0].differing)
    if not keys:
        return [note(f"{' and '.join(each.config for each in configs)} differ in nothing but perhaps their names.")]
    rows = [Row(key, lambda each, key=key: to_line(each.differing[key])) for key in keys]  # type: ignore[misc]
    return [side_by_side("what differs, defaults included", configs, rows)]
