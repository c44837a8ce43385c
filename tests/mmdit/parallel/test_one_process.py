"""What a group of one process shows of `parallelize`: dtypes, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import mmdit
from mmdit.parallel import MeshLayout, parallelize
from mmdit.parallel.context_parallel import share_tokens
from mmdit.parallel.mesh_layout import data_place
from tests.support.toy import tiny


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield MeshLayout().mesh("cpu")
    dist.destroy_process_group()


def test_bfloat16_is_what_is_computed_in_and_float32_what_is_kept(mesh):
    net = parallelize(mmdit.build(tiny().model), mesh, param_dtype=torch.bfloat16)
    out = net({"text": torch.randint(0, 9, (2, 5)), "image": torch.randn(2, 3, 16, 16)}, torch.rand(2))["image"]
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16 and data_place(mesh) == (0, 1)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}
    with pytest.raises(ValueError, match="precompute_modulation reads weights that FSDP has sharded"):
        net.precompute_modulation(torch.rand(3))


def test_what_has_nothing_to_act_on_is_refused(mesh):
    net = mmdit.build(tiny().model)
    with pytest.raises(ValueError, match="offload_activations is of what checkpointing keeps"):
        parallelize(net, mesh, offload_activations=True)
    with pytest.raises(ValueError, match="the mesh needs a dimension 'shard'"):
        parallelize(net, mesh["tensor"], param_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"the layout \(tensor 2\) is of 2 processes, but there are 1"):
        MeshLayout(tensor=2).mesh("cpu")


def test_two_calls_before_their_backward_are_recomputed_each_with_its_own_mask(mesh):
    """As of guidance, whose two calls have texts of one padded length."""
    text, image, times = torch.randint(0, 9, (2, 5)), torch.randn(2, 3, 16, 16), torch.rand(2)
    masks = [torch.arange(5).expand(2, 5) < count for count in (2, 4)]
    gradients = []
    for spread in (False, True):
        torch.manual_seed(0)
        net = mmdit.build(tiny().model).double().train()
        net.transformer.checkpoint_activations = True
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.2)
        if spread:
            share_tokens(net, mesh["context"].get_group())
        calls = [net({"text": text, "image": image.double()}, times.double(), masks={"text": mask}) for mask in masks]
        sum(out["image"].square().sum() for out in calls).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    one, several = gradients
    assert (one - several).abs().max() < 1e-10 * one.abs().max()
