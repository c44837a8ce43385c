"""`mmdit shape-check` as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, note, pairs, styled

if TYPE_CHECKING:
    from rich.table import Table

    from mmdit_cli.shape_check.shapes import ShapesResult
    from mmdit_cli.shape_check.weights import WeightsCheck

PROBLEMS = 12  # shown on a screen


def shape_tables(result: ShapesResult, *, every_layer: bool) -> list[RenderableType]:
    """The layers, the modalities, what is wrong, and what a file holds that was checked."""
    layers = [x for x in result.layers if every_layer or (x.parameters and x.name.count(".") <= 2)]
    of_layers = (
        Column("layer", lambda x: x.name, kind="text"),
        Column("in", lambda x: _sizes(x.inputs), kind="text"),
        Column("out", lambda x: _sizes(x.outputs), kind="text"),
        Column("parameters", lambda x: f"{x.parameters:,}" if x.parameters else "", kind="figure"),
    )
    of_modalities = (
        Column("modality", lambda name: name, kind="text"),
        Column("in", lambda name: _sizes([result.inputs[name]]), kind="text"),
        Column("out", lambda n: _sizes([result.outputs[n]]) if n in result.outputs else "(discarded)", kind="text"),
    )
    parts: list[RenderableType] = [
        listing(f"{result.config}: layers", layers, of_layers, tight=False),
        listing("modalities", result.inputs, of_modalities, tight=False),
        styled(*_verdict(result)),
        *(styled(text, "yellow") for text in result.advice),
    ]
    more = len(result.problems) - PROBLEMS
    unsaid = [f"... and {more} more, which --json lists"] if more > 0 else []
    parts += [styled(problem, "red") for problem in [*result.problems[:PROBLEMS], *unsaid]]
    if result.weights is not None:
        parts.append(_weights(result.weights))
    return parts + [
        note(x) for x in (*result.notes, f"{result.parameters:,} parameters, {f.bytes_(result.weight_bytes)}")
    ]


def _verdict(result: ShapesResult) -> tuple[str, str]:
    if not result.ok:
        return "not so:", "bold red"
    return ("every shape fits, but:", "bold yellow") if result.advice else ("every shape is right", "bold green")


def _weights(weights: WeightsCheck) -> Table:
    verdict = f"{len(weights.problems):,} differences" if weights.problems else "every tensor is there, and no other"
    rows = [
        ("file", weights.file),
        ("layout", weights.layout + (f", under {weights.prefix}" if weights.prefix else "")),
        ("tensors", f"{weights.tensors:,} of {', '.join(weights.dtypes)}, {f.bytes_(weights.bytes)}"),
        ("not the model's", f"{weights.left_aside:,}"),
        ("fits the config", verdict),
    ]
    return pairs("weights", rows, bold=["fits the config"])


def _sizes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("×".join(map(str, shape)) for shape in shapes)
