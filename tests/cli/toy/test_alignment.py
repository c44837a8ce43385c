"""LayerSync: the formula, where its gradient goes, and where it can't be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

import mmdit
from mmdit.config import ConfigError
from mmdit.config.file import validate_mapping
from mmdit.options import OptionError, as_data
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.processes import Group
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.request.train_config import AlignmentConfig
from mmdit_cli.toy.alignment import LayerSync
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.trainer import Trainer
from mmdit_cli.toy.training import train
from tests.support.draws import drawn
from tests.support.toy import CPU, tiny


def deep(routing: Any = None, **settings: Any) -> ToolConfig:
    data = as_data(tiny(sound=True))
    model, settings = data["model"] | {"depth": 3, "routing": routing}, data["train"] | settings
    return validate_mapping(data | {"model": model, "train": settings}, ToolConfig, source="test")


@pytest.mark.parametrize("streams", [1, 2])
def test_it_is_one_less_the_cosine_of_tokens_and_pulls_the_early_ones_alone(streams: int) -> None:
    options = deep().model
    if streams > 1:
        options = replace(options, residual=replace(options.residual, kind="hyper_connections", streams=streams))
    net = drawn(mmdit.build(options)).double()
    alignment, seen = LayerSync(net, AlignmentConfig(early=0, late=2)), []
    for index in (0, 2):
        net.transformer.blocks[index].register_forward_hook(lambda block, given, out: seen.append(out))
    data = {"image": torch.randn(2, 3, 16, 16).double(), "audio": torch.randn(2, 16, 16).double()}
    net({"text": torch.randint(1, 9, (2, 5)), **data}, torch.rand(2).double())
    loss, apart = alignment(), []
    for i in (1, 2):  # image and audio
        early, late = (x[i] if streams == 1 else x[i].sum(dim=2) for x in seen)
        pairs = zip(early.flatten(0, 1), late.flatten(0, 1), strict=True)
        apart.append(fmean(1 - (x @ y / (x @ x).sqrt() / (y @ y).sqrt()).item() for x, y in pairs))
    assert loss.item() == pytest.approx(fmean(apart), rel=1e-5)
    loss.backward()
    pulled = {name.split(".")[2] for name, p in net.named_parameters() if "blocks." in name and p.grad is not None}
    assert pulled == {"0"}


def test_it_is_learned_beside_the_loss_and_logged_apart() -> None:
    records, weights = [], []
    for alignment in (None, {"early": 0, "late": 2, "weight": 5.0}):
        config = deep(alignment=alignment, clip_grad_norm=1000.0, warmup_steps=0, learning_rate=0.05)
        trainer = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=0)
        records.append([trainer.step() for _ in range(3)])
        weights.append(trainer.model.transformer.blocks[0].feedforwards[1].proj_out.weight)
    assert records[0][0]["loss"] == records[1][0]["loss"] and "alignment" not in records[0][0]
    assert records[1][0]["alignment"] == pytest.approx(0, abs=1e-6)  # gates are closed yet, and all tokens the same
    assert 1e-6 < records[1][2]["alignment"] < 2 and not torch.equal(*weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment": {"early": 1, "late": 2}, "compile": True}, "leave train.compile out"),
        ({"alignment": {"early": 1, "late": 2}}, "train with --parallel ddp"),
    ],
)
def test_what_cant_be_followed_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Group, "sharded", "ddp" in message)
    with pytest.raises(UserError, match=message):
        train(deep(**settings), device=CPU, run_dir=tmp_path / "run", group=Group())
    with pytest.raises(ConfigError, match="train.alignment.late: the joint blocks are 0 to 2, got 3"):
        deep(alignment={"early": 1, "late": 3})
    with pytest.raises(ConfigError, match="with model.routing one of both blocks has fewer tokens"):
        deep(routing={"start": 1, "end": 2}, alignment={"early": 0, "late": 1})
    with pytest.raises(OptionError, match="behind the early block 2, got 2"):
        AlignmentConfig(early=2, late=2)
