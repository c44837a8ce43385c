"""How large the shipped configs' models are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mmdit.config import build
from mmdit.config.shipped import shipped_configs
from mmdit_cli.request.tool_config import load_tool_config

_SENTENCE = re.compile(r"(?:(?<!et al)[.]|;)(?: |$)")
_COUNTED = re.compile(r": [\d,]+ parameters.*")  # which the table says itself


@dataclass(frozen=True)
class ShippedConfig:
    """A config that comes with mmdit. `config`: what `--config` takes. `tokens`: of a sample, by modality, as run."""

    config: str
    about: str
    file: str
    blocks: int
    batch_size: int
    tokens: dict[str, int]
    parameters: int
    weight_bytes: dict[str, int]  # by dtype


def shipped_sizes(on_progress: Callable[[str, int, int | None], None] = lambda *_: None) -> list[ShippedConfig]:
    """Every shipped config with its model's size, counted on the meta device."""
    found = shipped_configs()
    sizes = []
    for done, (name, path) in enumerate(found.items()):
        on_progress("counting", done, len(found))
        sizes.append(_size(name, path))
    return sizes


def _size(name: str, path: Path) -> ShippedConfig:
    config = load_tool_config(path)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build(config.model).parameters())
    single = config.model.single_stream
    return ShippedConfig(
        config=name,
        about=_about(path.read_text(encoding="utf-8")),
        file=str(path),
        blocks=config.model.depth + (0 if single is None else single.depth),
        batch_size=config.run.batch_size,
        tokens=config.all_tokens(),
        parameters=parameters,
        weight_bytes={"fp32": 4 * parameters, "bf16": 2 * parameters},
    )


def _about(text: str) -> str:
    """The first sentence of the comment at the top."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line:
            lines.append(line.lstrip("# ").rstrip())
    return _COUNTED.sub("", _SENTENCE.split(" ".join(lines), maxsplit=1)[0])
