"""The document of what the toy finds of what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.validity.itself import PAIRINGS, SIZE, AgainstItself
from benchmarks.validity.trials import SAME, Trial
from mmdit_cli.toy.decisions import Decision

ABOUT = """# How far to believe the toy

Written by `python -m benchmarks.validity {command} --write docs/reports/validity.md`.
"""
TABLE = """
Each finding was published of networks and data far larger than these. Both designs are trained on scenes for {steps}
steps at each size, or as many as the row says, seed by seed with the same captions, pictures, noise and timesteps,
until they are told apart or {most} seeds are spent; intervals are of 95 % and hold however often one looks
(`--seeds auto`). They do not know that some rows were given more steps after shorter tries told nothing. The figure
is the loss, of which less is better, or where the designs minimize different quantities the mean accuracy. Where the
source finds two designs the same, the toy agrees if the whole interval is within {loss:.0%} of the loss, or
{points:.0f} points of accuracy.

| finding | source | there | {sizes} |
| --- | --- | --- | {rules} |
"""
SPREAD = "\n{counts}.{missing}\n"
MISSING = " Not tried is what had not been trained when this was written."
MISLEADS = """
Where the toy misleads, so that its word is not to be taken: {opposed}. Where it can't tell, the difference is smaller
than {most} seeds of so short a training show, at one learning rate for both designs: no sign that there is none.
"""
ITSELF = """
## A config against itself

`{size}` for {steps} steps, against the same config with other seeds, by `--seeds auto --max-seeds {most}`: what is
decided here is decided wrongly, and that may happen in one comparison of twenty. Of {count} comparisons, of which no
two share a run, {decided} (a rate of {low:.1%} to {high:.1%}, at 95 %).{again}
"""
AGAIN = " Of {pairings:,} comparisons of the same runs in pairs drawn anew, {again:.1%} are."


def document(
    trials: Sequence[Trial], itself: AgainstItself | None = None, *, steps: int, most: int, command: str
) -> str:
    """All trials as Markdown, a row a finding, a column a size; then how often equals were told apart."""
    parts = [ABOUT.format(command=command)]
    parts += [_findings(trials, steps, most)] if trials else []
    return "".join([*parts, *([_itself(itself)] if itself else [])])


def _findings(trials: Sequence[Trial], steps: int, most: int) -> str:
    sizes = list(dict.fromkeys(trial.size for trial in trials))
    about = TABLE.format(
        steps=steps,
        most=most,
        loss=SAME["loss"],
        points=100 * SAME["accuracy"],
        sizes=" | ".join(sizes),
        rules=" | ".join(["---"] * len(sizes)),
    )
    rows = []
    for finding in {trial.finding.name: trial.finding for trial in trials}.values():
        own = {trial.size: trial for trial in trials if trial.finding == finding}
        name = finding.name + (f" ({steps * finding.longer} steps)" if finding.longer > 1 else "")
        cells = [name, finding.source, finding.says, *(_cell(own.get(size)) for size in sizes)]
        rows.append(f"| {' | '.join(cells)} |\n")
    counts = [f"At {size}: " + _counted([trial for trial in trials if trial.size == size]) for size in sizes]
    missing = MISSING if len(trials) < len(rows) * len(sizes) else ""
    spread = SPREAD.format(counts="; ".join(counts), missing=missing)
    return about + "".join(rows) + spread + _misleading(trials, most)


def _misleading(trials: Sequence[Trial], most: int) -> str:
    opposed: dict[str, list[str]] = {}
    for trial in trials:
        if trial.answer == "opposes":
            opposed.setdefault(trial.finding.name, []).append(trial.size)
    said = "; ".join(f"**{name}** (at {' and '.join(sizes)})" for name, sizes in opposed.items())
    return MISLEADS.format(opposed=said or "nowhere that is known", most=most)


def _itself(found: AgainstItself) -> str:
    low, high = found.interval
    return ITSELF.format(
        size=SIZE,
        steps=found.steps,
        most=found.most,
        count=len(found.found),
        decided=f"{found.decided} {'was' if found.decided == 1 else 'were'} decided",
        low=low,
        high=high,
        again="" if found.again is None else AGAIN.format(pairings=PAIRINGS, again=found.again),
    )


def line(trial: Trial) -> str:
    """A trial as it is printed."""
    return f"{trial.finding.name}, {trial.size}: {difference(trial.found)}: {trial.answer}"


def itself_line(found: Decision) -> str:
    """A comparison of equals as it is printed."""
    return f"{difference(found)}: {'decided, which is wrong' if found.decided else 'not decided'}"


def difference(found: Decision) -> str:
    """`loss -0.012 (-0.020 to -0.004), 3 seeds`."""
    if found.mean is None or found.low is None or found.high is None:
        return f"{found.figure} unknown, {found.n} seeds"
    if found.figure == "loss":
        return f"loss {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {found.n} seeds"
    mean, low, high = (100 * x for x in (found.mean, found.low, found.high))
    return f"{found.figure} {mean:+.1f} pp ({low:+.1f} to {high:+.1f}), {found.n} seeds"


def _cell(trial: Trial | None) -> str:
    return "not tried" if trial is None else f"**{trial.answer}**: {difference(trial.found)}"


def _counted(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{count} {answer}" for answer, count in Counter(trial.answer for trial in trials).most_common())
