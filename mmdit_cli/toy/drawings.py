"""What `mmdit sample` drew, as results and as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from mmdit_cli.output.tables import Column, listing, note, pairs
from mmdit_cli.request.train_config import SamplerConfig
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.trained_run import TrainedRun

VERDICTS = {True: "right", False: "wrong", None: "not asked"}


@dataclass(frozen=True)
class Drawing:
    """What was drawn for a caption. By modality: what the oracle `reads` of it, and whether this is `right`, None where
    the caption asks nothing that the oracle understands. `training_steps`: of the weights; `steps`: of the sampler;
    `files`: the picture, and the sound, of all drawings."""

    config: str
    run: str
    training_steps: int
    caption: str
    steps: int
    guidance: float
    reads: dict[str, str]
    right: dict[str, bool | None]
    files: dict[str, str]


def drawings(run: TrainedRun, samples: Samples, sampler: SamplerConfig, files: Mapping[str, str]) -> list[Drawing]:
    """One for each caption."""
    return [
        Drawing(
            config=run.config.name,
            run=str(run.folder),
            training_steps=run.step,
            caption=caption,
            steps=sampler.steps,
            guidance=sampler.guidance,
            reads={name: each[index] for name, each in samples.reads.items()},
            right={name: samples.verdict(name, index) for name in samples.data},
            files=dict(files),
        )
        for index, caption in enumerate(samples.batch.captions)
    ]


def drawings_tables(drawn: Sequence[Drawing]) -> list[RenderableType]:
    """A row for each caption, or for each modality of it where there are several."""
    first = drawn[0]
    columns = [
        Column("caption", lambda row: row[0].caption if row[1] == next(iter(row[0].reads)) else "", kind="text"),
        Column("", lambda row: row[1], kind="word"),
        Column("the oracle reads", lambda row: row[0].reads[row[1]], kind="text"),
        Column("as asked", lambda row: VERDICTS[row[0].right[row[1]]], kind="word"),
    ]
    rows = [(each, name) for each in drawn for name in each.reads]
    title = f"{first.config}, step {first.training_steps}: {first.steps} steps, guidance {first.guidance:g}"
    notes = [
        "An oracle may read something of noise, too. Not asked: the caption names none of it in words that it knows."
    ]
    return [listing(title, rows, columns, tight=False), pairs("files", first.files.items()), *map(note, notes)]
