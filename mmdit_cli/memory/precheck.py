"""Does it fit? Asked before anything of a model's size is allocated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from mmdit_cli.errors import UserError
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.free_memory import free_memory

if TYPE_CHECKING:
    from mmdit_cli.memory.estimate import Mode
    from mmdit_cli.request.tool_config import ToolConfig


def check_fits(
    config: ToolConfig,
    mode: Mode,
    dtype: torch.dtype,
    device: torch.device,
    what: Literal["profile", "train-toy"] = "profile",
) -> None:
    """Refuse what would not fit into the memory that is free on the device.

    Raises:
        UserError: it says what is needed, what there is, and which changes would make it fit, each one tried.
    """
    from mmdit_cli.memory.estimate import estimate
    from mmdit_cli.memory.verdict import largest

    free = free_memory(device)
    if free is None:
        return
    batch = config.train.batch_size if what == "train-toy" else config.run.batch_size

    def needed(config: ToolConfig = config, mode: Mode = mode, dtype: torch.dtype = dtype, batch: int = batch) -> int:
        # drawn in float32 whatever the dtype; train-toy keeps float32 weights, and an average of them
        use = estimate(config, mode, torch.float32 if what == "train-toy" else dtype, device, batch)
        return max(4 * use.parameters, use.peak + (use.weights if what == "train-toy" else 0))

    total = needed()
    if total <= free:
        return
    key = "train" if what == "train-toy" else "run"
    smaller = largest(lambda n: needed(batch=n), free, most=batch - 1) if needed(batch=1) <= free else 0
    recomputing, recompute = _with_model(config, checkpoint_activations=True), "--set model.checkpoint_activations=true"
    ways: dict[str, int] = {}
    if smaller:
        ways[f"--set {key}.batch_size={smaller}"] = needed(batch=smaller)
    if mode == "train" and not config.model.checkpoint_activations:
        ways[recompute] = needed(recomputing)
    if what == "profile" and dtype.itemsize > 2:
        ways["--dtype bf16"] = needed(dtype=torch.bfloat16)
        if mode == "train" and min(ways.values()) > free:
            ways[f"--dtype bf16 {recompute}"] = needed(recomputing, dtype=torch.bfloat16)
    if what == "profile" and mode == "train":
        ways["--mode forward"] = needed(mode="forward")
    depth = largest(lambda n: needed(_with_depth(config, n)), free, most=config.model.depth - 1)
    if depth:
        ways[f"--set model.depth={depth}"] = needed(_with_depth(config, depth))
    fitting = [f"{way} ({bytes_(size)})" for way, size in ways.items() if size <= free]
    hint = "it would fit with " + ", or ".join(fitting)
    if not fitting:
        hint = (
            "none of a batch of 1, bf16, recomputed activations and one block alone would make it fit; "
            "make the model narrower or its sequences shorter"
        )
    raise UserError(
        f"{what} of {config.name} ({mode}) needs {bytes_(total)} of memory and {bytes_(free)} are free; {hint}"
    )


def _with_model(config: ToolConfig, **changes: Any) -> ToolConfig:
    return replace(config, model=replace(config.model, **changes))


def _with_depth(config: ToolConfig, depth: int) -> ToolConfig:
    attention = config.model.attention
    dual = tuple(block for block in attention.dual if block < depth)
    return _with_model(config, depth=depth, attention=replace(attention, dual=dual))
