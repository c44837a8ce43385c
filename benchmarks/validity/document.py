"""The document of what the toy finds of what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.validity.findings import Finding
from benchmarks.validity.itself import PAIRINGS, SIZE, AgainstItself
from benchmarks.validity.trials import SAME, Column, Trial, guessed
from mmdit_cli.toy.decisions import Decision
from mmdit_cli.toy.train_result import AVERAGED

ALIKE = 0.02  # a share by which costs differ that goes without saying
ABOUT = """# How far to believe the toy

Written by `{command}`.
"""
TABLE = """
Each finding was published of networks and data far larger than these. Both designs are trained on scenes, for each
size and number of steps that heads a column, seed by seed with the same captions, pictures, noise and timesteps, until
they are told apart or {most} seeds are spent; each interval is of 95 % and holds however often one looks (`--seeds
auto`). Were all designs equal, one cell in twenty would still tell two apart, by chance.

The figure is the loss of training, of which less is better: the mean of the last {averaged} steps. Where the designs
minimize different quantities, it is the accuracy: the share of captions that are drawn right, in the mean of the six
categories. Each cell ends with that share for both, first the design that the finding speaks for. A guesser gets
{chance:.0%}. Where both draw no more than that, the loss tells how such networks begin to learn, and nothing of
counting, places and bindings, which `toy-scenes` takes 5000 steps to draw; and accuracy tells nothing (too early).
Where the source finds two designs the same, the toy agrees if the whole interval is within {loss:.0%} of the loss, or
{points:.0f} points of accuracy. In brackets stands what the design that the finding speaks for has of the other one's.

| finding | source | there | {columns} |
| --- | --- | --- | {rules} |
"""
SPREAD = "\n{counts}.{missing}\n"
MISSING = " Not tried is what had not been trained to its end when this was written."
MISLEADS = """
Where the toy misleads, so that its word is not to be taken: {opposed}. Where it can't tell, the seeds of so short a
training leave either answer open, at one learning rate for both designs: no sign that there is no difference.
"""
ITSELF = """
## A config against itself

`{size}` for {steps} steps, against the same config with other seeds, by `--seeds auto --max-seeds {most}`: what is
decided here is decided wrongly, and that may happen in one comparison of twenty. Of {count} comparisons, of which no
two share a run, {decided} (a rate of {low:.1%} to {high:.1%}, at 95 %).{again}
"""
AGAIN = " Of {pairings:,} comparisons of the same runs in pairs drawn anew, {again:.1%} are."


def document(
    findings: Sequence[Finding],
    columns: Sequence[Column],
    trials: Sequence[Trial],
    itself: AgainstItself | None = None,
    *,
    most: int,
    command: str,
) -> str:
    """All trials as Markdown, a row a finding, a column a size and its steps; then how often equals were told apart.

    Args:
        findings, columns: those that were to be tried.
        command: what wrote them.
    """
    parts = [ABOUT.format(command=command)]
    parts += [_findings(findings, columns, trials, most)] if trials else []
    return "".join([*parts, *([_itself(itself)] if itself else [])])


def _findings(findings: Sequence[Finding], columns: Sequence[Column], trials: Sequence[Trial], most: int) -> str:
    about = TABLE.format(
        most=most,
        averaged=AVERAGED,
        chance=guessed(),
        loss=SAME["loss"],
        points=100 * SAME["accuracy"],
        columns=" | ".join(map(_heading, columns)),
        rules=" | ".join(["---"] * len(columns)),
    )
    rows = []
    for finding in findings:
        own = {trial.column: trial for trial in trials if trial.finding == finding}
        cells = [finding.name + _cost(own.values()), finding.source, finding.says]
        rows.append(f"| {' | '.join([*cells, *(_cell(own.get(column)) for column in columns)])} |\n")
    counts = [f"{_heading(column)}: {_counted(trials, column)}" for column in columns]
    missing = MISSING if len(trials) < len(rows) * len(columns) else ""
    spread = SPREAD.format(counts="; ".join(counts), missing=missing)
    return about + "".join(rows) + spread + _misleading(trials)


def _heading(column: Column) -> str:
    return f"{column[0]}, {column[1]} steps"


def _cost(trials: Iterable[Trial]) -> str:
    """What the claimed design has, and takes, more or less of than the plain one, at the first size that was tried."""
    for trial in trials:
        said = {"parameters": trial.parameters, "FLOPs": trial.flops}
        apart = [f"{ratio:.2f} times the {what}" for what, ratio in said.items() if abs(ratio - 1) > ALIKE]
        return f" ({' and '.join(apart)} at {trial.size})" if apart else ""
    return ""


def _misleading(trials: Sequence[Trial]) -> str:
    opposed: dict[str, list[str]] = {}
    for trial in trials:
        if trial.answer == "opposes":
            opposed.setdefault(trial.finding.name, []).append(_heading(trial.column))
    said = "; ".join(f"**{name}** ({'; '.join(columns)})" for name, columns in opposed.items())
    return MISLEADS.format(opposed=said or "nowhere that is known")


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
    return f"{trial.finding.name}, {_heading(trial.column)}: {_told(trial)}: {trial.answer}"


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
    if trial is None:
        return "not tried"
    drawn = "; {:.0%} and {:.0%} drawn right".format(*trial.drawn) if trial.drawn else ""
    return f"**{trial.answer}**: {_told(trial)}{drawn}"


def _told(trial: Trial) -> str:
    if not trial.failed:
        return difference(trial.found)
    of = {"claimed": "the design that it speaks for", "plain": "the other design"}
    return f"{' and '.join(of[which] for which in sorted(trial.failed))} diverged"


def _counted(trials: Sequence[Trial], column: Column) -> str:
    answers = Counter(trial.answer for trial in trials if trial.column == column)
    return ", ".join(f"{count} × {answer}" for answer, count in answers.most_common())
