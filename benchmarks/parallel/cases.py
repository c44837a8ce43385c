"""The networks that are spread over processes: every shipped config made small, and the options that none has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import mmdit
from mmdit.config.file import load_config
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig
from tests.support.draws import drawn
from tests.support.shipped_networks import SHIPPED, small
from tests.support.small_configs import VARIANTS, config

BATCH = 4  # one for each process where all have samples of their own
KV_HEADS = "refiner.attention.kv_heads"
# heads that four processes divide, the axes of a narrow head, and what `small` leaves wide
OWN = {
    "lumina-image-2.0": ["model.heads=8", "model.attention.kv_heads=4"]
    + [f"model.modalities.{name}.{KV_HEADS}=4" for name in ("text", "image")],
    "ideogram-4": [
        "model.rotary.axes=[8, 4, 4]",
        "model.timestep.frequencies=16",
        "model.timestep.dim=16",
        "model.modalities.text.input.dim=24",
    ],
}
OPTIONS = VARIANTS | {"output gates per head": {"attention": {"out_gate": "per_head"}}}
CASES = (*SHIPPED, *(f"option: {name}" for name in OPTIONS))


def case(name: str) -> ToolConfig:
    """A small network of four heads, whose modalities' lengths the processes do not divide."""
    if name.startswith("option: "):
        sizes = dict(heads=4, dim_head=4, qk_rmsnorm=True)
        return config({"batch_size": BATCH, "mask": {"text": 0.5}}, **sizes | OPTIONS[name.removeprefix("option: ")])
    return small(name, "model.heads=4", f"run.batch_size={BATCH}", *_narrow(name), *OWN.get(name, ()))


def _narrow(name: str) -> list[str]:
    """The hidden features of a network's inputs, which `small` leaves as they are."""
    found = []
    for modality, options in load_config(name, ToolConfig).model.modalities.items():
        inputs = {"input": options.input, **{f"inputs.{key}": x for key, x in (options.inputs or {}).items()}}
        hidden = {key: getattr(each, "hidden", None) for key, each in inputs.items()}
        found += [f"model.modalities.{modality}.{key}.hidden={[16] * len(of)}" for key, of in hidden.items() if of]
    return found


def network(config: ToolConfig, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, dict[str, Any]]:
    """It and the arguments of a call; the same in every process. Text is masked, in each sample to another length."""
    torch.manual_seed(0)
    model = drawn(mmdit.build(config.model)).to(dtype)
    call = example_inputs(config, dtype=dtype, seed=1).kwargs
    if config.model.is_whole_network:
        text = call["inputs"].get("text")
        if text is not None:
            counts = torch.tensor([text.shape[1] - i % 4 for i in range(BATCH)])
            call["masks"] = {"text": torch.arange(text.shape[1]) < counts[:, None]}
    return model, call


def rows(given: Any, part: int, parts: int) -> Any:
    """Of a call's arguments those of some samples."""
    if isinstance(given, Tensor):
        return given.tensor_split(parts)[part]
    if isinstance(given, dict):
        return {name: rows(x, part, parts) for name, x in given.items()}
    return type(given)(rows(x, part, parts) for x in given) if isinstance(given, list | tuple) else given
