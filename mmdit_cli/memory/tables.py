"""Estimates of memory as tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from mmdit_cli.memory.training import TRAINED
from mmdit_cli.output import units as f
from mmdit_cli.output.tables import NEVER, Column, Row, listing, note, side_by_side, tokens_text
from mmdit_cli.request.sweep import point_columns

if TYPE_CHECKING:
    from mmdit_cli.memory.verdict import MemoryVerdict

TITLE = "profile: estimated memory"
PARTS = ("weights", "ema", "gradients", "optimizer", "activations", "temporaries")


def estimate_tables(results: Sequence[MemoryVerdict], width: int) -> list[RenderableType]:
    """One column for each config, or one row for each point of a sweep."""
    if any(result.point for result in results):
        return [_points(results, width), *map(note, _notes(results))]
    asked = results[0].memory is not None
    rows = [
        Row("mode", lambda r: r.mode + (", checkpointed" if r.memory_bytes.checkpointed else "")),
        Row("training", lambda r: r.training.described(r.dtype), when=results[0].training is not None),
        Row("batch × tokens", lambda r: f"{r.batch_size} × {tokens_text(r.tokens)}"),
        Row("parameters", lambda r: f.count(r.parameters)),
        Row("  that are trained", lambda r: f.count(r.memory_bytes.trained), when=any(map(_partly, results))),
    ]
    rows += [
        *memory_rows(results),
        Row("peak", lambda r: f.bytes_(r.memory_bytes.peak), True),
        Row("  in the phase", lambda r: r.memory_bytes.peak_phase),
        Row(f"fits in {f.bytes_(results[0].memory)}", _verdict, True, asked),
        Row("largest batch that fits", lambda r: str(r.largest_batch) if r.largest_batch else "none", when=asked),
    ]
    parts = [side_by_side(TITLE, results, rows)]
    if any(result.changes for result in results):
        parts.append(_changes(results))
    return [*parts, *map(note, _notes(results))]


def memory_rows(results: Sequence[Any]) -> list[Row]:
    """What the memory of a call is made of, as far as any result has it."""
    held = [part for part in PARTS if any(getattr(r.memory_bytes, part, 0) for r in results)]
    return [Row(part, partial(_bytes_of, part)) for part in held]


def _partly(result: MemoryVerdict) -> bool:
    return result.mode == "train" and result.memory_bytes.trained != result.parameters


def _bytes_of(part: str, result: Any) -> str:
    return f.bytes_(getattr(result.memory_bytes, part))


def _points(results: Sequence[MemoryVerdict], width: int) -> Table:
    train, asked = results[0].mode == "train", results[0].memory is not None
    columns = [
        *point_columns(results),
        Column("weights", lambda r: f.bytes_(r.memory_bytes.weights), 90),
        Column("activations", lambda r: f.bytes_(r.memory_bytes.activations), 60 if train else NEVER),
        Column("temporaries", lambda r: f.bytes_(r.memory_bytes.temporaries), 76),
        Column("peak", lambda r: f.bytes_(r.memory_bytes.peak)),
        Column(f"fits in {f.bytes_(results[0].memory)}", lambda r: "yes" if r.fits else "no", 0 if asked else NEVER),
        Column("largest batch", lambda r: str(r.largest_batch or "none"), 60 if asked else NEVER),
    ]
    return listing(TITLE, results, columns, width)


def _verdict(result: MemoryVerdict) -> str:
    spare = result.spare or 0
    return f"yes, {f.bytes_(spare)} to spare" if result.fits else f"no, {f.bytes_(-spare)} too little"


def _changes(results: Sequence[MemoryVerdict]) -> Table:
    verdicts = {True: ", fits", False: ", does not fit", None: ""}

    def row(setting: str) -> Row:
        def cell(result: MemoryVerdict) -> str:
            found = [f.bytes_(c.peak) + verdicts[c.fits] for c in result.changes if c.setting == setting]
            return found[0] if found else f.MISSING

        return Row(setting, cell)

    settings = dict.fromkeys(change.setting for result in results for change in result.changes)
    return side_by_side("what would change it", results, map(row, settings))


def _notes(results: Sequence[MemoryVerdict]) -> list[str]:
    notes = ["Estimated under fake tensors, without building the model; the inputs are apart."]
    if results[0].training == TRAINED:
        notes.append(
            "Training: as train-toy trains. --precision pure --no-ema: the step that profile --mode train runs."
        )
    if any(r.memory_bytes.kernels == "cpu" for r in results):
        notes.append("Operators: the CPU's. A CUDA device may choose others; its context takes memory besides.")
    else:
        notes.append("Operators: this CUDA device's. Its context and what the allocator keeps unused come besides.")
    if results[0].memory is None:
        notes.append("--memory 80GB says whether it fits a card, and the largest batch that does.")
    return notes
