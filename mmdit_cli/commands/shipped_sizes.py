"""What the shipped configs are for, and how large their models are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mmdit.config.shipped import shipped_configs
from mmdit.options import PatchInput, PatchOutput
from mmdit_cli.model_parts.counting import count_forward
from mmdit_cli.model_parts.flop_count import meta_model
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config

_SENTENCE = re.compile(r"(?:(?<!et al)[.]|;)(?: |$)")
_COUNTED = re.compile(r": [\d,]+ parameters.*")  # which the table says itself


# image: from text alone; edit: from a picture too; toy: what train-toy learns; example: blocks alone
Task = Literal["image", "edit", "video", "audio", "example", "toy", "ablation"]


@dataclass(frozen=True)
class ShippedConfig:
    """A config that comes with mmdit. `config`: what `--config` takes. `tokens`: of a sample, by modality, as run, and
    `forward_flops` of one (2 a multiply-add)."""

    config: str
    task: Task
    about: str
    file: str
    blocks: int
    batch_size: int
    tokens: dict[str, int]
    parameters: int
    forward_flops: int
    weight_bytes: dict[str, int]  # by dtype


def shipped_sizes(on_progress: Callable[[str, int, int | None], None] = lambda *_: None) -> list[ShippedConfig]:
    """Every shipped config by its task, with its model's size, counted on the meta device."""
    found = shipped_configs()
    sizes = []
    for done, (name, path) in enumerate(found.items()):
        on_progress("counting", done, len(found))
        sizes.append(_size(name, path))
    order = get_args(Task)
    return sorted(sizes, key=lambda size: order.index(size.task))


def _size(name: str, path: Path) -> ShippedConfig:
    config = load_tool_config(path)
    model = meta_model(config)
    parameters = sum(p.numel() for p in model.parameters())
    single = config.model.single_stream
    return ShippedConfig(
        config=name,
        task=task_of(name, config),
        about=_about(path.read_text(encoding="utf-8")),
        file=str(path),
        blocks=config.model.depth + (0 if single is None else single.depth),
        batch_size=config.run.batch_size,
        tokens=config.all_tokens(),
        parameters=parameters,
        forward_flops=count_forward(model, example_inputs(config, device="meta")) // config.run.batch_size,
        weight_bytes={"fp32": 4 * parameters, "bf16": 2 * parameters},
    )


def task_of(name: str, config: ToolConfig) -> Task:
    """What a shipped config is for, by what its network is given and what it draws."""
    if name.startswith("ablations/"):
        return "ablation"
    if name.startswith(("toy-", "ladder/")):
        return "toy"
    ends = [modality for name, modality in config.model.modalities.items() if name not in config.model.discard]
    drawn = next((end for end in reversed(ends) if end.output is not None), None)
    if drawn is None:
        return "example"
    if not (isinstance(drawn.input, PatchInput) and isinstance(drawn.output, PatchOutput)):
        return "audio"
    if config.run.references:
        return "edit"
    if not isinstance(drawn.input.patch, int):
        return "video"
    return "edit" if drawn.input.channels > drawn.output.channels else "image"


def _about(text: str) -> str:
    """The first sentence of the comment at the top."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line:
            lines.append(line.lstrip("# ").rstrip())
    return _COUNTED.sub("", _SENTENCE.split(" ".join(lines), maxsplit=1)[0])
