"""The profile of a model: time, memory, FLOPs and how close they come to what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mmdit.config import build
from mmdit_cli.fit import check_fits
from mmdit_cli.inputs import ModelInputs, example_inputs, outputs_by_name
from mmdit_cli.measure.attribution import Attribution
from mmdit_cli.measure.ceilings import Ceilings, measure_ceilings
from mmdit_cli.measure.components import OTHER, find_components
from mmdit_cli.measure.flops import CONVENTION, FlopsResult, count_flops, outputs_sum
from mmdit_cli.measure.memory import MemoryUse, measure_memory
from mmdit_cli.measure.timing import Latency, Stopwatch, repeat, warm_up
from mmdit_cli.schema import ToolConfig

Mode = Literal["forward", "train"]
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class ComponentProfile:
    """One component: milliseconds of one call of the model (of those, in the backward pass), its share of the whole,
    calls, FLOPs and parameters."""

    name: str
    kind: str
    modality: str | None
    calls: int
    time_ms: float
    backward_ms: float
    share: float
    flops: int
    parameters: int
    flops_per_s: float


@dataclass(frozen=True)
class ProfileResult:
    """One config's profile. The latency is that of the model as it is; the components' times come from a second set of
    runs with hooks, scaled by nothing: `instrumented_ms` says how long those took."""

    config: str
    mode: Mode
    compiled: bool
    compile_seconds: float | None
    batch_size: int
    tokens: dict[str, int]
    parameters: int
    flops: int
    latency_ms: Latency
    instrumented_ms: float | None
    samples_per_s: float
    tokens_per_s: float
    achieved_flops_per_s: float
    ceiling: Ceilings
    utilization: float
    memory_bytes: MemoryUse
    components: list[ComponentProfile]
    convention: str


class Call:
    """A model with its inputs as something to time: a forward pass, or a training step with AdamW."""

    def __init__(self, model: nn.Module, inputs: ModelInputs, config: ToolConfig, mode: Mode, *, compile: bool) -> None:
        self.model, self.inputs, self.config, self.mode = model, inputs, config, mode
        self.run_model: Callable[..., Any] = torch.compile(model) if compile else model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.0) if mode == "train" else None
        model.train(mode == "train")
        model.requires_grad_(mode == "train")

    def __call__(self, phase: Callable[[str], None] = lambda name: None) -> None:
        """One call; `phase` is told when forward, backward and the optimizer's step begin."""
        phase("")
        if self.optimizer is None:
            with torch.inference_mode():
                self.run_model(**self.inputs.kwargs)
            return
        loss = outputs_sum(outputs_by_name(self.config, self.run_model(**self.inputs.kwargs)))
        phase("backward: ")
        loss.backward()
        phase("optimizer: ")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def profile_configs(
    configs: Sequence[ToolConfig],
    *,
    mode: Mode = "forward",
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    compile: bool = False,
    repeats: int | None = None,
    max_seconds: float = 10.0,
    on_progress: Progress = lambda stage, done, total: None,
) -> list[ProfileResult]:
    """Profile each config's model in turn, against one measurement of the machine's ceilings.

    Args:
        mode: "forward" under `inference_mode`, or "train": forward, backward and AdamW's step (learning rate 0).
        repeats: measured runs; None: until the median is known to 2 % or `max_seconds` are up.
        on_progress: told the stage, what is done and the total (None where it is not known).
    """
    for config in configs:
        check_fits(config, mode, dtype, device)
    on_progress("ceilings", 0, None)
    ceiling = measure_ceilings(device, dtype)
    results = []
    for config in configs:
        on_progress(f"{config.name}: counting FLOPs", 0, None)
        flops = count_flops(config)
        torch.manual_seed(seed)
        with torch.device(device):
            model = build(config.model).to(dtype)
        inputs = example_inputs(config, device=device, dtype=dtype, seed=seed)
        call = Call(model, inputs, config, mode, compile=compile)
        results.append(
            _profile(call, flops, ceiling, device, repeats=repeats, max_seconds=max_seconds, on_progress=on_progress)
        )
    return results


