"""Pictures of samples, within a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from mmdit_cli.output import units as f
from mmdit_cli.output.run_files import RunFiles

BUDGET = 3_000_000  # bytes of a page that pictures may take
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """`address`: the picture itself, as a `data:` address."""

    title: str
    text: str
    address: str


def pictures(runs: Sequence[RunFiles]) -> tuple[list[Picture], str]:
    """The last samples of each run, then, as far as they have room, what it drew on the way; and what was left out."""
    last = [(run, step) for run in runs for step in list(run.pictures)[-1:]]
    before = [(run, step) for run in runs for step in list(run.pictures)[:-1][::-1]]
    found: list[tuple[int, int, Picture]] = []
    spent, left = 0, 0
    for run, step in [*last, *before]:
        content = run.pictures[step].read_bytes()
        if not content.startswith(PNG):
            continue
        if spent + len(content) * 4 / 3 > BUDGET:
            left += 1
            continue
        spent += len(content) * 4 // 3
        found.append((runs.index(run), step, _picture(run, step, content)))
    found.sort(key=lambda each: each[:2])
    note = f"{left} pictures of samples have no room on this page; they are in the runs' folders." if left else ""
    return [picture for _, _, picture in found], note


def _picture(run: RunFiles, step: int, content: bytes) -> Picture:
    shares = [record["accuracy"] for record in run.records if record["step"] == step and "accuracy" in record]
    verdict = ", ".join(f"{name} {f.percent(share)}" for name, share in (shares[-1] if shares else {}).items())
    title = f"{run.name}, seed {run.seed}, step {step:,}"
    text = f"Right by the oracle, of all samples: {verdict}." if verdict else ""
    return Picture(title, text, "data:image/png;base64," + b64encode(content).decode())
