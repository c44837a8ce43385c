"""What a forward pass or a training step would hold, without the memory for it.

The model is run under fake tensors. Of a run of more than four blocks that are alike only four are run: the second and
third tell what one more block adds before, in and after its forward and its backward pass, so the figures are those of
the whole model. Where those two blocks do not differ by the same amount throughout, the whole model is run.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from mmdit.networks.transformer import MMDiT
from mmdit_cli.memory.fake_tensors import FakeTensorMode, StorageTracker, fake_inputs, fake_parameters
from mmdit_cli.memory.measured import Phase, highest
from mmdit_cli.memory.training import OPTIMIZERS, PROFILED, OptimizerName, Training
from mmdit_cli.model_parts.components import OTHER, Component
from mmdit_cli.model_parts.flop_count import meta_model, outputs_sum
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD, OPTIMIZER, Follower
from mmdit_cli.model_parts.like_blocks import keep_blocks, like_blocks
from mmdit_cli.model_parts.tensor_bytes import model_bytes, total_bytes
from mmdit_cli.model_parts.timed_call import Mode
from mmdit_cli.request.inputs import example_inputs, outputs_by_name
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.tool_config import ToolConfig

KEPT = 4  # of a run of like blocks: the first, two between, the last
Shapes = tuple[tuple[tuple[int, ...], torch.dtype, int], ...]  # shape, type, how many


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, named as in `MemoryUse`. `kernels` says whose operators were followed: the CPU's stand in for those of a
    CUDA device that torch does not see here. `trained`: parameters that a step changes, which `parameters` does not
    count where they are a LoRA's."""

    config: str
    mode: Mode
    dtype: str
    batch_size: int
    checkpointed: bool
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporaries: int
    peak: int
    peak_phase: str
    kernels: str
    ema: int = 0
    trained: int = 0
    training: Training | None = None


def estimate(
    config: ToolConfig,
    mode: Mode,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int | None = None,
    checkpoint: bool | None = None,
    *,
    training: Training = PROFILED,
    whole: bool = False,
) -> MemoryEstimate:
    """Estimate the memory of one call, without `training` as `profile` makes it; nothing of the model's size is
    allocated.

    Args:
        mode: "forward" without gradients, or "train": forward, backward and the optimizer's step, its state being
            there.
        device: a CUDA device that torch does not see is stood in for by the CPU's operators.
        batch_size: None: the config's.
        checkpoint: recompute each block's activations in the backward pass; None: as the config says.
        training: what a step of mode "train" keeps.
        whole: run every block.

    Raises:
        ValueError: the model can't be built, or its sizes are beyond any machine.
    """
    if checkpoint is None:
        checkpoint = config.model.checkpoint_activations
    kernels = "cuda" if device.type == "cuda" and torch.cuda.is_available() else "cpu"
    fake = torch.device(device if kernels == "cuda" else "cpu")
    kept = training.model_dtype(dtype) if mode == "train" else dtype
    with possible(config):
        inputs = example_inputs(config, device="meta", dtype=kept, batch_size=batch_size)
        model = meta_model(config, kept, checkpoint=checkpoint)
    model.train(mode == "train").requires_grad_(mode == "train")
    parameters = sum(p.numel() for p in model.parameters())
    if mode == "train":
        training.prepare(model, dtype)
    weights, trained = model_bytes(model), [p for p in model.parameters() if p.requires_grad]
    averaged, count = total_bytes(trained) if training.lora_rank else weights, sum(p.numel() for p in trained)
    del trained  # they are to be replaced by fake ones
    runs = [] if whole else _shorten(model)
    with possible(config), FakeTensorMode():
        fake_parameters(model, fake)
        # its cache of cast weights ends with the forward pass, and holds less than the gradients that come after it
        cast = mode == "train" and training.weights_dtype(dtype) != dtype
        autocast = nullcontext() if not cast else torch.autocast(fake.type, dtype, cache_enabled=False)
        tracker, after_forward, after_backward = _run(model, config, fake_inputs(inputs.kwargs, fake), autocast)
    added = [_added(tracker, run) for run in runs]
    if any(each is None for each in added):
        return estimate(config, mode, dtype, device, batch_size, checkpoint, training=training, whole=True)
    lengthened = [(run, *each) for run, each in zip(runs, added, strict=True) if each is not None]
    grown_forward = sum(run.missing * forward for run, forward, _ in lengthened)
    grown_backward = sum(run.missing * backward for run, _, backward in lengthened)
    phases = [
        Phase(FORWARD, 0, _peak(tracker, FORWARD, lengthened), after_forward + grown_forward),
    ]
    gradients = optimizer = ema = 0
    if mode == "train":
        left = after_backward + grown_backward
        phases.append(Phase(BACKWARD, phases[0].end, _peak(tracker, BACKWARD, lengthened), left))
        shapes = _with_gradients(model, runs)
        gradients = sum(torch.Size(shape).numel() * kind.itemsize * count for shape, kind, count in shapes)
        optimizer, temporaries = _stepped(training.optimizer, shapes, str(fake), device.type == "cuda")
        ema = averaged if training.ema else 0
        phases.append(Phase(OPTIMIZER, left, left + temporaries, 0))
    top = highest(phases)
    return MemoryEstimate(
        config=config.name,
        mode=mode,
        dtype=str(dtype).removeprefix("torch."),
        batch_size=inputs.batch_size,
        checkpointed=checkpoint,
        parameters=parameters,
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=phases[0].end,
        temporaries=top.temporaries,
        peak=weights + optimizer + ema + top.peak,
        peak_phase=top.name,
        kernels=kernels,
        ema=ema,
        trained=count,
        training=training if mode == "train" else None,
    )


