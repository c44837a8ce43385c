"""What the tests of the toy share: a tiny config, and the weights that a run ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmdit.config.file import validate_mapping
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.data import Batch, ToyData
from mmdit_cli.toy.evaluation import Samples
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.training import train

CPU = torch.device("cpu")


def tiny(sound: bool = False, dropout: float = 0.0, **train_settings: Any) -> ToolConfig:
    ends = {
        "text": {"dim": 16, "input": {"kind": "tokens", "vocabulary": 64, "max_length": 24}},
        "image": {
            "dim": 16,
            "input": {"kind": "patches", "channels": 3, "patch": 8, "positions": "sincos", "max_size": 2},
            "output": {"kind": "patches", "channels": 3},
        },
        "audio": {
            "dim": 16,
            "input": {"kind": "linear", "dim": 16, "positions": "sincos"},
            "output": {"kind": "linear", "dim": 16},
        },
    }
    model = {
        "depth": 1,
        "modalities": {name: end for name, end in ends.items() if sound or name != "audio"},
        "discard": ["text"],
        "timestep": {"frequencies": 16, "scale": 1000},
        "dim_cond": 16,
        "heads": 2,
        "dim_head": 8,
        "qk_rmsnorm": True,
        "feedforward": {"dropout": dropout},
    }
    few = {"steps": 6, "batch_size": 4, "warmup_steps": 2, "checkpoint_every": 2, "evaluate_every": 0}
    settings = {**few, "evaluation_samples": 8, "sampler": {"steps": 2}, **train_settings}
    data = {"name": "tiny", "model": model, "run": {"tokens": {"image": 4}}, "train": settings}
    return validate_mapping(data, ToolConfig, source="test")


def train_tiny(folder: Path, sound: bool = False, steps: int = 4) -> None:
    """A run with its last two checkpoints; without pictures and the look at the memory, which take longer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("check_fits", "_picture", "_curves", "_over_training"):
            patch.setattr(f"mmdit_cli.toy.training.{name}", lambda *given: None)
        train(tiny(sound, steps=steps), device=CPU, run_dir=folder)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    tensors = load_file(Path(result.files["checkpoint"]).with_name("weights.safetensors"))
    return {name: tensor.clone() for name, tensor in tensors.items()}  # the file's own memory is mapped


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def judged(judge: ToyData, modality: str, data: torch.Tensor, attributes: torch.Tensor) -> Samples:
    return Samples(Batch([], {}, {modality: attributes}, judge), {modality: data})
