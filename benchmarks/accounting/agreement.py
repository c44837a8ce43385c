"""What other tools say of the same model: parameters, FLOPs and memory, and why they differ.

Each tool runs in a virtual environment of its own, which sees this one's torch and `mmdit`. The reasons are probed:
each tool also counts single operators whose FLOPs are known; what it sees of them is put to the closed form of the
model, and what that leaves is shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from benchmarks.accounting.tools import ELEMENTWISE
from benchmarks.paths import ROOT
from mmdit.options import ModelOptions
from mmdit_cli.output import units as f
from mmdit_cli.request.tool_config import ToolConfig

TOOLS = {  # what is installed for each; those without come with torch or are ours
    "mmdit": (),
    "torch flop_counter, meta": (),
    "torch flop_counter, CPU": (),
    "torch.profiler": (),
    "fvcore": ("fvcore==0.1.5.post20221221",),
    "calflops": ("calflops==0.3.2", "transformers==4.57.1"),  # which it imports, and does not ask for
    "ptflops": ("ptflops==0.7.5",),
    "torchinfo": ("torchinfo==1.8.0",),
}
TIMEOUT = 600
EXACT, EXPLAINED = 1e-9, 2e-3  # relative: the same figure; nothing worth a reason is left


@dataclass(frozen=True)
class Finding:
    """What a tool said.

    `printed`: its own figure and unit; `flops`: 2 a multiply-add. `seen`: by probe, the share of the operator's FLOPs
    that the tool counts, or FLOPs an element of what is no product. `error`: why there is nothing.
    """

    tool: str
    parameters: int | None = None
    printed: str = ""
    flops: float | None = None
    memory: dict[str, int] | None = None
    seen: dict[str, float] | None = None
    error: str = ""


# ---------------------------------------------------------------------------------------------------------- closed form


def closed_form(config: ToolConfig) -> dict[str, int]:
    """Forward FLOPs of a plain stack of blocks (Esser et al. 2024, figure 2b), written out from the config's sizes."""
    model, batch = config.model, config.run.batch_size
    check_plain(model)
    inner = model.dim_joint_attn or (model.heads or 8) * (model.dim_head or 64)
    skipped = model.skip_last_feedforward
    skipped = (("text",) if model.variant == "two_modality" else ()) if skipped is None else skipped
    tokens = {name: config.tokens_of(name) for name in model.modalities}
    linear = attention = 0
    for block in range(model.depth):
        last = block == model.depth - 1
        attention += 4 * batch * sum(tokens.values()) ** 2 * inner
        for name, modality in model.modalities.items():
            dim, rows = modality.dim, batch * tokens[name]
            hidden = modality.dim * int(model.feedforward.mult)
            fed = not (last and name in skipped)
            linear += 2 * rows * dim * 4 * inner  # queries, keys, values, and out
            linear += 2 * rows * 2 * dim * hidden * fed
            if model.dim_cond:
                linear += 2 * batch * model.dim_cond * dim * (6 if fed else 3)
    return {"linear": linear, "attention": attention}


def check_plain(model: ModelOptions) -> None:
    """Raises ValueError where the closed form says nothing of this model."""
    extras = [model.single_stream, model.register_tokens, model.discard, model.timestep]
    if any(extras) or model.attention.kind != "standard" or model.residual.kind != "plain":
        raise ValueError("the closed form is written out for plain joint blocks; take configs/two-modality.yaml")


# -------------------------------------------------------------------------------------------------------------- reasons


def reasons(finding: Finding, closed: dict[str, int], batch: int) -> list[str]:
    """Why a tool's FLOPs are not the closed form's, from what its probes saw."""
    whole = sum(closed.values())
    if finding.flops is None or finding.seen is None:
        return [finding.error or "says nothing of FLOPs"]
    if abs(finding.flops / whole - 1) < EXACT:
        return ["the same"]
    found, seen, expected = [], finding.seen, 0.0
    if seen["linear, more tokens"] < 0.75 * seen["linear"]:
        found.append("counts a weight once a sample, not once a token")
        expected = 2.0 * batch * (finding.parameters or 0)
    else:
        for kind in closed:
            share = seen[kind]
            expected += share * closed[kind]
            if share < 1 - EXPLAINED:
                what = "no" if share < EXPLAINED else f"{f.percent(share)} of"
                found.append(f"sees {what} {NAMES[kind]}: {-(1 - share) * closed[kind] / whole:+.1%}")
    left = (finding.flops - expected) / whole
    elementwise = [name for name in ELEMENTWISE if seen[name] > 0]
    if abs(left) > EXACT:
        why = f"counts {', '.join(elementwise)} as well" if elementwise and left > 0 else "not explained"
        found.append(f"{why}: {left:+.2%}")
    return found


