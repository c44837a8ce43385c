"""Whole networks on a GPU: a forward pass, training, sampling; and two devices."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.goals import Line
from benchmarks.speed.sides import draw, step
from mmdit.config import build
from mmdit.networks.transformer import MMDiT
from mmdit.sampling import sample
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.profile.statistics import compare
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config

Rounds = Callable[[dict[str, Callable[[], None]], str], dict[str, list[float]]]
BF16 = torch.bfloat16
STEPS = 4  # of a sampler
TOY = (
    "train-toy",
    "--config",
    "toy-two-modality",
    "--steps",
    "60",
    "--set",
    "train.batch_size=256",
    "--device",
    "cuda",
)


def network(name: str, mode: str, flops: float, device: str, rounds: Rounds) -> Iterator[Line]:
    """A shipped network with drawn weights, eager and with each block compiled, beside the ceiling."""
    config = load_tool_config(name, [])
    net, call = _built(config, device)
    leaves = list(net.parameters())

    def run() -> list[Tensor]:
        return list(outputs_by_name(config, net(**call)).values())

    times = rounds({"eager": step(run, mode, leaves)}, device)
    _compile_blocks(net)
    times |= rounds({"compiled blocks": step(run, mode, leaves)}, device)
    work = count_flops(config).forward_flops * (1 if mode == "forward" else 3)
    for kind, taken in times.items():
        middle = median(taken)
        yield Line(
            f"the network {name}, {mode}, {kind}", f"{middle * 1e3:.2f} ms, {work / middle / flops:.1%} of the ceiling"
        )


def sampling(name: str, device: str, rounds: Rounds) -> Iterator[Line]:
    """What the sampler adds to the forward passes of its steps."""
    config = load_tool_config(name, [])
    net, call = _built(config, device)
    drawn = [modality for modality, end in config.model.modalities.items() if end.output is not None]
    noise = {modality: call["inputs"][modality] for modality in drawn}

    def velocity(x: Mapping[str, Tensor], times: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = net(**call | dict(inputs={**call["inputs"], **x}, timestep=times[drawn[0]]))
        return found

    def forward() -> list[Tensor]:
        return list(outputs_by_name(config, net(**call)).values())

    def run() -> list[Tensor]:
        return list(sample(velocity, noise, steps=STEPS).values())

    times = rounds({"forward": step(forward, "forward", []), "sample": step(run, "forward", [])}, device)
    ratio = compare([seconds * STEPS for seconds in times["forward"]], times["sample"], to="forward")
    sampled = median(times["sample"]) * 1e3
    yield Line(
        f"sampling by {name}, {STEPS} steps", f"{sampled:.2f} ms; its forward passes alone: {ratio.ratio:.3f} of that"
    )


def two_devices() -> Iterator[Line]:
    """The same training by one process and by two."""
    rates = []
    for size in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
        with tempfile.TemporaryDirectory() as folder:
            run_dir = str(Path(folder) / "run")
            command = [sys.executable, *launch, "-m", "mmdit_cli", *TOY, "--run-dir", run_dir]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            yield Line(f"train-toy on {size} devices", last, "exit code 0", False)
            return
        rates.append(json.loads(done.stdout)["results"][0]["steps_per_s"])
    yield Line(
        "train-toy on 2 devices", f"{rates[1] / rates[0]:.2f} times the steps/s of one, the batch being the same"
    )


def _built(config: ToolConfig, device: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network with drawn weights, and the arguments of a call as the config's `run` says."""
    with torch.device(device):
        net = draw(build(config.model).to(BF16)).eval()
    return net, example_inputs(config, device=torch.device(device), dtype=BF16, seed=0).kwargs


def _compile_blocks(net: nn.Module) -> None:
    """Each block by itself, as they are alike: one compilation serves them all."""
    for stack in [module for module in net.modules() if isinstance(module, MMDiT)]:
        for block in (*stack.blocks, *stack.single_blocks):
            block.compile(dynamic=False)
