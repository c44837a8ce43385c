"""LoRA files: low-rank changes of a network's linear layers, in the spellings of kohya, diffusers and peft.

A target `x` has `x.lora_down.weight` (`rank in`) and `x.lora_up.weight` (`out rank`), or `x.lora_A.weight` and
`x.lora_B.weight`, and changes its weight by alpha / rank times their product. kohya's files (kohya-ss/sd-scripts) write
the dots of a name as underscores and hold alpha as a tensor, 0-dim; where there is none it is the rank, and so it is in
those of diffusers, whose metadata may say it. peft has it in the file `adapter_config.json` beside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdit.weights.header import FLOATS, CheckpointError, TensorInfo, named, read_json
from mmdit.weights.reader import WeightFiles

__all__ = ["Adapter", "LowRank", "read_adapter"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
METADATA = "lora_adapter_metadata"  # of diffusers
_PART = re.compile(r"(.+)\.(?:lora[._](down|up|A|B)(?:\.\w+)?\.weight|(alpha))")
_SIDES = {"down": "down", "A": "down", "up": "up", "B": "up"}
_KOHYA = re.compile(r"lora_(unet|transformer)_|lora_te\d?_")
_TEXT = re.compile(r"(base_model\.model\.)?(lora_te\d?_|text_encoders?(_\d)?\.)")
_OTHER_KINDS = re.compile(r"\.(lora_magnitude_vector|dora_scale|hada_\w+|lokr_\w+|lora_mid|oft_\w+)(\.|$)")


@dataclass(frozen=True)
class LowRank:
    """The change of one target: the names of its parts in the file, and what it is multiplied with beside them."""

    down: str
    up: str
    rank: int
    alpha: str | float | None


@dataclass(frozen=True)
class Adapter:
    """A LoRA file; its tensors are read when they are asked for.

    Args:
        spelling: whose: kohya, diffusers or peft.
        targets: what it changes, by the names in the file.
        left_aside: tensors of text encoders.
    """

    path: Path
    files: WeightFiles = field(repr=False)
    spelling: str
    targets: dict[str, LowRank] = field(repr=False)
    root_rank: bool
    left_aside: int

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted({part.rank for part in self.targets.values()}))

    def shapes(self, target: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of its down and its up matrix."""
        part = self.targets[target]
        return self.files.tensors[part.down].shape, self.files.tensors[part.up].shape

    def change(self, target: str) -> Tensor:
        """What is added to a target's weight, `out ...`, in float32.

        Raises:
            CheckpointError: the file has changed, or alpha is not finite.
        """
        part = self.targets[target]
        alpha = part.rank if part.alpha is None else part.alpha
        alpha = float(self.files.copy(alpha)) if isinstance(alpha, str) else float(alpha)
        scale = alpha / (part.rank**0.5 if self.root_rank else part.rank)
        if not abs(scale) < float("inf"):
            raise CheckpointError(f"{self.path}: {named(target)}: its alpha is not finite")
        down, up = (self.files.copy(name).to(torch.float32) for name in (part.down, part.up))
        return (up.flatten(1) @ down.flatten(1)).mul_(scale).reshape(len(up), *down.shape[1:])


def read_adapter(path: str | Path) -> Adapter:
    """A LoRA from a safetensors file, or from a folder of peft.

    Raises:
        CheckpointError: it can't be read, is no LoRA, or one of another kind; the message says which.
    """
    path = Path(path)
    if path.is_dir() and (path / WEIGHTS).exists():
        path = path / WEIGHTS
    files = WeightFiles(path)
    parts, left_aside = _parts(files)
    if not parts:
        raise CheckpointError(f"{path}: is no LoRA: none of its {len(files.tensors):,} tensors is a lora_up or lora_B")
    spelling, config = _spelling(files, path)
    targets = {}
    for target, names in parts.items():
        if not names.keys() >= {"down", "up"}:
            raise CheckpointError(f"{path}: {named(target)} has no {'up' if 'down' in names else 'down'} matrix")
        down, up = (files.tensors[names[side]] for side in ("down", "up"))
        rank = _rank(path, target, down, up)
        if "alpha" in names and files.tensors[names["alpha"]].shape not in ((), (1,)):
            raise CheckpointError(f"{path}: {named(names['alpha'])} must be one number")
        targets[target] = LowRank(names["down"], names["up"], rank, names.get("alpha", _alpha(config, target, path)))
    if spelling == "peft" and not config and not all("alpha" in names for names in parts.values()):
        raise CheckpointError(f"{path}: its alpha is not known; put peft's {CONFIG} beside it")
    return Adapter(path, files, spelling, targets, bool(config.get("use_rslora")), left_aside)


def _parts(files: WeightFiles) -> tuple[dict[str, dict[str, str]], int]:
    """The names of each target's tensors, and how many are of text encoders."""
    parts: dict[str, dict[str, str]] = {}
    left_aside = 0
    for name, info in files.tensors.items():
        if _TEXT.match(name):
            left_aside += 1
        elif match := _PART.fullmatch(name):
            if info.dtype not in FLOATS and not match[3]:
                raise CheckpointError(f"{files.path}: {named(name)} {info.problem or f'has the dtype {info.dtype}'}")
            parts.setdefault(match[1], {})[_SIDES.get(match[2], "alpha")] = name
        else:
            kind = _OTHER_KINDS.search(name)
            what = f"a {kind[1]}, so it is no plain LoRA, and no other kind is merged" if kind else "no part of a LoRA"
            raise CheckpointError(f"{files.path}: {named(name)} is {what}")
    return parts, left_aside


def _rank(path: Path, target: str, down: TensorInfo, up: TensorInfo) -> int:
    matrices = len(down.shape) > 1 and len(up.shape) > 1 and 0 not in (*down.shape, *up.shape)
    if not matrices or up.shape[1] != down.shape[0] or any(size != 1 for size in up.shape[2:]):
        raise CheckpointError(
            f"{path}: {named(target)}: its matrices {list(down.shape)} and {list(up.shape)} are not of one rank"
        )
    return down.shape[0]


def _spelling(files: WeightFiles, path: Path) -> tuple[str, Mapping[str, Any]]:
    """Whose file it is, and what its config says."""
    if any(_KOHYA.match(name) for name in files.tensors):
        return "kohya", {}
    if not any(name.startswith("base_model.model.") for name in files.tensors):
        try:
            said = json.loads(files.metadata[METADATA])
        except (KeyError, ValueError, RecursionError):
            said = None
        flat = said.items() if isinstance(said, dict) else ()
        return "diffusers", {key.removeprefix("transformer."): value for key, value in flat}
    beside = path.parent / CONFIG
    return "peft", read_json(beside) if beside.exists() else {}


def _alpha(config: Mapping[str, Any], target: str, path: Path) -> float | None:
    """What a config says of a target's alpha; a pattern in it may be the end of a name, and no expression."""
    patterns = config.get("alpha_pattern") or {}
    if config.get("use_dora") or config.get("fan_in_fan_out") or not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: its config asks for use_dora, fan_in_fan_out or an alpha_pattern; not merged")
    found = config.get("lora_alpha")
    for pattern, alpha in patterns.items():
        if not re.fullmatch(r"[\w.]+", pattern):
            raise CheckpointError(f"{path}: its alpha_pattern {named(pattern)} is an expression, which is not read")
        if target == pattern or target.endswith("." + pattern):
            found = alpha
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise CheckpointError(f"{path}: its lora_alpha must be a number, got {named(str(found))}")
    return None if found is None else float(found)