def _profile(
    call: Call,
    flops: FlopsResult,
    ceiling: Ceilings,
    device: torch.device,
    *,
    repeats: int | None,
    max_seconds: float,
    on_progress: Progress,
) -> ProfileResult:
    name, stopwatch = call.config.name, Stopwatch(device)

    def told(stage: str) -> Callable[[int], None]:
        return lambda runs: on_progress(f"{name}: {stage}", runs, repeats if stage == "measuring" else None)

    warm = warm_up(call, stopwatch, max_seconds=max_seconds / 3, on_run=told("warming up"))
    latency = repeat(call, stopwatch, repeats=repeats, max_seconds=max_seconds, on_run=told("measuring"))
    compiled = call.run_model is not call.model

    rows: list[ComponentProfile] = []
    instrumented = None
    if not compiled:  # hooks in a compiled model would measure another one
        rows, instrumented = _components(call, flops, latency, device, told("components"))
    on_progress(f"{name}: memory", 0, None)
    memory = measure_memory(call.model, call, device, optimizer=call.optimizer)

    total = flops.step_flops if call.mode == "train" else flops.forward_flops
    seconds = latency.median / 1e3
    return ProfileResult(
        config=name,
        mode=call.mode,
        compiled=compiled,
        compile_seconds=warm[0] - seconds if compiled else None,
        batch_size=flops.batch_size,
        tokens=flops.tokens,
        parameters=flops.parameters,
        flops=total,
        latency_ms=latency,
        instrumented_ms=instrumented,
        samples_per_s=flops.batch_size / seconds,
        tokens_per_s=flops.batch_size * sum(flops.tokens.values()) / seconds,
        achieved_flops_per_s=total / seconds,
        ceiling=ceiling,
        utilization=total / seconds / ceiling.gemm_flops_per_s,
        memory_bytes=memory,
        components=rows,
        convention=CONVENTION,
    )


def _components(
    call: Call, flops: FlopsResult, latency: Latency, device: torch.device, told: Callable[[int], None]
) -> tuple[list[ComponentProfile], float]:
    """Median times by component over a few instrumented calls, and those calls' own median in milliseconds."""
    components = find_components(call.model)
    runs: list[dict[str, float]] = []
    with Attribution(components, device) as attribution:
        count = max(3, min(20, latency.runs))
        for index in range(count):
            attribution.calls.clear()
            call(attribution.start)
            runs.append(attribution.finish())
            told(index + 1)
        calls = dict(attribution.calls)
    # the run whose total is the median, so that its parts add up to it
    runs.sort(key=lambda times: sum(times.values()))
    chosen = runs[len(runs) // 2]
    total = sum(chosen.values())

    backward_factor = 3 if call.mode == "train" else 1
    rows = []
    counted = {row.name: row for row in flops.components}
    labels = [(c.name, c.kind, c.modality) for c in components] + [(OTHER, OTHER, None)]
    for name, kind, modality in labels:
        seconds = sum(chosen.get(phase + name, 0.0) for phase in ("", "backward: "))
        row = counted.get(name)
        work = row.flops * backward_factor if row else 0
        rows.append(
            ComponentProfile(
                name=name,
                kind=kind,
                modality=modality,
                calls=calls.get(name, 0),
                time_ms=seconds * 1e3,
                backward_ms=chosen.get("backward: " + name, 0.0) * 1e3,
                share=seconds / total,
                flops=work,
                parameters=row.parameters if row else 0,
                flops_per_s=work / seconds if seconds else 0.0,
            )
        )
    if call.mode == "train":
        seconds = chosen.get("optimizer: " + OTHER, 0.0)
        rows.append(ComponentProfile("optimizer", "optimizer", None, 1, seconds * 1e3, 0.0, seconds / total, 0, 0, 0.0))
    instrumented = statistics.median(sum(times.values()) for times in runs) * 1e3
    return rows, instrumented
