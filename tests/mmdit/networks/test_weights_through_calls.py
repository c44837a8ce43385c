"""Every weight is read within the call of its own module, where adapters, offloading and quantization step in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmdit.layers.projections import DenseQKV
from mmdit.layers.residuals import HyperConnection
from mmdit.mmdit_generalized_pytorch import MMDiT
from tests.support.draws import drawn
from tests.support.marks import slow_but
from tests.support.shipped_networks import FAMILIES, SHIPPED, outputs, small_network
from tests.support.small_networks import COND, SIZES, VARIANTS, tokens

STREAMS = ("model.residual={kind: manifold_hyper_connections, streams: 2}", "model.attention.out_gate=true")
ADAPTIVE = ("model.attention.kind=adaptive", "model.attention.num_adaptive_weights=2", "model.unused_weights=none")


def loss_of(net: nn.Module, given: dict[str, Any]) -> Tensor:
    """Of which every output's every element has another gradient."""
    torch.manual_seed(1)
    outs = outputs(net(**given))
    return torch.stack([(x * torch.randn_like(x)).sum() for x in outs]).sum()


def unread(net: nn.Module, given: dict[str, Any]) -> list[str]:
    """The weights with a gradient whose module was not called."""
    called = set()
    for module in net.modules():
        module.register_forward_pre_hook(lambda module, args: called.add(module))
    loss_of(net, given).backward()
    assert len(called) > 10
    owned = [(at, owner, key) for at, owner in net.named_modules() for key, _ in owner.named_parameters("", False)]
    return [f"{at}.{key}" for at, owner, key in owned if getattr(owner, key).grad is not None and owner not in called]


@pytest.mark.parametrize("name", slow_but(SHIPPED, "sd3-medium", "flux.2-dev", "qwen-image", "toy-digits", "adaptive"))
def test_a_shipped_networks_weights_are_read_in_their_modules_calls(name: str) -> None:
    assert unread(*small_network(name)) == []


@pytest.mark.parametrize("variant", slow_but(VARIANTS, *list(VARIANTS)[::3]))
def test_a_variants_weights_are_read_in_their_modules_calls(variant: str) -> None:
    net = drawn(MMDiT(depth=2, dim_cond=COND, num_register_tokens=2, **SIZES, **VARIANTS[variant]))
    given = dict(modality_tokens=tokens(), time_cond=torch.randn(2, COND, dtype=torch.float64))
    assert unread(net, given) == []


def test_hooks_do_not_change_what_hyper_connections_compute() -> None:
    net = drawn(HyperConnection(8, streams=3, manifold=True)).width
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    plain = net(x)
    net.to_shift.register_forward_hook(lambda module, args, out: None)
    for got, wanted in zip((net(x)[0], *net(x)[1]), (plain[0], *plain[1]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_hooks_do_not_change_what_a_projection_with_unused_rows_computes(bias: bool) -> None:
    net = drawn(DenseQKV(6, heads=2, kv_heads=2, dim_head=4, parts=2, stored_parts=3, bias=bias))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    plain = net(x)
    assert [part.shape for part in plain] == [(2, 5, 2, 4)] * 2
    net.linear.register_forward_hook(lambda module, args, out: None)
    for got, wanted in zip(net(x), plain, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_single_stream_blocks_make_their_modulation_in_their_own_call() -> None:
    """Which is when a sharded block has its weights (`fully_shard`), with one timestep or one for each modality."""
    net, given = small_network("flux.1-dev")
    times = {name: given["timestep"] * share for name, share in (("text", 0.5), ("image", 1.0))}
    running: list[nn.Module] = []
    made: list[bool] = []
    for block in net.transformer.single_blocks:
        block.register_forward_pre_hook(lambda module, args: running.append(module))
        block.register_forward_hook(lambda module, args, out: running.clear())
        block.modulation.register_forward_pre_hook(lambda module, args, block=block: made.append(running == [block]))
    for timestep in (given["timestep"], times):
        net(**{**given, "timestep": timestep})
    assert made == [True] * 6


# ----------------------------------------------------------------------------------------------------------- adapters

NETWORKS = {name: (name,) for name in FAMILIES} | {
    "streams": ("two-modality", *STREAMS),
    "adaptive": ("two-modality", *ADAPTIVE),
}


@pytest.mark.parametrize("name", slow_but(NETWORKS, "sd3-medium", "qwen-image", "streams"))
def test_lora_on_every_linear_learns_and_is_merged(name: str) -> None:
    peft = pytest.importorskip("peft")
    net, given = small_network(*NETWORKS[name])
    loss_of(net, given).backward()
    read = [
        at for at, module in net.named_modules() if isinstance(module, nn.Linear) and module.weight.grad is not None
    ]
    with torch.no_grad():
        before = outputs(net(**given))
    config = peft.LoraConfig(r=2, target_modules=read, init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(net), config).eval()
    loss_of(adapted, given).backward()
    ups = {at: weight for at, weight in adapted.named_parameters() if "lora_B" in at}
    assert len(ups) == len(read) and all(weight.grad is not None and weight.grad.any() for weight in ups.values())
    with torch.no_grad():
        after = outputs(adapted(**given))
        merged = outputs(adapted.merge_and_unload()(**given))
    for x, y, z in zip(before, after, merged, strict=True):
        assert not torch.allclose(x, y, rtol=1e-2)
        torch.testing.assert_close(z, y, rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------------------- offloading


@pytest.mark.parametrize("name", slow_but(NETWORKS, "sd3-medium", "streams"))
def test_offloaded_weights_give_the_same(name: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    net, given = small_network(*NETWORKS[name])
    with torch.no_grad():
        wanted = outputs(net(**given))
        accelerate.cpu_offload(net, execution_device="cpu")
        assert all(parameter.is_meta for parameter in net.parameters())
        for x, y in zip(outputs(net(**given)), wanted, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- quantization


def to_int8(net: nn.Module) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(net, torchao.Int8WeightOnlyConfig())


def to_float8(net: nn.Module) -> None:
    from diffusers.hooks import apply_layerwise_casting

    apply_layerwise_casting(net, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


@pytest.mark.parametrize("quantize", [to_int8, to_float8])
@pytest.mark.parametrize("name", slow_but(NETWORKS, "qwen-image", "flux.2-dev", "streams"))
def test_quantized_weights_give_nearly_the_same(name: str, quantize: Callable[[nn.Module], None]) -> None:
    net, given = small_network(*NETWORKS[name])
    with torch.no_grad():
        wanted = outputs(net(**given))
        quantize(net)
        linears = [module.weight for module in net.modules() if isinstance(module, nn.Linear)]
        assert all(type(x) is not nn.Parameter or x.dtype == torch.float8_e4m3fn for x in linears)
        for x, y in zip(outputs(net(**given)), wanted, strict=True):
            assert x.dtype == y.dtype
            assert (x - y).norm() < 0.1 * y.norm()
