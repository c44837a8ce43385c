"""Which kernels attention takes on a GPU, by a capability and a version that are pretended. No GPU is needed."""

from __future__ import annotations

import importlib.machinery
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends

from mmdit.layers import attention_kernels
from mmdit.layers.attention import FusedAttention
from mmdit.layers.attention_kernels import FLASH_FIRST, WITHOUT_CUDNN, choosing_kernels, fused_kernels
from tests.support.draws import randn

H100, A100, B200 = (9, 0), (8, 0), (10, 0)
CUDA = torch.device("cuda", 0)


@pytest.fixture
def pretend(monkeypatch):
    """A machine with GPUs of these capabilities, and a torch of this version, with or without FlashAttention 3."""

    def machine(*capabilities, version="2.13.0+cu130", flash3=None, active=None):
        attention_kernels._fused_kernels.cache_clear()
        activate = mock.Mock(side_effect=flash3)
        properties = [SimpleNamespace(major=major, minor=minor) for major, minor in capabilities]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(properties))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", activate, raising=False)
        monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: active, raising=False)
        module = SimpleNamespace(__spec__=importlib.machinery.ModuleSpec("flash_attn_interface", None))
        monkeypatch.setitem(sys.modules, "flash_attn_interface", None if flash3 == "absent" else module)
        if flash3 == "absent":  # find_spec refuses a module that is None
            monkeypatch.setattr(attention_kernels.importlib.util, "find_spec", lambda name: None)
        return activate

    yield machine
    attention_kernels._fused_kernels.cache_clear()


@pytest.mark.parametrize(
    ("capability", "version", "masked", "training", "cudnn"),
    [
        (H100, "2.13.0+cu130", True, True, False),
        (H100, "2.11.0", True, True, False),
        (H100, "2.10.1", True, True, True),
        (H100, "2.6.0+cu124", True, True, True),
        (H100, "2.13.0", True, False, True),
        (H100, "2.13.0", False, True, True),
        (A100, "2.13.0", True, True, True),
        (B200, "2.13.0", True, True, True),
    ],
)
def test_cudnn_is_left_out_where_its_backward_pass_can_give_nan(pretend, capability, version, masked, training, cudnn):
    pretend(capability, version=version, flash3="absent")
    kernels = fused_kernels(CUDA, masked, training)
    assert (kernels is None) is cudnn
    assert kernels is None or (set(kernels) == set(FLASH_FIRST) - {SDPBackend.CUDNN_ATTENTION})


def test_flash_attention_3_is_activated_once_and_goes_first_without_a_mask(pretend):
    activate = pretend(H100, H100)
    assert [fused_kernels(torch.device("cuda", i), False, grad) for i in (0, 1, 0) for grad in (True, False)] == [
        FLASH_FIRST
    ] * 6
    assert fused_kernels(CUDA, True, False) is None
    activate.assert_called_with("FA3")
    assert activate.call_count <= 4  # once a device and mode, while the pretended torch never says that it is active


@pytest.mark.parametrize(
    ("machine", "kernels", "calls"),
    [
        (dict(flash3="absent"), None, 0),
        (dict(version="2.10.0"), None, 0),
        (dict(flash3=ImportError("built for another CUDA")), None, 1),
        (dict(flash3=RuntimeError("does not expose FA3 backward kernels")), None, 1),
        (dict(active="FA4"), FLASH_FIRST, 0),
    ],
    ids=["not installed", "older torch", "does not load", "without a backward", "the user's own choice"],
)
def test_where_flash_attention_3_is_not_taken(pretend, machine, kernels, calls):
    activate = pretend(H100, **machine)
    assert fused_kernels(CUDA, False, True) == kernels
    assert activate.call_count == calls


def test_flash_attention_3_is_not_activated_beside_a_device_that_it_does_not_run_on(pretend):
    activate = pretend(H100, A100)
    assert fused_kernels(CUDA, False, True) is None
    assert not activate.called


def pretended(*, requires_grad=False):
    return SimpleNamespace(device=CUDA, requires_grad=requires_grad)


def allowed_within(*, masked, grad=True):
    inputs = pretended(requires_grad=True), pretended(), pretended()
    with torch.set_grad_enabled(grad), choosing_kernels(*inputs, masked=masked):
        return set(_cur_sdpa_kernel_backends())


def test_the_choice_holds_for_the_call_alone_and_leaves_the_users_settings(pretend):
    pretend(H100, flash3="absent")
    before = _cur_sdpa_kernel_backends(with_priority=True)
    assert allowed_within(masked=True) == set(WITHOUT_CUDNN)
    assert SDPBackend.CUDNN_ATTENTION in allowed_within(masked=True, grad=False)
    assert SDPBackend.CUDNN_ATTENTION in allowed_within(masked=False)
    assert _cur_sdpa_kernel_backends(with_priority=True) == before
    with torch.nn.attention.sdpa_kernel(SDPBackend.MATH):
        assert allowed_within(masked=True) == {SDPBackend.MATH}


@pytest.mark.slow  # imports the compiler
def test_a_compiler_takes_the_choice_as_a_constant_and_attention_is_one_graph(monkeypatch):
    asked = mock.Mock(return_value=WITHOUT_CUDNN)
    monkeypatch.setattr(attention_kernels, "_fused_kernels", asked)
    seen = []

    def backend(graph, inputs):
        seen.append([node.args for node in graph.graph.nodes if node.target is torch.nn.attention._sdpa_kernel])
        return graph.forward

    def attend(q, k, v, mask):
        kernels = fused_kernels(CUDA, True, True)
        with torch.nn.attention.sdpa_kernel(list(kernels), set_priority=True):
            return F.scaled_dot_product_attention(q, k, v, mask)

    q, k, v = (randn(1, 2, 5, 8).requires_grad_() for _ in range(3))
    mask = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    compiled = torch.compile(attend, backend=backend, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(q, k, v, mask), attend(q, k, v, mask))
    assert len(seen) == 1 and len(seen[0]) == 2  # set before, and put back after
    assert asked.call_count == 3  # twice eagerly, once by the compiler
    torch._dynamo.reset()


def test_on_the_cpu_nothing_is_chosen_and_nothing_asked(monkeypatch):
    monkeypatch.setattr(attention_kernels, "fused_kernels", mock.Mock(side_effect=AssertionError))
    q = randn(1, 2, 5, 8).requires_grad_()
    assert FusedAttention()(q, q, q, torch.ones(1, 5, dtype=torch.bool)).shape == q.shape


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("n", [64, 192, 704])
def test_gradients_with_a_mask_are_finite_where_every_logit_is_very_low(n):
    """pytorch/pytorch#196678: every row's log-sum-exp is below ln of the smallest float32."""
    q, k, v = (0.1 * torch.randn(1, 1, n, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    q[..., 0], k[..., 0] = 1.0, -120 * 8.0
    leaves = [x.requires_grad_() for x in (q, k, v)]
    FusedAttention()(*leaves, torch.ones(1, n, dtype=torch.bool, device="cuda")).sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)