# ------------------------------------------------------------------------------------------------ the model shortened


@dataclass(frozen=True)
class _Run:
    """Like blocks of which some are missing: they belong between `blocks[1]` and `blocks[2]` of those kept."""

    first: int  # the place of the first one among all blocks kept
    missing: int
    blocks: list[nn.Module]


def _shorten(model: nn.Module) -> list[_Run]:
    """Take the repeated blocks out of the model, in place."""
    runs, kept, place = [], [], 0
    groups = like_blocks(model)
    for group in groups:
        blocks = group.blocks
        if len(blocks) > KEPT:
            missing, blocks = len(blocks) - KEPT, [*blocks[:2], *blocks[-2:]]
            runs.append(_Run(place, missing, blocks))
        kept.append(blocks)
        place += len(blocks)
    keep_blocks(groups, kept)
    return runs


def _added(tracker: StorageTracker, run: _Run) -> tuple[int, int] | None:
    """Bytes that one more block leaves after its forward pass, and after its backward pass; None: it depends."""
    steps = []
    for phase, one, next_ in ((FORWARD, 1, 2), (BACKWARD, 2, 1)):
        before, after = (tracker.curves.get((phase, run.first + index), []) for index in (one, next_))
        differences = {b - a for a, b in zip(before, after, strict=False)} or {0}
        if len(before) != len(after) or len(differences) > 1:
            return None
        steps.append(differences.pop())
    forward, freed = steps
    return forward, freed + forward  # its backward pass lets its activations go


def _peak(tracker: StorageTracker, phase: str, runs: list[tuple[_Run, int, int]]) -> int:
    """The highest point of a phase with the missing blocks' bytes put in."""
    peak = 0
    for (name, place), curve in tracker.curves.items():
        if name == phase:
            more = sum(
                run.missing * (forward if place >= run.first + 2 else 0 if phase == FORWARD else backward)
                for run, forward, backward in runs
            )
            peak = max(peak, max(curve) + more)
    return peak


# ------------------------------------------------------------------------------------------------------ what is run


class _Blocks(Follower):
    """Knows the block that ran last: what lies between two blocks is the earlier one's, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        owners = [module for module in model.modules() if isinstance(module, MMDiT)]
        blocks = [block for owner in owners for block in (*owner.blocks, *owner.single_blocks)]
        super().__init__([Component(str(index), None, [block]) for index, block in enumerate(blocks)])
        self.last = -1  # before the first

    def entered(self) -> None:
        if self.running.name != OTHER:
            index = int(self.running.name)
            self.last = index if self.phase == FORWARD else min(index, self.last)


def _run(
    model: nn.Module, config: ToolConfig, kwargs: dict[str, Any], autocast: AbstractContextManager[Any]
) -> tuple[StorageTracker, int, int]:
    """What was held when, and bytes held after the forward and the backward pass, as `profile` calls the model."""
    blocks = _Blocks(model)
    tracker = StorageTracker(lambda: (blocks.phase, blocks.last))
    tracker.ignore([*model.parameters(), *model.buffers(), kwargs])
    with blocks, tracker:
        if not model.training:
            with torch.no_grad():
                model(**kwargs)
            return tracker, tracker.held, 0
        with autocast:
            outputs = outputs_by_name(config, model(**kwargs))
        loss = outputs_sum(outputs)
        del outputs
        forward = tracker.held
        blocks.start(BACKWARD)
        loss.backward()
        return tracker, forward, tracker.held


def _with_gradients(model: nn.Module, runs: list[_Run]) -> Shapes:
    """The parameters that got a gradient, those of the missing blocks as well."""
    times = {id(p): 1 + run.missing for run in runs for p in run.blocks[1].parameters()}
    counts: Counter[tuple[tuple[int, ...], torch.dtype]] = Counter()
    for p in model.parameters():
        if p.grad is not None:
            counts[tuple(p.shape), p.dtype] += times.get(id(p), 1)
    return tuple((shape, kind, count) for (shape, kind), count in counts.items())


@lru_cache(maxsize=16)
def _stepped(name: OptimizerName, shapes: Shapes, device: str, foreach: bool) -> tuple[int, int]:
    """Bytes of an optimizer's state, and of what its step takes besides: one parameter after another, or (as on CUDA)
    all at once. Each shape is stepped once."""
    with FakeTensorMode():
        parameters = []
        for shape, kind, _ in shapes:
            p = nn.Parameter(torch.empty(shape, dtype=kind, device=device))
            p.grad = torch.empty_like(p)
            parameters.append(p)
        momentum = {"momentum": 0.9} if name == "sgd" else {}
        optimizer = OPTIMIZERS[name](parameters, lr=0.0, foreach=foreach, **momentum)
        optimizer.step()
        tracker = StorageTracker()
        tracker.ignore([parameters, [p.grad for p in parameters], [list(s.values()) for s in optimizer.state.values()]])
        with tracker:
            optimizer.step()
        state = 0
        for p, (_, _, count) in zip(parameters, shapes, strict=True):
            state += count * total_bytes(x for x in optimizer.state[p].values() if isinstance(x, Tensor))
        taken = max((max(curve) for curve in tracker.curves.values()), default=0)
        if foreach:
            stepped = total_bytes(parameters)
            total = sum(
                count * p.numel() * p.element_size() for p, (_, _, count) in zip(parameters, shapes, strict=True)
            )
            taken = round(taken * total / stepped) if stepped else 0
        return state, taken
