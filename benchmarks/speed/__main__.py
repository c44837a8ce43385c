"""How fast the block is beside every implementation of it, and how near to the machine's bare matrix products.

    python benchmarks/speed.py --write docs/benchmarks.md

Sides are timed in rounds, in an order drawn anew each round, so that drift hits all alike; a figure is the median of
the rounds' ratios, with its 95 % interval. Before that their outputs are found equal, with the same weights. Diffusers
runs in this process (where it is missing, in an environment that the first run makes), the published `mmdit` 0.3.0,
whose import name is ours, in a process and an environment of its own. Exit code: 0, or 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.published_mmdit import CACHE, ROOT, VERSION, make_environment

if TYPE_CHECKING:
    from benchmarks.speed.cases import Goal, Row
    from mmdit_cli.profile.statistics import Ratio

SECTIONS = {
    "dense": """One joint block, forward and train step (forward and backward). `products`: the bare matrix products of
ready inputs and one attention call; `products + gelu`: with the feedforwards' activation, which eager code must run
too.""",
    "padding-free": """`varlen` against the padded run of the same network, and against diffusers' block, which takes no
mask and computes all of it. Outputs at valid positions are equal.""",
    "adaptive attention": """The published module computes the same (its heads summed, which it leaves apart). Peak:
bytes of tensors made during the call that are held at once.""",
    "hyper-connections": "A network of two blocks with four residual streams over the same network with one.",
    "modulations of a sampler": """`precompute_modulation` for all steps and then the steps, over computing them at each
step.""",
    "start-up": "The tool in fresh processes, beside the bare imports it can't do without.",
}


WHY_MISSED = {  # by section; shown where one of its goals is missed
    "dense": """What is missed beside the bare products: eager code must run the feedforwards' activation, which at 512
wide in bf16 takes 9 % of the products by itself (`products + gelu` has it), and norms, modulations and residuals
are passes over memory, which half precision shortens less than it does products. Compiled, both sides run inductor's
kernels, and where ours is slower it is by tens of µs a call.""",
    "adaptive attention": """The published module's time in training varies by a factor of 1.5 between builds, as its
interval shows; the goal lies within.""",
    "hyper-connections": """Reading four streams into a branch and writing its output back into all of them is eight
times the traffic of one residual addition, in tensors larger than a core's cache: what is missed is memory, not
arithmetic, and it weighs twice in bf16, where the products take a third of the time.""",
    "start-up": """`mmdit.load` maps the file, and reads no page of it before it is used. What is missed beside
`load_file`, for a file that is in the page cache already, are the 50 to 60 ms in which 24 blocks' modules are made.""",
}
MOST_SECONDS = 90.0  # of a row, beyond which fewer rounds than six must do


@dataclass(frozen=True)
class Line:
    """A comparison as it is shown."""

    section: str
    name: str
    figure: str
    goal: str
    met: bool


def is_met(ratio: Ratio, most: float) -> bool:
    """A goal of 1 is missed only where noise does not explain it."""
    return ratio.ratio <= most or (most == 1.0 and (ratio.low or 0.98 * ratio.ratio) <= 1.0)


def shown(goal: Goal, ratio: Ratio, milliseconds: dict[str, float]) -> tuple[str, str]:
    spread = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
    took = f"{milliseconds[goal.side]:.4g} ms"
    return f"{ratio.ratio:.3f}{spread} of {goal.of}, {took}", f"≤ {goal.most:.3g} of {goal.of}"


def measure(row: Row) -> Iterator[Line]:
    """Build, warm up, time in rounds, compare."""
    from mmdit_cli.profile.statistics import compare, quantile
    from mmdit_cli.profile.timing import run_rounds

    times: dict[str, list[float]] = {}
    for build in range(row.builds):
        sides = row.build()
        for side in sides.values():
            side()
            side()
        calls: Any = list(sides.values())
        taken, _ = run_rounds(calls, _itself, max_seconds=row.seconds / row.builds, tolerance=0.004, seed=build)
        while len(taken[0]) * row.builds < 6 and sum(map(sum, taken)) < MOST_SECONDS:  # an interval takes six
            more, _ = run_rounds(calls, _itself, repeats=1, seed=len(taken[0]))
            taken = [a + b for a, b in zip(taken, more, strict=True)]
        for name, each in zip(sides, taken, strict=True):
            times.setdefault(name, []).extend(each)
        if build == row.builds - 1 and row.peaks is not None:
            peaks = row.peaks()
        row.close()
    medians = {name: quantile(sorted(each), 0.5) * 1e3 for name, each in times.items()}
    goal_of = {goal.of: goal for goal in row.goals}
    for name in (name for name in times if name != "ours"):
        ratio = compare(times["ours"], times[name], to=name)
        goal = goal_of.get(name)
        figure, wanted = shown(goal or make_goal(name), ratio, medians)
        yield Line(row.section, row.name, figure, wanted if goal else "", goal is None or is_met(ratio, goal.most))
    if row.peaks is not None:
        limits = {goal.of: goal for goal in row.peak_goals}
        for name, size in peaks.items():
            if name != "ours":
                share, limit = peaks["ours"] / size, limits.get(name)
                figure = f"peak {share:.2f} of {name}, {peaks['ours'] / 1e6:.1f} MB"
                goal_text = f"≤ {limit.most:.2f} of {name}" if limit else ""
                yield Line(row.section, row.name, figure, goal_text, limit is None or share <= limit.most)


