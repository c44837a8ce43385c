"""Wrong requests to the command line, made from a seed, and whether each is answered well.

A wrong request is answered well when it ends with exit code 2 and one message that names the place (`file:line:key`,
the option or the path), within 10 s and 1 GB, with nothing on standard output, no traceback and no control characters.
Nothing is lost when the folder that it ran in holds what it held before, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.robustness.cases import FILE, Case, Text, Turns, base
from tests.robustness.damaged_configs import config_cases
from tests.robustness.files import file_cases
from tests.robustness.flags import flag_cases
from tests.robustness.outcome import Outcome
from tests.robustness.process import SECONDS, STARTING, Ended, Server
from tests.robustness.published_files import published_file_cases

MEMORY = 1 << 30  # bytes resident at most
LONGEST = 5000  # characters of a message


def cases(seed: int = 0, share: float = 1.0) -> list[Case]:
    """The wrong requests of a seed, or a share of them that is spread evenly over all kinds."""
    draw, turns = random.Random(seed), Turns()
    every = [*config_cases(draw, turns), *file_cases(draw, turns), *flag_cases(draw, turns)]
    every += published_file_cases(turns)
    return [case for i, case in enumerate(every) if int((i + 1) * share) > int(i * share)]


def outcomes(seed: int = 0, share: float = 1.0) -> Iterator[Outcome]:
    """Run the requests of a seed, one after another.

    Args:
        share: of the requests, 0 to 1.
    """
    with Server() as server:
        for each in cases(seed, share):
            yield outcome(each, server)


def outcome(case: Case, server: Server) -> Outcome:
    """Run one request in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="mmdit-requests-"))
    try:
        _fill(folder, case)
        stdin = str(folder / case.stdin) if case.stdin else case.stdin  # an absolute path stays as it is
        before = contents(folder)
        ended = server.run(case.arguments, folder, stdin, case.real)
        after = contents(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    problem = fault(ended, case)
    lost = _difference(before, after)
    return Outcome(case.group, case.name, not problem, bool(lost), "; ".join(filter(None, (problem, lost))))


def fault(ended: Ended, case: Case) -> str:
    """What is wrong with an answer; empty where it is well."""
    text = ended.err.decode("utf-8", "replace")
    limit = SECONDS + (STARTING if case.real else 0)
    missing = [names for names in case.names if not any(name in text for name in names)]
    last = next((line[:300] for line in reversed(text.splitlines()) if line.strip()), "")
    checks: tuple[tuple[bool, str], ...] = (
        (ended.seconds > limit, f"took more than {limit:g} s"),
        (ended.code is None, "was killed"),
        ("Traceback" in text, f"a traceback: {last!r}"),
        (ended.code != 2, f"exit code {ended.code}: {last!r}"),
        (bool(ended.out), f"{len(ended.out)} bytes on standard output"),
        (len(re.findall(r"^(?:error|Error): ", text, re.MULTILINE)) != 1, f"not one message: {text[:300]!r}"),
        (any(not (c.isprintable() or c == "\n") for c in text), f"control characters: {text[:300]!r}"),
        (len(text) > LONGEST, f"a message of {len(text)} characters"),
        (bool(missing), f"names no {' or '.join(missing[0]) if missing else ''!r}: {last!r}"),
        (ended.peak > MEMORY, f"took {ended.peak / 1e9:.1f} GB"),
    )
    return next((why for bad, why in checks if bad), "")


def contents(folder: Path) -> dict[str, str]:
    """Everything in a folder, by path: its kind, permissions and content."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            state = os.lstat(path)
            text = f"{state.st_mode:o} {state.st_size if not stat.S_ISDIR(state.st_mode) else ''}"
            if stat.S_ISLNK(state.st_mode):
                text += os.readlink(path)
            elif stat.S_ISREG(state.st_mode) and state.st_size < 1 << 24:
                text += hashlib.sha256(Path(path).read_bytes()).hexdigest()
            found[os.path.relpath(path, folder)] = text
    return found


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    words: dict[bool, Callable[[str], str]] = {
        True: lambda path: f"damaged {path!r}" if path in after else f"removed {path!r}",
        False: lambda path: f"left {path!r}",
    }
    return ", ".join(words[path in before](path) for path in changed[:5])


def _fill(folder: Path, case: Case) -> None:
    """What a user has beside the config: files that no wrong request may touch."""
    files = {FILE: Text.of(base()).encode(), "keep.txt": b"kept\n", "old/kept.bin": bytes(100)} | dict(case.files)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if case.prepare is not None:
        case.prepare(folder)
