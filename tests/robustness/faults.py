"""Faults of the disk, the machine and the surroundings: nothing may be lost, and each ends in one message.

Every case runs the command line in processes of its own, in a fresh folder. See `python -m tests.robustness`.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.robustness import disk, repositories, signals, surroundings
from tests.robustness.lab import Case, Lab
from tests.robustness.outcome import Outcome

WORKERS = 2


def cases(seed: int = 0) -> list[Case]:
    """All of them; the seed draws the moments at which signals come."""
    rng = random.Random(seed)
    return [case for part in (disk, signals, surroundings, repositories) for case in part.cases(rng)]


def outcomes(seed: int = 0, share: float = 1.0, groups: tuple[str, ...] = ()) -> Iterator[Outcome]:
    """Try a share of each group's cases, at least one; with `groups`, of those alone."""
    rng, chosen = random.Random(seed), []
    by_group: dict[str, list[Case]] = {}
    for case in cases(seed):
        by_group.setdefault(case[0], []).append(case)
    for group, members in by_group.items():
        if not groups or group in groups:
            count = max(1, round(share * len(members)))
            chosen += sorted(rng.sample(members, count), key=members.index) if count < len(members) else members
    with ThreadPoolExecutor(WORKERS) as pool:
        for case, outcome in zip(chosen, pool.map(tried, chosen), strict=True):
            if outcome is None:
                print(f"not tried, this machine can't make it: {case[0]}: {case[1]}", file=sys.stderr)
            else:
                yield outcome


def tried(case: Case) -> Outcome | None:
    """What came of a case; None where this machine can't make the fault."""
    group, name, check = case
    folder = Path(tempfile.mkdtemp(prefix="mmdit-fault-"))
    os.chmod(folder, 0o755)  # another user has to read the configs
    try:
        lab = Lab(folder)
        try:
            check(lab)
        except disk.Untried:
            return None
        except Exception:
            lab.wrong.append(f"the case itself fails: {traceback.format_exc(limit=-2)}")
        return Outcome(group, name, not lab.wrong, bool(lab.lost), "; ".join(lab.wrong + lab.lost))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
