"""The measurement of a training step that is spread over processes: by process its time, what of it is computing and
what is communication, what it sends, and its memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.autograd.profiler import profile, record_function

from mmdit.config import build
from mmdit_cli.memory.measured import MemoryUse, measure_spread_memory
from mmdit_cli.model_parts.collectives import CollectiveCounter
from mmdit_cli.model_parts.flop_count import CONVENTION, count_flops, outputs_sum
from mmdit_cli.model_parts.processes import Processes
from mmdit_cli.model_parts.tensor_bytes import local
from mmdit_cli.model_parts.timed_call import Call
from mmdit_cli.profile.profile_settings import Progress, Settings
from mmdit_cli.profile.statistics import Latency, is_known, summarize
from mmdit_cli.profile.step_spans import STEP, StepSplit, mean_split, split_events
from mmdit_cli.profile.timing import FEWEST_ROUNDS, Stopwatch
from mmdit_cli.request.inputs import ModelInputs, example_inputs, outputs_by_name
from mmdit_cli.request.tool_config import ToolConfig

PROFILED = 3  # steps
TOLERANCE = 0.02  # of the median, to which it is to be known
SPREAD = 0.02  # the standard deviation of weights that are drawn for their time alone


@dataclass(frozen=True)
class RankProfile:
    """One process: its step, its parts (of steps that were profiled apart), bytes that it sends by kind of collective,
    the collectives of a step, and its memory. A `part` of `parts` is given its own samples."""

    rank: int
    part: int
    latency_ms: Latency
    profiled_ms: StepSplit
    sent_bytes: dict[str, int]
    collectives: int
    memory_bytes: MemoryUse


@dataclass(frozen=True)
class SpreadProfile:
    """A training step over several processes. `layout`: the sizes of the mesh's dimensions. `batch_size`: samples of a
    step, of all processes. `latency_ms`: of the slowest process in each round. `flops`: of the whole step;
    `achieved_flops_per_s`: of each process."""

    config: str
    mode: Literal["train"]
    parallel: str
    processes: int
    layout: dict[str, int]
    batch_size: int
    tokens: dict[str, int]
    parameters: int
    flops: int
    latency_ms: Latency
    samples_per_s: float
    tokens_per_s: float
    achieved_flops_per_s: float
    ranks: list[RankProfile]
    convention: str


def profile_spread(
    config: ToolConfig,
    settings: Settings,
    group: Processes,
    *,
    on_progress: Progress = lambda stage, done, total: None,
) -> SpreadProfile | None:
    """Measure a training step with AdamW, spread over the processes of a group, each of which has to call it; the main
    one is told the result. A process computes `run.batch_size` samples; those that share samples share these.

    Where weights are sharded, they and the optimizer's state are in float32, and FSDP gathers and computes in the
    settings' dtype; of `ddp` that is autocast's.

    Raises:
        UserError: the network can't be spread so.
    """
    group.check(config.model)
    on_progress(f"{config.name}: first steps", 0, None)
    model, step = spread_step(config, settings, group)
    stopwatch = Stopwatch(settings.device)
    step()
    memory = measure_spread_memory(model, step, settings.device, optimizer=step.optimizer)
    step()
    times = _rounds(step, settings, group, stopwatch, lambda runs: on_progress(f"{config.name}: measuring", runs, None))
    on_progress(f"{config.name}: communication", 0, None)
    with CollectiveCounter() as counter:
        step()
    sent: dict[str, int] = {}
    for collective, traffic in counter.total().items():
        sent[collective.kind] = sent.get(collective.kind, 0) + round(traffic.sent(collective))
    splits = [_profiled(step, settings.device, group) for _ in range(1 + PROFILED)][1:]  # the first starts the profiler
    own = RankProfile(
        rank=group.rank,
        part=group.place[0],
        latency_ms=summarize(times),
        profiled_ms=mean_split(splits),
        sent_bytes=sent,
        collectives=sum(traffic.calls for traffic in counter.total().values()),
        memory_bytes=memory,
    )
    ranks, every = group.gathered(own), group.gathered(times)
    return _result(config, group, ranks, [max(each) for each in zip(*every, strict=True)]) if group.main else None


def spread_step(config: ToolConfig, settings: Settings, group: Processes) -> tuple[nn.Module, Call]:
    """The model, spread, and its training step on random inputs, those of each part of the batch its own."""
    device, sharded = settings.device, group.sharded
    low = None if settings.dtype == torch.float32 else settings.dtype
    torch.manual_seed(settings.seed)
    with torch.device("meta" if sharded else device):  # no process holds the whole
        model = build(config.model)
    group.shard(model, param_dtype=low)
    if sharded:
        _fill(model, device)
    fed = settings.dtype if sharded else torch.float32
    inputs = example_inputs(config, device=device, dtype=fed, seed=settings.seed + group.place[0])
    call = Call(model, inputs, config, "train", optimizer=torch.optim.AdamW(model.parameters(), lr=0.0, fused=True))
    network = group.network(model, lambda: _some_unused(config, model, inputs))
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    if low is not None and not sharded:
        autocast = lambda: torch.autocast(device.type, low)  # noqa: E731

    def run(**given: object) -> object:
        with autocast():
            return network(**given)

    call.run_model = run
    return model, call


def _fill(model: nn.Module, device: torch.device) -> None:
    """Give a model of the meta device weights, each process its part."""
    model.to_empty(device=device)
    with torch.no_grad():
        for weight in model.parameters():
            local(weight).normal_(0, SPREAD)


def _some_unused(config: ToolConfig, model: nn.Module, inputs: ModelInputs) -> bool:
    """Whether a weight gets no gradient."""
    loss = outputs_sum(outputs_by_name(config, model(**inputs.kwargs)))
    return any(each is None for each in torch.autograd.grad(loss, [*model.parameters()], allow_unused=True))


def _rounds(
    step: Callable[[], object],
    settings: Settings,
    group: Processes,
    stopwatch: Stopwatch,
    on_round: Callable[[int], None],
) -> list[float]:
    """Seconds of steps that all processes begin together, until the main one knows its median well enough."""
    times: list[float] = []
    began = time.perf_counter()

    def enough() -> bool:
        if settings.repeats is not None:
            return len(times) >= settings.repeats
        late = time.perf_counter() - began >= settings.max_seconds
        return len(times) >= FEWEST_ROUNDS and (late or is_known(times, TOLERANCE))

    while not group.any(group.main and enough()):
        times.append(stopwatch(step))
        on_round(len(times))
    return times


def _profiled(step: Callable[[], object], device: torch.device, group: Processes) -> StepSplit:
    """The parts of one step, which all processes begin together."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would announce itself on standard error
    cuda = device.type == "cuda"
    with profile(use_device="cuda" if cuda else None) as profiler:
        group.wait()
        with record_function(STEP):
            step()
            if cuda:
                torch.cuda.synchronize(device)
    assert profiler.kineto_results is not None  # it has ended
    return split_events(profiler.kineto_results.events(), cuda=cuda)


def _result(config: ToolConfig, group: Processes, ranks: list[RankProfile], slowest: list[float]) -> SpreadProfile:
    counted, parts = count_flops(config), group.place[1]
    latency = summarize(slowest)
    seconds, flops = latency.median / 1e3, counted.step_flops * parts
    return SpreadProfile(
        config=config.name,
        mode="train",
        parallel=group.spreading.text,
        processes=group.size,
        layout=group.layout,
        batch_size=counted.batch_size * parts,
        tokens=counted.tokens,
        parameters=counted.parameters,
        flops=flops,
        latency_ms=latency,
        samples_per_s=counted.batch_size * parts / seconds,
        tokens_per_s=counted.batch_size * parts * sum(counted.tokens.values()) / seconds,
        achieved_flops_per_s=flops / group.size / seconds,
        ranks=ranks,
        convention=CONVENTION,
    )
