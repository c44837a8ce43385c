"""Faults of the Hub: a server that stops halfway, repositories that are closed or missing, and nobody there at all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from tests.robustness.lab import Case, Lab
from tests.support.hub_server import running

NAME, OLD = "org/small", b"old"
ASKED = {  # and what the command says where it ends well
    "export": (["-c", "tiny.yaml", "--weights", NAME, "--out", "out", "--force"], f"--weights {NAME}: {NAME}@"),
    "shape-check": (["--weights", NAME, "--report", "out.json"], ""),
}
SAYS = {  # by fault, what the message has to say
    "a server that stops halfway": "gave no whole answer",
    "a gated repository": "is gated; agree to its terms at",
    "a missing repository": "has no such repository, or a private one",
    "nobody there": "gave no whole answer",
    "offline by choice": "HF_HUB_OFFLINE is set, so nobody was asked",
}


def cases(rng: random.Random) -> Iterator[Case]:
    for command in ASKED:
        for fault in SAYS:
            yield "hub", f"{command} from {fault}", partial(_asked, command=command, fault=fault)


def _asked(lab: Lab, *, command: str, fault: str) -> None:
    """One message, and the old output as it was; once the Hub answers, the same command ends well."""
    made = lab.run("export", "-c", "tiny.yaml", "--out", "made", "--max-shard-size", "1GB")
    if made.code:
        lab.wrong.append(f"exit code {made.code}: {made.err[-400:]!r}")
    out = lab.folder / ("out" if command == "export" else "out.json")
    out.write_bytes(OLD)
    with running() as server:
        if fault != "a missing repository":
            server.put(NAME, lab.folder / "made")
        if fault == "a server that stops halfway":
            server.cut.add("model.safetensors")
        if fault == "a gated repository":
            server.gated.add(NAME)
        endpoint = "http://127.0.0.1:9" if fault == "nobody there" else server.endpoint
        _ends(lab, command, endpoint, 2, SAYS[fault], offline=fault == "offline by choice")
        if out.read_bytes() != OLD:
            lab.lost.append("the old output")
        server.cut.clear()
        server.gated.clear()
        server.put(NAME, lab.folder / "made")
        _ends(lab, command, server.endpoint, 0, ASKED[command][1])
    if left := [path.name for path in lab.folder.glob(".mmdit-*")]:
        lab.lost.append(f"left behind: {left}")


def _ends(lab: Lab, command: str, endpoint: str, code: int, says: str, *, offline: bool = False) -> None:
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(lab.folder / "hub"), "HF_HUB_OFFLINE": str(int(offline))}
    done = lab.run(command, *ASKED[command][0], env=env)
    if done.code != code or says not in done.err or done.err.count("error: ") != (code > 0) or "Traceback" in done.err:
        lab.wrong.append(f"exit code {done.code}: {done.err[-400:]!r}")
