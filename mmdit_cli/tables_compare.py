"""Comparisons of designs as tables: a view of `toy.compare.Design`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.table import Table

from mmdit_cli import formats as f
from mmdit_cli.table_parts import note, side_by_side

if TYPE_CHECKING:
    from mmdit_cli.toy.compare import Design, Difference, Spread


def compare_tables(designs: Sequence[Design]) -> list[RenderableType]:
    """The designs side by side, and each against the first."""
    table = side_by_side("designs", designs)

    def row(label: str, cell: Callable[[Design], str], style: str | None = None) -> None:
        table.add_row(label, *(cell(design) for design in designs), style=style)

    row("parameters", lambda d: f.count(d.parameters))
    row("FLOPs a step", lambda d: f.flops(d.step_flops))
    row("runs", lambda d: str(d.runs) + (f", {len(d.failed)} failed" if d.failed else ""))
    row("loss at the end", lambda d: _spread(d.loss, f.number), "bold")
    for name in dict.fromkeys(name for design in designs for name in design.accuracy):
        row(f"accuracy, {name}", lambda d, name=name: _spread(d.accuracy.get(name), f.percent), "bold")  # type: ignore[misc]
        row("  held out", lambda d, name=name: _spread(d.held_out.get(name), f.percent))  # type: ignore[misc]
    row(f"reached {f.percent(designs[0].target)}", lambda d: f"{d.reached} of {d.runs}")
    if any(design.reached for design in designs):
        row("  steps", lambda d: f.number(d.steps_to_target))
        row("  time", lambda d: f.seconds(d.seconds_to_target))
        row("  FLOPs", lambda d: f.flops(d.flops_to_target))
    parts: list[RenderableType] = [table]
    if len(designs) > 1:
        parts.append(_differences(designs))
    parts += [note(f"{design.config}: {problem}") for design in designs for problem in design.failed]
    return parts + [note(text) for text in _notes(designs)]


def _differences(designs: Sequence[Design]) -> Table:
    table = Table(title=f"against {designs[0].config}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("design", overflow="fold")
    table.add_column("figure", overflow="fold")
    table.add_column("difference", justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for design in designs[1:]:
        figures: list[tuple[str, Difference | None, Callable[[float | None], str]]] = [
            ("loss", design.loss_difference, f.number)
        ]
        figures += [(f"accuracy, {name}", x, f.percent) for name, x in design.accuracy_difference.items()]
        for label, found, show in figures:
            if found is None:
                continue
            text = f"{found.mean:+.2g}" if show is f.number else f"{100 * found.mean:+.1f}%"
            if found.low is not None and found.high is not None:
                ends = (f"{x:+.2g}" if show is f.number else f"{100 * x:+.1f}%" for x in (found.low, found.high))
                text += f" ({' to '.join(ends)})"
            style = {"better": "green", "worse": "bold red"}.get(found.verdict)
            table.add_row(design.config, label, text, found.verdict, style=style)
    return table


def _spread(spread: Spread | None, show: Callable[[float | None], str]) -> str:
    if spread is None:
        return f.MISSING
    return show(spread.mean) + ("" if spread.sd is None else f" ± {show(spread.sd)}")


def _notes(designs: Sequence[Design]) -> list[str]:
    notes = [
        "± is the standard deviation over seeds. Every design saw the same data, noise and timesteps, seed by seed."
    ]
    if len(designs) > 1 and designs[0].runs > 1:
        notes.append(
            "Differences are paired by seed, with Student's 95 % interval; told apart where it leaves out 0. With many "
            "rows, about one in twenty does so by chance."
        )
    if any(design.reached for design in designs):
        notes.append(
            "Reached: the first evaluation (every train.evaluate_every steps) with that in every modality; medians."
        )
    return notes
