"""What a forward pass or a training step would hold, without the memory for it.

The model is run under fake tensors, shortened: its figures are those of the whole. Where two like blocks do not differ
by the same amount throughout, the whole model is run.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch

from mmdit_cli.memory.fake_tensors import FakeTensorMode, StorageTracker, fake_inputs, fake_parameters
from mmdit_cli.memory.measured import Phase, highest
from mmdit_cli.memory.optimizer_step import optimizer_bytes, with_gradients
from mmdit_cli.memory.shortened import BlockFollower, followed_call, lengthened, peak_of, shorten
from mmdit_cli.memory.training import PROFILED, Training
from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.model_parts.follower import BACKWARD, FORWARD, OPTIMIZER
from mmdit_cli.model_parts.tensor_bytes import model_bytes, total_bytes
from mmdit_cli.model_parts.timed_call import Mode
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.tool_config import ToolConfig


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
    runs = [] if whole else shorten(model)
    with possible(config), FakeTensorMode():
        fake_parameters(model, fake)
        # its cache of cast weights ends with the forward pass, and holds less than the gradients that come after it
        cast = mode == "train" and training.weights_dtype(dtype) != dtype
        autocast = nullcontext() if not cast else torch.autocast(fake.type, dtype, cache_enabled=False)
        kwargs, blocks = fake_inputs(inputs.kwargs, fake), BlockFollower(model)
        tracker = StorageTracker(blocks.here)
        tracker.ignore([*model.parameters(), *model.buffers(), kwargs])
        after_forward, after_backward = followed_call(model, config, kwargs, blocks, tracker, autocast)
    added = lengthened(tracker.curves, runs)
    if added is None:
        return estimate(config, mode, dtype, device, batch_size, checkpoint, training=training, whole=True)
    grown_forward = sum(each.run.missing * each.forward for each in added)
    grown_backward = sum(each.run.missing * each.backward for each in added)
    phases = [
        Phase(FORWARD, 0, peak_of(tracker.curves, FORWARD, added), after_forward + grown_forward),
    ]
    gradients = optimizer = ema = 0
    if mode == "train":
        left = after_backward + grown_backward
        phases.append(Phase(BACKWARD, phases[0].end, peak_of(tracker.curves, BACKWARD, added), left))
        shapes = with_gradients(model, runs)
        gradients = sum(torch.Size(shape).numel() * kind.itemsize * count for shape, kind, count in shapes)
        optimizer, temporaries = optimizer_bytes(training.optimizer, model, runs, str(fake), device.type == "cuda")
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
