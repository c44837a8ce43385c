"""Whether the toy finds what was published of networks at scale.

    python -m benchmarks.validity                                          hours of two CPU cores
    python -m benchmarks.validity --match gate --size ladder/1             one of them
    python -m benchmarks.validity --match "against itself"                 whether equals are told apart; half an hour
    python -m benchmarks.validity --write docs/reports/validity.md

Runs are kept in `--run-dir`: a command that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.validity.document import document, itself_line, line
from benchmarks.validity.findings import FINDINGS
from benchmarks.validity.itself import NAME, Itself
from benchmarks.validity.trials import NotKept, only_kept, try_finding
from mmdit_cli.model_parts.intervals import FEWEST_PAIRS
from mmdit_cli.toy.run_folder import safe_name
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns, Runner
from mmdit_cli.toy.scenes.scene import CATEGORIES
from mmdit_cli.toy.side_by_side import SideBySide

SIZES, STEPS = ("ladder/1", "ladder/2"), (300, 1200)
SAMPLES = 0.32  # drawn at the end of a run, for each of its steps: of a longer one accuracy tells more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document as well")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", default=Path("runs/validity"), help="where runs are kept"
    )
    parser.add_argument("--size", action="append", metavar="CONFIG", help=f"repeatable; default: {', '.join(SIZES)}")
    parser.add_argument("--match", action="append", metavar="TEXT", help="findings whose name holds this; repeatable")
    parser.add_argument(
        "--itself", type=int, default=20, metavar="N", help=f"comparisons of {NAME} (%(default)s); 0: none"
    )
    parser.add_argument(
        "--steps", type=int, action="append", metavar="N", help=f"of a run; repeatable; default: {STEPS[0]}, {STEPS[1]}"
    )
    parser.add_argument("--max-seeds", type=int, default=5, metavar="N", help="of each comparison (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs side by side (%(default)s)")
    parser.add_argument(
        "--kept",
        action="store_true",
        help="train nothing: what has no finished runs in --run-dir is not tried",
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    asked = parser.parse_args()
    if asked.max_seeds < FEWEST_PAIRS:
        parser.error(f"--max-seeds: {FEWEST_PAIRS} or more, for an interval")
    run = RunSettings(torch.device(asked.device), torch.float32, resume=True)
    runner: Runner = InTurns(only_kept if asked.kept else run.train)
    if asked.jobs > 1 and not asked.kept:
        runner = SideBySide(asked.jobs, run.for_job)
    wanted = asked.match or [""]
    findings = [each for each in FINDINGS if any(text in each.name for text in wanted)]
    trials, itself = [], None
    columns = list(dict.fromkeys(itertools.product(asked.size or SIZES, asked.steps or STEPS)))
    for size, steps in columns:
        # more seeds after a look would be more looks than the intervals allow for: another limit begins anew
        folder = asked.run_dir / f"{safe_name(size)}-{steps}-steps-{asked.max_seeds}-seeds"
        values = {"steps": steps, "checkpoint_every": steps, "evaluate_every": 0}
        values["evaluation_samples"] = max(len(CATEGORIES), round(SAMPLES * steps))
        settings = [f"train.{key}={value}" for key, value in values.items()]
        for finding in findings:
            try:
                trial = try_finding(finding, size, runner, folder, most_seeds=asked.max_seeds, settings=settings)
            except NotKept:
                print(f"{finding.name}, {size}, {steps} steps: not tried", flush=True)
                continue
            trials.append(trial)
            print(line(trial), flush=True)
    if asked.itself > 0 and any(text in NAME for text in wanted):
        own, found = Itself(runner, asked.run_dir / safe_name(NAME), most=asked.max_seeds), []
        with suppress(NotKept):
            for decision in own.comparisons(asked.itself):
                found.append(decision)
                print(f"{NAME}, {len(found)} of {asked.itself}: {itself_line(decision)}", flush=True)
        itself = own.summary(found) if found else None
    if not trials and itself is None:
        sys.exit("nothing was tried: no finding matches, or with --kept none has all its runs in --run-dir")
    if asked.write:
        said = ["python -m benchmarks.validity", *(f"--match {shlex.quote(text)}" for text in asked.match or ())]
        said += [f"--{name} {value}" for name in ("size", "steps") for value in getattr(asked, name) or ()]
        for name in ("max_seeds", "itself", "device"):
            if (value := getattr(asked, name)) != parser.get_default(name):
                said.append(f"--{name.replace('_', '-')} {value}")
        command = " ".join([*said, "--write docs/reports/validity.md"])
        text = document(findings, columns, trials, itself, most=asked.max_seeds, command=command)
        asked.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
