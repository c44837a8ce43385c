"""How far `mmdit profile` and `mmdit flops` can be believed, each claim with its goal beside what was found.

What the commands take on an 8-billion model, latency against a bare loop around the same model, what instrumenting
costs, whether the components add up, how often two models of one config are told apart, memory estimated and measured,
FLOPs against torch's counter for every shipped config."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.paths import CONFIGS
from mmdit.config import build
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.memory.measured import measure_memory
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.model_parts.timed_call import Call, Mode
from mmdit_cli.output.document import device_name
from mmdit_cli.profile.measurement import profile_configs
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.statistics import compare, summarize
from mmdit_cli.profile.timing import Rounds, Stopwatch, run_rounds, warm_up
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import as_tool_config, load_tool_config

CPU = torch.device("cpu")
LARGE = CONFIGS / "sd3.5-large.yaml"
TIMED: list[tuple[str, Mode]] = [("two-modality", "forward"), ("two-modality", "train"), ("adaptive", "forward")]
ROUNDS = 25  # of the profile's call and a bare one
FEWEST_OF_INTERVAL = 6  # runs
PAIRS = 400  # of models of the same config
SIZES: dict[str, dict[str, Any]] = {  # of the memory that is estimated and measured
    "small": dict(dim=256, depth=4, tokens=(77, 256), batch=4),
    "middle": dict(dim=512, depth=6, tokens=(154, 1024), batch=2),
    "large": dict(dim=1024, depth=8, tokens=(154, 1024), batch=2),
}


@dataclass(frozen=True)
class Claim:
    """A claim, its goal, what was found, and whether that is good enough."""

    what: str
    goal: str
    found: str
    good: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'MISS'}  {self.what}: {self.found} (goal: {self.goal})"


def claims(quick: bool) -> Iterator[Claim]:
    # first, for a child's largest memory begins at its parent's
    for command in (["flops"], ["shape-check"], ["profile", "--estimate", "--mode", "train", "--dtype", "bf16"]):
        yield taken(command)
    for name, mode in TIMED[: 1 if quick else None]:
        yield from latency(name, mode, 6 if quick else ROUNDS)
    yield indistinguishable(40 if quick else PAIRS)
    for size in list(SIZES)[: 1 if quick else None]:
        for checkpoint in (False, True):
            yield memory(size, checkpoint)
    yield first_command(1 if quick else 5)
    yield counted([p for p in sorted(CONFIGS.glob("*.yaml")) if not quick or "toy" in p.stem])


def latency(name: str, mode: Mode, rounds: int) -> Iterator[Claim]:
    """What `profile` times against a bare loop around the same model, in turns; its components."""
    config = load_tool_config(CONFIGS / f"{name}.yaml")
    torch.manual_seed(0)
    call = Call(build(config.model), example_inputs(config), config, mode)
    stopwatch = Stopwatch(CPU)
    warm_up(call, stopwatch)
    timed, bare = run_rounds([call, bare_call(call)], stopwatch, repeats=rounds)
    ratio = compare(timed, bare, to="bare")
    (result,) = profile_configs([config], Settings(mode=mode))
    assert result.instrumented is not None
    overhead = result.instrumented.ratio - 1
    share = sum(row.time_ms for row in result.components) / result.latency_ms.median
    what = f"{name}, {mode}"
    found = f"{ratio.ratio - 1:+.1%}" + (
        "" if ratio.low is None or ratio.high is None else f" ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
    )
    yield Claim(f"{what}: latency against a bare loop", "within 3%", found, abs(ratio.ratio - 1) <= 0.03)
    yield Claim(f"{what}: latency with components timed", "at most +5%", f"{overhead:+.1%}", overhead <= 0.05)
    yield Claim(f"{what}: sum of the components' shares", "0.95 to 1", f"{share:.3f}", 0.95 <= share <= 1)


def bare_call(call: Call) -> Callable[[], None]:
    """The same call as a user would write it. Around a model of its own it would differ by some percent for where its
    tensors lie in memory, and by more for when it was run."""
    model, arguments, optimizer = call.model, call.inputs.kwargs, call.optimizer

    def forward() -> None:
        with torch.inference_mode():
            model(**arguments)

    def train() -> None:
        out = model(**arguments)
        sum(x.float().sum() for x in (out.values() if isinstance(out, dict) else out) if x is not None).backward()
        assert optimizer is not None
        optimizer.step()
        optimizer.zero_grad()

    return forward if optimizer is None else train


def indistinguishable(pairs: int) -> Claim:
    """The same config twice, `pairs` times, as `profile` measures and compares several configs."""
    data = {"depth": 2, "modalities": {"text": {"dim": 128}, "image": {"dim": 128}}, "heads": 4, "dim_head": 32}
    run = {"batch_size": 1, "tokens": {"text": 32, "image": 128}}
    config = as_tool_config({"name": "twin", "model": data, "run": run})
    model, inputs = build(config.model), example_inputs(config)  # one, as there: two lie differently in the caches
    calls = [Call(model, inputs, config, "forward") for _ in "ab"]
    stopwatch = Stopwatch(CPU)
    alike = 0
    for seed in range(pairs):
        first, second = run_rounds(calls, stopwatch, repeats=25, seed=seed)
        alike += not compare(second, first, to="a").distinguishable
    least = 0.95 * pairs - 2 * math.sqrt(0.95 * 0.05 * pairs)
    claim = f"one config given twice, compared {pairs} times: can't be told apart"
    return Claim(claim, f"19 times in 20 (by chance {least:.0f} or more)", f"{alike} times", alike >= least)


def memory(size: str, checkpoint: bool) -> Claim:
    """A training step's peak in bf16, estimated under fake tensors and measured."""
    s = SIZES[size]
    model = {
        "depth": s["depth"],
        "modalities": {"text": {"dim": s["dim"]}, "image": {"dim": s["dim"]}},
        "heads": s["dim"] // 64,
        "dim_head": 64,
        "dim_cond": 256,
        "qk_rmsnorm": True,
        "checkpoint_activations": checkpoint,
    }
    run = {"batch_size": s["batch"], "tokens": dict(zip(("text", "image"), s["tokens"], strict=True))}
    config = as_tool_config({"name": size, "model": model, "run": run})
    guess = estimate(config, "train", torch.bfloat16, CPU).peak
    inputs = example_inputs(config, dtype=torch.bfloat16)
    call = Call(build(config.model).to(torch.bfloat16), inputs, config, "train")
    call()
    found = measure_memory(call.model, call, CPU, optimizer=call.optimizer).peak
    off = guess / found - 1
    claim = f"training memory, {size}{', checkpointed' if checkpoint else ''} ({found / 1e9:.2f} GB), estimated"
    return Claim(claim, "within 10%", f"{off:+.1%}", abs(off) <= 0.1)


