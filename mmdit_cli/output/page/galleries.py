"""Samples that runs drew, within a page: one by one with the oracle's verdicts, or as the picture of them all."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdit_cli.output import units as f
from mmdit_cli.output.run_files import RunFiles

BUDGET = 3_000_000  # bytes of a page that pictures may take
PNG = b"\x89PNG\r\n\x1a\n"
MEDIUM = re.compile(r"data:(image/png|audio/wav);base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Sample:
    """`verdicts`: a modality, what is said of it, and whether it is right, None where the caption does not say.
    `pictures` and `sounds`: a modality, and the thing itself as a `data:` address."""

    caption: str
    verdicts: list[tuple[str, str, bool | None]]
    pictures: list[tuple[str, str]]
    sounds: list[tuple[str, str]]


@dataclass(frozen=True)
class Gallery:
    """What a run drew at a step. `address`: a picture of all samples, where they are not here one by one."""

    title: str
    text: str
    samples: list[Sample] = field(default_factory=list)
    address: str = ""


def galleries(runs: Sequence[RunFiles]) -> tuple[list[Gallery], str]:
    """The last samples of each run, then, as far as they have room, what it drew on the way; and what was left out."""
    last = [(run, step) for run in runs for step in list(run.pictures)[-1:]]
    before = [(run, step) for run in runs for step in list(run.pictures)[:-1][::-1]]
    found: list[tuple[int, int, Gallery]] = []
    spent, left = 0, 0
    for run, step in [*last, *before]:
        title, text = f"{run.name}, seed {run.seed}, step {step:,}", _accuracy(run, step)
        if run.samples.get("step") == step and (samples := _samples(run.samples)):
            found.append((runs.index(run), step, Gallery(title, text, samples)))
            continue
        content = run.pictures[step].read_bytes()
        if not content.startswith(PNG):
            continue
        if spent + len(content) * 4 / 3 > BUDGET:
            left += 1
            continue
        spent += len(content) * 4 // 3
        address = "data:image/png;base64," + b64encode(content).decode()
        found.append((runs.index(run), step, Gallery(title, text, address=address)))
    found.sort(key=lambda each: each[:2])
    note = f"{left} pictures of samples have no room on this page; they are in the runs' folders." if left else ""
    return [gallery for _, _, gallery in found], note


def drawn_gallery(title: str, document: Mapping[str, Any]) -> Gallery | None:
    """What `mmdit sample` drew; None of other documents."""
    return Gallery(title, "", _samples(document)) if "samples" in document else None


def _accuracy(run: RunFiles, step: int) -> str:
    shares = [record["accuracy"] for record in run.records if record["step"] == step and "accuracy" in record]
    verdict = ", ".join(f"{name} {f.percent(share)}" for name, share in (shares[-1] if shares else {}).items())
    return f"Right by the oracle, of all samples of the evaluation: {verdict}." if verdict else ""


def _samples(document: Mapping[str, Any]) -> list[Sample]:
    """Those of a `samples.json`; none of a damaged one."""
    try:
        return [_sample(each) for each in document["samples"]]
    except (KeyError, TypeError, AttributeError):
        return []


def _sample(each: Mapping[str, Any]) -> Sample:
    media = [(name, address) for name, address in each["media"].items() if MEDIUM.fullmatch(address)]
    reads = each.get("reads", {})
    verdicts = [(name, *_verdict(hits, reads.get(name, ""))) for name, hits in each["verdicts"].items()]
    pictures = [pair for pair in media if pair[1].startswith("data:image")]
    return Sample(each["caption"], verdicts, pictures, [pair for pair in media if pair not in pictures])


def _verdict(hits: Mapping[str, float | None], words: str) -> tuple[str, bool | None]:
    """Whether each attribute is as asked for, and what was read, in words."""
    asked = {name: hit for name, hit in hits.items() if hit is not None}
    wrong = ", ".join(name for name, hit in asked.items() if not hit)
    said = f"wrong: {wrong}" if wrong else "right" if asked else "not asked for in words that the oracle knows"
    return f"{said} ({words})" * bool(words) or said, not wrong if asked else None