NAMES = {"linear": "linear layers", "attention": "fused attention (scaled_dot_product_attention)"}


# --------------------------------------------------------------------------------------------------------- environments


def python_of(tool: str, folder: Path) -> str:
    """The interpreter of a tool's environment, made where it is not there yet.

    Raises:
        subprocess.CalledProcessError: the tool can't be installed.
    """
    if not TOOLS[tool]:
        return sys.executable
    place = folder / tool
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    mark = place / "installed.txt"
    if mark.exists() and mark.read_text() == "\n".join(TOOLS[tool]):
        return str(python)
    venv.create(place, with_pip=True, clear=True)
    paths = {"base": str(place), "platbase": str(place)}
    purelib = sysconfig.get_path("purelib", sysconfig.get_preferred_scheme("prefix"), paths)
    here = sysconfig.get_path("purelib")
    Path(purelib, "parent.pth").write_text(f"import site; site.addsitedir({here!r})\n")  # its torch, and this package
    subprocess.run([python, "-m", "pip", "install", "-q", *TOOLS[tool]], check=True, capture_output=True, text=True)
    mark.write_text("\n".join(TOOLS[tool]))
    return str(python)


def ask(tool: str, config: Path, folder: Path) -> Finding:
    """What a tool says; an error where it can't be installed or fails."""
    try:
        python = python_of(tool, folder)
        command = [python, "-m", "benchmarks.accounting.tools", tool, str(config)]
        env = {**os.environ, "KINETO_LOG_LEVEL": "6"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env, cwd=ROOT)
    except subprocess.CalledProcessError as error:
        return Finding(tool, error=f"could not be installed: {last_line(error.stderr)}")
    except subprocess.TimeoutExpired:
        return Finding(tool, error=f"took more than {TIMEOUT} s")
    if done.returncode:
        return Finding(tool, error=f"fails: {last_line(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Finding(tool, **answer)


def last_line(text: str | None) -> str:
    lines = [line for line in (text or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "without a word"


# --------------------------------------------------------------------------------------------------------------- output


def row(finding: Finding, closed: dict[str, int], batch: int) -> list[str]:
    whole = sum(closed.values())
    return [
        finding.tool,
        f"{finding.parameters:,}" if finding.parameters is not None else f.MISSING,
        finding.printed or f.MISSING,
        f.MISSING if finding.flops is None else f.percent(finding.flops / whole),
        "; ".join(reasons(finding, closed, batch)),
    ]


def memory_rows(findings: list[Finding]) -> list[list[str]]:
    return [[x.tool, what, f.bytes_(size)] for x in findings for what, size in (x.memory or {}).items()]


HEADS = ["tool", "parameters", "as it says it", "of the closed form", "why"]
MEMORY_HEADS = ["tool", "what it gives", "bytes"]


def tables(rows: list[list[str]], memory: list[list[str]]) -> list[Table]:
    made = []
    for title, heads, lines in (("FLOPs", HEADS, rows), ("memory of a forward pass", MEMORY_HEADS, memory)):
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for head in heads:
            table.add_column(head, overflow="fold", justify="right" if head in ("parameters", "bytes") else "left")
        for line in lines:
            table.add_row(*line)
        made.append(table)
    return made


def markdown(config: ToolConfig, closed: dict[str, int], rows: list[list[str]], memory: list[list[str]]) -> str:
    versions = ", ".join(requirements[0] for requirements in TOOLS.values() if requirements)
    parts = [
        "# What other tools count\n",
        "Written by `python -m benchmarks.accounting agreement --write docs/reports/agreement.md`: the same model and "
        f"inputs, float32 on the CPU, torch {torch.__version__}, {versions}.\n",
        f"`{config.name}`, one forward pass. Closed form: {closed['linear']:,} FLOPs in linear layers and "
        f"{closed['attention']:,} in attention, 2 a multiply-add. The reasons are probed: each tool counts single "
        "operators whose FLOPs are known; what it sees of them is put to the closed form, and what that leaves is the "
        "last figure of its row.\n",
    ]
    for heads, lines in ((HEADS, rows), (MEMORY_HEADS, memory)):
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *lines)) + "\n")
    return "\n".join(parts)
