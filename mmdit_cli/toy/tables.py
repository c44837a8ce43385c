"""Training runs as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.output import units as f
from mmdit_cli.output.tables import note, pairs

if TYPE_CHECKING:
    from mmdit_cli.toy.training import TrainResult


def train_tables(results: Sequence[TrainResult]) -> list[RenderableType]:
    """A table for each run."""
    notes = ["Accuracy: the share of samples from which an oracle reads back every attribute of the caption."]
    if any(result.any_to_any for result in results):
        notes.append(
            "From another modality or noise: the share of samples that go with the caption, or with one another."
        )
    tables = (pairs(f"{r.config}: trained", _rows(r), bold=["accuracy", *r.any_to_any]) for r in results)
    return [*tables, *map(note, notes)]


def averaged(end: str, steps: int) -> str:
    """Of which steps a loss is the mean: `last 20 steps`."""
    return f"{end} {steps} steps" if steps > 1 else f"{end} step"


def _rows(result: TrainResult) -> Iterator[tuple[str, str]]:
    yield "steps", f"{result.steps} ({f.number(result.steps_per_s)}/s)"
    for end in ("first", "last"):
        yield f"loss, {averaged(end, result.loss_steps)}", f.number(result.loss[end])
    for name, share in result.accuracy.items():
        yield f"accuracy, {name}", f"{f.percent(share)} (chance {f.percent(result.chance[name])})"
        yield "  held-out captions", f.percent(result.held_out[name])
        real, noise = f.percent(result.oracle_real[name]), f.percent(result.oracle_noise[name])
        yield "  oracle, real data / noise", f"{real} / {noise}"
        yield from ((f"  {attribute}", f.percent(right)) for attribute, right in result.per_attribute[name].items())
    yield from ((task, f.percent(share)) for task, share in result.any_to_any.items())
    yield from ((label.replace("_", " "), path) for label, path in result.files.items())