def counted(paths: list[Path]) -> Claim:
    """Parameters and FLOPs of every shipped config against torch's own counter on the meta device."""
    equal = []
    for path in paths:
        config = load_tool_config(path)
        model_config = replace(config.model, checkpoint_activations=False)
        with torch.device("meta"):
            model = build(model_config)
        with FlopCounterMode(display=False) as forward:
            out = model(**example_inputs(config, device="meta").kwargs)
        with FlopCounterMode(display=False) as backward:
            sum(x.sum() for x in (out.values() if isinstance(out, dict) else out) if x is not None).backward()
        ours = count_flops(config)
        theirs = (forward.get_total_flops(), backward.get_total_flops(), sum(p.numel() for p in model.parameters()))
        equal.append((ours.forward_flops, ours.backward_flops, ours.parameters) == theirs)
    claim = f"{len(paths)} shipped configs: parameters, forward and backward FLOPs equal flop_counter's"
    return Claim(claim, "all", f"{sum(equal)}", all(equal))


def taken(command: list[str]) -> Claim:
    """Seconds and memory of a command on an 8-billion model, the best of three."""
    best, most = float("inf"), 0
    for _ in range(3):
        began = time.perf_counter()
        arguments = [sys.executable, "-m", "mmdit_cli", *command, "-c", str(LARGE), "--json"]
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, command
        best, most = min(best, time.perf_counter() - began), max(most, usage.ru_maxrss)
    size = most * (1 if platform.system() == "Darwin" else 1024)
    found = f"{best:.1f} s, {size / 1e9:.2f} GB"
    return Claim(f"mmdit {' '.join(command)} on sd3.5-large", "under 5 s, 1 GB", found, best < 5 and size < 1e9)


def first_command(times: int) -> Claim:
    """README's first command in processes of its own: the median of its seconds, and of its intervals."""
    seconds, within = [], []
    for _ in range(times):
        began = time.perf_counter()
        command = [sys.executable, "-m", "mmdit_cli", "profile", "-c", str(CONFIGS / "two-modality.yaml"), "--json"]
        done = subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - began)
        within.append(_within(json.loads(done.stdout)["results"][0]["latency_ms"]))
    found, reach = statistics.median(seconds), statistics.median(within)
    claim = f"mmdit profile on two-modality, {times} times: seconds, and the interval of its latency"
    return Claim(claim, "under 12 s, within 2%", f"{found:.1f} s, ± {reach:.1%}", found < 12 and reach <= 0.02)


def narrowing(most: float = 32.0) -> dict[float, float]:
    """By seconds of calls of two-modality, how far the median of the calls made by then may be off, at 95 %."""
    config = load_tool_config(CONFIGS / "two-modality.yaml")
    torch.manual_seed(0)
    call, stopwatch = Call(build(config.model), example_inputs(config), config, "forward"), Stopwatch(CPU)
    warm_up(call, stopwatch)
    rounds = Rounds([call], stopwatch)
    rounds.run(max_seconds=most, known=lambda: False)
    (taken,), falls, seconds = rounds.times, {}, 2.0
    while seconds <= most:
        made = [t for t, spent in zip(taken, itertools.accumulate(taken), strict=True) if spent <= seconds]
        if len(made) >= FEWEST_OF_INTERVAL:
            falls[seconds] = _within(asdict(summarize(made)))
        seconds *= 2
    return falls


def _within(latency: dict[str, Any]) -> float:
    low, high = latency["ci_low"], latency["ci_high"]
    return math.inf if low is None else (high - low) / 2 / latency["median"]


INTRODUCTION = """# How far the figures can be believed

Written by `python -m benchmarks.accounting accuracy --write docs/reports/profile.md`. Latency: 25 rounds of the
call that `profile` times and of a bare one around the same model, in random order; the median ratio and its 95 %
interval. Two builds of a model, timed one after the other, differed by up to 5 % on this machine; that is why `profile`
measures several configs in rounds.

"""


NARROWING = """
How the interval of two-modality's latency falls with the seconds that calls of it take (`profile` ends at ± 2 %, after
6 s at most):
"""


def document(found: list[Claim], falls: dict[float, float]) -> str:
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    about = f"{device_name('cpu')}, {torch.get_num_threads()} threads, {versions}"
    rows = [f"| {x.what} | {x.goal} | {x.found} | {'yes' if x.good else '**no**'} |" for x in found]
    head = ["| claim | goal | found | met |", "| --- | --- | --- | --- |"]
    fall = ["| seconds | interval |", "| --- | --- |", *(f"| {s:g} | ± {reach:.1%} |" for s, reach in falls.items())]
    return INTRODUCTION + "\n".join([about, "", *head, *rows, NARROWING, *fall]) + "\n"
