"""Training runs as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType

from mmdit_cli.model_parts.compiling import in_words
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import Column, listing, note, pairs

if TYPE_CHECKING:
    from rich.table import Table

    from mmdit_cli.toy.train_result import TrainResult


def train_tables(results: Sequence[TrainResult], width: int) -> list[RenderableType]:
    """A table for each run, and of scenes one by category of caption and one of what captions leave free, on a screen
    of `width` columns."""
    notes = ["Accuracy: the share of samples from which an oracle reads back every attribute of the caption."]
    if any(result.any_to_any for result in results):
        notes.append(
            "From another modality or noise: the share of samples that go with the caption, or with one another."
        )
    if any(result.coverage for result in results):
        notes.append(
            "Coverage: the overlap of how often each value is drawn, where captions leave it free, with how often it "
            "truly comes; beside it one scene drawn for every caption, and as many real scenes. Repeated: how often "
            "two drawings of one caption have the same value."
        )
    tables: list[RenderableType] = []
    for result in results:
        tables.append(pairs(f"{result.config}: trained", _rows(result), bold=["accuracy", *result.any_to_any]))
        if result.coverage:
            tables += [_categories(result, width), _coverage(result, width)]
    return [*tables, *map(note, notes)]


def averaged(end: str, steps: int) -> str:
    """Of which steps a loss is the mean: `last 20 steps`."""
    return f"{end} {steps} steps" if steps > 1 else f"{end} step"


def _rows(result: TrainResult) -> Iterator[tuple[str, str]]:
    yield "steps", f"{result.steps} ({f.number(result.steps_per_s)}/s)"
    if result.compile_gain is not None:
        yield "compiled", in_words(result.compile_gain).removeprefix("compiled ")
    for end in ("first", "last"):
        yield f"loss, {averaged(end, result.loss_steps)}", f.number(result.loss[end])
    for name, share in result.accuracy.items() if not result.coverage else ():
        yield f"accuracy, {name}", f"{f.percent(share)} (chance {f.percent(result.chance[name])})"
        yield "  held-out captions", f.percent(result.held_out[name])
        real, noise = f.percent(result.oracle_real[name]), f.percent(result.oracle_noise[name])
        yield "  oracle, real data / noise", f"{real} / {noise}"
        yield from ((f"  {attribute}", f.percent(right)) for attribute, right in result.per_attribute[name].items())
    if result.coverage:
        yield "accuracy, mean", f"{f.percent(result.accuracy['mean'])} (chance {f.percent(result.chance['mean'])})"
        several = len(result.per_attribute) > 1
        for modality, each in result.per_attribute.items():
            of = f", {modality}" if several else ""
            yield from ((f"  {attribute}{of}", f.percent(right)) for attribute, right in each.items())
    yield from ((task, f.percent(share)) for task, share in result.any_to_any.items())
    yield from ((label.replace("_", " "), path) for label, path in result.files.items())


def _categories(result: TrainResult, width: int) -> Table:
    columns = (
        Column("captions", lambda name: name, kind="word"),
        Column("accuracy", lambda name: f.percent(result.accuracy[name])),
        Column("chance", lambda name: f.percent(result.chance[name])),
        Column("held out", lambda name: f.percent(result.held_out.get(name))),
        Column("real data", lambda name: f.percent(result.oracle_real[name]), 66),
        Column("noise", lambda name: f.percent(result.oracle_noise[name]), 66),
    )
    style = lambda name: "bold" if name == "mean" else None  # noqa: E731
    return listing("by category", result.accuracy, columns, width, style=style, tight=False)


def _coverage(result: TrainResult, width: int) -> Table:
    columns = (
        Column("left free", lambda name: name, kind="word"),
        Column("coverage", lambda name: f.percent(result.coverage[name].drawn)),
        Column("one scene", lambda name: f.percent(result.coverage[name].chance)),
        Column("real data", lambda name: f.percent(result.coverage[name].real)),
        Column("repeated", lambda name: f.percent(result.coverage[name].repeated), 76),
        Column("repeated, real", lambda name: f.percent(result.coverage[name].real_repeated), 76),
    )
    return listing("what captions leave free", result.coverage, columns, width, tight=False)