def _itself(side: Any) -> float:
    """A side measures its own seconds."""
    return side()


def make_goal(of: str) -> Goal:
    from benchmarks.speed.cases import Goal

    return Goal(of, float("inf"))


# --------------------------------------------------------------------------------------------------------- the document


def about() -> str:
    from importlib.metadata import version

    import torch

    from mmdit_cli.output.document import device_name

    versions = [f"torch {torch.__version__}", f"diffusers {version('diffusers')}", f"mmdit {VERSION} (published)"]
    machine = f"{device_name('cpu')}, {torch.get_num_threads()} threads"
    return f"{machine}, {', '.join(versions)}, Python {platform.python_version()}"


def markdown(lines: Sequence[Line], command: str) -> str:
    text = [
        "# How fast",
        "",
        f"Written by `{command}` on {about()}.",
        "",
        "A figure is our time over that of the named side: the median of the rounds' ratios, its 95 % interval, and",
        "our median time. A goal of 1 is missed where the interval lies above 1.",
    ]
    for section, what in SECTIONS.items():
        rows = [line for line in lines if line.section == section]
        if not rows:
            continue
        text += [
            "",
            f"## {section.capitalize()}",
            "",
            what,
            "",
            "| what | figure | goal | met |",
            "| --- | --- | --- | --- |",
        ]
        name = ""
        for line in rows:
            met = "" if not line.goal else "yes" if line.met else "**no**"
            text.append(f"| {'' if line.name == name else line.name} | {line.figure} | {line.goal} | {met} |")
            name = line.name
        if section in WHY_MISSED and not all(line.met for line in rows):
            text += ["", WHY_MISSED[section]]
    return "\n".join(text) + "\n"


def reexecute_with_diffusers(environment: Path) -> None:
    """Where diffusers can't be imported: this script again, in an environment that has it and this project."""
    if importlib.util.find_spec("diffusers") is not None and importlib.util.find_spec("mmdit_cli") is not None:
        return
    if os.environ.get("MMDIT_SPEED_INSIDE"):
        raise OSError("the environment has no diffusers or no mmdit-cli")
    python = make_environment(environment, ("diffusers", "-e", str(ROOT)))
    done = subprocess.run([str(python), *sys.argv], env=os.environ | {"MMDIT_SPEED_INSIDE": "1"}, check=False)
    sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there as Markdown too")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="this section alone (repeatable)")
    parser.add_argument("--quick", action="store_true", help="small sizes, and nothing compiled")
    parser.add_argument("--match", default="", help="rows whose name holds this")
    parser.add_argument("--python", type=Path, help=f"a python that has mmdit {VERSION}; default: make an environment")
    parser.add_argument("--environments", type=Path, default=CACHE / "mmdit", help="where to make them (%(default)s)")
    options = parser.parse_args()
    try:
        reexecute_with_diffusers(options.environments / "speed")
        python = options.python or make_environment(options.environments / f"published-{VERSION}")
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"the peers could not be set up: {error}", file=sys.stderr)
        sys.exit(2)
    import torch

    from benchmarks.speed.cases import rows

    torch.set_num_threads(torch.get_num_threads())
    lines, began = [], time.perf_counter()
    for line in all_lines(rows(python, options.quick), options):
        lines.append(line)
        verdict = "    " if not line.goal else "ok  " if line.met else "MISS"
        print(f"{verdict}  {line.name}: {line.figure}{f' (goal {line.goal})' if line.goal else ''}", flush=True)
    missed = [line for line in lines if not line.met]
    print(f"{len(lines)} comparisons in {(time.perf_counter() - began) / 60:.0f} minutes, {len(missed)} goals missed")
    if options.write:
        options.write.write_text(
            markdown(lines, "python benchmarks/speed.py --write docs/benchmarks.md"), encoding="utf-8"
        )
    sys.exit(bool(missed))


def all_lines(rows: Iterator[Row], options: Any) -> Iterator[Line]:
    for row in rows:
        if (not options.only or row.section in options.only) and options.match in row.name:
            yield from measure(row)
    if not options.only or "start-up" in options.only:
        yield from start_up()


def start_up() -> Iterator[Line]:
    from benchmarks.speed.cases import Goal
    from benchmarks.speed.startup import comparisons
    from mmdit_cli.profile.statistics import compare, quantile

    for name, other, ours, theirs, most, note in comparisons():
        ratio = compare(ours, theirs, to=other)
        figure, goal = shown(Goal(other, most), ratio, {"ours": quantile(sorted(ours), 0.5) * 1e3})
        known = most < float("inf")
        yield Line("start-up", name, f"{figure}{note and f', {note}'}", goal if known else "", is_met(ratio, most))


if __name__ == "__main__":
    main()
