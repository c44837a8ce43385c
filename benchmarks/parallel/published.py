"""Published runs on many cards beside what `mmdit plan` says of them; figures and sources are in `published.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mmdit_cli.plan.command import UTILIZATION
from mmdit_cli.plan.machine import OwnNumbers, read_machine
from mmdit_cli.plan.plans import PlanResult, Wanted, make_plans
from mmdit_cli.request.numbers import read_share
from mmdit_cli.request.spreading import read_spreading
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config, load_tool_config

FILE = Path(__file__).parent / "published.yaml"
COLUMNS = ["run", "what, of a card", "published", "planned", "planned / published", "planned as"]
TOKENS = "tokens/s"
GIB = 2**30


@dataclass(frozen=True)
class Figure:
    """One figure of a run, of a card, in the unit that `name` says. `way`: how the plan would do it."""

    run: str
    name: str
    published: float
    planned: float
    way: str

    def row(self) -> list[str]:
        """As the table shows it."""
        ratio = self.planned / self.published
        return [self.run, self.name, _digits(self.published, 5), _digits(self.planned, 4), f"{ratio:.2f}", self.way]


def read_published() -> dict[str, Any]:
    """The file: `decoders`, `runs` and `beyond`."""
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def figures() -> Iterator[Figure]:
    """Every figure of every run, in the order of the file."""
    file = read_published()
    rates: dict[str, Figure] = {}
    for run in file["runs"]:
        for figure in of_run(run, planned(run, file["decoders"])):
            yield figure
            if figure.name == TOKENS:
                rates[run["name"]] = figure
        if "like" in run:
            many, few = rates[run["name"]], rates[run["like"]]
            published, ours = many.published / few.published, many.planned / few.planned
            yield Figure(many.run, f"{TOKENS} over that of {few.run}", published, ours, many.way)


def of_run(run: Mapping[str, Any], result: PlanResult) -> Iterator[Figure]:
    """Those that were published of it.

    Raises:
        ValueError: the plan has no figures, for the network can't be cut so.
    """
    name, published, plan = run["name"], run["published"], result.plans[0]
    if plan.memory_bytes is None or plan.samples_per_s is None or plan.utilization is None:
        raise ValueError(f"{name}: {plan.why}")
    tokens, peak = sum(result.tokens.values()), result.machine.flops_per_s
    recomputed, fits = plan.checkpoint_activations, plan.fits
    way = f"{plan.parallel}{', blocks recomputed' if recomputed else ''}{'' if fits else ', does not fit'}"
    if "memory_gib" in published:
        yield Figure(name, "memory, GiB", published["memory_gib"], plan.memory_bytes.peak / GIB, way)
    if "tokens_per_s" in published:
        rate = published["tokens_per_s"]
        yield Figure(name, TOKENS, rate, plan.samples_per_s * tokens / plan.gpus, way)
        counted = published["tflops"] * 1e12 if "tflops" in published else published.get("mfu", 0) * peak
        if counted:
            yield Figure(name, "GFLOP a token", counted / rate / 1e9, result.step_flops_per_sample / tokens / 1e9, way)
    elif "tflops" in published:
        yield Figure(name, "TFLOP/s", published["tflops"], plan.utilization * peak / 1e12, way)


def planned(run: Mapping[str, Any], decoders: Mapping[str, Any]) -> PlanResult:
    """What `mmdit plan` would say."""
    config = _config(run, decoders)
    machine = read_machine(run["card"], OwnNumbers(card_memory=run.get("memory")), run.get("gpus_per_node", 8), "bf16")
    wanted = Wanted(
        gpus=[run["gpus"]],
        ways=[read_spreading(run["parallel"])],
        machine=machine,
        dtype=torch.bfloat16,
        compute_share=read_share(UTILIZATION, "--utilization"),
        batch_per_gpu=run["batch"],
    )
    return make_plans(config, wanted)


def _config(run: Mapping[str, Any], decoders: Mapping[str, Any]) -> ToolConfig:
    name, recomputed = run["config"], run.get("recomputed", False)
    if name not in decoders:
        return load_tool_config(name, [*run["set"], f"model.checkpoint_activations={str(recomputed).lower()}"])
    model = decoder(**decoders[name]) | {"checkpoint_activations": recomputed}
    return as_tool_config({"name": name, "model": model, "run": {"tokens": {"text": decoders[name]["length"]}}})


def decoder(
    *,
    dim: int,
    depth: int,
    heads: int,
    hidden: int,
    vocabulary: int,
    length: int,
    kv_heads: int | None = None,
    gpt: bool = False,
) -> dict[str, Any]:
    """A network for language as a config's model: one modality in single-stream blocks, those of Llama or of GPT."""
    text: dict[str, Any] = {
        "dim": dim,
        "input": {"kind": "tokens", "vocabulary": vocabulary, "max_length": length},
        "output": {"kind": "linear", "dim": vocabulary, "bias": False},
    }
    model = {
        "depth": 0,
        "single_stream": {"depth": depth, "kind": "sequential"},
        "modalities": {"text": text},
        "heads": heads,
        "dim_head": dim // heads,
        "attention": {"bias": gpt, "kv_heads": kv_heads},
        "feedforward": {"dim": hidden, "kind": "gelu" if gpt else "swiglu", "bias": gpt},
        "norm": {"kind": "layer" if gpt else "rms"},
    }
    if not gpt:
        text["rotary"] = {"axes": [0]}
        model["rotary"] = {"axes": [dim // heads]}
    return model


def _digits(value: float, count: int) -> str:
    """So many that count, and no exponent."""
    return f"{float(f'{value:.{count}g}'):,.12g}"
