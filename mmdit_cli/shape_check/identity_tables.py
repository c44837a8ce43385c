"""What a file of weights is, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, note, pairs, styled

if TYPE_CHECKING:
    from mmdit_cli.shape_check.identity import Identity

PROBLEMS = 5  # shown on a screen


def identity_tables(result: Identity) -> list[RenderableType]:
    """The network, what else is in the file, what is in doubt or wrong, and what to do next."""
    dtypes = ", ".join(f"{count:,} of {dtype}" for dtype, count in result.dtypes.items())
    rows = [
        ("file", result.file),
        ("format", result.format),
        ("is", _what(result)),
        ("layout", (result.layout or "") + (f", under {result.prefix}" if result.prefix else "")),
        ("config", ", ".join(filter(None, (result.config, *result.others)))),
        ("with", " ".join(f"--set {each}" for each in result.set)),
        ("parameters", f"{result.parameters:,}" if result.tensors and not result.lora else ""),
        ("tensors", f"{dtypes}, {f.bytes_(result.bytes)}" if result.tensors else ""),
    ]
    parts: list[RenderableType] = [pairs("weights", [row for row in rows if row[1]], bold=["is", "config"])]
    if result.inside:
        columns = (
            Column("also inside", lambda x: x.what, kind="text"),
            Column("tensors", lambda x: f"{x.tensors:,}"),
            Column("size", lambda x: f.bytes_(x.bytes)),
            Column("such as", lambda x: x.example, kind="text"),
        )
        parts.append(listing("", result.inside, columns, tight=False))
    parts += [styled(f"not sure: {doubt}", "yellow") for doubt in result.doubts]
    more = len(result.problems) - PROBLEMS
    unsaid = [f"... and {more} more, which --json lists"] if more > 0 else []
    parts += [styled(problem, "red") for problem in (*result.problems[:PROBLEMS], *unsaid)]
    return [*parts, *(note(f"next: {command}") for command in result.next)]


def _what(result: Identity) -> str:
    if result.lora:
        return f"a LoRA for {result.family}"
    if result.family is not None:
        return f"a network of the family {result.family}"
    return "weights that mmdit wrote, with their config" if result.layout == "mmdit" else "no network that mmdit knows"
