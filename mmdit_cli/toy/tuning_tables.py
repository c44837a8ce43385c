"""What was tried for each design before the comparison, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output.tables import Column, listing, note, styled
from mmdit_cli.request.sweep import short_names, value_text
from mmdit_cli.toy.spread_texts import share_text, spread_text

if TYPE_CHECKING:
    from rich.table import Table

    from mmdit_cli.toy.tuning import Candidate, Tuned, Tuning


def tuning_tables(tuning: Tuning, width: int) -> list[RenderableType]:
    """A table for each design, with the best of its values in bold; what failed, and what may lie beyond."""
    parts: list[RenderableType] = [_tried(design, len(tuning.seeds), width) for design in tuning.designs]
    for failed in tuning.failures:
        where = f"{failed.config}, tuning, seed {failed.seed}: failed after step {failed.step}: {failed.message}"
        parts.append(styled(where, "yellow"))
    for design in tuning.designs:
        for key in design.at_end:
            text = f"{design.config}: the best {key}, {value_text(design.best[key])}, lies at the end of what was tried"
            parts.append(styled(f"{text}; a better one may lie beyond", "yellow"))
    first, last = tuning.seeds[0], tuning.seeds[-1]
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    return [*parts, note(f"Tuned on {seeds}, which the comparison below does not have. Best: in the mean.")]


def _tried(design: Tuned, seeds: int, width: int) -> Table:
    names = short_names([each.point for each in design.candidates])
    show = spread_text if design.figure == "loss" else share_text
    columns = [
        *(Column(name, lambda x, key=key: value_text(x.point[key])) for key, name in names.items()),  # type: ignore[misc]
        Column(design.figure, lambda x: show(x.figure), kind="figure"),
        Column("finished", lambda x: f"{len(x.seeds)} of {seeds}", kind="figure"),
        Column(" ", lambda x: _mark(x, design), kind="text"),
    ]
    style = lambda x: "bold" if x.point == design.best else None  # noqa: E731
    return listing(f"{design.config}: tuned", design.candidates, columns, width, style=style)


def _mark(each: Candidate, design: Tuned) -> str:
    if each.point != design.best or each.figure is None:
        return ""
    of = (each.figure.mean, len(each.seeds))
    equals = sum((x.figure.mean, len(x.seeds)) == of for x in design.candidates if x.figure)
    best = f"first of {equals} equals" if equals > 1 else "best"
    return f"{best}, at an end" if design.at_end else best
