"""Muon for the matrices within the blocks, AdamW for the rest: which, how far, kept, and where it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import mmdit
from mmdit.networks.transformer import MMDiT
from mmdit.options import OptionError
from mmdit.weights.checkpoints import newest_checkpoint
from mmdit_cli.errors import UserError
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.memory.optimizer_step import optimizer_bytes
from mmdit_cli.memory.training import Training
from mmdit_cli.model_parts.hidden_matrices import hidden_matrices
from mmdit_cli.model_parts.processes import Group
from mmdit_cli.request.train_config import OptimizerConfig, TrainConfig
from mmdit_cli.toy.data_fit import as_fed, world_of
from mmdit_cli.toy.optimizer import MuonAndAdamW, make_optimizer
from mmdit_cli.toy.trainer import Trainer
from mmdit_cli.toy.training import train
from tests.support.toy import CPU, same_bits, tiny

MUON = {"kind": "muon", "momentum": 0.8}


def trainer_of(seed: int = 0) -> Trainer:
    config = tiny(optimizer=MUON)
    return Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=seed)


def test_the_matrices_are_those_of_the_blocks_linears() -> None:
    many = tiny().model
    net = mmdit.build(many)
    names = {name for name, p in net.named_parameters() if any(p is each for each in hidden_matrices(net))}
    block = "transformer.blocks.0."
    assert names == {
        *(f"{block}modulations.{i}.linear.weight" for i in range(2)),
        *(f"{block}joint_attn.to_qkv.{i}.linear.weight" for i in range(2)),
        f"{block}joint_attn.to_out.1.linear.weight",
        *(f"{block}feedforwards.1.proj_{way}.weight" for way in ("in", "out")),
    }
    assert all(p.ndim == 2 for p in hidden_matrices(net))


def test_tables_tokens_and_hyper_connections_are_no_matrices() -> None:
    net = MMDiT(
        depth=1,
        dim_modalities=(8, 8),
        dim_cond=4,
        dim_head=4,
        heads=2,
        qk_rmsnorm=True,
        num_register_tokens=2,
        num_residual_streams=2,
    )
    left = {name for name, p in net.named_parameters() if p.ndim == 2 and all(p is not x for x in hidden_matrices(net))}
    assert {name.rpartition(".")[2] for name in left} == {"tokens", "weight", "pre", "mix", "post"}
    assert all("norms." in name or "to_shift" in name for name in left if name.endswith("weight"))


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_a_matrix_moves_along_its_momentums_singular_vectors_by_about_one_each(shape: tuple[int, int]) -> None:
    rate, decay, momentum = 0.01, 0.3, 0.8
    p, other = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(3))
    optimizer = MuonAndAdamW([p], [other], momentum=momentum, lr=rate, weight_decay=decay)
    kept = torch.zeros(shape, dtype=torch.float64)
    for _ in range(2):
        before, p.grad = p.detach().double(), torch.randn(shape)
        optimizer.step()
        kept = momentum * kept + (1 - momentum) * p.grad.double()
        u, _, v = torch.linalg.svd((1 - momentum) * p.grad.double() + momentum * kept, full_matrices=False)  # Nesterov
        moved = (before * (1 - rate * decay) - p.detach().double()) / (rate * 0.2 * max(shape) ** 0.5)
        along = u.T @ moved @ v.T
        assert (along - along.diag().diag()).abs().max() < 0.05  # computed in bfloat16
        assert ((along.diag() > 0.6) & (along.diag() < 1.3)).all()


def test_other_weights_move_as_by_adamw_alone() -> None:
    net = nn.Sequential(MMDiT(depth=1, dim_modalities=(8, 8), dim_head=4, heads=2), nn.Linear(3, 3)).double()
    settings = TrainConfig(optimizer=OptimizerConfig(kind="muon"), weight_decay=0.2)
    optimizer = make_optimizer(net, settings)
    matrices = {id(p) for p in hidden_matrices(net)}
    others = [p for p in net.parameters() if id(p) not in matrices]
    alone = [nn.Parameter(p.detach().clone()) for p in others]
    reference = torch.optim.AdamW(alone, lr=settings.learning_rate, weight_decay=0.2, betas=(0.9, 0.99))
    for _ in range(2):
        for p in net.parameters():
            p.grad = torch.randn_like(p)
        for p, copy in zip(others, alone, strict=True):
            copy.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    for p, copy in zip(others, alone, strict=True):
        torch.testing.assert_close(p, copy)


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    first = trainer_of()
    first.step()
    first.save(tmp_path)
    first.step()
    checkpoint, _ = newest_checkpoint(tmp_path)
    again = trainer_of()
    again.step()  # other weights and state than those that it takes up
    again.step()
    assert checkpoint is not None
    again.restore(checkpoint)
    again.step()
    assert same_bits(dict(first.model.state_dict()), dict(again.model.state_dict()))
    other = tiny()
    adamw = Trainer(other, world_of(other), device=CPU, dtype=torch.float32, seed=0)
    with pytest.raises(ValueError, match=r"optimizer.safetensors: .*exp_avg"):
        adamw.restore(checkpoint)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_its_state_is_estimated_as_it_is(whole: bool) -> None:
    trainer = trainer_of()
    trainer.step()
    held = sum(x.numel() * x.element_size() for kept in trainer.optimizer.state.values() for x in kept.values())
    for p in trainer.optimizer.state:
        p.grad = torch.zeros_like(p)
    assert optimizer_bytes("muon", trainer.model, [], "cpu", False)[0] == held
    if whole:
        fed, kind = as_fed(trainer.config), Training("mixed", "muon", ema=True)
        assert estimate(fed, "train", torch.float32, CPU, training=kind).optimizer == held
        assert kind.described("float32") == "float32, Muon with AdamW, EMA"


def test_it_is_refused_where_weights_are_sharded_or_torch_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="Muon takes whole matrices, .* --parallel ddp"):
        patch.setattr(Group, "sharded", True)
        train(tiny(optimizer=MUON), device=CPU, run_dir=tmp_path / "run", group=Group())
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"kind=muon: torch has Muon from version 2\.9 on, and this is "):
        train(tiny(optimizer=MUON), device=CPU, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(OptionError, match="momentum is of kind 'muon'"):
        OptimizerConfig(momentum=0.5)
    with pytest.raises(OptionError, match="the learning rates of mup are AdamW's"):
        TrainConfig(optimizer=OptimizerConfig(kind="muon"), parametrization="mup")
